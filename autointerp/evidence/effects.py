"""What the next-token distribution loses at one row when one head's output there is replaced by its mean.

Rows of one layer run together, each as its own batch entry cut at its destination: one clean forward, then the blocks
from the changed layer on (`model.resume`). Rows are sorted by length, so that little padding is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model import LanguageModel, clean_run, log_probs, with_changed_z
from autointerp.records import Head


@dataclass(frozen=True)
class RowEffect:
    """`dlogp_next`: log p(next) with the head minus without, nats (positive: the head helps; NaN at a row's end);
    `kl`: from the original to the ablated distribution, nats."""

    dlogp_next: float
    kl: float


@dataclass(frozen=True)
class RowPlace:
    """A row to test: the head, the window's ids up to and with the destination, and the true next id if any."""

    head: Head
    ids: tuple[int, ...]
    next_id: int | None


def row_effects(
    model: LanguageModel,
    places: Sequence[RowPlace],
    z_mean: Float[np.ndarray, "layer head d_head"],
    batch_size: int,
) -> list[RowEffect]:
    """Effects in the order of `places`."""
    means = torch.as_tensor(z_mean, dtype=torch.float32, device=model.device)
    order = sorted(range(len(places)), key=lambda i: (places[i].head.layer, len(places[i].ids)))
    found: list[RowEffect | None] = [None] * len(places)
    start = 0
    while start < len(order):
        layer = places[order[start]].head.layer
        stop = start
        while stop < len(order) and stop - start < batch_size and places[order[stop]].head.layer == layer:
            stop += 1
        part = order[start:stop]
        for i, effect in zip(part, _batch(model, [places[i] for i in part], means[layer]), strict=True):
            found[i] = effect
        start = stop
    return [effect for effect in found if effect is not None]


def _batch(model: LanguageModel, places: list[RowPlace], means: Float[Tensor, "head d_head"]) -> list[RowEffect]:
    size = max(len(p.ids) for p in places)
    ids = np.zeros((len(places), size), np.int64)
    for row, place in enumerate(places):
        ids[row, : len(place.ids)] = place.ids
    run = clean_run(model, model.to_ids(ids))
    rows = torch.arange(len(places), device=run.ids.device)
    last = torch.tensor([len(p.ids) - 1 for p in places], device=run.ids.device)
    heads = torch.tensor([p.head.index for p in places], device=run.ids.device)

    def change(z: Tensor) -> Tensor:
        z[rows, last, heads] = means[heads].to(z.dtype)
        return z

    hidden = with_changed_z(model, run, places[0].head.layer, change)
    before, after = log_probs(model, run.hidden[rows, last]), log_probs(model, hidden[rows, last])
    kl = (before.exp() * (before - after)).sum(-1).clamp_min(0)
    return [RowEffect(_gain(before[i] - after[i], place.next_id), float(kl[i])) for i, place in enumerate(places)]


def _gain(difference: Float[Tensor, " d_vocab"], next_id: Int[Tensor, ""] | int | None) -> float:
    return float("nan") if next_id is None else float(difference[next_id])
