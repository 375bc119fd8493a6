"""What runs and laboratories measure once: kept in bounded memory, and the same numbers as when it is measured anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from causal_model import causal_model
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from autointerp.agent import trials
from autointerp.agent.kept import Kept
from autointerp.agent.laboratory import LabData, Laboratory
from autointerp.model import Layer
from autointerp.model.read_up_to import read_up_to
from autointerp.records import Head
from autointerp.scoring import edited_pairs, suite
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.scoring.suite import HeadScores, HeldOut, Suite, SuiteSpec
from autointerp.scoring.tallies import HeadTruth
from tests.test_experiments import COPIES, REQUESTS, SPREAD, asked, causal_data, evidence
from tests.test_scoring import claim, rows_of
from tests.test_suite import MODEL


@dataclass(frozen=True)
class Lump:
    nbytes: int


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60), st.integers(0, 100))
def test_what_is_kept_never_passes_its_bound(asked_for: list[tuple[int, int]], most: int) -> None:
    kept = Kept(most)
    sizes: dict[int, int] = {}
    for key, size in asked_for:
        sizes.setdefault(key, size)
        assert kept.get(key, lambda key=key: Lump(sizes[key])).nbytes == sizes[key]  # type: ignore[misc]
        assert kept.nbytes == sum(value.nbytes for value in kept._values.values()) <= most


def test_the_least_recently_used_goes_first_and_nothing_goes_for_what_is_too_large() -> None:
    kept, made = Kept(10), list[str]()

    def get(key: str, size: int) -> None:
        kept.get(key, lambda: made.append(key) or Lump(size))  # type: ignore[func-returns-value]

    for key, size in (("a", 5), ("b", 5), ("a", 5), ("c", 5), ("a", 5), ("whole", 11), ("c", 5), ("b", 5)):
        get(key, size)
    assert made == ["a", "b", "c", "whole", "b"]


def test_the_size_of_what_is_kept_is_that_of_its_arrays() -> None:
    truth = HeadTruth.of(causal_model(), causal_data().select["text"], COPIES, 8)
    pairs = truth.a.nbytes + truth.contribution.nbytes
    assert truth.nbytes == pairs + 2 * truth.valid.nbytes + 2 * truth.a.nbytes  # and kinds, of twice the size
    assert truth._kinds.nbytes == 2 * truth.a.nbytes


def laboratory(data: LabData, head: Head = SPREAD) -> Laboratory:
    return Laboratory(causal_model(), head, evidence(head), data)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Head]:
    """Heads that were read for trials."""
    found: list[Head] = []
    of: Callable[..., HeadTruth] = HeadTruth.of

    def counted(model: Any, rows: Any, head: Head, batch_size: int) -> HeadTruth:
        found.append(head)
        return of(model, rows, head, batch_size)

    monkeypatch.setattr(trials.HeadTruth, "of", counted)
    return found


def test_a_head_is_read_once_by_all_its_laboratories_and_again_where_memory_is_short(readings: list[Head]) -> None:
    score = asked("score_predicate", predicate="distance == 1")
    data, short = dataclasses.replace(causal_data()), dataclasses.replace(causal_data())
    object.__setattr__(short, "kept", Kept(1000))
    answers = [laboratory(data).run(score) for _ in range(3)]
    assert readings == [SPREAD]
    answers += [laboratory(short).run(score) for _ in range(2)]
    assert readings == [SPREAD] * 3 and short.kept.nbytes == 0
    assert all(answer == answers[0] for answer in answers)
    laboratory(data, COPIES).run(score)
    assert readings[3:] == [COPIES]


def test_answers_are_the_same_from_kept_readings() -> None:
    data = dataclasses.replace(causal_data())
    anew = [laboratory(data).run(request) for request in REQUESTS]
    assert data.kept.nbytes > 0
    assert [laboratory(data).run(request) for request in REQUESTS] == anew


def test_a_copy_with_other_rows_keeps_nothing_of_the_first() -> None:
    data = dataclasses.replace(causal_data())
    laboratory(data).run(asked("rows", kind="top", n=1))
    assert data.kept.nbytes > 0 and dataclasses.replace(data, seed=1).kept.nbytes == 0


# scores


def scored(memo: Memo, *predicates: str) -> dict[Head, HeadScores]:
    rows, test = rows_of(MODEL, n=40, seed=1), rows_of(MODEL, n=60, seed=2)
    spec = SuiteSpec(
        MODEL, HeldOut({"text": rows}, {"text": test}), {"text": test.take(np.arange(12))}, np.zeros((2, 4, 8)), 0,
        memo=memo,
    )  # fmt: skip
    outcomes = {Head(layer=n, index=n): claim(predicate=p) for n, p in enumerate(predicates)}
    return Suite(spec, lambda *_: None).score(outcomes, {})


@pytest.mark.slow
def test_other_descriptions_of_the_same_heads_get_the_same_scores_with_a_memo(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ("distance == 1", "distance == 2"), ("distance == 2", "src.seen_before")
    anew = scored(NoMemo(), *first), scored(NoMemo(), *second)
    memo = Memo()
    assert repr(scored(memo, *first)) == repr(anew[0])
    for module, name in ((suite, "ablate_heads"), (suite, "remove_heads"), (edited_pairs, "draw_edits")):
        monkeypatch.setattr(module, name, None)  # all of this was measured
    assert repr(scored(memo, *second)) == repr(anew[1]) != repr(anew[0])


# forwards


def test_a_forward_ends_with_the_last_layer_that_is_read() -> None:
    model = tiny_model("llama")
    ids = model.to_ids(rows_of(model, n=4).ids)
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(model.bridge.blocks)
    ]
    whole: list[Layer] = []
    first: list[Layer] = []
    try:
        model.read_attention(ids, [0, 1], whole.append)
        ran.clear()
        read_up_to(model, ids, [0], first.append)
        assert ran == []  # not even the first block got to its end
    finally:
        for handle in handles:
            handle.remove()
    assert all((getattr(first[0], n) == getattr(whole[0], n)).all() for n in ("pattern", "v", "z"))
    assert [layer.index for layer in whole] == [0, 1] and len(first) == 1
