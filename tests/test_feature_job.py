"""Whole runs over neurons and latents in this process: files, resuming after every stage, servers, bad input."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from autointerp.cli import main
from autointerp.cli.screen import Screen
from autointerp.config import FEATURE_SCORERS, RunConfig, Settings
from autointerp.feature_records import FEATURE_LABELS
from autointerp.pipeline import JobOptions, Sources
from autointerp.pipeline.feature_job import FeatureJobResult, run_feature_job
from autointerp.store import RunFolder
from tests.run_helpers import NOWHERE, all_text, config_for, lines_of, save_corpus, save_model
from tests.servers import MisbehavingServer, content_for

WIDTH = 32  # of the tiny model
UNITS = "neurons:L0N0-L0N5,L1N3"
NAMES = ["L0N0", "L0N1", "L0N2", "L0N3", "L0N4", "L0N5", "L1N3"]
QUICK = ("predicate", "conditional_ablation")
FILES = ("features.csv", "features.jsonl", "report.html", "report.md", "config.json", "run.json")


class Place:
    def __init__(self, root: Path) -> None:
        self.model, self.corpus = save_model(root / "secretmodel"), save_corpus(root / "secretcorpus.txt")
        self.sae = save_sae(root / "sae")

    def config(self, units: str = UNITS, **values: Any) -> RunConfig:
        return config_for(self.model, self.corpus, **{"units": units, "scorers": QUICK, **values})

    def words(self, out: Path, *more: str) -> list[str]:
        places = ["--model", str(self.model), "--corpus", str(self.corpus), "--out", str(out)]
        return [*more, *places, "--max-tokens", "5000", "--context", "24", "--explainer", "detectors"]


def save_sae(folder: Path, width: int = WIDTH, scale: float = 1.0, **settings: Any) -> Path:
    """An exact dictionary of a place: one latent for each side of each number."""
    from safetensors.torch import save_file

    both = torch.cat([torch.eye(width), -torch.eye(width)])
    folder.mkdir(parents=True, exist_ok=True)
    zeros = {"b_enc": torch.zeros(2 * width), "b_dec": torch.zeros(width)}
    weights = {"W_enc": both.T.contiguous(), "W_dec": both * scale, **zeros}
    save_file(weights, folder / "sae_weights.safetensors")
    given = {"architecture": "standard", "d_in": width, "d_sae": 2 * width, "hook_name": "blocks.1.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(given | settings))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("features"))


def run_units(
    config: RunConfig, out: Path, console: Callable[[str, int, int], None] | None = None, **settings: Any
) -> FeatureJobResult:
    options = JobOptions(Settings(**{"retry_base": 0.002, **settings}), "autointerp test")
    return run_feature_job(config, Sources(config.model), out, options, console or Screen())


@pytest.fixture(scope="module")
def done(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the detectors."""
    out = tmp_path_factory.mktemp("done") / "run"
    run_units(place.config(), out)
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "features.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_every_file_and_a_row_for_every_unit(done: Path) -> None:
    assert all((done / name).is_file() for name in FILES)
    table = rows(done)
    assert [row["unit"] for row in table] == NAMES
    assert list(table[0])[:4] == ["unit", "layer", "index", "label"]
    assert {"verdict", "score", "score_low", "margin", "compared_with", "coverage", "density"} <= set(table[0])
    assert {row["status"] for row in table} <= {"described", "abstained"}
    assert {row["label"] for row in table} <= set(FEATURE_LABELS)
    facts = json.loads((done / "run.json").read_text())
    assert sum(facts["units"]["states"].values()) == facts["units"]["all"] == 2 * 4 * WIDTH  # both layers were read
    assert 0 < facts["random_weights"]["n"] <= 20
    assert facts["stopped"] is None


def test_a_finished_run_does_nothing_again_and_its_pages_come_from_disk(place: Place, done: Path) -> None:
    before = {name: (done / name).read_bytes() for name in ("features.csv", "features.jsonl", "report.md")}
    stages: list[str] = []
    result = run_units(place.config(), done, lambda stage, *_: stages.append(stage))
    assert len(result.reports) == len(NAMES)
    assert stages == ["loading the model and the corpus", "everything is there; rebuilding the pages"]
    assert {name: (done / name).read_bytes() for name in before} == before
    assert main(["report", str(done)]) == 0
    assert (done / "features.csv").read_bytes() == before["features.csv"]


