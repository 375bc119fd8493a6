"""The contest of a predicate with its rivals: which split decides what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from autointerp.scoring.contest import Contest, Overlap, Sums, metric_on, score_contest
from autointerp.stats.bootstrap import Resamples

N_DOCS = 40


@dataclass(frozen=True)
class Split:
    """Every document alike: 4 positives of 20 items; `mass` of 4 units of activation lies in them."""

    mass: float

    def of(self, predicate: int) -> Sums:
        """Predicate 0 names what is positive, predicate 1 names other items."""
        hits = (4.0, 0.0)[predicate]
        one = {
            "tp": hits, "fp": 4 - hits, "fp_natural": 4 - hits, "predicted": 4, "predicted_a": self.mass * hits / 4,
            "covered": self.mass * hits / 4, "positives": 4, "negatives": 16, "pairs": 20, "sum_a": 4, "sum_aa": 2,
            "mass_positive": self.mass, "contribution": 4,
        }  # fmt: skip
        return {name: np.full(N_DOCS, float(value)) for name, value in one.items()}


@pytest.mark.parametrize(("on_select", "on_test", "metric"), [(3.0, 1.0, "f1"), (1.0, 3.0, "pearson")])
def test_the_metric_is_chosen_on_select_and_never_on_test(on_select: float, on_test: float, metric: str) -> None:
    contest = Contest(own=0, rivals={"other": 1}, others={}, donors=(), generic=())
    apart = Overlap(np.eye(2), np.eye(2))
    splits = Split(on_select), Split(on_test)
    score = score_contest(splits, contest, apart, Resamples.of(N_DOCS, 0, 50), "text")
    assert score is not None
    assert score.metric == metric
    assert score.n_items == N_DOCS * 20
    assert score.details["mass_scored"] == on_test / 4  # what is printed of test stays that of test


def test_a_split_without_any_activation_does_not_make_a_unit_diffuse() -> None:
    assert metric_on({"mass_positive": 0.0, "sum_a": 0.0}) == "f1"
    assert metric_on({"mass_positive": 0.4, "sum_a": 1.0}) == "pearson"
    assert metric_on({"mass_positive": 0.5, "sum_a": 1.0}) == "f1"
