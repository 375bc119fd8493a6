"""The first pass over units against brute force; the same state for any batch size, order and number of kills."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpus import corpus
from tiny_models import tiny_model

from autointerp.errors import BadInput
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.hashing import document_keys, row_hashes
from autointerp.features import first_pass
from autointerp.features.activations import read_activations
from autointerp.features.active_share import ShareCounter
from autointerp.features.best_of_documents import BestEntries, Entries, value_keys
from autointerp.features.first_pass import PassPlan, UnitPass, run_unit_pass
from autointerp.features.learning_rows import LearningRows
from autointerp.features.sample import Sample, sample_units
from autointerp.features.settle import open_units
from autointerp.features.text_rows import is_row, shared_rows
from autointerp.features.unit_stats import StatsReader
from autointerp.features.unit_table import UnitTable, unit_table
from autointerp.features.units import UnitSet, load_units
from autointerp.records import Feature
from autointerp.stats.bootstrap import Resamples

SEED = 3


@functools.cache
def units() -> UnitSet:
    return load_units("neurons", tiny_model("gpt2"))


def run(explain: ExplainWindows, batch_size: int = 4, checkpoint: Path | None = None) -> UnitPass:
    plan = PassPlan(SEED, batch_size, checkpoint, every=0.0)
    return run_unit_pass(tiny_model("gpt2"), explain, units().sites, plan)


@functools.cache
def whole() -> UnitPass:
    return run(corpus())


@functools.cache
def by_hand() -> np.ndarray:
    """Activations of every unit [window pos unit], read window by window."""
    windows = corpus().windows
    return read_activations(tiny_model("gpt2"), units(), units().features, windows.ids, windows.lengths, 1)


@functools.cache
def rows() -> np.ndarray:
    windows = corpus().windows
    return is_row(windows.ids, windows.lengths, tiny_model("gpt2").special_ids)


def test_rows_leave_out_position_0_pads_and_control_tokens() -> None:
    windows = corpus().windows
    assert not rows()[:, 0].any() and not rows()[4, 9]  # an end-of-text token stands there
    assert rows().sum() == sum(int(n) - 1 for n in windows.lengths) - 1
    assert int(whole().progress[1]) == rows().sum() and whole().progress.tolist()[2:] == [10, -1]


def test_counts_sums_and_extremes_are_those_of_plain_loops() -> None:
    found = by_hand()[rows()]
    np.testing.assert_array_equal(whole().rows_above, [(found > 0).sum(0), (found < 0).sum(0)])
    np.testing.assert_allclose(whole().sums, found.sum(0, dtype=np.float64), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(whole().extremes, [found.min(0), found.max(0)], atol=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_top_lists_hold_the_largest_row_of_each_document(side: int) -> None:
    values = np.where(rows()[:, :, None], by_hand() * (1 if side == 0 else -1), -np.inf)
    doc = np.asarray(corpus().windows.doc)
    for unit in (0, 5, 77, 200):
        best = np.array([values[doc == d][:, :, unit].max() for d in range(10)])
        entries = whole().top[side].ordered(unit)
        np.testing.assert_allclose(entries.value, np.sort(best[best > 0])[::-1], atol=1e-5)
        for window, dst, value in zip(entries.window, entries.dst, entries.value, strict=True):
            assert values[window, dst, unit] == pytest.approx(value, abs=1e-5)
            assert len(set(doc[entries.window])) == len(entries.window)


def test_reservoirs_hold_the_row_with_the_smallest_hash_of_each_document() -> None:
    windows = corpus().windows
    keys = document_keys([windows.doc_ids[d] for d in windows.doc])
    hashes = row_hashes(SEED, keys, windows.window_in_doc, np.array([(0, 0)]), windows.ids.shape[1])[0]
    for unit in (0, 5, 77):
        for side, sign in enumerate((1, -1)):
            able = rows() & (by_hand()[:, :, unit] * sign > 0)
            expected = {}
            for document in range(10):
                mine = [(int(hashes[w, p]), w, p) for w, p in np.argwhere(able) if windows.doc[w] == document]
                if mine:
                    expected[document] = min(mine)[1:]
            entries = whole().reservoir[side].ordered(unit)
            found = {int(windows.doc[w]): (w, d) for w, d in zip(entries.window, entries.dst, strict=True)}
            assert found == expected
            for w, d, value in zip(entries.window, entries.dst, entries.value, strict=True):
                assert by_hand()[w, d, unit] * sign == pytest.approx(value, abs=1e-5)


def test_shared_rows_hold_every_unit_and_are_the_rows_with_the_smallest_hashes() -> None:
    places = whole().places
    assert len(places) == rows().sum()  # all of a small corpus
    np.testing.assert_allclose(whole().shared, by_hand()[places[:, 0], places[:, 1]], rtol=1e-3, atol=1e-3)
    few = shared_rows(corpus(), tiny_model("gpt2").special_ids, 20, SEED)
    assert {tuple(p) for p in few.tolist()} <= {tuple(p) for p in places.tolist()} and len(few) == 20
    other = shared_rows(corpus(), tiny_model("gpt2").special_ids, 20, SEED + 1)
    assert few.tolist() != other.tolist()


def same(first: UnitPass, second: UnitPass) -> None:
    np.testing.assert_array_equal(first.rows_above, second.rows_above)
    np.testing.assert_allclose(first.sums, second.sums, rtol=1e-5, atol=1e-3)
    for one, other in ((first.top, second.top), (first.reservoir, second.reservoir)):
        for a, b in zip(one, other, strict=True):
            for unit in range(0, 256, 17):
                x, y = a.ordered(unit), b.ordered(unit)
                np.testing.assert_array_equal(x.window, y.window)
                np.testing.assert_array_equal(x.dst, y.dst)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    same(whole(), run(corpus(), batch_size))


def test_the_order_of_documents_does_not_matter() -> None:
    doc = np.asarray(corpus().windows.doc)
    order = np.concatenate([np.flatnonzero(doc == d) for d in (7, 2, 9, 0, 1, 4, 8, 3, 6, 5)])
    same(whole(), run(replace(corpus(), numbers=order)))


def test_a_killed_pass_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pass.npz"
    read = first_pass.UnitPassReader.read
    calls = []

    def dying(self: first_pass.UnitPassReader, batch: first_pass.Batch) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        read(self, batch)

    monkeypatch.setattr(first_pass.UnitPassReader, "read", dying)
    with pytest.raises(KeyboardInterrupt):
        run(corpus(), 4, path)
    monkeypatch.setattr(first_pass.UnitPassReader, "read", read)
    again = run(corpus(), 4, path)
    same(whole(), again)
    np.testing.assert_array_equal(whole().sums, again.sums)
    np.testing.assert_array_equal(whole().shared, again.shared)


def test_a_checkpoint_of_other_units_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    plan = PassPlan(SEED, 4, path, every=0.0)
    run_unit_pass(tiny_model("gpt2"), corpus(), units().sites[:1], plan)
    same(whole(), run(corpus(), 4, path))


def test_a_checkpoint_of_another_seed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pass.npz"
    run_unit_pass(tiny_model("gpt2"), corpus(), units().sites, PassPlan(SEED + 1, 4, path, every=0.0))
    same(whole(), run(corpus(), 4, path))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 10**6), unique=True, min_size=1, max_size=30), st.integers(1, 5), st.randoms())
def test_best_entries_are_the_largest_keys_in_any_order(keys: list[int], k: int, draw: Sequence[int]) -> None:
    shuffled = sorted(keys, key=lambda _: draw.random())  # type: ignore[attr-defined]
    best = BestEntries.empty(2, k)
    for key in shuffled:
        document = Entries.empty(2)
        document.key[1] = key
        document.value[1] = document.window[1] = key
        best.offer(document)
    assert best.ordered(1).key.tolist() == sorted(keys, reverse=True)[:k]
    assert best.ordered(1).window.tolist() == sorted(keys, reverse=True)[:k]
    assert len(best.ordered(0).key) == 0


@given(st.lists(st.floats(0.0009765625, 2.0**90, width=32), min_size=2, max_size=2))
def test_value_keys_rank_as_the_values_do(values: list[float]) -> None:
    low, high = sorted(values)
    keys = value_keys(np.array([low, high, 0, -1], np.float32), np.uint64(2**40))
    assert keys[0] <= keys[1] and keys[2] == keys[3] == 0 and keys[0] > 0
    if high > low * 1.001:
        assert keys[0] < keys[1]


def hand_made() -> UnitPass:
    """Five neurons on ten rows: positive, negative, dead, dense, and one with a larger but rarer negative side."""
    state = UnitPass.empty(5, 2, np.zeros((10, 2), np.int64))
    state.progress[:3] = 1000, 100, 40
    state.rows_above[0], state.rows_above[1] = [10, 5, 0, 90, 20], [5, 60, 0, 0, 3]
    state.extremes[0], state.extremes[1] = [-1, -9, 0.2, 0, -4], [5, 2, 0.2, 7, 3]
    state.sums[:] = [50, -90, 20, 300, 10]
    for unit, side, values in ((0, 0, [5, 3]), (0, 1, [1]), (1, 0, [2, 2]), (1, 1, [9, 7]), (3, 0, [7] * 16)):
        for place, value in enumerate(values):
            entries = state.top[side].entries
            entries.key[unit, place], entries.value[unit, place] = 1, value
    state.top[0].entries.key[4, :16], state.top[0].entries.value[4, :16] = 1, 3.5
    state.top[1].entries.key[4, :1], state.top[1].entries.value[4, :1] = 1, 4
    state.shared[:, 3] = 6
    return state


def table_of(state: UnitPass) -> UnitTable:
    site = units().sites[0]
    return unit_table(state, [replace(site, n_units=len(state.sums))])


def test_signs_references_and_states_by_hand() -> None:
    table = table_of(hand_made())
    assert table.sign.tolist() == [1, -1, 1, 1, 1]
    assert table.reference.tolist() == [4, 8, 0, 7, 3.5]
    assert table.maximum.tolist() == pytest.approx([5, 9, 0.2, 7, 3])
    assert table.density.tolist() == [0.1, 0.6, 0, 0.9, 0.2]
    assert table.mean.tolist() == [0.5, -0.9, 0.2, 3, 0.1]
    assert table.state.tolist() == ["ok", "ok", "dead", "ok", "ok"]


def test_a_unit_active_on_most_rows_is_dense() -> None:
    state = hand_made()
    state.shared = np.zeros((64, 5), np.float16)
    state.shared[:40, 3] = 6
    assert table_of(state).state.tolist()[3] == "dense"
    assert table_of(state).active_share[3] == pytest.approx(40 / 64)
    state.places, state.documents = np.zeros((64, 2), np.int64), np.arange(64) // 2
    stats = stats_of(state)
    dense, dead = stats.read(3, None), stats.read(2, None)
    assert (dense.state, dense.active_share.value, dense.active_share.n) == ("dense", 40 / 64, 64)
    assert (dead.state, dead.active_share.value, dead.active_share.n) == ("dead", 0, 100)
    assert (dead.active_share.low, dead.active_share.high) == (0, pytest.approx(1 - 0.025 ** (1 / 100), rel=1e-4))


def stats_of(state: UnitPass) -> StatsReader:
    counter = ShareCounter(0, np.zeros(0, np.int64), np.zeros(1), Resamples.of(1, 0, 1))
    return StatsReader(state, table_of(state), cast(LearningRows, SimpleNamespace()), counter)


def shared_states(active: Sequence[int], rows_a_document: int) -> UnitPass:
    """Five units that are active on the first so many of 64 shared rows."""
    state = hand_made()
    state.shared = (np.arange(64)[:, None] < np.array(active)).astype(np.float16) * np.float16(7) * table_of(state).sign
    state.places, state.documents = np.zeros((64, 2), np.int64), np.arange(64) // rows_a_document
    return state


def test_the_estimate_of_a_dense_unit_has_an_interval_over_documents() -> None:
    widths = []
    for rows_a_document in (1, 8):
        share = stats_of(shared_states([0, 0, 0, 48, 0], rows_a_document)).read(3, None).active_share
        assert share.low < share.value == 48 / 64 < share.high
        widths.append(share.high - share.low)
    assert widths[1] > 1.5 * widths[0]  # rows of one document do as the others do
    always = stats_of(shared_states([0, 0, 0, 64, 0], 1)).read(3, None).active_share
    assert (always.value, always.high) == (1, 1) and always.low == pytest.approx(0.025 ** (1 / 64), rel=1e-4)


def test_what_the_shared_rows_leave_open_is_no_more_than_what_their_interval_says() -> None:
    state = shared_states([33, 36, 0, 60, 44], 1)
    assert open_units(state, table_of(state)).tolist() == [0, 1]
    wide = shared_states([33, 36, 0, 60, 44], 8)  # eight documents in all: 44 rows are five and a half of them
    assert open_units(wide, table_of(wide)).tolist() == [0, 1, 4]


def test_a_rare_unit_is_judged_by_its_own_reservoir() -> None:
    state = hand_made()
    entries = state.reservoir[0].entries
    entries.key[0, :4], entries.value[0, :4] = 1, [4, 2, 1, 0.5]  # reference 4: half of them reach .3
    assert table_of(state).active_share[0] == pytest.approx(0.1 * 0.5)


def test_a_sample_is_seeded_covers_all_classes_and_names_only_living_units() -> None:
    rng = np.random.default_rng(0)
    n = 400
    table = table_of(UnitPass.empty(n, 1, np.zeros((0, 2), np.int64)))
    density, maximum = rng.random(n), rng.random(n)
    state = np.where(np.arange(n) % 10 == 0, "dead", np.where(np.arange(n) % 10 == 1, "dense", "ok"))
    table = replace(table, density=density, maximum=maximum, state=state)
    every = tuple(table.feature(i) for i in range(n))
    drawn = sample_units(table, every, 32, 5)
    assert len(drawn) == 32 and drawn == sample_units(table, every, 32, 5) and list(drawn) == sorted(drawn)
    assert drawn != sample_units(table, every, 32, 6)
    at = np.array([table.row(f) for f in drawn])
    assert (state[at] == "ok").all()
    alive = state == "ok"
    quarters = [np.searchsorted(np.quantile(v[alive], [0.25, 0.5, 0.75]), v[at]) for v in (density, maximum)]
    assert len({(int(a), int(b)) for a, b in zip(*quarters, strict=True)}) == 16
    assert sample_units(table, every[:20], 500, 0) == tuple(f for f in every[:20] if state[table.row(f)] == "ok")
    with pytest.raises(BadInput):
        Sample(0)


def test_units_are_found_by_name() -> None:
    table = table_of(hand_made())
    assert table.row(Feature(kind="neuron", layer=0, index=3)) == 3
    assert table.feature(3) == Feature(kind="neuron", layer=0, index=3)
