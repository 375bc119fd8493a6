"""Pure numbers that evidence and scoring share: metrics with their chance lines, document resamples, intervals."""
