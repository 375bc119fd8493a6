"""Backup heads: what removing a head changes in the end, beside what it writes directly (scoring_validity rule 13).

At a row, the head's z becomes its mean. *Total*: the centred logit of the true next token lost when everything
downstream is recomputed. *Direct*: what the removed write (z - mean) W_O itself adds to that logit, through the final
norm with its scale frozen, all later heads and MLPs as they were. Where later heads step in for the missing one, the
total is far below the direct effect: the head is not without effect. It is then removed together with the heads like
it (`groups`), on the same rows, and the total of the group stands beside the sum of the totals of its heads alone.
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
from autointerp.model.group_changes import GroupChange, run_group
from autointerp.model.one_position import RowChanges, run_changes
from autointerp.records import GroupEffect, Head, Interval
from autointerp.scoring.conditional_cases import spread
from autointerp.scoring.direct import direct_rows
from autointerp.scoring.groups import Group
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Resamples, interval

BACKED_UP = 0.5
GROUP_ROWS = 8  # rows of a group that run together


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


@dataclass(frozen=True, eq=False)
class _Rows:
    """Destinations with a true next token in their window."""

    model: LanguageModel
    held_out: HeldOutRows
    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    resamples: Resamples

    @property
    def next_ids(self) -> Int[np.ndarray, " row"]:
        return np.asarray(self.held_out.ids[self.window, self.dst + 1].astype(np.int64))

    def mean(self, values: Float64[np.ndarray, " row"]) -> Interval:
        """Mean over the rows, interval by document bootstrap."""
        documents, n_docs = self.held_out.documents[self.window], self.resamples.counts.shape[1]
        number = self.resamples.counts @ np.bincount(documents, minlength=n_docs)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = interval((self.resamples.counts @ np.bincount(documents, values, n_docs)) / number)
        return Interval(value=float(values.mean()), low=low, high=high, n=len(values))


@dataclass(frozen=True, eq=False)
class RemovedHeads:
    """What removing each of `heads` alone does at the same rows: `total`, `direct`, `kl` [head row]."""

    rows: _Rows
    heads: tuple[Head, ...]
    z_mean: Float[np.ndarray, "layer head d_head"]
    total: Float64[np.ndarray, "head row"]
    direct: Float64[np.ndarray, "head row"]
    kl: Float64[np.ndarray, "head row"]

    def of(self, head: Head) -> TotalAndDirect:
        """Both effects of one of the heads."""
        total, direct, kl = (values[self.heads.index(head)] for values in (self.total, self.direct, self.kl))
        sizes = float(np.abs(direct).mean()), float(np.abs(total).mean())
        return TotalAndDirect(self.rows.mean(total), self.rows.mean(direct), self.rows.mean(kl), *sizes)

    def together(self, group: Group) -> Float64[np.ndarray, " row"]:
        """The total effect of removing the heads of a group at once, at each row: logits of the true next token."""
        rows, next_ids = self.rows, self.rows.next_ids
        layer, index = (np.array([getattr(h, name) for h in group.heads]) for name in ("layer", "index"))
        change = GroupChange(rows.window, rows.dst, layer, index, self.z_mean[layer, index].astype(np.float32))
        found = np.full(len(rows.dst), np.nan)

        def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
            found[numbers] = _lost_next(before, after, next_ids[numbers])

        run_group(rows.model, rows.held_out.ids, change, GROUP_ROWS, read)
        return found

    def group_effect(self, head: Head, group: Group, together: Float64[np.ndarray, " row"]) -> GroupEffect:
        """`together` beside the head alone and the sum of all heads of the group alone; `group` is part of `heads`."""
        singles = self.total[[self.heads.index(h) for h in group.heads]].sum(0)
        return GroupEffect(
            heads=group.heads,
            alike_in=group.alike_in,
            total=self.rows.mean(together),
            alone=self.rows.mean(self.total[self.heads.index(head)]),
            sum_of_singles=self.rows.mean(singles),
            excess=self.rows.mean(together - singles),
        )


def remove_heads(
    model: LanguageModel,
    held_out: HeldOutRows,
    heads: Sequence[Head],
    z_mean: Float[np.ndarray, "layer head d_head"],
    seed: int,
    rows: int = 40,
) -> RemovedHeads:
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
    taken = _Rows(model, held_out, window, dst, Resamples.of(held_out.n_documents, seed))
    total, kl = _one_by_one(taken, heads, z_mean)
    by_head = np.stack([direct[:, head.layer, head.index] for head in heads])
    return RemovedHeads(taken, tuple(heads), z_mean, total, by_head, kl)


def _one_by_one(
    rows: _Rows, heads: Sequence[Head], z_mean: Float[np.ndarray, "layer head d_head"]
) -> Float64[np.ndarray, "total_kl head row"]:
    """Each head removed alone at each row."""
    n = len(rows.dst)
    layer, index = (np.repeat([getattr(h, name) for h in heads], n) for name in ("layer", "index"))
    means = np.repeat(np.stack([z_mean[h.layer, h.index] for h in heads]), n, axis=0).astype(np.float32)
    changes = RowChanges(np.tile(rows.window, len(heads)), np.tile(rows.dst, len(heads)), layer, index, means)
    found = np.full((2, len(changes)), np.nan)
    followed = np.tile(rows.next_ids, len(heads))

    def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        lost_next = _lost_next(before, after, followed[numbers])
        found[:, numbers] = lost_next, kl_divergence(before, after).cpu().numpy()

    batch = max(8, min(256, 8_000_000 // rows.model.d_vocab))
    run_changes(rows.model, rows.held_out.ids, changes, batch, read)
    return found.reshape(2, len(heads), n)


def _lost_next(
    before: Float[Tensor, "part d_vocab"], after: Float[Tensor, "part d_vocab"], next_ids: Int[np.ndarray, " part"]
) -> Float64[np.ndarray, " part"]:
    """Centred logit of the true next token lost by the change."""
    lost = (before - after).double()
    centred = (lost - lost.mean(1, keepdim=True)).cpu().numpy()
    return np.asarray(centred[np.arange(len(next_ids)), next_ids])
