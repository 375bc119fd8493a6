"""A seeded draw of units that covers rare and frequent, weak and strong ones alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from autointerp.errors import BadInput
from autointerp.features.unit_table import UnitTable
from autointerp.records import Feature

CLASSES = 4


@dataclass(frozen=True)
class Sample:
    """Ask for `n` units drawn by `sample_units` instead of naming them."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadInput(f"a sample of {self.n} units is asked for; ask for at least 1.")


def sample_units(table: UnitTable, units: tuple[Feature, ...], n: int, seed: int) -> tuple[Feature, ...]:
    """`n` of `units`, sorted: those that are neither dead nor dense, in turn from each class of density and maximum.

    Classes are the 16 crossings of quarters by density and quarters by maximum, taken over the living among `units`;
    a class that runs out leaves its turns to the others. All living ones where there are no more than `n`.
    """
    rows = np.array([table.row(unit) for unit in units], dtype=np.int64)
    alive = rows[table.state[rows] == "ok"] if len(rows) else rows
    if len(alive) <= n:
        return tuple(sorted(table.feature(int(row)) for row in alive))
    classes = CLASSES * _quarter(table.density[alive]) + _quarter(table.maximum[alive])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(alive))
    turn = np.zeros(len(alive), np.int64)  # how many of its class come before a unit
    for number in range(CLASSES * CLASSES):
        members = order[classes[order] == number]
        turn[members] = np.arange(len(members))
    rank = rng.permutation(CLASSES * CLASSES)
    chosen = np.lexsort((rank[classes], turn))[:n]
    return tuple(sorted(table.feature(int(row)) for row in alive[chosen]))


def _quarter(values: Float64[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"]:
    edges = np.quantile(values, np.arange(1, CLASSES) / CLASSES)
    return np.searchsorted(edges, values, side="left")
