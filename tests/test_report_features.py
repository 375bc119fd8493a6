"""The report of a run over neurons or latents: CSV, counts, the page and its cards, comparison, the terminal card."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_fixtures import KINDS, feature_report, write_feature_run, write_units
from page_driver import BROWSER, browser_page, file_url
from report_fixtures import head_report, write_run
from test_report import Islands

from autointerp.cli import main
from autointerp.errors import BadInput, RunFolderError
from autointerp.feature_records import FeatureReport
from autointerp.report import feature_card_text, feature_html, figures, markdown, write_feature_reports, write_reports
from autointerp.report.command import unit_command
from autointerp.report.compare import FEATURE_COLUMNS, compare_runs, comparison_markdown
from autointerp.report.csv import COLUMNS as HEAD_COLUMNS
from autointerp.report.feature_csv import COLUMNS, read_features_csv
from autointerp.report.feature_data import feature_card, feature_example
from autointerp.report.feature_units import of_reports, read_units
from autointerp.report.folder import open_heads
from autointerp.report.steering import steering_curve
from autointerp.report.summary import Summary, margin_group

NAMES = [f"L5F{i}" for i in range(200)]


def reports(unit_kind: Any = "latent") -> list[FeatureReport]:
    return [feature_report(5, i, kind=kind, unit_kind=unit_kind, hostile=True) for i, kind in enumerate(KINDS)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_feature_run(tmp_path_factory.mktemp("features"), reports())
    write_units(folder, NAMES)
    write_feature_reports(folder)
    return folder


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads(Islands((folder / "report.html").read_text(encoding="utf-8")).scripts["index"]))


def test_csv_has_the_columns_of_heads_where_they_apply_and_reads_back(run: Path) -> None:
    assert COLUMNS[0] == "unit"
    assert COLUMNS[-7:] == ("density", "ablation_loss", "active_share", "maximum", "state", "k", "rounds")
    shared = [name for name in HEAD_COLUMNS if name in COLUMNS]
    assert [name for name in COLUMNS if name in shared] == shared
    left_out = {"head", "sink_mass", "entropy", "mean_distance", "previous_token", "induction"}
    assert left_out.isdisjoint(COLUMNS) and set(HEAD_COLUMNS) - set(COLUMNS) >= left_out
    lines = list(csv.reader((run / "features.csv").open(encoding="utf-8", newline="")))
    assert tuple(lines[0]) == COLUMNS and len(lines) == 1 + len(KINDS)
    for row, report in zip(read_features_csv(run / "features.csv"), reports(), strict=True):
        assert row["unit"] == str(report.unit) and row["state"] == report.evidence.stats.state
        said = report.description
        assert row["summary"] == (said.summary if said else None)
        assert row["density"] == pytest.approx(report.evidence.stats.density, rel=1e-5)
        loss = report.ablation_loss.value
        assert row["ablation_loss"] == (None if math.isnan(loss) else pytest.approx(loss, rel=1e-5))


def test_the_order_of_lines_does_not_matter_and_the_last_line_of_a_unit_wins(tmp_path: Path) -> None:
    first = write_feature_run(tmp_path / "a", reports())
    second = write_feature_run(tmp_path / "b", [feature_report(5, 2, kind="failed"), *reversed(reports())])
    for folder in (first, second):
        write_reports(folder)  # finds out by itself what the run is over
    assert (first / "features.csv").read_bytes() == (second / "features.csv").read_bytes()
    line = (second / "features.jsonl").read_bytes().splitlines()[1]
    with (second / "features.jsonl").open("ab") as file:
        file.write(line[: len(line) // 2])
    write_reports(second)
    assert (first / "features.csv").read_bytes() == (second / "features.csv").read_bytes()


def test_damaged_files_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no features\.jsonl"):
        write_feature_reports(tmp_path)
    folder = write_feature_run(tmp_path, reports()[:1])
    with pytest.raises(RunFolderError, match="run over neurons or latents"):
        open_heads(folder)
    (folder / "cache").mkdir()
    (folder / "cache" / "units.npz").write_bytes(b"PK not a table")
    with pytest.raises(RunFolderError, match="no table of units"):
        write_feature_reports(folder)
    columns = {"kind": np.array(["latent"] * 2), "layer": np.zeros(2, int), "index": np.arange(2)}
    np.savez(folder / "cache" / "units.npz", **columns, state=np.array(["ok"] * 2), density=np.zeros(3))
    with pytest.raises(RunFolderError, match="3 values of density for 2 units"):
        write_feature_reports(folder)
    (folder / "cache" / "units.npz").unlink()
    with (folder / "features.jsonl").open("a") as file:
        file.write('{"unit": {"kind": "latent", "layer": 0, "index": 7}}\n')
    with pytest.raises(RunFolderError, match="unit L0F7: not a unit report"):
        write_feature_reports(folder)


def test_dead_and_dense_units_are_counted_and_are_no_part_of_the_means() -> None:
    summary = Summary()
    for report in reports():
        summary.add(report)
    groups = [margin_group(report) for report in reports()]
    expected = ["equals a rule", "abstained", "failed", "unscored", "dead", "dense"]
    assert groups == ["counted"] * 3 + expected
    margins = [report.judgement.margin or 0.0 for report in reports()[:3]]
    assert summary.mean_margin_described == pytest.approx(sum(margins) / 3)
    assert summary.mean_margin_all == pytest.approx(sum(margins) / 6)  # abstained, failed, unscored at 0
    assert summary.n_unscored == 1 and summary.n_total == 9
    assert summary.supported_rate()[0] == pytest.approx(2 / 7)


def test_the_table_of_all_units_is_read_and_completed(tmp_path: Path) -> None:
    assert read_units(tmp_path / "cache" / "units.npz") is None
    write_units(tmp_path, NAMES)
    found = read_units(tmp_path / "cache" / "units.npz")
    assert found is not None and len(found) == 200
    assert found.counts() == {"ok": 192, "dead": 5, "dense": 3}  # 7, 47, ...; 5, 102 and 199
    assert found.numbers["density"][7] == 0 and found.states[102] == "dense"
    report = feature_report(4, 3, kind="dense")
    more = of_reports(found, [(report.unit, "dense", [0.7, 0.1, 5.0, 4.0, None])])
    assert str(more.units[0]) == "L4F3" and more.states[0] == "dense" and more.numbers["mean"][0] is None
    assert more.numbers["density"][1:] == found.numbers["density"]
    alone = of_reports(None, [(report.unit, "dense", [0.7, 0.1, 5.0, 4.0, None])])
    assert [str(unit) for unit in alone.units] == ["L4F3"] and alone.numbers["maximum"] == [5.0]


def test_the_index_holds_every_unit_and_what_was_said_of_the_reported(run: Path, tmp_path: Path) -> None:
    index = index_of(run)
    assert index["units"] == NAMES and len(index["numbers"]["density"]) == 200
    assert [index["units"][i] for i in index["reported"]] == [str(report.unit) for report in reports()]
    assert index["told"]["verdict"] == [report.judgement.verdict for report in reports()]
    assert index["groups"][-2:] == ["dead", "dense"] and index["map"] is False
    assert index["state_names"][index["states"][7]] == "dead"
    alone = write_feature_run(tmp_path, reports("neuron"))
    write_feature_reports(alone)
    index = index_of(alone)
    assert index["units"] == [f"L5N{i}" for i in range(9)] and index["map"] is True
    assert index["numbers"]["maximum"][7] == 0 and index["states"][7:] == [1, 2]


def test_the_page_holds_hostile_text_as_data_only(run: Path) -> None:
    source = (run / "report.html").read_text(encoding="utf-8")
    page = Islands(source)
    assert source.count("</script>") == 3  # the index, all cards in one island, the script
    assert not any(tag == "img" or any(name.startswith("on") for name in attrs) for tag, attrs in page.tags)
    assert not any(
        str(value).startswith(("http:", "https:", "//")) for _, attrs in page.tags for value in attrs.values()
    )
    assert "default-src 'none'" in source and "unsafe" not in source.split("<style>")[0]
    islands = [page.scripts["index"], page.scripts["data-0"]]
    assert not any(set("<>&\u2028\u202e") & set(text) for text in islands)
    card = json.loads(page.scripts["data-0"])["L5F0"]
    assert card["said"]["summary"] == reports()[0].description.summary  # type: ignore[union-attr]
    assert "explained variance" in source and "0.873 [0.86, 0.881]" in source
    text = re.sub(r"<[^>]+>", " ", source.split("</style>")[1].split("<script")[0])
    assert re.search(r"5\s+dead\s+of 200 latents", text) and re.search(r"3\s+dense\s+of 200 latents", text)


def test_large_runs_are_packed_many_cards_to_an_island_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [feature_report(0, i, kind="dead" if i == 0 else "supported", per_stratum=6) for i in range(7)]
    folder = write_feature_run(tmp_path, made)
    monkeypatch.setattr(feature_html, "PLAIN_BYTES", 1000)
    monkeypatch.setattr(feature_html, "GROUP", 3)

    def islands() -> list[dict[str, Any]]:
        write_feature_reports(folder)
        page = Islands((folder / "report.html").read_text())
        found = (page.scripts[name] for name in sorted(page.scripts) if name.startswith("data-"))
        return [json.loads(zlib.decompress(base64.b64decode(text))) for text in found]

    whole = islands()
    assert [list(cards) for cards in whole] == [["L0F1", "L0F2", "L0F3"], ["L0F4", "L0F5", "L0F6"], ["L0F0"]]
    assert len(whole[0]["L0F1"]["examples"]) == 24 and index_of(folder)["left_out"] == 0
    sizes = [len(base64.b64encode(zlib.compress(json.dumps(cards).encode()))) for cards in whole]
    fixed = 1_000_000 + 70 * 7 + 400 * 7
    monkeypatch.setattr(feature_html, "PAGE_BYTES", fixed + sum(sizes) // 2)
    cut = islands()
    kept = len(cut[0]["L0F1"]["examples"])
    assert kept in {20, 12, 4, 0} and cut[0]["L0F1"]["omitted"] == 24 - kept and cut[0]["L0F1"]["scores"]
    monkeypatch.setattr(feature_html, "PAGE_BYTES", 0)
    assert islands() == [] and index_of(folder)["left_out"] == 7


def test_the_last_tiers_keep_one_of_the_strongest_examples_then_none() -> None:
    card = feature_card(feature_report(0, 1, kind="supported"))
    for tier, kept in ((5, 12), (1, 4), (0, 1), (-1, 0)):
        cut = json.loads(feature_html.cut_feature_card(card, (tier, tier > 1)))
        assert len(cut["examples"]) == kept and cut["omitted"] == 12 - kept and cut["scores"] == card["scores"]
        assert all(one["stratum"] == "top" for one in cut["examples"]) or kept > 1
        assert bool(cut["made"]["prompt"]) == (tier > 1)


def test_large_figures_draw_some_of_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = Summary()
    summary.effects = [(f"L0F{i}", 10.0 ** -(1 + i % 3), i / 30, "partly") for i in range(30)]
    monkeypatch.setattr(figures, "MOST_DOTS", 8)
    drawn = figures.scatter(summary)
    assert drawn is not None and drawn.n == 30
    assert [dot.head for dot in drawn.dots] == [f"L0F{i}" for i in range(0, 30, 4)]


def test_an_example_keeps_40_tokens_before_and_8_after() -> None:
    report = feature_report(1, 1, kind="supported")
    example = max(report.evidence.examples, key=lambda item: item.dst)
    row = feature_example(example)
    assert example.dst > 40 and row["first"] == example.dst - 40
    assert len(row["tokens"]) == len(row["share"]) == min(49, len(example.tokens) - row["first"])
    assert row["share"][40] == round(100 * example.activations[example.dst])
    holed = example.model_copy(update={"activations": (math.nan, *example.activations[1:]), "dst": 3})
    assert feature_example(holed)["share"][0] is None
    json.dumps(feature_card(report), allow_nan=False)


def test_steering_curves_come_from_the_details_of_the_score() -> None:
    curve = steering_curve(feature_report(0, 0, kind="supported").scores)
    assert curve is not None and curve["points"] == [[0.5, 0.1], [1, 0.2], [2, 0.5], [4, 1.1]]
    assert curve["chosen"] == 2 and curve["controls"] == [["random directions of the same norm (5)", -0.03]]
    assert steering_curve(feature_report(0, 0, kind="abstained").scores) is None


def test_markdown_names_units_and_escapes(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Latents of gpt2-tiny") and "features.csv and features.jsonl" in text
    line = next(line for line in text.splitlines() if line.startswith("| L5F0 "))
    assert "<" not in line and len(re.findall(r"(?<!\\)\|", line)) == 11
    assert "9 latents: 5 described, 1 abstained, 1 failed, 1 dead, 1 dense; 1 described but unscored" in text
    assert "1 equal a simple rule, 1 are dead, 1 dense" in text and "Reconstruction: explained variance" in text


def test_the_terminal_card_says_what_matters_and_nothing_that_moves_the_cursor() -> None:
    for kind, report in zip(KINDS, reports(), strict=True):
        text = feature_card_text(report)
        assert text.startswith(str(report.unit)) and report.judgement.verdict.upper() in text.splitlines()[0]
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028\u202a-\u202e\ud800-\udfff]", text)
        assert ("DEAD" in text) == (kind == "dead") and ("DENSE" in text) == (kind == "dense")
        assert ("FAILED" in text) == (kind == "failed") and ("= token identity" in text) == (kind == "rule")
        assert ("promotes" in text) == (kind != "dead") and "attention" not in text


def test_markdown_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "MOST", 4)
    write_feature_reports(write_feature_run(tmp_path, reports()))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| L5F3 " in text and "| L5F4 " not in text and "5 more are in features.csv" in text


@pytest.mark.parametrize(
    ("config", "command", "wanted"),
    [
        ({"units": "neurons"}, None, "autointerp describe-feature @UNIT@ --units neurons --out runs/@UNIT@"),
        ({}, "autointerp describe-all-features --units sae:a --sample 9 --select L0F1 --out=x",
         "autointerp describe-feature @UNIT@ --units sae:a --out runs/@UNIT@"),
        ({}, "autointerp describe-feature L3N17 --seed 3",
         "autointerp describe-feature @UNIT@ --seed 3 --out runs/@UNIT@"),
    ],
)  # fmt: skip
def test_the_command_that_reproduces_a_unit(config: dict[str, object], command: str | None, wanted: str) -> None:
    assert unit_command(config, command, "feature") == wanted


def with_margin(report: FeatureReport, margin: float) -> FeatureReport:
    judged = report.judgement.model_copy(update={"margin": margin})
    return report.model_copy(update={"judgement": judged})


def test_two_runs_are_compared_by_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = [with_margin(feature_report(0, i, kind="partly"), 0.1 * i) for i in range(3)]
    b = [with_margin(report, (report.judgement.margin or 0.0) + 0.2) for report in a]
    b[2] = feature_report(0, 2, kind="dead")
    one = write_feature_run(tmp_path / "a", a)
    two = write_feature_run(tmp_path / "b", [*b, feature_report(1, 0, kind="partly")])
    found = compare_runs(one, two)
    assert [str(pair.unit) for pair in found.pairs] == ["L0F0", "L0F1", "L0F2"]
    assert [str(unit) for unit in found.only_b] == ["L1F0"]
    assert (found.n, found.mean) == pytest.approx((2, 0.2)) and math.isnan(found.pairs[2].difference)
    text = comparison_markdown(found, ("a", "b"))
    assert "3 latents in both runs, 1 of them" in text and "1 latents that equal a rule or are dead or dense" in text
    assert "| L0F2 |" in text and "| unit |" in text
    assert main(["compare", str(one), str(two), "--all", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == ",".join(FEATURE_COLUMNS)
    assert main(["compare", str(one), str(two), "--format", "json"]) == 0
    assert [row["unit"] for row in json.loads(capsys.readouterr().out)["units"]] == ["L0F2"]


def test_a_run_over_heads_and_one_over_units_are_not_compared(tmp_path: Path) -> None:
    heads = write_run(tmp_path / "heads", [head_report(0, 0, kind="partly")])
    units = write_feature_run(tmp_path / "units", [feature_report(0, 0, kind="partly")])
    with pytest.raises(BadInput, match=r"heads is a run over heads, .*units one over latents"):
        compare_runs(heads, units)
    other = write_feature_run(tmp_path / "other", [feature_report(0, 1, kind="partly")])
    with pytest.raises(BadInput, match="no latent in common"):
        compare_runs(units, other)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_page_of_16384_latents_in_a_browser(tmp_path: Path) -> None:
    folder = write_feature_run(tmp_path, reports())
    write_units(folder, [f"L5F{i}" for i in range(16_384)])
    write_feature_reports(folder)
    with browser_page() as page:
        waits = []
        for _ in range(3):  # the machine may be busy with something else
            start = time.monotonic()
            page.open(file_url(folder / "report.html"))
            page.wait("document.querySelector('tr[data-unit]') !== null")
            waits.append(time.monotonic() - start)
            if waits[-1] < 2:
                break
        assert min(waits) < 2
        count = "document.querySelector('#table-count').textContent"
        rows = "[...document.querySelectorAll('tr[data-unit]')].map((row) => row.dataset.unit)"
        assert page.run(count).startswith("16,384 of 16,384 latents") and len(page.run(rows)) < 100
        assert page.run(rows)[0] == "L5F0" and page.run("document.querySelectorAll('*').length") < 3000
        page.run("document.querySelector('th[data-column=density] button').click()")  # highest first
        page.wait(f"{rows}[0] === 'L5F5' && {rows}[1] === 'L5F102'")  # dense
        page.run("document.querySelector('#table-panel').scrollTop = 400 * 46")
        page.wait(f"{rows}.length && Number(document.querySelector('tr[data-unit]').dataset.place) > 380")
        page.run(
            "const f = document.querySelector('#filter-status'); f.value = 'dead'; f.dispatchEvent(new Event('change'))"
        )
        assert page.run(count).startswith("410 of 16,384")
        assert page.run("document.querySelector('tr[data-unit]').className") == "off"
        page.run("document.querySelector('#clear').click()")
        page.run("const s = document.querySelector('#search'); s.value = 'L5F100-L5F103'")
        page.run("document.querySelector('#search').dispatchEvent(new Event('input'))")
        page.wait(f"{rows}.length === 4")
        page.run("document.querySelector('tr[data-unit]').focus()")
        page.key("ArrowDown")
        page.key("Enter")
        page.wait("document.querySelector('#card').open")
        assert "was not among the units" in page.run("document.querySelector('#card').textContent")
        page.key("Escape")
        page.open(file_url(folder / "report.html", "L5F0"))
        page.wait("document.querySelector('#card').open")
        text = page.run("document.querySelector('#card').textContent")
        for part in ("Scorecard", "When it activates", "Steering", "Simple rules", "random direction", "Raw reply"):
            assert part in text
        assert page.run("document.querySelectorAll('#card .example .tok.dst').length") == 12
        page.run("document.querySelector('#card .tok.dst').focus()")
        assert "of the reference" in page.run("document.querySelector('#tip').textContent")
        page.run("document.querySelector('#card .links button').click()")
        page.wait("document.querySelector('#card-title').textContent === 'L5F1'")
        page.run("document.querySelector('.close').click()")
        assert page.run("window.hacked === undefined && document.images.length === 0")
        assert [url for url in page.requests if not url.startswith(("file:", "about:"))] == []
        assert page.problems == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_page_of_140000_latents_starts_in_a_browser(tmp_path: Path) -> None:
    folder = write_feature_run(tmp_path, reports())
    write_units(folder, [f"L5F{i}" for i in range(140_000)])  # more than a call of JavaScript takes arguments
    write_feature_reports(folder)
    with browser_page() as page:
        page.open(file_url(folder / "report.html"))
        page.wait("document.querySelector('tr[data-unit]') !== null")
        assert page.run("document.querySelector('#table-count').textContent").startswith("140,000 of 140,000 latents")
        assert page.problems == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_map_of_neurons_in_a_browser(tmp_path: Path) -> None:
    folder = write_feature_run(tmp_path, reports("neuron"))
    write_units(folder, [f"L{layer}N{i}" for layer in (4, 5) for i in range(400)])
    write_feature_reports(folder)
    with browser_page() as page:
        page.open(file_url(folder / "report.html"))
        page.wait("document.querySelectorAll('.cell:not(.absent)').length === 268")  # 400 in threes, two layers
        page.run("document.querySelector('.cell[tabindex=\"0\"]').focus()")
        page.key("ArrowRight")
        assert page.run("document.querySelector('#tip').textContent").startswith("L4N3-L4N5")
        page.key("Enter")
        page.wait("document.querySelectorAll('tr[data-unit]').length === 3")
        assert page.run("document.querySelectorAll('.cell.dim').length") == 267
        assert page.problems == []
