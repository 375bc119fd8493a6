"""What all heads of a run share: ranks, shuffled controls, names of domains, reasons without a number."""

from __future__ import annotations

import numpy as np
from tiny_models import planted, uniform
from torch import Tensor

from autointerp.predicate import TokenTable
from autointerp.records import Head, Unscored
from autointerp.scoring.causal import CausalClaim, CausalScorers, CausalSpec
from autointerp.scoring.head_values import ExplainMeans
from autointerp.scoring.predicates import PredicateScorers, PredicateSpec
from autointerp.scoring.predicted import PredictedPairs
from autointerp.scoring.retrieval import Retrieval
from autointerp.scoring.suite import CausalInputs, HeldOut, Suite, SuiteSpec
from autointerp.scoring.tallies import tally
from autointerp.scoring.verdict import judge
from tests.test_scoring import NULL, claim, effect, rows_of, scored


def looks_back(ids: Tensor) -> Tensor:
    """Head k of every layer looks k tokens back, from 1; the last head spreads evenly."""
    size = len(ids)
    attention = uniform(size).repeat(4, 1, 1)
    for head in range(3):
        attention[head] = 0
        for dst in range(size):
            attention[head, dst, max(0, dst - head - 1)] = 1
    return attention


MODEL = planted(looks_back)
RULES = ["distance == 1", "distance == 2", "distance <= 3"]


def test_a_description_ranks_its_own_head_first_and_twins_share_a_rank() -> None:
    rows = rows_of(MODEL)
    masks = PredictedPairs(rows, TokenTable.from_strings(MODEL.strings, MODEL.special_ids)).masks(RULES)
    retrieval = Retrieval(RULES)
    for tallies in tally(MODEL, rows, lambda layer: masks, 6):
        retrieval.add(tallies, RULES)
    own = retrieval.place(Head(layer=0, index=0), "distance == 1")
    assert own == {"retrieval_rank": 1.5, "retrieval_heads": 8}  # the same head stands in both layers
    assert retrieval.place(Head(layer=1, index=1), "distance == 2")["retrieval_rank"] == 1.5
    wrong = retrieval.place(Head(layer=0, index=1), "distance == 1")["retrieval_rank"]
    assert isinstance(wrong, float)
    assert wrong > 2
    assert retrieval.place(Head(layer=0, index=0), "distance == 5") == {}


def test_a_twin_is_never_the_shuffled_control() -> None:
    select, test = rows_of(MODEL, seed=1), rows_of(MODEL, n=40, seed=2)
    means = ExplainMeans(np.zeros((2, 4, 8)), np.zeros((2, 4, 8, 8)))
    table = TokenTable.from_strings(MODEL.strings, MODEL.special_ids)
    spec = CausalSpec(MODEL, select, test, means, np.arange(20, 40), table, 0, 8)
    claims = {
        Head(layer=0, index=0): CausalClaim("distance == 1", "previous_token"),
        Head(layer=0, index=1): CausalClaim('src.text == "<nowhere>"', "other"),
    }
    twins = ["distance == 1", "distance < 2 and distance > 0", "distance >= 1 and distance <= 1"]
    scorers = CausalScorers(spec, claims, [*twins, 'src.text == "<nowhere>"', "distance == 4"])
    assert scorers._shuffled("distance == 1") == "distance == 4"  # not a twin, and not one that predicts nothing
    only_twins = CausalScorers(spec, claims, twins)
    assert only_twins._shuffled("distance == 1") not in (None, *twins)  # then a generic description


def test_another_domain_stands_in_the_name_of_its_score() -> None:
    select, test = rows_of(MODEL, n=40, seed=1), rows_of(MODEL, n=80, seed=2)
    table = TokenTable.from_strings(MODEL.strings, MODEL.special_ids)
    spec = PredicateSpec(MODEL, select, test, table, None, 0, 8)
    here, elsewhere = Head(layer=0, index=0), Head(layer=1, index=0)
    outcomes = {here: claim(), elsewhere: claim(domain="repeats")}
    found = PredicateScorers(spec, lambda *_: None).score(outcomes, {})
    assert {head: score.scorer for head, score in found.items()} == {here: "predicate", elsewhere: "predicate on text"}
    judged = judge(outcomes[elsewhere], (found[elsewhere],), (), effect())  # type: ignore[arg-type]
    assert judged.verdict == "unscored"  # a score on the wrong text is no headline


def test_a_scorer_with_nothing_to_work_on_says_why() -> None:
    rows = rows_of(MODEL, n=40)
    means = ExplainMeans(np.zeros((2, 4, 8)), np.zeros((2, 4, 8, 8)))
    held_out = HeldOut({"text": rows}, {"text": rows})
    scorers = ("conditional_ablation", "patching")
    causal = CausalInputs(means, np.arange(20, 40))
    spec = SuiteSpec(MODEL, held_out, {}, np.zeros((2, 4, 8)), 0, 8, scorers, None, causal)
    outcomes = {
        Head(layer=0, index=0): claim(predicate=None),
        Head(layer=0, index=1): claim(predicate="src.position == 0"),
    }
    found = Suite(spec, lambda *_: None).score(outcomes, {})
    reasons = [{u.scorer: u.reason for u in found[head].unscored} for head in outcomes]
    assert [set(r) for r in reasons] == [set(scorers)] * 2
    assert "no predicate" in reasons[0]["patching"]
    assert "off the first position" in reasons[1]["conditional_ablation"]


def test_a_claim_on_the_first_position_is_judged_by_the_whole_head() -> None:
    resting = scored(NULL).model_copy(update={"scorer": "first_token"})
    why = Unscored(scorer="conditional_ablation", reason="it names no pair off the first position")
    assert judge(claim(), (resting,), (why,), effect(0.01)).verdict == "supported"
    assert judge(claim(), (resting,), (why,), effect(1e-6)).verdict == "partly"
    assert judge(claim(), (scored(NULL),), (why,), effect(0.01)).verdict == "partly"
