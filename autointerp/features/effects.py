"""What the next-token distribution loses at a row when one unit's activation there is replaced by its mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.evidence.effects import kl_divergence
from autointerp.features.activations import Units
from autointerp.model import LanguageModel
from autointerp.model.one_position import run_additions
from autointerp.model.row_changes import UnitRows, unit_additions
from autointerp.records import Feature, TokenValue

N_TOKENS = 5


@dataclass(frozen=True)
class UnitPlace:
    """A row to test: window `window` of the ids handed over, and how far the mean is above the raw activation."""

    feature: Feature
    window: int
    dst: int
    change: float
    next_id: int | None


@dataclass(frozen=True)
class UnitEffect:
    """`dlogp_next`: log p(next) with the unit minus without, nats (NaN at a row's end); `kl`: from the original to
    the changed distribution; tokens whose centred logit falls or rises most without it."""

    dlogp_next: float
    kl: float
    lowered: tuple[TokenValue, ...]
    raised: tuple[TokenValue, ...]


def unit_effects(
    model: LanguageModel,
    units: Units,
    ids: Int[np.ndarray, "window pos"],
    places: Sequence[UnitPlace],
    batch_size: int,
) -> list[UnitEffect]:
    """Effects in the order of `places`; `ids` may be padded on the right."""
    if not places:
        return []
    found: dict[int, UnitEffect] = {}

    def read(rows: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        kl = kl_divergence(before, after)
        gain = before - after
        centred = gain - gain.mean(-1, keepdim=True)
        down, up = _extremes(centred, model.strings), _extremes(-centred, model.strings)
        for i, row in enumerate(rows.tolist()):
            following = places[row].next_id
            lost = float("nan") if following is None else float(gain[i, following])
            found[row] = UnitEffect(lost, float(kl[i]), _signed(down[i], -1), _signed(up[i], 1))

    at = [units.place(p.feature) for p in places]
    rows = UnitRows(
        np.array([p.window for p in places]),
        np.array([p.dst for p in places]),
        np.array([site for site, _ in at]),
        np.array([index for _, index in at]),
        np.array([p.change for p in places], np.float32),
    )
    run_additions(model, ids, unit_additions(model, units.sites, rows), batch_size, read)
    return [found[row] for row in range(len(places))]


def _extremes(change: Float[Tensor, "row d_vocab"], strings: Sequence[str]) -> list[list[tuple[str, float]]]:
    """The most positive changes of each row."""
    values, tokens = torch.topk(change, min(N_TOKENS, change.shape[1]))
    return [
        [(strings[t], float(f"{v:.4g}")) for v, t in zip(some, ids, strict=True) if v > 0]
        for some, ids in zip(values.tolist(), tokens.tolist(), strict=True)
    ]


def _signed(found: list[tuple[str, float]], sign: int) -> tuple[TokenValue, ...]:
    return tuple(TokenValue(token=token, value=sign * value) for token, value in found)
