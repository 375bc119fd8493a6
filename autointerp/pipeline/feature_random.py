"""The whole pipeline over neurons or latents of a model that learned nothing (scoring_validity rule 10).

As `random_control` does for heads: 20 units that are alive on the twin are drawn, the detectors describe them from the
first windows of the explain split, and their descriptions are scored on the run's held-out rows. An autoencoder is the
run's own, reading the twin: what it then finds was not learned by the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from autointerp.config import RunConfig
from autointerp.evidence.collect import Progress
from autointerp.explain.feature_detectors import describe_feature
from autointerp.features.collect import CollectedFeatures, FeatureCollectSpec, collect_features
from autointerp.features.sample import Sample
from autointerp.features.units import UnitSet, load_units
from autointerp.model import LanguageModel
from autointerp.pipeline.feature_inputs import FeatureRows
from autointerp.pipeline.feature_scoring import suite_of
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.random_control import (
    HEADS,
    OTHER_DRAW,
    WINDOWS,
    RandomWeights,
    counted,
    facts_of,
    few_windows,
    silent,
)
from autointerp.records import Description, Feature, Judgement
from autointerp.scoring.feature_suite import FeatureScores
from autointerp.scoring.random_weights import Twin, twin_of
from autointerp.scoring.verdict import judge
from autointerp.store import RunFolder


class FeatureRandomControl:
    """The control of one run."""

    def __init__(
        self, inputs: Inputs, rows: FeatureRows, config: RunConfig, batch_size: int, progress: Progress
    ) -> None:
        self._inputs, self._rows, self._config = inputs, rows, config
        self._batch_size, self._progress = batch_size, progress

    def facts(self, run: RunFolder, twin: Twin) -> Mapping[str, object]:
        """What `run.json` says of it: the fields of `RandomWeights`, or the reason why there are none."""
        return facts_of(run, twin, self.measured)

    def measured(self, twin: LanguageModel) -> RandomWeights:
        """Collect, describe and score units of `twin`."""
        started = time.monotonic()
        self._progress("the same on a model with random weights", 0, 0)
        units = load_units(self._config.units, twin)
        spec = FeatureCollectSpec(self._config.seed + OTHER_DRAW, self._batch_size, None)
        explain = few_windows(self._inputs.explain_windows(), WINDOWS)
        collected = collect_features(twin, explain, units, Sample(HEADS), spec, silent)
        said = {unit: describe_feature(evidence) for unit, evidence in sorted(collected.evidence.items())}
        described = {unit: d for unit, d in said.items() if not d.abstained}
        judged = self._judged(twin, units, collected, described) if described else {}
        return counted([judged.get(unit) for unit in said], len(described), started)

    def _judged(
        self, twin: LanguageModel, units: UnitSet, collected: CollectedFeatures, described: dict[Feature, Description]
    ) -> dict[Feature, Judgement]:
        scores = self._score(twin, units, collected, described, ("predicate",))
        judged = {unit: _judge(described[unit], scores[unit]) for unit in described}
        above = {u: described[u] for u, j in judged.items() if j.margin_low is not None and j.margin_low > 0}
        ablated = self._score(twin, units, collected, above, ("conditional_ablation",)) if above else {}
        for unit, found in ablated.items():
            scores[unit].scores += found.scores
            scores[unit].unscored += found.unscored
            judged[unit] = _judge(described[unit], scores[unit])
        return judged

    def _score(
        self, twin: LanguageModel, units: UnitSet, collected: CollectedFeatures,
        described: dict[Feature, Description], scorers: tuple[str, ...],
    ) -> dict[Feature, FeatureScores]:  # fmt: skip
        config = self._config.model_copy(update={"scorers": scorers})
        other = twin_of(twin, self._config.seed + OTHER_DRAW)
        suite = suite_of(twin, units, collected, self._rows, config, self._batch_size, other, silent)
        return suite.score(described, {})


def _judge(said: Description, scores: FeatureScores) -> Judgement:
    return judge(said, tuple(scores.scores), tuple(scores.unscored), scores.effect)
