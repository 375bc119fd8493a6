"""Rows to score on: held-out windows of text, or held-out repeats. Never the explain split.

`documents` numbers the clusters of the bootstrap: documents of text, sequences of repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from autointerp.records import Domain


@dataclass(frozen=True)
class HeldOutRows:
    """Windows of one domain and split; `rows` marks the destinations that count, `sources` the positions off the
    sink that a destination may look at."""

    domain: Domain
    split: Literal["select", "test"]
    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    documents: Int[np.ndarray, " window"]  # 0 .. n_documents - 1
    rows: Bool[np.ndarray, "window pos"]
    sources: Bool[np.ndarray, "window pos"]

    @property
    def n_documents(self) -> int:
        return int(self.documents.max()) + 1 if len(self.documents) else 0

    def take(self, windows: Int[np.ndarray, " chosen"]) -> HeldOutRows:
        """Some of the windows, documents numbered anew."""
        documents = np.unique(self.documents[windows], return_inverse=True)[1]
        parts = (self.ids[windows], self.lengths[windows], documents, self.rows[windows], self.sources[windows])
        return HeldOutRows(self.domain, self.split, *parts)


def text_rows(
    ids: Int[np.ndarray, "window pos"],
    lengths: Int[np.ndarray, " window"],
    documents: Int[np.ndarray, " window"],
    split: Literal["select", "test"],
    special_ids: tuple[int, ...],
) -> HeldOutRows:
    """All destinations after position 0 of windows of text; `documents` are any numbers, equal for one document.
    Control tokens inside a window belong to the sink and are no sources."""
    positions = np.arange(ids.shape[1])
    rows = (positions > 0) & (positions < lengths[:, None])
    sources = rows & ~np.isin(ids, special_ids)
    return HeldOutRows("text", split, ids, lengths, np.unique(documents, return_inverse=True)[1], rows, sources)


def repeat_rows(ids: Int[np.ndarray, "row pos"], period: int, split: Literal["select", "test"]) -> HeldOutRows:
    """Repeated random tokens; only destinations of the second copy count."""
    n, size = ids.shape
    rows = np.broadcast_to(np.arange(size) >= size - period, (n, size)).copy()
    sources = np.broadcast_to(np.arange(size) > 0, (n, size)).copy()
    return HeldOutRows("repeats", split, ids, np.full(n, size), np.arange(n), rows, sources)
