"""Quantities of (destination, source) pairs of one head (attention_evidence sections 3 and 5).

1. `row_pairs`: attention renormalised off the sink and the multiples of it, value-weighted contributions.
2. `column_lift`: a source's attention against what other destinations at a like distance give it.
3. `position_lift`: share against the share expected from distance and row length alone.
4. `projected`: what a source writes along one residual-stream direction.
5. `source_flags`: how a source relates to the destination and to the text.

Pure functions. Rows run over destinations of one window, sources over its positions; the sink is position 0
and every control token. Undefined values are NaN. Half precision is computed in float32; no input is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.evidence.buckets import bucket_of, n_buckets
from autointerp.evidence.rows import TAU

N_MIN = 8  # rows with fewer allowed sources have no multiples: an average over so few says little
COLUMN_TERMS = 3  # other destinations that a column lift needs


@dataclass(frozen=True)
class RowPairs:
    """Pair quantities `[row src]` and row quantities `[row]`.

    Shares and multiples are NaN off the allowed sources and where `mass` < TAU, as are `entropy` and
    `mean_distance`; multiples also where `n_allowed` < N_MIN.
    """

    attn: Float[Tensor, "row src"]
    allowed: Bool[Tensor, "row src"]
    share: Float[Tensor, "row src"]
    multiple: Float[Tensor, "row src"]  # share times n_allowed
    multiple_raw: Float[Tensor, "row src"]  # attn times (dst + 1): the ancestor's documented meaning
    log_multiple: Float[Tensor, "row src"]  # ln multiple / ln n_allowed, at most 1
    contribution: Float[Tensor, "row src"]  # attn times write norm, residual-stream norm; sink included
    contribution_share: Float[Tensor, "row src"]  # of the contribution of all sources, sink included
    mass: Float[Tensor, " row"]
    sink_mass: Float[Tensor, " row"]
    self_mass: Float[Tensor, " row"]
    prev_mass: Float[Tensor, " row"]
    entropy: Float[Tensor, " row"]  # nats, over allowed sources
    mean_distance: Float[Tensor, " row"]  # tokens
    activity: Float[Tensor, " row"]  # contribution of allowed sources
    n_allowed: Int[Tensor, " row"]


def row_pairs(
    pattern: Float[Tensor, "row src"],
    norms: Float[Tensor, "*rows src"],
    sources: Bool[Tensor, " src"],
    dst: Int[Tensor, " row"],
    *,
    exclude_self: bool = False,
) -> RowPairs:
    """All quantities of some rows of one window.

    `pattern` holds the rows of the destinations `dst` of one head, or of several heads with a row of `norms`
    each; `norms` is ||v_s W_O|| without v's constant part; `sources` says which positions may be sources at
    all (`Masks.allowed`: no sink, no padding).
    """
    attn = _real(pattern)
    position = torch.arange(attn.shape[1], device=attn.device)
    visible = position <= dst[:, None]
    itself = position == dst[:, None]
    allowed = visible & sources & ~(itself & exclude_self)
    n = allowed.sum(-1)
    mass = torch.where(allowed, attn, 0).sum(-1)
    share = torch.where(allowed & (mass >= TAU)[:, None], attn / mass[:, None], torch.nan)
    multiple = torch.where((n >= N_MIN)[:, None], share * n[:, None], torch.nan)
    contribution = attn * norms.to(attn.dtype)
    total = contribution.sum(-1, keepdim=True)
    known = share.nan_to_num(0.0)
    undefined = torch.where((mass >= TAU) & (n > 0), 0.0, torch.nan)
    return RowPairs(
        attn=attn.clone(),
        allowed=allowed,
        share=share,
        multiple=multiple,
        multiple_raw=attn * (dst + 1)[:, None],
        log_multiple=multiple.log() / n.clamp_min(2).to(attn.dtype).log()[:, None],
        contribution=contribution,
        contribution_share=torch.where(total > 0, contribution / total, 0.0),
        mass=mass,
        sink_mass=torch.where(visible & ~sources, attn, 0).sum(-1),
        self_mass=torch.where(itself, attn, 0).sum(-1),
        prev_mass=torch.where(position == dst[:, None] - 1, attn, 0).sum(-1),
        entropy=(-torch.xlogy(known, known).sum(-1)).clamp_min(0) + undefined,
        mean_distance=(known * (dst[:, None] - position)).sum(-1) + undefined,
        activity=torch.where(allowed, contribution, 0).sum(-1),
        n_allowed=n,
    )


def _real(values: Tensor) -> Tensor:
    return values.detach() if values.dtype in (torch.float32, torch.float64) else values.detach().float()


def column_lift(
    pattern: Float[Tensor, "dst src"], dst: Int[Tensor, " row"], rows: Bool[Tensor, " dst"]
) -> Float[Tensor, "row src"]:
    """Attention over the mean that the same source gets from other rows in the same distance bucket.

    `pattern` is the head's whole window, `rows` its real destinations (no padding). NaN with fewer than three
    other rows (so for every distance under 5, whose buckets hold one distance each), or where those give it
    nothing.
    """
    size = pattern.shape[0]
    position = torch.arange(size, device=pattern.device)
    bucket = _buckets(position[:, None] - position)
    counted = ((position[:, None] >= position) & rows[:, None]).double()
    attn = pattern.detach().double()  # own terms are taken back out of sums: float32 would lose the rest
    empty = torch.zeros(n_buckets(size), size, dtype=torch.float64, device=pattern.device)
    sums = empty.scatter_add(0, bucket, attn * counted)
    counts = empty.scatter_add(0, bucket, counted)
    own = bucket[dst]
    others = (counts.gather(0, own) - counted[dst]).round()
    mean = (sums.gather(0, own) - attn[dst] * counted[dst]).clamp_min(0) / others
    defined = (others >= COLUMN_TERMS) & (counted[dst] > 0) & (mean > 0)
    return torch.where(defined, attn[dst] / mean, torch.nan)


def position_lift(
    share: Float[Tensor, "row src"],
    dst: Int[Tensor, " row"],
    expected: Float[Tensor, "row_bucket bucket"],
) -> Float[Tensor, "row src"]:
    """Share over its expectation given the buckets of the row's length and of the distance.

    `expected` is one head of `FirstPass.expected_share()`; a row's length is its `dst`. NaN without one.
    """
    position = torch.arange(share.shape[1], device=share.device)
    distance = dst[:, None] - position
    wanted = expected_share(expected.to(share.device), dst[:, None].expand_as(distance), distance)
    return torch.where(wanted > 0, share.double() / wanted, torch.nan)


def expected_share(
    expected: Float[Tensor, "row_bucket bucket"], dst: Int[Tensor, "*pair"], distance: Int[Tensor, "*pair"]
) -> Float[Tensor, "*pair"]:
    """Look up the expectation of pairs; NaN where there is none, or the table is too small."""
    row_bucket, bucket = _buckets(dst), _buckets(distance)
    fits = (row_bucket < expected.shape[0]) & (bucket < expected.shape[1])
    rows, columns = row_bucket.clamp_max(expected.shape[0] - 1), bucket.clamp_max(expected.shape[1] - 1)
    return torch.where(fits, expected.double()[rows, columns], torch.nan)


def _buckets(distance: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Bucket numbers; negative distances (later sources, never used) count as 0."""
    found = bucket_of(np.arange(max(int(distance.max()) + 1, 1) if distance.numel() else 1))
    return torch.as_tensor(found, device=distance.device)[distance.clamp_min(0)]


