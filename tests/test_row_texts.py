"""The texts of rows that experiments show: what a model may copy into a text of its own."""

from __future__ import annotations

from typing import Any

import pytest

from autointerp.agent.plain import ending
from tests.causal_model import causal_model
from tests.neuron_model import neuron_model
from tests.test_experiments import COPIES, GATED_HEAD
from tests.test_experiments import run as run_head
from tests.test_feature_experiments import neuron
from tests.test_feature_experiments import run as run_unit

EARLY = "dst.position <= 3"


def texts(answer: object) -> list[str]:
    """All texts of rows in an answer."""
    if isinstance(answer, list):
        return [text for part in answer for text in texts(part)]
    if not isinstance(answer, dict):
        return []
    own = [answer["text"]] if isinstance(answer.get("text"), str) else []
    return own + [text for part in answer.values() for text in texts(part)]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("rows", {"kind": "random", "n": 5, "predicate": EARLY}),
        ("score_predicate", {"predicate": EARLY}),
        ("disagree", {"first": EARLY, "second": "False", "n": 5}),
    ],
)
def test_rows_of_units_start_with_text_and_not_with_bos(tool: str, arguments: dict[str, Any]) -> None:
    model = neuron_model()
    shown = texts(run_unit(neuron(1), tool, **arguments))
    assert shown
    assert model.bos_id is not None
    assert not [text for text in shown if model.strings[model.bos_id] in text]


@pytest.mark.parametrize(
    ("head", "tool", "arguments"),
    [
        (GATED_HEAD, "rows", {"kind": "contrast", "n": 5}),
        (COPIES, "score_predicate", {"predicate": "dst.position <= 3 and distance == 2"}),
        (COPIES, "disagree", {"first": "dst.position <= 3 and distance == 1", "second": "False", "n": 5}),
    ],
)
def test_rows_of_heads_start_with_text_and_not_with_bos(head: Any, tool: str, arguments: dict[str, Any]) -> None:
    model = causal_model()
    shown = texts(run_head(head, tool, **arguments))
    assert shown
    assert model.bos_id is not None
    assert not [text for text in shown if model.strings[model.bos_id] in text]


def test_only_the_first_token_is_left_out_and_only_where_it_is_bos() -> None:
    tokens = ("<s>", "once", "<s>", " upon", " a")
    assert ending(tokens, 4, 48, bos=True) == "once<s> upon> a<"
    assert ending(tokens, 4, 48, bos=False) == "<s>once<s> upon> a<"
    assert ending(tokens, 4, 6, bos=True) == "…> upon> a<"
    assert ending(tokens, 1, 48, bos=True) == ">once<"
