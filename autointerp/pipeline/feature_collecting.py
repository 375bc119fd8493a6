"""Evidence of the units of a run, collected once and kept in the run folder.

`cache/feature_evidence.jsonl` and `cache/units.npz` (the table of all units, described or not) are complete when the
latter exists; the first pass keeps its own checkpoint, so a killed collection goes on from there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from autointerp.errors import BadInput
from autointerp.evidence.collect import Progress
from autointerp.feature_records import FeatureEvidence
from autointerp.features.collect import CollectedFeatures, FeatureCollectSpec, collect_features
from autointerp.features.sample import Sample
from autointerp.features.unit_table import UnitTable
from autointerp.features.units import UnitSet
from autointerp.pipeline.inputs import Inputs
from autointerp.records import Feature
from autointerp.store import RunFolder, read_as

EVIDENCE, TABLE, CHECKPOINT = "cache/feature_evidence.jsonl", "cache/units.npz", "cache/unit_pass.npz"


def collected_features(
    run: RunFolder, inputs: Inputs, units: UnitSet, sample: int, spec: FeatureCollectSpec, progress: Progress
) -> CollectedFeatures:
    """The run's evidence, from disk where it is complete; of `sample` units where that is not 0."""
    held = _load(run)
    if held is not None:
        return held
    run.path("cache").mkdir(parents=True, exist_ok=True)
    wanted: Sequence[Feature] | Sample = Sample(sample) if sample else units.features
    found = collect_features(inputs.model, inputs.explain_windows(), units, wanted, spec, progress)
    lines = [json.dumps(found.evidence[unit].model_dump(mode="json")) + "\n" for unit in sorted(found.evidence)]
    run.write_text(EVIDENCE, "".join(lines))
    run.write_bytes(TABLE, _saved(found.table))
    if spec.checkpoint is not None:
        spec.checkpoint.unlink(missing_ok=True)
    return found


def _saved(table: UnitTable) -> bytes:
    arrays = {field.name: getattr(table, field.name) for field in fields(UnitTable)}
    buffer = io.BytesIO()
    np.savez(buffer, unit=np.array([str(table.feature(row)) for row in range(len(table))]), **arrays)
    return buffer.getvalue()


def _load(run: RunFolder) -> CollectedFeatures | None:
    if not run.path(TABLE).exists():
        return None
    with np.load(run.path(TABLE), allow_pickle=False) as saved:
        table = UnitTable(**{field.name: saved[field.name] for field in fields(UnitTable)})
    records = read_as(run.path(EVIDENCE), FeatureEvidence, _step(run.root))
    return CollectedFeatures.of({evidence.unit: evidence for evidence in records}, table)


def _step(folder: Path) -> str:
    return f"Remove {folder / TABLE} and give the same command: the units are read again."


def feature_evidence_of(folder: Path, unit: Feature) -> FeatureEvidence:
    """A unit's evidence from a run on disk. Raises BadInput where there is none: other evidence would be no answer."""
    path = folder / EVIDENCE
    if not path.exists():
        raise BadInput(f"--out {folder} holds no evidence of units. Give the folder of a run, or leave --out away.")
    records = read_as(path, FeatureEvidence, _step(folder))
    found = next((e for e in records if e.unit == unit), None)
    if found is None:
        raise BadInput(f"the run in {folder} has no {unit}. Name one of its units, or leave --out away.")
    return found
