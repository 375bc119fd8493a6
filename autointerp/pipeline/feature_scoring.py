"""The scorers and experiments of a run over neurons or latents: what they need of the evidence, put together."""

from __future__ import annotations

from autointerp.agent.feature_subject import FeatureLabData
from autointerp.config import RunConfig
from autointerp.evidence.collect import Progress
from autointerp.features.collect import CollectedFeatures
from autointerp.features.readout import DirectionReader
from autointerp.features.units import UnitSet
from autointerp.model import LanguageModel
from autointerp.pipeline.feature_inputs import FeatureRows
from autointerp.pipeline.inputs import Inputs
from autointerp.predicate import TokenTable
from autointerp.records import Feature
from autointerp.scoring.feature_rows import UnitFacts
from autointerp.scoring.feature_suite import FeatureSuite, FeatureSuiteSpec
from autointerp.scoring.random_weights import Twin


def suite_of(
    model: LanguageModel,
    units: UnitSet,
    collected: CollectedFeatures,
    rows: FeatureRows,
    config: RunConfig,
    batch_size: int,
    twin: Twin,
    progress: Progress,
) -> FeatureSuite:
    """The suite for `config.scorers` on one model."""
    spec = FeatureSuiteSpec(
        model, units, unit_facts(collected), rows.select, rows.test, rows.explain, config.seed, batch_size,
        config.scorers, twin, {unit: evidence.neighbours for unit, evidence in collected.evidence.items()},
    )  # fmt: skip
    return FeatureSuite(spec, progress)


def lab_of(
    inputs: Inputs, units: UnitSet, collected: CollectedFeatures, rows: FeatureRows, seed: int, batch_size: int
) -> FeatureLabData:
    """What experiments may read: explain and select rows."""
    model = inputs.model
    return FeatureLabData(
        rows.explain,
        rows.select,
        units,
        unit_facts(collected),
        TokenTable.from_strings(model.strings, model.special_ids),
        DirectionReader.of(model, inputs.explain_windows(), seed),
        seed,
        batch_size,
        wanted=[unit for unit, evidence in sorted(collected.evidence.items()) if evidence.stats.state == "ok"],
    )


def unit_facts(collected: CollectedFeatures) -> dict[Feature, UnitFacts]:
    """Mean, reference and sign of every unit that was collected, and of its neighbours."""
    table = collected.table
    named = {n for evidence in collected.evidence.values() for n in (evidence.unit, *evidence.neighbours)}
    rows = {unit: table.row(unit) for unit in named}
    return {
        unit: UnitFacts(float(table.mean[row]), float(table.reference[row]), int(table.sign[row]))
        for unit, row in rows.items()
    }
