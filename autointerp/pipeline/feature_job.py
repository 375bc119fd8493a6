"""describe-all-features: neurons or latents collected, described, scored and reported; resumable at every step.

1. Load and prove the model; cut and split the corpus; write or compare the run's config.
2. Find the units; an autoencoder must reconstruct what it reads before anything is described.
3. Collect evidence on the explain split (kept in the run folder); draw a sample where one is asked for.
4. Describe every unit that is neither dead nor dense; let an LLM judge, in the one event loop of the run.
5. Score on select and test; judge; do the same on random weights; write `features.jsonl` whole, then the pages.

A stop by budget, failures or interruption keeps what was done; the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autointerp.config import RunConfig
from autointerp.errors import BadInput, BudgetExceeded, TooManyFailures
from autointerp.explain import Explanation
from autointerp.explain.feature_detectors import describe_feature
from autointerp.feature_records import FeatureReport
from autointerp.features.collect import CollectedFeatures, FeatureCollectSpec
from autointerp.features.reconstruction import Reconstruction, reconstruction
from autointerp.features.unit_names import check_names
from autointerp.features.units import UnitSet, load_units, select
from autointerp.pipeline.agents import check_donors
from autointerp.pipeline.describing import stored_descriptions
from autointerp.pipeline.feature_collecting import CHECKPOINT, TABLE, collected_features
from autointerp.pipeline.feature_inputs import FeatureRows, feature_rows
from autointerp.pipeline.feature_lenses import plan_words, with_words
from autointerp.pipeline.feature_random import FeatureRandomControl
from autointerp.pipeline.feature_scoring import lab_of, suite_of
from autointerp.pipeline.feature_talk import FeatureTalk, FeatureTalkPlan, estimate_features, feature_talk
from autointerp.pipeline.inputs import Inputs, Sources, load_inputs
from autointerp.pipeline.plan import Estimate
from autointerp.pipeline.run_state import FOUND_LATER, RUN, Console, RunState
from autointerp.pipeline.talking import template_names, templates
from autointerp.pipeline.unit_job import JobOptions, Told, UnitJobResult, finished_reports, run_facts
from autointerp.records import Feature
from autointerp.report.feature_write import write_feature_reports
from autointerp.scoring.feature_suite import FeatureScores
from autointerp.scoring.random_weights import Twin, twin_of
from autointerp.scoring.verdict import judge
from autointerp.store import RunFolder

FEATURES = "features.jsonl"


@dataclass
class FeatureJobResult(UnitJobResult[FeatureReport]):
    """What the command line says at the end. `states`: how many of all units are ok, dead and dense."""

    states: Mapping[str, int] = field(default_factory=dict)


def run_feature_job(
    config: RunConfig, sources: Sources, folder: Path, options: JobOptions, console: Console
) -> FeatureJobResult:
    """Run or resume a job in `folder`. Raises AutointerpError; a stop that keeps results is `stopped` in the result."""
    if not config.units:
        raise BadInput("no --units are given. Write neurons, neurons:L3 or sae:FOLDER.")
    check_names(config.units, config.select)
    with RunFolder(folder) as run:
        return _FeatureJob(run, config, options, console).run(sources)


class _FeatureJob:
    def __init__(self, run: RunFolder, config: RunConfig, options: JobOptions, console: Console) -> None:
        self._run, self._config, self._options, self._console = run, config, options, console
        self._state = RunState(run, config, options.settings)

    def run(self, sources: Sources) -> FeatureJobResult:
        templates(self._config).check(template_names(self._config))
        self._state.compare_config((*FOUND_LATER, "units", "lenses"))
        if self._state.llm and not self._options.dry_run and not self._run.path(TABLE).exists():
            self._state.try_server()
        self._console("loading the model and the corpus", 0, 1)
        inputs = load_inputs(self._config, sources, self._run.path("cache/corpus"))
        units = load_units(self._config.units, inputs.model)
        units = select(units, self._config.select) if self._config.select else units
        lenses = plan_words(self._config, inputs.model)
        self._state.save_config(inputs, {"units": units.facts, "lenses": lenses.facts()})
        result = FeatureJobResult(self._run.root)
        report = inputs.corpus.report
        result.notes += [report.underpowered] if report.underpowered else []
        self._state.timed("load")
        fit = self._reconstructs(inputs, units, result)
        collected = self._collected(inputs, units)
        self._state.timed("collect")
        collected = with_words(self._run, inputs.model, units, collected, lenses, self._config.seed, self._console)
        self._state.timed("lenses")
        result.states = Counter(collected.table.state.tolist())
        if self._options.dry_run:
            result.estimate = self._estimate(inputs, units, collected)
            return result
        retry = self._options.retry_failed
        held = finished_reports(self._run, FEATURES, FeatureReport, collected.evidence, retry_failed=retry)
        if held is not None:
            result.reports = held
            self._console("everything is there; rebuilding the pages", 1, 1)
        else:
            self._describe_and_score(inputs, units, collected, result, fit)
        write_feature_reports(self._run.root)
        return result

    def _reconstructs(self, inputs: Inputs, units: UnitSet, result: FeatureJobResult) -> Reconstruction | None:
        """The check of an autoencoder on real text, said before anything is described."""
        explain = inputs.explain_windows()
        windows, numbers = explain.windows, explain.numbers
        fit = reconstruction(
            inputs.model, units, windows.ids[numbers], windows.lengths[numbers], explain.cluster[numbers]
        )
        if fit is not None:
            self._console(f"{units.spec}: {fit.line}", 0, 0)
            result.notes.append(f"reconstruction: {fit.line}")
        self._state.timed("reconstruction")
        return fit

    def _collected(self, inputs: Inputs, units: UnitSet) -> CollectedFeatures:
        spec = FeatureCollectSpec(self._config.seed, self._options.settings.batch_size, self._run.path(CHECKPOINT))
        return collected_features(self._run, inputs, units, self._config.sample, spec, self._console)

    def _estimate(self, inputs: Inputs, units: UnitSet, collected: CollectedFeatures) -> Estimate:
        rows = feature_rows(inputs)
        return estimate_features(self._run, self._plan(inputs, units, collected, rows))

    def _plan(self, inputs: Inputs, units: UnitSet, collected: CollectedFeatures, rows: FeatureRows) -> FeatureTalkPlan:
        config, settings = self._config, self._options.settings
        on = config.agent_plan.on
        lab = lab_of(inputs, units, collected, rows, config.seed, settings.batch_size) if on else None
        plan = FeatureTalkPlan(config, settings, inputs.model, units, collected, rows, lab)
        check_donors(config, plan.alive)
        return plan

    def _describe_and_score(
        self, inputs: Inputs, units: UnitSet, collected: CollectedFeatures, result: FeatureJobResult,
        fit: Reconstruction | None,
    ) -> None:  # fmt: skip
        rows = feature_rows(inputs)
        state = FeatureTalk(
            descriptions=stored_descriptions(self._run, Feature, retry_failed=self._options.retry_failed)
        )
        try:
            asyncio.run(feature_talk(self._run, self._plan(inputs, units, collected, rows), state, self._console))
        except (BudgetExceeded, TooManyFailures) as stop:
            result.stopped = stop
        self._state.timed("describe")
        twin = twin_of(inputs.model, self._config.seed + 1)
        done = [unit for unit in sorted(collected.evidence) if unit in state.descriptions]
        scores = self._score(inputs, units, collected, rows, {u: state.descriptions[u] for u in done}, twin)
        result.reports = [self._report(unit, collected, state, scores[unit]) for unit in done]
        self._state.timed("score")
        random = FeatureRandomControl(inputs, rows, self._config, self._options.settings.batch_size, self._console)
        learned_nothing = random.facts(self._run, twin)
        self._state.timed("random_weights")
        result.notes += state.notes
        facts = self._facts(inputs, units, state, result) | {"random_weights": learned_nothing}
        lines = [json.dumps(r.model_dump(mode="json")) + "\n" for r in result.reports]
        self._run.write_text(FEATURES, "".join(lines))
        self._run.write_json(RUN, facts | ({} if fit is None else {"reconstruction": fit.facts()}))

    def _score(
        self, inputs: Inputs, units: UnitSet, collected: CollectedFeatures, rows: FeatureRows,
        explanations: dict[Feature, Explanation], twin: Twin,
    ) -> dict[Feature, FeatureScores]:  # fmt: skip
        outcomes = {unit: e.outcome for unit, e in explanations.items()}
        rivals = {unit: describe_feature(collected.evidence[unit]) for unit in outcomes} if self._state.llm else {}
        suite = suite_of(
            inputs.model, units, collected, rows, self._config, self._options.settings.batch_size, twin, self._console
        )
        return suite.score(outcomes, rivals)

    def _report(
        self, unit: Feature, collected: CollectedFeatures, state: FeatureTalk, scores: FeatureScores
    ) -> FeatureReport:
        told = Told.of(self._config, state.descriptions[unit], state.scored.get(unit, {}), scores)
        return FeatureReport(
            unit=unit,
            status=told.status,
            evidence=collected.evidence[unit],
            description=told.description,
            failures=told.failures,
            provenance=told.provenance,
            scores=told.scores,
            unscored=told.unscored,
            judgement=judge(told.outcome, told.judged, told.unscored, scores.effect),
            ablation_loss=scores.loss,
            ablation_kl=scores.kl,
            transcript=state.transcripts.get(unit),
        )

    def _facts(self, inputs: Inputs, units: UnitSet, state: FeatureTalk, result: FeatureJobResult) -> dict[str, object]:
        found = {"spec": units.spec, "all": units.n_units, "states": dict(result.states), **units.facts}
        return run_facts(self._state, inputs, state, result, self._options.command) | {"units": found}
