"""The agent inside a run: loops on a real model, resume inside a head, budget, dry run, the card, `--llm rules`."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from autointerp.agent.journal import Journal
from autointerp.cli.main import main
from autointerp.errors import BadInput
from autointerp.pipeline.agent_journal import AGENT
from autointerp.records import HeadReport
from autointerp.report.card import card_text
from autointerp.report.data import card, trimmed
from tests.agent_helpers import asked, claim
from tests.run_helpers import (
    PREDICATES,
    asking_config,
    command,
    config_for,
    describing,
    lines_of,
    run_here,
    save_corpus,
    save_model,
    subprocess_environment,
)
from tests.servers import MisbehavingServer

HEADS = "0.0,1.2"
R = TypeVar("R")
EVIL = '</script><img src=x onerror=alert(1)> HISTORY>>> "quoted" \u202e'


def playing(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """An agent that tries everything: valid, invalid and repeated experiments, several claims, hostile words."""
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    names = schema.get("properties", {})
    draw = random.Random(json.dumps(body["messages"]))
    if "hypotheses" in names:
        return {"hypotheses": [claim(draw.choice(PREDICATES)), claim("nonsense(", looks_at=EVIL)]}
    if "experiments" in names:
        tried = [
            asked("ov", tokens=["the"]), asked("attend", texts=[{"text": "the film", "mark": "nowhere"}]),
            asked("rows", kind="top", n=1), asked("shell", command="rm -rf /"), asked("detectors", data="all"),
        ]  # fmt: skip
        return {"thought": EVIL, "experiments": draw.sample(tried, 5)}
    if "claims" in names:
        return {"thought": EVIL, "claims": [claim(p) for p in draw.sample(PREDICATES, 2)], "abstain": False}
    return describing(body)


@dataclass(frozen=True)
class Place:
    model: Path
    corpus: Path

    def config(self, **values: Any) -> Any:
        given = {"agent": "rounds=1", "heads": HEADS, "scorers": ("predicate",), "lenses": ("none",), **values}
        return asking_config(self.model, self.corpus, **given)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("agent")
    return Place(save_model(root / "model"), save_corpus(root / "corpus.txt"))


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with one round."""
    out = tmp_path_factory.mktemp("undisturbed") / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = run_here(place.config(), out, base_url=server.base_url)
        assert not server.repeated
        calls = server.calls
        (out / "heads.jsonl").unlink()  # everything comes from the journal and the request cache
        run_here(place.config(), out, base_url=server.base_url)
        assert server.calls == calls
    assert {r.status for r in result.reports} == {"described"}
    assert any(note.startswith("agent: the verdict of 2 of 2 heads") for note in result.notes)
    return out


def reports_of(run: Path) -> list[HeadReport]:
    return [HeadReport.model_validate_json(line) for line in (run / "heads.jsonl").read_text().splitlines()]


def bare(report: HeadReport) -> Any:
    """The transcript without the hashes of requests, which hold the address of the server."""
    assert report.transcript is not None
    turns = tuple(turn.model_copy(update={"request_hashes": ()}) for turn in report.transcript.turns)
    return report.transcript.model_copy(update={"turns": turns})


def test_every_head_has_its_transcript_and_its_one_shot_answer(undisturbed: Path) -> None:
    for report in reports_of(undisturbed):
        transcript = report.transcript
        assert transcript is not None and transcript.one_shot is not None
        assert [t.step for t in transcript.turns] == ["one_shot", "hypotheses", "experiments", "revision"]
        tried = transcript.turns[2].experiments
        assert len(tried) == 5 and any(e.numbers for e in tried)
        assert {e.tool for e in tried if e.error} >= {"attend", "shell"} & {e.tool for e in tried}
        assert "at most 4 experiments" in tried[4].error
        assert transcript.tokens[0] > 0
    purposes = {line["purpose"] for line in lines_of(undisturbed / "calls.jsonl")}
    assert {"explain", "agent hypotheses", "agent experiments", "agent revision"} <= purposes
    assert json.loads((undisturbed / "config.json").read_text())["config"]["agent"] == "rounds=1"


def test_no_experiment_is_answered_twice(undisturbed: Path) -> None:
    lines = [line for line in lines_of(undisturbed / AGENT) if line["turn"] is None]
    keys = [(str(line["unit"]), line["key"]) for line in lines]
    assert len(keys) == len(set(keys)) > 4


@pytest.mark.parametrize("lives", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 12))])
def test_killed_inside_a_head_nothing_is_repeated(
    place: Place, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: int
) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = killed_and_resumed(
            lambda: run_here(place.config(), out, base_url=server.base_url), monkeypatch, out, lives
        )
        # the other head's request may have been under way when the process went
        lost = json.loads((out / "run.json").read_text())["lost_in_flight"]
        assert len(server.repeated) <= lost <= 1
    assert [bare(r) for r in result.reports] == [bare(r) for r in reports_of(undisturbed)]


