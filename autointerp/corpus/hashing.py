"""Rolling hashes of every run of a fixed width, vectorised: the common tool of both overlap checks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing modulo 2^64


def spread(values: Hashes) -> Hashes:
    """A bijection of 64-bit values that makes near inputs far apart (splitmix64)."""
    mixed = values + _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def rolling_hash(values: Hashes, width: int) -> Hashes:
    """Hash of each `values[i : i + width]`, of length `len(values) - width + 1` (0 where there are too few).

    The polynomial modulo 2^64 over spread values, by doubling: a run of width a + b hashes to that of its
    first a times base^b plus that of its last b, so that width 50 takes seven passes and not fifty.
    """
    count = len(values) - width + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    doubled, doubled_width = spread(values), 1
    result: Hashes | None = None
    done = 0
    while True:
        if width & doubled_width:
            # The part for the lowest bits stands at the end of the run, those of higher bits before it.
            part = doubled
            if result is None:
                result = part
            else:
                result = part[: len(part) - done] * _power(done) + result[doubled_width:]
            done += doubled_width
        if done == width:
            return spread(result[:count] if result is not None else doubled[:count])
        doubled = doubled[:-doubled_width] * _power(doubled_width) + doubled[doubled_width:]
        doubled_width *= 2


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_BASE), exponent, 1 << 64))
