"""The agent: experiments on one head that a language model may ask for, and the loop that asks for them."""
