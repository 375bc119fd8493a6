"""Detectors of head types: cells, data, nulls, labels (attention_evidence section 6, invariants 7, 11, 12, 17)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import N_CTX, PlantedModel, planted, tiny_model, tiny_texts, uniform
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence import detector_measure
from autointerp.evidence.detector_classes import ClassMasks
from autointerp.evidence.detector_data import (
    AT_LEAST,
    DelimiterRows,
    TextRows,
    delimiter_pairs,
    delimiter_rows,
    ordinary_pool,
    prefix_rows,
    repeated_rows,
    shuffled_rows,
)
from autointerp.evidence.detector_induction import prefix_curve
from autointerp.evidence.detector_measure import (
    Measured,
    TextPlan,
    measure_delimiters,
    measure_repeats,
    measure_text,
)
from autointerp.evidence.detector_output import (
    Vocabulary,
    measure_copying,
    measure_relations,
    measure_successor,
    ranked,
)
from autointerp.evidence.detector_readings import Kind, Summary, percentiles, readings, row_mean
from autointerp.evidence.detector_suppression import measure_suppression
from autointerp.evidence.detector_targets import last_cells, text_masks
from autointerp.evidence.detectors import DetectorInputs, DetectorSpec, labels_of, run_detectors
from autointerp.model import LanguageModel, Layer, Readout, load_model, random_twin
from autointerp.predicate.tokens import TokenTable
from autointerp.records import LABELS, Head, Reading


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads, much slower where the cores are taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


T = 12
QUICK = DetectorSpec(n_sequences=10, T=T, n_text=12, n_delimiters=6, n_prefix=2, n_effect=3, n_suppression=4,
                     null_sequences=4, null_text=6)  # fmt: skip


def shifted(size: int, k: int) -> Tensor:
    """All attention k positions back; nothing where there is no such position."""
    return torch.diag(torch.ones(size - k), -k) if k else torch.eye(size)


def same_everywhere(*maps: Callable[[int], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda ids: torch.stack([m(len(ids)) for m in maps])


def windows(model: LanguageModel, n: int = 12, length: int = 45) -> TextRows:
    rows = []
    for text in tiny_texts(n, length=length):
        ids = model.encode(text.replace(" and", ","))[0][: N_CTX - 1].tolist()
        rows.append(ids if model.bos_id is None else [model.bos_id, *ids])
    lengths = np.array([len(r) for r in rows])
    ids = np.zeros((n, max(lengths)), dtype=np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return TextRows(ids, lengths)


def pool_of(model: LanguageModel, text: TextRows) -> np.ndarray:
    real = np.concatenate([row[:n] for row, n in zip(text.ids, text.lengths, strict=True)])
    return ordinary_pool(model.strings, model.special_ids, *np.unique(real, return_counts=True))


def plan(model: LanguageModel, text: TextRows, own: dict[Head, list[int]] | None = None) -> TextPlan:
    heads = [Head(layer=n, index=h) for n in range(model.n_layers) for h in range(model.n_heads)]
    table = TokenTable.from_strings(model.strings, model.special_ids)
    return TextPlan(text, ClassMasks.of(text, table, own or {}, heads))


# -- cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
def test_positional_identities_on_handmade_patterns(bos: bool) -> None:
    names = ["previous_token", "current_token", "duplicate_token", "induction", "offset_3"]
    offsets = [1, 0, T, T - 1, 3]
    for start in (0, 1):  # four heads at a time
        chosen = list(zip(names, offsets, strict=True))[start : start + 4]
        model = planted(same_everywhere(*[lambda size, k=k: shifted(size, k) for _, k in chosen]))
        model = model if bos else replace(model, bos_id=None)
        pool = np.arange(20, 60)
        found = measure_repeats(model, repeated_rows(pool, T, 3, 0, model.bos_id), T)
        for column, (own, _) in enumerate(chosen):
            for name in names:
                value = row_mean(found[name].value)[column]
                assert value == pytest.approx(float(name == own), abs=1e-6), (own, name)
            assert row_mean(found["previous_token"].more["argmax_rate"])[column] == float(own == "previous_token")


def test_first_token_and_the_uniform_baseline() -> None:
    first = torch.zeros(1)

    def rest(size: int) -> Tensor:
        found = torch.zeros(size, size)
        found[:, 0] = 1
        return found

    model = planted(same_everywhere(rest, uniform, uniform, lambda size: shifted(size, 1)))
    found = measure_repeats(model, repeated_rows(np.arange(20, 60), T, 2, 0, model.bos_id), T)
    assert row_mean(found["first_token"].value)[0] == 1
    assert row_mean(found["first_token"].value)[3] == pytest.approx(1 / (2 * T))  # only from the second position
    for name, measured in found.items():
        assert measured.value[:, 1] == pytest.approx(measured.uniform[:, 1], rel=1e-5), name
    expected = np.mean([1 / (d + 1) for d in range(1 + T, 1 + 2 * T)])
    assert found["duplicate_token"].uniform[0, 0] == pytest.approx(expected)
    assert first.sum() == 0


def test_text_cells_by_hand() -> None:
    ids = torch.tensor([[9, 1, 2, 1, 3, 1, 1, 0]])  # BOS, six more (3 is a control token), padding
    real = torch.tensor([[True] * 7 + [False]])
    content = real & (ids != 9) & (ids != 3)
    masks = text_masks(ids, real, content, 1)

    def cells(name: str) -> list[list[int]]:
        return torch.nonzero(masks[name][0]).tolist()

    assert cells("duplicate_token") == [[3, 1], [5, 1], [5, 3], [6, 1], [6, 3], [6, 5]]
    assert cells("induction") == [[3, 2], [5, 2], [6, 2]]  # not the control token after 3, not the destination itself
    assert cells("previous_token") == [[d, d - 1] for d in range(2, 7)]
    assert cells("current_token") == [[d, d] for d in range(2, 7)]
    assert cells("first_token") == [[d, 0] for d in range(1, 7)]
    assert cells("duplicate_token/last") == [[3, 1], [5, 3], [6, 5]]
    assert cells("induction/last") == [[3, 2], [5, 2], [6, 2]]
    assert not last_cells(torch.zeros(1, 3, 3, dtype=torch.bool)).any()


def test_heads_are_relabelled_with_their_columns() -> None:
    def plant(order: list[int]) -> Callable[[Tensor], Tensor]:
        def attend(ids: Tensor) -> Tensor:
            size = len(ids)
            maps = torch.stack([shifted(size, 1), uniform(size), shifted(size, 2), uniform(size) * (ids < 40)])
            return maps[order]

        return attend

    order = [2, 0, 3, 1]
    text = windows(planted(plant([0, 1, 2, 3])))
    found = [measure_text(m, plan(m, text)) for m in (planted(plant([0, 1, 2, 3])), planted(plant(order)))]
    for name, measured in found[0].items():
        columns = np.array(order + [4 + o for o in order])
        np.testing.assert_allclose(found[1][name].value, measured.value[:, columns], rtol=1e-6)


def test_local_context_wants_a_broad_window() -> None:
    def last(size: int, k: int) -> Tensor:
        return sum((shifted(size, j) / k for j in range(k)), torch.zeros(size, size))

    model = planted(same_everywhere(lambda n: last(n, 8), lambda n: shifted(n, 1), lambda n: last(n, 16), uniform))
    found = measure_text(model, plan(model, windows(model, length=62)))["local_context"]
    value = row_mean(found.value)
    assert value[:3] == pytest.approx([1, 0, 0.5], abs=1e-5)
    assert value[3] == pytest.approx(row_mean(found.uniform)[3], rel=0.1)  # the sink is no source
    assert row_mean(found.uniform).max() <= 0.2


def test_punctuation_classes_and_own_tokens() -> None:
    model = tiny_model()
    comma = model.strings.index(",")

    def attend(ids: Tensor) -> Tensor:
        weight = torch.tril(torch.ones(len(ids), len(ids))) * (ids == comma)
        rows = weight / weight.sum(1, keepdim=True).clamp_min(1)
        return torch.stack([rows, uniform(len(ids)), shifted(len(ids), 1), rows])

    model = planted(attend)
    text = windows(model)
    found = measure_text(model, plan(model, text, {Head(layer=0, index=3): [comma]}))
    value, even = row_mean(found["punctuation"].value), row_mean(found["punctuation"].uniform)
    assert value[0] == pytest.approx(1)
    assert value[1] == pytest.approx(even[1], rel=1e-5)
    assert value[2] < 2 * even[2]
    assert row_mean(found["class/own"].value)[3] == pytest.approx(1)
    assert row_mean(found["class/own"].value)[0] == 0
    near = row_mean(found["punctuation"].more["nearest"])
    assert 0 < near[0] < 0.9  # spread over all commas, of which the last is one
    assert near[0] == pytest.approx(row_mean(found["class/own"].more["nearest"])[3])
    assert row_mean(found["class/punctuation"].more["expected"])[0] == pytest.approx(
        row_mean(found["class/punctuation"].uniform)[0], rel=1e-5
    )  # without a table of shares, positions are expected to count the same


# -- data ----------------------------------------------------------------------------------------------------


def test_pool_holds_ordinary_ids_that_were_met() -> None:
    strings = ["<s>", "a", "\\xe2", "b", "\ufffd", "", "c", "x\\xff", "d"]
    counts = np.array([99, 3, 99, 2, 99, 99, 50, 99, 50])
    pool = ordinary_pool(strings, {0}, np.arange(9), counts)
    assert pool.tolist() == [6, 8, 1]  # most frequent first, ties by id
    assert AT_LEAST == 3


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(30, 60), st.integers(0, 5), st.booleans())
def test_repeated_rows_repeat_distinct_ids(length: int, size: int, seed: int, bos: bool) -> None:
    pool = np.arange(100, 100 + size)
    rows = repeated_rows(pool, length, 4, seed, 7 if bos else None)
    assert rows.shape == (4, 2 * length + bos)
    assert (rows[:, 0] == 7).all() or not bos
    text = rows[:, bos:]
    assert (text[:, :length] == text[:, length:]).all()
    assert all(len(set(row[:length])) == length and set(row) <= set(pool) for row in text.tolist())
    assert (rows == repeated_rows(pool, length, 4, seed, 7 if bos else None)).all()
    assert length < 8 or (rows != repeated_rows(pool, length, 4, seed + 1, 7 if bos else None)).any()


@pytest.mark.parametrize("length", [1, 6])
def test_a_repeat_that_the_pool_cannot_give_is_refused(length: int) -> None:
    with pytest.raises(BadInput, match="pool of 5"):
        repeated_rows(np.arange(5), length, 1, 0, None)


def test_prefix_rows_repeat_exactly_the_last_ids() -> None:
    for prefix in (1, 4):
        rows, src = prefix_rows(np.arange(50), prefix, 5, np.random.default_rng(0), 99)
        for row in rows.tolist():
            assert row[-prefix:] == row[src - prefix : src]
            assert len(set(row)) == len(row) - prefix


def test_prefix_curve_sees_a_head_that_matches() -> None:
    def attend(ids: Tensor) -> Tensor:
        size = len(ids)
        equal = (ids[:, None] == ids[None, :]).float().tril(-1)
        after = torch.zeros(size, size)
        after[:, 1:] = equal[:, :-1]
        return torch.stack([after, equal, uniform(size), shifted(size, 1)])

    curve = prefix_curve(planted(attend), np.arange(20, 70), 3, np.random.default_rng(0))
    assert list(curve) == [f"prefix_{n}" for n in range(1, 9)]
    assert all(values[0] == 1 and values[1] == values[3] == 0 for values in curve.values())


def test_delimiters_nest_and_match() -> None:
    strings = ["<s>", " (", ")", " [", " ]", '"', " (", "a", "b", *[f" w{i}" for i in range(40)]]
    table = TokenTable.from_strings(strings, [0])
    pairs = delimiter_pairs(table, strings, np.arange(1, len(strings)))
    assert pairs == [(1, 2), (3, 4), (5, 5)]
    assert delimiter_pairs(table, strings, np.array([1, 3, 4, 7])) == [(3, 4)]
    rows = delimiter_rows(pairs[:2], np.arange(9, 49), (20, 64), np.random.default_rng(0), 0)
    assert (rows.ids[:, 0] == 0).all()
    openers = {1: 2, 3: 4}
    for row, closing, inside, other in zip(rows.ids, rows.closing, rows.inside, rows.other, strict=True):
        stack: list[int] = []
        for at, token in enumerate(row.tolist()):
            if token in openers:
                stack.append(at)
            elif token in openers.values():
                start = stack.pop()
                assert openers[int(row[start])] == token
                assert np.flatnonzero(closing[at]).tolist() == [start]
            elif stack and at - stack[-1] >= 3:
                assert np.flatnonzero(inside[at]).tolist() == [stack[-1]]
            else:
                assert not inside[at].any()
                assert not closing[at].any()
        assert not (other & (closing | inside)).any()
    assert rows.closing.any()
    assert rows.inside.any()
    assert rows.other.any()


def test_other_signs_stand_between_an_opening_and_what_follows_it() -> None:
    words, others = np.arange(9, 49), np.array([60, 61])
    rows = delimiter_rows([(1, 2), (3, 4)], words, (20, 64), np.random.default_rng(0), 0, others)
    signs = np.isin(rows.ids, [1, 2, 3, 4, 60, 61])
    places = np.arange(64)
    for which in (rows.closing, rows.inside):
        assert which.any()
        for row, dst, opening in np.argwhere(which).tolist():
            last = places[:dst][signs[row, :dst]].max()
            assert last > opening  # the last sign is another one


def test_delimiter_matching_is_one_for_a_matching_head() -> None:
    model = tiny_model()
    words = np.array(
        [model.strings.index(f" {w}") for w in ("cat", "dog", "red", "blue", "park", "ball", "news", "house")]
    )
    signs = [(model.strings.index("("), model.strings.index(")")), (model.strings.index("["), model.strings.index("]"))]
    rows = delimiter_rows(signs, words, (8, N_CTX), np.random.default_rng(1), model.bos_id)
    matching = {
        tuple(ids.tolist()): torch.from_numpy(rows.closing[i] | rows.inside[i]) for i, ids in enumerate(rows.ids)
    }

    def attend(ids: Tensor) -> Tensor:
        right = matching[tuple(ids.tolist())].float()
        return torch.stack([right, shifted(len(ids), 1), shifted(len(ids), 0), uniform(len(ids))])

    found = measure_delimiters(planted(attend), rows)["delimiter_matching"]
    assert row_mean(found.value)[:3] == pytest.approx([1, 0, 0])
    assert row_mean(found.value)[3] == pytest.approx(row_mean(found.uniform)[3], rel=1e-5)
    assert row_mean(found.more["other_opening"])[0] == 0
    assert isinstance(rows.some(3), DelimiterRows)
    assert len(rows.some(3).ids) == 3


def test_shuffling_keeps_bos_padding_and_tokens() -> None:
    ids = np.array([[9, 1, 2, 3, 4, 5, 0, 0]])
    fed = shuffled_rows(ids, np.array([6]), np.random.default_rng(3), 9)
    assert fed[0, 0] == 9
    assert fed[0, 6:].tolist() == [0, 0]
    assert sorted(fed[0, 1:6].tolist()) == [1, 2, 3, 4, 5]
    assert fed.tolist() != ids.tolist()


# -- readings ------------------------------------------------------------------------------------------------


def test_means_ranks_and_lift_by_hand() -> None:
    values = np.array([[1.0, 0.0, np.nan], [0.5, 0.0, np.nan], [np.nan, 0.3, np.nan]])
    summary = Summary.of(values, 0)
    assert summary.value[:2] == pytest.approx([0.75, 0.1])
    assert np.isnan(summary.value[2])
    assert summary.n.tolist() == [2, 3, 0]
    assert summary.low[1] == 0
    assert summary.high[1] == pytest.approx(0.3)
    assert np.isnan(summary.low[2])
    assert percentiles(np.array([0.1, 0.4, np.nan, 0.4, 0.2])) == pytest.approx(
        [25, 87.5, np.nan, 87.5, 50], nan_ok=True
    )


def test_firing_needs_the_null_and_the_lift() -> None:
    value = np.tile([0.5, 0.5, 0.05, 0.5], (10, 1))
    uniform = np.tile([0.05, 0.2, 0.005, 0.05], (10, 1))
    found = readings(Kind("induction", "repeats"), Measured(value, uniform, {}), np.array([0.1, 0.1, 0.1, 0.5]), 0)
    assert [r.fires for r in found] == [True, False, False, False]
    assert [r.lift_over_uniform for r in found] == pytest.approx([10, 2.5, 10, 10])
    nothing = np.full((4, 2), np.nan)
    empty = readings(Kind("induction", "text"), Measured(nothing, nothing, {"x": nothing}), np.zeros(2), 0)
    assert not any(r.fires for r in empty)
    assert empty[0].detail == {}
    assert np.isnan(Reading.model_validate_json(empty[0].model_dump_json()).value)


def reading(name: str, lift: float, data: str = "text", **more: object) -> Reading:
    base = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "percentile": 100.0, "null_max": 0.1}
    return Reading.model_validate(
        {**base, "name": name, "data": data, "lift_over_uniform": lift, "fires": True, **more}
    )


def test_labels_in_order() -> None:
    found = [
        reading("first_token", 28),
        reading("previous_token", 6),
        reading("previous_token", 20, "repeats"),
        reading("induction", 10),
        reading("induction", 99, "repeats", fires=False),
        reading("copying", 5000, "parameters"),
        reading("anti_copying", 40, "parameters"),
        reading("relation", 900, "parameters"),
        reading("punctuation", 4),
        reading("token_class", 5, detail={"class": "punctuation"}),
    ]
    labels = labels_of(found)
    assert labels == ("previous_token", "induction", "punctuation", "copying", "copy_suppression", "first_token")
    assert set(labels) <= set(LABELS)
    assert labels_of([]) == ()


def test_a_position_is_left_to_the_class_that_stands_there() -> None:
    """A head on punctuation looks two back in a fifth of all rows, because punctuation is often there."""
    signs = reading("punctuation", 4.8, value=0.98)
    near = reading("fixed_offset", 5.8, value=0.21)
    assert labels_of([signs, near, reading("previous_token", 5.3, value=0.2)]) == ("punctuation",)
    assert labels_of([signs, near, reading("fixed_offset", 9, "repeats")]) == ("fixed_offset", "punctuation")
    assert "fixed_offset" in labels_of([reading("punctuation", 4.8, value=0.7), near])  # a third is left over
    assert "previous_token" in labels_of([signs, reading("previous_token", 20, value=0.6)])
    assert "induction" in labels_of([signs, reading("induction", 20, value=0.2)])


# -- output side ---------------------------------------------------------------------------------------------


class OvModel(PlantedModel):
    """Heads of layer 1 and on send a token to its own unembedding, times `sign`."""

    sign = 1.0

    def W_O(self, layer: int) -> Tensor:
        return torch.eye(32).expand(4, -1, -1) * self.sign

    def W_V(self, layer: int) -> Tensor:
        return torch.zeros(4, 32, 32)

    def v_constant(self, layer: int) -> Tensor:
        return torch.zeros(4, 32)

    def read_attention(self, ids: Tensor, layers: list[int], read: Callable[[Layer], None]) -> None:
        v = READOUT[0].to_logits.T[ids][:, :, None, :].expand(-1, -1, 4, -1)
        for layer in layers:
            read(Layer(layer, torch.zeros(len(ids), 4, 2, 2), v, v))


class AntiModel(OvModel):
    sign = -1.0


READOUT: list[Readout] = []


def test_copying_and_its_mirror() -> None:
    base = tiny_model()
    text = windows(base)
    READOUT[:] = [Readout.of(base, base.to_ids(text.some(4).ids))]
    table = TokenTable.from_strings(base.strings, base.special_ids)
    words = Vocabulary.of(base.strings, pool_of(base, text), table.flags["is_word"], base.bos_id)
    for kind, expected in ((OvModel, (1, 0)), (AntiModel, (0, 1))):
        source = planted(lambda ids: torch.zeros(4, len(ids), len(ids)))
        model = kind(**{n: getattr(source, n) for n in source.__dataclass_fields__})
        found = measure_copying(model, READOUT[0], words)
        for name, value in zip(("copying", "anti_copying"), expected, strict=True):
            assert row_mean(found[name].value)[4:] == pytest.approx([value] * 4)
            assert np.isnan(found[name].value[:, :4]).all()  # layer 0
            assert found[name].uniform[0, 4] == pytest.approx(5 / base.d_vocab)


def test_exact_ranks_by_brute_force() -> None:
    torch.manual_seed(0)
    writes, to_logits = torch.randn(200, 6), torch.randn(6, 4000)
    targets = torch.randint(4000, (200,))
    writes[:100] = to_logits[:, targets[:100]].T + 0.5 * torch.randn(100, 6)
    up, down = ranked(writes, targets, to_logits, 5)
    logits = writes @ to_logits
    top, bottom = logits.topk(5).indices, (-logits).topk(5).indices
    assert up.tolist() == (top == targets[:, None]).any(1).tolist()
    assert 5 < int(up.sum()) < 195
    assert down.tolist() == (bottom == targets[:, None]).any(1).tolist()
    assert not ranked(torch.zeros(3, 6), targets[:3], to_logits, 5)[0].any()


def test_successor_and_relations_on_what_the_vocabulary_has() -> None:
    model = tiny_model()
    text = windows(model)
    readout = Readout.of(model, model.to_ids(text.some(4).ids))
    table = TokenTable.from_strings(model.strings, model.special_ids)
    words = Vocabulary.of(model.strings, pool_of(model, text), table.flags["is_word"], model.bos_id)
    assert [(name, len(ids)) for name, ids in words.lists] == [("numerals", 10), ("number words", 5), ("letters", 26)]
    found = measure_successor(model, readout, words, 0)["successor"]
    assert found.value.shape == (9 + 4 + 25, 8)
    assert np.isnan(found.value[:, :4]).all()
    assert found.uniform[0, 4] == pytest.approx(0.1)
    assert found.uniform[-1, 4] == pytest.approx(1 / 26)
    assert measure_relations(model, readout, words) == {}  # fewer than 30 pairs


def test_lists_are_spelt_as_the_text_spells_them() -> None:
    strings = ["<s>", *(str(n) for n in range(12)), *(f" {n}" for n in range(1, 12)), *"ABCDE"]
    spaced = np.arange(13, 24)
    is_word = np.zeros(len(strings), dtype=bool)
    for met, expected in ((spaced, spaced), (np.arange(1, 13), np.arange(1, 13)), (spaced[:0], np.arange(1, 13))):
        words = Vocabulary.of(strings, met, is_word, 0)
        assert words.lists[0] == ("numerals", tuple(expected.tolist()))


def test_a_write_that_lowers_everything_a_little_singles_out_nothing() -> None:
    """Raising a few tokens lowers all others, the attended one among them; that is no suppression."""
    base = tiny_model()
    text = windows(base, n=6)
    ids = text.ids
    chosen = torch.tril(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool), -1).expand(len(ids), -1, -1).clone()
    chosen[:, :, 0] = False
    chosen[:, :, 3] = False  # sources to compare with
    readout = Readout.of(base, base.to_ids(text.some(4).ids))
    measured, _ = measure_suppression(planted(same_everywhere(*[uniform] * 4)), readout, text, (ids, [chosen, chosen]))
    for name in ("lowered", "singled_out"):
        share = measured.more[name]
        assert ((share >= 0) & (share <= 1) | np.isnan(share)).all()
    assert np.nanmean(measured.more["lowered"]) == pytest.approx(0.5, abs=0.35)
    assert np.nanmean(measured.more["singled_out"]) < 0.35
    assert (np.nan_to_num(measured.more["singled_out"]) <= np.nan_to_num(measured.more["lowered"]) + 1e-6).all()


def test_copy_suppression_by_hand() -> None:
    ids = np.array([[1, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34]])
    chosen = torch.zeros(1, 16, 16, dtype=torch.bool)
    chosen[0, 15, 1] = True  # distance 14, in the bucket 9-16 with sources 2..6

    def attend(ids: Tensor) -> Tensor:
        row = torch.zeros(16, 16)
        row[15, 1], row[15, 3] = 0.5, 0.25
        return torch.stack([row, row * 0, uniform(16), uniform(16)])

    model = planted(attend)
    text = TextRows(ids, np.array([16]))
    readout = Readout.of(model, model.to_ids(windows(model).some(4).ids))
    measured, _ = measure_suppression(model, readout, text, (ids, [chosen, chosen]))
    assert measured.more["predicted"][0, 0] == pytest.approx(0.5 / 0.75)
    assert measured.uniform[0, 0] == pytest.approx(0.25 / 0.75 / 5)
    assert np.isnan(measured.value[0, 1])  # no mass off the sink
    assert measured.value[0, 2] == pytest.approx(0, abs=1e-6)


# -- all together --------------------------------------------------------------------------------------------


def behave(ids: Tensor) -> Tensor:
    """Heads: previous token, induction with rest at the start, sink, commas."""
    size = len(ids)
    comma = tiny_model().strings.index(",")
    equal = (ids[:, None] == ids[None, :]).float().tril(-1)
    after = torch.zeros(size, size)
    after[:, 1:] = equal[:, :-1]
    after[:, 0] = 0
    after = after.tril(-1)
    signs = torch.tril(torch.ones(size, size)) * (ids == comma)
    rest = torch.zeros(size, size)
    rest[:, 0] = 1

    def resting(wanted: Tensor) -> Tensor:
        mass = wanted.sum(1, keepdim=True)
        return torch.where(mass > 0, wanted / mass.clamp_min(1), rest)

    return torch.stack([resting(shifted(size, 1)), resting(after), rest, resting(signs)])


class RunningModel(PlantedModel):
    """Runs the network too, so that other hooks see it."""

    def read_attention(self, ids: Tensor, layers: list[int], read: Callable[[Layer], None]) -> None:
        self.forward_base(ids)
        super().read_attention(ids, layers, read)


def running(model: PlantedModel) -> RunningModel:
    return RunningModel(**{name: getattr(model, name) for name in model.__dataclass_fields__})


@pytest.fixture(scope="module")
def planted_readings() -> dict[Head, tuple[Reading, ...]]:
    model = running(planted(behave))
    text = windows(model)
    return run_detectors(model, DetectorInputs(text, pool_of(model, text)), QUICK)


def test_planted_heads_get_their_labels(planted_readings: dict[Head, tuple[Reading, ...]]) -> None:
    for layer in range(2):
        first = [labels_of(planted_readings[Head(layer=layer, index=h)])[:1] for h in range(4)]
        assert first == [("previous_token",), ("induction",), ("first_token",), ("punctuation",)]
    found = planted_readings[Head(layer=0, index=1)]
    repeats = next(r for r in found if r.name == "induction" and r.data == "repeats")
    assert repeats.value == pytest.approx(1)
    assert repeats.percentile == pytest.approx(100 - 100 / 16)
    assert repeats.null_max < 0.2
    assert repeats.n == 10
    assert repeats.detail["T"] == T
    assert repeats.detail["prefix_3"] == 1
    assert "copy_logit" in repeats.detail


def test_every_head_has_every_reading(planted_readings: dict[Head, tuple[Reading, ...]]) -> None:
    kinds = {tuple((r.name, r.data) for r in found) for found in planted_readings.values()}
    assert len(planted_readings) == 8
    assert len(kinds) == 1
    names = {name for name, _ in next(iter(kinds))}
    assert names >= {"previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset",
                     "local_context", "punctuation", "delimiter_matching", "copy_suppression", "token_class", "copying",
                     "anti_copying", "successor", "relation"}  # fmt: skip
    for found in planted_readings.values():
        for r in found:
            assert Reading.model_validate_json(r.model_dump_json()).detail == r.detail


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_same_numbers_again_and_at_any_batch_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kind)
    text = windows(model)
    inputs = DetectorInputs(text, pool_of(model, text), None, {Head(layer=0, index=0): [20, 21]})
    first = run_detectors(model, inputs, QUICK)
    assert run_detectors(model, inputs, QUICK) == first or _same(run_detectors(model, inputs, QUICK), first, 0)
    monkeypatch.setattr(detector_measure, "BATCH_TOKENS", 130)
    assert _same(run_detectors(model, inputs, QUICK), first, 1e-5)


def _same(a: dict[Head, tuple[Reading, ...]], b: dict[Head, tuple[Reading, ...]], tolerance: float) -> bool:
    def numbers(found: dict[Head, tuple[Reading, ...]]) -> np.ndarray:
        return np.array([[r.value, r.low, r.high, r.null_max] for rs in found.values() for r in rs])

    np.testing.assert_allclose(numbers(a), numbers(b), rtol=tolerance, atol=tolerance)
    return True


@pytest.mark.slow
def test_random_models_fire_nothing() -> None:
    for seed in (5, 6, 7):
        model = random_twin(tiny_model(), seed)
        text = windows(model, n=30)
        spec = replace(QUICK, n_sequences=30, n_text=30, n_suppression=12, n_delimiters=12)
        found = run_detectors(model, DetectorInputs(text, pool_of(model, text)), spec)
        assert [(str(h), r.name) for h, rs in found.items() for r in rs if r.fires] == []


def test_without_bos_and_with_too_small_a_pool() -> None:
    model = replace(tiny_model(), bos_id=None)
    text = windows(model)
    found = run_detectors(model, DetectorInputs(text, pool_of(model, text)[:3]), replace(QUICK, n_twins=1))
    one = {(r.name, r.data): r for r in found[Head(layer=0, index=0)]}
    assert np.isnan(one["induction", "repeats"].value)
    assert not one["induction", "repeats"].fires
    assert np.isnan(one["delimiter_matching", "text"].value)
    assert one["previous_token", "text"].value > 0
    assert one["copying", "parameters"].detail["variant"] == "after_frequent_token"
    with pytest.raises(BadInput, match="0 windows"):
        run_detectors(model, DetectorInputs(text.some(0), pool_of(model, text)), QUICK)


# -- real models ---------------------------------------------------------------------------------------------

SHARED = os.environ.get("AUTOINTERP_SHARED", "")


def real_labels(name: str) -> dict[str, tuple[str, ...]]:
    model = load_model(str(Path(SHARED) / "models" / name), "cpu")[0]
    lines = (Path(SHARED) / "corpora" / "wikitext2-valid.txt").read_text("utf-8").split("\n")
    rows = [model.encode(line)[0][:127] for line in lines if len(line) > 300][:400]
    lengths = np.array([len(r) + 1 for r in rows])
    ids = np.zeros((len(rows), 128), dtype=np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found) + 1] = [model.bos_id, *found]
    text = TextRows(ids, lengths)
    return {str(h): labels_of(r) for h, r in run_detectors(model, DetectorInputs(text, pool_of(model, text))).items()}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="AUTOINTERP_SHARED names no folder with real models")
def test_real_induction_model() -> None:
    labels = real_labels("induct-2l")
    assert [labels[h][0] for h in ("L0H3", "L0H2", "L1H0", "L1H1")] == [
        "previous_token", "current_token", "induction", "induction",
    ]  # fmt: skip
    assert {"induction", "previous_token", "current_token"} <= set(labels["L1H3"])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="AUTOINTERP_SHARED names no folder with real models")
def test_real_story_model() -> None:
    labels = real_labels("stories260K")
    assert all(labels[h][0] == "previous_token" for h in ("L3H6", "L1H3", "L1H6"))
    assert not {"induction", "duplicate_token"} & {found[0] for found in labels.values() if found}
