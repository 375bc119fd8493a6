"""describe-all-heads: collect, describe, score, report; resumable at every step.

1. Load and prove the model; cut and split the corpus; write or compare the run's config.
2. Collect evidence on the explain split (kept in the run folder).
3. Describe every head and let an LLM point, in the one event loop of the run.
4. Score on select and test; judge; do the same on random weights; write `heads.jsonl` whole, then the pages.

A stop by budget, failures or interruption keeps what was done; the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autointerp.config import RunConfig, check_lenses
from autointerp.errors import BudgetExceeded, TooManyFailures
from autointerp.evidence.collect import Collected
from autointerp.explain import Explanation
from autointerp.explain.detectors import describe
from autointerp.pipeline.agents import check_donors, lab_data
from autointerp.pipeline.collecting import ARRAYS, collected_evidence
from autointerp.pipeline.describing import stored_descriptions
from autointerp.pipeline.given_circuit import given_circuit
from autointerp.pipeline.held_out import held_out_rows
from autointerp.pipeline.inputs import Inputs, Sources, load_inputs
from autointerp.pipeline.lens_readings import LensCost, plan_lenses, read_lenses
from autointerp.pipeline.llm_scores import score_signs, scorer_items
from autointerp.pipeline.plan import NOTHING_ASKED, Estimate, estimate_calls, head_asks, known_capabilities
from autointerp.pipeline.random_control import RandomControl
from autointerp.pipeline.run_state import FOUND_LATER, RUN, Console, RunState
from autointerp.pipeline.suite_inputs import suite_spec
from autointerp.pipeline.talking import Talk, TalkPlan, talk, template_names, templates
from autointerp.pipeline.unit_job import JobOptions, Told, UnitJobResult, finished_reports, run_facts
from autointerp.records import Head, HeadReport
from autointerp.report import write_reports
from autointerp.scoring.in_circuit import in_circuit
from autointerp.scoring.random_weights import Twin, twin_of
from autointerp.scoring.suite import HeadScores, HeldOut, Suite
from autointerp.scoring.verdict import judge
from autointerp.store import RunFolder

HEADS = "heads.jsonl"


@dataclass
class JobResult(UnitJobResult[HeadReport]):
    """What the command line says at the end."""

    lenses: LensCost | None = None


def run_job(config: RunConfig, sources: Sources, folder: Path, options: JobOptions, console: Console) -> JobResult:
    """Run or resume a job in `folder`. Raises AutointerpError; a stop that keeps results is `JobResult.stopped`."""
    with RunFolder(folder) as run:
        job = _Job(run, config, options, console)
        return job.run(sources)


class _Job:
    def __init__(self, run: RunFolder, config: RunConfig, options: JobOptions, console: Console) -> None:
        self._run, self._config, self._options, self._console = run, config, options, console
        self._state = RunState(run, config, options.settings)

    def run(self, sources: Sources) -> JobResult:
        templates(self._config).check(template_names(self._config))
        check_lenses(self._config)
        self._circuit = given_circuit(self._config)
        self._state.compare_config((*FOUND_LATER, "lenses", "circuit"))
        if self._state.llm and not self._options.dry_run and not self._run.path(ARRAYS).exists():
            self._state.try_server()
        self._console("loading the model and the corpus", 0, 1)
        inputs = load_inputs(self._config, sources, self._run.path("cache/corpus"))
        check_donors(self._config, inputs.heads)
        self._circuit.check(inputs.model)
        lenses = plan_lenses(self._config, inputs.model)
        self._state.save_config(inputs, {"lenses": lenses.facts(), **self._circuit.facts()})
        result = JobResult(self._run.root, notes=list(lenses.notes))
        report = inputs.corpus.report
        result.notes += [report.underpowered] if report.underpowered else []
        self._state.timed("load")
        collected = collected_evidence(
            self._run, inputs, inputs.heads, self._config.seed, self._options.settings.batch_size, self._console
        )
        self._state.timed("collect")
        held = None
        if not self._options.dry_run:
            retry = self._options.retry_failed
            held = finished_reports(self._run, HEADS, HeadReport, inputs.heads, retry_failed=retry)
        if held is None:
            collected, result.lenses = read_lenses(self._run, inputs, collected, lenses, self._console)
            self._state.timed("lenses")
        if self._options.dry_run:
            result.estimate = self._estimate(inputs, collected)
            return result
        if held is not None:
            result.reports = held
            self._console("everything is there; rebuilding the pages", 1, 1)
        else:
            self._describe_and_score(inputs, collected, result)
        write_reports(self._run.root)
        return result

    def _estimate(self, inputs: Inputs, collected: Collected) -> Estimate:
        if self._config.explainer != "llm":
            return NOTHING_ASKED
        held_out = held_out_rows(inputs, collected.pool, self._config.seed)
        known = known_capabilities(self._run.root, self._config)
        return estimate_calls(head_asks(self._plan(inputs, collected, held_out)), known)

    def _describe_and_score(self, inputs: Inputs, collected: Collected, result: JobResult) -> None:
        held_out = held_out_rows(inputs, collected.pool, self._config.seed)
        state = Talk(descriptions=stored_descriptions(self._run, Head, retry_failed=self._options.retry_failed))
        plan = self._plan(inputs, collected, held_out)
        try:
            asyncio.run(talk(self._run, plan, state, self._console))
        except (BudgetExceeded, TooManyFailures) as stop:
            result.stopped = stop
        self._state.timed("describe")
        done = [head for head in inputs.heads if head in state.descriptions]
        score_signs(self._config, plan.items, {h: state.descriptions[h].outcome for h in done}, state.scored)
        twin = self._options.memo.get("twin", lambda: twin_of(inputs.model, self._config.seed + 1))
        scores = self._score(inputs, collected, held_out, {h: state.descriptions[h] for h in done}, twin)
        result.reports = [self._report(h, collected, state, scores[h]) for h in done]
        lines = [json.dumps(r.model_dump(mode="json")) + "\n" for r in result.reports]
        self._state.timed("score")
        random = RandomControl(inputs, held_out, self._config, self._options.settings.batch_size, self._console)
        learned_nothing = random.facts(self._run, twin)
        self._state.timed("random_weights")
        result.notes += state.notes
        self._run.write_text(HEADS, "".join(lines))
        self._run.write_json(RUN, self._facts(inputs, state, result) | {"random_weights": learned_nothing})

    def _plan(self, inputs: Inputs, collected: Collected, held_out: HeldOut) -> TalkPlan:
        settings = self._options.settings
        items = scorer_items(self._config, inputs.model, held_out, inputs.heads, settings.batch_size)
        lab = None
        if self._config.agent_plan.on:
            lab = self._options.memo.get(
                "lab", lambda: lab_data(inputs, collected, held_out, self._config.seed, settings)
            )
        return TalkPlan(self._config, settings, inputs.model, collected, inputs.heads, items, lab)

    def _score(
        self,
        inputs: Inputs,
        collected: Collected,
        held_out: HeldOut,
        explanations: dict[Head, Explanation],
        twin: Twin,
    ) -> dict[Head, HeadScores]:
        if "predicate" in self._config.scorers:
            self._console("learning the token-identity rival", 0, 0)
        memo, settings = self._options.memo, self._options.settings
        spec = memo.get("suite", lambda: suite_spec(inputs, collected, held_out, self._config, settings.batch_size))
        outcomes = {head: e.outcome for head, e in explanations.items()}
        rivals = (
            {head: describe(collected.evidence[head]) for head in explanations}
            if self._config.explainer == "llm"
            else {}
        )
        return Suite(replace(spec, twin=twin, memo=memo), self._console).score(outcomes, rivals)

    def _report(self, head: Head, collected: Collected, state: Talk, scores: HeadScores) -> HeadReport:
        told = Told.of(self._config, state.descriptions[head], state.scored.get(head, {}), scores)
        circuit = in_circuit(head, told.outcome, self._circuit.found)
        return HeadReport(
            head=head,
            status=told.status,
            evidence=collected.evidence[head],
            description=told.description,
            failures=told.failures,
            provenance=told.provenance,
            scores=told.scores,
            unscored=told.unscored,
            judgement=judge(told.outcome, told.judged, told.unscored, scores.effect, circuit),
            ablation_loss=scores.loss,
            ablation_kl=scores.kl,
            direct_effect=scores.direct,
            total_effect=None if scores.total is None else scores.total.total,
            backed_up=scores.total is not None and scores.total.backed_up,
            transcript=state.transcripts.get(head),
            group_effect=scores.group,
            circuit=circuit,
        )

    def _facts(self, inputs: Inputs, state: Talk, result: JobResult) -> dict[str, object]:
        lenses = None if result.lenses is None else asdict(result.lenses)
        return run_facts(self._state, inputs, state, result, self._options.command) | {"lenses": lenses}
