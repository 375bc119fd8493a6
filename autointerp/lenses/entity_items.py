"""Mentions of entities in texts, by character offsets: the data of the entity lens.

1. A JSONL line is `{"text", "entities": [{"start", "end", "mention"?, "id"?}], "doc_id"?}`.
2. A CoNLL-style file has a token and, in its last column, a BIO tag a line (IOB1, IOB2 and IOBES are read), a blank
   line between sentences and `-DOCSTART-` between documents; tokens are joined by single spaces.
3. The demo set is cut from the demo corpus, whose entities carry offsets.

Mentions are never searched for: a span that does not read as its mention is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from autointerp.errors import BadInput

MAX_MENTION, MAX_TEXT, MAX_IDS = 60, 300, 12  # characters, characters, tokens


@dataclass(frozen=True)
class MentionItem:
    """`text[char_start:char_end] == mention`."""

    text: str
    char_start: int
    char_end: int
    mention: str
    doc_id: str
    entity_id: str
    source: str


@dataclass(frozen=True)
class Limits:
    """What is kept, in characters. Longer texts are dropped, and counted."""

    mention: int = MAX_MENTION
    text: int = MAX_TEXT


@dataclass(frozen=True)
class Parts:
    """Documents are dealt by hash; `unseen` holds test mentions of entities that no training item names."""

    train: tuple[MentionItem, ...]
    dev: tuple[MentionItem, ...]
    seen: tuple[MentionItem, ...]
    unseen: tuple[MentionItem, ...]


def make_item(text: str, span: tuple[int, int], mention: str, ids: tuple[str, str], source: str) -> MentionItem:
    """A checked item; `ids` are document and entity (empty: from the text, from the mention). Raises BadInput."""
    start, end = span
    if not 0 <= start < end <= len(text):
        raise BadInput(
            f"{source}: the span {start} to {end} is not inside a text of {len(text)} characters. Correct it."
        )
    if mention and text[start:end] != mention:
        raise BadInput(
            f"{source}: the text has {text[start:end][:60]!r} at {start} to {end}, not the entity {mention[:60]!r}. "
            "Give the offsets of the mention in this text."
        )
    found = text[start:end]
    doc_id = ids[0] or hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return MentionItem(text, start, end, found, doc_id, ids[1] or " ".join(found.casefold().split()), source)


def read_items(path: str | Path) -> list[MentionItem]:
    """Items of a `.jsonl` file, or of a CoNLL-style file by any other name. Raises BadInput."""
    place = Path(path)
    try:
        lines = place.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--data {place} cannot be read ({error}). Give a .jsonl or CoNLL-style file.") from None
    found = list(_jsonl(lines, place.name) if place.suffix.lower() == ".jsonl" else conll_items(lines, place.name))
    if not found:
        raise BadInput(f"--data {place} holds no entity. Give lines with entities, as docs/entity_lens.md shows.")
    return found


def _jsonl(lines: Iterable[str], name: str) -> Iterator[MentionItem]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{name}:{number}"
        try:
            record = json.loads(line)
            text, entities = record["text"], record["entities"]
            if not isinstance(text, str) or not isinstance(entities, list):
                raise TypeError("text is no string or entities no list")
            doc_id = str(record.get("doc_id", ""))
            for entity in entities:
                yield make_item(text, _span(entity), str(entity.get("mention") or ""),
                                (doc_id, str(entity.get("id", ""))), source)  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{source} is no line of entities ({error!r}). Write "
                '{"text": "...", "entities": [{"start": 0, "end": 5}]}.'
            ) from None


def _span(entity: Any) -> tuple[int, int]:
    start, end = entity["start"], entity["end"]
    if type(start) is not int or type(end) is not int:
        raise TypeError(f"start {start!r} and end {end!r} are not both integers")
    return start, end


def conll_items(lines: Iterable[str], name: str) -> Iterator[MentionItem]:
    """Items of a CoNLL-style file; the last sentence and a sentence-final entity count like any other."""
    document, first = 0, 1
    sentence: list[tuple[str, str]] = []
    for number, line in enumerate([*lines, ""], 1):
        columns = line.split()
        start_of_document = bool(columns) and columns[0] == "-DOCSTART-"
        if line.startswith("# ") and " = " in line:
            continue  # a comment of CoNLL-U; a lone "#" is a token
        if columns and not start_of_document:
            if len(columns) < 2:
                raise BadInput(f"{name}:{number} has one column; a token and its tag are needed.")
            first = first if sentence else number
            sentence.append((columns[0], columns[-1]))
            continue
        if sentence:
            yield from _sentence(sentence, f"{name}#{document}", f"{name}:{first}")
            sentence = []
        document += start_of_document


def _sentence(tokens: Sequence[tuple[str, str]], doc_id: str, source: str) -> Iterator[MentionItem]:
    text = " ".join(token for token, _ in tokens)
    for start, end in tag_spans(tokens):
        yield make_item(text, (start, end), "", (doc_id, ""), source)


def tag_spans(tokens: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Character spans, in the joined tokens, of the runs that BIO tags mark."""
    spans: list[tuple[int, int]] = []
    at, kind = 0, ""  # the kind of the run that is open, or none
    for token, tag in tokens:
        prefix, _, name = tag.partition("-")
        inside = tag not in ("O", "_", "-") and prefix in "BIESLU" and bool(name)
        if not inside:
            kind = ""
        elif kind == name and prefix in "IEL":
            spans[-1] = (spans[-1][0], at + len(token))
        else:
            spans.append((at, at + len(token)))
            kind = name
        if prefix in "ESLU":
            kind = ""
        at += len(token) + 1
    return spans


