"""The predicate score of one head on held-out rows, with chance line, nulls and rivals (scoring_validity 3-11, 25).

1. On select: the best of the positional rivals and the token-identity table; donors for the shuffled explanation
   (other heads' predicates whose predicted pairs have IoU < .5 with this one's; fewer than three: our fixed generic
   descriptions).
2. On test: F1 over pairs (negatives matched on the destination token), or Pearson where less than half of the
   contribution lies in positive pairs; the same document resamples for every compared predicate.
3. Controls: chance line, shuffled explanation, random weights (nulls); best simple rival and, for an LLM, the detector
   text (rivals); a rival that predicts the same pairs (IoU >= .9 on test) is the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from autointerp.records import Control, Score, Unscored
from autointerp.scoring.controls import compared
from autointerp.scoring.random_weights import random_control
from autointerp.scoring.tallies import BY_HEAD, BY_PREDICATE, LayerTallies
from autointerp.stats.bootstrap import Resamples, interval
from autointerp.stats.metrics import PEARSON_SUMS, f1_from_counts, pearson_from_sums

MIN_DOCUMENTS = 30
DIFFUSE = 0.5
SAME_RULE = 0.9
TWIN = 0.5
IDENTITY = "token identity"
MIN_DONORS = 3
MIN_T2 = 20  # tier T2 counts as filled from here on
Sums = dict[str, Float[np.ndarray, " doc"]]


@dataclass(frozen=True)
class Contest:
    """Who is compared for one head: indices of predicates in the tallies."""

    own: int
    rivals: dict[str, int]  # positional programs by name
    others: dict[str, int]  # further rivals, each always compared (detector text)
    donors: tuple[int, ...]
    generic: tuple[int, ...]
    identity: tuple[int, ...] = ()  # the token-identity table at each of its thresholds
    identity_mask: Callable[[int], np.ndarray] | None = None  # its predicted pairs on test at a threshold's number
    own_mask: np.ndarray | None = None
    random: Sums | None = None  # of the own predicate, on the same head of a model with random weights


@dataclass(frozen=True)
class Overlap:
    """IoU of predicted pairs between predicates, `[predicate predicate]`, on select and on test."""

    select: Float[np.ndarray, "predicate predicate"]
    test: Float[np.ndarray, "predicate predicate"]


@dataclass(frozen=True)
class HeadTallies:
    """One head's part of the tallies of a split."""

    tallies: LayerTallies
    head: int

    def of(self, predicate: int) -> Sums:
        values = self.tallies.by_predicate[:, self.head, predicate]
        return dict(zip(BY_PREDICATE, values, strict=True)) | self.totals()

    def totals(self) -> Sums:
        return dict(zip(BY_HEAD, self.tallies.by_head[:, self.head], strict=True))


def f1(sums: dict[str, np.ndarray]) -> np.ndarray:
    """F1 over pairs from sums of counts; NaN without a positive."""
    return np.asarray(f1_from_counts(sums["tp"], sums["fp"], sums["positives"] - sums["tp"]))


def pearson(sums: dict[str, np.ndarray]) -> np.ndarray:
    """Correlation of the predicate (0 or 1) with a over all scored pairs; 0 for a constant predictor."""
    columns = dict(w="pairs", we="predicted", wa="sum_a", wee="predicted", waa="sum_aa", wea="predicted_a")
    return np.asarray(pearson_from_sums(np.stack([sums[columns[name]] for name in PEARSON_SUMS], -1)))


METRICS = {"f1": f1, "pearson": pearson}


def score_predicate(
    select: HeadTallies, test: HeadTallies, contest: Contest, overlap: Overlap, resamples: Resamples, domain: str
) -> Score | Unscored:
    """Score one head's predicate; Unscored where the split holds no positive pair."""
    own = test.of(contest.own)
    documents = int((own["positives"] > 0).sum())
    if documents == 0:
        return Unscored(scorer="predicate", reason="no source reaches a share of .3 in any held-out row")
    diffuse = float(own["mass_positive"].sum() / max(own["sum_a"].sum(), 1e-12)) < DIFFUSE
    metric = "pearson" if diffuse else "f1"
    measure = _Measure(metric, resamples)
    value = measure.point(own)
    spread = measure.resampled(own)
    low, high = interval(spread)
    controls = _controls(measure, spread, value, (select, test), contest, overlap)
    return Score(
        scorer="predicate",
        metric=metric,
        domain=domain,
        value=value,
        low=low,
        high=high,
        n_items=int(own["pairs"].sum() if diffuse else own["positives"].sum() + own["negatives"].sum()),
        n_docs=int((own["pairs"] > 0).sum()),
        prevalence=_prevalence(_totals(own)),
        chance=measure.chance(_totals(own)),
        controls=controls,
        state="underpowered" if documents < MIN_DOCUMENTS else "",
        details=_details(own, test) | {"documents_with_positive": documents},
    )


