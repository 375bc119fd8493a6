"""Row quantities of a layer against plain loops, and the invariants of attention_evidence that they must keep."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny_models import boot, random_network, tiny_model, tiny_texts, tiny_tokenizer, uniform
from torch import Tensor

from autointerp.evidence.buckets import bucket_names, bucket_of, membership, n_buckets, sources_per_bucket
from autointerp.evidence.hashing import document_keys, row_hashes
from autointerp.evidence.pairs import projected, row_pairs
from autointerp.evidence.rows import TAU, Geometry, LayerRows, Masks, OutputGeometry, read_rows, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.notebook import open_model

CPU = torch.device("cpu")
EOS = 2


def causal(shape: tuple[int, ...], seed: int, sharpness: float = 2.0) -> Tensor:
    size = shape[-1]
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness
    return scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(-1)


def read(pattern: Tensor, norms: Tensor | None = None, lengths: list[int] | None = None) -> LayerRows:
    batch, heads, size, _ = pattern.shape
    ids = torch.full((batch, size), 5)
    masks = Masks.of(ids, torch.tensor(lengths or [size] * batch), (1,))
    norms = torch.ones(batch, heads, size) if norms is None else norms
    return read_rows(pattern, norms, masks, Geometry.of(size, CPU))


def row_by_hand(a: Tensor, norms: Tensor, dst: int, allowed: list[int]) -> dict[str, float]:
    mass = float(a[allowed].sum())
    share = a[allowed] / mass if mass >= TAU else torch.full((len(allowed),), math.nan)
    return {
        "mass": mass,
        "sink_mass": float(a[: dst + 1].sum()) - mass,
        "self_mass": float(a[dst]),
        "prev_mass": float(a[dst - 1]),
        "activity": float((a * norms)[allowed].sum()),
        "entropy": float(-torch.xlogy(share, share).sum()),
        "max_share": float(share.max()) if allowed else math.nan,
        "mean_distance": float((share * (dst - torch.tensor(allowed))).sum()),
    }


@pytest.mark.parametrize("special", [(1,), (1, EOS), ()])
@pytest.mark.parametrize("sharpness", [2.0, 6.0])
def test_every_row_quantity_is_that_of_plain_loops(special: tuple[int, ...], sharpness: float) -> None:
    batch, heads, size = 3, 2, 22
    pattern = causal((batch, heads, size, size), 0, sharpness)
    norms = torch.rand(batch, heads, size, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(5, 100, (batch, size), generator=torch.Generator().manual_seed(2))
    ids[1, 7] = ids[0, 12] = EOS
    lengths = [size, 15, 2]
    kept = pattern.clone()
    masks = Masks.of(ids, torch.tensor(lengths), special)
    assert masks.extra_sinks == (EOS in special)
    found = read_rows(pattern, norms, masks, Geometry.of(size, CPU))
    assert torch.equal(pattern, kept), "reading changed the pattern (invariant 16)"
    shares, totals = torch.zeros_like(found.share_sums), torch.zeros(batch, heads, size)
    pairs = torch.zeros_like(found.share_pairs)
    undefined = 0
    for b, h in np.ndindex(batch, heads):
        best = (-1.0, 0, 0)
        for dst in range(1, lengths[b]):
            allowed = [s for s in range(1, dst + 1) if int(ids[b, s]) not in special]
            a = pattern[b, h, dst]
            for name, value in row_by_hand(a, norms[b, h], dst, allowed).items():
                assert float(getattr(found, name)[b, h, dst]) == pytest.approx(value, abs=2e-5, nan_ok=True), name
            totals[b, h, allowed] += (a * norms[b, h])[allowed]
            contribution = {s: float(a[s] * norms[b, h, s]) for s in allowed}
            if sum(contribution.values()) > best[0] and allowed:
                best = (sum(contribution.values()), dst, max(allowed, key=lambda s: contribution[s]))
            if (mass := float(a[allowed].sum())) < TAU:
                undefined += 1
                continue
            for s in allowed:
                place = bucket_of(np.array([dst]))[0], bucket_of(np.array([dst - s]))[0]
                shares[b, h, *place] += a[s] / mass
                pairs[b, h, *place] += 1
        assert (int(found.best_dst[b, h]), int(found.top_src[b, h])) == best[1:]
        assert float(found.activity[b, h, lengths[b] :].abs().sum()) == 0
    assert undefined > (4 if sharpness > 2 else 0)
    torch.testing.assert_close(found.share_sums, shares, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.source_totals, totals, atol=1e-4, rtol=0)
    wanted = (found.mass >= TAU) & masks.rows[:, None]
    assert torch.equal(~found.entropy.isnan(), wanted)
    torch.testing.assert_close(found.share_pairs, pairs, atol=1e-3, rtol=0)


def test_pairs_by_bucket_are_counted_one_by_one() -> None:
    size = 30
    found = read(causal((1, 1, size, size), 3, 0.5))
    counted = torch.zeros_like(found.share_pairs[0, 0])
    for dst in range(1, size):
        for src in range(1, dst + 1):
            counted[bucket_of(np.array([dst]))[0], bucket_of(np.array([dst - src]))[0]] += 1
    torch.testing.assert_close(found.share_pairs[0, 0], counted)


def test_a_uniform_head_has_entropy_one_and_expected_shares_of_one_over_n() -> None:
    """Invariant 1."""
    size = 24
    found = read(uniform(size).expand(1, 2, size, size))
    n = torch.arange(2, size).float()
    torch.testing.assert_close(found.entropy[0, :, 2:] / n.log(), torch.ones(2, size - 2))
    torch.testing.assert_close(found.max_share[0, 0, 2:], 1 / n)
    torch.testing.assert_close(found.mean_distance[0, 0, 2:], (n - 1) / 2)
    torch.testing.assert_close(found.share_sums[0, 0, 2, :2], torch.tensor([0.5, 0.5]))


def test_sink_mass_moves_mass_and_nothing_else_until_it_drowns_the_row() -> None:
    """Invariant 2."""
    size = 20
    before = causal((1, 1, size, size), 4, 0.5)
    base = read(before)

    def drained(kept: float) -> LayerRows:
        after = before * kept
        after[..., 0] = 1 - after[..., 1:].sum(-1)
        return read(after)

    moved, drowned = drained(0.5), drained(0.05)
    torch.testing.assert_close(moved.mass, base.mass * 0.5)
    torch.testing.assert_close((moved.sink_mass + moved.mass)[0, 0, 1:], torch.ones(size - 1))
    for name in ("entropy", "max_share", "mean_distance"):
        torch.testing.assert_close(getattr(moved, name), getattr(base, name), equal_nan=True, atol=1e-5, rtol=1e-5)
        assert getattr(drowned, name).isnan().all()
    assert not drowned.activity.isnan().any()
    assert drowned.share_sums.sum() == drowned.share_pairs.sum() == 0


def test_shares_of_a_defined_row_sum_to_one() -> None:
    """Invariant 3: the mean multiple over the allowed sources is 1."""
    found = read(causal((4, 3, 40, 40), 5))
    defined = (found.mass[:, :, 1:] >= TAU).sum(-1).float()
    torch.testing.assert_close(found.share_sums.sum((-1, -2)), defined, atol=1e-4, rtol=0)


def test_a_positional_head_has_shares_that_depend_on_the_buckets_alone() -> None:
    """Invariant 4: where a bucket of row lengths holds one length, share over expectation is 1."""
    size = 5
    pattern = torch.tril(0.5 ** (torch.arange(size)[:, None] - torch.arange(size)).clamp_min(0).float())
    pattern = pattern / pattern.sum(-1, keepdim=True)
    found = read(pattern.expand(1, 1, size, size))
    expected = (found.share_sums / found.share_pairs)[0, 0]
    for dst in range(1, size):
        share = pattern[dst, 1 : dst + 1] / pattern[dst, 1 : dst + 1].sum()
        torch.testing.assert_close(expected[dst, dst - torch.arange(1, dst + 1)], share)


def test_relabelled_heads_padding_and_batches_change_nothing() -> None:
    """Invariants 7 and 17."""
    pattern, size = causal((3, 4, 18, 18), 6), 18
    norms = torch.rand(3, 4, size, generator=torch.Generator().manual_seed(7))
    whole = read(pattern, norms, [18, 11, 18])
    order = torch.tensor([2, 0, 3, 1])
    turned = read(pattern[:, order], norms[:, order], [18, 11, 18])
    alone = read(pattern[1:2, :, :11, :11], norms[1:2, :, :11])
    for field in fields(LayerRows):
        got, wanted = getattr(turned, field.name), getattr(whole, field.name)[:, order]
        torch.testing.assert_close(got, wanted, equal_nan=True, msg=field.name)
        small = getattr(alone, field.name)[0]
        padded = getattr(whole, field.name)[1]
        if field.name.startswith("share_"):
            padded, extra = padded[:, :7, :7], padded
            assert extra.sum() == pytest.approx(float(padded.sum()))
        elif small.ndim == 2:
            padded = padded[:, :11]
        torch.testing.assert_close(small, padded, equal_nan=True, msg=field.name)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_norms_contributions_and_projections_belong_to_the_heads_result(kind: str) -> None:
    """Invariant 6, with the part of v that no source changes taken out of the result too."""
    model = tiny_model(kind)
    ids = model.to_ids(np.array([[1, *model.encode(text)[0][:20].tolist()] for text in tiny_texts(3)]))
    layers: list[Layer] = []
    model.read_attention(ids, [0, 1], layers.append)
    u = torch.randn(32, generator=torch.Generator().manual_seed(0))
    for layer in layers:
        output = OutputGeometry.of(model, layer.index)
        w_o = model.W_O(layer.index)
        v = model.expand_kv(layer.v - output.v_constant)
        norms = write_norms(model, layer, output)
        writes = torch.einsum("bshd,hdm->bhsm", v, w_o)
        torch.testing.assert_close(norms, writes.norm(dim=-1), atol=1e-5, rtol=1e-5)
        constant = model.expand_kv(output.v_constant[None])[0]
        result = torch.einsum("bdhk,hkm->bhdm", layer.z - constant, w_o)
        contribution = layer.pattern * norms[:, :, None, :]
        assert (contribution.sum(-1) - result.norm(dim=-1)).min() > -1e-5
        for h in range(4):
            found = projected(layer.pattern[0, h], v[0, :, h], w_o[h], u)
            torch.testing.assert_close(found.sum(-1), result[0, h] @ u, atol=1e-4, rtol=0)
            dst = torch.arange(ids.shape[1])
            pairs = row_pairs(layer.pattern[0, h], norms[0, h], dst > 0, dst)
            torch.testing.assert_close(pairs.contribution, contribution[0, h])


def test_a_value_bias_does_not_flatten_the_write_norms() -> None:
    model = tiny_model("gpt2")
    ids = model.to_ids(model.encode(tiny_texts(1)[0])[0][None, :20])
    layers: list[Layer] = []
    model.read_attention(ids, [0], layers.append)
    shifted = replace(layers[0], v=layers[0].v + 5.0)
    output = OutputGeometry.of(model, 0)
    biased = replace(output, v_constant=output.v_constant + 5.0)
    torch.testing.assert_close(
        write_norms(model, shifted, biased), write_norms(model, layers[0], output), atol=1e-4, rtol=1e-4
    )


def _in(dtype: torch.dtype) -> LanguageModel:
    return open_model(boot(random_network("GPT2", len(tiny_tokenizer())), dtype=dtype)).model


def test_half_precision_is_read_in_float32() -> None:
    exact, half = _in(torch.float32), _in(torch.bfloat16)
    ids = exact.to_ids(exact.encode(tiny_texts(1)[0])[0][None, :24])
    found: list[LayerRows] = []
    for model in (exact, half):
        layers: list[Layer] = []
        model.read_attention(ids, [0], layers.append)
        norms = write_norms(model, layers[0], OutputGeometry.of(model, 0))
        found.append(read(layers[0].pattern, norms))
    assert all(getattr(found[1], f.name).dtype in (torch.float32, torch.int64) for f in fields(LayerRows))
    for name in ("mass", "sink_mass", "self_mass"):
        torch.testing.assert_close(getattr(found[1], name), getattr(found[0], name), atol=0.03, rtol=0)
    torch.testing.assert_close(found[1].activity, found[0].activity, atol=0, rtol=0.05)
    torch.testing.assert_close((found[1].mass + found[1].sink_mass), torch.ones_like(found[1].mass), atol=1e-2, rtol=0)


# -- buckets and hashes


def test_distance_buckets() -> None:
    names = bucket_names(129)
    assert names == ("0", "1", "2", "3", "4", "5-8", "9-16", "17-32", "33-64", "65-128")
    assert bucket_names(128) == names
    assert bucket_names(65)[-1] == "33-64"
    assert bucket_names(3) == ("0", "1", "2")
    assert len(names) == n_buckets(129) == 10
    for distance in range(129):
        low, _, high = names[bucket_of(np.array([distance]))[0]].partition("-")
        assert int(low) <= distance <= int(high or low)
    assert membership(20).sum() == 20
    assert sources_per_bucket(20).sum(1).tolist() == list(range(20))
    assert sources_per_bucket(20)[6].tolist()[:6] == [1, 1, 1, 1, 1, 1]


def test_row_hashes_differ_for_every_row_and_do_not_depend_on_the_batch() -> None:
    documents = document_keys(["ab" * 32, "00" * 32, "ff" * 32])
    heads = np.array([[0, 0], [0, 1], [1, 0]])
    whole = row_hashes(3, documents, np.array([0, 1, 1]), heads, 16)
    assert whole.shape == (3, 3, 16)
    assert len(np.unique(whole)) == whole.size
    one = row_hashes(3, documents[2:], np.array([1]), heads[1:2], 9)
    assert np.array_equal(one[0, 0], whole[1, 2, :9])
    assert not np.intersect1d(whole, row_hashes(4, documents, np.array([0, 1, 1]), heads, 16)).size
    assert abs(whole.astype(np.float64).mean() / 2**63 - 1) < 0.2
