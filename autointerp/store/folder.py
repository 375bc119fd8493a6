"""The run folder: one process at a time, whole files, lines that survive a kill, a config that stays."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from autointerp.errors import RunFolderError
from autointerp.store.files import append_line, disk_errors, mend_tail, parse_line, write_whole
from autointerp.store.lock import FileLock

CONFIG = "config.json"
LOCK = ".lock"
CACHE = "cache"  # folder of what a resumed run need not make again
RUN_ID = ".run-id"
SHOWN = 80  # characters of a value in a message


class RunFolder:
    """A run folder, used in a `with` block that holds its lock.

    Entering makes the folder, refuses a second process, and mends half-written last lines. All errors of the
    disk are RunFolderError. Names are paths inside the folder.
    """

    def __init__(self, path: Path) -> None:
        self.root = path
        self._lock = FileLock(path / LOCK)
        self._whole: set[Path] = set()  # files that this process has appended to: their last line is whole

    def __enter__(self) -> Self:
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"--out {self.root} is a file, not a folder. Choose another --out.")
        self._lock.acquire()
        try:
            if self.path(CONFIG).exists():  # other people's files in a folder that is no run are not ours to mend
                self._mend()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _mend(self) -> None:
        for folder in (self.root, self.root / CACHE):
            with disk_errors(folder):
                for part in folder.glob(".*.part"):
                    part.unlink()
            for lines in folder.glob("*.jsonl"):
                mend_tail(lines)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def path(self, name: str) -> Path:
        """Where a file of this run lies."""
        found = self.root / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunFolderError(f"{name!r} is not a name inside the run folder.")
        return found

    @property
    def run_id(self) -> str:
        """A random name of this run, made once; a copied or moved folder keeps it."""
        path = self.path(RUN_ID)
        if not path.exists():
            write_whole(path, uuid.uuid4().hex.encode())
        return path.read_text(encoding="ascii", errors="replace").strip()

    def append(self, name: str, record: BaseModel | Mapping[str, object]) -> None:
        """Add a record as a JSON line, on disk when this returns; NaN becomes null."""
        path = self.path(name)
        if path not in self._whole and path.is_file():
            mend_tail(path)
        self._whole.add(path)
        append_line(path, _json(record).encode("utf-8", "backslashreplace"))

    def read(self, name: str) -> list[dict[str, Any]]:
        """All records of a JSONL file, an empty list where there is none."""
        return read_records(self.path(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a whole UTF-8 file at once; lone surrogates become backslash escapes."""
        self.write_bytes(name, text.encode("utf-8", "backslashreplace"))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file at once."""
        write_whole(self.path(name), data)

    def write_json(self, name: str, value: BaseModel | Mapping[str, object]) -> None:
        """Write a JSON file at once, indented."""
        self.write_text(name, json.dumps(json.loads(_json(value)), indent=2) + "\n")

    def ensure_config(self, config: Mapping[str, object], ignore: Collection[str] = ()) -> dict[str, Any]:
        """Write `config.json` on first use; on resume compare with it. Returns what the file holds.

        Top-level names in `ignore` are saved and not compared. Raises RunFolderError that names each
        differing field with both values, or where the folder holds other things and no config.
        """
        wanted: dict[str, Any] = json.loads(_json(config))
        path = self.path(CONFIG)
        if not path.exists():
            self._refuse_strangers()
            self.write_json(CONFIG, wanted)
            return wanted
        held = _read_config(path)
        differing = sorted(_differences(held, wanted, frozenset(ignore)))
        if differing:
            listed = "; ".join(f"{name}: {was} there, {now} now" for name, was, now in differing)
            raise RunFolderError(
                f"{self.root} holds a run with other settings ({listed}). Give the same settings, or another --out."
            )
        return held

    def _refuse_strangers(self) -> None:
        strangers = sorted(p.name for p in self.root.iterdir() if not p.name.startswith("."))
        if strangers:
            named = ", ".join(strangers[:3]) + (" …" if len(strangers) > 3 else "")
            raise RunFolderError(
                f"--out {self.root} holds other files ({named}) and no {CONFIG}: it is no run folder. "
                "Choose an empty or new folder."
            )


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file without locking it; a half-written last line is left out.

    Raises RunFolderError for a broken line elsewhere.
    """
    return [record for _, record in numbered_records(path)]


def numbered_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_records`, each with the number of its line, from 1."""
    if not path.exists():
        return
    with disk_errors(path):
        lines = path.read_bytes().split(b"\n")
    last = max((n for n, line in enumerate(lines) if line.strip()), default=0)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        record = parse_line(line)
        if record is not None:
            yield number + 1, record
        elif number != last:
            raise RunFolderError(f"{path} line {number + 1} is not JSON. Remove that line or use another --out.")


def _json(value: BaseModel | Mapping[str, object]) -> str:
    """One line of JSON; NaN and infinities become null, which is how records read NaN back."""
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    plain = {name: _plain(item) for name, item in value.items()}
    return json.dumps(plain, ensure_ascii=True, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _read_config(path: Path) -> dict[str, Any]:
    with disk_errors(path):
        held = parse_line(path.read_bytes())
    if held is None:
        raise RunFolderError(f"{path} is not a JSON object. Restore it, or choose another --out.")
    return held


def _differences(
    held: Mapping[str, Any], wanted: Mapping[str, Any], ignore: frozenset[str], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    for name in {*held, *wanted} - (ignore if not prefix else frozenset()):
        was, now = held.get(name), wanted.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, ignore, f"{prefix}{name}.")
        elif was != now or (name in held) != (name in wanted):
            yield f"{prefix}{name}", _shown(held, name), _shown(wanted, name)


def _shown(side: Mapping[str, Any], name: str) -> str:
    text = json.dumps(side[name]) if name in side else "nothing"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
