"""`bench agent`: one shot against the loop on planted models, at equal cost, unit by unit.

1. The loop: the ordinary job with rounds, on the planted model of each seed (`Ground`: its heads or its neurons).
2. One shot: the same explain call asked so often that it costs at least as many tokens, the best answer on the select
   split kept; for the same units that got rounds, since the others cost the same in both.
3. Control: the loop once more, with the answers of experiments exchanged between units. What it gains then it did not
   gain from experiments.
4. A head counts where its labels are those that were planted, all and no other, and its verdict is the right one:
   supported where the model depends on it and a rule states it; not supported where nothing depends on it. Of neurons
   see `bench_agent_features`.
5. The difference is paired by unit; its interval draws seeds with replacement, and units within each.

Evidence, scores on the select split, what scoring measures without the descriptions, and the random-weights control are
the same in all three runs, and are taken once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from autointerp.agent.journal import ASKED
from autointerp.config import MAX_BEST_OF, AgentPlan, RunConfig
from autointerp.errors import AutointerpError, BadInput
from autointerp.pipeline.agent_journal import AGENT, JournalLine
from autointerp.pipeline.agents import shuffled
from autointerp.pipeline.bench_metrics import DRAWS, GradedHead
from autointerp.pipeline.bench_planted import answer_key, graded, planted_config, planted_sources
from autointerp.pipeline.collecting import ARRAYS, EVIDENCE
from autointerp.pipeline.inputs import Sources
from autointerp.pipeline.job import run_job
from autointerp.pipeline.random_control import FILE as RANDOM_WEIGHTS
from autointerp.pipeline.run_state import Console
from autointerp.pipeline.unit_job import JobOptions
from autointerp.planted.heads import Truth
from autointerp.records import Feature, Head, Interval, Unit
from autointerp.report.nouns import Report, state_of, unit_of
from autointerp.scoring.memo import Memo
from autointerp.store import read_as

VARIANTS = ("loop", "one_shot", "shuffled")
TRAPS = ("two functions", "offset for the token before", "duplicate for induction", "looks and changes nothing")


class Done(Protocol):
    """What a job gives back."""

    @property
    def reports(self) -> Sequence[Report]: ...
    @property
    def stopped(self) -> AutointerpError | None: ...


@dataclass(frozen=True)
class Ground:
    """What the runs of a seed are about: units of a planted model, the job that describes them, and the key.

    `kept`: files of a run that do not depend on what is said of its units · `right`, `trap`: how a unit is graded, and
    the planted trap that it is.
    """

    config: RunConfig
    sources: Sources
    truths: Mapping[Unit, Truth]
    run: Callable[[RunConfig, Sources, Path, JobOptions, Console], Done]
    kept: tuple[str, ...]
    right: Callable[[GradedHead], bool]
    trap: Callable[[Truth], str]


@dataclass(frozen=True)
class AgentUnit:
    """One unit in the three runs. `looped`: whether its verdict was open after one shot."""

    seed: int
    unit: Unit
    kind: str
    trap: str
    looped: bool
    right: Mapping[str, bool]
    said: Mapping[str, GradedHead]
    tokens: Mapping[str, int]
    stop: str


@dataclass(frozen=True)
class AgentRun:
    """One seed: its units, and why it stopped if it did."""

    units: tuple[AgentUnit, ...]
    stopped: AutointerpError | None = None


def heads_ground(config: RunConfig, seed: int) -> Ground:
    """The heads of the planted model of a seed, or those that the config names."""
    return Ground(
        config=planted_config(config, seed).model_copy(update={"heads": config.heads}),
        sources=planted_sources(seed),
        truths={head: truth for head, truth in answer_key(seed).items()},
        run=run_job,
        kept=(EVIDENCE, ARRAYS, RANDOM_WEIGHTS),
        right=is_right,
        trap=trap_of,
    )


def bench_agent_seed(ground: Ground, seed: int, folder: Path, options: JobOptions, console: Console) -> AgentRun:
    """Run or resume the three runs of a seed in `folder`. Raises AutointerpError."""
    plan = ground.config.agent_plan
    if not plan.rounds or plan.shuffled:
        given = ground.config.agent
        raise BadInput(f"--agent {given}: the benchmark compares rounds with one shot. Give --agent rounds=N.")
    results: dict[str, Done] = {}
    sources, shared = _loaded_once(ground.sources), replace(options, memo=Memo())
    for variant in VARIANTS:
        agent = _agent(plan, variant, results)
        run = ground.config.model_copy(update={"agent": agent})
        if variant != "loop":
            _share(ground.kept, folder / "loop", folder / variant, run, _donors(variant, results["loop"]))
        console(f"seed {seed}: {variant.replace('_', ' ')} (--agent {agent})", 0, 0)
        results[variant] = ground.run(run, sources, folder / variant, shared, console)
        if results[variant].stopped is not None:
            return AgentRun((), results[variant].stopped)
    return AgentRun(tuple(_units(seed, results, ground)))


def _loaded_once(sources: Sources) -> Sources:
    """The three runs work with one model: what is measured on it for one of them holds for the others."""
    return replace(sources, load=None if sources.load is None else cache(sources.load))


def _donors(variant: str, loop: Done) -> dict[Unit, Unit]:
    """Whose experiments answer each unit where answers are exchanged, as the run itself exchanges them."""
    if variant != "shuffled":
        return {}
    alive = [unit_of(report) for report in loop.reports if state_of(report) == "ok"]
    heads, features = [u for u in alive if isinstance(u, Head)], [u for u in alive if isinstance(u, Feature)]
    found: dict[Unit, Unit] = {head: donor for head, donor in shuffled(heads).items()}
    return found | {feature: donor for feature, donor in shuffled(features).items()}


def _agent(plan: AgentPlan, variant: str, results: Mapping[str, Done]) -> str:
    if variant != "one_shot":
        return f"rounds={plan.rounds}" + (",shuffled" if variant == "shuffled" else "")
    looped = [r for r in results["loop"].reports if r.transcript is not None and len(r.transcript.turns) > 1]
    spent = sum(tokens_of(r) for r in looped)
    once = sum(r.provenance.prompt_tokens + r.provenance.completion_tokens for r in looped)
    return f"best_of={min(MAX_BEST_OF, max(2, math.ceil(spent / once))) if once else 2}"


def tokens_of(report: Report) -> int:
    """Prompts and replies that a unit's description has cost."""
    made = report.provenance
    return made.prompt_tokens + made.completion_tokens if report.transcript is None else sum(report.transcript.tokens)


