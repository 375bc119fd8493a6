"""Retrieval: where a unit stands when its description is scored on every unit (scoring_validity rule 10).

A specific description scores best on its own unit. F1 of the predicate on the test rows of all units; the rank of its
own unit, ties halved (units of the same function share descriptions); chance of rank 1 is 1 / n.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autointerp.records import Head, Unit
from autointerp.scoring.predicate_score import HeadTallies, f1
from autointerp.scoring.tallies import LayerTallies

Place = dict[str, float | int | str | None]


class Retrieval:
    """F1 of some predicates on all units."""

    def __init__(self, predicates: list[str]) -> None:
        self.predicates = predicates
        self._found: dict[Unit, Mapping[str, float]] = {}

    def add(self, tallies: LayerTallies, names: list[str]) -> None:
        """All heads of a layer; `names`: the predicates of the tallies, those of this retrieval among them."""
        for index in range(tallies.by_head.shape[1]):
            head = HeadTallies(tallies, index)
            totals = {p: {k: v.sum()[None] for k, v in head.of(names.index(p)).items()} for p in self.predicates}
            values = {p: float(np.nan_to_num(f1(t), nan=0.0)[0]) for p, t in totals.items()}
            self.put(Head(layer=tallies.layer, index=index), values)

    def put(self, unit: Unit, values: Mapping[str, float]) -> None:
        """F1 of each of the predicates on one unit."""
        self._found[unit] = values

    def place(self, unit: Unit, predicate: str) -> Place:
        """Rank of `unit` (1 is best) and number of units; empty where the predicate was not drawn."""
        if predicate not in self.predicates:
            return {}
        own = self._found[unit][predicate]
        others = [values[predicate] for other, values in self._found.items() if other != unit]
        rank = 1 + sum(v > own for v in others) + sum(v == own for v in others) / 2
        among = "retrieval_heads" if isinstance(unit, Head) else "retrieval_units"
        return {"retrieval_rank": rank, among: len(others) + 1}
