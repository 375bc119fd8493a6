"""`bench planted --units features`: the ordinary job on neurons and latents that are known, and the key beside it.

1. For each seed the job runs twice on `planted-features:SEED`, in run folders of their own: on all neurons, and on the
   latents of a dictionary whose exact weights are written beside them.
2. The key's own predicates are scored on the test text, to show that what was planted is really there.
3. Descriptions are graded against the key. Only here are the two put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from autointerp.config import RunConfig
from autointerp.errors import AutointerpError
from autointerp.feature_records import ACTIVE, RESTING, FeatureReport
from autointerp.features.units import load_units
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.bench_planted import graded
from autointerp.pipeline.feature_inputs import held_out_text
from autointerp.pipeline.feature_job import run_feature_job
from autointerp.pipeline.inputs import Inputs, Sources, load_inputs
from autointerp.pipeline.run_state import Console
from autointerp.pipeline.unit_job import JobOptions
from autointerp.planted.corpus import documents
from autointerp.planted.dictionary import PlantedDictionary
from autointerp.planted.features import FEATURE_SPEC, PlantedFeatures, load_planted_features
from autointerp.planted.heads import Truth
from autointerp.planted.model import SPEC
from autointerp.planted.neurons import NEURONS
from autointerp.predicate import TokenTable
from autointerp.records import Feature, Unit
from autointerp.scoring.feature_rows import NamedRows, Reading, UnitFacts, scored
from autointerp.stats.metrics import f1_from_counts

DICTIONARY = "dictionary"


@dataclass(frozen=True)
class FeatureBenchRun:
    """One seed: its graded neurons and latents, how many failed, and why it stopped if it did."""

    units: tuple[GradedHead, ...]
    failed: int = 0
    stopped: AutointerpError | None = None


def feature_sources(seed: int) -> Sources:
    """The planted feature model of a seed, loaded once for all that asks, and its text."""
    return Sources(f"{FEATURE_SPEC}:{seed}", documents, cache(partial(load_planted_features, seed)))


def neuron_key(seed: int) -> dict[Feature, Truth]:
    """What is true of each neuron of a seed."""
    return {
        Feature(kind="neuron", layer=number // NEURONS, index=number % NEURONS): neuron.truth
        for number, neuron in enumerate(PlantedFeatures.of(seed).neurons)
    }


def bench_features_seed(
    config: RunConfig, seed: int, folder: Path, options: JobOptions, console: Console
) -> FeatureBenchRun:
    """Run or resume one seed in `folder` and grade it. Raises AutointerpError."""
    sources, units, failed = feature_sources(seed), list[GradedHead](), 0
    for name, run, truths in _runs(config, seed, folder):
        console(f"seed {seed}: {name}", 0, 0)
        result = run_feature_job(run, sources, folder / name, options, console)
        if result.stopped is not None:
            return FeatureBenchRun(tuple(units), failed + len(result.failed), result.stopped)
        failed += len(result.failed)
        inputs = load_inputs(run, sources, folder / name / "cache/corpus")
        true_f1 = planted_feature_f1(inputs, run.units, result.reports, truths, options.settings.batch_size)
        units += [graded(seed, report, truths[report.unit], true_f1) for report in result.reports]
    return FeatureBenchRun(tuple(units), failed)


def _runs(config: RunConfig, seed: int, folder: Path) -> Iterator[tuple[str, RunConfig, dict[Feature, Truth]]]:
    """(folder, config, key) of the neurons' run and of the latents'."""
    shared = {"model": f"{FEATURE_SPEC}:{seed}", "corpus": (SPEC,), "sample": 0}
    yield "neurons", config.model_copy(update={**shared, "units": "neurons", "select": ""}), neuron_key(seed)
    dictionary = PlantedDictionary.of(seed)
    dictionary.write(folder / DICTIONARY)
    key = dictionary.key()
    chosen = {"units": f"sae:{folder / DICTIONARY}", "select": ",".join(map(str, sorted(key)))}
    yield "latents", config.model_copy(update={**shared, **chosen}), key


def planted_feature_f1(
    inputs: Inputs, units: str, reports: Sequence[FeatureReport], truths: Mapping[Feature, Truth], batch_size: int
) -> dict[Unit, float]:
    """F1 of each unit's planted predicate over active against resting test rows; NaN where none is active."""
    rows, model = held_out_text(inputs, "test"), inputs.model
    stats = {r.unit: r.evidence.stats for r in reports if truths[r.unit].predicate is not None}
    facts = {unit: UnitFacts(s.mean, s.reference, s.sign) for unit, s in stats.items()}
    shares = Reading(model, load_units(units, model), facts, batch_size).shares(list(facts), rows)
    named = NamedRows(rows, TokenTable.from_strings(model.strings, model.special_ids))
    found: dict[Unit, float] = {}
    for unit, share in zip(facts, shares, strict=True):
        mask = named.mask(truths[unit].predicate or "")
        active, resting = (share >= ACTIVE) & scored(rows), (share <= RESTING) & scored(rows)
        counts = (np.array(float(n.sum())) for n in (mask & active, mask & resting, ~mask & active))
        found[unit] = float(f1_from_counts(*counts))
    return found
