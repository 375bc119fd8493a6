"""Neurons and latents: which there are, what they do in text, what they write."""

from __future__ import annotations
