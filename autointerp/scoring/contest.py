"""Who is compared with a predicate on held-out rows, by which metric, and what comes of it (scoring_validity 6-10).

The same contest serves pairs of a head's attention and positions of a neuron or latent: all that it asks of a unit is
sums by document for each predicate (`Tallied`). The same document resamples serve every compared predicate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from autointerp.records import Control, Score
from autointerp.scoring.controls import compared
from autointerp.scoring.random_weights import random_control
from autointerp.stats.bootstrap import Resamples, interval
from autointerp.stats.metrics import PEARSON_SUMS, f1_from_counts, pearson_from_sums

MIN_DOCUMENTS = 30
DIFFUSE = 0.5
SAME_RULE = 0.9
TWIN = 0.5
IDENTITY = "token identity"
MIN_DONORS = 3
Sums = dict[str, Float[np.ndarray, " doc"]]
NEEDED = {"f1": ("tp", "fp", "positives"), "pearson": ("pairs", "predicted", "sum_a", "sum_aa", "predicted_a")}
"""Columns of sums that each metric reads."""


class Tallied(Protocol):
    """One unit's sums by document on a split."""

    def of(self, predicate: int) -> Sums:
        """Sums of a predicate, by its number, with those that belong to the unit alone."""


@dataclass(frozen=True)
class Contest:
    """Who is compared for one unit: indices of predicates in the tallies."""

    own: int
    rivals: dict[str, int]  # positional programs by name
    others: dict[str, int]  # further rivals, each always compared (detector text)
    donors: tuple[int, ...]
    generic: tuple[int, ...]
    identity: tuple[int, ...] = ()  # the token-identity table at each of its thresholds
    identity_mask: Callable[[int], np.ndarray] | None = None  # its predicted pairs on test at a threshold's number
    own_mask: np.ndarray | None = None
    random: Sums | None = None  # of the own predicate, on the same unit of a model with random weights
    min_donors: int = MIN_DONORS  # with fewer, fixed generic descriptions are the shuffled ones


@dataclass(frozen=True)
class Overlap:
    """IoU of predicted pairs between predicates, `[predicate predicate]`, on select and on test."""

    select: Float[np.ndarray, "predicate predicate"]
    test: Float[np.ndarray, "predicate predicate"]


def f1(sums: dict[str, np.ndarray]) -> np.ndarray:
    """F1 over pairs from sums of counts; NaN without a positive."""
    return np.asarray(f1_from_counts(sums["tp"], sums["fp"], sums["positives"] - sums["tp"]))


def pearson(sums: dict[str, np.ndarray]) -> np.ndarray:
    """Correlation of the predicate (0 or 1) with a over all scored pairs; 0 for a constant predictor."""
    columns = dict(w="pairs", we="predicted", wa="sum_a", wee="predicted", waa="sum_aa", wea="predicted_a")
    return np.asarray(pearson_from_sums(np.stack([sums[columns[name]] for name in PEARSON_SUMS], -1)))


METRICS = {"f1": f1, "pearson": pearson}


def metric_on(totals: Mapping[str, np.ndarray | float]) -> str:
    """Which metric a unit's totals on select ask for: Pearson where under half of its activation or contribution lies
    in positive items, else F1. Select without any of it says nothing of how it lies: F1."""
    return "pearson" if totals["mass_positive"] < DIFFUSE * totals["sum_a"] else "f1"


class Measure:
    """One metric, as a point and over the document resamples."""

    def __init__(self, metric: str, resamples: Resamples) -> None:
        self.metric = metric
        self._resamples = resamples

    def point(self, sums: Sums) -> float:
        return float(METRICS[self.metric]({k: v[None] for k, v in totals_of(sums).items()})[0])

    def resampled(self, sums: Sums) -> Float[np.ndarray, " resample"]:
        return np.asarray(self.resampled_each([sums])[0])

    def resampled_each(self, several: Sequence[Sums]) -> Float[np.ndarray, "sums resample"]:
        """Of several predicates, in one product with the resamples."""
        names = NEEDED[self.metric]
        drawn = self._resamples.totals(np.stack([sums[name] for sums in several for name in names], -1))
        drawn = drawn.reshape(len(drawn), len(several), len(names))
        values = METRICS[self.metric]({name: drawn[..., i] for i, name in enumerate(names)})
        return np.asarray(np.moveaxis(values, -1, 0))

    def chance(self, totals: dict[str, np.ndarray]) -> float:
        return float(self._chance({k: v[None] for k, v in totals.items()})[0])

    def resampled_chance(self, sums: Sums) -> Float[np.ndarray, " resample"]:
        return self._chance({name: self._resamples.counts @ sums[name] for name in ("positives", "negatives", "pairs")})

    def gained(self, sums: Sums) -> tuple[float, Float[np.ndarray, " resample"]]:
        """Score minus chance line, as a point and resampled."""
        point = self.point(sums) - self.chance(totals_of(sums))
        return point, self.resampled(sums) - self.resampled_chance(sums)

    def _chance(self, totals: dict[str, np.ndarray]) -> np.ndarray:
        if self.metric == "pearson":
            return np.zeros_like(totals["pairs"])
        share = divide(totals["positives"], totals["positives"] + totals["negatives"])
        return np.asarray(2 * share / (1 + share))


