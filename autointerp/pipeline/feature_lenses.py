"""What the lenses read in units' directions, as evidence, where `--lenses` asks for it.

Units are read in fixed groups, whose vectors serve as controls for one another; a group is kept as soon as it is read
(`cache/unit_lenses.jsonl`), so that a killed run goes on with the next.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autointerp.config import RunConfig
from autointerp.evidence.collect import Progress
from autointerp.feature_records import FeatureEvidence, LensWords
from autointerp.features.collect import CollectedFeatures
from autointerp.features.lens_words import DirectionLenses, lens_words
from autointerp.features.units import UnitSet
from autointerp.lenses.head_readings import EVIDENCE
from autointerp.model import LanguageModel
from autointerp.pipeline.lens_readings import LensPlan, plan_lenses
from autointerp.records import Feature, Record
from autointerp.store import RunFolder, read_as

FILE = "cache/unit_lenses.jsonl"
GROUP = 8


class _Read(Record):
    """A line of `cache/unit_lenses.jsonl`."""

    unit: Feature
    words: tuple[LensWords, ...]


def plan_words(config: RunConfig, model: LanguageModel) -> LensPlan:
    """Which lenses read units: none but those that are named. Raises BadInput for one that cannot be used."""
    return plan_lenses(config, model) if config.lenses else LensPlan(())


def with_words(
    run: RunFolder,
    model: LanguageModel,
    units: UnitSet,
    collected: CollectedFeatures,
    plan: LensPlan,
    seed: int,
    progress: Progress,
) -> CollectedFeatures:
    """The evidence of living units with what the lenses of `plan` read in their directions."""
    if not {"entity", "selfie"} & set(plan.names):
        return collected
    lenses = DirectionLenses(EVIDENCE if "selfie" in plan.names else None, plan.vectors, seed)
    held = {line.unit: line.words for line in read_as(run.path(FILE), _Read)}
    alive = [unit for unit, found in sorted(collected.evidence.items()) if found.stats.state == "ok"]
    for start in range(0, len(alive), GROUP):
        group = alive[start : start + GROUP]
        if any(unit not in held for unit in group):
            for unit, words in lens_words(model, units, collected.table, group, lenses).items():
                held[unit] = words
                run.append(FILE, _Read(unit=unit, words=words))
        progress("reading units in words", min(start + GROUP, len(alive)), len(alive))
    return replace(collected, evidence={u: _with(found, held.get(u, ())) for u, found in collected.evidence.items()})


def words_on_disk(folder: Path, evidence: FeatureEvidence) -> FeatureEvidence:
    """A unit's evidence with what lenses read of it in a run, if they did."""
    path = folder / FILE
    lines = read_as(path, _Read)
    held = {line.unit: line.words for line in lines}
    return _with(evidence, held.get(evidence.unit, ()))


def _with(evidence: FeatureEvidence, words: tuple[LensWords, ...]) -> FeatureEvidence:
    return evidence.model_copy(update={"lenses": words}) if words else evidence
