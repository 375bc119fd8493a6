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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from autointerp.config import RunConfig, Settings, check_lenses
from autointerp.errors import AutointerpError, BudgetExceeded, TooManyFailures
from autointerp.evidence.collect import Collected
from autointerp.explain import Explanation
from autointerp.explain.detectors import describe
from autointerp.pipeline.agents import lab_data
from autointerp.pipeline.collecting import ARRAYS, collected_evidence
from autointerp.pipeline.describing import stored_descriptions
from autointerp.pipeline.given_circuit import given_circuit
from autointerp.pipeline.held_out import held_out_rows
from autointerp.pipeline.inputs import Inputs, Sources, load_inputs
from autointerp.pipeline.lens_readings import LensCost, plan_lenses, read_lenses
from autointerp.pipeline.llm_scores import score_signs, scorer_items, scores_of
from autointerp.pipeline.plan import NOTHING_ASKED, Estimate, estimate_calls, head_asks, known_capabilities
from autointerp.pipeline.random_control import RandomControl
from autointerp.pipeline.run_state import FOUND_LATER, RUN, Console, RunState
from autointerp.pipeline.suite_inputs import suite_spec
from autointerp.pipeline.talking import Talk, TalkPlan, talk, template_names, templates
from autointerp.records import Failure, Head, HeadReport, Status, Unscored
from autointerp.report import write_reports
from autointerp.report.folder import read_json
from autointerp.scoring.in_circuit import in_circuit
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.scoring.random_weights import Twin, twin_of
from autointerp.scoring.suite import HeadScores, HeldOut, Suite
from autointerp.scoring.verdict import judge
from autointerp.store import REMOVE_FILE, CallLog, RunFolder, read_as

HEADS = "heads.jsonl"


@dataclass(frozen=True)
class JobOptions:
    """How a run is run; nothing here changes a result."""

    settings: Settings
    command: str = ""
    retry_failed: bool = False
    dry_run: bool = False
    memo: Memo = field(default_factory=NoMemo, repr=False)  # shared by runs that differ in their descriptions alone


@dataclass
class JobResult:
    """What the command line says at the end."""

    folder: Path
    reports: list[HeadReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    estimate: Estimate | None = None
    stopped: AutointerpError | None = None
    lenses: LensCost | None = None

    @property
    def failed(self) -> list[HeadReport]:
        return [r for r in self.reports if r.status == "failed"]


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
        held = None if self._options.dry_run else self._finished(inputs)
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

    def _finished(self, inputs: Inputs) -> list[HeadReport] | None:
        """The reports on disk, if they cover every head, nothing stopped the run and none is to be tried again."""
        reports = {r.head: r for r in read_as(self._run.path(HEADS), HeadReport, REMOVE_FILE)}
        told = read_json(self._run.path(RUN))  # written last: without it the end was not reached
        if set(reports) != set(inputs.heads) or not told or told.get("stopped"):
            return None
        if self._options.retry_failed and any(r.status == "failed" for r in reports.values()):
            return None
        return [reports[head] for head in sorted(reports)]

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
        explanation = state.descriptions[head]
        outcome = explanation.outcome
        extra = scores_of(self._config, outcome, state.scored.get(head, {}))
        numbers = tuple(s for s in (*scores.scores, *extra) if not isinstance(s, Unscored))
        unscored = tuple(s for s in (*scores.unscored, *extra) if isinstance(s, Unscored))
        failed = isinstance(outcome, Failure)
        circuit = in_circuit(head, outcome, self._circuit.found)
        status: Status = "failed" if isinstance(outcome, Failure) else "abstained" if outcome.abstained else "described"
        return HeadReport(
            head=head,
            status=status,
            evidence=collected.evidence[head],
            description=None if isinstance(outcome, Failure) else outcome,
            failures=((outcome,) if isinstance(outcome, Failure) else ()) + explanation.failures,
            provenance=explanation.provenance,
            scores=numbers,
            unscored=unscored,
            judgement=judge(outcome, () if failed else numbers, unscored, scores.effect, circuit),
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
        return {
            **inputs.summary(),
            "explainer": self._config.explainer,
            "lost_in_flight": self._state.lost(),
            "cost_usd": state.cost_usd,
            "tokens": dict(zip(("prompt", "completion"), CallLog(self._run).tokens_used, strict=True)),
            "seconds": self._state.clock(),
            "lenses": None if result.lenses is None else asdict(result.lenses),
            "notes": result.notes,
            "command": self._options.command,
            "stopped": None if result.stopped is None else str(result.stopped),
        }
