"""What the entity lens read: one record a cell, as a table, a grid or a page; CSV and JSON lose nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autointerp.errors import BadInput
from autointerp.lenses.grid import Grid, GridCell
from autointerp.tables import TokenTable

if TYPE_CHECKING:
    import pandas

SHOWN = 26  # characters of a mention in print; the details have all of it
SAME = "″"  # in print, the mention of the row above
NO_ENTITY = "no specific entity"
TOKEN_COLUMNS = frozenset({"token", "mention", "logit_lens"})


@dataclass(frozen=True)
class LensCell:
    """`ppl` is the perplexity of the output's ids, the stop token included; `pos` counts the start token as 0."""

    layer: int
    theta_layer: int
    pos: int
    token: str
    mention: str
    ids: tuple[int, ...]
    ppl: float
    logit_lens: tuple[tuple[str, float], ...]
    controls: dict[str, str]

    @property
    def confidence(self) -> float:
        """1 / ppl: the geometric mean of the ids' probabilities."""
        return 1 / self.ppl

    @property
    def equals_control(self) -> bool:
        """Whether a control says the same: then this vector adds nothing."""
        return self.mention in self.controls.values()


@dataclass(frozen=True)
class EntityReading:
    """All cells of one text, by layer and position."""

    text: str
    model: str
    context: str
    filtered: bool
    cells: tuple[LensCell, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(cell.layer for cell in self.cells))

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(cell.token for cell in self.cells if cell.layer == self.cells[0].layer)

    def column(self, pos: int) -> tuple[LensCell, ...]:
        """One token at all layers. Raises BadInput for a position without cells."""
        found = tuple(cell for cell in self.cells if cell.pos == pos)
        if not found:
            raise BadInput(f"position {pos} is not read; positions are 1 to {len(self.tokens)}.")
        return found

    def table(self) -> TokenTable:
        """A row a cell."""
        names = list(self.cells[0].controls)
        columns = ("layer", "theta_layer", "pos", "token", "mention", "ppl", "equals_control", "ids", "logit_lens",
                   "logit_lens_p", *(f"control_{name}" for name in names))  # fmt: skip
        rows = tuple(
            (cell.layer, cell.theta_layer, cell.pos, cell.token, cell.mention, cell.ppl, cell.equals_control,
             " ".join(map(str, cell.ids)), cell.logit_lens[0][0] if cell.logit_lens else None,
             cell.logit_lens[0][1] if cell.logit_lens else None, *(cell.controls[name] for name in names))
            for cell in self.cells
        )  # fmt: skip
        return TokenTable(columns, rows, TOKEN_COLUMNS | {f"control_{name}" for name in names})

    def to_dataframe(self) -> pandas.DataFrame:
        """A DataFrame, one row a cell."""
        return self.table().to_dataframe()

    def to_csv(self) -> str:
        """CSV, one row a cell; `autointerp.tables.read_csv_cells` gives the tokens back."""
        return self.table().to_csv()

    def to_json(self) -> str:
        """Everything; `EntityReading.from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EntityReading:
        """What `to_json` wrote. Raises BadInput for anything else."""
        try:
            fields = json.loads(text)
            cells = tuple(_cell(one) for one in fields.pop("cells"))
            return cls(**fields, cells=cells)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"this is no entity-lens reading ({error!r}). Give what to_json wrote.") from None

    def grid(self) -> Grid:
        """Layers by tokens; equal mentions of neighbouring layers are drawn once."""
        rows: list[str] = []
        lines: list[tuple[GridCell, ...]] = []
        above: tuple[LensCell, ...] = ()
        for layer in self.layers:
            line = tuple(cell for cell in self.cells if cell.layer == layer)
            rows.append(_row_name(line[0]))
            lines.append(tuple(_grid_cell(cell, above[n] if above else None) for n, cell in enumerate(line)))
            if line[0].logit_lens:
                rows.append(f"{rows[-1]} logit lens")
                lines.append(tuple(_logit_cell(cell) for cell in line))
            above = line
        title = f"Entity lens of {self.model}, context {self.context}{', linear filter' if self.filtered else ''}"
        return Grid(self.tokens, tuple(rows), tuple(lines), title, LEGEND)

    def to_text(self) -> str:
        """For a terminal."""
        return self.grid().to_text()

    def to_markdown(self) -> str:
        """A pipe table of layers by tokens."""
        return self.grid().to_markdown() + f"\n{LEGEND}\n"

    def to_html(self) -> str:
        """A self-contained page: hover for likelihoods, click a token for its column."""
        return self.grid().to_page()

    def _repr_html_(self) -> str:
        return self.grid().to_html()


LEGEND = f"shade: 1 / perplexity of the mention; {SAME} as above; = a control says the same ({NO_ENTITY})"


def _row_name(cell: LensCell) -> str:
    name = "Emb (-1)" if cell.layer < 0 else f"{cell.layer + 1} ({cell.layer})"
    return name if cell.theta_layer == cell.layer else f"{name}, vector {cell.theta_layer}"


def _grid_cell(cell: LensCell, above: LensCell | None) -> GridCell:
    same = above is not None and above.mention == cell.mention and above.equals_control == cell.equals_control
    shown = SAME if same and cell.mention else ("=" if cell.equals_control else "") + cell.mention
    lines = [f"{json.dumps(cell.mention)}, perplexity {cell.ppl:.3g}"]
    lines += [f"control {name}: {json.dumps(said)}" for name, said in cell.controls.items()]
    if cell.equals_control:
        lines.append(NO_ENTITY)
    return GridCell(shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…", cell.confidence, "\n".join(lines))


def _logit_cell(cell: LensCell) -> GridCell:
    token, p = cell.logit_lens[0]
    return GridCell(token, p, "\n".join(f"{json.dumps(t)} {q:.3f}" for t, q in cell.logit_lens))


def _cell(fields: dict[str, Any]) -> LensCell:
    tops = tuple((str(token), float(p)) for token, p in fields["logit_lens"])
    return LensCell(**{**fields, "ids": tuple(fields["ids"]), "logit_lens": tops})
