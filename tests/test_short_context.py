"""Prompts for servers with a context of 4,096 tokens: they fit, with examples, and lose nothing of the language."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from autointerp.chat import FakeChat
from autointerp.cli.sources import sources_of
from autointerp.config import RunConfig
from autointerp.explain import LanguageExplainer, explain_prompt
from autointerp.explain.asked import LanguageSettings
from autointerp.explain.brief import brief_view
from autointerp.explain.feature_language import FeatureLanguageExplainer, feature_prompt
from autointerp.explain.fitting import Sized, first_fitting
from autointerp.feature_records import FeatureEvidence
from autointerp.features.collect import FeatureCollectSpec, collect_features
from autointerp.features.units import load_units
from autointerp.llm import Capabilities, ChatRequest, PromptRoom, Room, estimate_prompt, fitted
from autointerp.pipeline.agents import told
from autointerp.pipeline.inputs import load_inputs
from autointerp.prompting import Prompt, Templates, shipped_folder
from autointerp.records import Description, Evidence, Head
from tests.agent_helpers import BAD, FakeBench, chat_of, loop_of, run_loop, usual
from tests.report_fixtures import evidence as made_evidence
from tests.test_explain import REPLY
from tests.test_feature_explain import REPLY as UNIT_REPLY

SHORT, FEW = 4096, 4
SETTINGS = LanguageSettings()
BOTH = pytest.mark.parametrize("enforced", [True, False])


@functools.cache
def unit_evidence() -> tuple[FeatureEvidence, ...]:
    """Real evidence of four neurons."""
    torch.set_num_threads(1)
    name = "neurons:L1N1-L1N4"
    config = RunConfig(model="demo", corpus=("demo",), max_tokens=8_000, units=name, explainer="detectors")
    with tempfile.TemporaryDirectory() as folder:
        inputs = load_inputs(config, sources_of(config), Path(folder))
        units = load_units(name, inputs.model)
        spec = FeatureCollectSpec(0)
        found = collect_features(
            inputs.model, inputs.explain_windows(), units, units.features, spec, lambda *args: None
        )
    return tuple(found.evidence.values())


def head_evidence() -> Evidence:
    """With as many measurements as real heads have."""
    made = made_evidence(random.Random(2), Head(layer=1, index=2))
    return made.model_copy(update={"readings": made.readings * 2})


def shown(messages: Any) -> dict[str, Any]:
    block = messages[-1]["content"].split("<<<EVIDENCE\n")[1].split("\nEVIDENCE>>>")[0]
    found = json.loads(block)
    assert isinstance(found, dict)
    return found


def n_examples(view: dict[str, Any]) -> int:
    return sum(len(part) for part in view["examples"].values())


def tokens_sent(request: ChatRequest, can: Capabilities) -> int:
    """With the schema as text where the server does not enforce it."""
    sent = fitted(request, can)
    return estimate_prompt(sent.changed(json_schema=None))


@BOTH
def test_units_are_described_with_examples_by_a_server_with_a_short_context(*, enforced: bool) -> None:
    can = Capabilities(context=SHORT, json_schema=enforced)
    language = (shipped_folder() / "predicate_attributes.jinja").read_text(encoding="utf-8").strip()
    for evidence in unit_evidence():
        assert evidence.stats.state == "ok"
        chat = FakeChat([UNIT_REPLY])
        explainer = FeatureLanguageExplainer(chat, can, Templates(), SETTINGS)
        found = asyncio.run(explainer.explain(evidence))
        assert isinstance(found.outcome, Description)
        (request,) = chat.requests
        assert tokens_sent(request, can) + SETTINGS.max_tokens <= SHORT
        view = shown(found.provenance.prompt)
        assert n_examples(view) >= (FEW if enforced else 1) and view["rules"] and view["output"]["raised"]
        assert language in found.provenance.prompt[0]["content"] and "any(C) is true" in str(request.messages)
        (note,) = found.failures
        assert note.reason.endswith("; measurements shortened") and "examples left out to fit" in note.reason


@BOTH
def test_heads_are_described_with_examples_by_a_server_with_a_short_context(*, enforced: bool) -> None:
    can = Capabilities(context=SHORT, json_schema=enforced)
    chat = FakeChat([REPLY])
    found = asyncio.run(LanguageExplainer(chat, can, Templates(), SETTINGS).explain(head_evidence()))
    assert isinstance(found.outcome, Description)
    (request,) = chat.requests
    assert tokens_sent(request, can) + SETTINGS.max_tokens <= SHORT
    view = shown(found.provenance.prompt)
    assert n_examples(view) >= (3 if enforced else 1) and len(view["measurements"]) == 4


def test_a_server_with_room_is_shown_everything() -> None:
    for evidence in unit_evidence():
        prompt, notes = feature_prompt(evidence, Templates(), SETTINGS)
        view = shown(prompt.messages)
        assert notes == () and n_examples(view) == len(evidence.examples)
        assert len(view["rules"]) == len([rule for rule in evidence.rules if rule.f1 == rule.f1])
    view = shown(explain_prompt(head_evidence(), Templates(), SETTINGS, Room(7_000, 7_000))[0].messages)
    measured = [reading for reading in head_evidence().readings if reading.value == reading.value]
    assert n_examples(view) > 6 and len(view["measurements"]) == len(measured)


def test_measurements_are_shortened_only_where_a_few_examples_have_no_room() -> None:
    evidence = unit_evidence()[0]
    counts = []
    for context in range(9_000, 3_700, -400):
        prompt, notes = feature_prompt(
            evidence, Templates(), SETTINGS, PromptRoom(Capabilities(context=context)).of(700)
        )
        view, shortened = shown(prompt.messages), "shortened" in str(notes)
        assert shortened == (len(view["output"]["raised"]) < 10)
        assert shortened or n_examples(view) >= 6
        counts.append((shortened, n_examples(view)))
    assert counts[0] == (False, len(evidence.examples)) and counts[-1][0]


def test_a_schema_is_counted_where_it_is_sent_as_text() -> None:
    schema = {"type": "object", "properties": {f"field {n}": {"type": "string"} for n in range(40)}}
    request = ChatRequest(messages=({"role": "user", "content": "x" * 300},), json_schema=schema)
    plain = PromptRoom(Capabilities()).of(700).size(request)
    assert plain == estimate_prompt(request.changed(json_schema=None)) < 120
    for weaker in (Capabilities(json_schema=False), Capabilities(json_schema=False, json_object=False)):
        assert PromptRoom(weaker).of(700).size(request) > plain + len(json.dumps(schema)) / 3


def test_what_fires_or_ranks_highest_stays_in_its_order() -> None:
    rules = [{"kind": str(n), "f1": f1, "fires": n == 4} for n, f1 in enumerate((0.1, 0.5, 0.4, 0.3, 0.2, 0.6))]
    view = {
        "statistics": {"share": 0.5, "tokens": list(range(9))}, "rules": rules, "output": {"raised": None},
        "examples": {"top": list(range(9))}, "in_words": ["said"],
        "measurements": [{"percentile_among_heads": p, "fires": False} for p in (1.0, None, 3.0, 2.0, 5.0)],
    }  # fmt: skip
    brief = brief_view(view)
    assert [rule["kind"] for rule in brief["rules"]] == ["1", "2", "4", "5"]
    assert [m["percentile_among_heads"] for m in brief["measurements"]] == [1.0, 3.0, 2.0, 5.0]
    assert brief["statistics"] == {"share": 0.5, "tokens": [0, 1, 2, 3]}
    assert (brief["examples"], brief["in_words"], brief["output"]) == (
        view["examples"], view["in_words"], {"raised": None},
    )  # fmt: skip


@pytest.mark.parametrize("n", range(1, 12))
def test_the_first_choice_with_room_is_found(n: int) -> None:
    choices = [tuple(range(n - place)) for place in range(n)]
    for room in range(n + 1):

        def made(choice: tuple[Any, ...], room: int = room) -> Sized:
            return Sized(Prompt(str(len(choice)), (), ""), len(choice), len(choice) <= room)

        found = first_fitting(choices, made)
        assert (None if found is None else (found[0].name, found[1])) == ((str(room), n - room) if room else None)


def test_steps_of_a_loop_that_do_not_fit_are_not_asked_and_told_once() -> None:
    chat = chat_of(usual())
    can = {"context": SHORT}
    result = run_loop(loop_of(chat, FakeBench(default=BAD), evidence=head_evidence(), can=can))
    assert {request.schema_name for request in chat.requests} == {"agent_hypotheses"}
    for request in chat.requests:
        assert tokens_sent(request, Capabilities(**can)) + request.max_tokens <= SHORT
        assert n_examples(shown(request.messages)) >= 1
    failed = [turn for turn in result.transcript.turns if turn.failure]
    assert failed and all(turn.failure.startswith("context:") for turn in failed)
    heads = {Head(layer=0, index=n): result.transcript for n in range(3)}
    said = told(heads)
    assert said.count("context") == 1 and f"{3 * len(failed)} steps did not fit the server's context" in said
    enough = run_loop(loop_of(chat_of(usual()), FakeBench(default=BAD), evidence=head_evidence()))
    assert "context" not in told({Head(layer=0, index=0): enough.transcript})
