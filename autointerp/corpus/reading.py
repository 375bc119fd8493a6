"""Files and hub data sets to a stream of texts, in memory that does not depend on their size.

1. Every name is checked before the first text is read: it exists, it is a file, its kind is known.
2. Text files are read in chunks of 64 KiB, decoded as UTF-8 (a byte order mark is dropped, CRLF and CR
   become LF).
3. `.txt` gives a document a paragraph, `.jsonl`, `.csv` and `.parquet` a document a row, `hf:` a document
   an item.
4. What cannot be read ends the stream with a BadInput that names the byte, the line or the columns.

A null text is passed on as an empty one, so that whoever cuts windows counts it as too short. A lone
surrogate, which only JSON can smuggle in, becomes U+FFFD: no tokenizer takes it. Nothing is tokenised or
split here.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from autointerp.corpus.hub import hub_texts
from autointerp.corpus.lines import Line, lines_of, paragraphs_of
from autointerp.errors import BadInput

CHUNK_BYTES = 1 << 16
MAX_ROW_CHARS = 1 << 26  # a row of a .jsonl or .csv file: far above any document, far below a memory
HUB_PREFIX = "hf:"


def read_texts(specs: Sequence[str], text_column: str = "text") -> Iterator[str]:
    """Stream the texts of all `specs`, in order: `.txt .jsonl .csv .parquet` paths or `hf:NAME[:SPLIT]`.

    Raises BadInput at once for a name that cannot be read, and while streaming for a file that is binary,
    malformed, without the column, or without any text.
    """
    if not specs:
        raise BadInput("no corpus was given (0 names); give a file or hf:NAME with --corpus.")
    sources = [_source(spec, text_column) for spec in specs]
    return _chained(list(specs), sources)


def _chained(specs: Sequence[str], sources: Sequence[Callable[[], Iterator[str]]]) -> Iterator[str]:
    for spec, source in zip(specs, sources, strict=True):
        found = False
        for text in source():
            found = found or bool(text.strip())
            yield text
        if not found:
            raise BadInput(f"{spec} holds no text, only white space or nothing. Give a file with text in it.")


def _source(spec: str, column: str) -> Callable[[], Iterator[str]]:
    if spec.startswith(HUB_PREFIX):
        return lambda: (_clean(text) for text in hub_texts(spec[len(HUB_PREFIX) :], column))
    path = Path(spec)
    if path.is_dir():
        raise BadInput(f"{spec} is a directory; give the files in it, one --corpus each.")
    if not path.exists():
        raise BadInput(f"there is no file {spec}; check the path, or write hf:NAME for a data set of the hub.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(_READERS)
        raise BadInput(
            f"{spec} ends in {path.suffix or 'no extension'!r}; corpus files are {known} or hf:NAME[:SPLIT]."
        )
    if not path.is_file():
        raise BadInput(f"{spec} is not a regular file (a pipe or a device); save it as a file first.")
    if path.stat().st_size == 0:
        raise BadInput(f"{spec} is empty (0 bytes). Give a file with text in it.")
    return lambda: reader(path, column)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {error.strerror}. Check its permissions.") from error


def _chunks(path: Path) -> Iterator[str]:
    """Decoded text with LF line ends; raises BadInput with the byte offset where it is not UTF-8 text."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(utf8, translate=True)
    offset = 0
    with _open(path) as file:
        while raw := file.read(CHUNK_BYTES):
            if (zero := raw.find(b"\0")) >= 0:
                raise BadInput(
                    f"{path} is not UTF-8 text: byte {offset + zero} is NUL. Give a text file, "
                    "or save it again as UTF-8 if it is UTF-16."
                )
            held = len(utf8.getstate()[0])
            if offset == 0 and raw.startswith(codecs.BOM_UTF8):
                raw, offset = raw[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
            yield _decode(newlines, raw, path, offset - held)
            offset += len(raw)
        yield _decode(newlines, b"", path, offset - len(utf8.getstate()[0]))


def _decode(decoder: io.IncrementalNewlineDecoder, raw: bytes, path: Path, offset: int) -> str:
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
        where = offset + error.start
        bad = error.object[error.start]
        raise BadInput(
            f"{path} is not UTF-8 text: byte {where} is 0x{bad:02x} ({error.reason}). Save it again as UTF-8."
        ) from None


def _rows(path: Path) -> Iterator[Line]:
    for line in lines_of(_chunks(path), MAX_ROW_CHARS):
        if not line.ends:
            raise BadInput(f"{path}: line {line.number} is over {MAX_ROW_CHARS} characters. Cut it into documents.")
        yield line


def _txt(path: Path, column: str) -> Iterator[str]:
    return paragraphs_of(_chunks(path))


def _jsonl(path: Path, column: str) -> Iterator[str]:
    for line in _rows(path):
        if not line.text.strip():
            continue
        try:
            row = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            shown = line.text[:60]
            raise BadInput(f"{path}: line {line.number} is not JSON ({error}): {shown!r}. Correct the line.") from None
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise BadInput(f"{path}: line {line.number} is a {kind}, not an object. Write {{{column!r}: ...}} lines.")
        where = f"{path}: line {line.number}"
        yield _clean(_text_value(row, column, where))


def _csv(path: Path, column: str) -> Iterator[str]:
    reader = csv.reader((line.text + "\n" for line in _rows(path)), strict=True)
    header = _next_row(reader, path) or []
    position = column_position([name.strip() for name in header], column, str(path))
    while (row := _next_row(reader, path)) is not None:
        if not row:
            continue
        if position >= len(row):
            raise BadInput(
                f"{path}: the row that ends on line {reader.line_num} has {len(row)} fields, and the column "
                f"{column!r} is field {position + 1}. Correct the row."
            )
        yield row[position]


def _next_row(reader: Iterator[list[str]], path: Path) -> list[str] | None:
    # The limit is global to the process: it is ours for one row only.
    before = csv.field_size_limit(MAX_ROW_CHARS)
    try:
        return next(reader, None)
    except csv.Error as error:
        line = getattr(reader, "line_num", 0)
        raise BadInput(f"{path}: near line {line}: {error}. Check the quotation marks.") from None
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a parquet file ({error}). Check the file.") from None
    with file:
        schema = file.schema_arrow
        kind = schema.field(column_position(list(schema.names), column, str(path))).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
            raise BadInput(f"{path}: column {column!r} holds {kind}, not strings. Name another with --text-column.")
        try:
            for batch in file.iter_batches(batch_size=128, columns=[column]):
                for text in batch.column(0):
                    yield text.as_py() or ""
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path} cannot be read to its end ({error}). Check the file.") from None


def column_position(names: Sequence[str], column: str, where: str) -> int:
    """Index of `column` in `names`; raises BadInput that lists them."""
    if column not in names:
        shown = ", ".join(repr(name) for name in names[:20]) or "none"
        raise BadInput(f"{where} has no column {column!r}; its columns are {shown}. Name one with --text-column.")
    return list(names).index(column)


def _text_value(row: dict[str, object], column: str, where: str) -> str:
    column_position(list(row), column, where)
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{where}: {column!r} is a {type(value).__name__} ({str(value)[:40]}), not a string.")
    return value


def _clean(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if 0xD800 <= ord(char) < 0xE000 else char for char in text)
    return text


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
