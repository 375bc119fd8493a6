"""What a vector inside the model is about, in words: entity lens, SelfIE, logit lens."""
