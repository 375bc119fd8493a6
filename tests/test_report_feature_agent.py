"""What the agent did about a neuron or latent, in the CSV, on its cards and on the page; nothing of it is markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from feature_fixtures import feature_report, write_feature_run, write_units
from page_driver import BROWSER, browser_page, file_url

from autointerp.feature_records import FeatureReport
from autointerp.records import Description, Experiment, Hypothesis, Transcript, Turn
from autointerp.report import feature_card_text, write_feature_reports
from autointerp.report.compare import compare_runs
from autointerp.report.data import trimmed
from autointerp.report.feature_csv import COLUMNS, features_csv, read_features_csv
from autointerp.report.feature_data import feature_card
from autointerp.report.feature_html import TOLD

HOSTILE = "</script><img src=x onerror=window.hacked=1>\u202e"


def claim(predicate: str | None, **fields: Any) -> Description:
    values: dict[str, Any] = {
        "summary": f"Active on dogs {HOSTILE}", "looks_at": f"Dogs {HOSTILE}", "writes": "Raises barking",
        "label": "token_set", "predicate": predicate, "raises": (" bark", HOSTILE), "lowers": (), **fields,
    }  # fmt: skip
    return Description(**values)


def transcript() -> Transcript:
    numbers = {"value": 0.4, "low": 0.3, "high": 0.5, "chance": 0.1, "coverage": 0.4, "metric": "f1"}
    first = Hypothesis(description=claim('dst.text == " dog"'), select=numbers, standing="partial", why="covers little")
    other = Hypothesis(description=claim(None), no_predicate="words", standing="unscored", why=HOSTILE)
    revised = first.model_copy(update={"description": claim('dst.text in {" dog", " cat"}'), "standing": "settled"})
    rows = {"rows": [{"text": f"{HOSTILE}> cat<", "strength": 9.1}]}
    turns = (
        Turn(step="one_shot", hypotheses=(first,), prompt_tokens=900, completion_tokens=80),
        Turn(step="hypotheses", hypotheses=(other,), prompt_tokens=1000, completion_tokens=90),
        Turn(step="experiments", round=1, thought=f"Is it only dogs? {HOSTILE}", prompt_tokens=1200, experiments=(
            Experiment(tool="rows", arguments={"kind": "top", "predicate": HOSTILE}, numbers=rows, cost=9),
            Experiment(tool="steer", arguments={"strength": 3}, error=f"strength: {HOSTILE}"),
        )),
        Turn(step="revision", round=1, hypotheses=(revised,), prompt_tokens=1300, completion_tokens=70),
    )  # fmt: skip
    return Transcript(k=3, rounds=1, stop="decided on the select split", chosen="revision 1",
                      one_shot=first.description, one_shot_select=numbers, turns=turns)  # fmt: skip


def looped(index: int = 0) -> FeatureReport:
    return feature_report(5, index, kind="supported").model_copy(update={"transcript": transcript()})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_feature_run(tmp_path_factory.mktemp("agent"), [looped(), feature_report(5, 1, kind="supported")])
    write_units(folder, [f"L5F{i}" for i in range(4)])
    write_feature_reports(folder)
    return folder


def test_the_csv_ends_in_k_and_rounds_which_are_empty_without_an_agent(run: Path) -> None:
    assert COLUMNS[-2:] == ("k", "rounds")
    with_loop, without = read_features_csv(run / "features.csv")
    assert (with_loop["k"], with_loop["rounds"]) == (2, 1)  # the hypotheses that were given, the one-shot one too
    assert (without["k"], without["rounds"]) == (None, None)
    assert features_csv([]).strip().endswith(",state,k,rounds")


def test_a_run_from_before_the_agent_is_read(tmp_path: Path) -> None:
    folder = write_feature_run(tmp_path, [feature_report(5, 0, kind="supported")])
    line = json.loads((folder / "features.jsonl").read_text())
    del line["transcript"]
    (folder / "features.jsonl").write_text(json.dumps(line) + "\n")
    write_feature_reports(folder)
    assert read_features_csv(folder / "features.csv")[0]["k"] is None
    assert feature_card(FeatureReport.model_validate(line))["agent"] is None


def test_the_number_of_hypotheses_is_not_taken_for_the_place_of_a_card() -> None:
    assert {"k", "rounds"}.isdisjoint(TOLD)  # the page's script keeps the place of a unit's card under `k`


def test_the_card_holds_the_timeline_with_the_tokens_that_are_said_to_move() -> None:
    shown = feature_card(looped())["agent"]
    assert [turn["step"] for turn in shown["turns"]] == ["one shot", "hypotheses", "experiments", "revision"]
    ((name, label, _, predicate, standing, _, numbers, moves),) = shown["turns"][0]["hypotheses"]
    assert (name, label, predicate, standing) == ("one shot", "token_set", 'dst.text == " dog"', "partial")
    assert numbers == [0.4, 0.3, 0.5, 0.1, 0.4]
    assert [verb for verb, _ in moves] == ["raises"] and "bark" in moves[0][1][0]
    assert shown["turns"][2]["experiments"][1][2] == "refused"
    assert trimmed(feature_card(looped()), 1, with_prompts=False)["agent"]["turns"] is None


def test_the_terminal_card_tells_the_turns() -> None:
    text = feature_card_text(looped())
    assert "agent:" in text and "1 rounds, kept: revision 1" in text and "round 1, experiments: rows answered" in text
    assert "one shot:" in text and "\u202e" not in text
    assert "agent:" not in feature_card_text(feature_report(5, 1, kind="supported"))


def test_the_page_is_one_document_whatever_a_model_wrote(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and page.count("</script>") == page.count("<script")
    assert "function agentSection" in page


def test_runs_with_and_without_the_agent_compare(run: Path, tmp_path: Path) -> None:
    other = write_feature_run(
        tmp_path, [feature_report(5, 0, kind="supported"), feature_report(5, 1, kind="supported")]
    )
    write_feature_reports(other)
    compared = compare_runs(run, other)
    assert [str(pair.a.unit) for pair in compared.pairs if isinstance(pair.a, FeatureReport)] == ["L5F0", "L5F1"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_timeline_in_a_browser(run: Path) -> None:
    with browser_page() as page:
        page.open(file_url(run / "report.html", "L5F0"))
        page.wait("document.querySelector('#card').open")
        text = page.run("document.querySelector('#card').textContent")
        for part in ("How the description was tested", "kept: revision 1", "Timeline, 4 steps", "bark", "refused"):
            assert part in text
        page.run("document.querySelector('#card .timeline').closest('details').open = true")
        assert page.run("document.querySelectorAll('#card .timeline > li').length") == 4
        page.open(file_url(run / "report.html", "L5F1"))
        page.wait(
            "document.querySelector('#card').open && document.querySelector('#card-title').textContent === 'L5F1'"
        )
        assert "How the description was tested" not in page.run("document.querySelector('#card').textContent")
        assert page.run("window.hacked === undefined && document.images.length === 0")
        assert page.problems == []
