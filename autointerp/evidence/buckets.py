"""Distance buckets of the evidence: 0, 1, 2, 3, 4, 5-8, 9-16, ..., doubling."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def bucket_of(distance: Int[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
    """Bucket number of each distance (0-based, tokens)."""
    far = np.ceil(np.log2(np.maximum(distance, 1))).astype(np.int64) + 2
    return np.where(distance <= 4, distance, far)


def n_buckets(size: int) -> int:
    """How many buckets distances below `size` fall into."""
    return int(bucket_of(np.array([max(size - 1, 0)]))[0]) + 1


def bucket_names(size: int) -> tuple[str, ...]:
    """Names such as `3` or `9-16` for all buckets of distances below `size`."""
    near = [str(k) for k in range(5)]
    far = [f"{2 ** (k - 3) + 1}-{2 ** (k - 2)}" for k in range(5, n_buckets(size))]
    return tuple((near + far)[: n_buckets(size)])


def membership(size: int) -> Float[np.ndarray, "distance bucket"]:
    """1.0 where a distance belongs to a bucket."""
    return np.asarray(np.eye(n_buckets(size))[bucket_of(np.arange(size))])


def sources_per_bucket(size: int) -> Float[np.ndarray, "dst bucket"]:
    """How many allowed sources (positions 1 to dst) a row has in each distance bucket; row 0 has none."""
    running = np.cumsum(membership(size), axis=0)
    return np.vstack([np.zeros((1, running.shape[1])), running[:-1]])
