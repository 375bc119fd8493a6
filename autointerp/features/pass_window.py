"""One window's activations of one site, reduced to what the first pass keeps of them. Torch only, no loop over units.

Rows come in the order of their hashes, so that the first row above 0 is a uniform draw from those. Units whose entry
could not enter their lists any more are left out early: in a long corpus these are nearly all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, UInt64
from torch import Tensor

_PART = 255  # rows that a sum of bytes can hold


@dataclass(frozen=True)
class Chosen:
    """For some units of a site: the row that counts, and the activation there."""

    units: Int[np.ndarray, " some"]
    row: Int[np.ndarray, " some"]
    value: Float32[np.ndarray, " some"]


@dataclass(frozen=True)
class SideSeen:
    """One side of a window: rows above 0 of each unit, its largest activation, and its draw."""

    rows_above: Int[np.ndarray, " unit"]
    best: Chosen
    drawn: Chosen


@dataclass(frozen=True)
class Floors:
    """What an entry must reach to enter a unit's lists: an activation, and a key of a row."""

    value: Float32[np.ndarray, " unit"]
    key: UInt64[np.ndarray, " unit"]


@dataclass(frozen=True)
class Seen:
    """A window at one site."""

    site: int
    sums: Float64[np.ndarray, " unit"]
    least: Float32[np.ndarray, " unit"]
    largest: Float32[np.ndarray, " unit"]
    sides: list[SideSeen]


def see_window(
    site: int, rows: Float[Tensor, "row unit"], keys: UInt64[np.ndarray, " row"], floors: list[Floors]
) -> Seen:
    """`rows` in the order of `keys`, largest key first; one of `floors` a side."""
    largest, least = rows.amax(0), rows.amin(0)
    sides = [_side(rows, largest, keys, floors[0])]
    if len(floors) > 1:
        sides.append(_side(-rows, -least, keys, floors[1]))
    return Seen(site, rows.sum(0).double().cpu().numpy(), _array(least), _array(largest), sides)


def _side(
    rows: Float[Tensor, "row unit"], largest: Float[Tensor, " unit"], keys: UInt64[np.ndarray, " row"], floors: Floors
) -> SideSeen:
    top = _array(largest)
    if not (top > 0).any():
        none = Chosen(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        return SideSeen(np.zeros(len(top), np.int64), none, none)
    above = (rows > 0).view(torch.uint8)
    counts = sum(part.sum(0, dtype=torch.uint8).long() for part in above.split(_PART))
    assert isinstance(counts, Tensor)
    best = np.flatnonzero((top > 0) & (top >= floors.value))
    drawn = np.flatnonzero((top > 0) & (keys[0] > floors.key))
    columns = torch.from_numpy(drawn).to(rows.device)
    first = above.index_select(1, columns).argmax(0) if len(drawn) else columns
    at_best = torch.from_numpy(best).to(rows.device)
    value, row = rows.index_select(1, at_best).max(0) if len(best) else (rows.new_zeros(0), at_best)
    return SideSeen(
        counts.cpu().numpy(),
        Chosen(best, row.cpu().numpy(), _array(value)),
        Chosen(drawn, first.cpu().numpy(), _array(rows[first, columns])),
    )


def _array(values: Tensor) -> Float32[np.ndarray, "..."]:
    return np.asarray(values.float().cpu().numpy())
