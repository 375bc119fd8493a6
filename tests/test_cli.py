"""The command line: exit codes, one clear error for each bad input, options, environment and `.env`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autointerp.cli import main
from autointerp.cli.options import explain_options, resolve, run_options
from autointerp.cli.screen import Screen
from autointerp.config import read_environment
from autointerp.errors import BadInput
from autointerp.llm import ClientOptions
from tests.run_helpers import (
    ALL_HEADS,
    QUICK,
    all_text,
    asking,
    command,
    describing,
    save_corpus,
    save_model,
    subprocess_environment,
)
from tests.servers import MisbehavingServer

ENV = (
    "AUTOINTERP_LLM",
    "AUTOINTERP_JUDGE",
    "AUTOINTERP_TIMEOUT",
    "AUTOINTERP_CONCURRENCY",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
)
KEY = "sk-live-very-secret-0123456789abcdef"


class Place:
    def __init__(self, root: Path) -> None:
        self.model, self.corpus, self.run = save_model(root / "model"), save_corpus(root / "corpus.txt"), root / "run"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def ran(place: Place) -> Path:
    """A run of the detectors."""
    assert main(command(place.model, place.corpus, place.run, "--explainer", "detectors")) == 0
    return place.run


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine; no `.env` above the test's own folder."""
    for name in ENV:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


Said = pytest.CaptureFixture[str]


def refused(words: list[str], capsys: Said, match: str) -> str:
    """The error of a wrong request: exit code 2, one to three lines, no traceback."""
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr().err
    notes = ("explainer:", "run folder:")
    lines = [line for line in said.splitlines() if line.strip() and "…" not in line and not line.startswith(notes)]
    assert code == 2, said
    assert 1 <= len(lines) <= 3, said
    assert "Traceback" not in said
    assert match in " ".join(lines), said
    return said


# bad input


def test_wrong_options(capsys: Said) -> None:
    refused(["describe-all-heads", "--nonsense"], capsys, "--nonsense")
    refused([], capsys, "COMMAND")
    refused(["describe-some-heads"], capsys, "describe-some-heads")
    refused(["describe-all-heads", "--max-tokens", "many"], capsys, "many")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--max-tokens", "0"], "--max-tokens 0"),
        (["--context", "1"], "--context 1"),
        (["--concurrency", "0"], "--concurrency 0"),
        (["--timeout", "0"], "--timeout 0"),
        (["--budget-tokens", "0"], "--budget-tokens 0"),
        (["--budget-usd", "-1"], "--budget-usd"),
        (["--scorers", "predicate,magic"], "magic"),
        (["--prompts", "nowhere"], "--prompts nowhere"),
        (["--llm", "scripted:none.jsonl", "--explainer", "llm"], "scripted:none.jsonl"),
        (["--llm", "recorded:none", "--explainer", "llm"], "recorded:none"),
        (["--llm", "x", "--base-url", "no url"], "--base-url"),
        (["--llm", "x", "--base-url", "http://[::1/v1"], "--base-url"),
        (["--llm", "x", "--base-url", "http://127.0.0.1:9/v1"], "no server answers at http://127.0.0.1:9/v1"),
        (["--llm", "gpt-x"], "OPENAI_API_KEY"),
    ],
)
def test_wrong_values_stop_before_the_model_is_loaded(
    place: Place, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, words: list[str], match: str
) -> None:
    monkeypatch.setattr("autointerp.pipeline.job.load_inputs", None)
    plain = ["describe-all-heads", "--model", str(place.model), "--corpus", str(place.corpus)]
    refused([*plain, "--out", str(tmp_path / "run"), *words], capsys, match)


def broken_model(place: Place, folder: Path, *gone: str) -> Path:
    copy = Path(shutil.copytree(place.model, folder))
    for name in gone:
        (copy / name).unlink()
    return copy


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


