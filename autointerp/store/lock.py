"""An exclusive lock on a file, held until the process ends, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from autointerp.errors import RunFolderError
from autointerp.store.files import disk_errors


class FileLock:
    """Holds `path` for this process. The file keeps the holder's process id for the message to others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises RunFolderError naming the process that holds it."""
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except OSError:
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            folder = self._path.parent
            raise RunFolderError(
                f"the run folder {folder} is in use by process {holder}. Wait for it, or take another --out."
            ) from None
        self._handle = handle
        with disk_errors(self._path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; the file stays (removing it would let two processes lock two files)."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


if sys.platform == "win32":

    def _lock(handle: int) -> None:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:

    def _lock(handle: int) -> None:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