class Span(Protocol):
    """A mention of a document of the demo corpus."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def mention(self) -> str: ...
    @property
    def entity_id(self) -> str: ...


class Document(Protocol):
    """A document of the demo corpus."""

    @property
    def text(self) -> str: ...
    @property
    def entities(self) -> Sequence[Span]: ...


def demo_items(documents: Iterable[Document], n: int) -> list[MentionItem]:
    """Items of the first `n` documents with known entities: the sentences of each one's beginning, up to `MAX_TEXT`
    characters."""
    found: list[MentionItem] = []
    for number, document in enumerate(islice(documents, n)):
        text = _opening(document.text)
        found += [
            MentionItem(text, span.start, span.stop, span.mention, f"demo:{number}", span.entity_id, "demo")
            for span in document.entities
            if span.stop <= len(text)
        ]
    return found


def _opening(text: str) -> str:
    """The text up to the last end of a sentence or line within `MAX_TEXT` characters."""
    if len(text) <= MAX_TEXT:
        return text
    ends = [text.rfind(sign, 0, MAX_TEXT) for sign in (". ", ".\n", "\n\n", "\n", "? ", "! ")]
    return text[: max(*ends, 0) + 1]


def keep_items(items: Iterable[MentionItem], limits: Limits) -> tuple[list[MentionItem], dict[str, int]]:
    """The items within the limits, and how many were dropped for what."""
    kept: list[MentionItem] = []
    dropped = {"mention too long": 0, "no letter": 0, "text too long": 0}
    for item in items:
        if not any(char.isalpha() for char in item.mention):
            dropped["no letter"] += 1
        elif len(item.mention) > limits.mention:
            dropped["mention too long"] += 1
        elif len(item.text) > limits.text:
            dropped["text too long"] += 1
        else:
            kept.append(item)
    return kept, {name: n for name, n in dropped.items() if n}


def split_items(items: Sequence[MentionItem], seed: int = 0) -> Parts:
    """Documents: 80 % training, 10 % dev, 10 % test by hash. Entities: a fifth by hash is held out, its mentions in
    all documents are `unseen`, and no training or dev item names it. Raises BadInput where a part is empty."""
    parts: dict[str, list[MentionItem]] = {"train": [], "dev": [], "seen": [], "unseen": []}
    for item in items:
        if _draw(f"{seed}:entity:{item.entity_id}") < 0.2:
            parts["unseen"].append(item)
            continue
        place = _draw(f"{seed}:document:{item.doc_id}")
        parts["train" if place < 0.8 else "dev" if place < 0.9 else "seen"].append(item)
    known = {item.entity_id for item in parts["train"]}
    parts["unseen"] += [item for item in parts["seen"] if item.entity_id not in known]
    parts["seen"] = [item for item in parts["seen"] if item.entity_id in known]
    empty = [name for name in ("train", "dev") if not parts[name]]
    if empty or not (parts["seen"] or parts["unseen"]):
        raise BadInput(
            f"{len(items)} mentions leave no {' and no '.join(empty) or 'test'} part after the split by document and "
            "entity. Give more documents and entities."
        )
    return Parts(**{name: tuple(found) for name, found in parts.items()})


def _draw(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def data_hash(items: Sequence[MentionItem]) -> str:
    """Of texts, spans, documents and entities, in order."""
    digest = hashlib.sha256()
    for item in items:
        row = [item.text, item.char_start, item.char_end, item.doc_id, item.entity_id]
        digest.update(json.dumps(row).encode() + b"\n")
    return "sha256:" + digest.hexdigest()[:16]
