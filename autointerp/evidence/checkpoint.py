"""The first pass's state on disk: one .npz, replaced atomically, so that a kill leaves the last whole state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autointerp.evidence.first_pass import FirstPass

_PLAIN = (
    "source_totals", "destination_totals", "token_counts", "share_sums", "share_documents", "histogram",
    "histogram_documents", "z_sum", "progress",
)  # fmt: skip
_MEANS = ("sums", "counts", "boot_sums", "boot_counts")
_OPEN = ("sums", "counts", "shares", "pairs")


def save_state(state: FirstPass, path: Path) -> None:
    """Write all accumulators to `path` (a .npz)."""
    state.reservoir.compact()
    state.top.compact()
    arrays = {name: getattr(state, name) for name in _PLAIN}
    arrays |= {f"means.{name}": getattr(state.means, name) for name in _MEANS}
    arrays |= {f"reservoir.{name}": array for name, array in state.reservoir.rows.items()}
    arrays |= {f"top.{name}": array for name, array in state.top.columns.items()}
    arrays["threshold"] = state.reservoir.threshold
    document = state.open_document
    if document is not None:
        arrays["open.ordinal"] = np.array(document.ordinal)
        arrays |= {f"open.{name}": getattr(document, name) for name in _OPEN}
        arrays |= {f"open.best.{name}": array for name, array in document.best.items()}
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_state(state: FirstPass, path: Path) -> None:
    """Put the accumulators saved by `save_state` into an empty state of the same shape."""
    from autointerp.evidence.first_pass import OpenDocument

    with np.load(path) as saved:
        for name in _PLAIN:
            setattr(state, name, saved[name])
        for name in _MEANS:
            setattr(state.means, name, saved[f"means.{name}"])
        state.reservoir.rows = {name: saved[f"reservoir.{name}"] for name in state.reservoir.rows}
        state.top.columns = {name: saved[f"top.{name}"] for name in state.top.columns}
        state.reservoir.threshold = saved["threshold"]
        if "open.ordinal" in saved:
            best = {name: saved[f"open.best.{name}"] for name in state.top.columns}
            parts = {name: saved[f"open.{name}"] for name in _OPEN}
            state.open_document = OpenDocument(ordinal=int(saved["open.ordinal"]), best=best, **parts)
