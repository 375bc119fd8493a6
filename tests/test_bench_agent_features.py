"""`bench agent --units features`: grading neurons, their traps, the last line, and (slow) the whole comparison."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from feature_fixtures import feature_report

from autointerp.cli.main import main
from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput
from autointerp.pipeline import JobOptions, bench_agent, feature_job
from autointerp.pipeline.agents import shuffled
from autointerp.pipeline.bench_agent import AgentUnit, bench_agent_seed
from autointerp.pipeline.bench_agent_features import (
    FEATURE_TRAPS,
    feature_trap_of,
    neuron_is_right,
    neurons_ground,
)
from autointerp.pipeline.bench_agent_report import NEURONS, agent_result
from autointerp.pipeline.bench_features import neuron_key
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.feature_random import FeatureRandomControl
from autointerp.planted.heads import Truth
from autointerp.planted.neurons import KINDS
from autointerp.records import Feature, Interval, Unscored


def neuron(index: int = 0) -> Feature:
    return Feature(kind="neuron", layer=0, index=index)


def graded(planted: tuple[str, ...] = ("token_set",), **fields: Any) -> GradedHead:
    nothing = Interval(value=0.0, low=0.0, high=0.0, n=0)
    values = {
        "seed": 0, "head": neuron(), "kind": "token_set", "planted": planted, "allowed": (), "matters": True,
        "said": planted[:1], "status": "described", "verdict": "supported", "confidence": 0.5, "true_f1": 1.0,
        "said_f1": 1.0, "kl": nothing, "true_predicate": "dst.is_word", **fields,
    }  # fmt: skip
    return GradedHead(**values)


@pytest.mark.parametrize(
    ("unit", "right"),
    [
        (graded(), True),
        (graded(verdict="partly"), False),
        (graded(said=("token",)), False),
        (graded(said_f1=0.89), False),  # the label is right, the rule is not
        (graded(said_f1=float("nan")), False),
        (graded(matters=False, verdict="partly"), True),
        (graded(matters=False), False),  # supported, though nothing depends on it
        (graded(matters=False, verdict="partly", said_f1=0.2), False),
        (graded(("token", "token_pair"), kind="either", said=("token_pair",)), True),
        (graded(("token", "token_pair"), kind="either", said=("token",), said_f1=0.6), False),
        (graded((), kind="noise", said=(), status="abstained", verdict="unscored"), True),
        (graded((), kind="noise", said=("token",), verdict="refuted"), False),
        (graded((), kind="mix", said=("token",), verdict="refuted"), True),
        (graded((), kind="mix", said=("token",)), False),
    ],
)
def test_a_neuron_is_right_with_its_label_its_rule_and_its_verdict(unit: GradedHead, right: bool) -> None:
    assert neuron_is_right(unit) is right


def test_traps_are_told_by_what_was_planted() -> None:
    traps = {kind: set[str]() for kind in KINDS}
    for truth in neuron_key(0).values():
        traps[truth.kind].add(feature_trap_of(truth))
    assert {kind: traps[kind] for kind in ("token", "token_set", "token_pair", "either", "noise", "mix")} == {
        "token": {""}, "token_set": {FEATURE_TRAPS[0]}, "token_pair": {FEATURE_TRAPS[1]}, "either": {FEATURE_TRAPS[2]},
        "noise": {""}, "mix": {""},
    }  # fmt: skip
    idle = Truth("zero_output", ("token_pair",), "dst.is_word", matters=False)
    assert feature_trap_of(idle) == FEATURE_TRAPS[1]


def compared(n: int, loop: bool, one_shot: bool, trap: str = "") -> list[AgentUnit]:
    right, said = {"loop": loop, "one_shot": one_shot, "shuffled": one_shot}, graded()
    tokens = {"loop": 30, "one_shot": 33, "shuffled": 31}
    return [AgentUnit(0, neuron(i), "k", trap, True, right, dict.fromkeys(right, said), tokens, "s") for i in range(n)]


def test_the_last_line_has_the_keys_of_heads_and_says_which_units(tmp_path: Path) -> None:
    units = [*compared(4, loop=True, one_shot=False, trap=FEATURE_TRAPS[0]), *compared(4, loop=True, one_shot=True)]
    result = agent_result(units, "rules", "rounds=2", NEURONS)
    line = json.loads(result.last_line())
    assert list(line) == [
        "one_shot", "loop", "difference_low", "difference_high", "tokens_one_shot", "tokens_loop", "plumbing_only",
        "units",
    ]  # fmt: skip
    assert (line["one_shot"], line["loop"], line["units"], line["plumbing_only"]) == (0.5, 1.0, "features", True)
    result.write(tmp_path)
    full = json.loads((tmp_path / "bench.json").read_text())
    assert full["by_trap"][FEATURE_TRAPS[0]] == {"n": 4, "looped": 4, "one_shot": 0, "loop": 4, "shuffled": 0}
    assert (full["n_neurons"], full["units"], full["neurons"][0]["neuron"]) == (8, "features", "L0N0")
    page = (tmp_path / "bench.html").read_text()
    assert "Neurons" in page and "heads" not in page.partition("<body")[2]


def test_answers_are_exchanged_between_the_units_that_were_asked_about() -> None:
    reports = [feature_report(5, i, kind=kind) for i, kind in enumerate(("supported", "dead", "partly", "abstained"))]
    asked = [r.unit for r in reports if r.evidence.stats.state == "ok"]
    assert len(asked) == 3
    done = SimpleNamespace(reports=reports, stopped=None)
    assert bench_agent._donors("shuffled", done) == shuffled(asked)  # as the run itself exchanges them
    assert bench_agent._donors("one_shot", done) == {}


def test_rounds_are_needed(tmp_path: Path) -> None:
    config = RunConfig(explainer="llm", llm="rules", agent="best_of=3")
    with pytest.raises(BadInput, match="rounds=N"):
        bench_agent_seed(neurons_ground(config, 0), 0, tmp_path, JobOptions(Settings()), lambda *_: None)


@pytest.mark.parametrize(
    ("units", "given", "wanted"), [("features", "--heads", "--select"), ("heads", "--select", "--heads")]
)
def test_a_choice_of_other_units_is_refused(
    units: str, given: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "agent", "--llm", "rules", "--units", units, given, "L0N1", "--out", str(tmp_path / "b")]
    assert main(words) == 2
    assert f"{given} does not go with --units {units}. Give {wanted}." in capsys.readouterr().err


@pytest.mark.slow
def test_the_loop_gains_in_the_traps_and_not_from_exchanged_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nulls on random weights have tests of their own, and decide nothing here.
    monkeypatch.setattr(FeatureRandomControl, "facts", lambda *_: {"reason": "not asked for"})
    monkeypatch.setattr(feature_job, "twin_of", lambda *_: Unscored(scorer="predicate", reason="not asked for"))
    chosen = "L0N2,L0N3,L0N7,L0N10,L0N15,L1N7,L1N9,L1N11,L0N4"  # sets, tokens, pairs, either, idle, noise, dense
    words = ["bench", "agent", "--units", "features", "--llm", "rules", "--select", chosen, "--max-tokens", "16000"]
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    full = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert (line["loop"], full["shuffled"]) == (1.0, line["one_shot"])
    assert line["one_shot"] == pytest.approx(3 / 8)  # a token, an idle token, noise
    assert line["tokens_one_shot"] >= line["tokens_loop"]
    assert {unit["neuron"] for unit in full["neurons"]} == set(chosen.split(",")) - {"L0N4"}  # nobody is asked of it
