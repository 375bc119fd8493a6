"""Progress on a terminal (one line, rewritten, with rate and time left) or as plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

PLAIN_SECONDS = 10.0
REDRAW_SECONDS = 0.1


class Screen:
    """Prints to standard error; results go to standard output through `say`."""

    def __init__(self, stream: TextIO | None = None, cost: Callable[[], str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._cost = cost or (lambda: "")
        self._stage = ""
        self._started = self._shown = time.monotonic()
        self._first = 0
        self._drawn = False

    def __call__(self, stage: str, done: int, of: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._started, self._first, self._shown = stage, now, done, 0.0
        elif of <= 1:
            return  # a stage of one step is shown when it begins
        last = done >= of
        wait = REDRAW_SECONDS if self._live else PLAIN_SECONDS
        if not last and now - self._shown < wait:
            return
        if not last and self._shown == 0.0 and not self._live and done == 0 and of > 1:
            self._shown = now
            return
        self._shown = now
        self._draw(f"{stage}: {done} of {of}{self._rate(done, of, now)}{self._cost()}" if of > 1 else f"{stage} …")

    def _rate(self, done: int, of: int, now: float) -> str:
        seconds, steps = now - self._started, done - self._first
        if steps <= 0 or seconds < 0.5:
            return ""
        left = (of - done) * seconds / steps
        return f", {steps / seconds:.3g}/s" + (f", {_clock(left)} left" if done < of else f", took {_clock(seconds)}")

    def _draw(self, text: str) -> None:
        if self._live:
            self._stream.write(f"\r\x1b[2K{text}")
            self._drawn = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.close()
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line that is being rewritten."""
        if self._drawn:
            self._stream.write("\n")
            self._stream.flush()
            self._drawn = False


def say(text: str) -> None:
    """A result, on standard output."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
