"""Texts to a `TokenCorpus` on disk.

1. Read texts until `max_tokens` fed ids are reached; cut documents and windows (windows.py).
2. Drop a document whose normalised text was already seen, or that is too short for a window; count both.
3. Write ids, offsets and texts as they come; keep a few bytes a window and a document.
4. Find near-duplicates, assign splits (splits.py), drop overlapping windows (overlap.py), count.
5. Write the tables, then `corpus.json`: a folder without it is not a corpus, so a kill at any moment loses
   nothing but time, and `open_corpus` then says that there is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from autointerp.corpus.overlap import dropped_windows
from autointerp.corpus.splits import SPLITS, Ints, ShingleFile, assign_splits, split_digest
from autointerp.corpus.tokens import (
    IDS_FILE,
    INDEX_FILE,
    OFFSETS_FILE,
    TABLES_FILE,
    TEXT_FILE,
    CorpusReport,
    SplitCount,
    Tables,
    TokenCorpus,
    index_text,
    open_corpus,
)
from autointerp.corpus.windows import Document, Encoder, WindowSpec, cut_windows, documents_of
from autointerp.errors import BadInput, RunFolderError

SHINGLE_FILE = "shingles.tmp"
ENOUGH_SELECT, ENOUGH_TEST = 10, 30  # documents (scoring_validity rule 2)
PAD_ID = 0


def build_corpus(
    texts: Iterable[str], encoder: Encoder, spec: WindowSpec, folder: Path, source_key: str = ""
) -> TokenCorpus:
    """Cut `texts` into token windows under `folder`, split them, and return the corpus.

    `source_key` stands for what `texts` and `encoder` are; `open_corpus` compares it. Raises BadInput where
    there is no usable text or a split is empty, RunFolderError where the folder cannot be written.
    """
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        writer = _Writer(folder, spec)
    try:
        _collect(texts, encoder, writer)
        with _disk_errors(folder):
            tables = writer.tables()
    finally:
        writer.close()
    report = _report(writer, tables)
    with _disk_errors(folder):
        np.savez(folder / TABLES_FILE, **tables._asdict())
        _complete(folder, index_text(spec.key(source_key), spec, report, folder))
    corpus = open_corpus(folder, spec, source_key)
    if corpus is None:
        raise RunFolderError(f"the corpus just written to {folder} does not read back; is another process writing?")
    return corpus


def _collect(texts: Iterable[str], encoder: Encoder, writer: _Writer) -> None:
    for text in texts:
        writer.n_texts += 1
        for document in documents_of(text, encoder, writer.spec):
            with _disk_errors(writer.folder):
                writer.add(document)
            if writer.full:
                return
    if not writer.n_texts:
        raise BadInput("the corpus is empty (0 texts). Give a file with text in it.")


def _complete(folder: Path, index: str) -> None:
    temporary = folder / f"{INDEX_FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(index)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / INDEX_FILE)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(
            f"the corpus cannot be written to {folder}: {reason}. Free space or choose --out."
        ) from error


class _Writer:
    """Appends documents to the files, and remembers where each window and document is."""

    def __init__(self, folder: Path, spec: WindowSpec) -> None:
        self.folder, self.spec = folder, spec
        self.n_texts = self.n_tokens = self.short = self.duplicates = 0
        self.full = False
        self._seen: set[bytes] = set()
        self._doc_hash: list[bytes] = []
        self._digest: list[bytes] = []
        self._windows: list[tuple[int, int, int, int, int]] = []  # length, doc, window in doc, first and last char
        self._text_start = [0]
        with contextlib.ExitStack() as opened:
            self._ids = opened.enter_context((folder / IDS_FILE).open("wb"))
            self._offsets = opened.enter_context((folder / OFFSETS_FILE).open("wb"))
            self._texts = opened.enter_context((folder / TEXT_FILE).open("w+b"))
            self._shingles = ShingleFile(folder / SHINGLE_FILE)
            opened.callback(self._shingles.close)
            self._files = opened.pop_all()

    def close(self) -> None:
        with _disk_errors(self.folder):
            self._files.close()

    def add(self, document: Document) -> None:
        """Write a document's windows, unless it is known or too short; sets `full` at `max_tokens`."""
        doc_hash = hashlib.sha256(document.normal.encode("utf-8", "surrogatepass")).digest()
        if doc_hash in self._seen:
            self.duplicates += 1
            return
        windows = cut_windows(document, self.spec)
        if not windows:
            self.short += 1
            return
        fitting = self._write_windows(document, windows)
        if fitting:
            self._seen.add(doc_hash)
            self._doc_hash.append(doc_hash)
            self._digest.append(split_digest(document.normal, self.spec.salt))
            self._shingles.add(document.normal)
            stored = document.text.encode("utf-8", "surrogatepass")
            self._texts.write(stored)
            self._text_start.append(self._text_start[-1] + len(stored))

    def _write_windows(self, document: Document, windows: list[tuple[int, int]]) -> int:
        bos = 0 if self.spec.bos_id is None else 1
        for number, (first, last) in enumerate(windows):
            length = last - first + bos
            if self.n_tokens + length > self.spec.max_tokens:
                self.full = True
                return number
            ids = np.full(self.spec.context, PAD_ID, dtype=np.int32)
            offsets = np.empty((self.spec.context, 2), dtype=np.int32)
            ids[:bos] = self.spec.bos_id or 0
            ids[bos:length] = document.encoded.ids[first:last]
            covered = document.encoded.offsets[first:last]
            begin, end = int(covered[:, 0].min()), int(covered[:, 1].max())
            offsets[:bos], offsets[bos:length], offsets[length:] = begin, covered, end
            self._ids.write(ids.tobytes())
            self._offsets.write(offsets.tobytes())
            self._windows.append((length, len(self._doc_hash), number, begin, end))
            self.n_tokens += length
        return len(windows)

    def tables(self) -> Tables:
        """Splits, clusters and dropped windows of all that was added."""
        self._check_any()
        for file in (self._ids, self._offsets, self._texts):
            file.flush()
        cluster, split = assign_splits(self._shingles.clusters(), self._digest)
        rows = np.array(self._windows, dtype=np.int64)
        doc, chars = rows[:, 1], rows[:, 3:5]
        dropped = dropped_windows(split[doc], chars[:, 1] - chars[:, 0], _WindowTexts(self, doc, chars))
        return Tables(
            lengths=rows[:, 0].astype(np.int32),
            doc=doc.astype(np.int32),
            window_in_doc=rows[:, 2].astype(np.int32),
            chars=chars,
            dropped=dropped,
            cluster=cluster,
            split=split,
            text_start=np.array(self._text_start, dtype=np.int64),
            doc_hash=np.frombuffer(b"".join(self._doc_hash), dtype=np.uint8).reshape(-1, 32),
        )

    def _check_any(self) -> None:
        if self._windows:
            return
        if self.full:
            raise BadInput(
                f"--max-tokens {self.spec.max_tokens} is less than one window; give at least a few thousand."
            )
        raise BadInput(
            f"no text is long enough: {self.n_texts} texts were read, and none has "
            f"{self.spec.least_content} tokens. Give longer documents (a .txt document is a paragraph)."
        )

    def document_text(self, doc: int) -> str:
        """Text of a document that was added."""
        start, stop = self._text_start[doc : doc + 2]
        self._texts.seek(start)
        return self._texts.read(stop - start).decode("utf-8", "surrogatepass")

    def counts(self) -> tuple[int, int]:
        """Documents and windows added."""
        return len(self._doc_hash), len(self._windows)


