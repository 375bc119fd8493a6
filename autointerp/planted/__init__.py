"""A model whose heads do known things, one whose neurons and dictionary do, their text, and the keys to them: ground
truth for explainers and scorers.

Only the benchmark reads a key; the layers contract and a contract of its own keep it out of evidence and prompts.
"""