def projected(
    pattern: Float[Tensor, "row src"],
    v: Float[Tensor, "src d_head"],
    w_o: Float[Tensor, "d_head d_model"],
    direction: Float[Tensor, " d_model"],
) -> Float[Tensor, "row src"]:
    """`a_s <v_s W_O, u>`: what each source writes along `direction`, in its units; signed.

    Give `v` without its constant part, so that no constant is spread over the sources; the sum over sources
    is then <result, u> less that constant's part.
    """
    return _real(pattern) * (_real(v) @ (w_o @ direction))


@dataclass(frozen=True)
class SourceFlags:
    """How one source stands to its destination (attention_evidence section 5), up to the destination."""

    is_self: bool
    is_prev: bool
    is_sink: bool
    dup_of_dst: bool  # an earlier token with the destination's id
    dup_norm: bool  # the same after trimming and case folding
    after_dup: bool  # the token before this source has the destination's id: induction
    equals_next: bool  # has the id of the token that really follows the destination
    first_occurrence: bool
    n_occurrences: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the flags that are set, in order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is True)


def source_flags(
    ids: Sequence[int], dst: int, src: int, strings: Sequence[str], special: Collection[int]
) -> SourceFlags:
    """Flags of the pair (dst, src); `ids` are the window's real ids, `strings` the vocabulary's, by id."""
    before = [int(i) for i in ids[: dst + 1]]
    own, wanted = before[src], before[dst]
    trimmed = strings[own].strip().casefold()
    alike = own == wanted or (bool(trimmed) and trimmed == strings[wanted].strip().casefold())
    return SourceFlags(
        is_self=src == dst,
        is_prev=src == dst - 1,
        is_sink=src == 0 or own in special,
        dup_of_dst=src < dst and own == wanted,
        dup_norm=src < dst and alike,
        after_dup=src > 0 and before[src - 1] == wanted,
        equals_next=dst + 1 < len(ids) and int(ids[dst + 1]) == own,
        first_occurrence=before.index(own) == src,
        n_occurrences=before.count(own),
    )
