"""Causal claims about heads in a task: patching, path patching, attribution, ablation and circuit tests."""
