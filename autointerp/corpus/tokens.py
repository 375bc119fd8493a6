"""A corpus as token windows on disk, and the two types by which it is read.

Explaining gets an `ExplainSet`, scoring a `HeldOutSet`: neither is, nor turns into, the other, and each
refuses the numbers of windows that are not its own (scoring_validity rule 1). Ids and offsets are
memory-mapped; what is in memory is a few bytes a window and a document.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32, Int64

from autointerp.corpus.splits import SPLITS
from autointerp.corpus.windows import WindowSpec
from autointerp.errors import BadInput

INDEX_FILE, TABLES_FILE = "corpus.json", "tables.npz"
IDS_FILE, OFFSETS_FILE, TEXT_FILE = "ids.i32", "offsets.i32", "texts.utf8"
FORMAT = 1


@dataclass(frozen=True)
class SplitCount:
    """What is left of a split after the overlap check."""

    documents: int
    windows: int
    tokens: int  # fed ids, BOS included


@dataclass(frozen=True)
class CorpusReport:
    """What became of the texts; counts of all splits together unless named."""

    n_texts: int
    n_documents: int
    n_windows: int
    n_tokens: int  # fed ids, BOS included, dropped windows too
    dropped_short: int
    dropped_duplicates: int
    clusters: int  # of two near-duplicate documents or more
    clustered_documents: int
    dropped_windows_50_chars: int
    explain: SplitCount
    select: SplitCount
    test: SplitCount
    underpowered: str | None
    corpus_hash: str  # of the set of documents, whatever their order
    stopped_at_max_tokens: bool


@dataclass(frozen=True)
class TokenBatch:
    """Rows of ids, padded on the right to the context; `lengths` says where each row ends."""

    ids: Int32[np.ndarray, "row context"]
    lengths: Int32[np.ndarray, " row"]
    doc: Int32[np.ndarray, " row"]
    windows: Int64[np.ndarray, " row"]


class WindowText(NamedTuple):
    """Where a window comes from: `offsets` are characters of `text`, the document; BOS has an empty range."""

    doc_id: str
    window_in_doc: int
    text: str
    offsets: npt.NDArray[np.int32]  # [position 2], without the padding


class Tables(NamedTuple):
    """The small arrays, one entry a window or a document."""

    lengths: npt.NDArray[np.int32]  # [window] fed ids
    doc: npt.NDArray[np.int32]  # [window] document ordinal
    window_in_doc: npt.NDArray[np.int32]  # [window]
    chars: npt.NDArray[np.int64]  # [window 2] characters of the document that it covers
    dropped: npt.NDArray[np.bool_]  # [window] shares 50 characters with an earlier split
    cluster: npt.NDArray[np.int64]  # [doc] representative's ordinal
    split: npt.NDArray[np.int8]  # [doc] 0 explain, 1 select, 2 test
    text_start: npt.NDArray[np.int64]  # [doc + 1] bytes in the text file
    doc_hash: npt.NDArray[np.uint8]  # [doc 32]


class _Rows:
    """Reads windows of one split, and of no other."""

    def __init__(self, corpus: TokenCorpus, split: int) -> None:
        self.corpus = corpus
        self.member = (corpus.split[corpus.doc] == split) & ~corpus.tables.dropped
        self.name = SPLITS[split]

    def check(self, numbers: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1)
        known = (wanted >= 0) & (wanted < len(self.member))
        if not known.all() or not self.member[wanted].all():
            strange = next(n for n, ok in zip(wanted.tolist(), known, strict=True) if not (ok and self.member[n]))
            raise BadInput(f"window {strange} is not of the {self.name} split; take numbers from its `windows`.")
        return wanted

    def batch(self, numbers: Sequence[int] | npt.NDArray[np.integer]) -> TokenBatch:
        wanted = self.check(numbers)
        corpus = self.corpus
        return TokenBatch(np.array(corpus.ids[wanted]), corpus.lengths[wanted], corpus.doc[wanted], wanted)

    def source(self, number: int) -> WindowText:
        self.check([number])
        corpus, doc = self.corpus, int(self.corpus.doc[number])
        offsets = np.array(corpus.offsets[number, : corpus.lengths[number]])
        return WindowText(corpus.doc_ids[doc], int(corpus.window_in_doc[number]), corpus.text(doc), offsets)


class ExplainSet:
    """The windows that an explainer may see. `windows` are their numbers, in corpus order."""

    def __init__(self, corpus: TokenCorpus) -> None:
        self._rows = _Rows(corpus, 0)
        self.windows: Int64[np.ndarray, " window"] = np.flatnonzero(self._rows.member)

    def batch(self, numbers: Sequence[int] | npt.NDArray[np.integer]) -> TokenBatch:
        """Ids of the given windows; raises BadInput for a window that is not in `windows`."""
        return self._rows.batch(numbers)

    def source(self, number: int) -> WindowText:
        """Document and offsets of one window."""
        return self._rows.source(number)


class HeldOutSet:
    """Windows of the select or the test split, for scoring only; `windows` are their numbers, in order."""

    def __init__(self, corpus: TokenCorpus, split: Literal["select", "test"]) -> None:
        if split not in ("select", "test"):
            raise BadInput(f"{split!r} is not a held-out split; it is select or test.")
        self.split: Literal["select", "test"] = split
        self._rows = _Rows(corpus, SPLITS.index(split))
        self.windows: Int64[np.ndarray, " window"] = np.flatnonzero(self._rows.member)

    def batch(self, numbers: Sequence[int] | npt.NDArray[np.integer]) -> TokenBatch:
        """Ids of the given windows; raises BadInput for a window that is not in `windows`."""
        return self._rows.batch(numbers)

    def source(self, number: int) -> WindowText:
        """Document and offsets of one window."""
        return self._rows.source(number)


class TokenCorpus:
    """A built corpus: arrays by window and by document, all splits and dropped windows included.

    `ids [window context]` and `offsets [window context 2]` (characters of the document; empty for BOS and
    padding) are memory-mapped and read-only; `lengths`, `doc` and `window_in_doc` are by window, `doc_ids`,
    `cluster` and `split` (0 explain, 1 select, 2 test) by document.
    """

    def __init__(self, folder: Path, spec: WindowSpec, tables: Tables, report: CorpusReport) -> None:
        windows = len(tables.lengths)
        self.folder, self.spec, self.tables, self.report = folder, spec, tables, report
        self.ids: Int32[np.ndarray, "window context"] = np.memmap(
            folder / IDS_FILE, dtype=np.int32, mode="r", shape=(windows, spec.context)
        )
        self.offsets: Int32[np.ndarray, "window context 2"] = np.memmap(
            folder / OFFSETS_FILE, dtype=np.int32, mode="r", shape=(windows, spec.context, 2)
        )
        self.lengths, self.doc, self.window_in_doc = tables.lengths, tables.doc, tables.window_in_doc
        self.cluster, self.split = tables.cluster, tables.split
        self.doc_ids: list[str] = [row.tobytes().hex() for row in tables.doc_hash]

    def text(self, doc: int) -> str:
        """The text of a document, as `offsets` count it."""
        start, stop = (int(at) for at in self.tables.text_start[doc : doc + 2])
        with (self.folder / TEXT_FILE).open("rb") as file:
            file.seek(start)
            return file.read(stop - start).decode("utf-8", "surrogatepass")

    def explain(self) -> ExplainSet:
        """The split that descriptions are made from."""
        return ExplainSet(self)

    def held_out(self, split: Literal["select", "test"]) -> HeldOutSet:
        """A split that descriptions are chosen on (`select`) or scored on (`test`)."""
        return HeldOutSet(self, split)


def index_text(key: str, spec: WindowSpec, report: CorpusReport, folder: Path) -> str:
    """Content of `corpus.json`: with it on disk, a corpus is complete."""
    sizes = {name: (folder / name).stat().st_size for name in (IDS_FILE, OFFSETS_FILE, TEXT_FILE, TABLES_FILE)}
    fields = {"format": FORMAT, "key": key, "spec": asdict(spec), "report": asdict(report), "sizes": sizes}
    return json.dumps(fields, indent=1)


def open_corpus(folder: Path, spec: WindowSpec, source_key: str = "") -> TokenCorpus | None:
    """The corpus that `build_corpus` completed in `folder` with the same spec and source key, else None.

    None too where a file is missing or has another size than when it was completed: build it again.
    """
    try:
        fields = json.loads((folder / INDEX_FILE).read_text("utf-8"))
        if fields["format"] != FORMAT or fields["key"] != spec.key(source_key):
            return None
        if any((folder / name).stat().st_size != size for name, size in fields["sizes"].items()):
            return None
        with np.load(folder / TABLES_FILE, allow_pickle=False) as stored:
            tables = Tables(**{name: stored[name] for name in Tables._fields})
        counts = {name: SplitCount(**fields["report"][name]) for name in SPLITS}
        return TokenCorpus(folder, spec, tables, CorpusReport(**{**fields["report"], **counts}))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or half-written by another version: the same answer, it must be built
