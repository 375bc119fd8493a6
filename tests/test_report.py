"""The report of a run: CSV, Markdown, the page and the terminal card, from generated run folders."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_driver import BROWSER, browser_page, file_url
from report_fixtures import RUN, head_report, write_run

from autointerp.errors import RunFolderError
from autointerp.records import HeadReport
from autointerp.report import card_text, html, write_reports
from autointerp.report.command import unit_command
from autointerp.report.csv import COLUMNS, read_heads_csv
from autointerp.report.data import card, example_json
from autointerp.report.figures import calibration, scatter
from autointerp.report.summary import Summary, margin_group

KINDS = ("supported", "partly", "refuted", "rule", "first_token", "abstained", "failed", "unscored")
CONTRACT = (
    "head,layer,index,label,summary,looks_at,writes,predicate,explainer,status,verdict,metric,domain,score,score_low,"
    "score_high,chance,n_items,n_docs,margin,margin_low,margin_high,compared_with,coverage,sink_mass,entropy,"
    "mean_distance,previous_token,current_token,first_token,duplicate_token,induction,ablation_loss"
)


class Islands(HTMLParser):
    """Script elements of a page by id, and every tag and attribute outside them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: str | None = None
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = str(dict(attrs).get("id")) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data


def reports(kinds: tuple[str, ...] = KINDS) -> list[HeadReport]:
    return [head_report(0, i, kind=kind, hostile=True, per_stratum=2) for i, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), reports())
    write_reports(folder)
    return folder


def test_csv_has_the_columns_of_the_contract_and_reads_back(run: Path) -> None:
    assert ",".join(COLUMNS) == f"{CONTRACT},k,rounds"
    lines = list(csv.reader((run / "heads.csv").open(encoding="utf-8", newline="")))
    assert ",".join(lines[0]) == ",".join(COLUMNS) and len(lines) == 1 + len(KINDS)
    rows = read_heads_csv(run / "heads.csv")
    for row, report in zip(rows, reports(), strict=True):
        assert row["head"] == str(report.head) and row["verdict"] == report.judgement.verdict
        said = report.description
        assert row["summary"] == (said.summary if said else None)
        assert row["predicate"] == (said.predicate if said else None)
        score = report.judgement.score
        assert row["score"] == (None if score is None else pytest.approx(score, rel=1e-5))
        assert row["sink_mass"] == pytest.approx(report.evidence.stats.sink_mass.value, rel=1e-5)
        induction = report.evidence.reading("induction")
        assert induction is not None and row["induction"] == pytest.approx(induction.value, rel=1e-5)
    assert not re.search(r"(?i)\bnan\b|\binf\b", ",".join(",".join(line[13:22]) for line in lines[1:]))


def test_csv_bytes_do_not_depend_on_the_order_of_lines_and_the_last_line_of_a_head_wins(
    tmp_path: Path,
) -> None:
    made = reports()
    first = write_run(tmp_path / "a", made)
    stale = head_report(0, 2, kind="failed", seed=9)
    second = write_run(tmp_path / "b", [stale, *reversed(made)])
    for folder in (first, second):
        write_reports(folder)
    assert (first / "heads.csv").read_bytes() == (second / "heads.csv").read_bytes()