def killed_and_resumed(run: Callable[[], R], monkeypatch: pytest.MonkeyPatch, out: Path, lives: int) -> R:
    """A run that dies after so many lines of the journal, and is run again: what the journal holds is neither lost nor
    done again."""
    with monkeypatch.context() as patched:
        mortal(patched, lives)
        with pytest.raises(KeyboardInterrupt):
            run()
    written = (out / AGENT).read_bytes()
    result = run()
    assert (out / AGENT).read_bytes().startswith(written)
    lines = [line for line in lines_of(out / AGENT) if line["turn"] is None]
    keys = [(str(line["unit"]), line["key"]) for line in lines]
    assert len(keys) == len(set(keys)) > 3
    return result


def mortal(patched: pytest.MonkeyPatch, lives: int) -> None:
    """After so many lines of the journal, the process is gone."""
    left = [lives]

    def dying(method: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: Any) -> None:
            method(*arguments)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return write

    for name in ("add_turn", "add_answer"):
        patched.setattr(Journal, name, dying(getattr(Journal, name)))


@pytest.mark.slow
def test_the_server_s_usage_never_passes_the_budget(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(playing) as server:
        budget = 18_000
        result = run_here(place.config(), out, base_url=server.base_url, budget_tokens=budget)
    used = [line["usage"] for line in lines_of(out / "calls.jsonl")]
    assert sum(u["prompt_tokens"] + u["completion_tokens"] for u in used) <= budget
    stops = [r.transcript.stop for r in result.reports if r.transcript is not None]
    assert any("budget of the loops" in stop for stop in stops)
    assert {r.status for r in result.reports} == {"described"}  # the one-shot answers stand


@pytest.mark.slow
def test_dry_run_counts_the_loops(place: Place, tmp_path: Path) -> None:
    estimate = run_here(place.config(agent="rounds=3"), tmp_path / "runs" / "run", dry_run=True).estimate
    assert estimate is not None
    calls = {row[0]: row[1] for row in estimate.rows}
    assert (calls["agent hypotheses"], calls["agent experiments"], calls["agent revision"]) == (2, 6, 6)


@pytest.mark.slow
def test_off_is_as_before(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = run_here(place.config(agent="off"), out, base_url=server.base_url)
    assert all(r.transcript is None for r in result.reports)
    assert not (out / AGENT).exists()
    assert not [n for n in json.loads((out / "config.json").read_text())["templates"] if n.startswith("agent")]
    assert {line["purpose"] for line in lines_of(out / "calls.jsonl")} <= {"probe", "explain", "repair"}


def test_the_card_holds_the_timeline_and_nothing_of_it_is_markup(undisturbed: Path) -> None:
    page = (undisturbed / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and page.count("</script>") == page.count("<script")
    report = reports_of(undisturbed)[0]
    shown = card(report)["agent"]
    assert [turn["step"] for turn in shown["turns"]] == ["one shot", "hypotheses", "experiments", "revision"]
    assert trimmed(card(report), 1, with_prompts=False)["agent"]["turns"] is None
    text = card_text(report)
    assert "agent:" in text and "\u202e" not in text and "round 1, experiments" in text


@pytest.mark.slow
def test_rules_play_the_agent_without_a_server_and_it_is_told(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--llm", "rules", "--scorers", "predicate", "--lenses", "none", "--agent", "rounds=1"]
    words = command(place.model, place.corpus, tmp_path / "run", *more)
    words[0:1] = ["describe-head", "L0H1"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "select split: one shot: " in said.err
    assert "agent:" in said.out
    (report,) = reports_of(tmp_path / "run")
    assert report.transcript is not None and report.provenance.model == "rules"


def test_the_agent_is_on_for_language_models_only(place: Place, tmp_path: Path) -> None:
    words = command(place.model, place.corpus, tmp_path / "run", "--explainer", "detectors", "--agent", "rounds=1")
    assert main(words) == 2
    with pytest.raises(BadInput, match="needs a language model"):
        main([*words, "--debug"])
    with pytest.raises(ValueError, match="write off or rounds=N"):
        config_for(place.model, place.corpus, agent="sometimes")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_for_good_three_times_inside_heads_nothing_is_repeated(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    more = ["--llm", "rules", "--scorers", "predicate", "--lenses", "none", "--agent", "rounds=2", "--heads", "0.*"]
    words = [sys.executable, "-m", "autointerp", *command(place.model, place.corpus, out, *more)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": subprocess_environment()}
    for least in (6, 14, 20):
        with subprocess.Popen(words, **quiet) as process:  # type: ignore[call-overload]
            end = time.monotonic() + 200
            while process.poll() is None and time.monotonic() < end:
                if (out / AGENT).exists() and (out / AGENT).read_bytes().count(b"\n") >= least:
                    process.kill()
                time.sleep(0.01)
        assert process.returncode == -signal.SIGKILL
    assert subprocess.run(words, check=False, **quiet).returncode == 0  # type: ignore[call-overload]
    lines = lines_of(out / AGENT)
    done = [(str(line["unit"]), line["key"], str(line["turn"] and line["turn"]["step"])) for line in lines]
    rounds = [line["turn"] and line["turn"]["round"] for line in lines]
    assert len(set(zip(done, rounds, strict=True))) == len(lines) > 20
    hashes = [line["hash"] for line in lines_of(out / "calls.jsonl")]
    assert len(hashes) == len(set(hashes))
