"""The rule-based chat model on neurons and latents: its first answer, its experiments, and what it makes of them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.agent.feature_kind import FEATURES
from autointerp.agent.head_kind import HEADS
from autointerp.agent.requests import Request
from autointerp.agent.standing import standing_of
from autointerp.agent.steps import experiments_step, hypotheses_step, revision_step
from autointerp.chat.rules import RulesChat
from autointerp.chat.rules_units import Place, TokenRule, learned
from autointerp.explain.feature_language import FEATURE_SCHEMA
from autointerp.llm import ChatRequest
from autointerp.predicate import parse_positional
from autointerp.prompting import as_data

Plain = dict[str, Any]
SET = ("token_set", 'dst.text in {" cat", " dog"}')
PAIR = ("token_pair", 'dst.text == " York" and dst.prev.text == " New"')
CLASS = ("token_class", "dst.is_number")
DOG, YORK = 'dst.text == " dog"', 'dst.text == " York"'


def evidence_of(*rules: tuple[str, str], tokens: tuple[str, ...] = (" dog", " cat")) -> Plain:
    most = [{"token": token, "part_of_activation": 0.4, "active": 9, "occurs": 9} for token in tokens]
    fired = [{"kind": kind, "predicate": predicate, "f1": 0.9, "fires": True} for kind, predicate in rules]
    return {
        "statistics": {"tokens_with_most_activation": [*most, {"token": " never", "active": 0, "occurs": 3}]},
        "rules": [*fired, {"kind": "position", "predicate": "dst.position <= 2", "f1": 0.99, "fires": False}],
        "output": {"raised": [{"token": " bark", "logits": 2.0}, {"token": " x", "logits": 0.1}], "lowered": [],
                   "largest_of_random_directions": 1.0},
        "examples": {},
    }  # fmt: skip


def ask(name: str, schema: Plain, **blocks: Any) -> Plain:
    text = "\n".join(f"<<<{block}\n{as_data(value)}\n{block}>>>" for block, value in blocks.items())
    request = ChatRequest(messages=({"role": "user", "content": text},), json_schema=schema, schema_name=name)
    found = json.loads(asyncio.run(RulesChat().complete(request)).text)
    assert isinstance(found, dict)
    assert set(found) == set(schema["properties"])
    return found


def describe(evidence: Plain) -> Plain:
    return ask("feature_description", FEATURE_SCHEMA, EVIDENCE=evidence)


@pytest.mark.parametrize(
    ("evidence", "label", "predicate"),
    [
        (evidence_of(SET), "token", DOG),
        (evidence_of(PAIR, tokens=(" York",)), "token", YORK),
        (evidence_of(("token", DOG), tokens=(" dog",)), "token", DOG),
        (evidence_of(SET, tokens=('"', "b")), "token", 'dst.text == "\\""'),
        (evidence_of(CLASS), "token_class", "dst.is_number"),
        (evidence_of(SET, tokens=()), "token_set", SET[1]),
        (evidence_of(), "unclear", ""),
    ],
)
def test_the_first_answer_names_one_token(evidence: Plain, label: str, predicate: str) -> None:
    said = describe(evidence)
    assert (said["label"], said["predicate"], said["unclear"]) == (label, predicate, label == "unclear")
    if predicate:
        parse_positional(predicate)
    assert said["raises"] == [" bark"]


# experiments


def row(text: str, strength: float, **more: Any) -> Plain:
    return {"text": text, "strength": strength, "kl_without": 0.3, **more}


def answered(tool: str, answer: Plain, number: int = 1, **arguments: Any) -> Plain:
    return {"round": number, "tool": tool, "arguments": arguments, "answer": answer}


def history_of(predicate: str, *experiments: Plain, revised: str = "") -> Plain:
    said = {"name": "one shot", "label": "token", "activates_on": "a", "does": "b", "predicate": predicate}
    later = [{**said, "name": "revision 1, claim 1", "predicate": "dst.is_quote"},
             {**said, "name": "revision 1", "predicate": revised}] if revised else []  # fmt: skip
    return {"hypotheses": [said, *later], "experiments": list(experiments)}


OWN = answered("rows", {"rows": [row("…the old> dog<", 9.0)]}, predicate=DOG, holds=True)


@pytest.mark.parametrize("history", [
    history_of(DOG), history_of(""), history_of(DOG, OWN, revised=SET[1]),
    history_of("", answered("rows", {"rows": []})),
    history_of(DOG, OWN, {**OWN, "round": 2}), history_of(DOG, OWN, {**OWN, "round": 2}, {**OWN, "round": 3}),
    history_of(DOG, {"round": 1, "tool": "rows", "refused": "no"}), {},
])  # fmt: skip
def test_its_experiments_are_valid_requests(history: Plain) -> None:
    schema = experiments_step(FEATURES, 4).schema
    asked = ask("agent_experiments_feature", schema, EVIDENCE=evidence_of(SET), HISTORY=history)
    assert 0 < len(asked["experiments"]) <= 4
    for one in asked["experiments"]:
        assert isinstance(FEATURES.tools.parse(one["tool"], one["arguments"]), Request), one


def test_the_first_round_asks_about_its_rule_and_the_second_about_what_that_showed() -> None:
    schema, evidence = experiments_step(FEATURES, 4).schema, evidence_of(SET)
    first = ask("agent_experiments_feature", schema, EVIDENCE=evidence, HISTORY=history_of(DOG))["experiments"]
    assert [one["tool"] for one in first] == ["rows", "rows", "score_predicate", "activate"]
    assert [one["arguments"].get("holds") for one in first[:2]] == [True, False]
    assert [place["text"] for place in first[3]["arguments"]["texts"]] == ["Now dog cat"]
    history = history_of(DOG, OWN, revised=SET[1])
    second = ask("agent_experiments_feature", schema, EVIDENCE=evidence, HISTORY=history)["experiments"]
    assert [one["tool"] for one in second] == ["rows", "rows", "edit", "ablate"]
    assert (second[0]["arguments"]["predicate"], second[0]["arguments"]["holds"]) == (SET[1], False)
    assert second[1]["arguments"]["kind"] == "contrast"
    edit = second[2]["arguments"]
    assert (edit["text"], edit["replace"], edit["by"]) == ("the old dog", " old dog", " and dog")


def test_its_hypotheses_are_two_claims_of_other_kinds() -> None:
    step = hypotheses_step(FEATURES, 2)
    found = ask("agent_hypotheses_feature", step.schema, EVIDENCE=evidence_of(SET), HISTORY=history_of(DOG))
    assert [one["label"] for one in found["hypotheses"]] == ["token_class", "position"]
    assert [claim.description.raises for claim in step.read(found)] == [(" bark",)] * 2


# revision


def made_up(*strengths: float, tokens: tuple[str, ...] = (" dog", " cat")) -> Plain:
    *others, last = zip(tokens, strengths, strict=True)
    active = [[token, place - len(others), value] for place, (token, value) in enumerate(others) if value >= 3]
    texts = [{"text": "Now" + "".join(tokens), "mark": "last", "occurrence": 1}]
    return answered("activate", {"rows": [{"at": last[0], "strength": last[1], "active_tokens": active}]}, texts=texts)


def rows(*shown: Plain, holds: bool = True) -> Plain:
    return answered("rows", {"rows": list(shown), "matching": 9, "of": 99}, predicate="p", holds=holds)


def scored(silent: list[Plain], missed: list[Plain]) -> Plain:
    groups = {"predicted_but_silent": {"rows": 9, "samples": silent}, "active_but_unpredicted": {"samples": missed}}
    return answered("score_predicate", {"value": 0.5, "rows": None, **groups}, predicate=DOG)


def revise(history: Plain, evidence: Plain | None = None) -> Plain:
    step = revision_step(FEATURES)
    found = ask("agent_revision_feature", step.schema, EVIDENCE=evidence or evidence_of(SET), HISTORY=history)
    step.read(found)  # the loop can read it
    return found


NEW = row("in New> York<", 9.0)


@pytest.mark.parametrize(
    ("tokens", "predicate", "experiments", "claims"),
    [
        ((" dog", " cat"), DOG, [rows(row("a> dog<", 9)), made_up(9, 8)],
         [("token_set", 'dst.text in {" dog", " cat"}')]),
        ((" dog", " cat"), DOG, [rows(row("a> dog<", 9)), scored([], [row("a> cow<", 9)]), made_up(9, 0)],
         [("token_set", 'dst.text in {" dog", " cow"}')]),
        ((" York",), YORK, [rows(NEW, row("to New> York<", 9)), made_up(0, tokens=(" York",))],
         [("token_pair", 'dst.text == " York" and dst.prev.text == " New"')]),
        ((" York",), YORK, [rows(NEW), scored([row("of> York<", 0)], [])],  # no made-up text, a row at rest
         [("token_pair", 'dst.text == " York" and dst.prev.text == " New"')]),
        ((" York", " dog"), YORK, [rows(NEW), rows(row("the> dog<", 5), holds=False),
                                   made_up(0, 6, tokens=(" York", " dog"))],
         [("token", DOG), ("token_pair", 'dst.text == " York" and dst.prev.text == " New"')]),
        ((" dog",), DOG, [made_up(9, tokens=(" dog",))], [("token", DOG)]),
    ],
)  # fmt: skip
def test_the_numbers_lead_it_out_of_the_traps(
    tokens: tuple[str, ...], predicate: str, experiments: list[Plain], claims: list[Any]
) -> None:
    found = revise(history_of(predicate, *experiments), evidence_of(SET, tokens=tokens))
    assert [(claim["label"], claim["predicate"]) for claim in found["claims"]] == claims
    assert found["abstain"] is False


def test_numbers_of_another_unit_do_not_lead_it_there() -> None:
    elsewhere = [rows(row("a> dog<", 0)), rows(row("very> quickly<", 9), holds=False), made_up(0, 0)]
    found = revise(history_of(DOG, *elsewhere))
    assert [claim["predicate"] for claim in found["claims"]] == ['dst.text == " quickly"']
    assert revise(history_of(DOG, rows(row("a> dog<", 0)), made_up(0, 0)))["abstain"] is True


def test_an_edit_shows_whether_the_token_before_counts() -> None:
    def edited(active: bool) -> Plain:
        sides = {"before": {"at": " York"}, "after": {"at": " York"}}
        return answered("edit", {**sides, "changed": {"was_active": True, "is_active": active}})

    needs = revise(history_of(YORK, rows(NEW), edited(False)))["claims"][0]
    assert needs["predicate"] == 'dst.text == " York" and dst.prev.text == " New"'
    assert revise(history_of(YORK, rows(NEW), edited(True)))["claims"][0]["predicate"] == YORK


def test_a_second_round_adds_to_what_the_first_one_said() -> None:
    pair = 'dst.text == " a" and dst.prev.text == " then"'
    more = rows(row("a boat,> a<", 9, kl_without=0.2), holds=False)
    found = revise(history_of('dst.text == " a"', {**more, "round": 2}, made_up(0, tokens=(" a",)), revised=pair),
                   evidence_of(PAIR, tokens=(" a",)))  # fmt: skip
    assert found["claims"][0]["predicate"] == 'dst.text == " a" and dst.prev.text in {" then", ","}'


def test_what_it_does_is_taken_from_the_numbers() -> None:
    lost = answered("ablate", {"rows": [{"kl": 0.4, "lose": [[" bone", 0.5, 0.1]]}] * 3 + [{"kl": 0.1, "lose": []}]})
    claim = revise(history_of(DOG, rows(row("a> dog<", 9)), lost))["claims"][0]
    assert claim["raises"] == [" bark", " bone"] and '" bone"' in claim["does"]
    idle = revise(
        history_of(DOG, rows(row("a> dog<", 9, kl_without=1e-7)), answered("ablate", {"rows": [{"kl": 0.0}]}))
    )
    assert (idle["claims"][0]["raises"], idle["claims"][0]["does"][:7]) == ([], "Nothing")


def test_without_a_rule_it_abstains_and_a_rule_of_another_form_stays() -> None:
    assert revise(history_of("", rows(row("a> dog<", 9))))["abstain"] is True
    assert revise({})["abstain"] is True
    kept = revise(history_of("dst.is_number", rows(row("a> 7<", 9))))["claims"][0]
    assert (kept["predicate"], kept["activates_on"]) == ("dst.is_number", "a")


def test_it_is_blind_and_answers_whatever_the_blocks_hold() -> None:
    for broken in ({"rows": [None, 3, {"text": "x", "strength": None}]}, {"rows": [row("no mark", 3)]}, {"samples": 1}):
        revise(history_of(DOG, answered("rows", broken), answered("ablate", {"rows": [{"kl": None, "lose": [[]]}]})))
    said = json.dumps(revise(history_of(DOG, rows(row("a> dog<", 9)))))
    assert not re.search(r"L\d+[NFH]\d+|\bhead\b|layer", said)


# texts and rules


@pytest.mark.parametrize(
    ("text", "token", "before"),
    [
        ("…the old> dog<", " dog", " old"), ("…old> dog<", " dog", ""), ("… old> dog<", " dog", " old"),
        ("it,> so<", " so", ","), ("a (>the<", "the", " ("), ("<bos>>Anna<", "Anna", ""), ("x>><", ">", "x"),
        ("line\n>A<", "A", "\n"),
    ],
)  # fmt: skip
def test_a_row_is_read_as_it_is_shown(text: str, token: str, before: str) -> None:
    place = Place.of({"text": text, "strength": 2})
    assert place is not None
    assert (place.token, place.before) == (token, before)
    assert (place.active, place.rests) == (False, False)


TOKENS = st.lists(
    st.text(min_size=1, max_size=6).filter(lambda t: t.isprintable()), min_size=1, max_size=4, unique=True
)


@given(TOKENS, TOKENS, TOKENS)
def test_a_rule_is_read_back(alone: list[str], paired: list[str], before: list[str]) -> None:
    rule = TokenRule(tuple(alone), tuple(paired), tuple(before))
    written = " or ".join(f"({predicate})" for _, _, predicate in rule.parts)
    parse_positional(written)
    assert TokenRule.read(written) == rule


def test_a_place_at_rest_refutes_what_stood_before_it() -> None:
    places = [Place(" a", " then", 9.0, ""), Place(" a", ",", 9.0, ""), Place(" a", ",", 0.0, "")]
    assert learned(TokenRule(alone=(" a",)), places, {" a": False}) == TokenRule((), (" a",), (" then",))


def test_a_rule_that_names_tokens_at_which_a_unit_rests_is_not_settled() -> None:
    numbers = {"value": 0.5, "coverage": 1.0, "nulls_beaten": True, "precision": 0.4}
    why = "score 0.5, but the unit rests at 0.60 of what it names"
    assert standing_of(numbers, FEATURES.least_precision) == ("partial", why)
    assert standing_of({**numbers, "precision": 0.8}, FEATURES.least_precision)[0] == "settled"
    assert standing_of(numbers, HEADS.least_precision)[0] == "settled"  # of a head pairs are counted
