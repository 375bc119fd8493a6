"""Descriptions of published heads beside what was published of them. Numbers only: no model, no file.

1. A statement counts where its text is asked for, where it names something that the product has a label for, and, of
   grade B, where a measurement of the run confirms it. What a `not:` row denies is taken out of what its head accepts.
2. A head's answer is the set of its labels; `first_token` counts only where it comes first. Right means: any of the
   head's statements. Pattern class, effect class and label are three measures, and never one.
3. Chance: the mean over all heads of the run, each lending its answer to each published head, so that naming everything
   gains nothing. `percentile`: where the value stands among 1 000 shuffles of the answers over the heads, ties halved.
4. A decoy is wrong where the answer claims what is denied. Heads without a statement are no negatives.
5. Intervals: Clopper-Pearson for shares of heads, else a bootstrap over heads (all or none: Clopper-Pearson of heads).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from autointerp.pipeline.bench_heads_labels import (
    DENIED_ON_RANDOM,
    EFFECTS,
    MEANINGS,
    NO_ANSWER,
    PATTERNS,
    effects_of,
)
from autointerp.pipeline.bench_heads_table import PublishedRow
from autointerp.records import Head
from autointerp.stats.bootstrap import Resamples, clopper_pearson, ratio_interval

SHUFFLES = 1000
State = Literal["counted", "retrieval only", "other text", "unconfirmed", "denied", "decoy", "decoy on random tokens"]
Answers = Mapping[Head, tuple[str, ...]]
Confirm = Callable[[PublishedRow], str]  # what a measurement says for a row of grade B; empty: nothing


@dataclass(frozen=True)
class Statement:
    """A row as it is used. `accepts`: the product's labels that say it (of a decoy: that are wrong)."""

    row: PublishedRow
    state: State
    accepts: frozenset[str] = frozenset()
    confirmed_by: str = ""


@dataclass(frozen=True)
class Known:
    """What is known of a head: its counted statements by published label, and its decoys."""

    head: Head
    labels: Mapping[str, frozenset[str]]
    decoys: tuple[Statement, ...] = ()

    @property
    def patterns(self) -> frozenset[str]:
        return frozenset().union(*self.labels.values()) & PATTERNS

    @property
    def effects(self) -> frozenset[str]:
        return effects_of(frozenset().union(*self.labels.values()))


@dataclass(frozen=True)
class Measured:
    """A measure: its value with interval, n (heads, labels or decoys), chance, and percentile among shuffles."""

    name: str
    value: float
    low: float
    high: float
    n: int
    n_heads: int
    chance: float
    percentile: float


def counted_labels(labels: Sequence[str], *, abstained: bool) -> tuple[str, ...]:
    """The labels of a description that are its answer, the first one first."""
    distinct = list(dict.fromkeys(labels))
    kept = [label for n, label in enumerate(distinct) if label != "first_token" or n == 0]
    return () if abstained else tuple(label for label in kept if label not in NO_ANSWER)


def statements(rows: Sequence[PublishedRow], texts: Sequence[str], confirm: Confirm) -> tuple[Statement, ...]:
    """Every row with its state, in order."""
    denied: dict[Head, frozenset[str]] = {}
    for row in rows:
        if row.negative and row.label in MEANINGS:
            denied[row.head] = denied.get(row.head, frozenset()) | frozenset(MEANINGS[row.label].accepts)
    return tuple(_statement(row, texts, confirm, denied.get(row.head, frozenset())) for row in rows)


def _statement(row: PublishedRow, texts: Sequence[str], confirm: Confirm, denied: frozenset[str]) -> Statement:
    confirmed = confirm(row) if row.grade == "B" else ""
    if row.grade == "B" and not confirmed:
        return Statement(row, "unconfirmed")
    if row.negative and row.label in DENIED_ON_RANDOM:
        return Statement(row, "decoy on random tokens", frozenset({DENIED_ON_RANDOM[row.label]}), confirmed)
    meaning = MEANINGS[row.label]
    accepts = frozenset(meaning.accepts)
    if not accepts:
        return Statement(row, "retrieval only")
    if row.negative:
        return Statement(row, "decoy", accepts, confirmed)
    if meaning.text not in texts:
        return Statement(row, "other text")
    left = accepts - denied
    return Statement(row, "counted" if left else "denied", left, confirmed if left else "")


def known_heads(found: Sequence[Statement]) -> tuple[Known, ...]:
    """What is known of each head that has a counted statement or a decoy, ascending."""
    labels: dict[Head, dict[str, frozenset[str]]] = {}
    decoys: dict[Head, list[Statement]] = {}
    for one in found:
        if one.state == "counted":
            labels.setdefault(one.row.head, {})[one.row.label] = one.accepts
        elif one.state == "decoy":
            decoys.setdefault(one.row.head, []).append(one)
    return tuple(Known(head, labels.get(head, {}), tuple(decoys.get(head, ()))) for head in sorted({*labels, *decoys}))


# -- credit: what an answer earns at a head, of how much -----------------------------------------------------

