"""A SelfIE reading as a frozen record, and readings as a table with the ancestor's columns and ours.

In the ancestor's CSV `interpretation` held token ids; here it is the text, and `interpretation_ids` holds the ids.
`interpretation_weights` and `interpretation_prob` are `treatment` and `prob`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

from autointerp.lens_records import ControlReading, SelfieVerdict
from autointerp.records import Real, Record
from autointerp.tables import TokenTable
from autointerp.tokentext import printable


class SelfieRow(Record):
    """One vector read with one prompt. `treatment`, `signed` and `prob` have one entry for every generated token.

    `margin`: `total` against the strongest vector control, nats; `source_margin` and its interval: mean and bootstrap
    over the prompts of this vector; `null_p`: share of random vectors whose own texts reach that mean.
    """

    row_id: str
    source_id: str
    category: str
    text: str
    tokens: tuple[str, ...]
    continuation: str
    token: str
    pos: int
    layer: int
    site: str
    prompt_template: str
    prompt_name: str
    interpretation_ids: tuple[int, ...]
    interpretation: str
    treatment: tuple[Real, ...]
    signed: tuple[Real, ...]
    prob: tuple[Real, ...]
    total: Real
    margin: Real
    source_margin: Real
    source_low: Real
    source_high: Real
    null_p: Real
    controls: tuple[ControlReading, ...]
    verdict: SelfieVerdict
    k: int
    mode: str
    strength: Real
    P: int
    h_norm: Real
    x_norm: Real
    seed: int
    model: str
    flags: tuple[str, ...] = ()

    def control(self, name: str) -> ControlReading | None:
        """The control of that name, None where it was not run (a direction has no text)."""
        return next((c for c in self.controls if c.name == name), None)


ANCESTOR_COLUMNS = (
    "name", "prompt", "prompt_token_list", "prompt_output", "current token", "token_idx", "layer_idx",
    "repeat_prompt", "repeat_prompt_name", "interpretation_weights", "interpretation_prob",
)  # fmt: skip
COLUMNS = (*SelfieRow.model_fields, *ANCESTOR_COLUMNS)
_TEXT_COLUMNS = frozenset({
    "source_id", "category", "text", "tokens", "continuation", "token", "prompt_template", "prompt_name",
    "interpretation", "controls", "name", "prompt", "prompt_token_list", "prompt_output", "current token",
    "repeat_prompt", "repeat_prompt_name", "model",
})  # fmt: skip
_SHOWN = ("token", "pos", "layer", "prompt_name", "interpretation", "total", "margin", "null_p", "verdict")


@dataclass(frozen=True)
class SelfieTable:
    """Readings in order; shows itself in a notebook."""

    rows: tuple[SelfieRow, ...]
    title: str = "SelfIE"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def specific(self) -> SelfieTable:
        """The readings that may stand as evidence."""
        return SelfieTable(tuple(r for r in self.rows if r.verdict == "specific"), self.title, self.notes)

    def table(self) -> TokenTable:
        """All columns, ours and then the ancestor's; lists as JSON."""
        return TokenTable(COLUMNS, tuple(csv_cells(row) for row in self.rows), _TEXT_COLUMNS, self.title)

    def to_csv(self) -> str:
        """All columns; tokens survive (`tables.read_csv_cells` with `TEXT_COLUMNS` reads them back)."""
        return self.table().to_csv()

    def to_dataframe(self) -> object:
        """A pandas DataFrame of all columns."""
        return self.table().to_dataframe()

    def to_json(self) -> str:
        """The records, one object a reading."""
        return json.dumps([json.loads(row.model_dump_json()) for row in self.rows], indent=1)

    def to_markdown(self) -> str:
        """The columns that are read first, with every reading's controls below it."""
        return self._short().to_markdown() + "".join(f"\n{note}\n" for note in self.notes)

    def to_html(self) -> str:
        """A self-contained fragment; the controls of each reading unfold below the table."""
        folded = "".join(_controls_html(row) for row in self.rows)
        notes = "".join(f"<p>{escape(printable(note))}</p>" for note in self.notes)
        return f'<div class="autointerp-selfie">{self._short().to_html()}{folded}{notes}</div>'

    def to_page(self) -> str:
        """A whole HTML page, readable offline."""
        style = "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#111;background:#fff}"
        head = f'<meta charset="utf-8"><title>{escape(printable(self.title))}</title><style>{style}</style>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{self.to_html()}</body></html>\n'

    def _repr_html_(self) -> str:
        return self.to_html()

    def _short(self) -> TokenTable:
        columns = (*_SHOWN, "said under controls")
        rows = tuple((*(getattr(row, name) for name in _SHOWN), _said(row)) for row in self.rows)
        return TokenTable(columns, rows, frozenset({"token", "interpretation"}), self.title)


TEXT_COLUMNS = _TEXT_COLUMNS


def _said(row: SelfieRow) -> str:
    return " · ".join(f"{c.name}: {json.dumps(c.text[:40])} {c.total:+.2f}" for c in row.controls)


def _controls_html(row: SelfieRow) -> str:
    items = "".join(f"<li><b>{c.name}</b> {c.total:+.3g} nats: {escape(printable(c.text))}</li>" for c in row.controls)
    head = escape(printable(f"{row.token!r} pos {row.pos}, {row.site}, {row.prompt_name}: {row.verdict}"))
    return f"<details><summary>{head}</summary><ul>{items}</ul></details>"


def csv_cells(row: SelfieRow) -> tuple[str | int | float, ...]:
    """The cells of a reading under `COLUMNS`."""
    own = [_cell(getattr(row, name)) for name in SelfieRow.model_fields]
    listed = json.dumps(list(row.tokens))
    return (
        *own, row.source_id, row.text, listed, row.continuation, row.token, row.pos, row.layer,
        row.prompt_template, row.prompt_name, _cell(row.treatment), _cell(row.prob),
    )  # fmt: skip


def _cell(value: object) -> str | int | float:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        plain = [item.model_dump() if isinstance(item, Record) else _short_float(item) for item in value]
        return json.dumps(plain)
    raise TypeError(f"no cell for {type(value).__name__}")


def _short_float(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
