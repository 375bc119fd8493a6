"""Requests about neurons and latents, whatever they hold: answered in bounds, blind, repeatable, at a known cost."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from autointerp.agent import feature_texts
from autointerp.agent.feature_laboratory import FeatureLabData, FeatureLaboratory
from autointerp.agent.feature_tools import FEATURE_TOOLS
from autointerp.agent.plain import ANSWER_CHARACTERS
from autointerp.agent.requests import Request, RequestError
from autointerp.errors import BadInput
from autointerp.features.units import load_units
from autointerp.model import LanguageModel
from autointerp.records import Feature
from tests.agent_helpers import tokens_fed
from tests.causal_model import NAMES
from tests.feature_lab_helpers import (
    TEXT,
    Plain,
    asked,
    fresh,
    hooked,
    lab,
    latent_data,
    latent_site,
    neuron_data,
    random_data,
    run,
    some_evidence,
)
from tests.neuron_model import neuron, neuron_model, neuron_rows
from tests.test_experiments import JSON, fields_of, hooks
from tests.test_experiments_hostile import edits, marked, pieces, tokens
from tests.test_scoring import rows_of

IS_DOG = 'dst.text == " dog"'
ITEMS = [{"text": f"{word} mat", "label": "xy"[n % 2]} for n, word in enumerate(NAMES[:10])]
REQUESTS = (
    asked("activate", texts=[{"text": TEXT}, {"text": "dog"}, {"text": "dog" * 9}]),
    asked("edit", text=TEXT, replace="dog", by="cat"),
    asked("rows", kind="random"),
    asked("rows", kind="contrast", n=5),
    asked("score_predicate", predicate=f"{IS_DOG} or dst.is_number"),
    asked("disagree", first=IS_DOG, second="dst.is_word"),
    asked("ablate", texts=[{"text": TEXT}, {"text": "dog"}]),
    asked("steer", texts=[{"text": TEXT}, {"text": "dog"}, {"text": TEXT, "mark": "mat"}]),
    asked("separate", items=ITEMS),
)
TIGHT = tuple(  # as many tokens as bytes
    asked(name, texts=[{"text": "xzqxzqxzq"}] * 4) for name in ("activate", "ablate", "steer")
)
FREE = (asked("direction", tokens=["cat", "dog"]), asked("measurements"))


# -- shapes --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(FEATURE_TOOLS.tools)) | st.text(max_size=60), JSON)
def test_any_request_is_one_or_gets_a_short_reason(name: str, arguments: object) -> None:
    found = FEATURE_TOOLS.parse(name, arguments)
    reason = found.reason if isinstance(found, RequestError) else "cost"
    assert 0 < len(reason) <= 200 and (isinstance(found, RequestError) or FEATURE_TOOLS.cost(found) >= 0)


@pytest.mark.parametrize("name", sorted(FEATURE_TOOLS.tools))
def test_whatever_is_asked_is_answered_in_bounds(name: str) -> None:
    laboratory, unit = lab(neuron(4)), str(neuron(4))

    @settings(deadline=None, max_examples=20, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(fields_of(FEATURE_TOOLS.tools[name].schema))
    def check(arguments: Plain) -> None:
        found = FEATURE_TOOLS.parse(name, arguments)
        if isinstance(found, Request):
            text = json.dumps(laboratory.run(found), allow_nan=False)
            assert len(text) <= ANSWER_CHARACTERS
            assert unit not in text and neuron_model().name not in text  # the agent is blind

    check()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("attend", {}, "unknown experiment 'attend'; there are activate"),
        ("activate", {"texts": []}, "texts has 0 items; at least 1"),
        ("steer", {"texts": [{"text": "a"}], "strength": 3}, "strength: "),
        ("rows", {"kind": "top", "dst": "cat"}, "dst is not an argument of rows; there are kind, n, token"),
        ("rows", {"kind": "top", "n": 6}, "n: "),
        ("score_predicate", {"predicate": IS_DOG, "domain": "text"}, "domain is not an argument"),
        ("separate", {"items": ITEMS[:7]}, "items has 7 items; at least 8"),
        ("separate", {"items": [{**item, "label": "x"} for item in ITEMS]}, "1 labels; give exactly 2"),
        ("separate", {"items": [{**item, "label": "xy"[n < 2]} for n, item in enumerate(ITEMS)]}, "at least 4 of each"),
        ("separate", {"items": [{**item, "group": "g"} for item in ITEMS]}, "items[0].group is not an argument"),
        ("measurements", {"data": "detectors"}, "data: "),
    ],
)
def test_reasons_name_the_fault(name: str, arguments: Plain, said: str) -> None:
    found = FEATURE_TOOLS.parse(name, arguments)
    assert isinstance(found, RequestError) and said in found.reason
    assert said in str(lab(neuron(0)).run(Request(name, arguments))["error"])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("activate", {"texts": [{"text": "cat " * 60}]}, "at most 30"),
        ("activate", {"texts": [{"text": TEXT, "mark": "zebra"}]}, "does not stand in the text"),
        ("steer", {"texts": [{"text": TEXT, "mark": "the", "occurrence": 9}]}, "stands 3 times"),
        ("edit", {"text": TEXT, "replace": "zebra", "by": "cat"}, "does not stand"),
        ("edit", {"text": TEXT, "replace": "cat", "by": "cat"}, "changes nothing"),
        ("edit", {"text": TEXT, "replace": TEXT, "by": ""}, "leaves 0 characters"),
        ("direction", {"tokens": ["zebra"]}, "no single token"),
        ("rows", {"kind": "top", "token": "zebra"}, "no token of the vocabulary"),
        ("rows", {"kind": "top", "predicate": "src == dst"}, "does not parse"),
        ("score_predicate", {"predicate": "distance == 1"}, "does not parse"),
        ("disagree", {"first": "dst.is_word", "second": "__import__('os')"}, "does not parse"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, arguments: Plain, said: str) -> None:
    found = run(neuron(0), name, **arguments)
    assert list(found) == ["error"] and said in str(found["error"])
    assert len(str(found["error"])) <= 300


def test_units_that_are_not_there_are_refused() -> None:
    model = neuron_model()
    data = fresh(neuron_data(), units=load_units("neurons", model))
    with pytest.raises(BadInput, match="out of range"):
        FeatureLaboratory(model, neuron(6), some_evidence(neuron(6)), data)
    with pytest.raises(BadInput, match="not among"):
        FeatureLaboratory(model, Feature(kind="latent", layer=0, index=0), some_evidence(neuron(0)), data)
    with pytest.raises(BadInput, match="nothing is known"):
        FeatureLaboratory(model, neuron(0), some_evidence(neuron(0)), fresh(data, facts={}))


def test_arguments_that_fail_a_second_check_are_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from autointerp.agent import arguments as a

    def checked_again(subject: object, asked: a.Edit) -> Plain:
        return {"text": a.Place(text="").text}

    monkeypatch.setattr(feature_texts, "edit", checked_again)
    assert "text is empty" in str(run(neuron(0), "edit", text="the cat", replace="cat", by="dog")["error"])


def test_labels_that_differ_in_what_is_not_seen_are_two() -> None:
    found = run(neuron(0), "separate", items=[{**item, "label": ["a", "a\x00"][n % 2]} for n, item in enumerate(ITEMS)])
    assert list(found["mean_strength"]) == ["a", "a\x00"]


# -- contents ------------------------------------------------------------------------------------------------

PREDICATES = (IS_DOG, "dst.position >= 0", "dst.position > 100000", "any(src.is_word and distance <= 3)", "not",
              "dst.prev == dst", 'dst.lower in {"🙂", "é"}', "src == dst", "dst ==", "(" * 300)  # fmt: skip


@st.composite
def separations(draw: st.DrawFn) -> Plain:
    """Items that say nothing among usual ones, with labels of every sort."""
    one, other = draw(st.sampled_from([("a", "b"), ("a", "a\x00"), (" ", "  "), ("\n", "🙂")]))
    same = draw(st.sampled_from(["", "the cat sat", " "]))
    labels = [*[one, other] * 4, *draw(st.lists(st.sampled_from([one, other]), max_size=4))]
    items = [
        {"text": same or draw(pieces(120))}
        | (draw(marked(120)) if draw(st.integers(0, 9)) == 0 else {})
        | {"label": label}
        for label in labels
    ]
    return {"items": items}


PLACES = st.fixed_dictionaries({"texts": st.lists(marked(300), min_size=1, max_size=4)})
ROWS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["top", "random", "contrast"])},
    optional={
        "n": st.integers(1, 5), "token": st.just("") | tokens(), "holds": st.booleans(),
        "predicate": st.just("") | st.sampled_from(PREDICATES),
    },
)  # fmt: skip
RULES = st.sampled_from(PREDICATES)
ARGUMENTS: dict[str, st.SearchStrategy[Plain]] = {
    "activate": PLACES,
    "ablate": PLACES,
    "steer": st.builds(lambda places, by: {**places, "strength": by}, PLACES, st.sampled_from([1, 2, 4, 8])),
    "edit": edits(),
    "rows": ROWS,
    "score_predicate": st.fixed_dictionaries({"predicate": RULES}),
    "disagree": st.fixed_dictionaries({"first": RULES, "second": RULES}),
    "direction": st.fixed_dictionaries({"tokens": st.lists(tokens(), min_size=1, max_size=8)}),
    "measurements": st.fixed_dictionaries({"data": st.sampled_from(["all", "rules", "tokens", "output"])}),
    "separate": separations(),
}


@functools.cache
def laboratory(kind: str, *, bos: bool) -> FeatureLaboratory:
    """Of a turned neuron of a random model, or of a latent."""
    if kind == "latent":
        model = neuron_model()
        unit, data = latent_site().unit(1), latent_data()
    else:
        model = tiny_model("llama")
        unit, data = Feature(kind="neuron", layer=1, index=1), random_data(model, rows_of(model, n=8))
    model = model if bos else dataclasses.replace(model, bos_id=None)
    return FeatureLaboratory(model, unit, some_evidence(unit), fresh(data))


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_request_of_valid_shape_is_answered_whatever_it_holds(name: str) -> None:
    answered = 0

    @settings(
        deadline=None,
        max_examples=60 if name == "edit" else 15,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(ARGUMENTS[name], st.booleans(), st.sampled_from(["neuron", "latent"]))
    def check(arguments: Plain, bos: bool, kind: str) -> None:
        nonlocal answered
        found = FEATURE_TOOLS.parse(name, arguments)
        assert isinstance(found, Request)
        answer = laboratory(kind, bos=bos).run(found)
        assert len(json.dumps(answer, allow_nan=False)) <= ANSWER_CHARACTERS
        assert "error" not in answer or (len(str(answer["error"])) <= 300 and "tiny" not in str(answer))
        answered += "error" not in answer

    check()
    assert answered  # not all of them are refused


@pytest.mark.parametrize("bos", [True, False])
def test_a_turned_neuron_of_a_random_model_answers_everything(*, bos: bool) -> None:
    model = tiny_model("llama")
    model = model if bos else dataclasses.replace(model, bos_id=None)
    unit, data = Feature(kind="neuron", layer=1, index=3), random_data(tiny_model("llama"), rows_of(model, n=12))
    assert data.facts[unit].sign == -1
    bench = FeatureLaboratory(model, unit, some_evidence(unit), data)
    answers = [bench.run(request) for request in (*REQUESTS, *FREE)]
    assert [answer for answer in answers if "error" in answer] == []
    ids = ([model.bos_id] if bos else []) + [int(i) for i in model.encode(TEXT)[0]]
    held: list[float] = []
    with model.hooks([("blocks.1.mlp.hook_post", lambda tensor, hook: held.append(float(tensor[0, -1, 3])))]):
        model.logits(torch.tensor([ids]))
    row: Any = bench.run(asked("activate", texts=[{"text": TEXT}]))["rows"]
    assert row[0]["strength"] == pytest.approx(10 * max(0, -held[0] / data.facts[unit].reference), abs=0.02)
    change = torch.zeros(64)
    change[3] = data.facts[unit].mean - held[0]
    before, after = hooked(model, ids, "blocks.1.mlp.hook_post", len(ids) - 1, change)
    lost: Any = bench.run(asked("ablate", texts=[{"text": TEXT}]))["rows"]
    assert lost[0]["kl"] == pytest.approx(float((before.exp() * (before - after)).sum()), rel=2e-2, abs=1e-7)


def test_a_unit_without_a_reference_answers() -> None:
    dead = {neuron(0): dataclasses.replace(neuron_data().facts[neuron(0)], reference=0.0)}
    bench = lab(neuron(0), fresh(neuron_data(), facts=dead, wanted=tuple(dead)))
    for request in (*REQUESTS, *FREE):
        answer = bench.run(request)
        assert "error" not in answer
        json.dumps(answer, allow_nan=False)


# -- the model is left as it was, and answers do not depend on each other ------------------------------------


def test_answers_do_not_depend_on_what_was_asked_before() -> None:
    first, second = (lab(neuron(4), fresh(neuron_data())) for _ in range(2))
    forward = [first.run(request) for request in REQUESTS]
    backward = [second.run(request) for request in reversed(REQUESTS)][::-1]
    assert forward == backward
    assert [first.run(request) for request in REQUESTS] == forward
    lab(neuron(0), first._subject.data).run(REQUESTS[4])
    assert [lab(neuron(4), first._subject.data).run(request) for request in REQUESTS] == forward
    assert not any("error" in answer for answer in forward)


def test_no_hook_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, bench = neuron_model(), lab(neuron(0), fresh(neuron_data()))
    ids = model.to_ids(neuron_rows("select", 2, 1).ids)
    before, logits = hooks(model), model.logits(ids)
    for request in (*REQUESTS, *FREE):
        bench.run(request)

    def broken(*args: object) -> object:
        raise RuntimeError("broken")

    monkeypatch.setattr(feature_texts, "kl_divergence", broken)
    for request in (REQUESTS[6], REQUESTS[7]):
        with pytest.raises(RuntimeError, match="broken"):
            bench.run(request)
    assert hooks(model) == before
    assert torch.equal(model.logits(ids), logits)


@pytest.fixture
def fed() -> Iterator[list[int]]:
    """Tokens that went through the first block, once the data are there."""
    neuron_data()
    with tokens_fed(neuron_model()) as counts:
        yield counts


@pytest.mark.parametrize("request_", [*REQUESTS, *TIGHT], ids=lambda request: request.name)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_cost_is_a_bound(request_: Request, batch_size: int, fed: list[int]) -> None:
    bench = lab(neuron(0), fresh(neuron_data(), batch_size=batch_size))  # nothing is kept from another laboratory
    most = bench.cost(request_)
    bench.run(request_)
    assert 0 < fed[0] <= most <= FEATURE_TOOLS.cost(request_)
    assert bench.cost(request_) == most  # the same however often it is asked


@pytest.mark.parametrize("request_", FREE, ids=lambda request: request.name)
def test_what_reads_no_text_costs_nothing(request_: Request, fed: list[int]) -> None:
    bench = lab(neuron(0))
    assert "error" not in bench.run(request_)
    assert fed[0] == bench.cost(request_) == 0


def test_schemas_are_closed_and_bounded() -> None:
    def check(schema: Plain) -> None:
        assert "$ref" not in schema and "title" not in schema
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            for part in schema["properties"].values():
                check(part)
        elif schema.get("type") == "array":
            assert schema["maxItems"] <= 24
            check(schema["items"])
        elif schema.get("type") == "string" and "enum" not in schema:
            assert schema["maxLength"] <= 400

    for name, tool in FEATURE_TOOLS.tools.items():
        assert tool.name == name and tool.description
        check(tool.schema)


def test_without_held_out_rows_texts_are_left() -> None:
    rows = neuron_data().select
    for empty in (rows.take(np.zeros(0, np.int64)), dataclasses.replace(rows, rows=np.zeros_like(rows.rows))):
        bench = lab(neuron(0), fresh(neuron_data(), select=empty))
        for request in REQUESTS:
            answer = bench.run(request)
            told = answer == {"error": "there are no held-out rows of text; compose texts"}
            assert told == (request.name in ("score_predicate", "disagree"))
            assert bench.cost(request) >= 0


def test_data_keeps_nothing_of_other_rows() -> None:
    data: FeatureLabData = fresh(neuron_data())
    lab(neuron(0), data).run(REQUESTS[4])
    assert data.kept.nbytes > 0
    model: LanguageModel = neuron_model()
    other = fresh(data, select=neuron_rows("select", 40, 9))
    assert other.kept.nbytes == 0
    assert not np.array_equal(other.shares(model, neuron(0), "select"), data.shares(model, neuron(0), "select"))
