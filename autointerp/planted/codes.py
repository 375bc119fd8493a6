"""Codes that stand for tokens in the planted model: unit vectors pushed apart, so that only its own code matches one.

All randomness comes from the generator that is handed in.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

PUSHES, SHARPNESS, STEP = 150, 20.0, 0.1


def spread_codes(n: int, size: int, generator: np.random.Generator) -> Float[np.ndarray, "code dim"]:
    """`n` unit vectors in `size` dimensions: random ones, each then pushed away from those nearest to it."""
    codes = _unit(generator.normal(size=(n, size)))
    for push in range(PUSHES):
        cosines = codes @ codes.T
        np.fill_diagonal(cosines, 0.0)
        away = _unit(np.sinh(SHARPNESS * cosines) @ codes)
        codes = _unit(codes - STEP * (1 - push / PUSHES) * away)
    return codes


def _unit(vectors: Float[np.ndarray, "code dim"]) -> Float[np.ndarray, "code dim"]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
