"""The token-identity rival: what two tokens alone predict, whatever the text around them (scoring_validity rule 10).

1. On explain windows: the mean share `a` of each (destination token, source token), by head; pairs of tokens that met
   fewer than 3 times are left out. Means are shrunk to that of the source token, and those to the head's own.
2. On held-out rows: the table's value of each pair is its prediction; the threshold is chosen on select.

It knows no position and no context: a head that it predicts well looks at words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.scoring.held_out import HeldOutRows

MIN_COUNT = 3
PRIOR = 2.0  # pairs that the coarser mean counts for
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)


@dataclass(frozen=True)
class ExplainRows:
    """Windows of the explain split, from which a rival may learn."""

    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]


@dataclass(frozen=True)
class IdentityTable:
    """Predicted share by pair of tokens and by source token, for all heads (layer by layer)."""

    codes: Int[np.ndarray, " code"]  # ascending; destination id times `d_vocab` plus source id
    by_code: Float[Tensor, "head code"]
    by_source: Float[Tensor, "head d_vocab"]
    d_vocab: int
    n_heads: int  # of one layer

    def on(self, held_out: HeldOutRows) -> IdentityPredictions:
        """The table applied to held-out rows."""
        return IdentityPredictions(self, held_out, _places(self.codes, _codes(held_out.ids, self.d_vocab)))


@dataclass(frozen=True)
class IdentityPredictions:
    """Predictions of the table on some rows; `places` are the columns of the pairs, -1 for pairs not met."""

    table: IdentityTable
    held_out: HeldOutRows
    places: Int[np.ndarray, "window dst src"]

    def of_window(self, layer: int, window: int) -> Float[Tensor, "head dst src"]:
        """Predicted shares of all heads of a layer."""
        table = self.table
        heads = slice(layer * table.n_heads, (layer + 1) * table.n_heads)
        places = torch.from_numpy(self.places[window].astype(np.int64))
        source = table.by_source[heads][:, torch.from_numpy(self.held_out.ids[window].astype(np.int64))]
        pair = table.by_code[heads][:, places.clamp_min(0)]
        return torch.where(places >= 0, pair, source[:, None, :])

    def mask(self, layer: int, head: int, threshold: float) -> Bool[np.ndarray, "window dst src"]:
        """Predicted pairs of one head, off the sink and not after the destination."""
        size = self.held_out.ids.shape[1]
        able = self.held_out.rows[:, :, None] & self.held_out.sources[:, None, :] & np.tril(np.ones((size, size), bool))
        found = [self.of_window(layer, n)[head].numpy() >= threshold for n in range(len(self.held_out.ids))]
        return np.asarray(np.stack(found) & able)


def learn_identity(model: LanguageModel, rows: ExplainRows, batch_size: int) -> IdentityTable:
    """Means over the explain rows; one forward of each window."""
    codes, counts = np.unique(_codes(rows.ids, model.d_vocab)[_able(model, rows)], return_counts=True)
    codes = codes[counts >= MIN_COUNT]
    learner = _Learner(model, codes)
    for start in range(0, len(rows.ids), batch_size):
        part = slice(start, start + batch_size)
        learner.read(rows.ids[part], rows.lengths[part])
    return learner.table()


class _Learner:
    """Sums of `a` and numbers of pairs, by code and by source token."""

    def __init__(self, model: LanguageModel, codes: Int[np.ndarray, " code"]) -> None:
        self._model, self._codes = model, codes
        self._outputs = [OutputGeometry.of(model, n) for n in range(model.n_layers)]
        n_heads = model.n_layers * model.n_heads
        self._code_sums = torch.zeros(2, n_heads, len(codes))
        self._source_sums = torch.zeros(2, n_heads, model.d_vocab)

    def read(self, ids: Int[np.ndarray, "window pos"], lengths: Int[np.ndarray, " window"]) -> None:
        model = self._model
        able = _able(model, ExplainRows(ids, lengths))
        places = torch.from_numpy(_places(self._codes, _codes(ids, model.d_vocab)))
        met = torch.from_numpy(able) & (places >= 0)
        sources = torch.from_numpy(np.broadcast_to(ids[:, None, :], able.shape)[able].astype(np.int64))
        fed = model.to_ids(ids)
        masks = Masks.of(fed, torch.as_tensor(lengths.astype(np.int64), device=fed.device), model.special_ids)

        def keep(layer: Layer) -> None:
            attention = layer.pattern.float() * masks.allowed[:, None, None, :]
            contribution = attention * write_norms(model, layer, self._outputs[layer.index])[:, :, None, :]
            a = contribution / contribution.sum(-1, keepdim=True).clamp_min(1e-30)
            valid = (attention.sum(-1) >= TAU)[..., None].expand_as(a).float()
            both = torch.stack([a * valid, valid]).transpose(1, 2).cpu()  # [quantity head window dst src]
            heads = slice(layer.index * model.n_heads, (layer.index + 1) * model.n_heads)
            self._code_sums[:, heads] = self._code_sums[:, heads].index_add(2, places[met], both[:, :, met])
            every = torch.from_numpy(able)
            self._source_sums[:, heads] = self._source_sums[:, heads].index_add(2, sources, both[:, :, every])

        model.read_attention(fed, list(range(model.n_layers)), keep)

    def table(self) -> IdentityTable:
        total, count = self._source_sums.sum(2, keepdim=True)
        mean = total / count.clamp_min(1)
        by_source = (self._source_sums[0] + PRIOR * mean) / (self._source_sums[1] + PRIOR)
        own = by_source[:, torch.from_numpy(self._codes % self._model.d_vocab)]
        by_code = (self._code_sums[0] + PRIOR * own) / (self._code_sums[1] + PRIOR)
        return IdentityTable(self._codes, by_code, by_source, self._model.d_vocab, self._model.n_heads)


def _codes(ids: Int[np.ndarray, "window pos"], d_vocab: int) -> Int[np.ndarray, "window dst src"]:
    wide = ids.astype(np.int64)
    return wide[:, :, None] * d_vocab + wide[:, None, :]


def _places(codes: Int[np.ndarray, " code"], wanted: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Index of each wanted code, -1 where it is missing."""
    if not len(codes):
        return np.full(wanted.shape, -1, np.int64)
    found = np.searchsorted(codes, wanted).clip(0, len(codes) - 1)
    return np.where(codes[found] == wanted, found, -1)


def _able(model: LanguageModel, rows: ExplainRows) -> Bool[np.ndarray, "window dst src"]:
    """Pairs of a destination after position 0 and a source off the sink that is not after it."""
    positions = np.arange(rows.ids.shape[1])
    real = (positions > 0) & (positions < rows.lengths[:, None])
    sources = real & ~np.isin(rows.ids, model.special_ids)
    return real[:, :, None] & sources[:, None, :] & (positions[:, None] >= positions)
