"""The best entries of a stream, a fixed number a unit: the largest keys win, whatever the order of arrival.

Each document offers at most one entry a unit, so a unit's entries come from as many documents. Key 0 is an empty
place. Keys must tell entries apart: the caller puts a hash of the document or of the row into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, UInt64

_SMALL = np.uint64(0xFFFFFF00)  # noise of float32 sums must not rank one of two equals above the other


@dataclass
class Entries:
    """One entry a unit: `key` 0 where there is none; the activation, its window and position."""

    key: UInt64[np.ndarray, "*shape"]
    value: Float32[np.ndarray, "*shape"]
    window: Int[np.ndarray, "*shape"]
    dst: Int[np.ndarray, "*shape"]

    @classmethod
    def empty(cls, *shape: int) -> Entries:
        # filled, not calloc'd: pages are paid for now, so that memory does not grow later
        return cls(
            np.full(shape, 0, np.uint64), np.full(shape, 0, np.float32), np.full(shape, 0, np.int32),
            np.full(shape, 0, np.int32),
        )  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        return {"key": self.key, "value": self.value, "window": self.window, "dst": self.dst}

    def put(self, units: Int[np.ndarray, " some"], new: Entries) -> None:
        """Where a new entry has the larger key, it takes the unit's place; `self` has one entry a unit."""
        better = new.key > self.key[units]
        at = units[better]
        for name, array in self.arrays().items():
            array[at] = new.arrays()[name][better]


@dataclass
class BestEntries:
    """The `k` largest keys of each unit, in no order until `ordered`."""

    entries: Entries  # [unit k]
    least: UInt64[np.ndarray, " unit"]

    @classmethod
    def empty(cls, n_units: int, k: int) -> BestEntries:
        return cls(Entries.empty(n_units, k), np.zeros(n_units, np.uint64))

    def offer(self, document: Entries) -> None:
        """Take in one document's entries, one a unit."""
        units = np.flatnonzero(document.key > self.least)
        if not len(units):
            return
        place = self.entries.key[units].argmin(1)
        for name, array in self.entries.arrays().items():
            array[units, place] = document.arrays()[name][units]
        self.least[units] = self.entries.key[units].min(1)

    def ordered(self, unit: int) -> Entries:
        """A unit's entries, largest key first."""
        key = self.entries.key[unit]
        order = np.argsort(key)[::-1][: int((key > 0).sum())]
        return Entries(*(array[unit][order] for array in self.entries.arrays().values()))


def value_keys(values: Float32[np.ndarray, " unit"], document: np.uint64) -> UInt64[np.ndarray, " unit"]:
    """Keys that rank positive activations, equals by their document; 0 for what is not above 0."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64) & _SMALL
    keys = (bits << np.uint64(32)) | np.maximum(document >> np.uint64(32), np.uint64(1))
    return np.where(values > 0, keys, np.uint64(0))
