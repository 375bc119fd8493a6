"""The run folder: kills, full disks, second processes, other settings."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import RunFolderError
from autointerp.records import Head, Interval
from autointerp.store import RunFolder, read_records

LINES = [{"n": n, "text": "é\u2028" * n} for n in range(3)]


def filled(path: Path) -> bytes:
    with RunFolder(path) as run:
        for line in LINES:
            run.append("heads.jsonl", line)
    return (path / "heads.jsonl").read_bytes()


def test_records_come_back_and_nan_is_null(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "deep" / "run") as run:
        run.append("a.jsonl", {"x": float("nan"), "y": [1.5, float("inf")], "s": "\ud800 \n"})
        run.append("a.jsonl", Interval(value=float("nan"), low=0, high=1, n=2))
        run.append("a.jsonl", {"head": Head(layer=1, index=2)})
        assert run.read("a.jsonl") == [
            {"x": None, "y": [1.5, None], "s": "\ud800 \n"},
            {"value": None, "low": 0.0, "high": 1.0, "n": 2},
            {"head": {"layer": 1, "index": 2}},
        ]
        assert run.read("none.jsonl") == []
        run.write_text("report.html", "<p>é\ud800</p>")
        assert run.path("report.html").read_text("utf-8") == "<p>é\\ud800</p>"
        run.write_bytes("evidence/L0H1.npz", b"\0\1")
        assert run.path("evidence/L0H1.npz").read_bytes() == b"\0\1"
        for name in ("../x", "/etc/x"):
            with pytest.raises(RunFolderError, match="not a name inside"):
                run.path(name)


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.write_text("report.md", "old")
        with run.path("report.md").open() as reader:
            run.write_text("report.md", "new")
            assert reader.read() == "old"
        assert run.path("report.md").read_text() == "new"


def test_a_line_cut_anywhere_is_recognised(tmp_path: Path) -> None:
    data = filled(tmp_path / "whole")
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(len(data) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "heads.jsonl").write_bytes(data[:length])
        whole = sum(end <= length + 1 for end in ends)  # a whole line without its line end counts
        assert read_records(folder / "heads.jsonl") == LINES[:whole]
        with RunFolder(folder) as run:
            run.append("heads.jsonl", {"new": 1})
            assert run.read("heads.jsonl") == [*LINES[:whole], {"new": 1}]


@given(st.binary(max_size=60).filter(lambda tail: b"\n" not in tail))
def test_any_rubbish_at_the_end_costs_only_itself(tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run"
        filled(path)
        with (path / "heads.jsonl").open("ab") as file:
            file.write(tail)
        with RunFolder(path) as run:
            run.append("heads.jsonl", {"new": 1})
            found = run.read("heads.jsonl")
        assert found[:3] == LINES and found[-1] == {"new": 1}


def test_zeroes_after_a_power_cut_and_a_torn_line_with_an_end_are_cut_off(tmp_path: Path) -> None:
    for tail in (b"\0" * 5000, b'{"n": 3, "te\n', b"\n\n", b'{"n": "' + b"x" * 200_000):
        path = tmp_path / str(len(tail))
        filled(path)
        with (path / "heads.jsonl").open("ab") as file:
            file.write(tail)
        assert read_records(path / "heads.jsonl") == LINES
        with RunFolder(path) as run:
            run.append("heads.jsonl", {"new": 1})
            assert run.read("heads.jsonl") == [*LINES, {"new": 1}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a\n{"a": 2}\n')
    with pytest.raises(RunFolderError, match="line 2 is not JSON"):
        read_records(path)


# --- a full disk


def full(*args: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("broken", ["write", "fsync", "half a write"])
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    before = filled(tmp_path / "run")
    real, calls = os.write, [0]

    def half(handle: int, data: bytes) -> int:
        calls[0] += 1
        return real(handle, data[: len(data) // 2]) if calls[0] == 1 else full()

    with RunFolder(tmp_path / "run") as run:
        run.write_text("report.md", "old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync" if broken == "fsync" else "write", half if broken == "half a write" else full)
            for name in ("heads.jsonl", "report.md"):
                calls[0] = 0
                with pytest.raises(RunFolderError, match=r"the disk is full: .*Free some space.*intact"):
                    run.append(name, {"n": 9}) if name == "heads.jsonl" else run.write_text(name, "new")
        assert (tmp_path / "run" / "heads.jsonl").read_bytes() == before
        assert run.path("report.md").read_text() == "old"
        assert not list(run.root.glob(".*.part"))
        run.append("heads.jsonl", {"n": 9})
        assert run.read("heads.jsonl") == [*LINES, {"n": 9}]


def test_a_real_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with RunFolder(tmp_path / "run") as run:
        (run.root / "a.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunFolderError, match="disk is full"):
            run.append("a.jsonl", {"x": 1})


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"), RunFolder(tmp_path / "file"):
        pass
    with pytest.raises(RunFolderError, match="could not be written"), RunFolder(tmp_path / "file" / "below"):
        pass


# --- a second process


def test_a_second_process_is_refused_and_told_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from autointerp.store import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        with (
            pytest.raises(RunFolderError, match=f"in use by process {process.pid}"),
            RunFolder(tmp_path / "run"),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with RunFolder(tmp_path / "run") as run:
        assert run.path(".lock").read_text().strip() == str(os.getpid())
    with (
        RunFolder(tmp_path / "run"),
        pytest.raises(RunFolderError, match="in use"),
        RunFolder(tmp_path / "run"),
    ):
        pass


def test_the_run_keeps_its_id(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a") as run, RunFolder(tmp_path / "b") as other:
        name = run.run_id
        assert len(name) == 32 and name != other.run_id
    (tmp_path / "a").rename(tmp_path / "moved")
    with RunFolder(tmp_path / "moved") as run:
        assert run.run_id == name


# --- other settings


def test_another_config_is_refused_with_both_values(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "seed": 0,
        "corpus": ("a", "b"),
        "model": {"name": "x", "revision": None},
        "versions": {"torch": "1"},
    }
    with RunFolder(tmp_path) as run:
        assert run.ensure_config(config)["corpus"] == ["a", "b"]
        before = run.path("config.json").read_bytes()
        assert run.ensure_config({**config, "versions": {"torch": "2"}}, ignore=("versions",))["versions"] == {
            "torch": "1"
        }
        other = {**config, "seed": 1, "model": {"name": "y", "revision": None}, "extra": True}
        with pytest.raises(RunFolderError) as caught:
            run.ensure_config(other)
        said = str(caught.value)
        for part in (
            "seed: 0 there, 1 now",
            'model.name: "x" there, "y" now',
            "extra: nothing there, true now",
        ):
            assert part in said
        assert "corpus" not in said and "revision" not in said
        assert run.path("config.json").read_bytes() == before


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with RunFolder(tmp_path) as run, pytest.raises(RunFolderError, match=r"thesis\.tex.*no run folder"):
        run.ensure_config({})
    assert not (tmp_path / "config.json").exists()


def test_a_config_that_is_not_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with RunFolder(tmp_path) as run, pytest.raises(RunFolderError, match="not a JSON object"):
        run.ensure_config({})
