"""The request cache and the log of calls: kills, several processes, damage."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autointerp.errors import RunFolderError
from autointerp.store import CallLog, RequestCache, RunFolder

# --- the request cache


def test_replies_stay_and_notes_of_a_killed_process_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "requests.sqlite"
    with RequestCache(path, "run-a") as cache:
        for name in "xyz":
            cache.begin(name)
        cache.put("x", "content", "reply")
        cache.drop("y")
        assert cache.lost_in_flight() == 0
    with RequestCache(path, "run-b") as other:
        assert other.get("x") == "reply" and other.get("y") is None and other.by_content("content") == "reply"
        assert other.lost_in_flight() == other.lost_in_flight("run-a") == 0
    for _ in range(2):
        with RequestCache(path, "run-a") as cache:
            assert cache.lost_in_flight() == 1
            cache.begin("z")
            cache.put("z", "content", "late")
    with RequestCache(path) as anybody:
        assert anybody.lost_in_flight("run-a") == 1
        assert anybody.by_content("content") == "reply"


WRITER = """
import sys
from pathlib import Path
from autointerp.store import RequestCache
with RequestCache(Path(sys.argv[1]), sys.argv[2]) as cache:
    for n in range(int(sys.argv[3])):
        cache.begin(f"{sys.argv[2]}-{n}")
        cache.put(f"{sys.argv[2]}-{n}", "c", "reply")
        print(n, flush=True)
"""


def writer(path: Path, run: str, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(path), run, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_several_processes_share_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "requests.sqlite"
    processes = [writer(path, f"run{n}", 40) for n in range(3)]
    assert [(p.communicate()[0].count(b"\n"), p.returncode) for p in processes] == [(40, 0)] * 3
    with RequestCache(path) as cache:
        assert all(cache.get(f"run{r}-{n}") == "reply" for r in range(3) for n in range(40))


def test_what_was_stored_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "requests.sqlite"
    process = writer(path, "run", 100_000)
    assert process.stdout is not None
    assert process.stdout.readline()  # it has begun to write, however slow the day
    time.sleep(0.3)
    process.kill()
    stored = 1 + process.stdout.read().count(b"\n")
    process.wait()
    process.stdout.close()
    assert stored > 0
    with RequestCache(path, "run") as cache:
        assert all(cache.get(f"run-{n}") == "reply" for n in range(stored))
        assert cache.lost_in_flight() <= 1


def test_a_damaged_or_full_cache_is_said(tmp_path: Path) -> None:
    path = tmp_path / "requests.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 30)
    with pytest.raises(RunFolderError, match=r"damaged.*Move it away"):
        RequestCache(path)
    with pytest.raises(RunFolderError, match="could not be used"):
        RequestCache(tmp_path)
    small = tmp_path / "small.sqlite"
    with RequestCache(small, "run") as cache:
        cache.put("a", "c", "kept")
        cache._db.execute("PRAGMA max_page_count = 12")
        with pytest.raises(RunFolderError, match="disk is full"):
            cache.put("b", "c", "x" * 200_000)
        assert cache.get("a") == "kept" and cache.get("b") is None
        cache.put("d", "c", "small")
    assert sqlite3.connect(small).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_call_is_written_once_and_failures_each_time(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    for _ in range(2):
        with RunFolder(tmp_path / "run") as run:
            log = CallLog(run)
            log.add({"hash": "f", "reply": None, "error": "gone"})
            log.add({"hash": "a", "reply": "x", "usage": usage, "cached": False})
            log.add({"hash": "b", "reply": "y", "usage": usage, "cached": True})
            assert log.tokens_used == (7, 3)
    text = (tmp_path / "run" / "calls.jsonl").read_text()
    assert [json.loads(line)["hash"] for line in text.splitlines()] == ["f", "a", "b", "f"]