Credit = Callable[[Known, tuple[str, ...]], float]
Weight = Callable[[Known], float]


def pattern_right(known: Known, answer: tuple[str, ...]) -> float:
    return float(bool(known.patterns.intersection(answer)))


def effect_right(known: Known, answer: tuple[str, ...]) -> float:
    return float(bool(known.effects & effects_of(answer)))


def label_right(known: Known, answer: tuple[str, ...]) -> float:
    return float(labels_found(known, answer) > 0)


def labels_found(known: Known, answer: tuple[str, ...]) -> float:
    """How many of the head's published labels the answer names."""
    return float(sum(bool(accepts.intersection(answer)) for accepts in known.labels.values()))


def _of_effect(known: Known) -> list[frozenset[str]]:
    return [one.accepts for one in known.decoys if not one.accepts & PATTERNS]


def _of_pattern(known: Known) -> list[frozenset[str]]:
    return [one.accepts for one in known.decoys if one.accepts & PATTERNS]


def false_effects(known: Known, answer: tuple[str, ...]) -> float:
    """How many denied effects the answer claims."""
    return float(sum(claims(denied, answer) for denied in _of_effect(known)))


def false_patterns(known: Known, answer: tuple[str, ...]) -> float:
    """How many denied patterns the answer claims."""
    return float(sum(claims(denied, answer) for denied in _of_pattern(known)))


def claims(denied: frozenset[str], answer: Sequence[str]) -> bool:
    """Whether an answer says what is denied: the same pattern label, or of an output label the same effect class."""
    if denied & PATTERNS:
        return bool(denied.intersection(answer))
    return bool({EFFECTS[label] for label in denied} & effects_of(answer))


MEASURES: dict[str, tuple[Credit, Weight]] = {
    "pattern class": (pattern_right, lambda known: float(bool(known.patterns))),
    "effect class": (effect_right, lambda known: float(bool(known.effects))),
    "label": (label_right, lambda known: float(bool(known.labels))),
    "labels found": (labels_found, lambda known: float(len(known.labels))),
    "false effects": (false_effects, lambda known: float(len(_of_effect(known)))),
    "false patterns": (false_patterns, lambda known: float(len(_of_pattern(known)))),
}


def measured(name: str, known: Sequence[Known], answers: Answers, seed: int = 0) -> Measured:
    """A measure over the published heads that the run has; NaN without one."""
    credit, weight = MEASURES[name]
    there = [one for one in known if one.head in answers and weight(one) > 0]
    if not there:
        nan = float("nan")
        return Measured(name, nan, nan, nan, 0, 0, nan, nan)
    heads = sorted(answers)
    table = np.array([[credit(one, answers[head]) for head in heads] for one in there])
    weights = np.array([weight(one) for one in there])
    own = np.array([heads.index(one.head) for one in there])
    earned, n = table[np.arange(len(there)), own], int(weights.sum())
    low, high = _ends(earned, weights, seed)
    value = float(earned.sum() / n)
    drawn = _shuffled(table, own, seed) / n
    below = (drawn < value - 1e-12).mean() + (np.abs(drawn - value) <= 1e-12).mean() / 2
    chance = float(table.mean(1).sum() / n)
    return Measured(name, value, low, high, n, len(there), chance, float(100 * below))


def _ends(earned: Float[np.ndarray, " head"], weights: Float[np.ndarray, " head"], seed: int) -> tuple[float, float]:
    if (weights == 1).all():
        return clopper_pearson(int(earned.sum()), len(earned))
    if earned.sum() in (0, weights.sum()):  # resamples of equal heads are all the same
        return clopper_pearson(len(earned) if earned.any() else 0, len(earned))
    found = ratio_interval(earned, weights, Resamples.of(len(earned), seed))
    return found.low, found.high


def _shuffled(table: Float[np.ndarray, "published head"], own: np.ndarray, seed: int) -> Float[np.ndarray, " shuffle"]:
    """The credit of all published heads with the answers shuffled over the heads."""
    generator = np.random.default_rng([seed, 1])
    places = np.arange(len(table))
    orders = (generator.permutation(table.shape[1]) for _ in range(SHUFFLES))
    return np.array([table[places, order[own]].sum() for order in orders])


@dataclass(frozen=True)
class Difference:
    """One answerer minus another on the same heads, with its paired interval."""

    name: str
    value: float
    low: float
    high: float
    n_heads: int


def difference(name: str, known: Sequence[Known], first: Answers, second: Answers, seed: int = 0) -> Difference:
    """A measure of `first` minus that of `second`, over heads that both have; NaN without one."""
    credit, weight = MEASURES[name]
    there = [one for one in known if one.head in first and one.head in second and weight(one) > 0]
    if not there:
        return Difference(name, float("nan"), float("nan"), float("nan"), 0)
    more = np.array([credit(one, first[one.head]) - credit(one, second[one.head]) for one in there])
    found = ratio_interval(more, np.array([weight(one) for one in there]), Resamples.of(len(there), seed))
    return Difference(name, found.value, found.low, found.high, len(there))
