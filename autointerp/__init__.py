"""autointerp: describe what each attention head of a language model does, and test every description."""

from __future__ import annotations

__version__ = "0.1.0"
