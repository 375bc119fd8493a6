"""Vectors of one head at chosen rows: its output, and the difference that it makes to the final residual.

`output` is `result = z W_O` at the destination, without the output bias. `difference` is the input of the final norm
there minus the same with the head's z at the destination alone replaced (by `z_mean`, else zero), so it holds what
later blocks make of the output as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lens_records import What
from autointerp.lenses.sources import Source, feed_text
from autointerp.model import LanguageModel
from autointerp.model.site_changes import changing_site
from autointerp.model.sites import Batch, Row, Site, batches, read_sites
from autointerp.records import Head


@dataclass(frozen=True)
class HeadRow:
    """A row of a head: the ids as fed, the destination, and the names by which an `Example` knows it."""

    ids: tuple[int, ...]
    dst: int
    doc_id: str = ""
    window: int = 0
    stratum: str = "top"


@dataclass(frozen=True, eq=False)
class HeadVectors:
    """Vectors of rows in order, and the final residual at their destinations."""

    output: Float[Tensor, "row d_model"]
    difference: Float[Tensor, "row d_model"]
    final: Float[Tensor, "row d_model"]

    def of(self, what: What) -> Float[Tensor, "row d_model"]:
        """The vectors of one kind."""
        return self.output if what == "output" else self.difference


def head_vectors(
    model: LanguageModel,
    head: Head,
    rows: Sequence[HeadRow],
    z_mean: Float[np.ndarray, " d_head"] | None = None,
    batch_size: int = 16,
) -> HeadVectors:
    """Read the rows, each cut at its destination. Raises BadInput for a head or a row that the model does not have."""
    cut = [_row(model, row) for row in rows]
    result = read_sites(model, cut, [Site.of_head("result", head)], batch_size=batch_size)
    stand_in = torch.zeros(()) if z_mean is None else torch.from_numpy(np.asarray(z_mean, dtype=np.float32))

    def replaced(z: Float[Tensor, "batch d_head"], batch: Batch) -> Float[Tensor, "batch d_head"]:
        return stand_in.to(z).expand_as(z)

    changes = changing_site(model, Site.of_head("z", head), replaced)
    final = torch.empty(len(rows), int(model.bridge.cfg.d_model))
    without = torch.empty_like(final)
    for batch in batches(model, cut, batch_size):
        for into, hooks in ((final, []), (without, list(changes(batch)))):
            with model.hooks(hooks):
                residual = model.final_states(batch.ids)[0]
            each = torch.arange(len(batch.ids), device=residual.device)
            into[batch.numbers] = residual[each, batch.positions].float().cpu()
    return HeadVectors(next(iter(result.values())), final - without, final)


def _row(model: LanguageModel, row: HeadRow) -> Row:
    if not 0 <= row.dst < len(row.ids):
        raise BadInput(f"destination {row.dst} is outside a row of {len(row.ids)} tokens. Correct it.")
    if row.dst >= model.n_ctx:
        raise BadInput(f"destination {row.dst} is past the context of {model.name} ({model.n_ctx}). Shorten the row.")
    return Row(np.array(row.ids[: row.dst + 1]), row.dst)


def head_source(
    model: LanguageModel, head: Head, row: HeadRow, what: What, vector: Float[Tensor, " d_model"]
) -> Source:
    """The vector as something to read; its text ends with the destination."""
    tokens = tuple(model.strings[i] for i in row.ids)
    offset = int(model.bos_id is not None and row.ids[0] == model.bos_id)
    name = str(Site.of_head("result", head)) if what == "output" else f"difference {head}"
    return Source(
        f"{row.doc_id}:{row.window}", vector, name, head.layer, "".join(tokens[offset:]),
        row.ids[offset : row.dst + 1], tokens, row.dst, tokens[row.dst], document=row.doc_id,
    )  # fmt: skip


def text_head_sources(
    model: LanguageModel, head: Head, text: str, positions: Sequence[int] | None = None
) -> list[Source]:
    """The head's output at positions of a text (all but BOS). Raises BadInput for either out of range."""
    fed = feed_text(model, text)
    places = fed.own_positions(model) if positions is None else list(positions)
    rows = [HeadRow(fed.ids, pos, text[:40]) for pos in places]
    cut = [_row(model, row) for row in rows]
    site = Site.of_head("result", head)
    vectors = read_sites(model, cut, [site])[site]
    return [head_source(model, head, row, "output", vector) for row, vector in zip(rows, vectors, strict=True)]
