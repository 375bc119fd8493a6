"""`bench planted`: the ordinary job on models whose heads are known, and its results beside the key.

1. For each seed the main job runs on `planted:SEED`, in a run folder of its own, so that it resumes and has its pages.
2. The key's own predicates are scored on the test text of that run, to show that what was planted is really there.
3. Descriptions are graded against the key. Only here are the two put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autointerp.config import RunConfig
from autointerp.feature_records import FeatureReport
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.held_out import held_out_rows
from autointerp.pipeline.inputs import Inputs, Sources, load_inputs
from autointerp.pipeline.job import JobResult, run_job
from autointerp.pipeline.run_state import Console
from autointerp.pipeline.unit_job import JobOptions
from autointerp.planted.corpus import documents
from autointerp.planted.heads import Truth
from autointerp.planted.model import SPEC, load_planted, placed_heads
from autointerp.predicate import TokenTable
from autointerp.records import Head, HeadReport, Unit
from autointerp.scoring.predicate_score import HeadTallies, f1
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.suite import HeldOut
from autointerp.scoring.tallies import tally


@dataclass(frozen=True)
class BenchRun:
    """One seed's run: its folder, its results, and its graded heads."""

    seed: int
    result: JobResult
    heads: tuple[GradedHead, ...]


def planted_sources(seed: int) -> Sources:
    """The planted model of a seed and its text."""
    return Sources(f"{SPEC}:{seed}", documents, partial(load_planted, seed))


def planted_config(config: RunConfig, seed: int) -> RunConfig:
    """A run's config on the planted model of a seed; heads and corpus are fixed."""
    return config.model_copy(update={"model": f"{SPEC}:{seed}", "corpus": (SPEC,), "heads": ""})


def answer_key(seed: int) -> dict[Head, Truth]:
    """What is true of each head of a seed."""
    return {
        Head(layer=layer, index=index): head.truth
        for layer, row in enumerate(placed_heads(seed))
        for index, head in enumerate(row)
    }


def bench_seed(config: RunConfig, seed: int, folder: Path, options: JobOptions, console: Console) -> BenchRun:
    """Run or resume one seed in `folder` and grade it, a stopped run as far as it is. Raises AutointerpError."""
    chosen, sources = planted_config(config, seed), planted_sources(seed)
    result = run_job(chosen, sources, folder, options, console)
    inputs = load_inputs(chosen, sources, folder / "cache/corpus")
    truths = answer_key(seed)
    console(f"scoring what was planted in seed {seed}", 0, 0)
    true_f1 = planted_f1(inputs, _test_rows(inputs, chosen.seed), truths, options.settings.batch_size)
    heads = [graded(seed, report, truths[report.head], true_f1) for report in result.reports]
    return BenchRun(seed, result, tuple(heads))


def _test_rows(inputs: Inputs, seed: int) -> HeldOut:
    return held_out_rows(inputs, np.zeros(0, dtype=np.int64), seed)  # no pool: text alone


def planted_f1(inputs: Inputs, held_out: HeldOut, truths: dict[Head, Truth], batch_size: int) -> dict[Unit, float]:
    """F1 over pairs of each head's planted predicate on test text, by the definitions of the predicate score."""
    model = inputs.model
    rows = held_out.test["text"]
    pairs = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids))
    stated = {head: t.predicate for head, t in truths.items() if t.predicate is not None}
    named = {head: p for head, p in stated.items() if not pairs.only_sink(p)}
    by_layer: dict[int, list[str]] = {}
    for head, predicate in sorted(named.items()):
        by_layer.setdefault(head.layer, []).append(predicate)
    lists = {layer: list(dict.fromkeys(by_layer.get(layer, ["distance == 1"]))) for layer in range(model.n_layers)}
    found: dict[Unit, float] = {}
    for layer in tally(model, rows, lambda number: pairs.masks(lists[number]), batch_size):
        for head, predicate in named.items():
            if head.layer == layer.layer:
                sums = HeadTallies(layer, head.index).of(lists[layer.layer].index(predicate))
                found[head] = float(f1({name: np.asarray(values.sum()) for name, values in sums.items()}))
    return found


def graded(seed: int, report: HeadReport | FeatureReport, truth: Truth, true_f1: Mapping[Unit, float]) -> GradedHead:
    """A unit's report beside what is true of it. Of a neuron or latent the first label counts alone: the others are
    those of all rules that hold somewhere."""
    said = report.description
    judgement = report.judgement
    unit: Unit = report.head if isinstance(report, HeadReport) else report.unit
    labels = () if said is None else (said.label, *(said.labels if isinstance(report, HeadReport) else ()))
    return GradedHead(
        seed=seed,
        head=unit,
        kind=truth.kind,
        planted=truth.labels,
        allowed=truth.allowed,
        matters=truth.matters,
        said=tuple(dict.fromkeys(labels)),
        status=report.status,
        verdict=judgement.verdict,
        confidence=float("nan") if said is None else float(said.confidence),
        true_f1=true_f1.get(unit, float("nan")),
        said_f1=judgement.score if judgement.metric == "f1" and judgement.score is not None else float("nan"),
        kl=report.ablation_kl,
        predicate="" if said is None else said.predicate or "",
        true_predicate=truth.predicate or "",
        reason=judgement.reason,
    )


def all_heads(runs: Sequence[BenchRun]) -> list[GradedHead]:
    return [head for run in runs for head in run.heads]