class _WindowTexts:
    """Text of a window by number; keeps the last document, as windows of one come in a row."""

    def __init__(self, writer: _Writer, doc: Ints, chars: Ints) -> None:
        self._writer, self._doc, self._chars = writer, doc.tolist(), chars.tolist()
        self._held, self._text = -1, ""

    def __call__(self, window: int) -> str:
        if self._doc[window] != self._held:
            self._held = self._doc[window]
            self._text = self._writer.document_text(self._held)
        first, last = self._chars[window]
        return self._text[first:last]


def _report(writer: _Writer, tables: Tables) -> CorpusReport:
    counts = [_split_count(tables, split) for split in range(len(SPLITS))]
    for name, count in zip(SPLITS, counts, strict=True):
        if not count.windows:
            raise BadInput(
                f"the {name} split is empty: {len(tables.split)} documents of at least "
                f"{writer.spec.least_content} tokens are too few. Give more text, or raise --max-tokens."
            )
    sizes = np.bincount(tables.cluster)
    documents, windows = writer.counts()
    return CorpusReport(
        n_texts=writer.n_texts,
        n_documents=documents,
        n_windows=windows,
        n_tokens=writer.n_tokens,
        dropped_short=writer.short,
        dropped_duplicates=writer.duplicates,
        clusters=int((sizes > 1).sum()),
        clustered_documents=int(sizes[sizes > 1].sum()),
        dropped_windows_50_chars=int(tables.dropped.sum()),
        explain=counts[0],
        select=counts[1],
        test=counts[2],
        underpowered=_underpowered(counts[1].documents, counts[2].documents),
        corpus_hash=hashlib.sha256(b"".join(sorted(row.tobytes() for row in tables.doc_hash))).hexdigest(),
        stopped_at_max_tokens=writer.full,
    )


def _split_count(tables: Tables, split: int) -> SplitCount:
    kept = (tables.split[tables.doc] == split) & ~tables.dropped
    return SplitCount(
        documents=len(np.unique(tables.doc[kept])),
        windows=int(kept.sum()),
        tokens=int(tables.lengths[kept].sum()),
    )


def _underpowered(select: int, test: int) -> str | None:
    if select >= ENOUGH_SELECT and test >= ENOUGH_TEST:
        return None
    return (
        f"underpowered: {select} select and {test} test documents, where {ENOUGH_SELECT} and {ENOUGH_TEST} "
        "are needed; intervals will be wide and verdicts weak"
    )
