"""Neurons and latents of a model with random weights: the same places, with a sign and a reference of their own.

An autoencoder stays what it is and reads the other model's stream. Sign and reference follow from the highest window
maxima of explain windows, as for the described model: the mean of the 16 highest; a neuron is turned round where its
strongest activations are negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from autointerp.model import LanguageModel
from autointerp.records import Feature
from autointerp.scoring.feature_rows import Reading, UnitFacts, ordinary
from autointerp.scoring.random_weights import Twin
from autointerp.scoring.token_identity import ExplainRows

WINDOWS, HIGHEST = 256, 16


def twin_facts(
    reading: Reading, twin: Twin | None, explain: ExplainRows, features: Sequence[Feature]
) -> Mapping[Feature, UnitFacts]:
    """Facts of `features` on the twin; none without a twin."""
    if not isinstance(twin, LanguageModel):
        return {}
    rows = ExplainRows(explain.ids[:WINDOWS], explain.lengths[:WINDOWS])
    plain = replace(reading, model=twin, facts=dict.fromkeys(features, UnitFacts(0.0, 1.0)))
    usable = ordinary(rows, twin.special_ids)
    extremes = _Extremes.empty(len(features))
    for part, values in plain.parts(features, rows):
        extremes = extremes.joined(values, usable[part])
    return {feature: extremes.facts(number, feature) for number, feature in enumerate(features)}


@dataclass(frozen=True, eq=False)
class _Extremes:
    """Highest value and highest negated value of each window."""

    up: Float[np.ndarray, "feature window"]
    down: Float[np.ndarray, "feature window"]

    @classmethod
    def empty(cls, n: int) -> _Extremes:
        return cls(np.zeros((n, 0), np.float32), np.zeros((n, 0), np.float32))

    def joined(self, values: np.ndarray, usable: np.ndarray) -> _Extremes:
        up, down = (np.where(usable, side, -np.inf).max(-1) for side in (values, -values))
        return _Extremes(np.concatenate([self.up, up], 1), np.concatenate([self.down, down], 1))

    def facts(self, number: int, feature: Feature) -> UnitFacts:
        up, down = (float(np.sort(np.maximum(side[number], 0))[-HIGHEST:].mean()) for side in (self.up, self.down))
        if feature.kind == "neuron" and down > up:
            return UnitFacts(0.0, down, -1)
        return UnitFacts(0.0, up)