MODELS: dict[str, tuple[Callable[[Place, Path], Path | str], str]] = {
    "no folder": (lambda place, to: to / "none", "is not a folder"),
    "no config": (lambda place, to: broken_model(place, to / "m", "config.json"), "no config.json"),
    "no tokenizer": (lambda place, to: broken_model(place, to / "m", "tokenizer.json"), "no tokenizer"),
    "no weights": (lambda place, to: broken_model(place, to / "m", "model.safetensors"), "no weights"),
    "callable of no file": (lambda place, to: f"{to}/none.py:build", "cannot be imported"),
    "callable of no name": (lambda place, to: f"{write(to / 'b.py', 'x = 1')}:build", "no callable 'build'"),
    "another callable": (lambda place, to: f"{write(to / 'b.py', 'build = dict')}:build", "not a TransformerBridge"),
}  # fmt: skip
CORPORA: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "missing": (lambda to: to / "none.txt", "there is no file"),
    "empty": (lambda to: write(to / "a.txt", b""), "is empty"),
    "white space": (lambda to: write(to / "a.txt", b" \n\n \n"), "holds no text"),
    "binary": (lambda to: write(to / "a.txt", b"abc\0\1\2"), "is not UTF-8 text"),
    "utf-16": (lambda to: write(to / "a.txt", "abc".encode("utf-16")), "is not UTF-8 text"),
    "no text column": (lambda to: write(to / "a.csv", "name,words\na,b\n"), "no column 'text'"),
    "no text field": (lambda to: write(to / "a.jsonl", '{"body": "x"}\n'), "no column 'text'"),
    "no JSON": (lambda to: write(to / "a.jsonl", "x\n"), "line 1 is not JSON"),
    "unknown kind": (lambda to: write(to / "a.doc", "x"), "corpus files are"),
    "a folder": (lambda to: to, "is a directory"),
    "too little": (lambda to: write(to / "a.txt", "the cat"), "no text is long enough"),
    "demo and more": (lambda to: "demo", "cannot be combined"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used(place: Place, tmp_path: Path, capsys: Said, name: str) -> None:
    make, match = MODELS[name]
    refused(command(Path(str(make(place, tmp_path))), place.corpus, tmp_path / "run"), capsys, match)


@pytest.mark.parametrize("name", CORPORA)
def test_texts_that_cannot_be_used(place: Place, tmp_path: Path, capsys: Said, name: str) -> None:
    make, match = CORPORA[name]
    (tmp_path / "c").mkdir()
    words = command(place.model, Path(str(make(tmp_path / "c"))), tmp_path / "run")
    if name == "demo and more":
        words += ["--corpus", str(place.corpus)]
    refused(words, capsys, match)


@pytest.mark.slow
def test_what_the_model_has_not(place: Place, tmp_path: Path, capsys: Said) -> None:
    words = command(place.model, place.corpus, tmp_path / "run")
    refused([*words, "--context", "65"], capsys, "Use at most 64")
    refused([*words, "--heads", "7.0"], capsys, "--heads names L7H0")
    refused([*words, "--heads", "head 1"], capsys, "'head 1' is not a head")
    refused([*words, "--device", "warp"], capsys, "--device warp")
    for one in ("multiples", "render", "describe-head"):
        refused([one, "9.9", "--model", str(place.model), "--corpus", str(place.corpus), *QUICK], capsys, "L9H9")
        refused([one, "nine"], capsys, "'nine' is not a head")


@pytest.mark.slow
def test_a_corrected_command_may_use_the_folder_of_the_wrong_one(place: Place, tmp_path: Path, capsys: Said) -> None:
    words = command(place.model, place.corpus, tmp_path / "run", "--explainer", "detectors", "--scorers", "predicate")
    refused([*words, "--heads", "7.0"], capsys, "--heads names L7H0")
    assert main([*words, "--heads", "0.0"]) == 0
    refused([*words, "--heads", "0.1"], capsys, 'config.heads: "0.0" there, "0.1" now')


def test_folders_that_are_no_runs(ran: Path, place: Place, tmp_path: Path, capsys: Said) -> None:
    refused(["report", str(tmp_path / "none")], capsys, "is not a folder")
    refused(["report", str(tmp_path)], capsys, "holds no heads.jsonl")
    refused(["render", "0.0", "--out", str(tmp_path)], capsys, "holds no evidence")
    refused(["render", "5.0", "--out", str(ran)], capsys, "has no head L5H0")
    write(tmp_path / "file", b"x")
    refused(command(place.model, place.corpus, tmp_path / "file"), capsys, "is a file, not a folder")
    refused(command(place.model, place.corpus, ran, "--seed", "9"), capsys, "config.seed: 3 there, 9 now")
    with pytest.raises(BadInput):
        main(["report", str(tmp_path / "none"), "--debug"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "match"),
    [("html", "HTML page"), ("empty_choices", "no choices"), ("cut_body", "connection"), ("no_content", "no text")],
)
def test_a_server_that_only_ever_sends_rubbish(
    place: Place, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, fault: str, match: str
) -> None:
    with MisbehavingServer(describing, share=1.0, faults=(fault,)) as server:
        words = command(place.model, place.corpus, tmp_path / "run", *asking(server.base_url))
        monkeypatch.setattr("autointerp.pipeline.talking.ClientOptions", _without_waits)
        refused(words, capsys, match)


def _without_waits(**values: Any) -> ClientOptions:
    return ClientOptions(**{**values, "retry_base": 0.001})


def test_wrong_key_and_wrong_model_are_told_without_the_key(
    place: Place, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    with MisbehavingServer(describing, key=KEY) as server:
        words = command(place.model, place.corpus, tmp_path / "a" / "run", *asking(server.base_url))
        said = refused(words, capsys, "OPENAI_API_KEY")
        assert "sk-wrong" not in said
        assert b"sk-wrong" not in all_text(tmp_path / "a" / "run")
        refused(["check-server", "--llm", "x", "--base-url", server.base_url], capsys, "OPENAI_API_KEY")
    with MisbehavingServer(describing) as server:
        refused(["check-server", "--base-url", server.root], capsys, "/v1")


@pytest.mark.slow
def test_an_address_with_a_password_is_not_written_down(place: Place, tmp_path: Path, capsys: Said) -> None:
    with MisbehavingServer(describing) as server:
        url = server.base_url.replace("http://", "http://user:hunter2-password@")
        more = [*asking(url), "--heads", "0.1", "--scorers", "predicate"]
        assert main(command(place.model, place.corpus, tmp_path / "runs" / "run", *more)) == 0
        assert server.calls > 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert b"hunter2" not in all_text(tmp_path / "runs" / "run")


# the environment and .env


def test_environment_and_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeffAUTOINTERP_LLM=from-file\nOPENAI_BASE_URL=  \nOPENAI_API_KEY=''\nOTHER=1\nHF_TOKEN=x\n"
    write(tmp_path / ".env", text)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert read_environment(below) == {"llm": "from-file"}
    monkeypatch.setenv("AUTOINTERP_LLM", "from-environment")
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert read_environment(below) == {"llm": "from-environment"}
    assert "AUTOINTERP_LLM" in os.environ


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"AUTOINTERP_MODEL=x\n", "unknown option AUTOINTERP_MODEL"),
        ("AUTOINTERP_LLM=x\n".encode("utf-16"), "not UTF-8"),
        ("AUTOINTERP_LLM=x\n".encode("utf-16-le"), "not UTF-8"),
        ("AUTOINTERP_LLM=ä\n".encode("latin-1"), "not UTF-8"),
        (b"AUTOINTERP_TIMEOUT=soon\n", "--timeout 'soon'"),
    ],
)
def test_a_dotenv_that_cannot_be_used(place: Place, tmp_path: Path, capsys: Said, data: bytes, match: str) -> None:
    write(tmp_path / ".env", data)
    refused(command(place.model, place.corpus, tmp_path / "run"), capsys, match)


