"""Copy suppression on text: attention to earlier tokens that the model is about to say (McDougall et al. 2023).

1. P(d): sources before d whose token is among the 10 likeliest when the residual stream that enters the head's layer
   is read through the final norm and the unembedding.
2. Value: mean share of the sources in P(d) minus that of the sources not in P(d) at the same distance bucket of the
   same row; its lift is the value over the latter.
3. `lowered`: the fraction of those sources whose own token the head's write lowers (centred logits); `singled_out`:
   the fraction whose own token is in the lowest tenth of the vocabulary, since a write that raises a few tokens lowers
   every other one a little.

It does not compute the CSPA fraction, which needs one ablation a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.evidence.buckets import membership
from autointerp.evidence.detector_classes import counted_rows
from autointerp.evidence.detector_data import TextRows
from autointerp.evidence.detector_measure import Measured
from autointerp.evidence.rows import TAU, Masks
from autointerp.model import LanguageModel, Layer, Readout
from autointerp.model.language_model import HookFunction

PREDICTED = 10
ROWS_PER_DOCUMENT = 16
SAMPLED, LOWEST = 512, 0.1  # tokens of the vocabulary that a token's logit is ranked among
Sets = list[Bool[Tensor, "row dst src"]]  # P by layer


@dataclass
class _Found:
    """What the hooks leave behind, by layer."""

    sets: Sets = field(default_factory=list)
    inside: list[Tensor] = field(default_factory=list)  # [row head]
    outside: list[Tensor] = field(default_factory=list)
    lowered: list[Tensor] = field(default_factory=list)
    singled_out: list[Tensor] = field(default_factory=list)


def measure_suppression(
    model: LanguageModel,
    readout: Readout,
    text: TextRows,
    fed: tuple[Int[np.ndarray, "row pos"], Sets] | None = None,
) -> tuple[Measured, Sets]:
    """`copy_suppression` on a few windows (at most 16 rows of each), and the sets P.

    `fed`: other ids to run instead, with the sets P to be used (the shuffled null).
    """
    ids = model.to_ids(text.ids if fed is None else fed[0])
    lengths = torch.from_numpy(np.asarray(text.lengths, dtype=np.int64)).to(ids.device)
    reader = _Reader(model, readout, Masks.of(ids, lengths, model.special_ids), ids)
    found = _Found(sets=[] if fed is None else fed[1])
    hooks: list[tuple[str, HookFunction]] = [] if fed is not None else [
        (f"blocks.{n}.hook_resid_pre", _keeper(reader, found.sets))
        for n in range(model.n_layers)
    ]  # fmt: skip
    with model.hooks(hooks):
        model.read_attention(ids, list(range(model.n_layers)), lambda layer: reader.read(layer, found))
    inside, outside, lowered, singled_out = (
        torch.cat(parts, 1).double().cpu().numpy()
        for parts in (found.inside, found.outside, found.lowered, found.singled_out)
    )
    more = {"predicted": inside, "matched": outside, "lowered": lowered, "singled_out": singled_out}
    return Measured(inside - outside, outside, more), found.sets


def _keeper(reader: _Reader, sets: Sets) -> HookFunction:
    def keep(residual: Tensor, hook: Any) -> None:
        sets.append(reader.predicted(residual))

    return keep


class _Reader:
    def __init__(self, model: LanguageModel, readout: Readout, masks: Masks, ids: Tensor) -> None:
        self._model, self._readout, self._masks, self._ids = model, readout, masks, ids
        size = ids.shape[1]
        self._rows = _spread(masks.rows, ROWS_PER_DOCUMENT)
        positions = torch.arange(size, device=ids.device)
        self._earlier = (positions[None, :] < positions[:, None]) & masks.allowed[:, None, :] & self._rows[:, :, None]
        self._distance = (positions[:, None] - positions[None, :]).clamp_min(0)
        self._buckets = torch.from_numpy(membership(size)).float().to(ids.device)

    def predicted(self, residual: Float[Tensor, "row pos d_model"]) -> Bool[Tensor, "row dst src"]:
        """P: earlier sources whose token is among the likeliest at the destination."""
        model = self._model
        chosen = torch.nonzero(self._rows)
        states = model.bridge.ln_final(residual[self._rows][None])[0]
        best = model.unembed(states).topk(min(PREDICTED, model.d_vocab), -1).indices
        sources = self._ids[chosen[:, 0]]
        hit = (sources[:, :, None] == best[:, None, :]).any(-1)
        out = torch.zeros_like(self._earlier)
        out[chosen[:, 0], chosen[:, 1]] = hit
        return out & self._earlier

    def read(self, layer: Layer, found: _Found) -> None:
        if len(found.sets) <= layer.index:
            raise ModelError(
                f"{self._model.name} does not show the stream that enters layer {layer.index} (hook_resid_pre), so "
                "copy suppression cannot be measured; its reading is left undefined."
            )
        chosen = found.sets[layer.index]
        mass, valid, _ = counted_rows(layer.pattern.float(), self._masks)
        shares = layer.pattern.float() * (valid / mass.clamp_min(TAU))[..., None]
        other = self._matched(shares, self._earlier & ~chosen)
        cells = (chosen[:, None] & valid[..., None] & ~torch.isnan(other)).float()
        count = cells.sum((2, 3))
        lowered, singled_out = self._lowers(layer)
        for values, into in (
            (shares, found.inside),
            (other.nan_to_num(), found.outside),
            (lowered, found.lowered),
            (singled_out, found.singled_out),
        ):
            mean = (values * cells).sum((2, 3)) / count.clamp_min(1)
            into.append(torch.where(count > 0, mean, torch.nan))

    def _matched(
        self, shares: Float[Tensor, "row head dst src"], others: Bool[Tensor, "row dst src"]
    ) -> Float[Tensor, "row head dst src"]:
        """For each cell, the mean share of the other sources of its row in its distance bucket; NaN without one."""
        size = shares.shape[-1]
        total = torch.zeros(*shares.shape[:3], self._buckets.shape[1], device=shares.device)
        count = torch.zeros(*others.shape[:2], self._buckets.shape[1], device=shares.device)
        bucket = self._buckets.argmax(1)[self._distance]
        total.scatter_add_(3, bucket.expand(*shares.shape[:2], size, size), shares * others[:, None])
        count.scatter_add_(2, bucket.expand(len(others), size, size), others.float())
        mean = total / torch.where(count > 0, count, torch.nan)[:, None]
        return mean.gather(3, bucket.expand(*shares.shape[:2], size, size))

    def _lowers(self, layer: Layer) -> tuple[Float[Tensor, "row head dst src"], Float[Tensor, "row head dst src"]]:
        """1 where the write of a source lowers the logit of its own token, and where it lowers it more than nine
        tenths of the vocabulary; the same for every destination."""
        model, to_logits = self._model, self._readout.to_logits
        v = model.expand_kv(layer.v.float() - model.v_constant(layer.index))
        writes = torch.einsum("bshk,hkm->bshm", v, model.W_O(layer.index))
        own = torch.einsum("bshm,bsm->bsh", writes, to_logits.T[self._ids])
        some = to_logits[:, :: max(1, to_logits.shape[1] // SAMPLED)]
        both = zip(writes, own, strict=True)  # row by row: all rows times the sample are too many numbers at once
        below = torch.stack([(row @ some < own_row[..., None]).float().mean(-1) for row, own_row in both])
        size = self._ids.shape[1]
        lowered, singled_out = (
            x.float().transpose(1, 2)[:, :, None, :].expand(-1, -1, size, -1) for x in (own < 0, below < LOWEST)
        )
        return lowered, singled_out


def _spread(rows: Bool[Tensor, "row pos"], n: int) -> Bool[Tensor, "row pos"]:
    """At most n evenly spaced positions of the later three quarters of each row."""
    out = torch.zeros_like(rows)
    for index, row in enumerate(rows):
        there = torch.nonzero(row)[:, 0]
        there = there[len(there) // 4 :]
        if len(there):
            place = torch.linspace(0, len(there) - 1, min(n, len(there)), device=rows.device).long()
            out[index, there[place]] = True
    return out
