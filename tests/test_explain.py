"""Explaining: the detectors' claims from handmade evidence, the checking of LLM replies, the prompt and its size."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.chat import FakeChat
from autointerp.errors import BadInput, ChatFailed, ContextOverflow
from autointerp.explain import Explanation, LanguageExplainer, explain_prompt
from autointerp.explain.detectors import CLAIMS, describe
from autointerp.explain.language import USED_UP, LanguageSettings
from autointerp.explain.view import drop_examples, evidence_view
from autointerp.llm import Capabilities, ChatRequest, PromptRoom, Room, estimate_prompt
from autointerp.predicate import parse
from autointerp.prompting import Templates
from autointerp.records import LABELS, Description, Evidence, Failure, Head, Interval, Reading, TokenTotal
from tests.report_fixtures import evidence as made_evidence

HEAD = Head(layer=11, index=7)


def reading(name: str, data: str = "text", value: float = 0.6, lift: float = 20.0, **detail: Any) -> Reading:
    return Reading(
        name=name, data=data, value=value, low=value - 0.1, high=value + 0.1, n=50, percentile=99.0, null_max=0.1,
        lift_over_uniform=lift, fires=True, detail=detail,
    )  # fmt: skip


def handmade(*readings: Reading, sink: float = 0.1, writes: tuple[float, float] = (-0.1, 0.1)) -> Evidence:
    base = made_evidence(random.Random(0), HEAD, per_stratum=3)
    stats = base.stats.model_copy(update={"sink_mass": Interval(value=sink, low=sink, high=sink, n=9)})
    readout = base.readout.model_copy(
        update={"copies_source": sum(writes) / 2, "copies_source_low": writes[0], "copies_source_high": writes[1]}
    )
    return base.model_copy(update={"readings": readings, "stats": stats, "readout": readout})


# the detector explainer


@pytest.mark.parametrize(
    ("given_readings", "label", "predicate", "domain"),
    [
        ([reading("previous_token")], "previous_token", "distance == 1", "text"),
        ([reading("current_token")], "current_token", "distance == 0", "text"),
        ([reading("first_token")], "first_token", "src.is_first", "text"),
        ([reading("duplicate_token", "repeats")], "duplicate_token", "src == dst and distance > 0", "repeats"),
        (
            [reading("induction", "repeats", 0.8), reading("induction", "text", 0.3)],
            "induction", "src.prev == dst and distance > 0", "repeats",
        ),
        (
            [reading("induction", "repeats", 0.3), reading("induction", "text", 0.8)],
            "induction", "src.prev == dst and distance > 0", "text",
        ),
        ([reading("previous_token", "repeats"), reading("previous_token")], "previous_token", "distance == 1", "text"),
        ([reading("fixed_offset", offset=3)], "fixed_offset", "distance == 3", "text"),
        ([reading("punctuation")], "punctuation", "src.is_punctuation", "text"),
        (
            [reading("punctuation", nearest=0.5)],
            "punctuation", "nearest(src.is_punctuation and distance > 0)", "text",
        ),
        ([reading("token_class", **{"class": "numeral"})], "token_class", "src.is_number", "text"),
        (
            [
                reading("token_class", lift=90, **{"class": "punctuation"}),
                reading("token_class", lift=30, **{"class": "newline"}),
                reading("punctuation", lift=5),
            ],
            "token_class", "src.is_newline", "text",
        ),
        ([reading("first_token", lift=90), reading("local_context", lift=3)], "local_context", "distance <= 7", "text"),
        ([reading("copying", "parameters", lift=500), reading("induction", lift=9)], "induction", None, "text"),
    ],
)  # fmt: skip
def test_what_fires_is_what_is_claimed(
    given_readings: list[Reading], label: str, predicate: str | None, domain: str
) -> None:
    said = describe(handmade(*given_readings))
    assert (said.label, said.domain, said.abstained) == (label, domain, False)
    assert said.predicate is not None
    assert predicate is None or parse(said.predicate) == parse(predicate)
    assert said.labels[0] == label
    assert said.label in LABELS
    assert 0 <= said.confidence <= 1


def test_it_abstains_where_nothing_fires_and_says_what_came_closest() -> None:
    quiet = [
        r.model_copy(update={"fires": False}) for r in (reading("induction", lift=4), reading("previous_token", lift=9))
    ]
    said = describe(handmade(*quiet))
    assert (said.abstained, said.label, said.predicate) == (True, "unclear", None)
    assert "previous_token" in said.summary
    assert describe(handmade()).abstained


def test_writing_is_read_from_the_output_side() -> None:
    assert describe(handmade(writes=(0.2, 0.6))).writes.startswith("Raises the attended token")
    assert describe(handmade(writes=(-0.6, -0.2))).writes.startswith("Lowers the attended token")
    assert describe(handmade(writes=(-0.1, 0.2))).writes.startswith("No consistent effect")
    copying = describe(handmade(reading("copying", "parameters")))
    assert (copying.label, copying.labels, copying.abstained) == ("unclear", ("copying",), True)
    assert describe(handmade(reading("anti_copying", "parameters"), writes=(-0.6, -0.2))).labels == (
        "copy_suppression",
    )
    assert describe(handmade(reading("anti_copying", "parameters"), writes=(-0.1, 0.2))).labels == ()


def test_the_last_of_several_is_claimed_where_it_takes_most() -> None:
    def claimed(*readings: Reading) -> str | None:
        return describe(handmade(*readings)).predicate

    assert claimed(reading("duplicate_token", nearest=0.55)) == "nearest(src == dst and distance > 0)"
    assert claimed(reading("duplicate_token", nearest=0.2)) == "src == dst and distance > 0"
    on_text = reading("induction", "text", 0.6, nearest=0.58)
    assert claimed(reading("induction", "repeats", 0.9), on_text) == "nearest(src.prev == dst and distance > 0)"
    numbers = reading("token_class", **{"class": "numeral", "nearest": 0.59})
    assert claimed(numbers) == "nearest(src.is_number and distance > 0)"
    said = describe(own([" red", " blue"], nearest=0.6))
    assert said.predicate == 'nearest(src.text in {" red", " blue"} and distance > 0)'
    assert "last" in said.looks_at


def test_copy_suppression_on_text_is_a_function_of_its_own() -> None:
    """Attending to what is about to be said looks like induction where induction says it."""
    found = [reading("induction", "repeats", lift=50), reading("copy_suppression", "text", lift=80)]
    said = describe(handmade(*found, reading("anti_copying", "parameters", lift=50)))
    assert (said.label, said.labels) == ("copy_suppression", ("copy_suppression", "induction"))
    assert said.predicate == "src.prev == dst and distance > 0"
    assert describe(handmade(reading("copy_suppression", "text"))).abstained  # no rule to state


def test_resting_on_the_first_token_is_no_further_function() -> None:
    said = describe(handmade(reading("first_token", lift=90), reading("induction", "repeats", lift=9), sink=0.6))
    assert said.labels == ("induction",)
    assert "rests on the first position" in said.conditions
    assert describe(handmade(reading("first_token"))).labels == ("first_token",)


def test_a_head_with_several_labels_names_all() -> None:
    said = describe(handmade(reading("induction", "repeats", lift=40), reading("previous_token", lift=10), sink=0.5))
    assert said.labels == ("induction", "previous_token")
    assert "previous_token" in said.summary
    assert "50 % of its attention" in said.conditions


def own(tokens: list[str], **detail: Any) -> Evidence:
    base = handmade(reading("token_class", **{"class": "own"}, **detail))
    totals = tuple(TokenTotal(token=t, part=0.1, base_rate=0.01) for t in tokens)
    return base.model_copy(update={"stats": base.stats.model_copy(update={"top_sources": totals})})


@given(st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=10))
def test_own_tokens_are_written_so_that_they_are_meant(tokens: list[str]) -> None:
    said = describe(own(tokens))
    assert said.label == "token_class"
    if said.predicate is None:
        assert len(tokens[0]) > 30
    else:
        assert len(said.predicate) <= 400
        literal = [t for t in tokens[:8] if t and "src.text in {" + json.dumps(t) + "}" and len(t) < 20]
        for token in literal[:1]:
            assert parse(f"src.text in {{{json.dumps(token)}}}") is not None


@pytest.mark.parametrize("token", ['"', "\\", "\n", "{{x}}", "\U0001f642", "\ud800", " the", "\U000e0001"])
def test_an_odd_token_is_quoted_whole(token: str) -> None:
    said = describe(own([token]))
    assert said.predicate is not None
    (literal,) = re.findall(r"\{(.*)\}", said.predicate, re.DOTALL)
    assert (
        json.loads(re.sub(r"\\U000(.)(....)", lambda m: json.dumps(chr(int(m[1] + m[2], 16)))[1:-1], literal)) == token
    )


def test_every_claim_parses() -> None:
    details = {"fixed_offset": {"offset": 2}, "token_class": {"class": "function_word"}}
    for label, claim in CLAIMS.items():
        found = claim(reading(label, **details.get(label, {})), handmade())
        assert found.predicate is not None
        parse(found.predicate)


# the LLM explainer

REPLY = {
    "looks_at": "a token looks at the one before", "writes": "raises it", "summary": "previous token",
    "label": "previous_token", "predicate": "distance == 1", "domain": "text", "conditions": "always",
    "counterexamples": "", "confidence": 80, "unclear": False,
}  # fmt: skip


def explained(*replies: Any, evidence: Evidence | None = None, **settings: Any) -> tuple[Explanation, FakeChat]:
    chat = FakeChat(list(replies))
    capabilities = Capabilities(context=settings.pop("context", None))
    explainer = LanguageExplainer(
        chat, capabilities, Templates(), LanguageSettings(**settings.pop("language", {})), settings.pop("repeats", None)
    )
    return asyncio.run(explainer.explain(evidence or handmade(reading("previous_token")))), chat


def description(explanation: Explanation) -> Description:
    assert isinstance(explanation.outcome, Description), explanation.outcome
    return explanation.outcome


def test_a_good_reply_becomes_a_description() -> None:
    explanation, chat = explained(REPLY)
    said = description(explanation)
    assert (said.label, said.predicate, said.confidence, said.abstained) == (
        "previous_token",
        "distance == 1",
        0.8,
        False,
    )
    assert said.looks_at == REPLY["looks_at"]
    assert explanation.provenance.prompt == chat.requests[0].messages
    assert json.loads(explanation.provenance.raw_replies[0]) == REPLY
    assert explanation.provenance.template_hash == Templates().hash("explain")
    assert chat.requests[0].unit == "L11H7"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "wizard"}, "label 'wizard' is not one of"),
        ({"predicate": "distance = 1"}, "the predicate 'distance = 1' is not valid"),
        ({"predicate": "__import__('os')"}, "is not valid"),
        ({"looks_at": "  "}, "looks_at is empty"),
        ({"looks_at": ["x"]}, "looks_at must be a string, not list"),
        ({"confidence": 101}, "confidence 101 is not a number"),
        ({"confidence": True}, "confidence True"),
        ({"unclear": "no"}, "unclear must be true or false"),
        ({"domain": "web"}, "domain 'web'"),
        ({"summary": "x" * 601}, "summary has 601 characters"),
        ({"predicate": "distance == 1 or " * 40 + "True"}, "predicate has"),
    ],
)
def test_a_bad_reply_is_repaired_and_told_why(change: dict[str, Any], told: str) -> None:
    explanation, chat = explained({**REPLY, **change}, REPLY)
    assert description(explanation).predicate == "distance == 1"
    assert len(chat.requests) == 2
    assert told in json.loads(chat.requests[1].messages[-1]["content"].split(": ", 1)[1].split("\n")[0])
    assert explanation.provenance.repairs == 1


def test_after_two_repairs_it_is_a_failure() -> None:
    explanation, chat = explained("no JSON", "still none", "none")
    assert isinstance(explanation.outcome, Failure)
    assert explanation.outcome.reason.startswith(USED_UP)
    assert explanation.provenance.repairs == 2  # what tells a retry to ask afresh
    assert len(chat.requests) == 3
    failed, _ = explained(ChatFailed("no usable reply after 6 tries: HTTP 500"))
    assert isinstance(failed.outcome, Failure)
    assert failed.provenance.repairs == 0


def test_a_retry_is_another_request() -> None:
    _, first = explained(REPLY)
    _, second = explained(REPLY, repeats={HEAD: 1})
    assert (first.requests[0].repeat, second.requests[0].repeat) == (0, 1)
    assert first.requests[0].seed != second.requests[0].seed
    assert first.requests[0].messages == second.requests[0].messages


def test_a_description_survives_a_predicate_that_cannot_be_repaired() -> None:
    bad = {**REPLY, "predicate": "attends(previous)"}
    explanation, _ = explained(bad, bad, bad)
    said = description(explanation)
    assert (said.predicate, said.looks_at) == (None, REPLY["looks_at"])
    assert [f.stage for f in explanation.failures] == ["predicate"]
    # but only one that was otherwise right
    worse = {**bad, "label": "wizard"}
    assert isinstance(explained(worse, worse, worse)[0].outcome, Failure)


def test_abstentions_carry_no_claim() -> None:
    for change in ({"unclear": True, "looks_at": ""}, {"label": "unclear"}):
        said = description(explained({**REPLY, **change})[0])
        assert (said.abstained, said.label, said.predicate) == (True, "unclear", None)


def test_the_prompt_is_blind_and_its_evidence_is_json() -> None:
    prompt, _ = explain_prompt(
        handmade(reading("previous_token")), Templates(), LanguageSettings(instruction="Be short.")
    )
    system, user = (m["content"] for m in prompt.messages)
    assert "L11H7" not in system + user
    assert not re.search(r"L\d+H\d+|layer", system + user, re.I)
    assert "Be short." in user
    block = user.split("<<<EVIDENCE\n")[1].split("\nEVIDENCE>>>")[0]
    assert set(json.loads(block)) == {"statistics", "measurements", "writes", "examples"}
    for label in LABELS:
        assert label in system


def test_hostile_tokens_stay_inside_the_data_block() -> None:
    evidence = made_evidence(random.Random(1), HEAD, hostile=True, per_stratum=2)
    prompt, _ = explain_prompt(evidence, Templates(), LanguageSettings())
    user = prompt.messages[1]["content"]
    block = user.split("<<<EVIDENCE\n")[1].split("\nEVIDENCE>>>")[0]
    shown = json.loads(block)
    assert block.isascii()
    assert "<" not in block
    tokens = {e["dst"] for part in shown["examples"].values() for e in part}
    assert tokens == {e.dst_token for e in evidence.examples}


def test_numbers_that_are_undefined_do_not_break_the_prompt() -> None:
    evidence = handmade(
        reading("induction").model_copy(update={"percentile": float("nan"), "lift_over_uniform": float("nan")})
    )
    prompt, _ = explain_prompt(evidence, Templates(), LanguageSettings())
    assert '"percentile_among_heads": null' in prompt.messages[1]["content"]


def room_of(context: int) -> Room:
    return PromptRoom(Capabilities(context=context)).of(LanguageSettings().max_tokens)


@pytest.mark.parametrize("context", [5600, 4800, 4200])
def test_the_prompt_fits_the_servers_context(context: int) -> None:
    evidence = made_evidence(random.Random(2), HEAD, per_stratum=3)
    whole, none = explain_prompt(evidence, Templates(), LanguageSettings())
    prompt, notes = explain_prompt(evidence, Templates(), LanguageSettings(), room_of(context))
    assert not none
    assert notes
    assert "examples left out" in notes[0]
    assert len(prompt.messages[1]["content"]) < len(whole.messages[1]["content"])
    assert estimate_prompt(ChatRequest(messages=prompt.messages)) + 700 <= context
    shown = json.loads(prompt.messages[1]["content"].split("<<<EVIDENCE\n")[1].split("\nEVIDENCE>>>")[0])["examples"]
    assert len(shown["top"]) >= len(shown["quantile"])  # typical rows go before the strongest


def test_a_context_too_small_for_any_example_is_a_failure_of_the_head() -> None:
    with pytest.raises(BadInput, match="without any example"):
        explain_prompt(handmade(), Templates(), LanguageSettings(), room_of(1500))
    explanation, chat = explained(REPLY, context=1500)
    assert isinstance(explanation.outcome, Failure)
    assert not chat.requests


def test_a_server_that_finds_it_too_long_gets_a_shorter_prompt() -> None:
    evidence = made_evidence(random.Random(3), HEAD)
    explanation, chat = explained(ContextOverflow("too long"), REPLY, evidence=evidence)
    assert description(explanation).label == "previous_token"
    lengths = [len(r.messages[1]["content"]) for r in chat.requests]
    assert lengths[1] < 0.8 * lengths[0]
    assert [f.stage for f in explanation.failures] == ["examples"]


def test_examples_are_dropped_in_order() -> None:
    examples = made_evidence(random.Random(4), HEAD, per_stratum=3).examples
    order = []
    while examples:
        fewer = drop_examples(examples)
        (gone,) = [e for e in examples if e not in fewer]
        order.append(gone.stratum)
        examples = fewer
    assert order[:4] == ["quantile", "random", "contrast", "top"]
    assert order[-2:] == ["top", "top"]
    assert drop_examples(()) == ()


def test_the_view_shows_no_identity() -> None:
    evidence = made_evidence(random.Random(5), HEAD)
    text = json.dumps(evidence_view(evidence))
    for example in evidence.examples:
        assert example.doc_id not in text
