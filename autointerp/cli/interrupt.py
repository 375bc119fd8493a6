"""Ctrl-C ends the process soon, whatever it is doing.

Python delivers an interrupt to the main thread between two of its own instructions, so a long step inside torch, or
a library that swallows KeyboardInterrupt, would hold it back. The signal also writes a byte to a pipe at once; a
thread that reads the pipe waits for the orderly end and then ends the process. All that a run needs is on disk at
any moment, so nothing is lost.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
PATIENCE = 1.2  # seconds for the orderly end


@contextmanager
def ends_on_interrupt(patience: float = PATIENCE) -> Iterator[None]:
    """While this is open, an interrupt ends the process within `patience` seconds with exit code 130."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread only
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, patience), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the thread reads the end of the pipe and is done


def _watch(reader: int, patience: float) -> None:
    while data := os.read(reader, 64):
        if signal.SIGINT in data:
            time.sleep(patience)
            os._exit(INTERRUPTED)
    os.close(reader)
