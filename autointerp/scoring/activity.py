"""When a head is active and when it rests, on held-out rows; the thresholds come from the select split alone.

1. Activity of a row: the contribution `sum_s a_s ||v_s W_O||` of its sources off the sink, in residual-stream norm.
2. `high` is the 75 % quantile of activity over select rows; `low` the 25 % quantile, but at most half of `high`.
3. A test row is active with activity >= high and mass off the sink >= tau; it rests with activity <= low, or with
   mass < .05 and activity < high. What lies between is the dead zone (scoring_validity rules 3 and 4).

Rows are all destinations after position 0; in repeats those of the first copy too, where a head that needs a
repetition rests. A head that writes nothing is neither, and one that is about equally active everywhere never rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8

from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.records import Head
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import NO_WRITE

HIGH_QUANTILE, LOW_QUANTILE = 0.75, 0.25
REST_SHARE = 0.5  # of the high threshold: a head at rest writes clearly less than an active one
REST_MASS = 0.05
_ROUNDING = 1e-5  # a head that is either on or off has many rows at the threshold itself


@dataclass(frozen=True)
class RowStates:
    """One head on the test rows: `state` is 1 where it is active, -1 where it rests, 0 between and off the rows.

    `activity` and the thresholds are in residual-stream norm.
    """

    high: float
    low: float
    state: Int8[np.ndarray, "window pos"]
    activity: Float32[np.ndarray, "window pos"]


def row_states(
    model: LanguageModel, select: HeldOutRows, test: HeldOutRows, heads: Sequence[Head], batch_size: int
) -> dict[Head, RowStates]:
    """States of all test rows for `heads`; one pass over each split."""
    floor = NO_WRITE * _stream_norm(model, select, batch_size)
    chosen = read_activity(model, select, heads, batch_size)
    rows = destinations(select)
    limits = {head: _thresholds(chosen[head].activity[rows], floor) for head in heads}
    measured = read_activity(model, test, heads, batch_size)
    return {head: _states(measured[head], limits[head], destinations(test)) for head in heads}


@dataclass(frozen=True)
class RowActivity:
    """One head on all positions of some windows."""

    activity: Float32[np.ndarray, "window pos"]
    mass: Float32[np.ndarray, "window pos"]


def read_activity(
    model: LanguageModel, held_out: HeldOutRows, heads: Sequence[Head], batch_size: int
) -> dict[Head, RowActivity]:
    """Activity and mass off the sink of every row; values off the rows mean nothing."""
    outputs = {layer: OutputGeometry.of(model, layer) for layer in sorted({h.layer for h in heads})}
    shape = held_out.ids.shape
    found = {h: RowActivity(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for h in heads}
    for start in range(0, len(held_out.ids), batch_size):
        part = slice(start, start + batch_size)
        ids = model.to_ids(held_out.ids[part])
        lengths = torch.as_tensor(held_out.lengths[part].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, model.special_ids)

        def keep(layer: Layer, masks: Masks = masks, part: slice = part) -> None:
            attention = layer.pattern.float() * masks.allowed[:, None, None, :]
            norms = write_norms(model, layer, outputs[layer.index])
            activity = (attention @ norms[..., None])[..., 0].cpu().numpy()
            mass = attention.sum(-1).cpu().numpy()
            for head, kept in found.items():
                if head.layer == layer.index:
                    kept.activity[part], kept.mass[part] = activity[:, head.index], mass[:, head.index]

        model.read_attention(ids, list(outputs), keep)
    return found


def destinations(held_out: HeldOutRows) -> Bool[np.ndarray, "window pos"]:
    """All positions after the first that hold a token."""
    positions = np.arange(held_out.ids.shape[1])
    return (positions > 0) & (positions < held_out.lengths[:, None])


def _stream_norm(model: LanguageModel, held_out: HeldOutRows, batch_size: int) -> float:
    residual, _ = model.final_states(model.to_ids(held_out.ids[:batch_size]))
    return float(residual.float().norm(dim=-1).mean())


def _thresholds(activity: Float[np.ndarray, " row"], floor: float) -> tuple[float, float]:
    """(high, low); NaN where the head writes nothing."""
    high, low = (float(np.quantile(activity, q)) for q in (HIGH_QUANTILE, LOW_QUANTILE))
    return (high, min(low, REST_SHARE * high)) if high > floor else (float("nan"), float("nan"))


def _states(row: RowActivity, limits: tuple[float, float], rows: Bool[np.ndarray, "window pos"]) -> RowStates:
    high, low = limits
    active = (row.activity >= (1 - _ROUNDING) * high) & (row.mass >= TAU)
    rests = (row.activity <= (1 + _ROUNDING) * low) | ((row.mass < REST_MASS) & (row.activity < high))
    state = (active.astype(np.int8) - rests.astype(np.int8)) * rows.astype(np.int8)
    return RowStates(high, low, state, row.activity)
