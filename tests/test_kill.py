"""Kill -9, Ctrl-C and two processes on one folder: nothing is lost, nothing answered is asked again.

The children come from a fork server that has imported everything once, so that each costs only its own work.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.run_helpers import (
    ALL_HEADS,
    asking,
    command,
    describing,
    lines_of,
    rows_in,
    save_corpus,
    save_model,
    subprocess_environment,
)
from tests.servers import MisbehavingServer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]
CONCURRENCY = 2


def child(words: list[str], slow: float, said: str) -> None:
    """The command line in a process of its own; `slow` is a pause after each batch and layer, in seconds."""
    import torch

    torch.set_num_threads(1)
    sys.stderr = Path(said).open("w", encoding="utf-8")
    sys.stdout = sys.stderr
    if slow:
        _slow_down(slow)
    from autointerp.cli import main

    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stderr.flush()
    os._exit(code)


def _slow_down(seconds: float) -> None:
    """More moments in which a tiny run can be killed, and a checkpoint after every batch."""
    from autointerp.evidence import first_pass
    from autointerp.model import LanguageModel

    first_pass.run_first_pass.__kwdefaults__["every"] = 0.0
    read = LanguageModel.read_attention

    def slowly(self: LanguageModel, *arguments: Any) -> Any:
        time.sleep(seconds)
        return read(self, *arguments)

    LanguageModel.read_attention = slowly  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def starts() -> Iterator[Callable[..., BaseProcess]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kill_imports"])
    started: list[BaseProcess] = []

    def start(words: list[str], said: Path, slow: float = 0.0) -> BaseProcess:
        process = context.Process(target=child, args=(words, slow, str(said)))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()


class Job:
    """A command on a server in this process."""

    def __init__(self, root: Path, server: MisbehavingServer, start: Callable[..., BaseProcess]) -> None:
        self.out, self.said, self._start = root / "runs" / "run", root / "said.txt", start
        more = asking(server.base_url, "--concurrency", str(CONCURRENCY), "--batch-size", "6")
        self.words = command(save_model(root / "model"), save_corpus(root / "corpus.txt"), self.out, *more)

    def start(self, slow: float = 0.0) -> BaseProcess:
        return self._start(self.words, self.said, slow)

    def finish(self) -> int:
        process = self.start()
        process.join(300)
        assert process.exitcode is not None, self.said.read_text()
        return process.exitcode

    def wait_for(self, process: BaseProcess, ready: Callable[[], bool], seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert process.is_alive(), self.said.read_text()
            assert time.monotonic() < end, "the run did not get there"
            time.sleep(0.005)

    def interrupt(self, process: BaseProcess) -> float:
        """Seconds from Ctrl-C to the end."""
        started = time.monotonic()
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(20)
        return time.monotonic() - started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, starts: Callable[..., BaseProcess]) -> Path:
    with MisbehavingServer(describing) as server:
        job = Job(tmp_path_factory.mktemp("undisturbed"), server, starts)
        assert job.finish() == 0, job.said.read_text()
    return job.out


def stages(job: Job) -> list[tuple[str, Callable[[], bool]]]:
    """Moments of a run, told from its folder: each is reached once the file is there or long enough."""
    cache = job.out / "cache"

    def lines(path: Path, least: int) -> bool:
        return path.exists() and path.read_bytes().count(b"\n") >= least

    return [
        ("corpus", lambda: cache.exists()),
        ("first pass", lambda: (cache / "first_pass.npz").exists()),
        ("examples", lambda: (cache / "evidence.jsonl").exists()),
        ("describing", lambda: lines(cache / "descriptions.jsonl", 2)),
        ("pointing", lambda: lines(job.out / "calls.jsonl", 20)),
        ("scoring", lambda: lines(cache / "descriptions.jsonl", len(ALL_HEADS))),
        ("reporting", lambda: (job.out / "heads.jsonl").exists()),
    ]


def check_after_kills(job: Job, server: MisbehavingServer, undisturbed: Path, kills: int) -> None:
    assert (job.out / "heads.csv").read_bytes() == (undisturbed / "heads.csv").read_bytes()
    lost = json.loads((job.out / "run.json").read_text())["lost_in_flight"]
    assert lost == rows_in(job.out.parent / "requests.sqlite", "lost") <= kills * CONCURRENCY
    assert sum(server.answered[digest] - 1 for digest in server.repeated) <= lost
    described = [json.dumps(line["head"]) for line in lines_of(job.out / "cache" / "descriptions.jsonl")]
    assert len(described) == len(set(described)) == len(ALL_HEADS)
    logged = [line["hash"] for line in lines_of(job.out / "calls.jsonl")]
    assert len(logged) == len(set(logged)) == len(server.bodies)


def test_killed_in_every_stage_the_run_ends_as_if_undisturbed(
    tmp_path: Path, starts: Callable[..., BaseProcess], undisturbed: Path
) -> None:
    with MisbehavingServer(describing, delay=0.05) as server:
        job = Job(tmp_path, server, starts)
        for name, reached in stages(job)[:6]:
            process = job.start(slow=0.02 if name in ("first pass", "examples") else 0.0)
            job.wait_for(process, reached)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            if name == "first pass":
                assert not (job.out / "cache" / "evidence.jsonl").exists()
        assert job.finish() == 0
        check_after_kills(job, server, undisturbed, 6)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_the_run_ends_as_if_undisturbed(
    tmp_path: Path, starts: Callable[..., BaseProcess], undisturbed: Path, seed: int
) -> None:
    draw = random.Random(seed)
    with MisbehavingServer(describing, delay=0.08) as server:
        job = Job(tmp_path, server, starts)
        kills = 0
        for _ in range(6):
            process = job.start(slow=0.01)
            process.join(draw.uniform(0.2, 4.0))
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
        assert kills >= 2
        assert job.finish() == 0
        check_after_kills(job, server, undisturbed, kills)


@dataclass
class Holding:
    """Answers three explain requests and holds further ones for as long as it is told to."""

    hold: bool = True
    seen: list[str] = field(default_factory=list)  # appending is one step for several threads

    def __call__(self, body: dict[str, Any]) -> Any:
        if "EVIDENCE" in str(body):
            self.seen.append("explain")
            while self.hold and len(self.seen) > 3:
                time.sleep(0.02)
        return describing(body)


def test_a_kill_while_requests_are_in_flight_is_counted(
    tmp_path: Path, starts: Callable[..., BaseProcess], undisturbed: Path
) -> None:
    holding = Holding()
    with MisbehavingServer(holding) as server:
        job = Job(tmp_path, server, starts)
        process = job.start()
        job.wait_for(process, lambda: len(holding.seen) >= 5)  # three answered, two held
        process.kill()
        process.join()
        holding.hold = False
        assert job.finish() == 0
        check_after_kills(job, server, undisturbed, 1)
        assert json.loads((job.out / "run.json").read_text())["lost_in_flight"] == CONCURRENCY
        pages = (job.out / "report.md").read_text() + (job.out / "report.html").read_text()
        assert "2 requests were in flight" in pages


def test_a_killed_first_pass_goes_on_from_its_checkpoint(tmp_path: Path, starts: Callable[..., BaseProcess]) -> None:
    with MisbehavingServer(describing) as server:
        job = Job(tmp_path, server, starts)
        process = job.start(slow=0.05)
        job.wait_for(process, (job.out / "cache" / "first_pass.npz").exists)
        time.sleep(0.3)
        process.kill()
        process.join()
        import numpy as np

        with np.load(job.out / "cache" / "first_pass.npz") as saved:
            done = int(saved["progress"][0])
        assert done > 0
        job.said.unlink()
        process = job.start()
        job.wait_for(process, lambda: "reading attention" in (job.said.read_text() if job.said.exists() else ""))
        process.join(300)
        first = next(line for line in job.said.read_text().splitlines() if line.startswith("reading attention"))
        assert int(first.split()[2]) > done


@pytest.mark.parametrize("stage", ["first pass", "describing", "scoring"])
def test_an_interrupt_ends_within_two_seconds_and_resumes(
    tmp_path: Path, starts: Callable[..., BaseProcess], undisturbed: Path, stage: str
) -> None:
    holding = Holding(hold=stage == "describing")
    with MisbehavingServer(holding) as server:
        job = Job(tmp_path, server, starts)
        process = job.start(slow=0.05)
        places = dict(stages(job))
        job.wait_for(process, (lambda: len(holding.seen) >= 5) if holding.hold else places[stage])
        took = job.interrupt(process)
        assert process.exitcode == 130, job.said.read_text()
        assert took < 2.0
        said = job.said.read_text()
        assert "interrupted" in said
        assert "Traceback" not in said
        holding.hold = False
        assert job.finish() == 0
        assert (job.out / "heads.csv").read_bytes() == (undisturbed / "heads.csv").read_bytes()


def test_an_interrupt_that_python_does_not_get_to_see_ends_the_process(tmp_path: Path) -> None:
    """A long step inside a library, here one that holds the main thread and swallows the KeyboardInterrupt."""
    script = (
        "import sys, time\n"
        "from autointerp.cli import main\n"
        "from autointerp.cli import commands\n"
        "def stuck(arguments, words):\n"
        "    end = time.monotonic() + 15\n"
        "    sys.stderr.write('ready'); sys.stderr.flush()\n"
        "    while time.monotonic() < end:\n"
        "        try:\n"
        "            time.sleep(1)\n"
        "        except BaseException:\n"
        "            pass\n"
        "    return 0\n"
        "commands.report = stuck\n"
        "sys.exit(main(['report', 'x']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, env=subprocess_environment())
    assert process.stderr is not None
    assert process.stderr.read(5) == b"ready"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - started < 2.0
    process.stderr.close()


def test_a_second_process_on_the_folder_is_refused(tmp_path: Path, starts: Callable[..., BaseProcess]) -> None:
    with MisbehavingServer(describing, delay=0.05) as server:
        job = Job(tmp_path, server, starts)
        first = job.start(slow=0.05)
        job.wait_for(first, (job.out / "config.json").exists)
        second = starts(job.words, tmp_path / "second.txt")
        second.join(30)
        said = (tmp_path / "second.txt").read_text()
        assert second.exitcode == 2
        assert f"in use by process {first.pid}" in said
        assert "Traceback" not in said
        assert first.is_alive()
        first.kill()
        first.join()
