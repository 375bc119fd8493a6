"""The strongest, weakest or random activations of one unit over the explain split, as a table.

1. Every window runs once, up to the unit's site; rows are destinations after position 0 that are no control token.
2. Ranked: the document's highest (or lowest) row stands for it, so that a document is listed once; ties go to the
   document's hash. Random: the rows with the smallest seeded hashes.
3. `a` is the raw activation and is shown as it is: nothing is known yet of a neuron's sign. `share` is a over the mean
   of the 16 largest document maxima of |a| that were seen.

At most `n` rows and 16 numbers are kept, whatever the length of the corpus.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32, UInt64

from autointerp.display import TokenRow, tokens_html
from autointerp.errors import BadInput
from autointerp.evidence.collect import ExplainWindows
from autointerp.features.activations import Units, read_activations
from autointerp.features.first_pass import TOP
from autointerp.features.text_rows import hashes_of_rows, is_row
from autointerp.model import LanguageModel
from autointerp.records import Feature
from autointerp.tables import TokenTable

if TYPE_CHECKING:
    import pandas

Order = Literal["top", "bottom", "random"]
COLUMNS = (
    "rank", "doc_id", "window_id", "dst", "token", "activation", "share", "prev_token", "next_token", "prefix_text",
)  # fmt: skip
TEXT_COLUMNS = frozenset({"doc_id", "token", "prev_token", "next_token", "prefix_text"})
NEAR = 8  # tokens shown before the row's token in `prefix_text`, and drawn on each side
DEFINITION = (
    "activation = what the unit holds at the token, raw; share = activation over the mean of the 16 largest "
    "document maxima of its size"
)


@dataclass(frozen=True)
class Ranked:
    """Which rows to list; `token`: only at this exact token string."""

    order: str = "top"
    n: int = 10
    seed: int = 0
    token: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadInput(f"n is {self.n}; ask for at least 1 row.")
        if self.order not in ("top", "bottom", "random"):
            raise BadInput(f"order={self.order!r} is not known; it is one of top, bottom, random.")


@dataclass(frozen=True)
class ActivationRow:
    """One row; `tokens` and `activations` are those of the whole fed window."""

    rank: int
    doc_id: str
    window_id: int
    dst: int
    token: str
    activation: float
    share: float
    prev_token: str
    next_token: str | None
    prefix_text: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class ActivationTable:
    """The rows asked for; `population` is how many rows they were taken from."""

    rows: tuple[ActivationRow, ...]
    title: str
    population: int
    definition: str = DEFINITION

    def _table(self) -> TokenTable:
        cells = tuple(tuple(getattr(row, name) for name in COLUMNS) for row in self.rows)
        return TokenTable(COLUMNS, cells, TEXT_COLUMNS, self.title)

    def to_dataframe(self) -> pandas.DataFrame:
        """A DataFrame with `COLUMNS`; tokens as they are."""
        return self._table().to_dataframe()

    def to_csv(self) -> str:
        """CSV text; `tables.read_csv_cells(text, TEXT_COLUMNS)` gives the tokens back."""
        return self._table().to_csv()

    def to_markdown(self) -> str:
        """Title, definition and a pipe table."""
        heading, _, table = self._table().to_markdown().partition("\n\n")
        return f"{heading}\n\n{self.definition}.\n\n{table}"

    def to_json(self) -> str:
        """JSON text with whole windows; NaN is null."""
        rows = [{name: _defined(value) for name, value in asdict(row).items()} for row in self.rows]
        whole = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rows"}
        return json.dumps({**whole, "rows": rows}, indent=1, allow_nan=False)

    def to_html(self) -> str:
        """A page of its own, readable offline: the table, and each row's activations drawn over its tokens."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="color-scheme" content="light dark"><title>{escape(self.title)}</title></head>'
            '<body style="font-family:system-ui,sans-serif;margin:1rem">'
            f"{self._repr_html_()}</body></html>\n"
        )

    def _repr_html_(self) -> str:
        drawn = "".join(tokens_html(_drawn(row)) for row in self.rows)
        table = f'<div style="overflow-x:auto">{self._table().to_html()}</div>'
        return f"<p>{escape(self.definition)}</p>{table}{drawn}"