def _share(kept: Sequence[str], source: Path, target: Path, run: RunConfig, donors: Mapping[Unit, Unit]) -> None:
    """What does not depend on the variant: the corpus, the evidence, scores and answers of experiments. With `donors`
    an answer goes to the unit that asks for another's."""
    if (target / "config.json").exists():
        return
    (target / "cache").mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps({"config": run.model_dump(mode="json")}), encoding="utf-8")
    shutil.copytree(source / "cache/corpus", target / "cache/corpus", dirs_exist_ok=True)
    for name in kept:
        if (source / name).exists():
            shutil.copy2(source / name, target / name)
    lines = [line for line in read_as(source / AGENT, JournalLine) if line.turn is None]
    basis = {line.unit: line.basis for line in lines}
    asking = {donor: unit for unit, donor in donors.items() if unit in basis}
    handed = [
        line.model_copy(update={"unit": asking[line.unit], "basis": basis[asking[line.unit]], "key": ASKED + line.key})
        for line in lines
        if line.unit in asking
    ]
    text = "".join(line.model_dump_json() + "\n" for line in (*lines, *handed))
    (target / AGENT).write_text(text, encoding="utf-8")


def _units(seed: int, results: Mapping[str, Done], ground: Ground) -> list[AgentUnit]:
    """All units that were asked about: neither dead nor dense ones."""
    reports = {variant: {unit_of(r): r for r in results[variant].reports} for variant in VARIANTS}
    found = []
    for unit, report in sorted(reports["loop"].items()):
        if state_of(report) != "ok":
            continue
        truth = ground.truths[unit]
        said = {variant: graded(seed, reports[variant][unit], truth, {}) for variant in VARIANTS}
        found.append(
            AgentUnit(
                seed=seed,
                unit=unit,
                kind=truth.kind,
                trap=ground.trap(truth),
                looped=report.transcript is not None and len(report.transcript.turns) > 1,
                right={variant: ground.right(one) for variant, one in said.items()},
                said=said,
                tokens={variant: tokens_of(reports[variant][unit]) for variant in VARIANTS},
                stop="" if report.transcript is None else report.transcript.stop,
            )
        )
    return found


def is_right(head: GradedHead) -> bool:
    """Right labels, all of them, and the right verdict."""
    if not head.planted:
        return head.abstained
    if not head.complete:
        return False
    if head.matters:
        return head.verdict == "supported" or not head.true_predicate
    return head.verdict != "supported"


def trap_of(truth: Truth) -> str:
    """The planted trap that a head is; empty for the others."""
    if truth.kind == "two_functions":
        return TRAPS[0]
    if truth.kind in ("zero_output", "unread_output"):
        return TRAPS[3]
    return {"fixed_offset": TRAPS[1], "duplicate_token": TRAPS[2]}.get(truth.kind, "")


def share(units: Sequence[AgentUnit], variant: str) -> float:
    """Share of units that are right in a run."""
    return float(np.mean([unit.right[variant] for unit in units])) if units else float("nan")


def difference(units: Sequence[AgentUnit], variant: str = "loop", other: str = "one_shot", seed: int = 0) -> Interval:
    """Share right in `variant` minus share right in `other`, paired by unit, with its two-level interval."""
    by_seed: dict[int, list[float]] = {}
    for unit in units:
        by_seed.setdefault(unit.seed, []).append(float(unit.right[variant]) - float(unit.right[other]))
    groups = [np.array(values) for values in by_seed.values()]
    if not groups:
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        chosen = [groups[k] for k in generator.integers(0, len(groups), len(groups))]
        parts = [group[generator.integers(0, len(group), len(group))] for group in chosen]
        drawn.append(float(np.concatenate(parts).mean()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value=float(np.concatenate(groups).mean()), low=float(low), high=float(high), n=len(units))
