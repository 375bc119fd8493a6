"""What an example says of its row, against direct computation on the model."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import CONTEXT, HEADS, by_hand, corpus, whole
from tiny_models import boot, random_network, tiny_model, tiny_texts, tiny_tokenizer
from torch import Tensor

from autointerp.evidence.effects import RowEffect, RowPlace, row_effects
from autointerp.evidence.examples import Chosen, ExampleReader, RowReading, extreme_tokens
from autointerp.evidence.pairs import position_lift, source_flags
from autointerp.evidence.selection import ChosenRow, WindowTable, select_rows
from autointerp.model import LanguageModel, Layer, Readout
from autointerp.notebook import open_model
from autointerp.records import Example, Head


@functools.cache
def chosen_rows() -> list[Chosen]:
    explain = corpus()
    table = WindowTable(explain.windows.ids, np.asarray(explain.cluster))
    rows = [select_rows(whole(), head, table)[0] for head in range(HEADS)]
    found = [(Head(layer=n // 4, index=n % 4), row) for n, head in enumerate(rows) for row in head]
    last = int(explain.windows.lengths[3]) - 1  # the end of a short window: nothing follows
    ends = [(Head(layer=layer, index=0), ChosenRow(3, last, "random", None, 1.0, 1.0, 0.5)) for layer in (0, 1)]
    return [*found, *ends]


def place_of(item: Chosen) -> RowPlace:
    head, row = item
    windows = corpus().windows
    ids, length = windows.ids[row.window], int(windows.lengths[row.window])
    return RowPlace(head, tuple(ids[: row.dst + 1].tolist()), int(ids[row.dst + 1]) if row.dst + 1 < length else None)


@functools.cache
def readout() -> Readout:
    return Readout.of(tiny_model("gpt2"), tiny_model("gpt2").to_ids(corpus().windows.ids[:8]))


def z_mean() -> np.ndarray:
    return whole().z_mean().reshape(2, 4, -1)


@functools.cache
def examples(batch_size: int = 8) -> list[tuple[Chosen, RowReading, RowEffect, Example]]:
    model, items = tiny_model("gpt2"), chosen_rows()
    reader = ExampleReader(model, corpus().windows, readout(), whole().expected_share())
    readings = reader.read(items, batch_size)
    effects = row_effects(model, [place_of(i) for i in items], z_mean(), batch_size)
    return [(i, readings[i], e, reader.example(i, readings[i], e)) for i, e in zip(items, effects, strict=True)]


def real_ids(row: ChosenRow) -> list[int]:
    windows = corpus().windows
    return [int(i) for i in windows.ids[row.window][: windows.lengths[row.window]]]


def test_identity_text_and_row_numbers() -> None:
    model, windows, (found, _) = tiny_model("gpt2"), corpus().windows, by_hand()
    assert len(examples()) > 150
    for (head, row), _, _, example in examples():
        pairs, r = found[row.window, head.layer * 4 + head.index], row.dst - 1
        assert example.doc_id == windows.doc_ids[int(windows.doc[row.window])]
        assert example.window == windows.window_in_doc[row.window]
        for name in ("dst", "stratum", "tier", "weight"):
            assert getattr(example, name) == getattr(row, name)
        ids = real_ids(row)
        assert example.tokens == tuple(model.strings[i] for i in ids)
        assert example.dst_token == model.strings[ids[row.dst]]
        assert example.next_token == (model.strings[ids[row.dst + 1]] if row.dst + 1 < len(ids) else None)
        assert example.dst_bucket == ("first 8" if row.dst < 8 else "early" if row.dst < CONTEXT // 2 else "late")
        assert example.n_allowed == int(pairs.n_allowed[r])
        for name in ("sink_mass", "self_mass", "entropy"):
            assert getattr(example, name) == pytest.approx(float(getattr(pairs, name)[r]), abs=1e-4, nan_ok=True)
        assert example.pattern == pytest.approx(pairs.attn[r, : row.dst + 1].tolist(), abs=1e-4)
        shares = pairs.contribution_share[r, : row.dst + 1]
        assert example.contribution_shares == pytest.approx(shares.tolist(), abs=1e-4)
        if row.stratum == "top":
            assert example.activity == pytest.approx(float(pairs.activity[r]), rel=1e-4)


def test_sources_are_the_five_largest_contributions_with_a_share() -> None:
    model, (found, _) = tiny_model("gpt2"), by_hand()
    numbers = 0
    for (head, row), reading, _, example in examples():
        flat, r = head.layer * 4 + head.index, row.dst - 1
        pairs, ids = found[row.window, flat], real_ids(row)
        share = pairs.share[r].nan_to_num(0.0)
        wanted = [s for s in range(len(ids)) if share[s] >= 0.05]
        wanted = sorted(wanted, key=lambda s, c=pairs.contribution_share[r]: -float(c[s]))[:5]  # type: ignore[misc]
        assert [s.src for s in example.sources] == wanted
        expected = torch.tensor(whole().expected_share()[flat])
        lift = position_lift(pairs.share[r : r + 1], torch.tensor([row.dst]), expected)
        top = torch.where(pairs.allowed[r], pairs.contribution[r], -1.0).argmax()
        assert reading.top_src == int(top)
        for source in example.sources:
            s, numbers = source.src, numbers + 1
            for name in ("attn", "share", "multiple", "contribution", "contribution_share"):
                value = float(getattr(pairs, name)[r, s])
                assert getattr(source, name) == pytest.approx(value, abs=1e-4, rel=1e-4, nan_ok=True), name
            assert source.position_lift == pytest.approx(float(lift[0, s]), rel=1e-3, nan_ok=True)
            assert (source.token, source.distance) == (model.strings[ids[s]], row.dst - s)
            assert source.around == tuple(model.strings[i] for i in ids[max(s - 4, 0) : s + 5])
            flags = source_flags(ids, row.dst, s, model.strings, model.special_ids)
            assert {name: getattr(source, name) for name in vars(flags)} == vars(flags)
            assert not source.is_sink
    assert numbers > 300


def test_column_lifts_compare_with_other_rows_of_the_window() -> None:
    (found, _), judged = by_hand(), 0
    for (head, row), _, _, example in examples():
        attn = found[row.window, head.layer * 4 + head.index].attn
        for source in example.sources:
            d = source.distance
            low, high = (d, d) if d <= 4 else (5, 8) if d <= 8 else (9, 16) if d <= 16 else (17, 32)
            others = [float(attn[o - 1, source.src]) for o in range(max(source.src + low, 1), source.src + high + 1)
                      if o != row.dst and o - 1 < len(attn)]  # fmt: skip
            wanted = source.attn / np.mean(others) if len(others) >= 3 else math.nan
            judged += not math.isnan(wanted)
            assert source.column_lift == pytest.approx(wanted, rel=1e-3, nan_ok=True)
    assert judged > 20


def logits_by_hand(model: LanguageModel, row: ChosenRow) -> tuple[Tensor, Tensor, list[Layer]]:
    """Centred logits of a unit of each residual direction at the row, its logits, and its layers."""
    layers: list[Layer] = []
    ids = model.to_ids(np.array([real_ids(row)]))
    with model.observing([0, 1], layers.append):
        residual = model.final_states(ids)[0][0, row.dst]
    centred = torch.eye(32) - 1 / 32
    norm = model.bridge.original_model.transformer.ln_f
    gain = dict(norm.named_parameters())
    weight = next(value for name, value in gain.items() if name.endswith("weight")).detach()
    directions = centred / (residual.var(unbiased=False) + 1e-5).sqrt() * weight @ model.W_U
    return directions - directions.mean(1, keepdim=True), model.logits(ids)[0], layers


def test_readouts_are_logits_of_what_is_written() -> None:
    model, (found, _) = tiny_model("gpt2"), by_hand()
    for (head, row), reading, _, example in examples()[::7]:
        to_logits, _, layers = logits_by_hand(model, row)
        layer, w_o = layers[head.layer], model.W_O(head.layer)[head.index]
        constant = model.v_constant(head.layer)[head.index]
        source_write = (layer.v[0, reading.top_src, head.index] - constant) @ w_o
        whole_write = (layer.z[0, row.dst, head.index] - constant) @ w_o
        for write, up, down in (
            (source_write, example.ov_up, example.ov_down),
            (whole_write, example.write_up, example.write_down),
        ):
            values = write @ to_logits
            assert [t.value for t in up] == pytest.approx(values.topk(5)[0].tolist(), abs=1e-4)
            assert [t.value for t in down] == pytest.approx(values.topk(5, largest=False)[0].tolist(), abs=1e-4)
            assert up[0].token == model.strings[int(values.argmax())]
        ids = real_ids(row)
        source_logit = float((source_write @ to_logits)[ids[reading.top_src]])
        assert reading.source_logit == pytest.approx(source_logit, abs=1e-4)
        if row.dst + 1 < len(ids):
            assert example.dla_next == pytest.approx(float((whole_write @ to_logits)[ids[row.dst + 1]]), abs=1e-4)
        assert example.flags == ()
    assert found


def ablated_by_hand(model: LanguageModel, item: Chosen, mean: np.ndarray) -> tuple[float, float]:
    head, row = item
    ids = model.to_ids(np.array([real_ids(row)]))

    def hook(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        shaped = z.reshape(*z.shape[:2], 4, -1)
        shaped[0, row.dst, head.index] = torch.as_tensor(mean, dtype=z.dtype)
        return shaped.reshape(z.shape)

    before = model.logits(ids)[0, row.dst].double().log_softmax(-1)
    with model.hooks([(f"blocks.{head.layer}.attn.hook_z", hook)]):
        after = model.logits(ids)[0, row.dst].double().log_softmax(-1)
    following = place_of(item).next_id
    gain = math.nan if following is None else float(before[following] - after[following])
    return gain, float((before.exp() * (before - after)).sum())


def test_effects_are_those_of_a_full_forward_with_the_mean_in_the_heads_place() -> None:
    model, sizes = tiny_model("gpt2"), []
    for item, _, effect, example in [*examples()[::5], *examples()[-2:]]:
        head = item[0]
        gain, kl = ablated_by_hand(model, item, z_mean()[head.layer, head.index])
        assert effect.dlogp_next == pytest.approx(gain, abs=1e-5, nan_ok=True)
        assert effect.kl == pytest.approx(kl, abs=1e-5)
        assert example.abl_dlogp_next == pytest.approx(gain, abs=1e-5, nan_ok=True)
        assert example.abl_kl == pytest.approx(kl, abs=1e-5)
        sizes.append(kl)
    assert max(sizes) > 1e-3


def test_the_end_of_a_row_has_no_next_token_and_no_effect_on_it() -> None:
    for _, reading, effect, example in examples()[-2:]:
        assert example.next_token is None
        assert math.isnan(example.dla_next)
        assert math.isnan(reading.write_logits_next)
        assert math.isnan(effect.dlogp_next)
        assert effect.kl > 0
        back = Example.model_validate_json(example.model_dump_json())
        assert math.isnan(back.abl_dlogp_next)
        assert back.abl_kl == example.abl_kl


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3])
def test_examples_do_not_depend_on_the_batch(batch_size: int) -> None:
    for (_, _, _, got), (_, _, _, wanted) in zip(examples(batch_size), examples(), strict=True):
        mine, other = got.model_dump(), wanted.model_dump()
        for name, value in other.items():
            if isinstance(value, float):
                assert mine[name] == pytest.approx(value, abs=2e-6, rel=1e-4, nan_ok=True), name
            elif name in ("tokens", "dst_token", "next_token", "doc_id", "flags", "n_allowed"):
                assert mine[name] == value
        assert [s.src for s in got.sources] == [s.src for s in wanted.sources]


def test_grouped_query_sources_write_through_their_own_values() -> None:
    model = open_model(boot(random_network("Llama", len(tiny_tokenizer())))).model
    ids = np.array([[1, *model.encode(text)[0][:15].tolist()] for text in tiny_texts(2)])
    windows = type(corpus().windows)(ids, np.full(2, 16), np.arange(2), np.zeros(2, int), ["aa" * 32, "bb" * 32])
    found = Readout.of(model, model.to_ids(ids))
    reader = ExampleReader(model, windows, found, np.full((8, 8, 8), 0.1))
    layers: list[Layer] = []
    with model.observing([0, 1], layers.append):
        residual = model.final_states(model.to_ids(ids))[0]
    items = [(Head(layer=n // 4, index=n % 4), ChosenRow(1, 9, "top", None, 1.0, 1.0, 1.0)) for n in range(8)]
    for (head, _), reading in reader.read(items, 2).items():
        layer = layers[head.layer]
        assert layer.v.shape[2] == 2
        write = layer.z[1, 9, head.index] @ model.W_O(head.layer)[head.index]
        logits = found.logits(write[None], found.scale(residual[1, 9][None]))[0]
        assert reading.write_logits_next == pytest.approx(float(logits[ids[1, 10]]), abs=1e-5)
        v = layer.v[1, reading.top_src, head.index // 2]
        own = found.logits((v @ model.W_O(head.layer)[head.index])[None], found.scale(residual[1, 9][None]))[0]
        assert reading.source_logit == pytest.approx(float(own[ids[1, reading.top_src]]), abs=1e-5)


def test_without_a_readout_what_is_written_is_not_available_and_the_rest_is() -> None:
    items = [(Head(layer=1, index=0), ChosenRow(0, 6, "top", None, 1.0, 1.0, 1.0))]
    model = tiny_model("gpt2")
    with_it = ExampleReader(model, corpus().windows, readout(), whole().expected_share())
    without = ExampleReader(model, corpus().windows, None, whole().expected_share())
    full, bare = with_it.read(items, 1)[items[0]], without.read(items, 1)[items[0]]
    assert full.ov_up
    assert full.write_down
    assert (bare.ov_up, bare.ov_down, bare.write_up, bare.write_down) == ((), (), (), ())
    assert math.isnan(bare.write_logits_next)
    assert math.isnan(bare.source_logit)
    assert torch.equal(bare.pairs.attn, full.pairs.attn)
    example = without.example(items[0], bare, RowEffect(0.1, 0.2))
    assert math.isnan(example.dla_next)
    assert example.abl_kl == 0.2


def test_a_head_that_writes_nothing_is_flagged() -> None:
    network = random_network("GPT2", len(tiny_tokenizer()))
    with torch.no_grad():
        network.transformer.h[1].attn.c_proj.weight[8:16] = 0  # head 1 of layer 1
    model = open_model(boot(network)).model
    reader = ExampleReader(model, corpus().windows, readout(), whole().expected_share())
    items = [(Head(layer=1, index=h), ChosenRow(0, 6, "top", None, 1.0, 1.0, 1.0)) for h in (0, 1)]
    readings = reader.read(items, 2)
    assert [readings[i].no_write for i in items] == [False, True]
    assert reader.example(items[1], readings[items[1]], RowEffect(0.0, 0.0)).flags == ("no_write",)
    assert reader.read([], 4) == {}
    assert row_effects(model, [], z_mean(), 4) == []


def test_extreme_tokens() -> None:
    up, down = extreme_tokens(torch.tensor([0.0, 3.0, -2.0]), ["a", "b", "c"], 2)
    assert [(t.token, t.value) for t in up] == [("b", 3.0), ("a", 0.0)]
    assert [(t.token, t.value) for t in down] == [("c", -2.0), ("a", 0.0)]
