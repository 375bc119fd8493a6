"""`bench controls`: how often nonsense passes, on planted models whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autointerp.config import RunConfig
from autointerp.model import random_twin
from autointerp.pipeline.bench_nonsense import Claim, Judged, Known, judge_claims, mean_z, nonsense_claims
from autointerp.pipeline.bench_planted import answer_key, planted_config, planted_sources
from autointerp.pipeline.collecting import collected_evidence
from autointerp.pipeline.held_out import ablation_rows, explain_rows, held_out_rows
from autointerp.pipeline.inputs import Inputs, load_inputs
from autointerp.pipeline.job import run_job
from autointerp.pipeline.run_state import Console
from autointerp.pipeline.unit_job import JobOptions
from autointerp.planted.heads import Truth
from autointerp.records import HeadReport
from autointerp.scoring.suite import SuiteSpec
from autointerp.stats.bootstrap import clopper_pearson
from autointerp.store import RunFolder


@dataclass(frozen=True)
class PassedShare:
    """How many of `n` claims came out `supported`, with the exact 95 % interval."""

    kind: str
    passed: int
    n: int
    verdicts: dict[str, int]

    @property
    def share(self) -> float:
        return self.passed / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return clopper_pearson(self.passed, self.n)


def controls_of_seed(config: RunConfig, seed: int, folder: Path, options: JobOptions, console: Console) -> list[Judged]:
    """Run or resume a seed's ordinary job in `folder`, then judge nonsense about its heads. Raises AutointerpError."""
    chosen, sources = planted_config(config, seed), planted_sources(seed)
    reports = run_job(chosen, sources, folder, options, console).reports
    inputs = load_inputs(chosen, sources, folder / "cache/corpus")
    spec = _spec(folder, inputs, chosen, options.settings.batch_size, console)
    truths = answer_key(seed)
    known = {report.head: _known(report, truths[report.head]) for report in reports}
    real = [k.predicate for k in known.values() if k.predicate is not None]
    claims = nonsense_claims(spec, sorted(known), known)
    console(f"judging {len(claims)} nonsense descriptions", 0, 0)
    found = judge_claims(spec, claims, real)
    console("the same on a model with random weights", 0, 0)
    return found + judge_claims(_random(spec, inputs), list(_claims_of_run(reports)), real)


def _spec(folder: Path, inputs: Inputs, config: RunConfig, batch_size: int, console: Console) -> SuiteSpec:
    with RunFolder(folder) as run:
        collected = collected_evidence(run, inputs, inputs.heads, config.seed, batch_size, console)
    held_out = held_out_rows(inputs, collected.pool, config.seed)
    return SuiteSpec(inputs.model, held_out, ablation_rows(held_out), collected.z_mean, config.seed, batch_size)


def _random(spec: SuiteSpec, inputs: Inputs) -> SuiteSpec:
    """The same rows on a randomly initialised model of the same shape."""
    model = random_twin(spec.model, spec.seed + 1)
    rows = explain_rows(inputs)
    return replace(spec, model=model, z_mean=mean_z(model, rows.ids, rows.lengths, spec.batch_size))


def _known(report: HeadReport, truth: Truth) -> Known:
    said = report.description
    described = said is not None and not said.abstained
    return Known(
        label=said.label if said is not None and described else "",
        predicate=said.predicate if said is not None and described else None,
        domain=said.domain if said is not None else "text",
        true_labels=frozenset((*truth.labels, *truth.allowed)),
        true_predicate=truth.predicate,
    )


def _claims_of_run(reports: Sequence[HeadReport]) -> Iterator[Claim]:
    for report in reports:
        said = report.description
        if said is not None and said.predicate is not None and not said.abstained and said.label != "first_token":
            yield Claim(report.head, "random weights", str(report.head), said.predicate, said.domain)


def passed_shares(judged: Sequence[Judged]) -> list[PassedShare]:
    """By kind of nonsense, and all together first."""
    kinds = list(dict.fromkeys(j.claim.kind for j in judged))
    return [_share("all", judged), *(_share(kind, [j for j in judged if j.claim.kind == kind]) for kind in kinds)]


def _share(kind: str, judged: Sequence[Judged]) -> PassedShare:
    verdicts = Counter(str(j.verdict) for j in judged)
    return PassedShare(kind, verdicts["supported"], len(judged), dict(sorted(verdicts.items())))


def worst(judged: Sequence[Judged]) -> list[Judged]:
    """What passed, the highest score first."""
    return sorted((j for j in judged if j.verdict == "supported"), key=lambda j: -np.nan_to_num(j.score))