def resolved(*words: str, environment: dict[str, str] | None = None) -> tuple[dict[str, object], dict[str, object]]:
    parser = argparse.ArgumentParser()
    run_options(parser)
    explain_options(parser)
    config, settings = resolve(parser.parse_args(words), environment or {})
    return config.model_dump(), settings.model_dump()


def test_zero_is_a_value_and_options_win_over_the_environment() -> None:
    config, settings = resolved("--seed", "0", "--price-input", "0", "--price-output", "0.5", "--llm", "a",
                                environment={"llm": "b", "timeout": "7"})  # fmt: skip
    assert (config["seed"], config["llm"], settings["timeout"]) == (0, "a", 7.0)
    assert (settings["price_input"], settings["price_output"]) == (0.0, 0.5)
    config, _ = resolved("--corpus", "a.txt", "--corpus", "b.txt", "--scorers", "predicate, ablation")
    assert (config["corpus"], config["scorers"]) == (("a.txt", "b.txt"), ("predicate", "ablation"))
    with pytest.raises(BadInput, match="--max-tokens 0"):
        resolved("--max-tokens", "0")


# what the commands do


def test_a_run_says_what_it_did(ran: Path, place: Place, capsys: Said) -> None:
    assert main(command(place.model, place.corpus, ran)) == 0  # auto takes the detectors, and resumes
    said = capsys.readouterr()
    assert "explainer: detectors (no --base-url" in said.err
    assert f"{len(ALL_HEADS)} heads: " in said.out
    assert str(ran / "report.html") in said.out


