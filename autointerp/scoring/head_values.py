"""What the causal scorers read of heads on held-out rows, and mean value vectors by distance.

`layer_values` runs the model over held-out windows and gives one layer at a time; a group of layers is held at once,
bounded by GROUP_CELLS. `value_means` is one pass over explain windows that keeps sums only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from autointerp.evidence.buckets import bucket_of, n_buckets
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer, log_probs
from autointerp.records import Head
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import NO_WRITE

GROUP_CELLS = 24_000_000


@dataclass(frozen=True, eq=False)
class HeadValues:
    """One head on held-out windows, as the model computed it.

    `attention`: off the sink, 0 elsewhere · `norms`: ||v_s W_O|| · `z` before W_O · `v_mean`: mean value vector at
    each distance bucket and `z_mean`: mean z, both of the explain split · `silent`: contributions below this sum in
    a row are no write.
    """

    head: Head
    attention: Float32[np.ndarray, "window dst src"]
    norms: Float32[np.ndarray, "window src"]
    v: Float32[np.ndarray, "window src d_head"]
    z: Float32[np.ndarray, "window dst d_head"]
    v_mean: Float32[np.ndarray, "bucket d_head"]
    z_mean: Float32[np.ndarray, " d_head"]
    silent: float

    def contributions(self) -> Float32[np.ndarray, "window dst src"]:
        """a_s ||v_s W_O|| off the sink; plain attention in rows where the head writes nothing."""
        found = self.attention * self.norms[:, None, :]
        return np.where(found.sum(-1, keepdims=True) < self.silent, self.attention, found)

    def shares(self) -> Float32[np.ndarray, "window dst src"]:
        """Contributions over their row's sum; 0 in rows with too little attention off the sink to have shares."""
        found = self.contributions()
        total = found.sum(-1, keepdims=True)
        usable = (self.attention.sum(-1, keepdims=True) >= TAU) & (total > 0)
        return np.asarray(np.where(usable, found / np.where(total > 0, total, 1), 0), np.float32)

    def without(
        self,
        window: Int[np.ndarray, " row"],
        dst: Int[np.ndarray, " row"],
        removed: Bool[np.ndarray, "row src"],
        other: Float32[np.ndarray, "row d_head"] | None = None,
    ) -> Float32[np.ndarray, "row d_head"]:
        """z at (window, dst) with the values of the `removed` sources replaced: z_d - sum A[d,s] (v_s - v_bar).

        v_bar is the mean value at the same distance, or one vector a row (`other`)."""
        weight = self.attention[window, dst] * removed
        moved = np.einsum("rs,rsk->rk", weight, self.v[window])
        if other is not None:
            return np.asarray(self.z[window, dst] - moved + weight.sum(-1, keepdims=True) * other, np.float32)
        by_bucket = np.zeros((len(dst), len(self.v_mean)), np.float32)
        buckets = bucket_of(np.maximum(dst[:, None] - np.arange(weight.shape[1]), 0))
        np.add.at(by_bucket, (np.arange(len(dst))[:, None], buckets), weight)
        return np.asarray(self.z[window, dst] - moved + by_bucket @ self.v_mean, np.float32)


@dataclass(frozen=True, eq=False)
class ExplainMeans:
    """Means of the explain split that stand in for what is removed."""

    z: Float[np.ndarray, "layer head d_head"]
    v: Float[np.ndarray, "layer kv_head bucket d_head"]


