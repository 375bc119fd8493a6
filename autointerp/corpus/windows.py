"""A text to documents, and a document to windows of fixed context.

1. A text of more than `section_windows` windows is cut into sections at white space, each a document of its
   own. How many characters a section may have is read off its own first windows (characters per id), so
   that only the ids that can be used are ever computed: a long text costs no more tokenising than a short
   one.
2. A document gives at most `max_windows_per_doc` windows: consecutive, not overlapping, from its beginning,
   each with at least `min_content` ids that are not special. What is left at the end is dropped.

Windows are padded on the right by whoever stores them. Nothing is ever decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from autointerp.corpus.lines import word_cut
from autointerp.errors import BadInput, ModelError

CHARS_PER_ID = 8  # first guess at how much text gives enough ids; twice as much is tried where it does not
SLACK_IDS = 16  # ids at the end of a cut piece may differ from those of the whole text


@dataclass(frozen=True)
class Encoded:
    """Ids of a text without added specials, and the characters that each covers (half-open, in that text)."""

    ids: Int32[np.ndarray, " token"]
    offsets: Int32[np.ndarray, "token 2"]


@runtime_checkable
class Encoder(Protocol):
    """A tokenizer as the corpus needs it."""

    def encode(self, text: str) -> Encoded:
        """Ids and character offsets of `text`, no special added."""
        ...


@dataclass(frozen=True)
class WindowSpec:
    """How texts become windows; equal specs give equal windows.

    `context`: ids in a window, BOS included · `bos_id`: fed first in each window, None for no BOS ·
    `special_ids`: ids that do not count as content · `max_tokens`: fed ids of all splits together, where
    the stream stops · `salt`: of the split hash.
    """

    context: int = 128
    bos_id: int | None = None
    special_ids: tuple[int, ...] = ()
    max_tokens: int = 200_000
    min_content: int = 32
    max_windows_per_doc: int = 4
    salt: str = ""
    section_windows: int = 64

    def __post_init__(self) -> None:
        if self.context < 2 or self.content < 1:
            raise BadInput(f"a context of {self.context} ids holds no text to attend to; give at least 2 and a BOS.")
        if self.max_tokens < 1 or self.max_windows_per_doc < 1 or self.min_content < 1:
            raise BadInput(f"max_tokens, max_windows_per_doc and min_content must be at least 1: {self}.")
        if self.section_windows < self.max_windows_per_doc:
            raise BadInput(f"a section of {self.section_windows} windows is under {self.max_windows_per_doc}.")

    @property
    def content(self) -> int:
        """Text ids that fit in a window."""
        return self.context - (self.bos_id is not None)

    @property
    def least_content(self) -> int:
        """Text ids that a window must have: `min_content`, or half of a small context."""
        return max(1, min(self.min_content, self.context // 2))

    def key(self, source_key: str) -> str:
        """Hash of the spec and of what the texts come from."""
        fields = json.dumps([asdict(self), source_key], sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()


@dataclass(frozen=True)
class Document:
    """A document (or a section of a long one) with the ids of its first windows only."""

    text: str
    normal: str  # see `normalise`
    encoded: Encoded


def normalise(text: str) -> str:
    """NFC with each run of white space as one space: what a document's identity and split are hashed from."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def documents_of(text: str, encoder: Encoder, spec: WindowSpec) -> Iterator[Document]:
    """The document, or the sections, of one text."""
    needed = spec.max_windows_per_doc * spec.content
    start = 0
    while start < len(text):
        head = _encode_head(text, start, needed, encoder)
        ids = min(len(head.ids), needed)
        covered = int(head.offsets[ids - 1, 1]) if ids else 0
        room = int(spec.section_windows * spec.content * max(1.0, covered / max(1, ids)))
        stop = len(text) if len(text) - start <= room else start + word_cut(text[start : start + room], room)
        section = text[start:stop]
        inside = int((head.offsets[:, 1] <= len(section)).sum())
        yield Document(section, normalise(section), Encoded(head.ids[:inside], head.offsets[:inside]))
        start = stop


def _encode_head(text: str, start: int, needed: int, encoder: Encoder) -> Encoded:
    """The first `needed` ids (or all) of `text[start:]`, with offsets relative to `start`."""
    size = needed * CHARS_PER_ID
    while True:
        rest = len(text) - start
        length = rest if rest <= size else word_cut(text[start : start + size], size)
        piece = text[start : start + length]
        encoded = encoder.encode(piece)
        _check(encoded, piece)
        if length == rest or len(encoded.ids) >= needed + SLACK_IDS:
            return Encoded(encoded.ids[:needed], encoded.offsets[:needed])
        size *= 2


def _check(encoded: Encoded, piece: str) -> None:
    ids, offsets = encoded.ids, encoded.offsets
    if offsets.shape != (len(ids), 2):
        raise ModelError(f"the tokenizer gave {len(ids)} ids and offsets of shape {offsets.shape}; it cannot be used.")
    if len(ids) and (offsets.min() < 0 or offsets.max() > len(piece) or (offsets[:, 0] > offsets[:, 1]).any()):
        raise ModelError(
            f"the tokenizer gave character offsets outside of a text of {len(piece)} characters "
            f"({offsets.min()} to {offsets.max()}); use a tokenizer with a correct offset mapping."
        )


def cut_windows(document: Document, spec: WindowSpec) -> list[tuple[int, int]]:
    """Half-open ranges of ids, one a window."""
    ids = document.encoded.ids
    special = np.isin(ids, np.asarray(spec.special_ids, dtype=np.int64))
    ranges = []
    for first in range(0, min(len(ids), spec.max_windows_per_doc * spec.content), spec.content):
        last = min(len(ids), first + spec.content)
        if last - first - int(special[first:last].sum()) >= spec.least_content:
            ranges.append((first, last))
    return ranges
