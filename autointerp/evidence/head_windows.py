"""One head on one window: its pattern, write norms and pair quantities, and the share to expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence.buckets import bucket_of, n_buckets
from autointerp.evidence.pairs import RowPairs, column_lift, row_pairs
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.evidence.windows import Window
from autointerp.model import LanguageModel, Layer
from autointerp.records import Head

_GRID = 2.0**40  # sums of shares are kept as whole multiples of 2^-40: exact, so that order does not matter


@dataclass(frozen=True, eq=False)
class HeadWindow:
    """What a head did on a window; `pairs` has a row for each destination `dst`, which are 1, 2, ..."""

    window: Window
    pattern: Float[Tensor, "dst src"]
    dst: Int[Tensor, " row"]
    sources: Bool[Tensor, " src"]  # positions that are no sink
    pairs: RowPairs

    def column_lift(self) -> Float[Tensor, "row src"]:
        """Column lift of the same rows, NaN off the allowed sources."""
        everything = torch.ones_like(self.sources)
        everything[0] = False
        return torch.where(self.pairs.allowed, column_lift(self.pattern, self.dst, everything), torch.nan)


def check_head(model: LanguageModel, head: Head) -> None:
    """Raise BadInput for a head that the model does not have."""
    if not (0 <= head.layer < model.n_layers and 0 <= head.index < model.n_heads):
        last = Head(layer=model.n_layers - 1, index=model.n_heads - 1)
        raise BadInput(f"{model.name} has no head {head}; its heads are L0H0 to {last}.")


class HeadReader:
    """Reads one head, window by window; raises BadInput for a head that the model does not have."""

    def __init__(self, model: LanguageModel, head: Head, *, exclude_self: bool = False) -> None:
        check_head(model, head)
        self.model, self.head, self._exclude_self = model, head, exclude_self
        self._output = OutputGeometry.of(model, head.layer)

    def read(self, window: Window) -> HeadWindow:
        """Run the window alone; quantities in float64."""
        model, head = self.model, self.head
        size = len(window.ids)
        if size > model.n_ctx:
            raise BadInput(f"a window of {size} ids exceeds n_ctx {model.n_ctx} of {model.name}; shorten it.")
        ids = model.to_ids(window.ids[None])
        sources = Masks.of(ids, torch.tensor([size], device=ids.device), model.special_ids).allowed[0]
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(layer: Layer) -> None:
            norms = write_norms(model, layer, self._output)[0, head.index]
            kept.append((layer.pattern[0, head.index].double(), norms.double()))

        model.read_attention(ids, [head.layer], keep)
        pattern, norms = kept[0]
        dst = torch.arange(1, size, device=ids.device)
        pairs = row_pairs(pattern[1:], norms, sources, dst, exclude_self=self._exclude_self)
        return HeadWindow(window, pattern, dst, sources, pairs)


class Expectation:
    """E[share | row-length bucket, distance bucket] of one head, documents with equal weight.

    Windows of a document come one after the other; memory does not grow with their number.
    """

    def __init__(self, longest: int) -> None:
        self._size = n_buckets(longest)
        cells = (self._size, self._size)
        self._sum, self._documents = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
        self._shares, self._pairs = np.zeros(cells, np.int64), np.zeros(cells, np.int64)
        self._open: str | None = None

    def add(self, seen: HeadWindow) -> None:
        """Take in a window."""
        if seen.window.doc_id != self._open:
            self._close()
            self._open = seen.window.doc_id
        share = seen.pairs.share.cpu().numpy()
        row, src = np.nonzero(~np.isnan(share))
        dst = seen.dst.cpu().numpy()[row]
        cell = bucket_of(dst) * self._size + bucket_of(dst - src)
        shape, length = self._sum.shape, self._sum.size
        sums = np.bincount(cell, weights=share[row, src], minlength=length).reshape(shape)
        self._shares += np.rint(sums * _GRID).astype(np.int64)
        self._pairs += np.bincount(cell, minlength=length).reshape(shape)

    def _close(self) -> None:
        there = self._pairs > 0
        means = self._shares / np.maximum(self._pairs, 1)
        self._sum += np.where(there, np.rint(means), 0).astype(np.int64)
        self._documents += there
        self._shares[:], self._pairs[:] = 0, 0

    def result(self) -> Float[Tensor, "row_bucket bucket"]:
        """The expectation of what was added; NaN where no pair was."""
        self._close()
        self._open = None
        with np.errstate(invalid="ignore", divide="ignore"):
            return torch.from_numpy(self._sum / _GRID / self._documents)
