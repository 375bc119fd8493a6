"""Evidence for neurons and latents.

1. First pass: every unit of every site in one stream (`first_pass`), then a table of all (`unit_table`); units of which
   its sample of rows cannot say whether they are dense are counted (`settle`).
2. The wanted units are named, or drawn by `sample`. Dead and dense ones have statistics and nothing more.
3. Second pass over the split: the rows on which each living unit is above rest (`active_rows`), from which its
   statistics are made exact and its rules learned (`rules`). One that still proves dense has no more.
4. The windows of the chosen rows run once more (`chosen_rows`, `example_reader`), with the unit replaced by its mean
   at top and quantile rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autointerp.evidence.collect import ExplainWindows
from autointerp.feature_records import RESTING, FeatureEvidence, FeatureExample, FeatureStats, RuleReading
from autointerp.features.active_rows import Scale, UnitRows, read_active_rows
from autointerp.features.active_share import ShareCounter
from autointerp.features.chosen_rows import ChosenRow, Pool, choose_rows
from autointerp.features.example_reader import Chosen, ExampleReader
from autointerp.features.first_pass import PassPlan, run_unit_pass
from autointerp.features.learning_rows import learning_rows
from autointerp.features.readout import DirectionReader, neighbours, readouts
from autointerp.features.rules import RuleLearner
from autointerp.features.sample import Sample, sample_units
from autointerp.features.settle import settle
from autointerp.features.unit_stats import StatsReader
from autointerp.features.unit_table import UnitTable, unit_table
from autointerp.features.units import UnitSet
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Feature

Progress = Callable[[str, int, int], None]  # stage, done, of
NEAR_FOR_CONTRAST = 3
_UNITS_AT_ONCE = 64


@dataclass(frozen=True)
class FeatureCollectSpec:
    """Settings of a collection that change its result, and how to run it."""

    seed: int
    batch_size: int = 8
    checkpoint: Path | None = None


@dataclass(frozen=True, eq=False)
class CollectedFeatures:
    """Evidence of the wanted units, and what scoring needs from the explain split.

    `mean`: raw activation over all rows, what replaces it where it is ablated. `sign` and `reference` make shares:
    `sign * activation / reference`.
    """

    evidence: dict[Feature, FeatureEvidence]
    table: UnitTable
    mean: dict[Feature, float]
    reference: dict[Feature, float]
    sign: dict[Feature, int]

    @classmethod
    def of(cls, evidence: dict[Feature, FeatureEvidence], table: UnitTable) -> CollectedFeatures:
        """The three numbers of each unit are the table's."""
        rows = {feature: table.row(feature) for feature in evidence}
        return cls(
            evidence,
            table,
            {feature: float(table.mean[row]) for feature, row in rows.items()},
            {feature: float(table.reference[row]) for feature, row in rows.items()},
            {feature: int(table.sign[row]) for feature, row in rows.items()},
        )


def collect_features(
    model: LanguageModel,
    explain: ExplainWindows,
    units: UnitSet,
    wanted: Sequence[Feature] | Sample,
    spec: FeatureCollectSpec,
    progress: Progress,
) -> CollectedFeatures:
    """Evidence on the explain split for `wanted`, or for a sample of the units that `units` selects."""
    plan = PassPlan(spec.seed, spec.batch_size, spec.checkpoint)
    n_windows = len(explain.numbers)
    state = run_unit_pass(model, explain, units.sites, plan, lambda done: progress("reading units", done, n_windows))
    tokens = TokenTable.from_strings(model.strings, model.special_ids)
    learning = learning_rows(explain, tokens, model.strings, model.special_ids, spec.seed)
    found = state, unit_table(state, units.sites)
    table, counted = settle(model, units, found, learning, spec.seed, spec.batch_size)
    if isinstance(wanted, Sample):
        wanted = sample_units(table, units.features, wanted.n, spec.seed)
    pool = Pool(state, table, explain.numbers, explain.cluster, learning, spec.seed)
    stats = StatsReader(state, table, learning, ShareCounter.of(learning, spec.seed), counted)
    collector = _Collector(model, explain, units, spec, pool, stats, RuleLearner(learning, spec.seed))
    evidence = collector.evidence(wanted, progress)
    read = {f: e.stats.active_share.value for f, e in evidence.items() if table.state[table.row(f)] == "ok"}
    return CollectedFeatures.of(evidence, table.counted(read))


