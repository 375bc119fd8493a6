"""Pair quantities against the invariants of the attention specification and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import planted, tiny_model, tiny_texts, uniform
from torch import Tensor

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.cells import round_keys
from autointerp.evidence.multiples import expected_shares
from autointerp.evidence.pairs import (
    RowPairs,
    column_lift,
    position_lift,
    projected,
    row_pairs,
    source_flags,
)
from autointerp.evidence.rows import TAU, OutputGeometry, write_norms
from autointerp.evidence.windows import text_windows
from autointerp.model import Layer
from autointerp.records import Head


def pairs_of(pattern: Tensor, sources: Tensor | None = None, *, exclude_self: bool = False) -> RowPairs:
    size = pattern.shape[0]
    sources = torch.arange(size) > 0 if sources is None else sources
    return row_pairs(pattern, torch.ones(size), sources, torch.arange(size), exclude_self=exclude_self)


def random_pattern(size: int, seed: int) -> Tensor:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return torch.softmax(scores.masked_fill(torch.triu(torch.ones(size, size), 1) > 0, -torch.inf), -1)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("sink", [True, False])
def test_a_uniform_head_has_multiple_one_everywhere(*, exclude_self: bool, sink: bool) -> None:
    size = 40
    sources = torch.arange(size) > 0 if sink else torch.ones(size, dtype=torch.bool)
    found = pairs_of(uniform(size), sources, exclude_self=exclude_self)
    judged = found.allowed & (found.n_allowed >= 8)[:, None]
    assert int(judged.sum()) > 500
    torch.testing.assert_close(found.multiple[judged], torch.ones(int(judged.sum())))
    torch.testing.assert_close(found.log_multiple[judged], torch.zeros(int(judged.sum())), atol=1e-6, rtol=0)
    assert len(round_keys(found.multiple[judged]).unique()) == 1, "noise ranks a pair above its equals"
    long = found.n_allowed >= 2
    torch.testing.assert_close((found.entropy / found.n_allowed.log())[long], torch.ones(int(long.sum())))
    assert found.multiple[~judged].isnan().all()


def test_sink_mass_changes_mass_and_nothing_else() -> None:
    before = random_pattern(30, 1)
    base = pairs_of(before)
    kept = 0.3
    after = before * kept
    after[:, 0] = 1 - after[:, 1:].sum(-1)
    moved = pairs_of(after)
    defined = base.mass * kept >= TAU
    assert defined.sum() > 15
    for name in ("share", "multiple", "entropy"):
        got, wanted = getattr(moved, name)[defined], getattr(base, name)[defined]
        torch.testing.assert_close(got, wanted, equal_nan=True)
    torch.testing.assert_close(moved.mass, base.mass * kept)
    torch.testing.assert_close(moved.sink_mass + moved.mass, torch.ones(30, dtype=torch.float64))
    drowned = before * 0.05
    drowned[:, 0] = 1 - drowned[:, 1:].sum(-1)
    gone = pairs_of(drowned)
    assert gone.share.isnan().all()
    assert gone.multiple.isnan().all()
    assert gone.entropy.isnan().all()
    assert not gone.mass.isnan().any()


@given(st.integers(0, 10_000), st.integers(9, 60))
def test_the_mean_multiple_is_one(seed: int, size: int) -> None:
    found = pairs_of(random_pattern(size, seed))
    rows = (found.mass >= TAU) & (found.n_allowed >= 8)
    means = found.multiple.nansum(-1)[rows] / found.n_allowed[rows]
    torch.testing.assert_close(means, torch.ones_like(means), atol=1e-6, rtol=0)
    peak = found.multiple.nan_to_num(0).amax(-1)
    assert (peak[rows] <= found.n_allowed[rows] + 1e-9).all()


def test_the_multiple_is_n_only_when_one_source_holds_all() -> None:
    pattern = torch.zeros(20, 20)
    pattern[:, 0] = 0.5
    pattern[15, 9], pattern[16, 9], pattern[16, 3] = 0.5, 0.4, 0.1
    found = pairs_of(pattern)
    assert found.multiple[15, 9] == 15
    assert found.log_multiple[15, 9] == 1
    assert found.multiple[16, 9] < 16
    assert found.share[16, 9] == pytest.approx(0.8)
    assert found.multiple_raw[15, 9] == 8.0
    assert found.mean_distance[16] == pytest.approx(0.8 * 7 + 0.2 * 13)


def test_few_sources_have_shares_but_no_multiples() -> None:
    found = pairs_of(uniform(12))
    assert found.multiple[7].isnan().all()
    assert not found.share[7, 1:8].isnan().any()
    assert not found.multiple[8, 1:9].isnan().any()
    assert found.share[:, 0].isnan().all(), "the sink has no share"
    assert found.share[5, 6:].isnan().all(), "a later source has no share"


def test_the_ancestors_artefact_and_ours() -> None:
    """Its column-relative multiple of a uniform 30-token head ranks sources by lateness; ours ranks none."""
    pattern = uniform(30)
    theirs = pattern / pattern[1:].mean(0)
    theirs[:, 0] = 0
    got = [float(theirs[d, s]) for d, s in ((29, 29), (28, 28), (20, 20), (10, 10), (29, 1))]
    assert got == pytest.approx([29.0, 14.75, 3.48, 2.47, 0.32], abs=0.006)
    ours = pairs_of(pattern).multiple
    assert round_keys(ours[ours.isfinite()]).unique().tolist() == [1.0]


def test_column_lift_is_what_the_loops_say() -> None:
    pattern, size = random_pattern(34, 5), 34
    rows = (torch.arange(size) > 0) & (torch.arange(size) < 30)  # the last four are padding
    bucket = bucket_of(np.arange(size))
    expected = torch.full((size, size), math.nan, dtype=torch.float64)
    for d in range(1, 30):
        for s in range(d + 1):
            others = [float(pattern[e, s]) for e in range(max(s, 1), 30) if e != d and bucket[e - s] == bucket[d - s]]
            if len(others) >= 3:
                expected[d, s] = float(pattern[d, s]) * len(others) / sum(others)
    assert int(expected.isfinite().sum()) > 100
    torch.testing.assert_close(column_lift(pattern, torch.arange(size), rows), expected, equal_nan=True)
    some = torch.tensor([3, 25])
    torch.testing.assert_close(column_lift(pattern, some, rows), expected[some], equal_nan=True)


def _positional(ids: Tensor) -> Tensor:
    """Share depends on the distance only; half the mass rests on the sink."""
    size = len(ids)
    distance = (torch.arange(size)[:, None] - torch.arange(size)).clamp_min(0)
    raw = torch.where(torch.tril(torch.ones(size, size)) > 0, 1.0 / (1 + bucket_of_tensor(distance)), 0.0)
    raw[:, 0] = 0
    pattern = 0.5 * raw / raw.sum(-1, keepdim=True).clamp_min(1e-9)
    pattern[:, 0] = 0.5
    return pattern.expand(4, -1, -1)


def bucket_of_tensor(distance: Tensor) -> Tensor:
    return torch.from_numpy(bucket_of(distance.numpy().reshape(-1)).reshape(distance.shape))


def test_a_positional_head_has_no_position_lift_and_a_token_head_has() -> None:
    model = planted(_positional)
    windows = list(text_windows(model, tiny_texts(6, length=3)))  # rows 1 to 3: every bucket holds one length
    expected = expected_shares(model, windows, Head(layer=0, index=0))
    size = len(windows[0].ids)
    found = pairs_of(_positional(torch.zeros(size))[0].double())
    lift = position_lift(found.share, torch.arange(size), expected)
    defined = lift[found.share.isfinite()]
    assert len(defined) == 6
    torch.testing.assert_close(defined, torch.ones_like(defined), atol=1e-6, rtol=0)

    windows = list(text_windows(model, tiny_texts(6, length=30)))
    expected = expected_shares(model, windows, Head(layer=0, index=0))
    found = pairs_of(_positional(torch.zeros(31))[0].double())
    lift = position_lift(found.share, torch.arange(31), expected)
    assert 0.7 < float(lift[found.share.isfinite()].min()) < float(lift[found.share.isfinite()].max()) < 1.4

    by_token = planted(lambda ids: _towards(ids))
    expected = expected_shares(by_token, windows, Head(layer=0, index=0))
    found = pairs_of(_towards(torch.from_numpy(windows[0].ids))[0].double())
    lift = position_lift(found.share, torch.arange(31), expected)
    assert float(lift.nan_to_num(1).max()) > 2


def _towards(ids: Tensor) -> Tensor:
    """All mass on tokens with an even id."""
    size = len(ids)
    raw = torch.tril(torch.ones(size, size)) * ((ids % 2 == 0) + 0.01)
    return (raw / raw.sum(-1, keepdim=True)).expand(4, -1, -1)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_contributions_bound_and_projections_make_the_result(kind: str) -> None:
    """sum of contributions >= ||result||; projections sum to <result, u>, v without its constant part."""
    model = tiny_model(kind)
    ids = model.to_ids(next(iter(text_windows(model, tiny_texts(1)))).ids[None])
    layers: list[Layer] = []
    model.read_attention(ids, [0, 1], layers.append)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    for layer in layers:
        geometry = OutputGeometry.of(model, layer.index)
        norms = write_norms(model, layer, geometry)[0]
        v = model.expand_kv(layer.v - geometry.v_constant)[0]
        constant = model.expand_kv(geometry.v_constant)
        for head in range(model.n_heads):
            w_o = model.W_O(layer.index)[head]
            pattern = layer.pattern[0, head]
            result = (layer.z[0, :, head] - constant[head]) @ w_o
            dst = torch.arange(ids.shape[1])
            found = row_pairs(pattern, norms[head], dst > 0, dst)
            assert (found.contribution.sum(-1) >= result.norm(dim=-1) - 1e-5).all()
            sums = projected(pattern, v[:, head], w_o, direction).sum(-1)
            torch.testing.assert_close(sums, result @ direction, atol=1e-4, rtol=1e-4)
            each = (pattern[5, 3] * (v[3, head] @ w_o)).norm()
            torch.testing.assert_close(found.contribution[5, 3], each, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.contribution_share.sum(-1), torch.ones(ids.shape[1]))


def test_inputs_are_left_alone() -> None:
    pattern = random_pattern(20, 3)
    copy = pattern.clone()
    found = pairs_of(pattern)
    column_lift(pattern, torch.arange(20), torch.ones(20, dtype=torch.bool))
    found.attn[3, 2] = 9.0
    assert torch.equal(pattern, copy)


def test_source_flags() -> None:
    strings = ["<bos>", " the", " The", " cat", "\n", " "]
    ids = [0, 1, 3, 2, 1, 3, 4, 5]

    def flags(dst: int, src: int) -> tuple[str, ...]:
        return source_flags(ids, dst, src, strings, (0,)).names

    assert flags(4, 1) == ("dup_of_dst", "dup_norm", "first_occurrence")
    assert flags(4, 2) == ("after_dup", "equals_next", "first_occurrence")
    assert flags(4, 3) == ("is_prev", "dup_norm", "first_occurrence")
    assert flags(4, 4) == ("is_self",)
    assert flags(4, 0) == ("is_sink", "first_occurrence")
    assert flags(7, 6) == ("is_prev", "first_occurrence"), "white space is not the same as other white space"
    assert source_flags(ids, 5, 5, strings, (0,)).n_occurrences == 2
    assert source_flags(ids, 4, 2, strings, (0,)).n_occurrences == 1, "what comes later does not count"
