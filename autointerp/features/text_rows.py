"""The rows of the explain split, and a sample of them that all units share.

A row is a destination after position 0 that is no control token. The sample is the rows with the smallest seeded
hashes: the same whatever the order of windows, uniform over rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, UInt64

from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.hashing import document_keys, row_hashes

_ANY = np.array([(0, 0)])
_CHUNK = 1024
Rows = Int[np.ndarray, "row 2"]
"""Places of rows: (number in the split, dst)."""


def is_row(
    ids: Int[np.ndarray, "batch pos"], lengths: Int[np.ndarray, " batch"], special_ids: tuple[int, ...]
) -> Bool[np.ndarray, "batch pos"]:
    """Which positions are rows."""
    positions = np.arange(ids.shape[1])
    return np.asarray((positions > 0) & (positions < lengths[:, None]) & ~np.isin(ids, special_ids))


def hashes_of_rows(
    explain: ExplainWindows, numbers: Int[np.ndarray, " batch"], seed: int, size: int
) -> UInt64[np.ndarray, "batch dst"]:
    """A seeded hash of each (document, window, dst); `numbers` are windows of the corpus."""
    windows = explain.windows
    keys = document_keys([windows.doc_ids[int(d)] for d in windows.doc[numbers]])
    return np.asarray(row_hashes(seed, keys, np.asarray(windows.window_in_doc[numbers]), _ANY, size)[0])


def shared_rows(explain: ExplainWindows, special_ids: tuple[int, ...], n: int, seed: int) -> Rows:
    """`n` rows of the split, or all where there are fewer, ascending."""
    best = np.zeros((0, 3), np.uint64)  # hash, number in the split, dst
    for start in range(0, len(explain.numbers), _CHUNK):
        numbers = explain.numbers[start : start + _CHUNK]
        ids = np.asarray(explain.windows.ids[numbers])
        there = is_row(ids, np.asarray(explain.windows.lengths[numbers]), special_ids)
        window, dst = np.nonzero(there)
        hashes = hashes_of_rows(explain, numbers, seed, ids.shape[1])[there]
        found = np.stack([hashes, (window + start).astype(np.uint64), dst.astype(np.uint64)], axis=1)
        best = np.concatenate([best, found])
        best = best[np.argsort(best[:, 0], kind="stable")[:n]]
    rows = best[:, 1:].astype(np.int64)
    return np.asarray(rows[np.lexsort((rows[:, 1], rows[:, 0]))])