@dataclass(frozen=True, eq=False)
class _Read:
    """What the second pass leaves of a unit."""

    rules: tuple[RuleReading, ...]
    rows: list[ChosenRow]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Collector:
    """The second and third pass for wanted units."""

    model: LanguageModel
    explain: ExplainWindows
    units: UnitSet
    spec: FeatureCollectSpec
    pool: Pool
    stats: StatsReader
    learner: RuleLearner

    def evidence(self, wanted: Sequence[Feature], progress: Progress) -> dict[Feature, FeatureEvidence]:
        table = self.pool.table
        found = {feature: _idle(feature, self.stats.read(table.row(feature), None)) for feature in wanted}
        alive = sorted(f for f in wanted if table.state[table.row(f)] == "ok")
        reader = DirectionReader.of(self.model, self.explain, self.spec.seed)
        outputs, why = readouts(reader, self.units, table, alive)
        near = neighbours(self.model, self.units, table, alive)
        pending: list[tuple[FeatureEvidence, _Read]] = []
        scales = {feature: self._scale(feature) for feature in alive}
        done = 0
        for feature, rows in read_active_rows(self.model, self.units, scales, self.pool.learning, self.spec.batch_size):
            done += 1
            stats = self.stats.read(table.row(feature), rows)
            if stats.state != "ok":  # the estimate had been sure of the contrary, which is rare
                found[feature] = _idle(feature, stats)
            else:
                read = self._read(feature, rows, near[feature])
                notes = (*read.notes, *((why[feature],) if feature in why else ()))
                pending.append((FeatureEvidence(
                    unit=feature, stats=stats, rules=read.rules, readout=outputs.get(feature), examples=(),
                    neighbours=near[feature], notes=notes,
                ), read))  # fmt: skip
            if len(pending) == _UNITS_AT_ONCE or done == len(alive):
                found |= self._with_examples(pending)
                pending = []
                progress("reading examples", done, len(alive))
        return found

    def _scale(self, feature: Feature) -> Scale:
        table, row = self.pool.table, self.pool.table.row(feature)
        sign, reference = int(table.sign[row]), float(table.reference[row])
        shared = self.pool.state.shared[:, row].astype(np.float32) * sign
        busy = float((shared > RESTING * reference).mean()) if len(shared) else 1.0
        return Scale(sign, reference, max(busy, float(table.active_share[row])))

    def _read(self, feature: Feature, rows: UnitRows, near: tuple[Feature, ...]) -> _Read:
        table = self.pool.table
        unit = table.row(feature)
        others = [table.row(f) for f in near[:NEAR_FOR_CONTRAST]]
        chosen, notes = choose_rows(self.pool, unit, rows.rows, others)
        return _Read(self.learner.learn(rows), chosen, notes)

    def _with_examples(self, pending: list[tuple[FeatureEvidence, _Read]]) -> dict[Feature, FeatureEvidence]:
        chosen: list[Chosen] = [(evidence.unit, row) for evidence, read in pending for row in read.rows]
        reader = ExampleReader(self.model, self.units, self.pool, self.explain.windows, self.spec.batch_size)
        of_unit: dict[Feature, list[FeatureExample]] = {evidence.unit: [] for evidence, _ in pending}
        for (feature, _), example in zip(chosen, reader.read(chosen), strict=True):
            of_unit[feature].append(example)
        return {
            evidence.unit: evidence.model_copy(update={"examples": tuple(of_unit[evidence.unit])})
            for evidence, _ in pending
        }


def _idle(feature: Feature, stats: FeatureStats) -> FeatureEvidence:
    """What is said of a unit that is dead or dense (and of the others, until they are read)."""
    note = {
        "dead": "never active on the explain split",
        "dense": "active on more than half of the explain rows: no rule or example would tell it from the rest",
    }.get(stats.state)
    return FeatureEvidence(
        unit=feature, stats=stats, rules=(), readout=None, examples=(), notes=(note,) if note else ()
    )
