"""The table of published heads: `published_heads.csv` of this package, or a user's own file of the same form.

One row is one statement (head, label) of one source; a head may have several. A label with `not:` before it is a
verified or reported negative. This is test data: no prompt, example or threshold may use it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autointerp.errors import BadInput
from autointerp.pipeline.bench_heads_labels import DENIED_ON_RANDOM, MEANINGS
from autointerp.records import Head

COLUMNS = ("model", "layer", "head", "label", "role", "source", "grade")
GRADES = ("A", "B")
NOT = "not:"
SHIPPED = Path(__file__).with_name("published_heads.csv")
MAX_INDEX = 10_000  # of a layer or a head; more is a slip
_SAME = {"openai-community/gpt2": "gpt2", "gpt2-small": "gpt2", "eleutherai/pythia-1.4b": "pythia-1.4b"}


@dataclass(frozen=True)
class PublishedRow:
    """A row; `label` without its `not:`, `line` is where it ends in the file."""

    model: str
    head: Head
    label: str
    negative: bool
    role: str
    source: str
    grade: str
    line: int = 0

    @property
    def named(self) -> str:
        return NOT + self.label if self.negative else self.label


def read_table(path: Path = SHIPPED) -> tuple[PublishedRow, ...]:
    """The rows of a table. Raises BadInput with the line of the first row that cannot be used."""
    if not path.is_file():
        raise BadInput(f"--table {path} is not a file. Give a CSV file with the columns {','.join(COLUMNS)}.")
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            _check_header(next(reader, []), path)
            rows = [_row(cells, path, reader.line_num) for cells in reader if cells]
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8 text. Save it again as UTF-8.") from None
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}. Correct the row.") from None
    if not rows:
        raise BadInput(f"{path} has no row below its header. Write one row for each head and label.")
    _check_consistent(rows, path)
    return tuple(rows)


def _check_header(cells: Sequence[str], path: Path) -> None:
    if tuple(cells) != COLUMNS:
        found = ",".join(cells)[:120] or "nothing"
        raise BadInput(f"{path}, line 1: the header is {found!r}. Write {','.join(COLUMNS)}.")


def _row(cells: Sequence[str], path: Path, line: int) -> PublishedRow:
    where = f"{path}, line {line}"
    if len(cells) != len(COLUMNS):
        raise BadInput(f"{where}: {len(cells)} fields instead of {len(COLUMNS)}. Put commas inside a field in quotes.")
    model, layer, index, label, role, source, grade = (cell.strip() for cell in cells)
    if not model:
        raise BadInput(f"{where}: the model is empty. Write the name that --model takes.")
    for name, text in (("layer", layer), ("head", index)):
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) < MAX_INDEX):
            raise BadInput(f"{where}: {name} {text[:40]!r} is no index. Write a whole number from 0.")
    negative = label.startswith(NOT)
    bare = label.removeprefix(NOT)
    if bare not in MEANINGS and not (negative and bare in DENIED_ON_RANDOM):
        raise BadInput(f"{where}: label {label[:60]!r} is unknown. Known are {', '.join(sorted(MEANINGS))}, each also "
                       f"with {NOT} before it, and {NOT}{f', {NOT}'.join(DENIED_ON_RANDOM)}.")  # fmt: skip
    if grade not in GRADES:
        raise BadInput(f"{where}: grade {grade[:20]!r} is unknown. Write A (primary source) or B (any other).")
    return PublishedRow(model, Head(layer=int(layer), index=int(index)), bare, negative, role, source, grade, line)


def _check_consistent(rows: Sequence[PublishedRow], path: Path) -> None:
    """No head may have a label and its denial."""
    said: dict[tuple[str, Head, str], PublishedRow] = {}
    for row in rows:
        other = said.setdefault((row.model, row.head, row.label), row)
        if other.negative != row.negative:
            raise BadInput(f"{path}, line {row.line}: {row.head} is {row.named} here and {other.named} in line "
                           f"{other.line}. Keep one of the two.")  # fmt: skip


def models_of(rows: Sequence[PublishedRow]) -> tuple[str, ...]:
    """The models of a table, in its order."""
    return tuple(dict.fromkeys(row.model for row in rows))


def rows_of(rows: Sequence[PublishedRow], model: str) -> tuple[PublishedRow, ...]:
    """The rows of a model, by the name that `--model` takes. Raises BadInput listing the models that there are."""
    wanted = _SAME.get(model.casefold(), model)
    found = tuple(row for row in rows if row.model.casefold() == wanted.casefold())
    if not found:
        listed = ", ".join(f"{name} ({len({r.head for r in rows if r.model == name})} heads)"
                           for name in models_of(rows))  # fmt: skip
        raise BadInput(f"the table of published heads has no head of model {model!r}. It has {listed}. Name one of "
                       "them with --as, or give a table of your own with --table.")  # fmt: skip
    return found


def check_shape(rows: Sequence[PublishedRow], n_layers: int, n_heads: int) -> None:
    """Every head of `rows` exists in a model of this shape. Raises BadInput with the line of one that does not."""
    for row in rows:
        if row.head.layer >= n_layers or row.head.index >= n_heads:
            line = f"line {row.line} of the table: " if row.line else ""
            raise BadInput(f"{line}there is no head {row.head} in {row.model}, which has {n_layers} layers of "
                           f"{n_heads} heads. Is it the right model, and do indices begin at 0?")  # fmt: skip
