"""From a description to scores that can be trusted: one file a scorer, metrics and intervals below them."""
