"""Two runs side by side: pairs, margins by hand, what is said about settings, and the command."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from report_fixtures import head_report, write_run

from autointerp.cli import main
from autointerp.errors import BadInput
from autointerp.records import HeadReport
from autointerp.report.compare import COLUMNS, compare_runs, comparison_markdown


def with_margin(report: HeadReport, margin: float | None, verdict: str = "partly") -> HeadReport:
    judged = report.judgement.model_copy(update={"margin": margin, "verdict": verdict})
    return report.model_copy(update={"judgement": judged})


def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    a = [with_margin(head_report(0, i, kind="partly"), 0.1 * i) for i in range(4)]
    b = [with_margin(head_report(0, i, kind="partly"), 0.1 * i + 0.2) for i in range(3)]
    b[2] = with_margin(b[2], 0.4, "supported")
    a[0] = head_report(0, 0, kind="abstained")
    rule = head_report(1, 0, kind="rule")
    for name, reports in (("a", [*a, rule]), ("b", [*b, rule, head_report(2, 0, kind="partly")])):
        write_run(tmp_path / name, reports)
    return tmp_path / "a", tmp_path / "b"


def test_margins_are_paired_and_an_abstention_counts_as_nothing(tmp_path: Path) -> None:
    found = compare_runs(*two_runs(tmp_path))
    assert [str(p.unit) for p in found.pairs] == ["L0H0", "L0H1", "L0H2", "L1H0"]
    assert [str(h) for h in found.only_a] == ["L0H3"]
    assert [str(h) for h in found.only_b] == ["L2H0"]
    differences = [p.difference for p in found.pairs]
    assert differences[:3] == pytest.approx([0.2, 0.2, 0.2])  # the abstention's margin is 0, b's is 0.2
    assert math.isnan(differences[3])
    assert (found.n, found.mean, found.low, found.high) == pytest.approx((3, 0.2, 0.2, 0.2))
    assert [str(p.unit) for p in found.changed] == ["L0H0", "L0H2"]
    assert found.verdicts()["partly", "supported"] == 1


def test_the_interval_is_a_bootstrap_over_heads(tmp_path: Path) -> None:
    a = [with_margin(head_report(0, i, kind="partly"), 0.0) for i in range(8)]
    b = [with_margin(head_report(0, i, kind="partly"), 0.1 * (i % 2)) for i in range(8)]
    write_run(tmp_path / "a", a)
    write_run(tmp_path / "b", b)
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert found.mean == pytest.approx(0.05)
    assert 0.0 < found.low < 0.03
    assert 0.07 < found.high < 0.1


def test_settings_that_differ_are_said_first(tmp_path: Path) -> None:
    a, b = two_runs(tmp_path)
    (a / "config.json").write_text(json.dumps({"config": {"model": "x", "seed": 0}, "corpus_hash": "aa"}))
    (b / "config.json").write_text(json.dumps({"config": {"model": "y|z", "seed": 0}, "corpus_hash": "aa"}))
    found = compare_runs(a, b)
    assert found.settings == (("model", "x", "y|z"),)
    text = comparison_markdown(found, ("a", "b"))
    assert text.index("differ in settings") < text.index("4 heads in both runs")
    assert "y\\|z" in text
    assert "Mean margin difference (b - a): +0.200" in text
    assert "1 heads that equal a rule" in text
    assert "L0H1" not in text
    assert "L0H1" in comparison_markdown(found, ("a", "b"), every=True)


def test_runs_without_a_common_head_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [head_report(0, 0, kind="partly")])
    write_run(tmp_path / "b", [head_report(1, 0, kind="partly")])
    with pytest.raises(BadInput, match="no head in common"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_the_command_and_its_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, two_runs(tmp_path))
    assert main(["compare", a, b]) == 0
    assert "| L0H2 |" in capsys.readouterr().out
    assert main(["compare", a, b, "--all", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["head"] for r in rows] == ["L0H0", "L0H1", "L0H2", "L1H0"]
    assert tuple(rows[0]) == COLUMNS
    assert float(rows[1]["difference"]) == pytest.approx(0.2)
    assert rows[3]["difference"] == ""
    assert main(["compare", a, b, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["margin_difference"]["mean"] == pytest.approx(0.2)
    assert main(["compare", a, str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["compare", a, str(tmp_path / "empty")]) == 2
    assert "no heads.jsonl" in capsys.readouterr().err
