"""Backup heads: what removing a head changes in the end, beside what it writes directly (scoring_validity rule 13).

At a row, the head's z becomes its mean. *Total*: the centred logit of the true next token lost when everything
downstream is recomputed. *Direct*: what the removed write (z - mean) W_O itself adds to that logit, through the final
norm with its scale frozen, all later heads and MLPs as they were. Where later heads step in for the missing one, the
total is far below the direct effect: the head is not without effect, and it should be ablated together with its group.
(Interpretability in the wild, arXiv 2211.00593.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.evidence.effects import kl_divergence
from autointerp.model import LanguageModel, Readout
from autointerp.model.one_position import RowChanges, run_changes
from autointerp.records import Head, Interval
from autointerp.scoring.conditional_cases import spread
from autointerp.scoring.direct import direct_rows
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Resamples, interval

BACKED_UP = 0.5


@dataclass(frozen=True, eq=False)
class TotalAndDirect:
    """Means over rows with document intervals, logits of the true next token; `kl` of the total effect, nats."""

    total: Interval
    direct: Interval
    kl: Interval
    direct_size: float  # mean |direct|
    total_size: float

    @property
    def backed_up(self) -> bool:
        """Whether the total is far below the direct effect: same rows, under half of its mean size."""
        return self.direct_size > 0 and self.total_size < BACKED_UP * self.direct_size


def total_and_direct(
    model: LanguageModel,
    held_out: HeldOutRows,
    heads: Sequence[Head],
    z_mean: Float[np.ndarray, "layer head d_head"],
    seed: int,
    rows: int = 40,
) -> dict[Head, TotalAndDirect]:
    """Both effects of each head on the same seeded rows, documents spread. Raises ModelError where writes cannot be
    read as logits (`Readout.of`)."""
    readout = Readout.of(model, model.to_ids(held_out.ids[:8]))
    usable = held_out.rows & (np.arange(held_out.ids.shape[1]) < held_out.lengths[:, None] - 1)
    window, dst = np.nonzero(usable)
    kept = spread(held_out.documents[window], rows, np.random.default_rng(seed))
    where = np.zeros_like(usable)
    where[window[kept], dst[kept]] = True
    window, dst = np.nonzero(where)
    direct = np.concatenate([effects for _, effects in direct_rows(model, readout, held_out, where, z_mean)])
    token = held_out.ids[window, dst + 1].astype(np.int64)
    n = len(window)
    layer, index = (np.repeat([getattr(h, name) for h in heads], n) for name in ("layer", "index"))
    means = np.repeat(np.stack([z_mean[h.layer, h.index] for h in heads]), n, axis=0).astype(np.float32)
    changes = RowChanges(np.tile(window, len(heads)), np.tile(dst, len(heads)), layer, index, means)
    found = np.full((2, len(changes)), np.nan)
    followed = np.tile(token, len(heads))

    def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        lost = (before - after).double()
        lost_next = (lost - lost.mean(1, keepdim=True)).cpu().numpy()[np.arange(len(numbers)), followed[numbers]]
        found[:, numbers] = lost_next, kl_divergence(before, after).cpu().numpy()

    run_changes(model, held_out.ids, changes, max(8, min(256, 8_000_000 // model.d_vocab)), read)
    total, kl = found.reshape(2, len(heads), n)
    resamples = Resamples.of(held_out.n_documents, seed)
    documents = held_out.documents[window]
    return {
        head: _effects((total[i], direct[:, head.layer, head.index], kl[i]), documents, resamples)
        for i, head in enumerate(heads)
    }


def _effects(
    values: tuple[Float64[np.ndarray, " row"], ...], documents: Int[np.ndarray, " row"], resamples: Resamples
) -> TotalAndDirect:
    n_docs = resamples.counts.shape[1]
    number = resamples.counts @ np.bincount(documents, minlength=n_docs)
    found: list[Interval] = []
    for value in values:
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = interval((resamples.counts @ np.bincount(documents, value, n_docs)) / number)
        found.append(Interval(value=float(value.mean()), low=low, high=high, n=len(value)))
    total, direct, kl = found
    return TotalAndDirect(total, direct, kl, float(np.abs(values[1]).mean()), float(np.abs(values[0]).mean()))