def test_report_rebuilds_the_pages(ran: Path, tmp_path: Path, capsys: Said) -> None:
    copy = Path(shutil.copytree(ran, tmp_path / "copy"))
    for name in ("heads.csv", "report.html", "report.md"):
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    for name in ("heads.csv", "report.html", "report.md"):
        assert (copy / name).read_bytes() == (ran / name).read_bytes()


def test_render_needs_no_key_and_no_network(
    ran: Path, place: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    assert main(["render", "L1H2", "--out", str(ran)]) == 0
    from_run = capsys.readouterr().out
    assert "=== system ===" in from_run
    assert "<<<EVIDENCE" in from_run
    assert "L1H2" not in from_run
    assert main(["render", "1.2", "--model", str(place.model), "--corpus", str(place.corpus), *QUICK]) == 0
    assert capsys.readouterr().out == from_run
    assert main(["render", "1.2", "--out", str(ran), "--instruction", "Be brief."]) == 0
    assert "Be brief." in capsys.readouterr().out


@pytest.mark.slow
def test_render_with_a_run_shows_what_that_run_sent(place: Place, tmp_path: Path, capsys: Said) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    write(own / "explain.jinja", "{{ instruction }}\n=== user ===\n{{ evidence | data }}")
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(describing) as server:
        more = ["--heads", "1.1", "--scorers", "predicate", "--prompts", str(own), "--instruction", "Mind the gap."]
        assert main(command(place.model, place.corpus, out, *asking(server.base_url), *more)) == 0
    capsys.readouterr()
    assert main(["render", "1.1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    calls = [json.loads(line) for line in (out / "calls.jsonl").read_text().splitlines()]
    (sent,) = [line["prompt"] for line in calls if line["purpose"] == "explain"]
    assert shown == "".join(f"=== {m['role']} ===\n{m['content']}\n" for m in sent)
    assert sent[0]["content"] == "Mind the gap."


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "json", "html", "table"])
def test_multiples_in_every_form(place: Place, capsys: Said, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    words = ["multiples", "0.1", "--model", str(place.model), "--corpus", str(place.corpus), *QUICK, "--top", "4"]
    assert main([*words, "--format", form]) == 0
    text = capsys.readouterr().out
    if form == "csv":
        found = list(csv.DictReader(io.StringIO(text)))
        assert len(found) == 4
        values = [float(row["multiple"]) for row in found]
        assert values == sorted(values, reverse=True)
    elif form == "json":
        assert text.count('"multiple"') >= 1
        json.loads(text)
    elif form == "html":
        assert text.lstrip().startswith("<")
        assert text.count("<tr") >= 5
    else:
        assert text.count("\n|") >= 5


@pytest.mark.slow
def test_describe_head_prints_its_card(place: Place, tmp_path: Path, capsys: Said) -> None:
    words = command(place.model, place.corpus, tmp_path / "run", "--explainer", "detectors", "--scorers", "predicate")
    assert main(["describe-head", "1.3", *words[1:]]) == 0
    assert "L1H3" in capsys.readouterr().out


@pytest.mark.slow
def test_dry_run_prints_calls_tokens_and_cost(place: Place, tmp_path: Path, capsys: Said) -> None:
    more = ["--explainer", "llm", "--llm", "some-model", "--dry-run", "--heads", "0.0", "--price-input", "1",
            "--price-output", "2", "--base-url", "http://host.invalid/v1"]  # fmt: skip
    assert main(command(place.model, place.corpus, tmp_path / "runs" / "run", *more)) == 0
    said = capsys.readouterr().out
    assert "explain" in said
    assert "USD" in said
    assert "total" in said
    assert not (tmp_path / "runs" / "run" / "calls.jsonl").exists()


@pytest.mark.slow
def test_failed_heads_give_exit_code_1_and_a_budget_3(place: Place, tmp_path: Path, capsys: Said) -> None:
    script = write(tmp_path / "script.jsonl", '{"fail": "out of ideas"}\n')
    more = ["--explainer", "llm", "--llm", f"scripted:{script}", "--scorers", "predicate", "--heads", "0.*",
            "--agent", "off"]  # fmt: skip
    assert main(command(place.model, place.corpus, tmp_path / "runs" / "run", *more)) == 1
    said = capsys.readouterr().out
    assert "4 failed" in said
    assert "failed: L0H0: out of ideas" in said
    write(script, '{"reply": "x"}\n')
    more = [*more, "--budget-tokens", "50"]
    assert main(command(place.model, place.corpus, tmp_path / "runs" / "other", *more)) == 3
    assert "over --budget-tokens 50" in capsys.readouterr().err


def test_help_costs_no_torch_and_a_full_disk_no_traceback(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys\nfrom autointerp.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    script += "sys.exit(bool({'torch', 'transformers', 'pandas', 'openai', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=subprocess_environment())
    assert done.returncode == 0, done.stdout
    assert "describe-all-heads" in done.stdout

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("autointerp.report.write_reports", full)
    refused(["report", "."], capsys, "No space left on device")


def test_a_closed_pipe_is_no_error(place: Place) -> None:
    script = (
        "import sys\nfrom autointerp.cli import main, commands\n"
        "from autointerp.cli.screen import say\n"
        "commands.report = lambda a, w: [say('x' * 1000) for _ in range(5000)] and 0\n"
        "sys.exit(main(['report', '.']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=subprocess_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_real_command_ends_on_ctrl_c(place: Place, tmp_path: Path) -> None:
    words = command(place.model, place.corpus, tmp_path / "run", "--explainer", "detectors", "--max-tokens", "200000")
    process = subprocess.Popen(
        [sys.executable, "-m", "autointerp", *words], stderr=subprocess.PIPE, text=True, env=subprocess_environment()
    )
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "config.json").exists() and time.monotonic() < end:
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(20) == 130
    assert time.monotonic() - started < 2.0
    assert "interrupted; the same command with the same --out goes on" in said
    assert "Traceback" not in said
    process.stderr.close()


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_plain_lines_in_a_pipe() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        screen = Screen(stream)
        screen("loading", 0, 1)
        screen("loading", 1, 1)
        for done in range(1, 51):
            screen("reading", done, 50)
        screen.note("a note")
        screen.close()
    assert "\r" in terminal.getvalue()
    assert "\x1b" not in pipe.getvalue()
    lines = pipe.getvalue().splitlines()
    assert lines.count("loading …") == 1
    assert any(line.startswith("reading: 50 of 50") for line in lines)
    assert lines[-1] == "a note"
    assert len(lines) <= 4
