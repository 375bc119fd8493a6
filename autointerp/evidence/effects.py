"""What the next-token distribution loses at one row when one head's output there is replaced by its mean.

Rows of one layer run together, each as its own batch entry cut at its destination: one clean forward, then the blocks
from the changed layer on (`model.one_position.run_whole`). Rows are sorted by length, so that little padding is
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model import LanguageModel
from autointerp.model.one_position import RowChanges, run_whole
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
    if not places:
        return []
    found: dict[int, RowEffect] = {}

    def read(
        rows: Int[np.ndarray, " part"], before: Float[Tensor, "part d_vocab"], after: Float[Tensor, "part d_vocab"]
    ) -> None:
        kl = kl_divergence(before, after)
        for i, row in enumerate(rows.tolist()):
            found[row] = RowEffect(_gain(before[i] - after[i], places[row].next_id), float(kl[i]))

    ids = np.zeros((len(places), max(len(p.ids) for p in places)), np.int64)
    for row, place in enumerate(places):
        ids[row, : len(place.ids)] = place.ids
    layer, head = (np.array([getattr(p.head, name) for p in places]) for name in ("layer", "index"))
    last = np.array([len(p.ids) - 1 for p in places])
    changes = RowChanges(np.arange(len(places)), last, layer, head, z_mean[layer, head].astype(np.float32))
    run_whole(model, ids, changes, batch_size, read)
    return [found[row] for row in range(len(places))]


def kl_divergence(before: Float[Tensor, "row d_vocab"], after: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """KL(before || after) of log-probabilities, nats; rounding below 0 is 0."""
    return (before.exp() * (before - after)).sum(-1).clamp_min(0)


def _gain(difference: Float[Tensor, " d_vocab"], next_id: Int[Tensor, ""] | int | None) -> float:
    return float("nan") if next_id is None else float(difference[next_id])
