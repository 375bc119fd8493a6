"""Versions of what the numbers depend on, for the numerics record (scoring_validity rule 23)."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("autointerp", "torch", "transformer-lens", "transformers", "tokenizers", "numpy", "openai", "jinja2")


def versions() -> dict[str, str]:
    """Installed versions by package, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
