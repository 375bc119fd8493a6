"""The request cache: every reply ever received for the runs of a folder, and what was under way at a kill.

Table `replies`: by request hash, and by content hash for replays. Table `in_flight`: a row from just before
a request is sent until its reply is stored. A run's rows that are there when it opens the cache (its lock is
held, so nobody else writes them) were lost; they move to `lost`, so that the count survives further resumes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from autointerp.errors import RunFolderError

BUSY_SECONDS = 10.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    hash TEXT PRIMARY KEY, content_hash TEXT NOT NULL, reply TEXT NOT NULL, time REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replies_by_content ON replies (content_hash);
CREATE TABLE IF NOT EXISTS in_flight (
    run TEXT NOT NULL, hash TEXT NOT NULL, started REAL NOT NULL, PRIMARY KEY (run, hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (run TEXT NOT NULL, hash TEXT NOT NULL, started REAL NOT NULL);
CREATE INDEX IF NOT EXISTS lost_by_run ON lost (run);
"""


class RequestCache:
    """The SQLite file shared by all runs of a folder; `run_id` names the run that uses it here.

    Open it only while the run's folder is locked. Safe for several processes of different runs at once.
    """

    def __init__(self, path: Path, run_id: str = "") -> None:
        self._path, self._run = path, run_id
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # one process writes a run, but a server or a notebook may hand the object to another thread
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, digest: str) -> str | None:
        """The stored reply of a request hash, or None."""
        return self._one("SELECT reply FROM replies WHERE hash = ?", digest)

    def by_content(self, content: str) -> str | None:
        """A stored reply of a content hash, whoever answered (the earliest), or None."""
        return self._one("SELECT reply FROM replies WHERE content_hash = ? ORDER BY time, hash LIMIT 1", content)

    def begin(self, digest: str) -> None:
        """Note that this run is about to send a request."""
        with self._errors():
            self._db.execute("INSERT OR REPLACE INTO in_flight VALUES (?, ?, ?)", (self._run, digest, time.time()))

    def put(self, digest: str, content: str, reply: str) -> None:
        """Store a reply and remove its note in one transaction, on disk when this returns."""
        with self._errors(), self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", (digest, content, reply, time.time())
            )
            self._db.execute("DELETE FROM in_flight WHERE run = ? AND hash = ?", (self._run, digest))

    def drop(self, digest: str) -> None:
        """Remove the note of a request that ended without a reply."""
        with self._errors():
            self._db.execute("DELETE FROM in_flight WHERE run = ? AND hash = ?", (self._run, digest))

    def lost_in_flight(self, run_id: str | None = None) -> int:
        """How many requests a run had under way when it was killed, over all its processes so far."""
        with self._errors():
            row = self._db.execute(
                "SELECT count(*) FROM lost WHERE run = ?", (self._run if run_id is None else run_id,)
            ).fetchone()
        return int(row[0])

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # in WAL mode NORMAL may lose the last commits at a power cut
        with self._transaction():
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
            if self._run:
                self._db.execute("INSERT INTO lost SELECT * FROM in_flight WHERE run = ?", (self._run,))
                self._db.execute("DELETE FROM in_flight WHERE run = ?", (self._run,))

    def _one(self, query: str, value: str) -> str | None:
        with self._errors():
            row = self._db.execute(query, (value,)).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunFolderError(_message(self._path, str(error))) from None


def _message(path: Path, reason: str) -> str:
    if "full" in reason or "No space" in reason:
        return (
            f"the disk is full: {path} could not be written ({reason}). "
            "Free some space and give the same command: it continues; what was written is intact."
        )
    if "not a database" in reason or "malformed" in reason:
        return f"{path} is damaged ({reason}). Move it away; its replies will be asked for again."
    if "locked" in reason:
        return f"{path} was locked by another process for {BUSY_SECONDS:g} s. Try the same command again."
    return f"{path} could not be used ({reason}). Correct this or choose an --out in another folder."
