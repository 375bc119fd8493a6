"""Durable writes: whole files by rename, lines by append; a full disk leaves what was there as it was."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autointerp.errors import RunFolderError

TAIL_BLOCK = 1 << 16


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError while writing `path` into a RunFolderError that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from None


def disk_error(path: Path, error: OSError) -> RunFolderError:
    """The RunFolderError for an OSError at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = "Free some space and give the same command: it continues; what was written is intact"
        return RunFolderError(f"the disk is full: {path} could not be written ({error.strerror}). {step}.")
    reason = error.strerror or str(error)
    return RunFolderError(f"{path} could not be written ({reason}). Correct this or choose another --out.")


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file at once: readers see the old content or the new, after a power cut too."""
    part = path.with_name(f".{path.name}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(part, data)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        _sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Add one line (without its line end) durably; after an error the file is as long as before."""
    with disk_errors(path):
        is_new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _CLOEXEC, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                _write_all(handle, line + b"\n")
                os.fsync(handle)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
        if is_new:
            _sync_folder(path.parent)


def mend_tail(path: Path) -> int:
    """Make the last line whole: cut it off where it is torn, add a line end where only that is missing.

    Returns the number of bytes cut.
    """
    with disk_errors(path), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = _last_line_start(path, size)
        file.seek(start)
        last = file.read()
        if not last.strip():
            keep, more = (start, b"") if last.strip(b"\n") else (size, b"")
        elif parse_line(last) is not None:
            keep, more = size, b"" if last.endswith(b"\n") else b"\n"
        else:
            keep, more = start, b""
        if keep < size:
            file.truncate(keep)
        if more:
            file.seek(0, os.SEEK_END)
            file.write(more)
        file.flush()
        os.fsync(file.fileno())
        return size - keep


def parse_line(line: bytes) -> dict[str, object] | None:
    """The JSON object of a line, or None where it is none (a torn line, zeroes after a power cut)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


def _last_line_start(path: Path, size: int) -> int:
    """Offset of the last line, a trailing line end not counted as the start of another."""
    end = max(0, size - 1)
    with path.open("rb") as file:
        while end > 0:
            begin = max(0, end - TAIL_BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _write_new(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _CLOEXEC, 0o644)
    try:
        _write_all(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems refuse it; the data itself is synced
            os.fsync(handle)
    finally:
        os.close(handle)
