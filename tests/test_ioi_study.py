"""`replicate ioi`: the whole study on the demo model, the page and the last line; refusals before work."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from autointerp.circuits.saved import check_same_model, read_circuit
from autointerp.cli import main
from autointerp.cli import replicate as command
from autointerp.errors import BadInput
from autointerp.studies.ioi import StudySpec, run_study
from autointerp.studies.ioi_classes import CLASSES
from autointerp.studies.ioi_data import IoiSpec
from tests.circuit_helpers import demo
from tests.tiny_models import tiny_model


@pytest.mark.slow
def test_the_study_on_the_demo_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load", lambda arguments: demo())
    monkeypatch.setattr("autointerp.studies.ioi_data.IoiSpec", partial(IoiSpec, templates=(0, 1, 2, 3, 8, 9)))
    out = tmp_path / "out"
    assert main(["replicate", "ioi", "--per-group", "5", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    found = json.loads(printed[-1])
    assert found == json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert found["model"] == "demo" and found["n_prompts"] == 60
    assert found["logit_diff"] > 2 and found["io_over_s"] > 0.7
    assert found["movers"][0] == found["stages"][0]["senders"][0]
    feeders = [stage for stage in found["stages"][1:] if stage["senders"]]
    assert feeders and {"into", "receivers", "position", "senders"} <= set(feeders[0])
    assert found["faithfulness"]["ratio_low"] > 0.5
    for part in ("template_mean", "ioi abc", "BOS", "n prompts: 60", "nothing folded"):
        assert part in found["faithfulness"]["setting"] and part in "\n".join(printed)
    assert (
        set(found["classes"]) == set(CLASSES) and found["classes"]["other_writer"] and not found["classes"]["induction"]
    )
    circuit = read_circuit(out / "circuit.json")
    check_same_model(circuit, demo())
    assert [str(one.head) for one in circuit.heads if one.kind == "other_writer"] == found["classes"]["other_writer"]
    assert sorted({str(one.head) for one in circuit.traced}) == sorted({node.split()[0] for node in found["circuit"]})
    assert "induction: none found" in printed and "induction" in circuit.none_found
    html = (out / "ioi.html").read_text(encoding="utf-8")
    parts = (
        "Performance", "Classes of heads", "none found", "From the answer back", "Completeness", "Minimality",
        "Token and position", "What the writers write", "<circle", "MLPs knocked out", "all but MLP 0",
        "copied (paper)", "<svg",
    )  # fmt: skip
    for part in parts:
        assert part in html
    assert "<script" not in html and "published" not in html  # not GPT-2 small
    assert found["faithfulness"]["setting"].split(";")[0] in html


def test_what_cannot_be_studied_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load", lambda arguments: tiny_model("gpt2"))
    assert main(["replicate", "ioi"]) == 2
    assert "names are single tokens" in capsys.readouterr().err
    assert main(["replicate", "ioi", "--per-group", "4"]) == 2
    assert "5 prompts or more" in capsys.readouterr().err
    assert main(["replicate", "ioi", "--out", __file__]) == 2
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(BadInput, match="template mean needs 5"):
        run_study(demo(), StudySpec(IoiSpec(per_group=3)))


def test_a_model_that_does_not_do_the_task_is_told_so() -> None:
    from autointerp.model import random_twin

    with pytest.raises(BadInput, match="does not do the task"):
        run_study(random_twin(demo(), 1), StudySpec(IoiSpec(templates=(0, 1), per_group=5)))