class _Measure:
    """One metric, as a point and over the document resamples."""

    def __init__(self, metric: str, resamples: Resamples) -> None:
        self.metric = metric
        self._resamples = resamples

    def point(self, sums: Sums) -> float:
        return float(METRICS[self.metric]({k: v[None] for k, v in _totals(sums).items()})[0])

    def resampled(self, sums: Sums) -> Float[np.ndarray, " resample"]:
        return np.asarray(METRICS[self.metric](self._sums(sums)))

    def chance(self, totals: dict[str, np.ndarray]) -> float:
        return float(self._chance({k: v[None] for k, v in totals.items()})[0])

    def resampled_chance(self, sums: Sums) -> Float[np.ndarray, " resample"]:
        return self._chance(self._sums(sums))

    def gained(self, sums: Sums) -> tuple[float, Float[np.ndarray, " resample"]]:
        """Score minus chance line, as a point and resampled."""
        point = self.point(sums) - self.chance(_totals(sums))
        return point, self.resampled(sums) - self.resampled_chance(sums)

    def _chance(self, totals: dict[str, np.ndarray]) -> np.ndarray:
        if self.metric == "pearson":
            return np.zeros_like(totals["pairs"])
        share = _divide(totals["positives"], totals["positives"] + totals["negatives"])
        return np.asarray(2 * share / (1 + share))

    def _sums(self, sums: Sums) -> dict[str, np.ndarray]:
        return {name: self._resamples.counts @ values for name, values in sums.items()}


def _controls(
    measure: _Measure,
    spread: np.ndarray,
    value: float,
    splits: tuple[HeadTallies, HeadTallies],
    contest: Contest,
    overlap: Overlap,
) -> tuple[Control, ...]:
    select, test = splits
    own = test.of(contest.own)
    chance = measure.resampled_chance(own)
    controls = [compared("chance line", value, measure.chance(_totals(own)), spread - chance)]
    donors = [d for d in contest.donors if overlap.select[contest.own, d] < TWIN]
    name = f"shuffled explanation ({len(donors)} donors)"
    if len(donors) < MIN_DONORS:
        donors = [g for g in contest.generic if overlap.select[contest.own, g] < TWIN]
        name = f"generic descriptions ({len(donors)}, too few other rules for a shuffle)"
    if donors:
        points = [_point(measure, test, d) for d in donors]
        shuffled = np.mean([_zero_nan(measure.resampled(test.of(d))) for d in donors], axis=0)
        controls.append(compared(name, value, float(np.mean(points)), spread - shuffled))
    if contest.random is not None:
        line = measure.chance(_totals(own)), chance
        controls.append(random_control((value, spread), line, measure.gained(contest.random)))
    pool = dict(contest.rivals)
    if contest.identity:
        pool[IDENTITY] = max(contest.identity, key=lambda index: _point(measure, select, index))
    best = max(pool, key=lambda rival: _point(measure, select, pool[rival]))
    for rival, index in {best: pool[best], **contest.others}.items():
        other = test.of(index)
        point = _point(measure, test, index)
        same = _same_rule(contest, overlap, index) >= SAME_RULE
        difference = spread - _zero_nan(measure.resampled(other))
        controls.append(compared(rival, value, point, difference, "rival").model_copy(update={"same_rule": same}))
    return tuple(controls)


def _point(measure: _Measure, tallies: HeadTallies, index: int) -> float:
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


def _details(own: Sums, test: HeadTallies) -> dict[str, float | int | str | None]:
    totals = _totals(own)
    tp, positives, predicted = totals["tp"], totals["positives"], totals["predicted"]
    precision = _divide(tp, tp + totals["fp"])
    recall = _divide(tp, positives)
    prevalence = _prevalence(totals)
    coverage = float(_divide(totals["covered"], totals["contribution"]))
    return {
        "iou": float(_divide(tp, positives + totals["fp"])),
        "f1": float(f1(totals)),
        "f1_natural_negatives": float(f1(totals | {"fp": totals["fp_natural"]})),
        "pearson": float(pearson(totals)),
        "cosine": float(_divide(totals["predicted_a"], np.sqrt(predicted * totals["sum_aa"]))),
        "auprc": float(_zero_nan(precision * recall)) + prevalence * (1 - float(_zero_nan(recall))),
        "precision": float(precision),
        "recall": float(recall),
        "coverage": coverage,
        "enrichment": coverage / max(float(_divide(predicted, totals["pairs"])), 1e-12),
        "specificity": 1 - float(_divide(predicted, totals["pairs"])),
        "mass_scored": float(_divide(totals["mass_positive"], totals["sum_a"])),
        "dead_zone": int(totals["pairs"] - positives - totals["negatives"]),
        "positives": int(positives),
        "negatives": int(totals["negatives"]),
        "false_positive_rate_T0": float(_divide(totals["fp_natural"], totals["negatives"])),
        "false_positive_rate_T1": float(_divide(totals["fp"], totals["negatives"])),
        "false_positive_rate_T2": float(_divide(totals["fp_same_tokens"], totals["same_tokens"])),
        "negatives_T2": int(totals["n_same_tokens"]),
        "negatives_T2_note": "" if totals["n_same_tokens"] >= MIN_T2 else f"fewer than {MIN_T2}",
        "no_write": float(test.tallies.no_write[test.head]),
    }


def _totals(sums: Sums) -> dict[str, np.ndarray]:
    return {name: np.asarray(values.sum()) for name, values in sums.items()}


def _prevalence(totals: dict[str, np.ndarray]) -> float:
    return float(_divide(totals["positives"], totals["positives"] + totals["negatives"]))


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan))


def _zero_nan(values: np.ndarray) -> np.ndarray:
    """A rule that predicts nothing finds nothing: its score is 0 in a comparison."""
    return np.asarray(np.nan_to_num(values, nan=0.0))
