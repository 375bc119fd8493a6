"""Texts of a data set of the hub, streamed by the optional package `datasets`.

The library retries for minutes where there is no network and offers no deadline of its own, so it runs in a
daemon thread that fills a short queue; whoever waits on the queue gives up after `PATIENCE` seconds with a
clear error.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from autointerp.errors import BadInput

PATIENCE = 60.0  # seconds without a new item
DEFAULT_SPLIT = "train"
_DONE = object()


def hub_texts(name_and_split: str, column: str, patience: float = PATIENCE) -> Iterator[str]:
    """Texts of `NAME[:SPLIT]` (split `train` unless named).

    Raises BadInput where the package, the network, the data set or the column is missing, and when nothing
    arrives for `patience` seconds.
    """
    name, _, split = name_and_split.partition(":")
    spec = f"hf:{name_and_split}"
    if not name:
        raise BadInput(f"{spec!r} names no data set; write hf:NAME or hf:NAME:SPLIT.")
    if importlib.util.find_spec("datasets") is None:
        raise BadInput(f"{spec} needs the package datasets, which is not installed. Run: pip install datasets")
    reader = _Reader(name, split or DEFAULT_SPLIT)
    try:
        yield from _texts(reader, spec, column, patience)
    finally:
        reader.stop.set()


def _texts(reader: _Reader, spec: str, column: str, patience: float) -> Iterator[str]:
    threading.Thread(target=reader.run, name="autointerp-hub", daemon=True).start()
    number = 0
    while True:
        try:
            item = reader.items.get(timeout=patience)
        except queue.Empty:
            raise BadInput(
                f"{spec}: nothing arrived for {patience:.0f} s after {number} items. Check the network, or give a file."
            ) from None
        if item is _DONE:
            if reader.failure is not None:
                raise BadInput(f"{spec} cannot be read: {reader.failure}. Check the name, the split and the network.")
            return
        yield _text_of(item, column, spec, number)
        number += 1


def _text_of(item: Mapping[str, Any], column: str, spec: str, number: int) -> str:
    if column not in item:
        names = ", ".join(repr(name) for name in item)
        raise BadInput(f"{spec} has no column {column!r}; its columns are {names}. Name one with --text-column.")
    value = item[column]
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{spec}: item {number}: {column!r} is a {type(value).__name__}, not a string.")
    return value or ""


class _Reader:
    """The thread's side: puts items, then `_DONE`, with `failure` set where it could not read to the end."""

    def __init__(self, name: str, split: str) -> None:
        self.name, self.split = name, split
        self.items: queue.Queue[Any] = queue.Queue(maxsize=64)
        self.stop = threading.Event()
        self.failure: str | None = "its reader ended early"

    def run(self) -> None:
        try:
            self._read()
            self.failure = None
        except (
            OSError,
            ValueError,
            RuntimeError,
            ImportError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            lines = str(error).strip().splitlines() or [""]
            self.failure = f"{type(error).__name__}: {lines[0][:300]}".removesuffix(".")
        finally:
            self._put(_DONE)

    def _read(self) -> None:
        from datasets import load_dataset

        for item in load_dataset(self.name, split=self.split, streaming=True):
            if not self._put(item):
                return

    def _put(self, item: object) -> bool:
        while not self.stop.is_set():
            try:
                self.items.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False
