"""The token-identity rival: its means by hand, its columns in the tallies, and what it does to a verdict."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from tiny_models import planted, tiny_model, uniform

from autointerp.evidence.rows import TAU
from autointerp.predicate import TokenTable
from autointerp.records import Head, Score
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.predicates import PredicateScorers, PredicateSpec
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.tallies import BY_PREDICATE, tally
from autointerp.scoring.token_identity import MIN_COUNT, PRIOR, THRESHOLDS, ExplainRows, learn_identity
from tests.test_scoring import PREDICATES, claim, rows_of, truth_of


def test_means_are_those_of_plain_loops() -> None:
    model = tiny_model("llama")
    rows = rows_of(model, n=14, seed=5)
    table = learn_identity(model, ExplainRows(rows.ids, rows.lengths), batch_size=4)
    pairs: dict[tuple[int, int], list[float]] = {}
    met: dict[tuple[int, int], int] = {}
    head = 2
    for window, (attention, contribution) in enumerate(truth_of(model, rows, 1)):
        for dst in range(1, int(rows.lengths[window])):
            a = contribution[head, dst] / contribution[head, dst].sum()
            for src in range(1, dst + 1):
                if not rows.sources[window, src]:
                    continue
                tokens = int(rows.ids[window, dst]), int(rows.ids[window, src])
                met[tokens] = met.get(tokens, 0) + 1
                if float(attention[head, dst].sum()) >= TAU:
                    pairs.setdefault(tokens, []).append(float(a[src]))
    every = [value for values in pairs.values() for value in values]
    kept = sorted(dst * model.d_vocab + src for (dst, src), n in met.items() if n >= MIN_COUNT)
    assert table.codes.tolist() == kept
    assert len(kept) > 10

    def of_source(src: int) -> float:
        values = [value for (_, s), found in pairs.items() if s == src for value in found]
        return (sum(values) + PRIOR * float(np.mean(every))) / (len(values) + PRIOR)

    for code in kept[::3]:
        dst, src = divmod(code, model.d_vocab)
        values = pairs.get((dst, src), [])
        wanted = (sum(values) + PRIOR * of_source(src)) / (len(values) + PRIOR)
        assert float(table.by_code[4 + head, kept.index(code)]) == pytest.approx(wanted, rel=1e-4)
        assert float(table.by_source[4 + head, src]) == pytest.approx(of_source(src), rel=1e-4)


@pytest.mark.slow
def test_its_columns_in_the_tallies_are_those_of_its_masks() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model)
    learned = rows_of(model, n=20, seed=9)
    table = learn_identity(model, ExplainRows(learned.ids, learned.lengths), 8)
    predictions = table.on(rows)
    masks = PredictedPairs(rows, TokenTable.from_strings(model.strings, model.special_ids)).masks(PREDICATES)
    plain = list(tally(model, rows, lambda layer: masks, 5))
    with_table = list(tally(model, rows, lambda layer: masks, 5, predictions))
    for before, found in zip(plain, with_table, strict=True):
        np.testing.assert_allclose(found.by_predicate[:, :, : len(PREDICATES)], before.by_predicate, atol=1e-4)
        np.testing.assert_allclose(found.by_head, before.by_head, atol=1e-4)
        for head in range(4):
            for number, threshold in enumerate(THRESHOLDS):
                own = predictions.mask(found.layer, head, threshold)[None]
                wanted = next(t for t in tally(model, rows, lambda layer, own=own: own, 5) if t.layer == found.layer)
                np.testing.assert_allclose(
                    found.by_predicate[:, head, len(PREDICATES) + number], wanted.by_predicate[:, head, 0], atol=1e-4
                )
    assert BY_PREDICATE[0] == "tp"


def test_a_head_that_looks_at_a_word_is_predicted_and_one_that_looks_back_is_not() -> None:
    word = tiny_model("gpt2").strings.index(" cat")

    def plant(ids: torch.Tensor) -> torch.Tensor:
        size = len(ids)
        attention = torch.zeros(4, size, size)
        attention[:, :, 0] = 1
        attention[2:] = uniform(size)
        for dst in range(1, size):
            earlier = (ids[1 : dst + 1] == word).nonzero()[:, 0] + 1
            if len(earlier):
                attention[0, dst] = 0
                attention[0, dst, earlier] = 1 / len(earlier)
            attention[1, dst] = 0
            attention[1, dst, dst - 1] = 1
        return attention

    model = planted(plant)
    learned = rows_of(model, n=30, seed=1)
    table = learn_identity(model, ExplainRows(learned.ids, learned.lengths), 8)
    rows = rows_of(model, n=12, seed=2)
    predictions = table.on(rows)
    able = rows.rows[:, :, None] & np.tril(np.ones((24, 24), bool)) & rows.sources[:, None]
    looks = (rows.ids[:, None, :] == word) & able
    found = predictions.mask(0, 0, 0.3)
    assert (found & looks).sum() > 0.9 * looks.sum()
    assert (found & ~looks).sum() == 0
    back = predictions.mask(0, 1, 0.3)
    truth = np.eye(24, k=-1, dtype=bool) & rows.rows[:, :, None] & rows.sources[:, None, :]
    assert (back & truth).sum() < 0.3 * truth.sum()


def test_the_table_is_a_rival_chosen_on_select_and_may_be_the_same_rule() -> None:
    word = " cat"
    number = tiny_model("gpt2").strings.index(word)

    def plant(ids: torch.Tensor) -> torch.Tensor:
        size = len(ids)
        attention = uniform(size).repeat(4, 1, 1)
        attention[:2] = 0
        attention[:2, :, 0] = 1
        for dst in range(1, size):
            earlier = (ids[1 : dst + 1] == number).nonzero()[:, 0] + 1
            attention[0, dst, earlier] = 1 / max(1, len(earlier))
            attention[0, dst, 0] = float(not len(earlier))
            attention[1, dst, 0], attention[1, dst, dst - 1] = 0, 1
        return attention

    model = planted(plant)
    few = [word, " dog", " the", " mat"]
    ids_of = np.array([model.strings.index(text) for text in few], np.int32)

    def rows(seed: int, split: Literal["select", "test"]) -> HeldOutRows:
        drawn = rows_of(model, n=70, seed=seed)
        ids = ids_of[drawn.ids % 4]
        ids[:, 0] = drawn.ids[:, 0]
        return text_rows(ids, drawn.lengths, np.arange(70), split, model.special_ids)

    learned = rows(1, "select")
    table = learn_identity(model, ExplainRows(learned.ids, learned.lengths), 8)
    tokens = TokenTable.from_strings(model.strings, model.special_ids)
    spec = PredicateSpec(model, rows(2, "select"), rows(3, "test"), tokens, table, 0, 8)
    claims = {Head(layer=0, index=0): f"src.text == {word!r}", Head(layer=0, index=1): "distance == 1"}
    outcomes = {head: claim(predicate=predicate) for head, predicate in claims.items()}
    found = PredicateScorers(spec, lambda *_: None).score(outcomes, {})
    looks, back = (found[head] for head in claims)
    assert isinstance(looks, Score) and isinstance(back, Score)
    rival = next(c for c in looks.controls if c.kind == "rival")
    assert (rival.name, rival.same_rule) == ("token identity", True)
    assert rival.value == pytest.approx(looks.value, abs=0.05)
    rival = next(c for c in back.controls if c.kind == "rival")
    assert (rival.name, rival.same_rule) == ("previous token", True)
    assert all(0 < c.p <= 1 for c in back.controls)
