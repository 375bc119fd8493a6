"""Seeded 64-bit hashes of rows: the same for every order, shard and batch size (splitmix64, Steele et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The splitmix64 finaliser, elementwise."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def document_keys(doc_ids: Sequence[str]) -> UInt64[np.ndarray, " doc"]:
    """The first 64 bits of each document's sha256 id."""
    return np.array([int(doc_id[:16], 16) for doc_id in doc_ids], dtype=np.uint64)


def row_hashes(
    seed: int,
    documents: UInt64[np.ndarray, " batch"],
    windows: Int[np.ndarray, " batch"],
    heads: Int[np.ndarray, "head 2"],
    size: int,
) -> UInt64[np.ndarray, "head batch dst"]:
    """hash64(seed, doc_id, window_id, layer, head, dst) of every row of a batch."""
    window = mix(mix(documents ^ mix(np.array([seed], dtype=np.uint64))) + windows.astype(np.uint64))
    head = mix(heads[:, 0].astype(np.uint64) * np.uint64(1 << 20) + heads[:, 1].astype(np.uint64) + np.uint64(1 << 50))
    dst = mix(np.arange(size, dtype=np.uint64) + np.uint64(1 << 60))
    with np.errstate(over="ignore"):
        return mix(head[:, None, None] + (window[:, None] + dst)[None])
