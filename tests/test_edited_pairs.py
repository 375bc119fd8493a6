"""Tier T3: edits of positives on planted heads, counts by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from autointerp.predicate import TokenTable
from autointerp.records import Description, Head, Score
from autointerp.scoring.edited_pairs import EDITS, EditedPairs, Measured, draw_edits, ordinary_ids, tier_three
from autointerp.scoring.predicates import PredicateScorers, PredicateSpec
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.tallies import tally
from tests.causal_model import GATED, NAMES, causal_model, causal_rows, ids_of
from tests.test_conditional import among

GATED_PREVIOUS = f"{among('dst', GATED)} and distance == 1"
PREVIOUS = "distance == 1"
ALWAYS, GATE = Head(layer=0, index=0), Head(layer=0, index=2)  # both look at the token before, GATE only from GATED


@functools.cache
def edited(n: int = 80) -> EditedPairs:
    model, rows = causal_model(), causal_rows(n)
    table = TokenTable.from_strings(model.strings, model.special_ids)
    ids = ordinary_ids(rows, model.special_ids)
    return EditedPairs(model, PredictedPairs(rows, table), table, ids, 0, 8)


@functools.cache
def positives(head: Head) -> np.ndarray:
    pairs = edited().pairs
    tallies = next(tally(causal_model(), pairs.held_out, lambda _: pairs.masks([PREVIOUS]), 8))
    return tallies.positives[head.index]


def measure(head: Head, predicate: str) -> Measured:
    return edited().measure(head, positives(head), predicate)


def test_positives_are_the_pairs_that_the_head_attends_to() -> None:
    held = edited().pairs.held_out
    window, dst, src = positives(GATE).T
    assert (dst - src == 1).all()
    assert np.isin(held.ids[window, dst], ids_of(GATED)).all()
    wanted = held.rows & np.isin(held.ids, ids_of(GATED)) & np.roll(held.sources, 1, axis=1)
    assert len(window) == wanted.sum()
    assert len(positives(ALWAYS)) > 2 * len(window)


def test_ordinary_ids_are_no_control_tokens() -> None:
    ids = ordinary_ids(causal_rows(60), causal_model().special_ids)
    assert set(ids.tolist()) <= set(ids_of(NAMES))
    assert len(set(ids.tolist())) == len(ids) > 20


def test_edits_change_one_token_at_source_or_destination_half_and_half() -> None:
    held = edited().pairs.held_out
    edits = draw_edits(held, positives(GATE), edited().pool, np.random.default_rng(0))
    assert len(edits) == EDITS and len(set(held.documents[edits.window].tolist())) == EDITS
    changed = edits.rows(held).ids != held.ids[edits.window]
    assert (changed.sum(1) == 1).all() and changed[np.arange(EDITS), edits.place].all()
    assert (edits.place == edits.src).sum() == (edits.place == edits.dst).sum() == EDITS // 2
    same = draw_edits(held, positives(GATE), edited().pool[:1], np.random.default_rng(0))
    assert (held.ids[same.window, same.place] != edited().pool[0]).all()  # a token is never replaced by itself
    assert len(draw_edits(held, positives(GATE), edited().pool[:0], np.random.default_rng(0))) == 0
    assert len(draw_edits(held, positives(GATE)[:0], edited().pool, np.random.default_rng(0))) == 0


def test_an_edit_that_breaks_the_rule_is_a_verified_negative_which_a_vague_rule_still_predicts() -> None:
    """H2 rests where the destination's new token is not in GATED; whatever the source's token becomes, it goes on."""
    held, right, vague = edited().pairs.held_out, measure(GATE, GATED_PREVIOUS), measure(GATE, PREVIOUS)
    rng = np.random.default_rng([0, GATE.layer, GATE.index, 5])
    edits = draw_edits(held, positives(GATE), edited().pool, rng)
    at_dst = edits.place == edits.dst
    breaks = at_dst & ~np.isin(edits.token, ids_of(GATED))
    assert 20 < breaks.sum() < at_dst.sum()  # some new destinations are in GATED too
    for measured in (right, vague):
        assert np.array_equal(measured.negative, breaks)
        assert np.array_equal(measured.went_on, ~breaks)
        assert measured.before.all()
    assert not right.after[breaks].any() and right.after[~breaks].all()
    assert vague.after.all()
    details = {"recall": 1.0, "positives": 300, "negatives": 6000}
    good, bad = tier_three(right, details), tier_three(vague, details)
    n = int(breaks.sum())
    assert (good["negatives_T3"], good["false_positive_rate_T3"], good["f1_T3"]) == (n, 0.0, 1.0)
    assert (good["ended_T3"], good["went_on_T3"], good["edits_T3"]) == (n, 0.0, EDITS)
    assert (bad["negatives_T3"], bad["false_positive_rate_T3"], bad["ended_T3"], bad["went_on_T3"]) == (n, 1.0, 0, None)
    assert bad["f1_T3"] == pytest.approx(2 * 300 / (300 + 6000 + 300))


def test_a_rule_that_stops_too_early_shows_in_the_edits_that_end_it() -> None:
    """The head takes any token before it: a rule about the source's token ends at edits that change nothing."""
    narrow = f"{among('src', NAMES[::2])} and distance == 1"
    measured = measure(ALWAYS, narrow)
    found = tier_three(measured, {})
    assert measured.went_on.all()
    assert (found["negatives_T3"], found["false_positive_rate_T3"], found["f1_T3"]) == (0, None, None)
    assert int(found["ended_T3"] or 0) > 3 and found["went_on_T3"] == 1.0
    assert found["negatives_T3_note"] == "fewer than 20: could not be filled"


