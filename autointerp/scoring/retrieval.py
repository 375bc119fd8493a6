"""Random-head retrieval: where a head stands when its description is scored on every head (scoring_validity rule 10).

A specific description scores best on its own head. F1 of the predicate on the test rows of all heads; the rank of its
own head, ties halved (heads of the same function share descriptions); chance of rank 1 is 1 / n.
"""

from __future__ import annotations

import numpy as np

from autointerp.records import Head
from autointerp.scoring.predicate_score import HeadTallies, f1
from autointerp.scoring.tallies import LayerTallies

Place = dict[str, float | int | str | None]


class Retrieval:
    """Collects F1 of some predicates on all heads, layer by layer."""

    def __init__(self, predicates: list[str]) -> None:
        self._predicates = predicates
        self._found: dict[Head, dict[str, float]] = {}

    def add(self, tallies: LayerTallies, names: list[str]) -> None:
        """`names`: the predicates of the tallies, in order; those of this retrieval are among them."""
        for index in range(tallies.by_head.shape[1]):
            head = HeadTallies(tallies, index)
            totals = {p: {k: v.sum()[None] for k, v in head.of(names.index(p)).items()} for p in self._predicates}
            values = {p: float(np.nan_to_num(f1(t), nan=0.0)[0]) for p, t in totals.items()}
            self._found[Head(layer=tallies.layer, index=index)] = values

    def place(self, head: Head, predicate: str) -> Place:
        """Rank of `head` (1 is best) and number of heads; empty where the predicate was not drawn."""
        if predicate not in self._predicates:
            return {}
        own = self._found[head][predicate]
        others = [values[predicate] for other, values in self._found.items() if other != head]
        rank = 1 + sum(v > own for v in others) + sum(v == own for v in others) / 2
        return {"retrieval_rank": rank, "retrieval_heads": len(others) + 1}
