"""Activations of probe items at any number of sites, with ablations and cuts applied (probing sections 3 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.model import LanguageModel
from autointerp.model.site_changes import Cuts, Replacement, SiteChanges, ZAblation, z_pool
from autointerp.model.sites import Batch, Row, Site, read_sites
from autointerp.probing.items import ProbeSet
from autointerp.records import Head

Ablation = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class CollectOptions:
    """How to collect. `ablation` says what stands for an ablated head's z: zero, its mean over the probe texts, or
    one of its vectors there, drawn under the seed; `everywhere`: at all positions, else at the item's own.
    `cut_heads`: where cuts act, None for all heads of all layers."""

    ablation: Ablation = "zero"
    everywhere: bool = False
    cut_heads: tuple[Head, ...] | None = None
    batch_size: int = 16
    seed: int = 0


def collect(
    model: LanguageModel, probe_set: ProbeSet, sites: Sequence[Site], options: CollectOptions | None = None
) -> dict[Site, Float[Tensor, "item d"]]:
    """One forward a batch serves all sites; float32 on the CPU, items in order."""
    options = options or CollectOptions()
    rows = rows_of(probe_set)
    return read_sites(model, rows, sites, changes_of(model, probe_set, options), options.batch_size)


def rows_of(probe_set: ProbeSet) -> list[Row]:
    """The items as rows to run."""
    return [Row(placed.ids, placed.position) for placed in probe_set.items]


def changes_of(model: LanguageModel, probe_set: ProbeSet, options: CollectOptions) -> SiteChanges | None:
    """The ablations and cuts of all items; None where there are none, so that nothing is hooked."""
    heads = [placed.ablate for placed in probe_set.items]
    edges = [placed.cut for placed in probe_set.items]
    listed = sorted({head for each in heads for head in each})
    ablation = None
    if listed:
        ablation = ZAblation(heads, _replacement(model, probe_set, listed, options), options.everywhere)
    cuts = Cuts(edges, options.cut_heads) if any(edges) else None
    return SiteChanges(model, ablation, cuts) if ablation or cuts else None


def _replacement(
    model: LanguageModel, probe_set: ProbeSet, heads: Sequence[Head], options: CollectOptions
) -> Replacement:
    if options.ablation == "zero":
        return lambda head, batch: torch.zeros(1, 1, 1)
    rows = rows_of(probe_set)
    pool = z_pool(model, rows, heads, everywhere=options.everywhere, batch_size=options.batch_size)
    if options.ablation == "mean":
        means = {head: vectors.mean(0) for head, vectors in pool.items()}
        return lambda head, batch: means[head][None, None]
    return lambda head, batch: _drawn(pool[head], head, batch, options.seed)


def _drawn(vectors: Float[Tensor, "vector d_head"], head: Head, batch: Batch, seed: int) -> Tensor:
    """A vector for each row and position; the draw depends on the row's number, not on its batch."""
    picks = torch.zeros(batch.ids.shape, dtype=torch.int64)
    for row, (number, length) in enumerate(zip(batch.numbers.tolist(), batch.lengths.tolist(), strict=True)):
        draw = np.random.default_rng([seed, head.layer, head.index, number])
        picks[row, :length] = torch.as_tensor(draw.integers(len(vectors), size=length))
    return vectors[picks]
