"""The logit lens: what the model would predict at each position if it stopped before each block.

Definition and readout are those of `transformer_lens.tools.analysis.logit_lens` (nostalgebraist 2020): the residual
stream through the final norm and the unembedding. The last row is the model's own prediction. Early rows need not be
in the basis of the unembedding, so a strange token there is no finding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.errors import BadInput
from autointerp.lenses.grid import Grid, GridCell, one_line
from autointerp.lenses.sources import FedText, check_layers, feed_text
from autointerp.model import LanguageModel
from autointerp.model.lens import LensReadout, stream_lens
from autointerp.records import Real, Record
from autointerp.tables import TokenTable

COLUMNS = ("site", "layer", "pos", "token", "rank", "predicted", "prob", "log_prob", "entropy", "next_token",
           "next_rank", "next_log_prob")  # fmt: skip


class Predicted(Record):
    """A token that a cell predicts, with its log-probability in nats."""

    token: str
    log_prob: Real


class LensCell(Record):
    """The stream of one site at one position, read as a prediction; `next_*`: of the token that really follows (rank
    0 is the likeliest), None at the end of the text. Entropy over the whole vocabulary, nats."""

    site: str
    layer: int
    pos: int
    token: str
    top: tuple[Predicted, ...]
    entropy: Real
    next_token: str | None
    next_rank: int | None
    next_log_prob: Real | None


@dataclass(frozen=True)
class LogitLens:
    """`cells[site][column]`, sites from the first block's input to the final norm's; shows itself in a notebook."""

    model: str
    text: str
    sites: tuple[str, ...]
    positions: tuple[int, ...]
    cells: tuple[tuple[LensCell, ...], ...]

    def cell(self, site: str, pos: int) -> LensCell:
        """One cell. Raises BadInput where there is none."""
        if site not in self.sites or pos not in self.positions:
            raise BadInput(f"the lens has no cell at {site}, position {pos}. Sites: {', '.join(self.sites)}; positions "
                           f"{self.positions[0]} to {self.positions[-1]}.")  # fmt: skip
        return self.cells[self.sites.index(site)][self.positions.index(pos)]

    def grid(self) -> Grid:
        """Layers from the top down, last first; each cell its likeliest token."""
        rows = tuple(
            tuple(GridCell(c.top[0].token, math.exp(c.top[0].log_prob), _detail(c)) for c in line)
            for line in reversed(self.cells)
        )
        columns = tuple(cell.token for cell in self.cells[0])
        return Grid(columns, tuple(reversed(self.sites)), rows, "logit lens")

    def table(self) -> TokenTable:
        """A row for each predicted token."""
        rows = [
            (c.site, c.layer, c.pos, c.token, rank, top.token, math.exp(top.log_prob), top.log_prob, c.entropy,
             c.next_token, c.next_rank, c.next_log_prob)
            for line in self.cells for c in line for rank, top in enumerate(c.top)
        ]  # fmt: skip
        return TokenTable(COLUMNS, tuple(rows), frozenset({"token", "predicted", "next_token"}), "logit lens")

    def to_text(self) -> str:
        """For a terminal."""
        return self.grid().to_text()

    def to_markdown(self) -> str:
        """Layers by tokens as a pipe table."""
        return self.grid().to_markdown()

    def to_csv(self) -> str:
        """A line for each predicted token."""
        return self.table().to_csv()

    def to_dataframe(self) -> object:
        """A pandas DataFrame with a row for each predicted token."""
        return self.table().to_dataframe()

    def to_json(self) -> str:
        """All cells."""
        cells = [json.loads(c.model_dump_json()) for line in self.cells for c in line]
        return json.dumps({"model": self.model, "text": self.text, "sites": self.sites, "cells": cells}, indent=1)

    def to_html(self) -> str:
        """A self-contained page."""
        return self.grid().to_page()

    def _repr_html_(self) -> str:
        return self.grid().to_html()


def logit_lens(
    model: LanguageModel,
    text: str,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    k: int = 5,
) -> LogitLens:
    """The lens of a text at `resid_pre` of the layers (all) and after the last block, at the positions (all).

    Raises BadInput for a text past the context, a layer or a position out of range; ModelError where transformer_lens
    cannot read the model through its final norm and unembedding.
    """
    fed = feed_text(model, text)
    wanted = None if layers is None else check_layers(model, layers)
    places = tuple(range(len(fed.ids)) if positions is None else positions)
    for pos in places:
        if not 0 <= pos < len(fed.ids):
            raise BadInput(f"position {pos} is outside the {len(fed.ids)} tokens of the text as fed. Name one inside.")
    if not places:
        raise BadInput("no position is asked for. Name at least one.")
    sites, found = stream_lens(model, model.to_ids(np.array([fed.ids])), k)
    kept = [n for n, site in enumerate(sites) if wanted is None or n == len(sites) - 1 or n in wanted]
    cells = tuple(tuple(_cell(model, fed, sites[n], n, pos, found) for pos in places) for n in kept)
    return LogitLens(model.name, text, tuple(sites[n] for n in kept), places, cells)


def _cell(model: LanguageModel, fed: FedText, site: str, n: int, pos: int, found: LensReadout) -> LensCell:
    top = zip(found.top_ids[n, pos].tolist(), found.top_log_probs[n, pos].tolist(), strict=True)
    following = fed.ids[pos + 1] if pos + 1 < len(fed.ids) and found.rank is not None else None
    aimed = following is not None and found.rank is not None and found.log_prob is not None
    return LensCell(
        site=site,
        layer=int(site.split()[1]),
        pos=pos,
        token=model.strings[fed.ids[pos]],
        top=tuple(Predicted(token=model.strings[i], log_prob=value) for i, value in top),
        entropy=float(found.entropy[n, pos]),
        next_token=None if following is None else model.strings[following],
        next_rank=int(found.rank[n, pos]) if aimed and found.rank is not None else None,
        next_log_prob=float(found.log_prob[n, pos]) if aimed and found.log_prob is not None else None,
    )


def _detail(cell: LensCell) -> str:
    likely = ", ".join(f"{one_line([one.token])} {100 * math.exp(one.log_prob):.1f}%" for one in cell.top)
    following = ""
    if cell.next_token is not None and cell.next_log_prob is not None:
        share = 100 * math.exp(cell.next_log_prob)
        following = f"\nnext token {one_line([cell.next_token])}: {share:.1f}%, rank {cell.next_rank}"
    return f"{likely}\nentropy {cell.entropy:.2f} nats{following}"
