"""What the MLPs are worth: the logit difference with one, all but the first, or all of them knocked out (section 8).

An MLP's output is replaced at every position by its mean over the reference prompts (`abc`) of the same group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from autointerp.circuits.measures import Reader
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import BATCH_CELLS
from autointerp.model import LanguageModel
from autointerp.model.nodes import NodeKind, read_nodes
from autointerp.model.patched_runs import BaseRun, Edit
from autointerp.stats.bootstrap import Estimate, Resamples, interval


@dataclass(frozen=True)
class MlpKnockouts:
    """Logit difference by what is out: nothing, each MLP, `all but MLP 0`, `all`."""

    logit_diff: dict[str, Estimate]
    n: int


def mlp_knockouts(model: LanguageModel, prompts: ContrastSet, seed: int = 0) -> MlpKnockouts:
    """`prompts`: clean beside the reference; the prompts of a group have one length."""
    layers = range(model.n_layers)
    out: dict[str, list[int]] = {"nothing": [], **{f"MLP {layer}": [layer] for layer in layers}}
    out |= {"all but MLP 0": list(layers[1:]), "all": list(layers)}
    values = np.zeros((len(out), len(prompts)))
    for group in dict.fromkeys(prompts.groups):
        rows = np.array([n for n, name in enumerate(prompts.groups) if name == group])
        values[:, rows] = _group(model, prompts.take(rows), list(out.values()))
    resamples = Resamples.of(len(prompts), seed)
    found = {
        name: Estimate(float(row.mean()), *interval(resamples.totals(row) / len(row)))
        for name, row in zip(out, values, strict=True)
    }
    return MlpKnockouts(found, len(prompts))


def _group(model: LanguageModel, prompts: ContrastSet, out: list[list[int]]) -> np.ndarray:
    """Logit differences `[what prompt]` of one group."""
    size = int(prompts.lengths.max())
    wanted: list[tuple[NodeKind, int]] = [("mlp_out", layer) for layer in range(model.n_layers)]
    means = read_nodes(model, model.to_ids(prompts.corrupted[:, :size]), wanted)
    base = BaseRun(model, model.to_ids(prompts.clean[:, :size]), torch.from_numpy(prompts.ends).to(model.device))
    reader = Reader(model, prompts)
    step = max(1, BATCH_CELLS // (size * len(prompts)))
    found = []
    for start in range(0, len(out), step):
        some = out[start : start + step]
        edits = []
        for kind, layer in wanted:
            mask = torch.tensor([layer in one for one in some], device=model.device)[:, None, None, None]
            if bool(mask.any()):
                edits.append(Edit(kind, layer, mask, means[kind, layer].mean(0, keepdim=True)[None]))
        found.append(reader.values(base.final(edits, len(some)), ("logit_diff",))["logit_diff"])
    return np.concatenate(found)
