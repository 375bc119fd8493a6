"""Sparse autoencoders as files and as arithmetic: format, checks, encoding. No model here."""

from __future__ import annotations
