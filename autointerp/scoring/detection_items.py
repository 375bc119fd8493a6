"""Items of detection: held-out destinations at which a head is active or rests, chosen before any description is known.

1. Active and resting rows are measured (`activity.row_states`, thresholds from select); the dead zone is left out.
2. The number of active items is binomial with rate 1/2, so that no answer follows from the others.
3. Resting items have the destination token of an active one where such a row exists (tier T1), else they are rows
   where units like this one are active (T2, of neurons and latents), else any row at rest (T0).
4. One item a document, and one marked token an item (scoring_validity rules 4, 5 and 18).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from autointerp.records import Head, Unit
from autointerp.scoring.activity import RowStates, destinations
from autointerp.scoring.held_out import HeldOutRows

N_ITEMS, MIN_EACH = 20, 4
MIN_RESTING = 0.05  # share of rows; a head that rests less is active everywhere, and there is nothing to detect


@dataclass(frozen=True)
class DetectionItem:
    """A marked destination; `tier` says how a resting one was matched. `activity` is in residual-stream norm."""

    window: int
    document: int
    dst: int
    active: bool
    activity: float
    tier: str = ""


def choose_detection_items(
    held_out: HeldOutRows, states: Mapping[Head, RowStates], seed: int
) -> dict[Head, list[DetectionItem]]:
    """Up to N_ITEMS items a head, each from its own document; none where the head never or hardly ever rests."""
    return {head: detection_items(held_out, head, state, seed) for head, state in states.items()}


def detection_items(
    held_out: HeldOutRows,
    unit: Unit,
    states: RowStates,
    seed: int,
    near: Bool[np.ndarray, "window pos"] | None = None,
) -> list[DetectionItem]:
    """Up to N_ITEMS items of one unit, each from its own document; none where it never or hardly ever rests.
    `near`: rows where units like it are active."""
    if (states.state == -1).sum() < MIN_RESTING * int(destinations(held_out).sum()):
        return []
    return _Chooser(held_out, states, np.random.default_rng([seed, unit.layer, unit.index])).choose(near)


class _Chooser:
    def __init__(self, held_out: HeldOutRows, states: RowStates, rng: np.random.Generator) -> None:
        self._held_out, self._states, self._rng = held_out, states, rng
        self._used: set[int] = set()

    def choose(self, near: Bool[np.ndarray, "window pos"] | None) -> list[DetectionItem]:
        wanted = int(np.clip(self._rng.binomial(N_ITEMS, 0.5), MIN_EACH, N_ITEMS - MIN_EACH))
        active, resting = self._rows(1), self._rows(-1)
        items = self._take(active, wanted, "")
        alike = self._alike(resting, items, N_ITEMS - wanted)
        if near is not None and len(resting):
            alike += self._take(resting[near[resting[:, 0], resting[:, 1]]], N_ITEMS - wanted - len(alike), "T2")
        return [*items, *alike, *self._take(resting, N_ITEMS - wanted - len(alike), "T0")]

    def _rows(self, state: int) -> Int[np.ndarray, "row 2"]:
        """(window, dst) of all rows in that state, shuffled."""
        return self._rng.permutation(np.argwhere(self._states.state == state))

    def _take(self, rows: Int[np.ndarray, "row 2"], n: int, tier: str) -> list[DetectionItem]:
        """The first n rows whose documents are not used yet."""
        found: list[DetectionItem] = []
        for window, dst in rows.tolist():
            document = int(self._held_out.documents[window])
            if len(found) == n:
                break
            if document not in self._used:
                self._used.add(document)
                found.append(self._item(window, document, dst, tier))
        return found

    def _alike(self, rows: Int[np.ndarray, "row 2"], active: list[DetectionItem], n: int) -> list[DetectionItem]:
        """Resting rows with the destination token of an active item, at most one for each active item."""
        tokens = self._held_out.ids[rows[:, 0], rows[:, 1]]
        found: list[DetectionItem] = []
        for item in active[:n]:
            same = rows[tokens == self._held_out.ids[item.window, item.dst]]
            found += self._take(same, 1, "T1")
        return found

    def _item(self, window: int, document: int, dst: int, tier: str) -> DetectionItem:
        active = bool(self._states.state[window, dst] == 1)
        return DetectionItem(window, document, dst, active, float(self._states.activity[window, dst]), tier)
