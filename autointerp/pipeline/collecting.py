"""Evidence of a run, collected once and kept in the run folder.

`cache/evidence.jsonl` and `cache/collected.npz` are complete when the latter exists; the first pass keeps its own
checkpoint, so a killed collection goes on from there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autointerp.errors import BadInput
from autointerp.evidence.collect import Collected, CollectSpec, Progress, collect
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.lens_readings import stored_readings, with_readings
from autointerp.records import Evidence, Head
from autointerp.store import RunFolder, read_as

EVIDENCE, ARRAYS, CHECKPOINT = "cache/evidence.jsonl", "cache/collected.npz", "cache/first_pass.npz"


def collected_evidence(
    run: RunFolder, inputs: Inputs, heads: Sequence[Head], seed: int, batch_size: int, progress: Progress
) -> Collected:
    """The run's evidence, from disk where it is complete."""
    held = _load(run, heads)
    if held is not None:
        return held
    run.path("cache").mkdir(parents=True, exist_ok=True)
    spec = CollectSpec(seed, batch_size, run.path(CHECKPOINT))
    found = collect(inputs.model, inputs.explain_windows(), heads, spec, progress)
    lines = [json.dumps(found.evidence[head].model_dump(mode="json")) + "\n" for head in heads]
    run.write_text(EVIDENCE, "".join(lines))
    buffer = io.BytesIO()
    np.savez(buffer, z_mean=found.z_mean, pool=found.pool)
    run.write_bytes(ARRAYS, buffer.getvalue())
    run.path(CHECKPOINT).unlink(missing_ok=True)
    return found


def _load(run: RunFolder, heads: Sequence[Head]) -> Collected | None:
    if not run.path(ARRAYS).exists():
        return None
    evidence = {e.head: e for e in read_as(run.path(EVIDENCE), Evidence)}
    if set(evidence) != set(heads):
        return None
    with np.load(run.path(ARRAYS)) as saved:
        return Collected(evidence, saved["z_mean"], saved["pool"])


def evidence_of(folder: Path, head: Head) -> Evidence:
    """A head's evidence from a run on disk. Raises BadInput where there is none: other evidence would be no answer."""
    path = folder / EVIDENCE
    if not path.exists():
        raise BadInput(f"--out {folder} holds no evidence. Give the folder of a run, or leave --out away.")
    records = read_as(path, Evidence)
    found = next((e for e in records if e.head == head), None)
    if found is None:
        raise BadInput(f"the run in {folder} has no head {head}. Name one of its heads, or leave --out away.")
    return with_readings(found, stored_readings(folder, head))