def ranked_activations(
    model: LanguageModel,
    explain: ExplainWindows,
    units: Units,
    feature: Feature,
    asked: Ranked,
    batch_size: int = 8,
) -> ActivationTable:
    """The rows of `feature` that `asked` names. Raises BadInput for a token that the model does not have."""
    if asked.token is not None and asked.token not in model.strings:
        raise BadInput(f"{asked.token!r} is no token of {model.name}. Write it as it stands in text, space included.")
    search = _Search(asked, model.strings)
    for start in range(0, len(explain.numbers), batch_size):
        numbers = explain.numbers[start : start + batch_size]
        ids, lengths = np.asarray(explain.windows.ids[numbers]), np.asarray(explain.windows.lengths[numbers])
        values = read_activations(model, units, [feature], ids, lengths, batch_size)[:, :, 0]
        there = is_row(ids, lengths, model.special_ids)
        hashes = hashes_of_rows(explain, numbers, asked.seed, ids.shape[1])
        for row, number in enumerate(numbers.tolist()):
            window = _Window(
                number, int(explain.windows.doc[number]), ids[row].copy(), values[row].copy(), hashes[row].copy()
            )
            search.add(window, np.flatnonzero(there[row]))
    search.close()
    return _table_of(search, model, explain, feature)


@dataclass(frozen=True, eq=False)
class _Window:
    number: int
    document: int
    ids: np.ndarray
    values: Float32[np.ndarray, " pos"]
    hashes: UInt64[np.ndarray, " pos"]


Entry = tuple[float, int, int, _Window]  # key (the largest are kept), hash, dst, window


@dataclass
class _Search:
    """Keeps the rows asked for, and the largest document maxima of |a|."""

    asked: Ranked
    strings: list[str]
    kept: list[Entry] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    population: int = 0
    _document: int = -1
    _best: Entry | None = None
    _size: float = 0.0

    def add(self, window: _Window, rows: np.ndarray) -> None:
        if window.document != self._document:
            self.close()
            self._document = window.document
        if len(rows):
            self._size = max(self._size, float(np.abs(window.values[rows]).max()))
        if self.asked.token is not None:
            rows = rows[[self.strings[int(window.ids[dst])] == self.asked.token for dst in rows]]
        self.population += len(rows)
        if self.asked.order == "random":
            for dst in rows.tolist():
                self._keep((-float(window.hashes[dst]), int(window.hashes[dst]), dst, window))
        elif len(rows):
            sign = 1.0 if self.asked.order == "top" else -1.0
            dst = int(rows[int((sign * window.values[rows]).argmax())])
            entry = (sign * float(window.values[dst]), int(window.hashes[dst]), dst, window)
            if self._best is None or entry[:2] > self._best[:2]:
                self._best = entry

    def close(self) -> None:
        """The open document is done."""
        if self._best is not None:
            self._keep(self._best)
        if self._document >= 0:
            heapq.heappush(self.largest, self._size)
            self.largest = heapq.nlargest(TOP, self.largest)
        self._best, self._size, self._document = None, 0.0, -1

    def _keep(self, entry: Entry) -> None:
        if len(self.kept) < self.asked.n:
            heapq.heappush(self.kept, entry)
        elif entry[:3] > self.kept[0][:3]:
            heapq.heapreplace(self.kept, entry)

    def ordered(self) -> Iterator[Entry]:
        yield from sorted(self.kept, key=lambda entry: entry[:2], reverse=True)


def _table_of(search: _Search, model: LanguageModel, explain: ExplainWindows, feature: Feature) -> ActivationTable:
    reference = float(np.mean(search.largest)) if search.largest else 0.0
    rows = tuple(_row(rank, entry, reference, model, explain) for rank, entry in enumerate(search.ordered(), start=1))
    asked = search.asked
    at = "" if asked.token is None else f" at {json.dumps(asked.token)}"
    kind = {"top": "highest", "bottom": "lowest", "random": "random"}[asked.order]
    title = f"{feature}: {kind} {len(rows)} of {search.population} rows{at}"
    return ActivationTable(rows, title, search.population)


def _row(rank: int, entry: Entry, reference: float, model: LanguageModel, explain: ExplainWindows) -> ActivationRow:
    _, _, dst, window = entry
    length = int(explain.windows.lengths[window.number])
    tokens = tuple(model.strings[int(i)] for i in window.ids[:length])
    value = float(window.values[dst])
    return ActivationRow(
        rank=rank,
        doc_id=explain.windows.doc_ids[window.document],
        window_id=int(explain.windows.window_in_doc[window.number]),
        dst=dst,
        token=tokens[dst],
        activation=value,
        share=value / reference if reference else math.nan,
        prev_token=tokens[dst - 1],
        next_token=tokens[dst + 1] if dst + 1 < length else None,
        prefix_text="".join(tokens[max(dst - NEAR, 0) : dst + 1]),
        tokens=tokens,
        activations=tuple(round(float(v), 5) for v in window.values[:length]),
    )


def _drawn(row: ActivationRow) -> TokenRow:
    title = f"{row.rank}. activations around {json.dumps(row.token)} ({row.dst})"
    return TokenRow(row.tokens, row.activations, marked=frozenset({row.dst}), scale="signed", window=NEAR, title=title)


def _defined(value: object) -> object:
    if isinstance(value, tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
