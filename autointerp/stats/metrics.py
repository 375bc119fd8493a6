"""Weighted metrics between what an explanation predicts and what the head does, with their chance lines.

Items carry `e`, the prediction in [0, 1], `a >= 0`, the measured activation, and `w >= 0`, the inverse
inclusion probability (None: all 1), so that weighted sums estimate the natural distribution. All sums are
float64.

A metric that a sample does not define is NaN, never 0: no positive item for F1, IoU, AUPRC and recall, an `a`
that never varies for Pearson, and so on in each docstring. What is a bad score (a rule that predicts nothing
has F1 0, one that never varies has Pearson 0) is that score.

Only the five in HEADLINE_METRICS fall clearly when labels are missing or superfluous, at every prevalence
(arXiv 2506.05774 and its sheet; the test is in tests/test_metrics.py); those in DETAIL_METRICS do not, and
stand in tables with the prevalence beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Real, Shaped

from autointerp.errors import BadInput

PEARSON_SUMS = ("w", "we", "wa", "wee", "waa", "wea")
"""Columns of the sufficient statistics that `pearson_from_sums` reads."""

_CONSTANT = 1e-12  # a variance below this part of the mean square is rounding

Items = Shaped[np.ndarray, " item"]
Kept = Float64[np.ndarray, " kept"]
Counts = Real[np.ndarray, "*shape"]
Numbers = Float64[np.ndarray, "*shape"]


@dataclass(frozen=True)
class Confusion:
    """Weighted counts of a binary prediction against a binary truth."""

    tp: float
    fp: float
    fn: float
    tn: float


def confusion(e: Items, a: Items, w: Items | None = None) -> Confusion:
    """Weighted counts of binary items: tp = sum w e a, fp = sum w e (1 - a), and so on.

    Raises BadInput where e or a holds anything but 0 and 1: binarise first, with thresholds from select.
    """
    e, a, w = _items(e, a, w)
    _require_binary("e", e)
    _require_binary("a", a)
    tp, predicted, positive, total = float(w @ (e * a)), float(w @ e), float(w @ a), float(w.sum())
    return Confusion(tp, predicted - tp, positive - tp, total - predicted - positive + tp)


def f1_from_counts(tp: Counts, fp: Counts, fn: Counts) -> Numbers:
    """F1 = 2 TP / (2 TP + FP + FN), elementwise; NaN where there is no positive (TP + FN = 0)."""
    return _ratio(2 * tp, 2 * tp + fp + fn, tp + fn > 0)


def iou_from_counts(tp: Counts, fp: Counts, fn: Counts) -> Numbers:
    """IoU = TP / (TP + FP + FN), elementwise; NaN where there is no positive (TP + FN = 0)."""
    return _ratio(tp, tp + fp + fn, tp + fn > 0)


def f1(e: Items, a: Items, w: Items | None = None) -> float:
    """F1 of binary e against binary a (scoring_validity rule 6); NaN without a positive item."""
    return float(f1_from_counts(*_as_arrays(confusion(e, a, w)))[0])


def iou(e: Items, a: Items, w: Items | None = None) -> float:
    """Intersection over union of binary e and binary a (rule 6); NaN without a positive item."""
    return float(iou_from_counts(*_as_arrays(confusion(e, a, w)))[0])


def pearson_from_sums(sums: Float64[np.ndarray, "*shape 6"]) -> Numbers:
    """Weighted correlation from sums over items, columns as in PEARSON_SUMS; linear in items, so they add up.

    cov(e, a) / sqrt(var(e) var(a)) with var(x) = sum wxx / sum w - (sum wx / sum w)^2. NaN where a does not
    vary (nothing to predict); 0 where e does not (the chance line of rule 7: a constant explains nothing).
    """
    w, we, wa, wee, waa, wea = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_e, mean_a, square_e, square_a = we / w, wa / w, wee / w, waa / w
        var_e, var_a = square_e - mean_e**2, square_a - mean_a**2
        correlation = (wea / w - mean_e * mean_a) / np.sqrt(var_e * var_a)
    correlation = np.where(var_e > _CONSTANT * square_e, np.clip(correlation, -1, 1), 0.0)
    return np.asarray(np.where(var_a > _CONSTANT * square_a, correlation, np.nan))


def pearson(e: Items, a: Items, w: Items | None = None) -> float:
    """Weighted correlation of e and a on a representative sample, not on top plus random (rule 6).

    NaN where a does not vary, 0 where e does not.
    """
    e, a, w = _items(e, a, w)
    shifted_e, shifted_a = e - w @ e / w.sum(), a - w @ a / w.sum()  # keeps the digits of small variances
    if np.ptp(a) == 0:
        return float("nan")
    if np.ptp(e) == 0:
        return 0.0
    spread = np.sqrt((w @ shifted_e**2) * (w @ shifted_a**2))
    return float(np.clip((w * shifted_e) @ shifted_a / spread, -1, 1))


def cosine(e: Items, a: Items, w: Items | None = None) -> float:
    """<e, a> / (|e| |a|) of the raw values, weighted in all three; NaN where either is 0 everywhere."""
    e, a, w = _items(e, a, w)
    spread = float(np.sqrt((w @ e**2) * (w @ a**2)))
    return float((w * e) @ a) / spread if spread > 0 else float("nan")


def auprc(e: Items, a: Items, w: Items | None = None) -> float:
    """Area under the precision-recall curve: e is the score, binary a the truth; NaN without a positive item.

    sum over distinct scores, from the highest: (R_k - R_{k-1}) P_k. Steps, no interpolation between points,
    and items of one score enter together, so their order does not matter. A constant e gives the prevalence.
    """
    e, a, w = _items(e, a, w)
    _require_binary("a", a)
    positives, all_items = _by_score(e, w * a), _by_score(e, w)
    if positives.sum() == 0:
        return float("nan")
    precision = np.cumsum(positives) / np.cumsum(all_items)
    return float(positives @ precision / positives.sum())


def roc_auc(e: Items, a: Items, w: Items | None = None) -> float:
    """Probability that a positive item scores above a negative one, ties half; NaN without one of the two."""
    e, a, w = _items(e, a, w)
    _require_binary("a", a)
    positives, negatives = _by_score(e, w * a), _by_score(e, w * (1 - a))
    pairs = positives.sum() * negatives.sum()
    below = negatives.sum() - np.cumsum(negatives)
    return float(positives @ (below + negatives / 2) / pairs) if pairs > 0 else float("nan")


def accuracy(e: Items, a: Items, w: Items | None = None) -> float:
    """(TP + TN) / all, binary e and a."""
    c = confusion(e, a, w)
    return (c.tp + c.tn) / (c.tp + c.fp + c.fn + c.tn)


def recall(e: Items, a: Items, w: Items | None = None) -> float:
    """TP / (TP + FN), binary e and a; NaN without a positive item."""
    c = confusion(e, a, w)
    return c.tp / (c.tp + c.fn) if c.tp + c.fn > 0 else float("nan")


def precision(e: Items, a: Items, w: Items | None = None) -> float:
    """TP / (TP + FP), binary e and a; NaN where nothing is predicted."""
    c = confusion(e, a, w)
    return c.tp / (c.tp + c.fp) if c.tp + c.fp > 0 else float("nan")


def balanced_accuracy(e: Items, a: Items, w: Items | None = None) -> float:
    """Mean of recall and TN / (TN + FP), binary e and a; NaN without a positive or a negative item."""
    c = confusion(e, a, w)
    if c.tp + c.fn == 0 or c.tn + c.fp == 0:
        return float("nan")
    return (c.tp / (c.tp + c.fn) + c.tn / (c.tn + c.fp)) / 2


@dataclass(frozen=True)
class Metric:
    """A metric over items and the ends of its range."""

    function: Callable[[Items, Items, Items | None], float]
    low: float = 0.0
    high: float = 1.0


HEADLINE_METRICS: dict[str, Metric] = {
    "f1": Metric(f1),
    "iou": Metric(iou),
    "pearson": Metric(pearson, low=-1.0),
    "cosine": Metric(cosine),
    "auprc": Metric(auprc),
}
DETAIL_METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy),
    "balanced_accuracy": Metric(balanced_accuracy),
    "roc_auc": Metric(roc_auc),
    "recall": Metric(recall),
    "precision": Metric(precision),
}


def chance_lines(prevalence: float, mean: float | None = None, mean_square: float | None = None) -> dict[str, float]:
    """What an explanation without content scores, by metric (rule 7).

    `prevalence` pi: weighted share of positive items; `mean` and `mean_square`: E[a] and E[a^2] of the raw
    activation (both pi for a binary one, the default). F1 of always-yes 2 pi / (1 + pi), IoU pi, AUPRC pi,
    Pearson 0, cosine of a constant E[a] / sqrt(E[a^2]), accuracy of the majority max(pi, 1 - pi), balanced
    accuracy and ROC-AUC 1/2. NaN where there is no positive item. Raises BadInput outside [0, 1].
    """
    if not 0 <= prevalence <= 1:
        raise BadInput(f"a prevalence of {prevalence} is not in [0, 1]; check the weights of the items")
    mean = prevalence if mean is None else mean
    mean_square = prevalence if mean_square is None else mean_square
    some = prevalence > 0
    return {
        "f1": 2 * prevalence / (1 + prevalence) if some else float("nan"),
        "iou": prevalence if some else float("nan"),
        "auprc": prevalence if some else float("nan"),
        "pearson": 0.0,
        "cosine": float(mean / np.sqrt(mean_square)) if mean_square > 0 else float("nan"),
        "accuracy": max(prevalence, 1 - prevalence),
        "balanced_accuracy": 0.5,
        "roc_auc": 0.5,
    }


def _items(e: Items, a: Items, w: Items | None) -> tuple[Kept, Kept, Kept]:
    """The three as float64, without items of weight 0; raises BadInput for what is no item list."""
    e, a = np.asarray(e, dtype=np.float64), np.asarray(a, dtype=np.float64)
    w = np.ones_like(a) if w is None else np.asarray(w, dtype=np.float64)
    if not e.shape == a.shape == w.shape or e.ndim != 1:
        raise BadInput(f"e, a, w have shapes {e.shape}, {a.shape}, {w.shape}; give one of each an item")
    for name, values in (("e", e), ("a", a), ("w", w)):
        if not np.isfinite(values).all():
            raise BadInput(f"{name} holds NaN or infinity; an item without a value is no item, leave it out")
    if (w < 0).any() or not (w > 0).any():
        raise BadInput("weights must be 0 or more, one at least above 0; they are inverse inclusion probabilities")
    kept = w > 0
    return (e, a, w) if kept.all() else (e[kept], a[kept], w[kept])


def _require_binary(name: str, values: Items) -> None:
    if not np.logical_or(values == 0, values == 1).all():
        wrong = values[(values != 0) & (values != 1)][0]
        raise BadInput(f"{name} holds {wrong}, but this metric needs 0 and 1; compare with a threshold first")


def _as_arrays(counts: Confusion) -> tuple[Numbers, Numbers, Numbers]:
    return np.array([counts.tp]), np.array([counts.fp]), np.array([counts.fn])


def _ratio(above: Counts, below: Counts, defined: Shaped[np.ndarray, "*shape"]) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(defined, above / below, np.nan))


def _by_score(e: Items, amounts: Items) -> Float64[np.ndarray, " score"]:
    """Sums of the amounts for each distinct score, the highest first."""
    scores, index = np.unique(e, return_inverse=True)
    return np.bincount(index, amounts, len(scores))[::-1]
