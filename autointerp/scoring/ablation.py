"""Whole-head mean ablation on held-out rows: rise of the loss and KL, and both at the destinations of a claim.

The head's z is replaced by its mean over the explain split at every position after the first; everything downstream
is recomputed. Loss: log p(next) before minus after, nats. KL: from the original to the ablated next-token
distribution, nats. A seeded sample of positions is scored where the vocabulary is large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from autointerp.model import CleanRun, LanguageModel, clean_run, log_probs, with_changed_z
from autointerp.records import Head, Interval
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Resamples, interval

VOCABULARY_CELLS = 1_500_000  # positions of a window times vocabulary, above which positions are sampled
BATCH_CELLS = 30_000_000


@dataclass(frozen=True)
class Effects:
    """Per destination effects of ablating each head; NaN where a destination was not scored.

    `loss`, `kl`: `[head window pos]`, nats, heads in the order given.
    """

    held_out: HeldOutRows
    heads: tuple[Head, ...]
    loss: Float32[np.ndarray, "head window pos"]
    kl: Float32[np.ndarray, "head window pos"]

    def mean(self, head: Head, what: str, where: Bool[np.ndarray, "window pos"] | None = None) -> Interval:
        """Mean over scored destinations (those in `where`), interval by document bootstrap."""
        values = (self.loss if what == "loss" else self.kl)[self.heads.index(head)].astype(np.float64)
        there = ~np.isnan(values) if where is None else ~np.isnan(values) & where
        n = int(there.sum())
        if n == 0:
            return Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
        by_document = [
            np.bincount(self.held_out.documents, weights=part.sum(1), minlength=self.held_out.n_documents)
            for part in (np.where(there, values, 0.0), there.astype(float))
        ]
        counts = Resamples.of(self.held_out.n_documents, seed=0).counts
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = interval((counts @ by_document[0]) / (counts @ by_document[1]))
        return Interval(value=float(values[there].mean()), low=low, high=high, n=n)


def scored_positions(held_out: HeldOutRows, d_vocab: int, rng: np.random.Generator) -> Bool[np.ndarray, "window pos"]:
    """Destinations with a next token inside the row, at most VOCABULARY_CELLS / d_vocab of them a window."""
    usable = held_out.rows & (np.arange(held_out.ids.shape[1]) < held_out.lengths[:, None] - 1)
    limit = max(12, VOCABULARY_CELLS // d_vocab)
    order = rng.random(usable.shape)
    rank = np.argsort(np.argsort(np.where(usable, order, 2.0), axis=1), axis=1)
    return usable & (rank < limit)


def ablate_heads(
    model: LanguageModel,
    held_out: HeldOutRows,
    heads: tuple[Head, ...],
    z_mean: Float[np.ndarray, "layer head d_head"],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Effects:
    """Mean-ablate each of `heads` alone; `z_mean` from the explain split."""
    scored = scored_positions(held_out, model.d_vocab, np.random.default_rng(seed))
    shape = (len(heads), *held_out.ids.shape)
    loss, kl = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    most = int(scored.sum(1).max(initial=1))
    step = max(1, min(16, BATCH_CELLS // max(most * model.d_vocab, 1)))
    means = torch.as_tensor(z_mean, dtype=torch.float32, device=model.device)
    for start in range(0, len(held_out.ids), step):
        part = slice(start, start + step)
        run = clean_run(model, model.to_ids(held_out.ids[part]))
        at = _Positions.of(held_out.ids[part], scored[part], model.device)
        before = log_probs(model, run.hidden[at.window, at.pos])
        for number, head in enumerate(heads):
            after = _ablated(model, run, head, means[head.layer, head.index], at)
            rise, divergence = _effects(before, after, at.next_ids)
            loss[number, part][scored[part]] = rise
            kl[number, part][scored[part]] = divergence
        if progress is not None:
            progress(min(start + step, len(held_out.ids)), len(held_out.ids))
    return Effects(held_out, heads, loss, kl)


@dataclass(frozen=True)
class _Positions:
    window: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    next_ids: Int[Tensor, " row"]

    @classmethod
    def of(
        cls, ids: Int[np.ndarray, "window pos"], scored: Bool[np.ndarray, "window pos"], device: torch.device
    ) -> _Positions:
        window, pos = np.nonzero(scored)
        following = ids[window, pos + 1].astype(np.int64)
        return cls(*(torch.as_tensor(a, device=device) for a in (window, pos, following)))


def _ablated(
    model: LanguageModel, run: CleanRun, head: Head, mean: Float[Tensor, " d_head"], at: _Positions
) -> Float[Tensor, "row d_vocab"]:
    def change(z: Tensor) -> Tensor:
        z[:, 1:, head.index] = mean.to(z.dtype)
        return z

    hidden = with_changed_z(model, run, head.layer, change)
    return log_probs(model, hidden[at.window, at.pos])


def _effects(
    before: Float[Tensor, "row d_vocab"], after: Float[Tensor, "row d_vocab"], next_ids: Int[Tensor, " row"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    rise = (before - after).gather(1, next_ids[:, None])[:, 0]
    kl = (before.exp() * (before - after)).sum(-1).clamp_min(0)
    return rise.cpu().numpy(), kl.cpu().numpy()
