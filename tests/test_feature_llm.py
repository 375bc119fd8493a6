"""Scorers of neurons and latents that ask: items, weights, scores by hand, replies, effects against whole forwards."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autointerp.chat import FakeChat
from autointerp.chat.rules import RulesChat
from autointerp.features.activations import read_activations
from autointerp.features.units import load_units
from autointerp.llm import Capabilities, ChatModel, ChatRequest
from autointerp.prompting import Templates
from autointerp.records import Description, Feature, Score, Unscored
from autointerp.scoring.asking import Asked, Asker, Reading
from autointerp.scoring.effect_rows import CandidatePool
from autointerp.scoring.feature_effect import Activations, EffectSpec, feature_effect_rows
from autointerp.scoring.feature_items import feature_detection_items, feature_states
from autointerp.scoring.feature_llm import (
    NO_EVIDENCE_TEMPLATE,
    FeatureItems,
    FeatureLlmScorers,
    feature_controls,
    feature_items,
)
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.judging import Case, judge_again
from autointerp.scoring.no_evidence import describe_without_evidence
from autointerp.scoring.passages import LENGTH, N_ACTIVE, N_RESTING, Passage, choose_passages
from autointerp.scoring.simulation import Simulator
from autointerp.scoring.strengths import read_strengths, strengths_schema
from autointerp.stats.metrics import pearson
from tests.tiny_models import tiny_model

UNIT = Feature(kind="latent", layer=1, index=5)
STRINGS = ["<bos>", *(f" w{i}" for i in range(1, 40))]
FIRST, N_IDS = 1, 39
CLAIM = Description(
    summary="s",
    looks_at='Active at the tokens " w3", " w4".',
    writes='Raises " w7"',
    label="token_set",
    raises=(" w7",),
    predicate='dst.text in {" w3", " w4"}',
)
OTHER = CLAIM.model_copy(update={"looks_at": 'Active at the tokens " w9".', "predicate": None})


def held_out(seed: int = 0, windows: int = 60, size: int = 61) -> HeldOutRows:
    ids = np.random.default_rng(seed).integers(FIRST, N_IDS + 1, (windows, size))
    ids[:, 0] = 0
    return text_rows(ids, np.full(windows, size), np.arange(windows), "test", (0,))


def shares_of(rows: HeldOutRows) -> np.ndarray:
    """Active on token 3 and, after an even token, on token 4; in the dead zone on token 5; below 0 elsewhere."""
    share = np.full(rows.ids.shape, -0.2, np.float32)
    share[rows.ids == 3] = 0.9
    after_even = np.zeros_like(rows.ids, dtype=bool)
    after_even[:, 1:] = rows.ids[:, :-1] % 2 == 0
    share[(rows.ids == 4) & after_even] = 0.5
    share[rows.ids == 5] = 0.1
    share[:, 0] = 5.0  # the sink is read as it is, and never counts
    return share


ROWS = held_out()
SHARE = shares_of(ROWS)
ON = Activations(SHARE, 2.0, 1, 0.1)


def asker(chat: ChatModel) -> Asker:
    return Asker(chat, Capabilities(logprobs=False), Templates(), 0)


def scorers(chat: ChatModel) -> FeatureLlmScorers:
    return FeatureLlmScorers(asker(chat), STRINGS, ROWS)


def items_in(request: ChatRequest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        re.findall(r"<<<ITEMS\n(.*?)\nITEMS>>>", request.messages[-1]["content"], re.DOTALL)[0]
    )
    return found


# items


def test_states_follow_the_shares_and_leave_the_dead_zone_out() -> None:
    state = feature_states(SHARE, ROWS)
    assert np.array_equal(state.state[:, 1:] == 1, SHARE[:, 1:] >= 0.3)
    assert np.array_equal(state.state == 0, (ROWS.ids == 5) | (ROWS.ids == 0))
    assert not state.state[:, 0].any()
    assert state.activity.min() == 0


def test_resting_items_have_the_same_token_then_a_neighbours_then_any() -> None:
    near = ROWS.ids == 8
    items = feature_detection_items(ROWS, UNIT, SHARE, 0, near)
    assert items == feature_detection_items(ROWS, UNIT, SHARE, 0, near)
    assert len(items) == 20
    assert len({i.document for i in items}) == 20
    for item in items:
        token, share = int(ROWS.ids[item.window, item.dst]), float(SHARE[item.window, item.dst])
        assert item.active == (share >= 0.3)
        if not item.active:
            assert share <= 0.02
            assert (item.tier == "T1") == (token == 4)
            assert (item.tier == "T2") == (token == 8)
    tiers = {i.tier for i in items if not i.active}
    assert tiers == {"T1", "T2"}
    assert {i.tier for i in feature_detection_items(ROWS, UNIT, SHARE, 0) if not i.active} == {"T1", "T0"}


def test_a_unit_that_never_rests_or_never_acts_has_no_items() -> None:
    assert feature_detection_items(ROWS, UNIT, np.ones_like(SHARE), 0) == []
    quiet = feature_items(ROWS, UNIT, Activations(np.zeros_like(SHARE), 1.0, 1, 0.0), 0)
    chat = FakeChat([])
    scores = asyncio.run(scorers(chat).score(UNIT, CLAIM, {}, quiet))
    assert chat.requests == []
    assert all(isinstance(s, Unscored) for s in scores.values())
    reasons = {name: s.reason for name, s in scores.items() if isinstance(s, Unscored)}
    assert reasons["detection"].startswith("only 0 held-out documents have a row where the unit is clearly active")
    assert reasons["simulation"].startswith("the unit is active in passages of only 0 held-out documents")


def test_passages_stand_for_the_text_by_their_weights() -> None:
    passages = choose_passages(ROWS, UNIT, SHARE, 0)
    assert passages == choose_passages(ROWS, UNIT, SHARE, 0)
    assert len({p.document for p in passages}) == len(passages) == N_ACTIVE + N_RESTING
    assert all(p.stop - p.start == LENGTH and p.start in (1, 31) for p in passages)
    halves = np.stack([SHARE[:, 1:31], SHARE[:, 31:61]])
    active = (halves >= 0.3).any(2)
    by_stratum = {p.active: p.weight for p in passages}
    assert by_stratum[True] * N_ACTIVE == pytest.approx(active.sum())
    assert by_stratum[False] * N_RESTING == pytest.approx((~active).sum())
    for p in passages:
        assert p.active == any(s >= 0.3 for s in p.shares)
        assert p.shares == pytest.approx(np.maximum(SHARE[p.window, p.start : p.stop], 0))


def test_the_weighted_sample_estimates_the_correlation_over_all_text() -> None:
    """With the mean over many draws, the weighted sums of predictions match those of all rows (Horvitz-Thompson)."""
    e, a = (ROWS.ids == 3).astype(float), np.maximum(SHARE, 0)
    whole = np.array([1.0, e[:, 1:].mean(), a[:, 1:].mean(), (e * a)[:, 1:].mean()])
    draws = []
    for seed in range(300):
        total = np.zeros(4)
        for p in choose_passages(ROWS, UNIT, SHARE, seed):
            here = e[p.window, p.start : p.stop], np.array(p.shares)
            total += p.weight * np.array([LENGTH, here[0].sum(), here[1].sum(), (here[0] * here[1]).sum()])
        draws.append(total / (ROWS.ids.shape[0] * 60))
    mean, error = np.mean(draws, axis=0), np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(mean - whole) <= 4 * error + 1e-9).all()


# simulation


def strengths(request: ChatRequest, say: Callable[[str], int]) -> dict[str, Any]:
    rows = {
        str(number): [[place, say(token)] for place, token in item["tokens"] if say(token)]
        for number, item in enumerate(items_in(request), 1)
    }
    return {"rows": rows}


def simulated(say: Callable[[str], int], controls: Mapping[str, list[Description]] | None = None) -> Score:
    def answer(request: ChatRequest) -> dict[str, Any]:
        own = "w9" not in request.messages[-1]["content"].split("DESCRIPTION>>>")[0]
        return strengths(request, say if own else lambda token: 5 * (token == " w9"))

    items = choose_passages(ROWS, UNIT, SHARE, 0)
    score = asyncio.run(Simulator(asker(FakeChat(answer)), STRINGS, ROWS).score(UNIT, CLAIM, controls or {}, items))
    assert isinstance(score, Score)
    return score


def test_simulation_by_hand() -> None:
    items = choose_passages(ROWS, UNIT, SHARE, 0)
    score = simulated(lambda token: {" w3": 9, " w4": 5}.get(token, 0), {"others": [OTHER]})
    tokens = np.concatenate([ROWS.ids[p.window, p.start : p.stop] for p in items])
    e = np.where(tokens == 3, 0.9, np.where(tokens == 4, 0.5, 0))
    a, w = np.concatenate([p.shares for p in items]), np.repeat([p.weight for p in items], LENGTH)
    assert score.value == pytest.approx(pearson(e, a, w))
    assert (score.metric, score.chance, score.n_items, score.n_docs) == ("pearson", 0.0, 5 * LENGTH, 5)
    assert score.prevalence == pytest.approx(float(w @ (a >= 0.3) / w.sum()))
    assert score.low < score.value <= score.high
    assert [c.name for c in score.controls] == ["predictions shuffled over the tokens", "others"]
    assert all(c.beaten for c in score.controls)
    assert score.details["documents_with_positive"] == N_ACTIVE


def test_a_perfect_simulation_scores_1_a_constant_one_0_and_an_inverted_one_less() -> None:
    assert simulated(lambda token: {" w3": 9, " w4": 5, " w5": 1}.get(token, 0)).value > 0.9
    assert simulated(lambda token: 7).value == 0
    assert simulated(lambda token: 0).value == 0
    assert simulated(lambda token: 0 if token in (" w3", " w4") else 9).value < 0


def test_control_tokens_inside_a_passage_do_not_count() -> None:
    ids = ROWS.ids.copy()
    ids[:, 10] = 0
    rows = text_rows(ids, ROWS.lengths, ROWS.documents, "test", (0,))
    items = choose_passages(rows, UNIT, SHARE, 0)
    answer = FakeChat(lambda request: strengths(request, lambda token: 9 * (token == " w3")))
    score = asyncio.run(Simulator(asker(answer), STRINGS, rows).score(UNIT, CLAIM, {}, items))
    assert isinstance(score, Score)
    assert score.n_items == 5 * LENGTH - sum(p.start == 1 for p in items)


def test_repeats_and_single_items_read_the_same_score() -> None:
    chat = FakeChat(lambda request: strengths(request, lambda token: 9 * (token == " w3")))
    simulator = Simulator(asker(chat), STRINGS, ROWS)
    items = choose_passages(ROWS, UNIT, SHARE, 0)
    score = asyncio.run(simulator.score(UNIT, CLAIM, {}, items))
    assert isinstance(score, Score)
    reading = asyncio.run(simulator.read(UNIT, CLAIM, items, Asked("x", 2, 1)))
    assert isinstance(reading, Reading)
    assert len(chat.requests) == 6
    assert simulator.score_of(reading, items).value == pytest.approx(score.value)
    again = asyncio.run(judge_again(simulator, Case(UNIT, CLAIM, items, score)))
    assert (again.details["judge_repeats"], again.details["order_effect"]) == (5, 0)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("x", "rows must hold an object"),
        ({"1": []}, "numbers 1 to 2"),
        ({"1": [], "3": []}, "numbers 1 to 2"),
        ({"1": [], "2": {}}, "row 2 must be a list"),
        ({"1": [], "2": [3]}, "row 2 holds 3"),
        ({"1": [{"token": 4, "strength": 1}], "2": []}, "row 1 names token 4; its tokens are 1 to 3"),
        ({"1": [{"token": 1.5, "strength": 1}], "2": []}, "row 1 names token 1.5"),
        ({"1": [{"token": 1, "strength": 11}], "2": []}, "strength 11"),
        ({"1": [[float("inf"), 1]], "2": []}, "row 1 holds"),
        ({"1": [{"token": 1, "strength": "high"}], "2": []}, "row 1 holds"),
        ({"1": [{"token": True, "strength": 1}], "2": []}, "row 1 holds"),
        ({"1": [{"token": float("nan"), "strength": 1}], "2": []}, "row 1 holds"),
    ],
)
def test_replies_that_are_no_use_say_why(rows: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_strengths({"rows": rows}, [3, 2])


def test_strengths_are_read_as_written() -> None:
    named = {"1": [[3, 2], [3, 7]], "2": []}
    assert [row.tolist() for row in read_strengths({"rows": named}, [3, 2])] == [[0, 0, 7], [0, 0]]
    listed = [[[1, 4]], [{"token": 2, "strength": 0}]]  # numbers left away, and names written out
    assert [row.tolist() for row in read_strengths({"rows": listed}, [3, 2])] == [[4, 0, 0], [0, 0]]
    assert set(strengths_schema([3, 2])["properties"]["rows"]["properties"]) == {"1", "2"}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 12), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["1", "2", "token", "strength"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_reply_is_read_or_refused(rows: Any) -> None:
    try:
        found = read_strengths({"rows": rows}, [3, 2])
    except ValueError:
        return
    assert [len(row) for row in found] == [3, 2]
    assert all(((row >= 0) & (row <= 10)).all() for row in found)


# the three together


def judge(request: ChatRequest) -> dict[str, Any]:
    """A judge that believes the description: tokens 3 and 4 are active, token 7 is raised."""
    items = items_in(request)
    if request.schema_name == "answers":
        said = {str(n): "yes" if i["token"] in (" w3", " w4") else "no" for n, i in enumerate(items, 1)}
        return {"answers": said}
    if request.schema_name == "changes":
        return {"rows": {str(n): [5 * (c == " w7") for c in i["candidates"]] for n, i in enumerate(items, 1)}}
    return strengths(request, lambda token: {" w3": 9, " w4": 5}.get(token, 0))


def test_a_unit_is_asked_about_once_a_scorer_and_blindly() -> None:
    chat = FakeChat(judge)
    items = FeatureItems(
        feature_detection_items(ROWS, UNIT, SHARE, 0), choose_passages(ROWS, UNIT, SHARE, 0), effect=effect_items()
    )
    scores = asyncio.run(scorers(chat).score(UNIT, CLAIM, {"detection": {"others": [OTHER]}}, items))
    assert {name: isinstance(s, Score) for name, s in scores.items()} == dict.fromkeys(scores, True)
    assert list(scores) == ["detection", "simulation", "effect"]
    values = {name: s.value for name, s in scores.items() if isinstance(s, Score)}
    assert 0.5 < values["detection"] < 1  # tokens 4 at rest are taken for active
    assert values["simulation"] > 0.5
    assert values["effect"] > 0
    detection = scores["detection"]
    assert isinstance(detection, Score)
    assert [c.name for c in detection.controls] == ["answers shuffled over the items", "others"]
    # three askings without log-probabilities of each description, one of the other two scorers
    assert len(chat.requests) == 6 + 1 + 1
    for request in chat.requests:
        text = " ".join(m["content"] for m in request.messages)
        assert not re.search(r"L1F5|\bhead\b|layer|latent|neuron", text)
        assert request.unit == "L1F5"


def effect_items() -> list[Any]:
    from autointerp.scoring.effect_rows import Change, EffectRow

    row = EffectRow(
        window=0, document=0, dst=9, src=9, candidates=(7, *range(10, 19)), changes=(2.0, *np.linspace(-1, 0.5, 9)),
        strong=(True,) * 5 + (False,) * 5, source=Change(0.0, ()),
    )  # fmt: skip
    return [row] * 6


def test_the_rule_based_chat_model_answers_all_three() -> None:
    items = FeatureItems(
        feature_detection_items(ROWS, UNIT, SHARE, 0), choose_passages(ROWS, UNIT, SHARE, 0), effect=effect_items()
    )
    scores = asyncio.run(scorers(RulesChat()).score(UNIT, CLAIM, {}, items))
    values = {name: s.value for name, s in scores.items() if isinstance(s, Score)}
    assert set(values) == {"detection", "simulation", "effect"}
    assert min(values.values()) > 0.3


def test_the_guess_without_evidence_is_asked_about_a_unit() -> None:
    chat = FakeChat([{"looks_at": "nouns", "writes": "raises verbs", "conditions": "in sentences"}])
    guess = asyncio.run(describe_without_evidence(asker(chat), NO_EVIDENCE_TEMPLATE))
    assert isinstance(guess, Description)
    assert guess.looks_at == "nouns"
    assert "unit" in chat.requests[0].messages[-1]["content"]


# controls


def test_controls_are_other_units_descriptions_or_generic_ones() -> None:
    units = [Feature(kind="latent", layer=1, index=i) for i in range(8)]
    told = [CLAIM.model_copy(update={"looks_at": f"thing {i}", "writes": f"raises {i}", "raises": (f" {i}",),
                                     "predicate": f"dst.length == {i}"}) for i in range(8)]  # fmt: skip
    twin = told[0].model_copy(update={"looks_at": "the same thing in other words", "writes": "other"})
    described = dict(zip(units, [*told[:7], twin], strict=True))
    controls = feature_controls(units[0], described, None, 0)
    assert list(controls) == ["detection", "simulation", "effect"]
    (donors,) = controls["detection"].values()
    assert len(donors) == 5
    assert told[0] not in donors
    assert all(twin not in shown for shown in controls["detection"].values())  # it claims the same rule
    assert all(twin not in shown for shown in controls["effect"].values())  # it raises the same token
    guess = CLAIM.model_copy(update={"looks_at": "a guess"})
    few = feature_controls(units[0], {units[0]: told[0]}, guess, 0)["simulation"]
    assert list(few) == ["generic descriptions (5)", "no evidence"]
    assert few["no evidence"] == [guess]
    assert len({d.looks_at for d in few["generic descriptions (5)"]}) == 5


# effects


def test_effects_are_what_a_whole_forward_without_the_unit_loses() -> None:
    model = tiny_model("gpt2")
    ids = np.random.default_rng(2).integers(3, model.d_vocab, (30, 20))
    ids[:, 0] = model.bos_id
    rows = text_rows(ids, np.full(30, 20), np.arange(30), "test", model.special_ids)
    units = load_units("neurons:L0", model)
    features = [units.features[3], units.features[8]]
    raw = read_activations(model, units, features, rows.ids, rows.lengths)
    held = {}
    for column, feature in enumerate(features):
        a = raw[:, :, column]
        sign = 1 if a.max() > -a.min() else -1
        reference = float(np.sort((sign * a)[:, 1:].max(1))[-16:].mean())
        held[feature] = Activations(sign * a / reference, reference, sign, float(a[:, 1:].mean()))
    pool = CandidatePool.of(model, [rows])
    found = feature_effect_rows(model, units, rows, held, EffectSpec(pool, 0, 8))
    assert found == feature_effect_rows(model, units, rows, held, EffectSpec(pool, 0, 3))
    checked = 0
    for feature in features:
        of_unit = found[feature]
        assert not isinstance(of_unit, Unscored), of_unit
        assert len({row.document for row in of_unit}) == len(of_unit) <= 10
        for row in of_unit[:3]:
            assert held[feature].share[row.window, row.dst] >= 0.3
            lost = without(rows, row.window, row.dst, feature, held[feature].mean)
            assert row.changes == pytest.approx(lost[list(row.candidates)], abs=2e-4)
            strong = np.array(row.changes)[list(row.strong)]
            assert strong.max() == pytest.approx(lost[pool.ids].max(), abs=2e-4)
            checked += 1
    assert checked == 6


def without(rows: HeldOutRows, window: int, dst: int, feature: Feature, mean: float) -> np.ndarray:
    model = tiny_model("gpt2")
    ids = model.to_ids(rows.ids[window : window + 1])

    def hook(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = tensor.clone()
        changed[0, dst, feature.index] = mean
        return changed

    before = model.bridge(ids)[0, dst].float()
    with model.hooks([(f"blocks.{feature.layer}.mlp.hook_post", hook)]):
        after = model.bridge(ids)[0, dst].float()
    lost = torch.log_softmax(before, -1) - torch.log_softmax(after, -1)
    return np.asarray((lost - lost.mean()).detach().numpy())


def test_a_unit_without_effect_or_rows_is_unscored() -> None:
    model = tiny_model("gpt2")
    ids = np.random.default_rng(2).integers(3, model.d_vocab, (12, 20))
    ids[:, 0] = model.bos_id
    rows = text_rows(ids, np.full(12, 20), np.arange(12), "test", model.special_ids)
    units = load_units("neurons:L0", model)
    idle = units.features[0]
    share = np.ones(rows.ids.shape, np.float32)
    same = Activations(share, 1.0, 1, 1.0)  # its mean is its activation: nothing changes
    spec = EffectSpec(CandidatePool.of(model, [rows]), 0, 8)
    found = feature_effect_rows(model, units, rows, {idle: same}, spec)[idle]
    assert isinstance(found, Unscored)
    assert found.reason.startswith("only 0 held-out documents have a row where the unit is active and changes")
    assert feature_effect_rows(model, units, rows, {}, spec) == {}


def test_passages_of_ragged_windows_end_where_the_text_ends() -> None:
    rows = text_rows(ROWS.ids, np.full(60, 40), ROWS.documents, "test", (0,))
    ends = {(p.start, p.stop) for seed in range(20) for p in choose_passages(rows, UNIT, SHARE, seed)}
    assert ends == {(1, 31), (31, 40)}
    assert choose_passages(ROWS, UNIT, np.ones_like(SHARE), 0)[0].weight == 120 / N_ACTIVE
    assert isinstance(choose_passages(rows, UNIT, SHARE, 0)[0], Passage)