def layer_values(
    model: LanguageModel, held_out: HeldOutRows, means: ExplainMeans, layers: Sequence[int], batch_size: int
) -> Iterator[list[HeadValues]]:
    """All heads of each of `layers` in turn."""
    size = held_out.ids.shape[1]
    group = max(1, GROUP_CELLS // max(len(held_out.ids) * model.n_heads * size * size, 1))
    scale = float(model.final_states(model.to_ids(held_out.ids[:batch_size]))[0].float().norm(dim=-1).mean())
    for start in range(0, len(layers), group):
        parts = _read_group(model, held_out, list(layers[start : start + group]), batch_size)
        for layer in layers[start : start + group]:
            arrays = [np.concatenate(kept) for kept in zip(*parts.pop(layer), strict=True)]
            yield [_head(layer, index, arrays, means, NO_WRITE * scale) for index in range(model.n_heads)]


def _head(layer: int, index: int, arrays: list[np.ndarray], means: ExplainMeans, silent: float) -> HeadValues:
    attention, norms, v, z = arrays
    kv = index // (attention.shape[1] // v.shape[2])
    return HeadValues(
        Head(layer=layer, index=index), attention[:, index], norms[:, index], v[:, :, kv], z[:, :, index],
        means.v[layer, kv].astype(np.float32), means.z[layer, index].astype(np.float32), silent,
    )  # fmt: skip


def _read_group(
    model: LanguageModel, held_out: HeldOutRows, layers: list[int], batch_size: int
) -> dict[int, list[tuple[np.ndarray, ...]]]:
    found: dict[int, list[tuple[np.ndarray, ...]]] = {layer: [] for layer in layers}
    outputs = {layer: OutputGeometry.of(model, layer) for layer in layers}
    for start in range(0, len(held_out.ids), batch_size):
        part = slice(start, start + batch_size)
        pairs = torch.from_numpy(held_out.rows[part][:, None, :, None] & held_out.sources[part][:, None, None, :])

        def keep(layer: Layer, pairs: Tensor = pairs) -> None:
            attention = layer.pattern.float() * pairs.to(layer.pattern.device)
            norms = write_norms(model, layer, outputs[layer.index])
            tensors = (attention, norms, layer.v.float(), layer.z.float())
            found[layer.index].append(tuple(t.cpu().numpy() for t in tensors))

        model.read_attention(model.to_ids(held_out.ids[part]), layers, keep)
    return found


def value_means(
    model: LanguageModel, batches: Iterable[tuple[Int[np.ndarray, "window pos"], Int[np.ndarray, " window"]]], size: int
) -> Float64[np.ndarray, "layer kv_head bucket d_head"]:
    """Mean value vector of every head over pairs off the sink, by distance bucket, in one pass over batches of (ids,
    lengths); `size` is the longest row that will be asked about. Buckets that the windows do not reach get the mean
    over all distances. Every pair weighs the same; attention plays no part."""
    layers = list(range(model.n_layers))
    sums: dict[int, Float64[np.ndarray, "kv_head bucket d_head"] | float] = defaultdict(float)
    pairs = np.zeros(n_buckets(size))
    for ids, lengths in batches:
        fed = model.to_ids(ids)
        masks = Masks.of(fed, torch.as_tensor(lengths.astype(np.int64), device=fed.device), model.special_ids)
        seen = _destinations(masks.allowed, masks.rows, len(pairs))
        pairs += seen.sum((0, 1)).cpu().numpy()

        def keep(layer: Layer, seen: Tensor = seen) -> None:
            total = torch.einsum("wsb,wskd->kbd", seen, layer.v.double())
            sums[layer.index] = sums[layer.index] + total.cpu().numpy()

        model.read_attention(fed, layers, keep)
    total = np.stack([np.asarray(sums[layer]) for layer in layers])
    overall = total.sum(2, keepdims=True) / max(pairs.sum(), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = total / pairs[:, None]
    return np.asarray(np.where(pairs[:, None] > 0, means, overall))


def _destinations(
    allowed: Bool[Tensor, "window src"], rows: Bool[Tensor, "window dst"], n: int
) -> Float64[Tensor, "window src bucket"]:
    """How many destinations see each source from each distance bucket."""
    places = np.arange(rows.shape[1])
    distance = places[:, None] - places
    bucket = np.minimum(bucket_of(np.maximum(distance, 0)), n - 1)
    onehot = torch.from_numpy(np.eye(n)[bucket] * (distance >= 0)[..., None]).to(rows.device)
    return torch.einsum("wd,dsb->wsb", rows.double(), onehot) * allowed[..., None]


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What is known of each destination without any head: how often its token occurs in the rows, the model's entropy
    (nats), the next id (-1 at a window's end)."""

    count: Int[np.ndarray, "window pos"]
    entropy: Float32[np.ndarray, "window pos"]
    next_id: Int[np.ndarray, "window pos"]

    @classmethod
    def of(cls, model: LanguageModel, held_out: HeldOutRows, batch_size: int) -> RowFacts:
        """One forward over the rows, unembedded window by window."""
        ids = held_out.ids
        fed = np.arange(ids.shape[1]) < held_out.lengths[:, None]
        count = np.bincount(ids[fed], minlength=int(ids.max()) + 1)[ids]
        following = np.full(ids.shape, -1, np.int64)
        following[:, :-1] = np.where(fed[:, 1:], ids[:, 1:], -1)
        entropy = np.zeros(ids.shape, np.float32)
        for start in range(0, len(ids), batch_size):
            hidden = model.final_states(model.to_ids(ids[start : start + batch_size]))[1]
            for row, states in enumerate(hidden):
                log_p = log_probs(model, states)
                entropy[start + row] = -(log_p.exp() * log_p).sum(-1).cpu().numpy()
        return cls(count, entropy, following)
