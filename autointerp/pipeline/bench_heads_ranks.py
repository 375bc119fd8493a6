"""Where published heads stand among all heads of the model, by the detectors of their labels.

1. For each published label and each detector of it: the ranks of its heads, and average precision over all heads of the
   run. Heads with `not:X_on_random_tokens` are negatives of the detector on random tokens, though they have the label.
2. Other heads are unlabelled, not negative: average precision is a lower bound.
3. Chance: positives / heads, which a constant value gets. A random order of N heads with R positives gets more in the
   mean: (H_N + (R - 1) (N - H_N) / (N - 1)) / N, with H_N = 1 + 1/2 + ... + 1/N.
4. Interval: a bootstrap over positives and over the other heads apart.
No threshold on attention is used: calibration does not carry over between distributions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from autointerp.pipeline.bench_heads_labels import DENIED_ON_RANDOM, MEANINGS, Detector
from autointerp.pipeline.bench_heads_scores import Statement
from autointerp.pipeline.bench_heads_table import PublishedRow
from autointerp.records import Head, Reading, Unscored
from autointerp.stats.bootstrap import clopper_pearson, interval
from autointerp.stats.metrics import auprc

Readings = Mapping[Head, Mapping[Detector, Reading]]
DRAWS = 1000


@dataclass(frozen=True)
class Place:
    """A head under one detector: 1 is the highest, ties averaged; `n` heads have a value."""

    head: Head
    value: float
    rank: float
    n: int
    percentile: float
    above_null: bool
    fires: bool


@dataclass(frozen=True)
class Ranked:
    """A label under one of its detectors. `order`: the mean average precision of a random order."""

    label: str
    detector: Detector
    average_precision: float
    low: float
    high: float
    chance: float
    order: float
    n_heads: int
    places: tuple[Place, ...]


def place_of(head: Head, detector: Detector, readings: Readings) -> Place | None:
    """Where a head stands; None where it has no value."""
    reading = readings.get(head, {}).get(detector)
    if reading is None or math.isnan(reading.value):
        return None
    values = [r[detector].value for r in readings.values() if detector in r and not math.isnan(r[detector].value)]
    above, same = sum(v > reading.value for v in values), sum(v == reading.value for v in values)
    null = reading.null_max
    return Place(head, reading.value, above + (same + 1) / 2, len(values), reading.percentile,
                 not math.isnan(null) and reading.value > null, reading.fires)  # fmt: skip


def confirmation(row: PublishedRow, readings: Readings) -> str:
    """What our own detectors say for a row of grade B; empty where they do not confirm it.

    A positive row is confirmed by a detector of its label that fires at the head; a negative one by none that does.
    """
    random_only = DENIED_ON_RANDOM.get(row.label)
    detectors: Sequence[Detector] = (
        ((random_only, "repeats"),) if random_only is not None else MEANINGS[row.label].detectors
    )
    places = [(d, place) for d in detectors if (place := place_of(row.head, d, readings)) is not None]
    if row.negative:
        quiet = bool(places) and not any(place.fires for _, place in places)
        return "; ".join(f"{_named(d)} does not fire, {_standing(p)}" for d, p in places) if quiet else ""
    return next((f"{_named(d)} fires, {_standing(p)}" for d, p in places if p.fires), "")


def _named(detector: Detector) -> str:
    return f"{detector[0]} on {detector[1]}"


def _standing(place: Place) -> str:
    return f"rank {place.rank:g} of {place.n}"


def ranked(found: Sequence[Statement], readings: Readings, n_heads: int, seed: int = 0) -> list[Ranked | Unscored]:
    """Each counted label under each of its detectors, or why there is no number."""
    labels = dict.fromkeys(one.row.label for one in found if one.state == "counted")
    out: list[Ranked | Unscored] = []
    for label in labels:
        detectors = MEANINGS[label].detectors
        if not detectors:
            out.append(Unscored(scorer=f"rank of {label}", reason="there is no detector of it"))
        out += [_ranked(label, detector, found, (readings, n_heads), seed) for detector in detectors]
    return out


def _ranked(
    label: str, detector: Detector, found: Sequence[Statement], taken: tuple[Readings, int], seed: int
) -> Ranked | Unscored:
    readings, n_heads = taken
    name = f"rank of {label} by {_named(detector)}"
    if len(readings) < n_heads:
        return Unscored(scorer=name, reason=f"the run holds {len(readings)} of the model's {n_heads} heads")
    hidden = {one.row.head for one in found if one.state == "decoy on random tokens" and detector[0] in one.accepts}
    wanted = {one.row.head for one in found if one.state == "counted" and one.row.label == label}
    wanted -= hidden if detector[1] == "repeats" else set()
    made = [h for h in sorted(readings) if detector in readings[h] and not math.isnan(readings[h][detector].value)]
    truth = np.array([head in wanted for head in made], dtype=bool)
    if not truth.any():
        return Unscored(scorer=name, reason="no published head has a value there")
    values = np.array([readings[head][detector].value for head in made])
    low, high = _ends(values, truth, seed)
    places = [place for head in sorted(wanted) if (place := place_of(head, detector, readings)) is not None]
    return Ranked(
        label, detector, auprc(values, truth.astype(np.float64)), low, high, float(truth.mean()),
        random_order(int(truth.sum()), len(truth)), len(truth), tuple(sorted(places, key=lambda p: p.rank)),
    )  # fmt: skip


def random_order(positives: int, n: int) -> float:
    """Mean average precision of a random order of n heads, of which `positives` count."""
    harmonic = sum(1 / k for k in range(1, n + 1))
    return (harmonic + (positives - 1) * (n - harmonic) / max(n - 1, 1)) / n


@dataclass(frozen=True)
class Retrieved:
    """Heads whose description was scored on every head: the share in first place, and the mean of 1 / rank."""

    n: int
    first: float
    low: float
    high: float
    chance: float
    reciprocal: float
    reciprocal_chance: float


def retrieved(ranks: Sequence[tuple[float, int]]) -> Retrieved:
    """From (rank, number of heads), a pair a head. Chance: 1 / n, and H_n / n for the reciprocal."""
    first, n = sum(rank <= 1 for rank, _ in ranks), len(ranks)
    low, high = clopper_pearson(first, n)
    return Retrieved(
        n, first / n, low, high, sum(1 / of for _, of in ranks) / n, sum(1 / rank for rank, _ in ranks) / n,
        sum(random_order(1, of) for _, of in ranks) / n,
    )  # fmt: skip


def _ends(values: Float[np.ndarray, " head"], truth: Bool[np.ndarray, " head"], seed: int) -> tuple[float, float]:
    generator = np.random.default_rng([seed, 2])
    groups = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    drawn = []
    for _ in range(DRAWS):
        chosen = np.concatenate([generator.choice(g, len(g)) for g in groups if len(g)])
        drawn.append(auprc(values[chosen], truth[chosen].astype(np.float64)))
    return interval(np.array(drawn))
