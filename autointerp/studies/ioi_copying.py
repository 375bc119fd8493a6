"""What heads write in the task: the direction of their writes, and copying by the paper's definition (section 3.1).

1. Writing direction: the attention from END to a name beside what the head writes along that name at END,
   `<z W_O, W_U'[:, name]>` with `W_U'` the unembedding behind the final norm's gain, centred, and the norm's divisor
   left out (one number a prompt). A point for IO and one for S in each prompt; attention to S is that to S1 and S2
   together, as in the paper.
2. Copying: the stream after the first MLP at the names of the prompts, through the head's values and output and the
   final norm; the share of names that are among the 5 highest logits (for negative heads, the 5 lowest). The
   detectors' `copying` feeds single tokens and reads what the head's own layer sees: another number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS
from autointerp.evidence.detector_output import ranked
from autointerp.model import LanguageModel, Readout
from autointerp.model.frozen_norm import FrozenNorm
from autointerp.model.nodes import read_nodes
from autointerp.records import Head
from autointerp.stats.bootstrap import Estimate, Resamples, interval
from autointerp.studies.ioi_trace import prompt_attention

TOP = 5
COPIED = ("IO", "S1", "S2")


@dataclass(frozen=True, eq=False)
class Direction:
    """Points of one head, IO and S in the columns, with their correlation over all points."""

    head: Head
    attention: Float64[np.ndarray, "name prompt"]
    written: Float64[np.ndarray, "name prompt"]
    correlation: Estimate


@dataclass(frozen=True, eq=False)
class Copying:
    """Share of names among the 5 highest (`copies`) and lowest (`suppresses`) logits, by head; NaN at layer 0."""

    copies: Float64[np.ndarray, "layer head"]
    suppresses: Float64[np.ndarray, "layer head"]
    n: int

    def average(self) -> tuple[float, float]:
        """Over all heads that have one."""
        return float(np.nanmean(self.copies)), float(np.nanmean(self.suppresses))


def directions(
    model: LanguageModel, prompts: ContrastSet, heads: Sequence[Head], seed: int = 0
) -> tuple[Direction, ...]:
    """Writing direction of some heads on the clean prompts."""
    looked = prompt_attention(model, prompts, [("END", role) for role in COPIED])
    written = np.zeros((2, len(heads), len(prompts)))
    readout = Readout.of(model, model.to_ids(prompts.clean[:8]))
    names = torch.from_numpy(np.stack([prompts.answer, prompts.wrong])).to(model.device)
    for rows in prompts.batches(BATCH_CELLS):
        part = prompts.take(rows)
        ends = torch.from_numpy(part.ends).to(model.device)
        layers = sorted({head.layer for head in heads})
        grids = read_nodes(model, model.to_ids(part.clean), [("z", layer) for layer in layers])
        each = torch.arange(len(rows), device=model.device)
        for number, head in enumerate(heads):
            z = grids["z", head.layer][each, ends, head.index].float()
            write = z @ model.W_O(head.layer)[head.index]
            for k in (0, 1):
                along = (write * readout.to_logits[:, names[k, rows]].T).sum(-1)
                written[k, number, rows] = along.double().cpu().numpy()
    resamples = Resamples.of(len(prompts), seed)
    found = []
    for number, head in enumerate(heads):
        io, s1, s2 = (looked[k, head.layer, head.index] for k in range(3))
        attention = np.stack([io, s1 + s2])
        found.append(
            Direction(head, attention, written[:, number], _correlation(attention, written[:, number], resamples))
        )
    return tuple(found)


def _correlation(
    x: Float64[np.ndarray, "name prompt"], y: Float64[np.ndarray, "name prompt"], resamples: Resamples
) -> Estimate:
    """Pearson over both names, with prompts resampled."""
    sums = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y]).sum(1).T  # prompt, statistic

    def pearson(total: Float64[np.ndarray, "*draw 6"]) -> Float64[np.ndarray, "*draw"]:
        n, sx, sy, sxx, syy, sxy = np.moveaxis(total, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((n * sxy - sx * sy) / np.sqrt((n * sxx - sx**2) * (n * syy - sy**2)))

    return Estimate(float(pearson(sums.sum(0))), *interval(pearson(resamples.totals(sums))))


def copying(model: LanguageModel, prompts: ContrastSet) -> Copying:
    """Of all heads above the first layer, over IO, S1 and S2 of the clean prompts."""
    states, targets = _names_after_first_mlp(model, prompts)
    readout = Readout.of(model, model.to_ids(prompts.clean[:8]))
    shape = (model.n_layers, model.n_heads)
    copies, suppresses = np.full(shape, np.nan), np.full(shape, np.nan)
    for layer in range(1, model.n_layers):
        norm = FrozenNorm.of(model.bridge.blocks[layer].ln1, states[:64])
        values = torch.einsum("nm,kmd->nkd", norm.moved(states), model.W_V(layer))
        writes = torch.einsum("nhd,hdm->nhm", model.expand_kv(values), model.W_O(layer))
        for head in range(model.n_heads):
            up, down = ranked(writes[:, head], targets, readout.to_logits, TOP)
            copies[layer, head], suppresses[layer, head] = float(up.float().mean()), float(down.float().mean())
    return Copying(copies, suppresses, len(targets))


def _names_after_first_mlp(
    model: LanguageModel, prompts: ContrastSet
) -> tuple[Float[Tensor, "name d_model"], Float[Tensor, " name"]]:
    """The stream after the first block at every name, and the names."""
    found, targets = [], []
    for rows in prompts.batches(BATCH_CELLS):
        part = prompts.take(rows)
        ids = model.to_ids(part.clean)
        stream = read_nodes(model, ids, [("resid_post", 0)])["resid_post", 0][:, :, 0].float()
        each = torch.arange(len(rows), device=ids.device)
        for role in COPIED:
            at = torch.from_numpy(part.role(role)).to(ids.device)
            found.append(stream[each, at])
            targets.append(ids[each, at])
    return torch.cat(found), torch.cat(targets)
