"""Embedded demo: a generated corpus, the small GPT-2 trained on it, and the script that trained it."""