class Killed(BaseException):
    """What a signal does, at a place that the test chooses."""


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5, 11])
def test_a_run_stopped_anywhere_goes_on_to_the_same_numbers(place: Place, done: Path, tmp_path: Path, at: int) -> None:
    calls = 0

    def stop(stage: str, done: int, of: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_units(place.config(), out, stop)
    assert not (out / "features.csv").exists()
    run_units(place.config(), out)
    assert (out / "features.csv").read_bytes() == (done / "features.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["features.jsonl", "run.json"])
def test_a_stopped_run_killed_while_it_writes_its_end_is_not_taken_for_finished(
    place: Place, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    nothing = {"scores": [], "judgement": {"verdict": "unscored", "reason": "stopped"}}
    lines = [line | nothing for line in lines_of(out / "features.jsonl")]
    (out / "features.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))  # as a stop leaves it
    told = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(told | {"stopped": "the budget is used up"}))
    write = RunFolder.write_text

    def killed(self: RunFolder, name: str, text: str) -> None:
        if name == file:
            raise Killed
        write(self, name, text)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_text", killed)
        with pytest.raises(Killed):
            run_units(place.config(), out)
    run_units(place.config(), out)
    assert (out / "features.csv").read_bytes() == (done / "features.csv").read_bytes()
    assert json.loads((out / "run.json").read_text())["stopped"] is None


def test_reports_without_the_facts_of_their_run_are_made_again(place: Place, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    (out / "run.json").unlink()
    run_units(place.config(), out)
    assert json.loads((out / "run.json").read_text())["random_weights"]["n"] > 0
    assert (out / "features.csv").read_bytes() == (done / "features.csv").read_bytes()


def test_results_of_another_version_are_one_error_everywhere(
    place: Place, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    lines = (out / "features.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace('"status"', '"condition"')
    (out / "features.jsonl").write_text("\n".join(lines) + "\n")
    again = place.words(out, "describe-all-features", "--units", UNITS, "--scorers", ",".join(QUICK), "--seed", "3")
    for words in (again, ["report", str(out)], ["compare", str(out), str(done)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert str(out / "features.jsonl") in error and "status" in error and "pydantic" not in error
        assert ("line 3" in error and "Remove the file" in error) or NAMES[2] in error


def test_another_config_is_refused_in_a_run_that_is_there(place: Place, done: Path) -> None:
    before = (done / "features.csv").read_bytes()
    assert main(place.words(done, "describe-all-features", "--units", "neurons:L1")) == 2
    assert main(place.words(done, "describe-all-heads")) == 2
    assert (done / "features.csv").read_bytes() == before


@pytest.mark.slow
def test_a_sample_of_latents_is_described_and_all_are_counted(place: Place, tmp_path: Path) -> None:
    notes: list[str] = []
    config = place.config(f"sae:{place.sae}", sample=5, scorers=("predicate",))
    run_units(config, tmp_path / "run", lambda stage, *_: notes.append(stage))
    table = rows(tmp_path / "run")
    assert len(table) == 5
    assert all(re.fullmatch(r"L1F\d+", row["unit"]) for row in table)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sum(facts["units"]["states"].values()) == 2 * WIDTH
    assert facts["reconstruction"]["explained_variance"]["value"] == pytest.approx(1, abs=1e-3)
    fit = next(i for i, note in enumerate(notes) if "explained variance" in note)
    assert fit < next(i for i, note in enumerate(notes) if note.startswith("reading units"))


def feature_reply(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """A valid description of a unit that depends on the prompt; the servers' own content for what scorers ask."""
    said = content_for(body)
    if "activates_on" not in str(body.get("response_format")):
        return said
    assert isinstance(said, Mapping)
    draw = random.Random(json.dumps(body["messages"]))
    rule = draw.choice(["dst.is_capitalised", "dst.is_first", "any(src == dst)", "dst.position > 8"])
    return {**said, "predicate": rule, "label": "other", "unclear": False, "raises": ["cat"], "lowers": []}


def asking(place: Place, **values: Any) -> RunConfig:
    given = {"explainer": "llm", "llm": "test-model", "base_url": NOWHERE, "scorers": FEATURE_SCORERS, **values}
    return place.config("neurons:L0N0-L0N3", **given)


@pytest.mark.slow
def test_a_server_describes_and_judges_blind_and_is_asked_nothing_twice(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(feature_reply) as server:
        result = run_units(asking(place), out, base_url=server.base_url)
        asked = len(server.bodies)
        again = run_units(asking(place), out, base_url=server.base_url)
        assert len(server.bodies) == asked
    states = [r.evidence.stats.state for r in result.reports]
    assert [r.status for r in result.reports] == ["described" if s == "ok" else "abstained" for s in states]
    assert states.count("ok") >= 3
    assert [r.judgement for r in again.reports] == [r.judgement for r in result.reports]
    named = {
        (c.name.split(" (")[0]) for r in result.reports for s in r.scores if s.scorer == "predicate" for c in s.controls
    }
    assert {"chance line", "random-weights model"} <= named
    prompts = " ".join(json.dumps(line["prompt"]) for line in lines_of(out / "calls.jsonl"))
    assert "secretmodel" not in prompts and "secretcorpus" not in prompts
    assert not re.search(r"L0N\d|L1F\d", prompts)


@pytest.mark.slow
def test_replies_that_cannot_be_read_are_failures_and_are_counted(place: Place, tmp_path: Path) -> None:
    def wrong(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
        return "no idea" if "activates_on" in json.dumps(body) else content_for(body)

    with MisbehavingServer(wrong) as server:
        result = run_units(asking(place, scorers=QUICK), tmp_path / "run", base_url=server.base_url)
    alive = [r for r in result.reports if r.evidence.stats.state == "ok"]
    assert {r.status for r in alive} == {"failed"}
    assert len(result.failed) == len(alive) >= 3
    assert {row["verdict"] for row in rows(tmp_path / "run")} == {"unscored"}


def test_a_dry_run_sends_nothing(place: Place, tmp_path: Path) -> None:
    options = JobOptions(Settings(), "autointerp test", dry_run=True)
    result = run_feature_job(asking(place), Sources(str(place.model)), tmp_path / "run", options, Screen())
    assert result.estimate is not None
    purposes = dict((row[0], row[1]) for row in result.estimate.rows)
    assert purposes["explain"] <= 4
    assert not (tmp_path / "run" / "features.jsonl").exists()


@pytest.mark.slow
def test_no_more_is_asked_than_the_estimate_says_where_most_units_are_dead(place: Place, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_sae(tmp_path / "sae", d_sae=4 * WIDTH)
    weights = load_file(folder / "sae_weights.safetensors")
    both = {name: torch.cat([weights[name]] * 2, axis) for name, axis in (("W_enc", 1), ("b_enc", 0), ("W_dec", 0))}
    both["b_dec"] = weights["b_dec"]
    both["b_enc"][2 * WIDTH :] = -1e4  # the second half never activates
    save_file(both, folder / "sae_weights.safetensors")
    units = {"units": f"sae:{folder}", "select": "L1F0-L1F3,L1F64-L1F119"}
    config = asking(place).model_copy(update={**units, "scorers": ("predicate", "simulation")})
    dry = JobOptions(Settings(), "autointerp test", dry_run=True)
    told = run_feature_job(config, Sources(config.model), tmp_path / "dry", dry, Screen()).estimate
    assert told is not None
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(feature_reply) as server:
        result = run_units(config, out, base_url=server.base_url)
    alive = [r for r in result.reports if r.evidence.stats.state == "ok"]
    assert 0 < len(alive) <= 4 and len(result.reports) == 60
    asked = Counter(line["purpose"] for line in lines_of(out / "calls.jsonl"))
    most = {purpose: calls for purpose, calls, _, _ in told.rows}
    assert asked["simulation repeat control"] > 0
    assert {name: n for name, n in asked.items() if name != "probe" and n > most[name]} == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("describe-all-features", "--units", "heads"), "--units"),
        (("activations", "L0F3", "--units", "neurons:L0"), "L0F3 is a latent"),
        (("describe-all-features", "--units", "neurons:L9"), "L9"),
        (("describe-all-features", "--units", "neurons:L0N4096"), "4096"),
        (("describe-all-features", "--units", "sae:/nowhere"), "/nowhere"),
        (("describe-all-features", "--scorers", "pointing"), "pointing"),
        (("describe-feature", "L0F3"), "sae"),
        (("describe-feature", "L0H3"), "`autointerp describe-head` takes L5H1"),
        (("activations", "L0H3"), "`autointerp multiples` takes L5H1"),
        (("describe-head", "L1N1"), "`autointerp describe-feature` takes L3N17"),
        (("render", "L1X1"), "`autointerp render` takes L3N17, a neuron, or L3F17"),
        (("activations", "L0N99999"), "99999"),
    ],
)
def test_bad_input_is_one_clear_error(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    more = place.words(tmp_path / "run", *words)
    if words[0] in ("activations", "render"):
        more = [w for w in more if w not in ("--out", str(tmp_path / "run"), "--explainer", "detectors")]
    assert main(more) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert len(error.strip().splitlines()[-1]) < 700


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("describe-all-features", "--units", "neurons:L0X1"), "'L0X1' names no neuron"),
        (("describe-all-features", "--units", "neurons:L1-L0"), "higher to a lower"),
        (("describe-all-features", "--units", "neurons:L0N1-L0N2-L0N3"), "is no range"),
        (("describe-all-features", "--units", "sae:"), "is unknown"),
        (("describe-all-features", "--units", "sae:there", "--select", "L1N2"), "'L1N2' names no latent"),
        (("describe-all-features", "--select", "L1F2"), "'L1F2' names no neuron"),
        (("describe-feature", "L0N1", "--units", "neurons:"), "names no neuron"),
        (("activations", "L0N1", "--units", "sae:there"), "L0N1 is a neuron"),
        (("render", "L0F1", "--units", "latents:L0"), "is unknown"),
    ],
)
def test_names_that_fit_no_model_are_refused_before_one_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    job = () if words[0] in ("activations", "render") else ("--out", str(tmp_path / "run"), "--explainer", "detectors")
    assert main([*words, *job, "--model", str(tmp_path / "no-such-model")]) == 2
    error = capsys.readouterr().err
    assert said in error and "no-such-model" not in error
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_of_something_else_is_refused_before_anything_is_described(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = save_sae(tmp_path / "wide", WIDTH + 1)
    assert main(place.words(tmp_path / "a", "describe-all-features", "--units", f"sae:{wide}")) == 2
    assert str(WIDTH + 1) in capsys.readouterr().err
    other = save_sae(tmp_path / "other", scale=-3.0)
    assert main(place.words(tmp_path / "b", "describe-all-features", "--units", f"sae:{other}")) == 2
    assert "explain" in capsys.readouterr().err
    assert not (tmp_path / "b" / "features.jsonl").exists()


@pytest.mark.slow
def test_one_unit_gets_a_card_and_its_strongest_places(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(place.words(tmp_path / "run", "describe-feature", "L0N3", "--scorers", "predicate")) == 0
    assert "L0N3" in capsys.readouterr().out
    words = ["--model", str(place.model), "--corpus", str(place.corpus), "--max-tokens", "5000", "--context", "24"]
    assert main(["activations", "L0N3", "--top", "4", "--format", "csv", *words]) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    values = [float(row["activation"]) for row in table]
    assert len(values) == 4 and values == sorted(values, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("units", ["neurons", "sae"])
def test_the_prompt_of_a_unit_is_shown_with_and_without_a_run(
    place: Place, done: Path, capsys: pytest.CaptureFixture[str], units: str
) -> None:
    words = ["--model", str(place.model), "--corpus", str(place.corpus), "--max-tokens", "5000", "--context", "24"]
    named = ["L0N3"] if units == "neurons" else ["L1F3", "--units", f"sae:{place.sae}"]
    assert main(["render", *named, *words]) == 0
    shown = capsys.readouterr().out
    assert "=== user ===" in shown and "activates_on" in shown
    if units == "neurons":
        assert main(["render", *named, "--out", str(done)]) == 0
        assert capsys.readouterr().out.partition("=== user ===")[0] == shown.partition("=== user ===")[0]


@pytest.mark.slow
def test_no_key_is_in_any_file(place: Place, tmp_path: Path) -> None:
    from pydantic import SecretStr

    key = "sk-live-very-secret-0123456789abcdef"
    with MisbehavingServer(feature_reply, key=key) as server:
        run_units(
            asking(place, scorers=QUICK), tmp_path / "runs" / "run", base_url=server.base_url, api_key=SecretStr(key)
        )
    assert key.encode() not in all_text(tmp_path / "runs" / "run")


def test_a_control_without_a_living_unit_is_a_reason_and_no_share(place: Place, tmp_path: Path) -> None:
    from autointerp.pipeline.random_control import FILE, counted, facts_of
    from autointerp.store import RunFolder

    with RunFolder(tmp_path / "run") as run:
        facts = facts_of(run, object(), lambda twin: counted([], 0, 0.0))  # type: ignore[arg-type]
        assert "share" not in facts and "alive" in str(facts["reason"])
        assert json.loads(run.path(FILE).read_text()) == facts
