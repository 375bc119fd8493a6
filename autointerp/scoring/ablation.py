"""Whole-head mean ablation on held-out rows: rise of the loss and KL, and both at the destinations of a claim.

The head's z is replaced by its mean over the explain split at every position after the first; everything downstream
is recomputed. Loss: log p(next) before minus after, nats. KL: from the original to the ablated next-token
distribution, nats.

Where the vocabulary is large, a sample of positions is scored. Each window is scored in one stretch of it, drawn so
that every position has the same chance; windows whose stretches end alike run together and are cut there, because
nothing after a scored position can reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int

from autointerp.model import LanguageModel, LayerChanges, Rows, clean_run
from autointerp.records import Head, Interval
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.next_token import CleanDistributions
from autointerp.stats.bootstrap import Resamples, interval

VOCABULARY_CELLS = 1_500_000  # positions of a window times vocabulary, above which positions are sampled
BATCH_CELLS = 30_000_000  # unchanged log-probabilities kept at once
BATCH_TOKENS = {"cpu": 512}  # positions that run together, windows times heads
GPU_TOKENS = 16_384


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
    """Destinations with a next token inside the row, at most VOCABULARY_CELLS / d_vocab of them a window.

    A window with more is cut into as many equal stretches as the limit allows; windows take the stretches in turn,
    in random order, and the limit is drawn from the stretch.
    """
    usable = held_out.rows & (np.arange(held_out.ids.shape[1]) < held_out.lengths[:, None] - 1)
    limit = max(12, VOCABULARY_CELLS // d_vocab)
    scored = usable.copy()
    for turn, window in enumerate(rng.permutation(len(usable)).tolist()):
        places = np.flatnonzero(usable[window])
        if len(places) > limit:
            stretches = len(places) // limit
            # bounds fall between two positions with the right frequencies, so that no position is favoured
            bounds = np.floor(np.arange(stretches + 1) * len(places) / stretches + rng.random()).astype(int)
            bounds[[0, -1]] = 0, len(places)
            stretch = places[bounds[turn % stretches] : bounds[turn % stretches + 1]]
            scored[window] = False
            scored[window, rng.choice(stretch, min(limit, len(stretch)), replace=False)] = True
    return scored


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
    effects = Effects(held_out, heads, np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32))
    done = 0
    for batch in ablation_batches(held_out, scored, model.d_vocab):
        _ablate_batch(model, batch, z_mean, effects)
        done += len(batch.windows)
        if progress is not None:
            progress(done, len(held_out.ids))
    if progress is not None and done < len(held_out.ids):
        progress(len(held_out.ids), len(held_out.ids))  # windows without a scored position do not run
    return effects


@dataclass(frozen=True)
class AblationBatch:
    """Windows that run together, cut after their last scored position; scored row i is `pos[i]` of their
    `row_window[i]`-th, `next_ids[i]` its true next token."""

    windows: Int[np.ndarray, " window"]
    ids: Int[np.ndarray, "window pos"]
    row_window: Int[np.ndarray, " row"]
    pos: Int[np.ndarray, " row"]
    next_ids: Int[np.ndarray, " row"]


def ablation_batches(
    held_out: HeldOutRows, scored: Bool[np.ndarray, "window pos"], d_vocab: int
) -> Iterator[AblationBatch]:
    """All scored positions, windows that end alike together; at most BATCH_CELLS log-probabilities a batch."""
    size = held_out.ids.shape[1]
    ends = np.where(scored.any(1), size - np.argmax(scored[:, ::-1], axis=1), 0)
    order = np.flatnonzero(ends)[np.argsort(ends[ends > 0], kind="stable")]
    most = max(1, min(16, BATCH_CELLS // max(int(scored.sum(1).max(initial=1)) * d_vocab, 1)))
    start = 0
    while start < len(order):
        alike = int((ends[order[start : start + most]] <= ends[order[start]] + size // 8).sum())
        windows = order[start : start + alike]
        start += alike
        row_window, pos = np.nonzero(scored[windows])
        following = held_out.ids[windows[row_window], pos + 1].astype(np.int64)
        yield AblationBatch(windows, held_out.ids[windows, : int(ends[windows].max())], row_window, pos, following)


class BatchAblation:
    """One batch run unchanged, from which each head's ablation runs on."""

    def __init__(self, model: LanguageModel, batch: AblationBatch) -> None:
        self.model = model
        self.run = clean_run(model, model.to_ids(batch.ids))
        self.rows = Rows(*(torch.as_tensor(a, device=model.device) for a in (batch.row_window, batch.pos)))
        following = torch.as_tensor(batch.next_ids, device=model.device)
        self.clean = CleanDistributions.of(model, self.run.hidden[self.rows.window, self.rows.pos], following)
        self._together = max(1, BATCH_TOKENS.get(model.device.type, GPU_TOKENS) // batch.ids.size)

    def ablate(
        self, layer: int, heads: list[int], means: Float[np.ndarray, "head d_head"]
    ) -> Iterator[tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]]:
        """Rise of the loss and KL at the batch's rows with each of the layer's `heads` ablated alone, in their order;
        `means` of all heads of the layer."""
        changes = LayerChanges(self.model, self.run, layer)
        for start in range(0, len(heads), self._together):
            some = heads[start : start + self._together]
            new = torch.stack([_mean_after_first(changes, head, means[head]) for head in some])
            rises, kls = self.clean.effects(changes.final_rows(some, new, self.rows))
            yield from zip(rises.cpu().numpy(), kls.cpu().numpy(), strict=True)


def _mean_after_first(
    changes: LayerChanges, head: int, mean: Float[np.ndarray, " d_head"]
) -> Float[torch.Tensor, "batch pos d_head"]:
    new = changes.z[:, :, head].clone()
    new[:, 1:] = torch.as_tensor(mean, dtype=new.dtype, device=new.device)
    return new


def _ablate_batch(
    model: LanguageModel, batch: AblationBatch, z_mean: Float[np.ndarray, "layer head d_head"], effects: Effects
) -> None:
    """Ablate each head of `effects` on one batch and write what is found into it."""
    ablation = BatchAblation(model, batch)
    windows = batch.windows[batch.row_window]
    for layer in sorted({head.layer for head in effects.heads}):
        numbers = [number for number, head in enumerate(effects.heads) if head.layer == layer]
        found = ablation.ablate(layer, [effects.heads[number].index for number in numbers], z_mean[layer])
        for number, (rise, kl) in zip(numbers, found, strict=True):
            effects.loss[number, windows, batch.pos] = rise
            effects.kl[number, windows, batch.pos] = kl
