"""A model whose heads do known things, its text, and the key to it: ground truth for the explainers and scorers.

Only the benchmark reads `key`; the layers contract and a contract of its own keep it out of evidence and prompts.
"""
