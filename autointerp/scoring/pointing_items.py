"""Items of pointing: held-out rows with one attended source, and sources that the head was measured to leave alone.

1. Test rows of a domain in which one source has a contribution share >= .3; at most one a document.
2. Candidates: that source and up to four others with a measured share <= .02, of the same distance bucket first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.records import Head
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW

N_ITEMS, N_OTHERS = 20, 4


@dataclass(frozen=True)
class PointingItem:
    """A marked destination and its candidates; `candidates[0]` is the attended source."""

    window: int
    document: int
    dst: int
    candidates: tuple[int, ...]


def choose_items(
    model: LanguageModel, held_out: HeldOutRows, heads: Sequence[Head], seed: int, batch_size: int
) -> dict[Head, list[PointingItem]]:
    """Up to N_ITEMS items a head, windows in seeded order."""
    chooser = _Chooser(model, held_out, heads, seed)
    order = np.random.default_rng(seed).permutation(len(held_out.ids))
    for start in range(0, len(order), batch_size):
        if chooser.full():
            break
        chooser.read(order[start : start + batch_size])
    return chooser.items


class _Chooser:
    def __init__(self, model: LanguageModel, held_out: HeldOutRows, heads: Sequence[Head], seed: int) -> None:
        self._model, self._held_out, self._heads, self._seed = model, held_out, heads, seed
        self._outputs = {n: OutputGeometry.of(model, n) for n in sorted({h.layer for h in heads})}
        self.items: dict[Head, list[PointingItem]] = {head: [] for head in heads}

    def full(self) -> bool:
        return all(len(items) >= N_ITEMS for items in self.items.values())

    def read(self, windows: np.ndarray) -> None:
        ids = self._model.to_ids(self._held_out.ids[windows])
        lengths = torch.as_tensor(self._held_out.lengths[windows].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, self._model.special_ids)

        def keep(layer: Layer) -> None:
            norms = write_norms(self._model, layer, self._outputs[layer.index])
            attention = layer.pattern.float() * masks.allowed[:, None, None, :]
            contribution = attention * norms[:, :, None, :]
            a = (contribution / contribution.sum(-1, keepdim=True).clamp_min(1e-30)).cpu().numpy()
            valid = (attention.sum(-1) >= TAU).cpu().numpy()
            for head in self._heads:
                if head.layer == layer.index:
                    for row, window in enumerate(windows):
                        self._item(head, int(window), a[row, head.index], valid[row, head.index])

        self._model.read_attention(ids, list(self._outputs), keep)

    def _item(self, head: Head, window: int, a: Float[np.ndarray, "dst src"], valid: np.ndarray) -> None:
        items = self.items[head]
        document = int(self._held_out.documents[window])
        if len(items) >= N_ITEMS or any(i.document == document for i in items):
            return
        usable = np.flatnonzero(valid & self._held_out.rows[window] & (a.max(-1) >= THETA_HIGH))
        rng = np.random.default_rng([self._seed, head.layer, head.index, window])
        for dst in rng.permutation(usable):
            true = int(a[dst].argmax())
            others = self._others(a[dst], int(dst), true, self._held_out.sources[window], rng)
            if others:
                items.append(PointingItem(window, document, int(dst), (true, *others)))
                return

    @staticmethod
    def _others(
        a: Float[np.ndarray, " src"], dst: int, true: int, sources: np.ndarray, rng: np.random.Generator
    ) -> list[int]:
        """Sources that were measured to get nothing; those at a like distance first."""
        able = np.flatnonzero((a[: dst + 1] <= THETA_LOW) & sources[: dst + 1])
        shuffled = rng.permutation(able)
        bucket = bucket_of(np.array([dst - true]))[0]
        order = np.argsort(np.abs(bucket_of(dst - shuffled) - bucket), kind="stable")
        return [int(s) for s in shuffled[order][:N_OTHERS]]
