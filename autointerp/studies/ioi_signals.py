"""What heads say about S: which name it is (token signal), or in which place it stood (position signal) (section 8).

z of the heads at END is taken from runs of flipped prompts that carry the two signals original, random or inverted, and
put into the original prompts. The logit differences of the six runs are fitted by `p * position + t * token` with
signals 1, 0, -1: p and t are what the two kinds are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from autointerp.circuits.ablation import CircuitNode
from autointerp.circuits.cells import Cell
from autointerp.circuits.circuit import check_nodes
from autointerp.circuits.patching import cell_mask
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS, Batch, Job
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.patched_runs import Edit
from autointerp.stats.bootstrap import Estimate, Resamples, interval
from autointerp.studies.ioi_data import SIGNALS, Fillers, IoiPrompt, ioi_set

WORTH = {"original": 1.0, "random": 0.0, "inverted": -1.0}


@dataclass(frozen=True, eq=False)
class Signals:
    """`logit_diff[token, position]` with intervals; the two slopes; the fit's mean error over the mean size."""

    logit_diff: dict[tuple[str, str], Estimate]
    position: Estimate
    token: Estimate
    error: float


def signals(
    model: LanguageModel, prompts: Sequence[IoiPrompt], fillers: Fillers, nodes: Sequence[CircuitNode], seed: int = 0
) -> Signals:
    """Patch z of the nodes from the six flipped sets. Raises BadInput without nodes."""
    if not nodes:
        raise BadInput("no head was named whose signals are to be measured.")
    runs = {key: ioi_set(model, prompts, fillers, flip, seed) for key, flip in SIGNALS.items()}
    values = {key: _patched(model, found, nodes) for key, found in runs.items()}
    resamples = Resamples.of(len(prompts), seed)
    design = np.array([[WORTH[position], WORTH[token]] for token, position in values])
    table = np.stack(list(values.values()))
    slopes = np.linalg.pinv(design) @ table.mean(1)
    drawn = np.linalg.pinv(design) @ (resamples.totals(table.T).T / len(prompts))
    fitted = design @ slopes
    error = float(np.abs(fitted - table.mean(1)).mean() / np.abs(table.mean(1)).mean())
    means = {
        key: Estimate(float(row.mean()), *interval(resamples.totals(row) / len(row))) for key, row in values.items()
    }
    position, token = (Estimate(float(slopes[n]), *interval(drawn[n])) for n in (0, 1))
    return Signals(means, position, token, error)


def _patched(model: LanguageModel, found: ContrastSet, nodes: Sequence[CircuitNode]) -> np.ndarray:
    """Logit difference of each original prompt with z of all nodes from its flip."""
    check_nodes(model, found, nodes)
    layers = sorted({node.head.layer for node in nodes})
    job = replace(Job("noise", ("logit_diff",)), nodes=tuple(("z", layer) for layer in layers))
    out = np.zeros(len(found))
    for rows in found.batches(BATCH_CELLS):
        batch = Batch.of(model, found.take(rows), rows, job)
        edits: list[Edit] = []
        for layer in layers:
            grid = batch.source["z", layer]
            mask = torch.zeros(grid.shape[:3], dtype=torch.bool)
            for node in nodes:
                if node.head.layer == layer:
                    mask |= cell_mask(Cell(layer, node.head.index, node.position), batch.prompts, *grid.shape[2:0:-1])
            edits.append(Edit("z", layer, mask[None].to(grid.device), grid[None]))
        out[rows] = batch.reader.values(batch.base.final(edits, 1), ("logit_diff",))["logit_diff"][0]
    return out
