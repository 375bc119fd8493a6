"""Sparse autoencoders as files and as arithmetic: format, checks, encoding. No model here."""

from __future__ import annotations

from autointerp.sae.autoencoder import Sae
from autointerp.sae.files import load_sae
from autointerp.sae.settings import SaeSettings

__all__ = ["Sae", "SaeSettings", "load_sae"]
