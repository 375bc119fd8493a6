"""Where the embedded demo model lies on disk."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def weights_folder() -> Path:
    """The HuggingFace folder (config, tokenizer, safetensors) of the embedded model, inside the package."""
    return Path(str(files("autointerp.demo"))) / "weights"


def sae_folder() -> Path:
    """The folder (`cfg.json`, weights) of the autoencoder trained on the embedded model, inside the package."""
    return Path(str(files("autointerp.demo"))) / "sae"
