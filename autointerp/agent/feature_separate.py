"""Does a unit's strength tell two kinds of composed texts apart? The area under the curve, against shuffled labels.

Which label has the higher strengths is not asked for beforehand, so that areas are counted from .5 up, those of the
shuffled labels too. Nothing is fitted: a unit is one number.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32

from autointerp.agent.feature_arguments import Separate
from autointerp.agent.feature_reading import read_texts, strength
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.plain import Plain, number
from autointerp.agent.reading import feed
from autointerp.probing.controls import permutation_p

SHUFFLES = 199
PURPOSE = 3


def separate(subject: FeatureSubject, asked: Separate) -> Plain:
    """The area of the better direction, beside that of shuffled labels, and the mean strength of each label."""
    rows = read_texts(subject, [feed(subject.model, item) for item in asked.items])
    shares = np.array([max(row.share, 0.0) for row in rows], np.float32)
    one = asked.items[0].label
    other = next(item.label for item in asked.items if item.label != one)
    first = np.array([item.label == one for item in asked.items])
    rng = subject.rng(PURPOSE)
    own, draws = _area(shares, first), [_area(shares, rng.permutation(first)) for _ in range(SHUFFLES)]
    means = {one: strength(float(shares[first].mean())), other: strength(float(shares[~first].mean()))}
    return {
        "items": len(rows), "auc": number(own), "p": number(permutation_p(own, draws)),
        "shuffled_highest": number(max(draws)), "mean_strength": means,
    }  # fmt: skip


def _area(shares: Float32[np.ndarray, " item"], first: Bool[np.ndarray, " item"]) -> float:
    """Chance that an item of one label is stronger than one of the other, ties by halves; of the two, the higher."""
    above = np.sign(shares[first][:, None] - shares[~first][None])
    return float(0.5 + abs(above.mean()) / 2)