def test_rates_by_hand() -> None:
    """Five edits: fell and not predicted, fell and predicted, at rest and predicted, between, went on."""
    measured = Measured(
        share=np.array([0.02, 0.0, 0.9, 0.1, 0.3]),
        valid=np.array([True, True, False, True, True]),
        before=np.array([True, True, True, False, True]),
        after=np.array([False, True, True, False, False]),
    )
    found = tier_three(measured, {"recall": 0.5, "positives": 10, "negatives": 90})
    assert (found["edits_T3"], found["negatives_T3"], found["at_rest_T3"]) == (5, 3, 1)
    assert found["false_positive_rate_T3"] == pytest.approx(2 / 3)
    assert found["f1_T3"] == pytest.approx(2 * 5 / (5 + 60 + 10))
    assert (found["ended_T3"], found["went_on_T3"]) == (2, 0.5)  # the fourth was not predicted before either


def test_the_predicate_score_has_the_tier_and_the_same_headline() -> None:
    model = causal_model()
    table = TokenTable.from_strings(model.strings, model.special_ids)
    spec = PredicateSpec(model, causal_rows(40), causal_rows(60), table, None, 0, 8)
    claims = {head: Description(summary="", looks_at="", writes="", label="other", predicate=p)
              for head, p in ((ALWAYS, PREVIOUS), (GATE, GATED_PREVIOUS))}  # fmt: skip
    scores = PredicateScorers(spec, lambda *_: None).score(claims, {})
    gate, always = scores[GATE], scores[ALWAYS]
    assert isinstance(gate, Score) and isinstance(always, Score)
    assert (gate.value, gate.details["f1_T3"], gate.details["false_positive_rate_T3"]) == (1.0, 1.0, 0.0)
    assert always.value == 1.0 and always.details["negatives_T3"] == 0 and always.details["f1_T3"] is None
    elsewhere = {head: claim.model_copy(update={"domain": "repeats"}) for head, claim in claims.items()}
    other = PredicateScorers(spec, lambda *_: None).score(elsewhere, {})[GATE]
    assert isinstance(other, Score) and other.scorer == "predicate on text"
    assert not any(name.endswith("_T3") for name in other.details)  # edits cost a run: only in the claim's own domain
