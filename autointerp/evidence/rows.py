"""Per-row quantities of one attention layer, in few passes over its pattern (attention_evidence section 3).

1. Write norms ||v_s W_O|| by the Gram matrix of W_O, v without its source-independent part.
2. One skinny product of the pattern with [allowed, write norm, position] gives mass, activity and mean distance.
3. One pass each for sum a ln a, the largest attention, and the column sums; distances are summed along diagonals
   through a strided view, without a copy.

Sink set: position 0 and every further control token of the window. Rows of position 0 and of padding do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autointerp.evidence.buckets import bucket_of, membership, n_buckets, sources_per_bucket
from autointerp.model import LanguageModel, Layer

TAU = 0.1  # rows with less mass off the sink have no shares


@dataclass(frozen=True)
class Geometry:
    """Constants of a window length on a device: distance buckets as matrices."""

    size: int
    positions: Float[Tensor, " src"]
    distance_buckets: Float[Tensor, "distance bucket"]
    row_buckets: Float[Tensor, "bucket dst"]  # 1 where a row with dst allowed sources is in the bucket
    sources: Float[Tensor, "dst bucket"]

    @classmethod
    def of(cls, size: int, device: torch.device) -> Geometry:
        rows = np.eye(n_buckets(size))[bucket_of(np.arange(size))]
        rows[0] = 0

        def put(array: Float[np.ndarray, "..."]) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        return cls(
            size,
            torch.arange(size, dtype=torch.float32, device=device),
            put(membership(size)),
            put(rows.T.copy()),
            put(sources_per_bucket(size)),
        )


@dataclass(frozen=True)
class Masks:
    """Which positions of a batch are rows (`rows`), and which may be sources (`allowed`)."""

    rows: Bool[Tensor, "batch pos"]
    allowed: Bool[Tensor, "batch pos"]
    extra_sinks: bool  # some window holds a control token after position 0

    @classmethod
    def of(cls, ids: Tensor, lengths: Tensor, special_ids: tuple[int, ...]) -> Masks:
        positions = torch.arange(ids.shape[1], device=ids.device)
        real = (positions < lengths[:, None]) & (positions > 0)
        special = torch.isin(ids, torch.tensor(special_ids or (-1,), device=ids.device)) & real
        return cls(real, real & ~special, bool(special.any()))


@dataclass(frozen=True)
class OutputGeometry:
    """Per layer: the Gram matrices of W_O by head and the part of v that no source changes."""

    gram: Float[Tensor, "head d_head d_head"]
    v_constant: Float[Tensor, "kv_head d_head"]

    @classmethod
    def of(cls, model: LanguageModel, layer: int) -> OutputGeometry:
        w_o = model.W_O(layer)
        return cls(w_o @ w_o.transpose(1, 2), model.v_constant(layer))


def write_norms(model: LanguageModel, layer: Layer, geometry: OutputGeometry) -> Float[Tensor, "batch head src"]:
    """||(v_s - constant) W_O||_2 for every source and head."""
    v = (layer.v.float() - geometry.v_constant).permute(2, 0, 1, 3)  # [kv_head batch src d_head]
    if v.shape[0] != len(geometry.gram):
        v = v.repeat_interleave(len(geometry.gram) // v.shape[0], dim=0)
    flat = v.reshape(v.shape[0], -1, v.shape[-1])  # one matrix product a head, over all positions of the batch
    squares = (torch.bmm(flat, geometry.gram) * flat).sum(-1)
    return squares.clamp_min(0).sqrt().reshape(v.shape[:3]).transpose(0, 1)


@dataclass(frozen=True)
class LayerRows:
    """Row quantities of one layer; undefined values are NaN. Everything off the sink but `sink_mass`, `self_mass` and
    `prev_mass`, which are plain attention."""

    mass: Float[Tensor, "batch head dst"]
    sink_mass: Float[Tensor, "batch head dst"]
    self_mass: Float[Tensor, "batch head dst"]
    prev_mass: Float[Tensor, "batch head dst"]
    entropy: Float[Tensor, "batch head dst"]  # nats
    max_share: Float[Tensor, "batch head dst"]
    mean_distance: Float[Tensor, "batch head dst"]
    activity: Float[Tensor, "batch head dst"]  # residual-stream norm
    source_totals: Float[Tensor, "batch head src"]  # contribution summed over destinations
    share_sums: Float[Tensor, "batch head row_bucket distance_bucket"]
    share_pairs: Float[Tensor, "batch head row_bucket distance_bucket"]
    top_src: Tensor  # Int [batch head]: strongest source of the most active row
    best_dst: Tensor  # Int [batch head]: the most active row


def read_rows(
    pattern: Float[Tensor, "batch head dst src"],
    norms: Float[Tensor, "batch head src"],
    masks: Masks,
    geometry: Geometry,
) -> LayerRows:
    """All row quantities of one layer."""
    pattern = pattern.float()
    whole, sink = pattern, pattern[..., 0].clone()
    if masks.extra_sinks:
        blocked = ~masks.allowed & masks.rows
        sink = sink + (pattern * blocked[:, None, None, :]).sum(-1)
        pattern = pattern * ~blocked[:, None, None, :]
    pattern = pattern.contiguous()
    allowed = masks.allowed[:, None, None, :].float()
    contribution = norms[:, :, None, :] * allowed
    position = (allowed * geometry.positions).expand_as(contribution)
    parts = torch.cat([allowed.expand_as(contribution), contribution, position], 2)
    mass, activity, position = (parts @ pattern.transpose(-1, -2)).unbind(2)
    rows = masks.rows[:, None, :]
    valid = rows & (mass >= TAU)
    safe = torch.where(valid, mass, torch.nan)
    shares, pairs = _share_by_distance(pattern, torch.where(valid, 1 / mass.clamp_min(TAU), 0.0), valid, geometry)
    if masks.extra_sinks:
        pairs = pairs - _blocked_pairs(~masks.allowed & masks.rows, valid, geometry)
    columns = torch.matmul(rows.float()[:, :, None, :], pattern)[:, :, 0, :]
    activity = torch.where(rows, activity, 0.0)
    best = activity.argmax(-1)
    chosen = pattern.gather(2, best[..., None, None].expand(-1, -1, 1, pattern.shape[-1]))[:, :, 0]
    return LayerRows(
        mass,
        sink,
        torch.diagonal(whole, dim1=-2, dim2=-1),
        torch.nn.functional.pad(torch.diagonal(whole, -1, dim1=-2, dim2=-1), (1, 0)),
        _entropy(pattern, safe),
        pattern[..., 1:].amax(-1) / safe,
        geometry.positions - position / safe,
        activity,
        columns * contribution[:, :, 0],
        shares,
        pairs,
        (chosen * contribution[:, :, 0]).argmax(-1),
        best,
    )


def _entropy(
    pattern: Float[Tensor, "batch head dst src"], mass: Float[Tensor, "batch head dst"]
) -> Float[Tensor, "batch head dst"]:
    """-sum share ln share over sources 1.., from sum a ln a and the mass; NaN where the mass is."""
    work = pattern[..., 1:].clamp_min(1e-30)
    total = work.log().mul_(work).sum(-1)
    return (mass.log() - total / mass).clamp_min(0)


def _share_by_distance(
    pattern: Float[Tensor, "batch head dst src"],
    weight: Float[Tensor, "batch head dst"],
    valid: Bool[Tensor, "batch head dst"],
    geometry: Geometry,
) -> tuple[Float[Tensor, "batch head row_bucket bucket"], Float[Tensor, "batch head row_bucket bucket"]]:
    """Sum of shares, and number of pairs, by (bucket of the row's length, bucket of the distance).

    The view has row d and column j = src - dst + size - 1; cells before a row's start fall on the zeros above the
    diagonal of the row before, so that row 0 must be left out.
    """
    batch, heads, size, _ = pattern.shape
    flat = pattern.reshape(batch * heads, size * size)
    start = flat.storage_offset() + size + 1 - (size - 1)
    view = flat.as_strided((batch * heads, size - 1, size), (size * size, size + 1, 1), start)
    by_row = weight.reshape(-1, 1, size) * geometry.row_buckets
    sums = torch.bmm(by_row[:, :, 1:], view).flip(-1)  # by distance
    sink = by_row * pattern[..., 0].reshape(-1, 1, size)  # source 0 sits at distance dst
    shares = (sums - sink) @ geometry.distance_buckets
    pairs = (valid.reshape(-1, 1, size).float() * geometry.row_buckets) @ geometry.sources
    shape = (batch, heads, -1, geometry.distance_buckets.shape[1])
    return shares.reshape(shape), pairs.reshape(shape)


def _blocked_pairs(
    blocked: Bool[Tensor, "batch src"], valid: Bool[Tensor, "batch head dst"], geometry: Geometry
) -> Float[Tensor, "batch head row_bucket bucket"]:
    """Pairs of counted rows whose source is a control token inside the window: no possible source."""
    places = torch.arange(geometry.size, device=blocked.device)
    distance = places[:, None] - places
    bucket = geometry.distance_buckets[distance.clamp_min(0)] * (distance >= 0)[..., None]
    by_dst = torch.einsum("bs,dsk->bdk", blocked.float(), bucket)
    return torch.einsum("bhd,rd,bdk->bhrk", valid.float(), geometry.row_buckets, by_dst)