def score_contest(
    splits: tuple[Tallied, Tallied], contest: Contest, overlap: Overlap, resamples: Resamples, domain: str
) -> Score | None:
    """The score of a predicate on the test split, the second; None where it holds no positive.

    The first split, select, says by which metric: test is read once.
    """
    own = splits[1].of(contest.own)
    totals = totals_of(own)
    documents = int((own["positives"] > 0).sum())
    if documents == 0:
        return None
    measure = Measure(metric_on(totals_of(splits[0].of(contest.own))), resamples)
    value, spread = measure.point(own), measure.resampled(own)
    low, high = interval(spread)
    return Score(
        scorer="predicate",
        metric=measure.metric,
        domain=domain,
        value=value,
        low=low,
        high=high,
        n_items=int(totals["pairs"] if measure.metric == "pearson" else totals["positives"] + totals["negatives"]),
        n_docs=int((own["pairs"] > 0).sum()),
        prevalence=prevalence_of(totals),
        chance=measure.chance(totals),
        controls=_controls(measure, spread, value, splits, contest, overlap),
        state="underpowered" if documents < MIN_DOCUMENTS else "",
        details=fit_details(own) | {"documents_with_positive": documents},
    )


def _controls(
    measure: Measure,
    spread: np.ndarray,
    value: float,
    splits: tuple[Tallied, Tallied],
    contest: Contest,
    overlap: Overlap,
) -> tuple[Control, ...]:
    select, test = splits
    own = test.of(contest.own)
    chance = measure.resampled_chance(own)
    controls = [compared("chance line", value, measure.chance(totals_of(own)), spread - chance)]
    donors = [d for d in contest.donors if overlap.select[contest.own, d] < TWIN]
    name = f"shuffled explanation ({len(donors)} donors)"
    if len(donors) < contest.min_donors:
        donors = [g for g in contest.generic if overlap.select[contest.own, g] < TWIN]
        name = f"generic descriptions ({len(donors)}, too few other rules for a shuffle)"
    if donors:
        points = [_point(measure, test, d) for d in donors]
        shuffled = zero_nan(measure.resampled_each([test.of(d) for d in donors])).mean(axis=0)
        controls.append(compared(name, value, float(np.mean(points)), spread - shuffled))
    if contest.random is not None:
        line = measure.chance(totals_of(own)), chance
        controls.append(random_control((value, spread), line, measure.gained(contest.random)))
    pool = dict(contest.rivals)
    if contest.identity:
        pool[IDENTITY] = max(contest.identity, key=lambda index: _point(measure, select, index))
    best = max(pool, key=lambda rival: _point(measure, select, pool[rival]))
    for rival, index in {best: pool[best], **contest.others}.items():
        other = test.of(index)
        point = _point(measure, test, index)
        same = _same_rule(contest, overlap, index) >= SAME_RULE
        difference = spread - zero_nan(measure.resampled(other))
        controls.append(compared(rival, value, point, difference, "rival").model_copy(update={"same_rule": same}))
    return tuple(controls)


def _point(measure: Measure, tallies: Tallied, index: int) -> float:
    """A rule that predicts nothing finds nothing: its score is 0 in a comparison."""
    value = measure.point(tallies.of(index))
    return 0.0 if np.isnan(value) else value


def _same_rule(contest: Contest, overlap: Overlap, index: int) -> float:
    """IoU on test of the predicted pairs of the description and of a rival."""
    if index not in contest.identity:
        return float(overlap.test[contest.own, index])
    if contest.identity_mask is None or contest.own_mask is None:
        return 0.0
    other, own = contest.identity_mask(contest.identity.index(index)), contest.own_mask
    return float((own & other).sum() / max(1, (own | other).sum()))


def fit_details(own: Sums) -> dict[str, float | int | str | None]:
    """How well a predicate fits, beside the headline: of pairs or of positions."""
    totals = totals_of(own)
    tp, positives, predicted = totals["tp"], totals["positives"], totals["predicted"]
    precision, recall = divide(tp, tp + totals["fp"]), divide(tp, positives)
    coverage = float(divide(totals["covered"], totals["contribution"]))
    return {
        "iou": float(divide(tp, positives + totals["fp"])),
        "f1": float(f1(totals)),
        "f1_natural_negatives": float(f1(totals | {"fp": totals["fp_natural"]})),
        "pearson": float(pearson(totals)),
        "cosine": float(divide(totals["predicted_a"], np.sqrt(predicted * totals["sum_aa"]))),
        "auprc": float(zero_nan(precision * recall)) + prevalence_of(totals) * (1 - float(zero_nan(recall))),
        "precision": float(precision),
        "recall": float(recall),
        "coverage": coverage,
        "enrichment": coverage / max(float(divide(predicted, totals["pairs"])), 1e-12),
        "specificity": 1 - float(divide(predicted, totals["pairs"])),
        "mass_scored": float(divide(totals["mass_positive"], totals["sum_a"])),
        "dead_zone": int(totals["pairs"] - positives - totals["negatives"]),
        "positives": int(positives),
        "negatives": int(totals["negatives"]),
    }


def totals_of(sums: Sums) -> dict[str, np.ndarray]:
    return {name: np.asarray(values.sum()) for name, values in sums.items()}


def prevalence_of(totals: dict[str, np.ndarray]) -> float:
    return float(divide(totals["positives"], totals["positives"] + totals["negatives"]))


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan))


def zero_nan(values: np.ndarray) -> np.ndarray:
    """A rule that predicts nothing finds nothing: its score is 0 in a comparison."""
    return np.asarray(np.nan_to_num(values, nan=0.0))
