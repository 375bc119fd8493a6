"""How descriptions of heads with known functions are graded. Numbers only: no model, no file.

1. A head's answer is the set of its labels. `name_mover` counts as `copying`; `first_token` counts only where it comes
   first, since most heads rest there besides. Labels that are true of the head as well count neither way.
2. Label F1 of a class: over all heads of all seeds, named against planted. Macro-F1: the mean over `CLASSES`.
3. A verdict `supported` is false where nothing depends on the head or the label is wrong.
4. Intervals: seeds are drawn with replacement, and within each its heads; percentiles of 1 000 draws.
5. Calibration: heads by stated confidence, mean confidence beside the share with a right label.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.records import Interval, Unit, Verdict
from autointerp.scoring.verdict import MIN_KL

CLASSES = (
    "previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset", "punctuation",
    "delimiter_matching", "token_class", "copying", "copy_suppression", "successor",
)  # fmt: skip
SAME = {"name_mover": "copying"}
NO_ANSWER = ("unclear", "other")
DRAWS = 1000
EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class GradedHead:
    """One planted head (or neuron, or latent) beside its description. NaN where there is no number."""

    seed: int
    head: Unit
    kind: str
    planted: tuple[str, ...]
    allowed: tuple[str, ...]
    matters: bool
    said: tuple[str, ...]  # all labels of the description, its first one first; empty: abstained or failed
    status: str
    verdict: Verdict
    confidence: float
    true_f1: float  # of the planted predicate
    said_f1: float  # the headline score of the description, where it is an F1
    kl: Interval  # of ablating the head, nats
    predicate: str = ""
    true_predicate: str = ""
    reason: str = ""

    @property
    def named(self) -> frozenset[str]:
        """The labels that count as the head's answer."""
        first = self.said[:1]
        rest = [label for label in self.said[1:] if label != "first_token"]
        found = {SAME.get(label, label) for label in (*first, *rest)} - set(NO_ANSWER)
        return frozenset(found - (set(self.allowed) - set(self.planted)))

    @property
    def right(self) -> bool:
        """Whether the first label is true of the head; for a head without a function, that none is given."""
        if not self.planted:
            return self.abstained
        return bool(self.said) and SAME.get(self.said[0], self.said[0]) in {*self.planted, *self.allowed}

    @property
    def complete(self) -> bool:
        """Whether all planted functions are named, and nothing else."""
        return self.named == frozenset(self.planted)

    @property
    def abstained(self) -> bool:
        return self.status != "failed" and not set(self.said[:1]) - set(NO_ANSWER)

    @property
    def depends(self) -> bool:
        """Whether ablation says that predictions depend on the head."""
        return self.kl.low > MIN_KL

    @property
    def falsely_supported(self) -> bool:
        return self.verdict == "supported" and not (self.matters and self.right)


def label_scores(
    heads: Sequence[GradedHead], classes: Sequence[str] = CLASSES
) -> dict[str, tuple[float, int, int, int]]:
    """By class: F1, hits, heads wrongly named so, planted heads missed. NaN F1 where no head was planted or named."""
    found = {}
    for label in classes:
        hits = sum(label in h.planted and label in h.named for h in heads)
        wrong = sum(label not in h.planted and label in h.named for h in heads)
        missed = sum(label in h.planted and label not in h.named for h in heads)
        total = 2 * hits + wrong + missed
        found[label] = (2 * hits / total if total else float("nan"), hits, wrong, missed)
    return found


def macro_f1(heads: Sequence[GradedHead], classes: Sequence[str] = CLASSES) -> float:
    """Mean of the classes' F1, over classes that were planted or named."""
    return mean([score[0] for score in label_scores(heads, classes).values()])


def label_accuracy(heads: Sequence[GradedHead]) -> float:
    return mean([float(h.right) for h in heads])


def complete_share(heads: Sequence[GradedHead]) -> float:
    return mean([float(h.complete) for h in heads])


def predicate_f1(heads: Sequence[GradedHead]) -> float:
    """Mean F1 of the planted predicates, over heads that have one."""
    return mean([h.true_f1 for h in heads])


def causal_accuracy(heads: Sequence[GradedHead]) -> float:
    """Share of heads for which ablation agrees with what was planted; heads without a function are left out."""
    return mean([float(h.depends == h.matters) for h in heads if h.planted])


def abstained_on_noise(heads: Sequence[GradedHead]) -> float:
    return mean([float(h.abstained) for h in heads if not h.planted])


def false_supported(heads: Sequence[GradedHead]) -> float:
    """Number of heads."""
    return float(sum(h.falsely_supported for h in heads))


def supported_share(heads: Sequence[GradedHead]) -> float:
    """Share of the heads that matter, have a predicate and are rightly labelled whose description is `supported`."""
    return mean([float(h.verdict == "supported") for h in heads if h.matters and h.right and h.true_predicate])


SUMMARY: dict[str, Callable[[Sequence[GradedHead]], float]] = {
    "label_macro_f1": macro_f1,
    "label_accuracy": label_accuracy,
    "labels_complete": complete_share,
    "predicate_f1": predicate_f1,
    "causal_accuracy": causal_accuracy,
    "supported_of_right": supported_share,
    "false_supported": false_supported,
    "abstained_on_noise": abstained_on_noise,
}


def with_interval(
    heads: Sequence[GradedHead], measure: Callable[[Sequence[GradedHead]], float], seed: int = 0
) -> Interval:
    """A summary number with its two-level bootstrap interval; `n` heads."""
    by_seed: dict[int, list[GradedHead]] = {}
    for head in heads:
        by_seed.setdefault(head.seed, []).append(head)
    groups = list(by_seed.values())
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        chosen = [groups[k] for k in generator.integers(0, len(groups), len(groups))]
        drawn.append(measure([g[k] for g in chosen for k in generator.integers(0, len(g), len(g))]))
    known = np.array([value for value in drawn if not np.isnan(value)])
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (float("nan"), float("nan"))
    return Interval(value=measure(heads), low=float(low), high=float(high), n=len(heads))


def calibration(heads: Sequence[GradedHead]) -> list[tuple[str, int, float, float]]:
    """(bin, heads, mean stated confidence, share with a right label), described heads only; empty bins left out."""
    described = [h for h in heads if h.status == "described" and not np.isnan(h.confidence)]
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = [h for h in described if low <= h.confidence < high or h.confidence == high == 1.0]
        if inside:
            means = mean([h.confidence for h in inside]), mean([float(h.right) for h in inside])
            rows.append((f"{low:.1f} to {high:.1f}", len(inside), *means))
    return rows


def calibration_error(heads: Sequence[GradedHead]) -> float:
    """Mean distance of confidence and share right over the bins, weighted by heads."""
    rows = calibration(heads)
    total = sum(n for _, n, _, _ in rows)
    return sum(n * abs(stated - share) for _, n, stated, share in rows) / total if total else float("nan")


def mean(values: Sequence[float]) -> float:
    """Mean of the numbers that there are; NaN without one."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
