"""Direct effect of every head: what its write says about the true next token, all later layers left alone.

1. Per layer, the change of the head's output when z is replaced by its mean is `(z - mean) W_O[head]`.
2. It is read through the final norm, whose scale is frozen at the row's own, on the centred logit of the true next
   token (scoring_validity rule 13). Positive: the head raises the next token.
3. Mean over rows, interval by document bootstrap. One forward a batch serves all heads: the token's direction is
   taken back through W_O once, and z is multiplied with that.

Later heads and MLPs that would answer the change are not asked: that is the total effect (`scoring.ablation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model import LanguageModel, Readout, Rows
from autointerp.records import Head, Interval, Unscored
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Resamples, interval

SCORER = "direct_effect"
FIT_WINDOWS = 4  # windows on which the final norm's gain is read off
BATCH = 8


def direct_effects(
    model: LanguageModel, held_out: HeldOutRows, z_mean: Float[np.ndarray, "layer head d_head"]
) -> dict[Head, Interval] | Unscored:
    """Mean direct effect of every head, centred logits of the true next token; `z_mean` from the explain split.

    All rows of `held_out` with a next token in their window count. `Unscored` where the model's writes cannot be read
    as logits.
    """
    try:
        readout = Readout.of(model, model.to_ids(held_out.ids[:FIT_WINDOWS]))
    except ModelError as error:
        return Unscored(scorer=SCORER, reason=str(error))
    following = np.arange(held_out.ids.shape[1]) < held_out.lengths[:, None] - 1
    where = held_out.rows & following
    sums = np.zeros((held_out.n_documents, model.n_layers, model.n_heads))
    for window, effects in direct_rows(model, readout, held_out, where, z_mean):
        np.add.at(sums, held_out.documents[window], effects)
    counts = np.bincount(held_out.documents, weights=where.sum(1), minlength=held_out.n_documents)
    return _intervals(sums, counts)


def direct_rows(
    model: LanguageModel,
    readout: Readout,
    held_out: HeldOutRows,
    where: Bool[np.ndarray, "window pos"],
    z_mean: Float[np.ndarray, "layer head d_head"],
) -> Iterator[tuple[Int[np.ndarray, " row"], Float64[np.ndarray, "row layer head"]]]:
    """Batches of (window of each row, direct effect of each head there), rows in the order of `np.nonzero(where)`;
    `where` must mark rows with a next token in their window."""
    for start in range(0, len(held_out.ids), BATCH):
        part = slice(start, start + BATCH)
        if where[part].any():
            window, effects = _batch(model, readout, held_out.ids[part], where[part], z_mean)
            yield window + start, effects


def _batch(
    model: LanguageModel,
    readout: Readout,
    ids: Int[np.ndarray, "window pos"],
    where: Bool[np.ndarray, "window pos"],
    z_mean: Float[np.ndarray, "layer head d_head"],
) -> tuple[Int[np.ndarray, " row"], Float64[np.ndarray, "row layer head"]]:
    """(window of each row, direct effect of each head there)."""
    row_window, pos = np.nonzero(where)
    rows = Rows(*(torch.as_tensor(a, device=model.device) for a in (row_window, pos)))
    next_ids = torch.as_tensor(ids[row_window, pos + 1].astype(np.int64), device=model.device)
    direction = readout.to_logits[:, next_ids].T
    found: dict[int, Tensor] = {}

    def reading(layer: int) -> Callable[[Tensor, Any], None]:
        mean = torch.as_tensor(z_mean[layer], dtype=torch.float32, device=model.device)

        def read(z: Tensor, hook: Any) -> None:
            own = z.reshape(*ids.shape, model.n_heads, -1)[rows.window, rows.pos].float() - mean
            found[layer] = (own * torch.einsum("rm,hdm->rhd", direction, model.W_O(layer))).sum(-1)

        return read

    hooks = [(f"blocks.{layer}.attn.hook_z", reading(layer)) for layer in range(model.n_layers)]
    with model.hooks(hooks):
        residual = model.final_states(model.to_ids(ids))[0]
    scale = readout.scale(residual[rows.window, rows.pos])
    effects = torch.stack([found[layer] for layer in range(model.n_layers)], 1) / scale[:, None, None]
    return row_window, effects.double().cpu().numpy()


def _intervals(
    sums: Float64[np.ndarray, "doc layer head"], counts: Float64[np.ndarray, " doc"]
) -> dict[Head, Interval]:
    n = int(counts.sum())
    places = [Head(layer=layer, index=index) for layer in range(sums.shape[1]) for index in range(sums.shape[2])]
    if n == 0:
        nan = float("nan")
        return {head: Interval(value=nan, low=nan, high=nan, n=0) for head in places}
    resamples = Resamples.of(len(counts), seed=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = resamples.totals(sums) / resamples.totals(counts)[:, None, None]
    found: dict[Head, Interval] = {}
    for head in places:
        low, high = interval(drawn[:, head.layer, head.index])
        value = float(sums[:, head.layer, head.index].sum() / n)
        found[head] = Interval(value=value, low=low, high=high, n=n)
    return found
