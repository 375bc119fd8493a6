"""`bench agent`: one shot against the loop on planted models, at equal cost, head by head.

1. The loop: the ordinary job with rounds, on the planted model of each seed.
2. One shot: the same explain call asked so often that it costs at least as many tokens, the best answer on the select
   split kept; for the same heads that got rounds, since the others cost the same in both.
3. Control: the loop once more, with the answers of experiments exchanged between heads. What it gains then it did not
   gain from experiments.
4. A head counts where its labels are those that were planted, all and no other, and its verdict is the right one:
   supported where the model depends on it and a rule states it; not supported where nothing depends on it.
5. The difference is paired by head; its interval draws seeds with replacement, and heads within each.

Evidence, scores on the select split, what scoring measures without the descriptions, and the random-weights control are
the same in all three runs, and are taken once.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

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
from autointerp.pipeline.job import JobOptions, JobResult, run_job
from autointerp.pipeline.random_control import FILE as RANDOM_WEIGHTS
from autointerp.pipeline.run_state import Console
from autointerp.planted.heads import Truth
from autointerp.records import Head, HeadReport, Interval
from autointerp.scoring.memo import Memo
from autointerp.store import read_records

VARIANTS = ("loop", "one_shot", "shuffled")
TRAPS = ("two functions", "offset for the token before", "duplicate for induction", "looks and changes nothing")


@dataclass(frozen=True)
class AgentHead:
    """One head in the three runs. `looped`: whether its verdict was open after one shot."""

    seed: int
    head: Head
    kind: str
    trap: str
    looped: bool
    right: Mapping[str, bool]
    said: Mapping[str, GradedHead]
    tokens: Mapping[str, int]
    stop: str


@dataclass(frozen=True)
class AgentRun:
    """One seed: its heads, and why it stopped if it did."""

    heads: tuple[AgentHead, ...]
    stopped: AutointerpError | None = None


def bench_agent_seed(config: RunConfig, seed: int, folder: Path, options: JobOptions, console: Console) -> AgentRun:
    """Run or resume the three runs of a seed in `folder`. Raises AutointerpError."""
    if not config.agent_plan.rounds or config.agent_plan.shuffled:
        raise BadInput(f"--agent {config.agent}: the benchmark compares rounds with one shot. Give --agent rounds=N.")
    chosen = planted_config(config, seed).model_copy(update={"heads": config.heads})
    results: dict[str, JobResult] = {}
    sources, shared = _loaded_once(planted_sources(seed)), replace(options, memo=Memo())
    for variant in VARIANTS:
        agent = _agent(config.agent_plan, variant, results)
        run = chosen.model_copy(update={"agent": agent})
        if variant != "loop":
            donors = shuffled([r.head for r in results["loop"].reports]) if variant == "shuffled" else {}
            _share(folder / "loop", folder / variant, run, donors)
        console(f"seed {seed}: {variant.replace('_', ' ')} (--agent {agent})", 0, 0)
        results[variant] = run_job(run, sources, folder / variant, shared, console)
        if results[variant].stopped is not None:
            return AgentRun((), results[variant].stopped)
    return AgentRun(tuple(_heads(seed, results, answer_key(seed))))


def _loaded_once(sources: Sources) -> Sources:
    """The three runs work with one model: what is measured on it for one of them holds for the others."""
    return replace(sources, load=None if sources.load is None else cache(sources.load))


def _agent(plan: AgentPlan, variant: str, results: Mapping[str, JobResult]) -> str:
    if variant != "one_shot":
        return f"rounds={plan.rounds}" + (",shuffled" if variant == "shuffled" else "")
    looped = [r for r in results["loop"].reports if r.transcript is not None and len(r.transcript.turns) > 1]
    spent = sum(tokens_of(r) for r in looped)
    once = sum(r.provenance.prompt_tokens + r.provenance.completion_tokens for r in looped)
    return f"best_of={min(MAX_BEST_OF, max(2, math.ceil(spent / once))) if once else 2}"


def tokens_of(report: HeadReport) -> int:
    """Prompts and replies that a head's description has cost."""
    made = report.provenance
    return made.prompt_tokens + made.completion_tokens if report.transcript is None else sum(report.transcript.tokens)


def _share(source: Path, target: Path, run: RunConfig, donors: Mapping[Head, Head]) -> None:
    """What does not depend on the variant: the corpus, the evidence, scores and answers of experiments. With `donors`
    an answer goes to the head that asks for another's."""
    if (target / "config.json").exists():
        return
    (target / "cache").mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps({"config": run.model_dump(mode="json")}), encoding="utf-8")
    shutil.copytree(source / "cache/corpus", target / "cache/corpus", dirs_exist_ok=True)
    for name in (EVIDENCE, ARRAYS, RANDOM_WEIGHTS):
        if (source / name).exists():
            shutil.copy2(source / name, target / name)
    lines = [line for line in map(JournalLine.model_validate, read_records(source / AGENT)) if line.turn is None]
    basis = {line.head: line.basis for line in lines}
    asking = {donor: head for head, donor in donors.items() if head in basis}
    handed = [
        line.model_copy(update={"head": asking[line.head], "basis": basis[asking[line.head]], "key": ASKED + line.key})
        for line in lines
        if line.head in asking
    ]
    text = "".join(line.model_dump_json() + "\n" for line in (*lines, *handed))
    (target / AGENT).write_text(text, encoding="utf-8")


def _heads(seed: int, results: Mapping[str, JobResult], truths: Mapping[Head, Truth]) -> list[AgentHead]:
    reports = {variant: {r.head: r for r in results[variant].reports} for variant in VARIANTS}
    found = []
    for head, report in sorted(reports["loop"].items()):
        truth = truths[head]
        said = {variant: graded(seed, reports[variant][head], truth, {}) for variant in VARIANTS}
        found.append(
            AgentHead(
                seed=seed,
                head=head,
                kind=truth.kind,
                trap=trap_of(truth),
                looped=report.transcript is not None and len(report.transcript.turns) > 1,
                right={variant: is_right(one) for variant, one in said.items()},
                said=said,
                tokens={variant: tokens_of(reports[variant][head]) for variant in VARIANTS},
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


def share(heads: Sequence[AgentHead], variant: str) -> float:
    """Share of heads that are right in a run."""
    return float(np.mean([head.right[variant] for head in heads])) if heads else float("nan")


def difference(heads: Sequence[AgentHead], variant: str = "loop", other: str = "one_shot", seed: int = 0) -> Interval:
    """Share right in `variant` minus share right in `other`, paired by head, with its two-level interval."""
    by_seed: dict[int, list[float]] = {}
    for head in heads:
        by_seed.setdefault(head.seed, []).append(float(head.right[variant]) - float(head.right[other]))
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
    return Interval(value=float(np.concatenate(groups).mean()), low=float(low), high=float(high), n=len(heads))