def test_a_half_written_last_line_is_left_out_even_where_the_head_is_known(tmp_path: Path) -> None:
    folder = write_run(tmp_path, reports())
    write_reports(folder)
    whole = (folder / "heads.csv").read_bytes()
    line = (folder / "heads.jsonl").read_bytes().splitlines()[1]
    with (folder / "heads.jsonl").open("ab") as file:
        file.write(line[: len(line) // 2])
    write_reports(folder)
    assert (folder / "heads.csv").read_bytes() == whole


def test_a_damaged_line_and_a_missing_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no heads\.jsonl"):
        write_reports(tmp_path)
    folder = write_run(tmp_path, reports()[:1])
    with (folder / "heads.jsonl").open("a") as file:
        file.write('{"head": {"layer": 0, "index": 7}}\n')
    with pytest.raises(RunFolderError, match="head L0H7: not a head report"):
        write_reports(folder)
    (folder / "config.json").write_text("{")
    write_run(tmp_path / "c", reports()[:1])
    (tmp_path / "c" / "run.json").write_text("[]")
    with pytest.raises(RunFolderError, match="not an object"):
        write_reports(tmp_path / "c")


def test_a_run_with_nothing_but_heads_still_gets_its_pages(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [])
    for name in ("config.json", "run.json", "calls.jsonl"):
        (folder / name).unlink()
    write_reports(folder)
    assert (folder / "heads.csv").read_text().count("\n") == 1
    assert "0 heads" in (folder / "report.html").read_text()


def test_disk_trouble_leaves_the_old_pages(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "heads.csv").read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_reports(run)
    assert (run / "heads.csv").read_bytes() == before
    assert not list(run.glob(".*tmp"))


def test_mean_margins_count_who_they_should() -> None:
    made = reports()
    summary = Summary()
    for report in made:
        summary.add(report)
    groups = [margin_group(report) for report in made]
    assert groups == ["counted"] * 3 + [
        "equals a rule",
        "rests on the first token",
        "abstained",
        "failed",
        "unscored",
    ]
    margins = [report.judgement.margin or 0.0 for report in made[:3]]
    assert summary.mean_margin_described == pytest.approx(sum(margins) / 3)
    assert summary.mean_margin_all == pytest.approx(sum(margins) / 6)  # abstained, failed, unscored at 0
    assert summary.n_unscored == 1 and summary.n_total == 8
    assert summary.risk_coverage[-1] == (pytest.approx(3 / 6), pytest.approx(sum(margins) / 3))
    rival = summary.controls[("rival", "previous_token")]
    assert rival.n == 5 and rival.same_rule == 1 and len(rival.differences) == 4


def test_examples_keep_40_before_and_8_after_and_lose_nothing_silently() -> None:
    report = head_report(1, 1, kind="supported")
    example = max(report.evidence.examples, key=lambda item: item.dst)
    row = example_json(example)
    assert row["first"] == example.dst - 40 and len(row["attn"]) == 41
    assert len(row["tokens"]) == min(49, len(example.tokens) - row["first"])
    assert row["attn"][-1] == round(example.pattern[example.dst] * 10_000)
    assert row["mass"] == pytest.approx(1 - example.sink_mass, rel=1e-3)
    kept = sum(part for part in row["part"]) / 10_000
    assert kept + row["far"] + example.contribution_shares[0] == pytest.approx(1, abs=0.01)
    json.dumps(card(report), allow_nan=False)


def test_the_page_holds_hostile_text_as_data_only(run: Path) -> None:
    source = (run / "report.html").read_text(encoding="utf-8")
    page = Islands(source)
    assert source.count("</script>") == 2 + len(KINDS)  # the index, a card a head, the script
    assert not any(tag == "img" or any(name.startswith("on") for name in attrs) for tag, attrs in page.tags)
    assert not any(
        str(value).startswith(("http:", "https:", "//")) for _, attrs in page.tags for value in attrs.values()
    )
    stored = json.loads(page.scripts["data-L0H0"])
    assert stored["said"]["summary"] == reports()[0].description.summary  # type: ignore[union-attr]
    assert "default-src 'none'" in source and "unsafe" not in source.split("</head>")[0].split("<style>")[0]
    islands = [text for name, text in page.scripts.items() if name.startswith(("data-", "index"))]
    assert len(islands) == 1 + len(KINDS) and not any(set("<>&") & set(text) for text in islands)
    index = json.loads(page.scripts["index"])
    assert [row[0] for row in index["rows"]] == [f"L0H{i}" for i in range(len(KINDS))]


def test_large_runs_are_packed_and_cut_to_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [head_report(0, i, kind="supported", per_stratum=6) for i in range(4)]
    folder = write_run(tmp_path, made)
    monkeypatch.setattr(html, "PLAIN_BYTES", 1000)
    write_reports(folder)
    page = Islands((folder / "report.html").read_text())
    stored = json.loads(zlib.decompress(base64.b64decode(page.scripts["data-L0H1"])))
    assert len(stored["examples"]) == 24 and stored["omitted"] == 0
    full = sum(len(page.scripts[f"data-L0H{i}"]) for i in range(4))
    monkeypatch.setattr(html, "PAGE_BYTES", 1_000_000 + 2800 + full * 6 // 10)
    write_reports(folder)
    page = Islands((folder / "report.html").read_text())
    stored = json.loads(zlib.decompress(base64.b64decode(page.scripts["data-L0H1"])))
    kept = len(stored["examples"])
    assert kept in {12, 4} and stored["omitted"] == 24 - kept and stored["made"]["prompt"]
    monkeypatch.setattr(html, "PAGE_BYTES", 0)
    write_reports(folder)
    page = Islands((folder / "report.html").read_text())
    stored = json.loads(zlib.decompress(base64.b64decode(page.scripts["data-L0H1"])))
    assert len(stored["examples"]) == 4 and stored["made"]["left_out"] and stored["said"]


def test_markdown_is_short_and_escaped(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| L0H0 "))
    assert "<" not in line and "\\|" in line and "\\`x\\`" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 11
    assert "One corpus" in text and "underpowered" in text and "1 equal a positional rule" in text


def test_the_terminal_card_says_what_matters_and_nothing_that_moves_the_cursor() -> None:
    for kind, report in zip(KINDS, reports(), strict=True):
        text = card_text(report)
        assert text.startswith(str(report.head)) and report.judgement.verdict.upper() in text.splitlines()[0]
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", text)
        assert ("= previous_token" in text) == (kind == "rule")
        assert ("rests on the first token" in text) == (kind == "first_token")
        assert ("FAILED" in text) == (kind == "failed")


@pytest.mark.parametrize(
    ("config", "command", "wanted"),
    [
        ({"model": "m"}, None, "autointerp describe-head @UNIT@ --model m --out runs/@UNIT@"),
        ({}, "autointerp describe-all-heads --model 'a b' --heads 0.* --out=x",
        "autointerp describe-head @UNIT@ --model 'a b' --out runs/@UNIT@"),
        ({}, "autointerp describe-head L1H2 --seed 3",
        "autointerp describe-head @UNIT@ --seed 3 --out runs/@UNIT@"),
        ({}, "autointerp describe-head --seed 3 L1H2",
        "autointerp describe-head @UNIT@ --seed 3 --out runs/@UNIT@"),
        ({"corpus": ["a", "b"], "seed": 0}, "unreadable '",
        "autointerp describe-head @UNIT@ --corpus a --corpus b --out runs/@UNIT@"),
    ],
)  # fmt: skip
def test_the_command_that_reproduces_a_head(config: dict[str, object], command: str | None, wanted: str) -> None:
    assert unit_command(config, command) == wanted


def test_costs_are_shown_and_a_run_without_an_llm_says_so(run: Path, tmp_path: Path) -> None:
    assert "0.0312 USD" in (run / "report.md").read_text() and "1 from the cache" in (run / "report.md").read_text()
    plain = head_report(0, 0, kind="supported")
    plain = plain.model_copy(
        update={"provenance": plain.provenance.model_copy(update={"explainer": "detectors", "model": ""})}
    )
    folder = write_run(tmp_path, [plain], {**RUN, "cost_usd": None})
    (folder / "calls.jsonl").unlink()
    write_reports(folder)
    assert "no LLM was called" in (folder / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(run: Path) -> None:
    page_file = run / "report.html"
    with browser_page() as page:
        page.open(file_url(page_file))
        page.wait("document.querySelectorAll('#table tbody tr').length === 8")
        page.key("/")
        assert page.run("document.activeElement.id") == "search"
        page.run("const s = document.querySelector('#search'); s.value = 'L0H3';s.dispatchEvent(new Event('input'))")
        page.wait("document.querySelectorAll('#table tbody tr').length === 1")
        page.run("document.querySelector('#clear').click()")
        page.run("document.querySelector('.cell[tabindex=\"0\"]').focus()")
        page.key("ArrowRight")
        assert page.run("document.activeElement.dataset.tip") == "L0H1"
        assert page.run("document.querySelector('#tip').hidden") is False
        page.key("Enter")
        page.wait("document.querySelector('#card').open && location.hash === '#L0H1'")
        assert page.run("document.querySelectorAll('#card .example').length") == 8
        page.run("document.querySelector('#card .tok[tabindex=\"0\"]').focus()")
        page.key("ArrowLeft")
        assert "share" in page.run("document.querySelector('#tip').textContent")
        page.key("Escape")
        page.wait("!document.querySelector('#card').open")
        assert page.run("document.activeElement.dataset.tip") == "L0H1"
        page.open(file_url(page_file, "L0H6"))
        page.wait("document.querySelector('#card').open")
        assert "cut off after 2 repairs" in page.run("document.querySelector('#card').textContent")
        assert page.run("window.hacked === undefined && document.images.length === 0")
        assert [url for url in page.requests if not url.startswith(("file:", "about:"))] == []
        assert page.problems == []


def test_discoveries_retrieval_and_words_over_a_run() -> None:
    def one(index: int, p: float, rank: float) -> HeadReport:
        report = head_report(0, index, kind="partly")
        score = max(report.scores, key=lambda s: len(s.controls))
        details = score.details | {"retrieval_rank": rank, "retrieval_heads": 20}
        changed = tuple(c.model_copy(update={"p": p}) for c in score.controls)
        new = score.model_copy(update={"controls": changed, "details": details})
        judged = report.judgement.model_copy(
            update={"compared_with": changed[0].name, "metric": new.metric, "domain": new.domain, "score": new.value}
        )
        said = report.description.model_copy(update={"looks_at": "a b c", "writes": "d e"})
        return report.model_copy(update={"scores": (new,), "judgement": judged, "description": said})

    summary = Summary()
    for index, (p, rank) in enumerate([(0.001, 1), (0.012, 1.5), (0.03, 4), (0.2, 2)]):
        summary.add(one(index, p, rank))
    # Benjamini-Hochberg by hand: 4p_1 = .004, 2p_2 = .024, 4/3 p_3 = .04, p_4 = .2
    assert summary.discoveries() == (3, 4)
    first, low, high, reciprocal, chance = summary.retrieval()
    assert (first, reciprocal, chance) == pytest.approx((0.25, (1 + 1 / 1.5 + 1 / 4 + 1 / 2) / 4, 0.05))
    assert low < 0.25 < high
    assert summary.words == [5, 5, 5, 5]


def test_figures_of_the_run_page_are_where_their_numbers_say() -> None:
    summary = Summary()
    summary.effects = [
        ("L0H0", 1e-3, 0.5, "supported"),
        ("L0H1", 1e-1, -0.1, "refuted"),
        ("L0H2", math.nan, 0.2, "partly"),
    ]
    found = scatter(summary)
    assert found is not None
    assert [(d.head, d.x, d.y) for d in found.dots] == [("L0H0", 0.0, 0.0), ("L0H1", 280.0, 130.0)]
    assert found.zero == pytest.approx(130 * 0.5 / 0.6, abs=0.1)
    assert found.ticks == ((0.0, "1e-3"), (140.0, "1e-2"), (280.0, "1e-1"))
    assert scatter(Summary()) is None
    assert calibration(Summary()) is None
    summary.stated = [(0.9, True), (0.9, True), (0.9, False), (0.3, False)]
    drawn = calibration(summary)
    assert drawn is not None
    assert [(b.x, b.y) for b in drawn.bins] == [(84.0, 130.0), (252.0, pytest.approx(130 / 3, abs=0.1))]
    assert drawn.error == pytest.approx((3 * (0.9 - 2 / 3) + 0.3) / 4)
