"""Which rows are shown: the rules of each stratum on handmade states, and whole selections of a small corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from small_corpus import HEADS, corpus, spec_of, whole, windows_of
from tiny_models import tiny_model

from autointerp.evidence.accumulate import ROW_VALUES, TOP_ROWS
from autointerp.evidence.collect import ExplainWindows, first_windows
from autointerp.evidence.first_pass import FirstPass, PassSpec, run_first_pass
from autointerp.evidence.selection import REST_MASS, ChosenRow, WindowTable, select_rows

SIZE = 12  # positions of a window
N_ROWS = 1000  # rows of the made-up split


@dataclass
class Made:
    """Rows of one head put together by hand; window w is document w unless `cluster` says otherwise."""

    n_windows: int = 40
    top: list[tuple[float, int, int, int]] = field(default_factory=list)  # activity, window, dst, src
    sample: list[tuple[int, int, float, float]] = field(default_factory=list)  # window, dst, activity, mass

    def __post_init__(self) -> None:
        self.ids = np.arange(self.n_windows * SIZE).reshape(self.n_windows, SIZE)  # all tokens differ
        self.cluster = np.arange(self.n_windows)

    def select(self) -> tuple[list[ChosenRow], list[str]]:
        spec = PassSpec(lambda first: iter(()), np.zeros(0, np.uint64), np.zeros(0, int), np.zeros(1, int), SIZE, 0)
        state = FirstPass.empty(1, 2, spec)
        state.progress[:] = (self.n_windows, N_ROWS, self.n_windows)
        for activity, window, dst, src in self.top:
            row = {"activity": activity, "document": window, "window": window, "dst": dst, "src": src}
            state.top.add({name: np.array([value]) for name, value in row.items()})
        state.top.compact()
        values = np.zeros((len(self.sample), len(ROW_VALUES)), np.float32)
        for name, column in (("activity", 2), ("mass", 3)):
            values[:, ROW_VALUES.index(name)] = [row[column] for row in self.sample]
        state.reservoir.rows = {
            "head": np.zeros(len(self.sample), np.int32),
            "hash": np.arange(len(self.sample), dtype=np.uint64),
            "window": np.array([row[0] for row in self.sample], np.int32),
            "dst": np.array([row[1] for row in self.sample], np.int16),
            "values": values,
        }
        return select_rows(state, 0, WindowTable(self.ids, self.cluster))

    def places(self, stratum: str) -> list[tuple[int, int]]:
        return [(c.window, c.dst) for c in self.select()[0] if c.stratum == stratum]


def test_top_rows_are_the_most_active_one_a_document() -> None:
    made = Made(top=[(20.0 - w, w, 3, 1) for w in range(12)])
    assert made.places("top") == [(w, 3) for w in range(8)]
    assert made.select()[1] == ["quantile: 0 of 8 rows found", "random: 0 of 6 rows found",
                                "contrast: 0 of 6 rows found"]  # fmt: skip
    resting = Made(top=[(0.0, 0, 3, 1), (1.0, 1, 3, 1)])
    assert resting.places("top") == [(1, 3)], "a head that does nothing has no top rows"


def test_near_duplicates_count_as_one_document() -> None:
    made = Made(top=[(20.0 - w, w, 3, 1) for w in range(12)])
    made.cluster[[1, 2, 5]] = 0
    assert made.places("top") == [(w, 3) for w in (0, 3, 4, 6, 7, 8, 9, 10)]


def test_a_pair_of_tokens_gives_two_top_rows() -> None:
    made = Made(top=[(20.0 - w, w, 3, 1) for w in range(12)])
    made.ids[:6, 3], made.ids[:6, 1] = 7, 8
    assert made.places("top") == [(w, 3) for w in (0, 1, 6, 7, 8, 9, 10, 11)]
    made.ids[4, 1] = 9  # another source: another pair
    assert made.places("top") == [(w, 3) for w in (0, 1, 4, 6, 7, 8, 9, 10)]


def test_a_near_duplicate_does_not_use_up_what_its_pair_of_tokens_may_have() -> None:
    made = Made(top=[(20.0 - w, w, 3, 1) for w in range(12)])
    made.ids[:3, 3], made.ids[:3, 1] = 7, 8
    made.cluster[1] = 0
    assert made.places("top")[:3] == [(0, 3), (2, 3), (3, 3)]


def test_quantile_rows_are_two_from_each_quarter_of_the_active_rows_in_hash_order() -> None:
    activities = np.random.default_rng(0).permutation(40) + 1.0
    made = Made(n_windows=60, sample=[(w, 2, float(a), 0.9) for w, a in enumerate(activities)])
    made.sample += [(40 + w, 2, 0.0, 0.9) for w in range(20)]  # rows without activity are in no quarter
    found = made.places("quantile")
    wanted: list[tuple[int, int]] = []
    for quarter in range(4):
        inside = [w for w, a in enumerate(activities) if quarter * 10 < a <= quarter * 10 + 10]
        wanted += [(w, 2) for w in inside[:2]]
    assert found == wanted


def test_a_document_gives_a_stratum_one_row_over_all_its_bins() -> None:
    made = Made(sample=[(w % 3, 1 + w % 11, 1.0 + w, 0.9) for w in range(33)])
    chosen, notes = made.select()
    for stratum in ("quantile", "random", "contrast"):
        windows = [c.window for c in chosen if c.stratum == stratum]
        assert len(windows) == len(set(windows)) <= 3
    assert "quantile: 3 of 8 rows found" in notes
    assert "random: 3 of 6 rows found" in notes
    assert len({(c.window, c.dst) for c in chosen}) == len(chosen), "a row was chosen twice"


def test_random_rows_are_the_smallest_hashes_left_and_stand_for_the_split() -> None:
    made = Made(sample=[(w, 2, 1.0, 0.9) for w in range(20)])
    chosen, _ = made.select()
    taken = {(c.window, c.dst) for c in chosen if c.stratum in ("top", "quantile")}
    assert made.places("random") == [(w, 2) for w in range(20) if (w, 2) not in taken][:6]
    for n, wanted in ((20, 6), (4, 4)):
        few = Made(n_windows=20, sample=[(w, 2, 0.0, 0.9) for w in range(n)])
        rows = [c for c in few.select()[0] if c.stratum == "random"]
        assert len(rows) == wanted
        assert sum(c.weight for c in rows) == pytest.approx(N_ROWS)
    assert {c.weight for c in chosen if c.stratum != "random"} == {1.0}


def contrast_case() -> Made:
    """Top row at window 0, dst 5. Windows 1.. rest at dst 5, and nothing of theirs is random."""
    made = Made(top=[(9.0, 0, 5, 1)])
    made.sample = [(30 + w, 2, 0.0, 0.9) for w in range(6)]  # first in hash order: the random rows
    made.sample += [(w, 5, 0.0, 0.01) for w in range(1, 12)]
    return made


def test_contrast_rows_rest_and_come_from_the_best_tier_first() -> None:
    made = contrast_case()
    made.ids[[7, 9], 5] = made.ids[0, 5]
    made.ids[[3, 11], 4] = made.ids[0, 4]
    found = [(c.window, c.tier) for c in made.select()[0] if c.stratum == "contrast"]
    assert found == [(7, "A"), (9, "A"), (3, "B"), (11, "B"), (1, "C"), (2, "C")]
    assert {c.tier for c in made.select()[0] if c.stratum != "contrast"} == {None}


def test_rows_that_do_not_rest_are_no_contrast() -> None:
    made = contrast_case()
    made.sample = [(w, 5, 5.0 + w, 0.9) for w in range(1, 40)]
    active = np.array([row[2] for row in made.sample])
    limit = np.quantile(active, 0.1)
    rows = [c for c in made.select()[0] if c.stratum == "contrast"]
    assert all(c.activity < limit for c in rows)
    made.sample = [(w, 5, 5.0, 0.9) for w in range(1, 40)]
    assert made.places("contrast") == []
    made.sample[20:24] = [(w, 5, 5.0, REST_MASS - 0.01) for w in range(21, 25)]
    assert set(made.places("contrast")) == {(w, 5) for w in range(21, 25)}


def test_a_row_already_chosen_is_no_contrast_row() -> None:
    made = contrast_case()
    made.sample = [(w, 5, 0.0, 0.01) for w in range(1, 9)]  # the first six become random rows
    chosen, notes = made.select()
    assert made.places("random") == [(w, 5) for w in range(1, 7)]
    assert made.places("contrast") == [(7, 5), (8, 5)]
    assert "contrast: 2 of 6 rows found" in notes
    assert len(chosen) == 9


def test_the_quantile_of_a_row_is_its_rank_among_the_sampled_rows() -> None:
    made = Made(top=[(100.0, 0, 3, 1)], sample=[(w, 2, float(w), 0.9) for w in range(1, 21)])
    chosen, _ = made.select()
    for c in chosen:
        assert c.quantile == (1.0 if c.stratum == "top" else pytest.approx(c.activity / 20))


# -- whole selections


def chosen_of(state: FirstPass, explain: ExplainWindows) -> list[list[ChosenRow]]:
    table = WindowTable(explain.windows.ids, np.asarray(explain.cluster))
    return [select_rows(state, head, table)[0] for head in range(HEADS)]


def identity(rows: list[list[ChosenRow]]) -> list[list[tuple[object, ...]]]:
    return [[(c.window, c.dst, c.stratum, c.tier, c.weight) for c in head] for head in rows]


def test_batch_size_and_order_of_documents_change_no_example() -> None:
    """Invariant 9."""
    explain = corpus()
    base = identity(chosen_of(whole(), explain))
    for batch_size in (1, 3, 8):
        assert identity(chosen_of(whole(batch_size), explain)) == base
    numbers = np.concatenate([windows_of(d) for d in (9, 3, 0, 5, 7, 8, 1, 2, 6, 4)])
    shuffled = ExplainWindows(explain.windows, numbers, explain.cluster, explain.context)
    state = run_first_pass(tiny_model("gpt2"), spec_of(shuffled, 3))
    assert identity(chosen_of(state, shuffled)) == base


def test_no_two_rows_of_a_stratum_share_a_document() -> None:
    """Invariant 10, and 17: head 0 is a head like the others."""
    explain = corpus()
    for rows in chosen_of(whole(), explain):
        assert len({(c.window, c.dst) for c in rows}) == len(rows)
        strata = Counter((c.stratum, int(explain.cluster[c.window])) for c in rows)
        assert max(strata.values()) == 1
        assert {"top", "quantile", "random"} <= {c.stratum for c in rows}
        assert all(0 < c.dst < explain.windows.lengths[c.window] for c in rows)


def test_another_seed_draws_other_random_rows() -> None:
    explain = corpus()
    spec = spec_of(explain)
    other = PassSpec(spec.batches, spec.document_keys, spec.window_in_doc, spec.token_ids, spec.context, 8)
    state = run_first_pass(tiny_model("gpt2"), other)
    assert identity(chosen_of(state, explain)) != identity(chosen_of(whole(), explain))
    assert TOP_ROWS >= 64


def test_the_first_windows_are_one_a_document_before_any_second() -> None:
    documents = np.array([4, 4, 4, 2, 2, 9, 1])
    assert first_windows(documents, 4).tolist() == [0, 3, 5, 6]
    assert first_windows(documents, 6).tolist() == [0, 1, 3, 4, 5, 6]
    assert first_windows(documents, 99).tolist() == list(range(7))
    assert first_windows(documents[:0], 3).tolist() == []
