"""`circuit.json`: read, refused, held against descriptions, and named in the reason of the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.circuit_records import CircuitHead, StudyCircuit, TracedHead
from autointerp.circuits.saved import check_same_model, read_circuit, revision_of, write_circuit
from autointerp.cli import main
from autointerp.config import RunConfig
from autointerp.errors import BadInput
from autointerp.pipeline.given_circuit import given_circuit
from autointerp.records import Description, Failure, Head, HeadReport, Interval, Unscored
from autointerp.scoring.in_circuit import TESTED, in_circuit
from autointerp.scoring.verdict import judge
from tests.run_helpers import command, save_corpus, save_model
from tests.tiny_models import tiny_model


def number(value: float) -> Interval:
    return Interval(value=value, low=value - 0.5, high=value + 0.5, n=288)


def one(head: str, kind: str, value: float) -> CircuitHead:
    return CircuitHead(head=Head.parse(head), kind=kind, position="END", evidence="a path", effect=number(value))


def circuit(revision: str = "abc") -> StudyCircuit:
    heads = (
        one("L5H1", "name_mover", -2.0), one("L5H1", "backup_mover", 0.6), one("L4H0", "other_writer", -1.0),
        one("L3H3", "backup_mover", 0.75),
    )  # fmt: skip
    traced = (TracedHead(head=Head.parse("L0H2"), position="S2", into="v of L4H0", effect=number(-3.0)),)
    return StudyCircuit(
        model="a-model", revision=revision, bos_rule="no BOS", n_prompts=288, seed=0, logit_diff=3.0, heads=heads,
        traced=traced, none_found=("induction",),
    )  # fmt: skip


def said(label: str) -> Description:
    return Description(summary="s", looks_at="l", writes="w", label=label)


@pytest.mark.parametrize(
    ("head", "label", "agrees", "wanted"),
    [
        ("L5H1", "name_mover", True, "circuit of this model: name_mover, path effect -2.000 [-2.500, -1.500]"),
        ("L5H1", "induction", False, "in the IOI circuit of this model: name_mover, not induction, path effect -2.000"),
        ("L4H0", "name_mover", False, "other_writer, not name_mover, path effect -1.000"),
        ("L3H3", "name_mover", False, "backup_mover, not name_mover, rise of its direct effect 0.750 [0.250, 1.250]"),
        ("L0H2", "duplicate_token", False, "found no duplicate_token in it, only a path into v of L4H0 at S2"),
        ("L2H2", "s_inhibition", False, "the IOI study of this model did not find it"),
    ],
)  # fmt: skip
def test_labels_are_held_against_the_study(head: str, label: str, wanted: str, *, agrees: bool) -> None:
    found = in_circuit(Head.parse(head), said(label), circuit())
    assert found is not None and (found.agrees, found.claimed) == (agrees, label)
    assert wanted in found.said
    assert (found.effect is None) == (head == "L2H2")


def test_other_labels_and_heads_without_a_description_are_not_tested() -> None:
    head = Head.parse("L5H1")
    assert in_circuit(head, said("name_mover"), None) is None
    assert in_circuit(head, said("previous_token"), circuit()) is None
    assert in_circuit(head, Failure(stage="explain", reason="cut off"), circuit()) is None
    assert in_circuit(head, said("name_mover").model_copy(update={"abstained": True}), circuit()) is None
    assert set(TESTED) == {"name_mover", "duplicate_token", "s_inhibition", "induction"}


def test_the_reason_says_it_and_the_verdict_stays() -> None:
    unscored = (Unscored(scorer="predicate", reason="no positive"),)
    nothing = Interval(value=0.0, low=0.0, high=0.0, n=0)
    without = judge(said("name_mover"), (), unscored, nothing)
    found = in_circuit(Head.parse("L5H1"), said("name_mover"), circuit())
    beside = judge(said("name_mover"), (), unscored, nothing, found)
    assert found is not None and beside.reason == f"{without.reason}; {found.said}"
    assert beside.model_copy(update={"reason": without.reason}) == without


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    write_circuit(tmp_path / "circuit.json", circuit())
    assert read_circuit(tmp_path / "circuit.json") == circuit()
    config = RunConfig(circuit=str(tmp_path / "circuit.json"))
    first = given_circuit(config).facts()
    write_circuit(tmp_path / "circuit.json", circuit("other"))
    assert first and given_circuit(config).facts() != first
    assert given_circuit(RunConfig()).facts() == {} and given_circuit(RunConfig()).found is None


def test_configs_without_a_circuit_are_saved_as_before() -> None:
    assert "circuit" not in RunConfig().model_dump(mode="json")
    assert RunConfig(circuit="a").model_dump(mode="json")["circuit"] == "a"
    assert RunConfig.model_validate(RunConfig(circuit="a").model_dump()) == RunConfig(circuit="a")


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"format": 2}', b'{"study": "ioi"}', b"null"]))
def test_what_is_no_circuit_is_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "circuit.json"
        path.write_bytes(content)
        with pytest.raises(BadInput, match="is no circuit"):
            read_circuit(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_circuit(path)


def test_the_weights_decide_whose_circuit_it_is() -> None:
    model = tiny_model("gpt2")
    check_same_model(circuit(revision_of(model)), model)
    check_same_model(circuit(revision_of(model)), replace(model, name="the same by another name"))
    for other in (replace(model, revision="of another day"), tiny_model("llama")):
        with pytest.raises(BadInput, match=r"is of a-model \(.*\), not of this model"):
            check_same_model(circuit(revision_of(model)), other)


@pytest.mark.slow
def test_a_run_names_the_study_on_the_cards_and_refuses_a_strange_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autointerp.model import load_model

    reply = {"summary": "s", "looks_at": "names", "writes": "names", "conditions": "", "counterexamples": "",
             "label": "name_mover", "predicate": "distance == 1", "domain": "text", "confidence": 0.5,
             "unclear": False}  # fmt: skip
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"reply": reply, "purpose": "explain"}) + "\n", encoding="utf-8")
    folder, text = save_model(tmp_path / "model"), save_corpus(tmp_path / "text.txt")
    quick = (
        "--heads",
        "0.0,1.1",
        "--scorers",
        "predicate",
        "--explainer",
        "llm",
        "--llm",
        f"scripted:{script}",
        "--agent",
        "off",
        "--lenses",
        "none",
    )
    write_circuit(tmp_path / "strange.json", circuit())
    arguments = command(folder, text, tmp_path / "run", *quick, "--circuit")
    assert main([*arguments, str(tmp_path / "strange.json")]) == 2
    told = capsys.readouterr().err
    assert "is of a-model (abc), not of this model" in told and not (tmp_path / "run" / "heads.jsonl").exists()
    assert main([*arguments, str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err

    own = circuit(revision_of(load_model(str(folder), "cpu", "float32")[0]))
    write_circuit(tmp_path / "own.json", own)
    out = tmp_path / "again"
    assert main([*command(folder, text, out, *quick, "--circuit"), str(tmp_path / "own.json")]) in (0, 1)
    reports = [HeadReport.model_validate_json(line) for line in (out / "heads.jsonl").read_text().splitlines()]
    assert [report.status for report in reports] == ["described"] * 2
    for report in reports:
        assert report.circuit is not None and not report.circuit.agrees
        assert report.judgement.reason.endswith("; the IOI study of this model did not find it")
    assert "the IOI study of this model did not find it" in (out / "report.html").read_text("utf-8")
    write_circuit(tmp_path / "own.json", own.model_copy(update={"seed": 9}))
    capsys.readouterr()
    assert main([*command(folder, text, out, *quick, "--circuit"), str(tmp_path / "own.json")]) == 2
    assert "circuit" in capsys.readouterr().err
