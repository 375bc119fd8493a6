"""The model border: the only importer of `transformer_lens`. Loads a bridge, proves it, reads and changes heads."""

from __future__ import annotations

from autointerp.model.head_changes import LayerChanges, Rows
from autointerp.model.instrument import InstrumentReport, prove
from autointerp.model.language_model import LanguageModel, Layer, Shortcuts
from autointerp.model.loading import load_model, random_twin, wrap_bridge
from autointerp.model.readout import Readout, log_probs
from autointerp.model.resume import CleanRun, clean_run, with_changed_z
from autointerp.model.unit_sites import UnitSite, neuron_site, read_units

__all__ = [
    "CleanRun",
    "InstrumentReport",
    "LanguageModel",
    "Layer",
    "LayerChanges",
    "Readout",
    "Rows",
    "Shortcuts",
    "UnitSite",
    "clean_run",
    "load_model",
    "log_probs",
    "neuron_site",
    "prove",
    "random_twin",
    "read_units",
    "with_changed_z",
    "wrap_bridge",
]
