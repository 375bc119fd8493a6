"""`bench agent`: the rule-based model, the grading, the paired difference, and (slow) the whole comparison."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from autointerp.agent.head_kind import HEADS
from autointerp.agent.head_tools import HEAD_TOOLS
from autointerp.agent.requests import Request
from autointerp.agent.steps import experiments_step, hypotheses_step, revision_step
from autointerp.chat.rules import RulesChat
from autointerp.cli.main import main
from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput, ChatFailed
from autointerp.explain.language import SCHEMA
from autointerp.llm import ChatRequest
from autointerp.pipeline import JobOptions, held_out, job
from autointerp.pipeline.agents import shuffled
from autointerp.pipeline.bench_agent import (
    TRAPS,
    AgentUnit,
    bench_agent_seed,
    difference,
    heads_ground,
    is_right,
    share,
    trap_of,
)
from autointerp.pipeline.bench_agent_report import agent_result
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.random_control import RandomControl
from autointerp.planted.heads import Truth
from autointerp.prompting import as_data
from autointerp.records import Head, Interval, Unscored

Plain = dict[str, Any]
DUPLICATE = "nearest(src == dst and distance > 0)"


# the rule-based model


def evidence_of(*fires: tuple[str, float], idle: bool = False, own: float = 0.0) -> Plain:
    readings = [{"name": name, "data": "text", "fires": True, "times_uniform": lift} for name, lift in fires]
    logits = 0.0 if idle else 1.0
    examples = [{"before": f"text {n} ", "dst": "word", "loss_without_head": 0.0 if idle else 0.4} for n in range(3)]
    return {
        "measurements": [*readings, {"name": "punctuation", "data": "text", "fires": False, "times_uniform": 99.0}],
        "writes": {"raised": [{"token": "a", "logits": logits}], "effect_on_attended_token_logits": own},
        "examples": {"top": examples},
        "statistics": {"top_attended_tokens": [{"token": " Red", "part": 0.5}, {"token": " rare", "part": 0.001}]},
    }


def ask(name: str, schema: Plain, **blocks: Any) -> Plain:
    text = "\n".join(f"<<<{block}\n{as_data(value)}\n{block}>>>" for block, value in blocks.items())
    request = ChatRequest(messages=({"role": "user", "content": text},), json_schema=schema, schema_name=name)
    found = json.loads(asyncio.run(RulesChat().complete(request)).text)
    assert isinstance(found, dict)
    assert set(found) <= set(schema["properties"])
    return found


def describe(evidence: Plain) -> Plain:
    return ask("description", SCHEMA, EVIDENCE=evidence)


@pytest.mark.parametrize(
    ("evidence", "label", "predicate"),
    [
        (evidence_of(("previous_token", 19.0)), "previous_token", "distance == 1"),
        (evidence_of(("fixed_offset", 25.0)), "previous_token", "distance == 1"),
        (evidence_of(("duplicate_token", 70.0)), "induction", "nearest(src.prev == dst and distance > 0)"),
        (evidence_of(("duplicate_token", 70.0), ("previous_token", 11.0)), "previous_token", "distance == 1"),
        (evidence_of(("current_token", 11.0), ("induction", 70.0)), "current_token", "distance == 0"),
        (evidence_of(("punctuation", 5.0), idle=True), "copying", "nearest(src.is_punctuation and distance > 0)"),
        (evidence_of(("token_class", 9.0)), "token_class", 'nearest(src.lower in {"red"} and distance > 0)'),
        (evidence_of(("token_class", 9.0), ("copying", 57.0), own=3.0), "copying",
         'nearest(src.lower in {"red"} and distance > 0)'),
        (evidence_of(("first_token", 20.0)), "first_token", "src.is_first"),
        (evidence_of(), "unclear", ""),
    ],
)  # fmt: skip
def test_the_first_answer_falls_into_the_traps_and_into_no_other(evidence: Plain, label: str, predicate: str) -> None:
    said = describe(evidence)
    assert (said["label"], said["predicate"]) == (label, predicate)
    assert set(SCHEMA["required"]) == set(said)
    assert said["unclear"] is (label == "unclear")


def test_its_experiments_are_valid_requests() -> None:
    schema = experiments_step(HEADS, 4).schema
    first = {"hypotheses": [{"predicate": "distance == 1", "label": "previous_token"}], "experiments": []}
    again = {**first, "experiments": [{"tool": "rows", "arguments": {}, "answer": {}}]}
    for history in (first, again):
        asked = ask("agent_experiments", schema, EVIDENCE=evidence_of(("fixed_offset", 25.0)), HISTORY=history)
        assert 0 < len(asked["experiments"]) <= 4
        for one in asked["experiments"]:
            assert isinstance(HEAD_TOOLS.parse(one["tool"], one["arguments"]), Request)
    others = ask("agent_hypotheses", hypotheses_step(HEADS, 2).schema, EVIDENCE=evidence_of())["hypotheses"]
    assert len(others) == 2


def rows(distance: int, n: int = 5, *, holds: bool = True, part: float = 1.0, kl: float = 0.1) -> Plain:
    answer = {
        "rows": [{"sources": [{"distance": distance}], "kl_without": kl}] * n,
        "matching": int(100 * part),
        "of": 100,
    }
    return {"tool": "rows", "arguments": {"predicate": "" if holds else "p", "holds": holds}, "answer": answer}


def matching(duplicate: int, induction: int) -> Plain:
    answer = {
        "strongest_source_named_by_first_only": duplicate, "strongest_source_named_by_second_only": induction,
        "named_by_both": 0, "active_rows": 100,
    }  # fmt: skip
    return {"tool": "disagree", "arguments": {}, "answer": answer}


def revised(best: Plain, *experiments: Plain) -> Plain:
    history = {"hypotheses": [{"looks_at": "x", "writes": "y", **best}], "experiments": list(experiments)}
    return ask("agent_revision", revision_step(HEADS).schema, EVIDENCE=evidence_of(), HISTORY=history)


BEFORE = {"predicate": "distance == 1", "label": "previous_token"}


@pytest.mark.parametrize(
    ("best", "experiments", "claims"),
    [
        (BEFORE, [rows(5), rows(5, holds=False)], [("fixed_offset", "distance == 5")]),
        (BEFORE, [rows(1), rows(9, holds=False, part=0.5), matching(45, 0)],
         [("previous_token", "distance == 1"), ("duplicate_token", DUPLICATE)]),
        ({"predicate": "nearest(src.prev == dst and distance > 0)", "label": "induction"},
         [rows(7), rows(8, holds=False), matching(97, 1)], [("duplicate_token", DUPLICATE)]),
        ({"predicate": DUPLICATE, "label": "copying"}, [rows(7, kl=0.0), rows(8, 0, holds=False, part=0.0)],
         [("duplicate_token", DUPLICATE)]),
        ({"predicate": DUPLICATE, "label": "copying"}, [rows(7), matching(2, 1)], [("copying", DUPLICATE)]),
    ],
)  # fmt: skip
def test_the_numbers_lead_it_out_of_the_traps(best: Plain, experiments: list[Plain], claims: list[Any]) -> None:
    found = revised(best, *experiments)
    assert [(c["label"], c["predicate"]) for c in found["claims"]] == claims
    assert found["abstain"] is False


def test_without_numbers_it_abstains_or_stays() -> None:
    assert revised({"predicate": "", "label": "unclear"})["abstain"] is True
    assert revised(BEFORE)["claims"][0]["predicate"] == "distance == 1"


def test_it_reads_the_blocks_of_the_prompt_and_answers_nothing_else() -> None:
    with pytest.raises(ChatFailed, match="no rule"):
        ask("something", {"properties": {}})
    assert describe({"measurements": []})["label"] == "unclear"
    items = [
        {"text": "a b", "dst": "b", "candidates": {"A": {"src": "a", "distance": 2}, "B": {"src": "a", "distance": 1}}}
    ]
    said = ask(
        "choices",
        {"properties": {"answers": {}}},
        DESCRIPTION={"looks_at": "the token directly before it"},
        ITEMS=items,
    )
    assert said == {"answers": ["B"]}
    items = [{"before": "a b a ", "token": "b"}, {"before": "x", "token": "c"}]
    words = {"looks_at": "its earlier occurrence"}
    said = ask("answers", {"properties": {"answers": {}}}, DESCRIPTION=words, ITEMS=items)
    assert said == {"answers": {"1": "yes", "2": "no"}}


# the comparison


def graded(planted: tuple[str, ...] = ("previous_token",), **fields: Any) -> GradedHead:
    nothing = Interval(value=0.0, low=0.0, high=0.0, n=0)
    values = {
        "seed": 0, "head": Head(layer=0, index=0), "kind": "k", "planted": planted, "allowed": (), "matters": True,
        "said": planted, "status": "described", "verdict": "supported", "confidence": 0.5, "true_f1": 1.0,
        "said_f1": 1.0, "kl": nothing, "true_predicate": "distance == 1", **fields,
    }  # fmt: skip
    return GradedHead(**values)


@pytest.mark.parametrize(
    ("head", "right"),
    [
        (graded(), True),
        (graded(verdict="partly"), False),
        (graded(said=("induction",)), False),
        (graded(("previous_token", "duplicate_token"), said=("previous_token",)), False),
        (graded(matters=False), False),  # supported, though nothing depends on it
        (graded(matters=False, verdict="partly"), True),
        (graded(matters=False, verdict="partly", said=("copying",)), False),
        (graded(("copy_suppression",), true_predicate="", verdict="unscored"), True),
        (graded((), said=(), status="abstained", verdict="unscored"), True),
        (graded((), said=("induction",)), False),
    ],
)
def test_a_head_is_right_with_all_labels_and_the_right_verdict(head: GradedHead, right: bool) -> None:
    assert is_right(head) is right


def compared(n: int, right: tuple[bool, bool, bool], seed: int = 0, trap: str = "") -> list[AgentUnit]:
    named = dict(zip(("loop", "one_shot", "shuffled"), right, strict=True))
    head = graded()
    tokens = {"loop": 30, "one_shot": 33, "shuffled": 31}
    return [
        AgentUnit(seed, Head(layer=0, index=i), "k", trap, True, named, dict.fromkeys(named, head), tokens, "stop")
        for i in range(n)
    ]


def test_the_difference_is_paired_and_its_interval_follows_the_heads() -> None:
    heads = [*compared(20, (True, False, False), trap=TRAPS[0]), *compared(60, (True, True, True))]
    gain = difference(heads)
    assert (share(heads, "loop"), share(heads, "one_shot")) == (1.0, 0.75)
    assert gain.value == pytest.approx(0.25) and 0 < gain.low < 0.25 < gain.high < 0.4
    nothing = difference(heads, "shuffled")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    two = [*compared(30, (True, False, False)), *compared(30, (False, False, False), seed=1)]
    wide = difference(two)
    assert wide.low == 0.0 and wide.high == 1.0  # two seeds that disagree say nothing


def test_the_last_line_has_the_keys_and_says_that_rules_prove_plumbing_only(tmp_path: Path) -> None:
    heads = [*compared(4, (True, False, False), trap=TRAPS[1]), *compared(4, (True, True, True))]
    result = agent_result(heads, "rules", "rounds=2")
    line = json.loads(result.last_line())
    assert list(line) == [
        "one_shot", "loop", "difference_low", "difference_high", "tokens_one_shot", "tokens_loop", "plumbing_only",
    ]  # fmt: skip
    assert (line["one_shot"], line["loop"], line["plumbing_only"]) == (0.5, 1.0, True)
    assert (line["tokens_one_shot"], line["tokens_loop"]) == (8 * 33, 8 * 30)
    assert json.loads(agent_result(heads, "a-model", "rounds=2").last_line())["plumbing_only"] is False
    result.write(tmp_path)
    full = json.loads((tmp_path / "bench.json").read_text())
    assert full["by_trap"][TRAPS[1]] == {"n": 4, "looped": 4, "one_shot": 0, "loop": 4, "shuffled": 0}
    assert "plumbing" in (tmp_path / "bench.html").read_text()


def test_traps_are_told_by_what_was_planted() -> None:
    assert trap_of(Truth("two_functions", ("a", "b"), None)) == TRAPS[0]
    assert trap_of(Truth("fixed_offset", ("fixed_offset",), None)) == TRAPS[1]
    assert trap_of(Truth("duplicate_token", ("duplicate_token",), None)) == TRAPS[2]
    assert trap_of(Truth("zero_output", ("induction",), None, matters=False)) == TRAPS[3]
    assert trap_of(Truth("induction", ("induction",), None)) == ""


def test_exchanged_answers_come_from_another_head() -> None:
    heads = [Head(layer=n // 6, index=n % 6) for n in range(36)]
    donors = shuffled(heads)
    assert set(donors) == set(donors.values()) == set(heads)
    assert all(head != donor for head, donor in donors.items())
    with pytest.raises(BadInput, match="Select two or more"):
        shuffled(heads[:1])


def test_rounds_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "agent", "--explainer", "detectors", "--out", str(tmp_path / "b")]) == 2
    assert "needs a language model" in capsys.readouterr().err
    config = RunConfig(explainer="llm", llm="rules", agent="off")
    with pytest.raises(BadInput, match="rounds=N"):
        bench_agent_seed(heads_ground(config, 0), 0, tmp_path, JobOptions(Settings()), lambda *_: None)


@pytest.mark.slow
def test_the_loop_gains_in_the_traps_and_not_from_exchanged_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nulls on random weights have tests of their own, and decide nothing here.
    monkeypatch.setattr(RandomControl, "facts", lambda *_: {"reason": "not asked for"})
    monkeypatch.setattr(job, "twin_of", lambda *_: Unscored(scorer="predicate", reason="not asked for"))
    monkeypatch.setattr(held_out, "REPEATS", 16)
    words = ["bench", "agent", "--llm", "rules", "--heads", "L0H2,L1H4,L4H3,L5H1,L2H0,L5H0", "--max-tokens", "8000"]
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    full = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert line["plumbing_only"] is True
    assert (line["loop"], full["shuffled"]) == (1.0, line["one_shot"])
    assert line["one_shot"] == pytest.approx(2 / 6)
    assert line["tokens_one_shot"] >= line["tokens_loop"]
    assert all(h["right"]["loop"] for h in full["heads"])
