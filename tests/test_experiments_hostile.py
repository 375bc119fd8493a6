"""Requests of a valid shape and hostile content: a laboratory answers every one of them, and never raises."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from autointerp.agent import arguments as a
from autointerp.agent import texts
from autointerp.agent.head_tools import HEAD_TOOLS
from autointerp.agent.laboratory import Laboratory
from autointerp.agent.plain import ANSWER_CHARACTERS
from autointerp.agent.requests import Request
from autointerp.agent.subject import Subject
from autointerp.records import Head
from tests.test_experiments import data_of, evidence, select_of
from tests.test_scoring import rows_of

Plain = dict[str, Any]
WORDS = ("the", " cat", " dog", " sat", " on", " zebra", "last", "all", "\n", " ", "<bos>", "<eos>", "<unk>", "é",
         "e\u0301", "🙂", "\u200b", "\u202e", "\x00", "漢字", "</td>", "{{x}}", "İ", "ß", "\u2028", "NA")  # fmt: skip
PREDICATES = ("distance == 1", "src == dst and distance > 0", "True", "False", "src.is_first", "distance <= 100000",
              'src.lower in {"🙂", "é"}', "nearest(distance > 100000)", "distance ==", "not", "(" * 300)  # fmt: skip
LONG = 100_000


def pieces(most: int) -> st.SearchStrategy[str]:
    """Texts of words that a tokenizer may know or not, blank ones too, some as long as a text may be."""
    some = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map("".join)
    again = st.builds(str.__mul__, st.sampled_from(["🙂", " ", "a", " cat"]), st.sampled_from([2, 5, 9, 12, most]))
    return st.one_of(some, st.text(min_size=1, max_size=12), again).map(lambda text: text[:most])


def tokens() -> st.SearchStrategy[str]:
    known = ["the", " cat", "dog", "sat", "<unk>", "\n", "a"]
    return st.sampled_from([*known, ""]).flatmap(lambda one: st.just(one) if one else pieces(40))


@st.composite
def marked(draw: st.DrawFn, most: int, text: str = "") -> Plain:
    """A text whose mark stands in it more often than not."""
    text = text or draw(pieces(most))
    start = draw(st.integers(0, len(text) - 1))
    own = text[start : start + draw(st.integers(1, 5))]
    return {
        "text": text,
        "mark": draw(st.sampled_from(["last", "last", "last", own, own, "cat"]) | pieces(40)),
        "occurrence": draw(st.sampled_from([1, 1, 1, 2, 50])),
    }


@st.composite
def edits(draw: st.DrawFn) -> Plain:
    """Spans of the text itself more often than not, so that most edits are made."""
    place = draw(marked(300))
    start = draw(st.integers(0, len(place["text"]) - 1))
    stop = draw(st.integers(start + 1, min(len(place["text"]), start + 100)))
    span = place["text"][start:stop] if draw(st.booleans()) else draw(pieces(100))
    return {**place, "replace": span, "by": draw(st.just("") | pieces(100))}


@st.composite
def patches(draw: st.DrawFn) -> Plain:
    """Equal texts, texts that differ in a word, and any two."""
    place = draw(marked(300))
    clean = place.pop("text")
    corrupted = draw(st.sampled_from([clean, clean, clean.replace("cat", "dog"), draw(pieces(300))]))
    mark = draw(st.sampled_from([place["mark"], "all", "last"]))
    answers = {"answer": draw(tokens()), "wrong": draw(tokens())}
    return {**place, **answers, "mark": mark, "clean": clean, "corrupted": corrupted}


@st.composite
def probes(draw: st.DrawFn) -> Plain:
    """Items that say nothing (all equal, or groups that are the labels) among usual ones."""
    same = draw(st.sampled_from(["", "the cat sat", " "]))
    labels = [*"aabb" * 2, *draw(st.lists(st.sampled_from("ab"), max_size=4))]
    groups = draw(st.sampled_from([[""], ["g"], labels]))
    items = [
        {"label": label, "group": groups[n % len(groups)], "text": same or draw(pieces(120))}
        | (draw(marked(120)) if draw(st.integers(0, 9)) == 0 else {})
        for n, label in enumerate(labels)
    ]
    return {"items": items}


ROWS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["top", "random", "contrast"])},
    optional={
        "n": st.integers(1, 5), "dst": st.just("") | tokens(), "src": st.just("") | tokens(),
        "min_distance": st.sampled_from([0, 1, LONG]), "max_distance": st.sampled_from([0, 1, LONG]),
        "predicate": st.just("") | st.sampled_from(PREDICATES), "holds": st.booleans(),
    },
)  # fmt: skip
DOMAINS = st.sampled_from(["text", "repeats"])
ARGUMENTS: dict[str, st.SearchStrategy[Plain]] = {
    "attend": st.fixed_dictionaries({"texts": st.lists(marked(300), min_size=1, max_size=4)}),
    "ablate": st.fixed_dictionaries({"texts": st.lists(marked(300), min_size=1, max_size=4)}),
    "edit": edits(),
    "rows": ROWS,
    "score_predicate": st.fixed_dictionaries({"predicate": st.sampled_from(PREDICATES), "domain": DOMAINS}),
    "disagree": st.fixed_dictionaries(
        {"first": st.sampled_from(PREDICATES), "second": st.sampled_from(PREDICATES), "domain": DOMAINS}
    ),
    "patch": patches(),
    "lens": st.builds(lambda place, selfie: {**place, "selfie": selfie}, marked(300), st.booleans()),
    "ov": st.fixed_dictionaries({"tokens": st.lists(tokens(), min_size=1, max_size=8)}),
    "detectors": st.fixed_dictionaries({"data": st.sampled_from(["all", "repeats", "text", "parameters"])}),
    "probe": probes(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_request_of_valid_shape_is_answered_whatever_it_holds(name: str) -> None:
    answered = 0

    @settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(ARGUMENTS[name], st.booleans())
    def check(arguments: Plain, bos: bool) -> None:
        nonlocal answered
        found = HEAD_TOOLS.parse(name, arguments)
        assert isinstance(found, Request)
        answer = laboratory(bos=bos).run(found)
        assert len(json.dumps(answer, allow_nan=False)) <= ANSWER_CHARACTERS
        assert "error" not in answer or (len(str(answer["error"])) <= 300 and "tiny" not in str(answer))
        answered += "error" not in answer

    check()
    assert answered  # not all of them are refused


@functools.cache
def laboratory(*, bos: bool) -> Laboratory:
    model = tiny_model("llama")
    model = model if bos else dataclasses.replace(model, bos_id=None)
    head = Head(layer=1, index=2)
    return Laboratory(model, head, evidence(head), data_of(model, select_of(rows_of(model, n=8))))


def test_arguments_that_fail_a_second_check_are_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked_again(subject: Subject, asked: a.Edit) -> Plain:
        return {"text": a.Place(text="").text}

    monkeypatch.setattr(texts, "edit", checked_again)
    request = HEAD_TOOLS.parse("edit", {"text": "the cat", "replace": "cat", "by": "dog"})
    assert isinstance(request, Request)
    assert "text is empty" in str(laboratory(bos=True).run(request)["error"])
