"""Targets of the detectors: which cells `[dst src]` of a pattern a kind of head would fill (attention_evidence 6).

1. A target is a weight for each cell, 1 over the number of its rows, so that the weighted sum of a row of text is the
   mean over its destinations of the attention that they give to their target sources.
2. The value of a head that attends evenly, `A[d,s] = 1 / (d + 1)`, on the same cells is the uniform baseline.

Position 0 is the sink: no target but `first_token` has it as a source, unless nothing was fed before the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

OFFSETS = tuple(range(2, 17))
LAST = 8  # sources of `local_context`, self and previous token included


@dataclass(frozen=True)
class Targets:
    """Named cells of a batch. `cells` weigh each row's destinations equally; `present`: the row has any."""

    names: tuple[str, ...]
    cells: Float[Tensor, "row target dst src"]
    present: Bool[Tensor, "row target"]

    @classmethod
    def of(cls, masks: Mapping[str, Bool[Tensor, "row dst src"]]) -> Targets:
        """Cells from boolean masks: a destination counts where its mask has a source."""
        stacked = torch.stack(list(masks.values()), 1).float()
        n_rows = stacked.any(-1).sum(-1)
        return cls(tuple(masks), stacked / n_rows.clamp_min(1)[..., None, None], n_rows > 0)

    def values(self, pattern: Float[Tensor, "row head dst src"]) -> Float[Tensor, "row target head"]:
        """Mean attention on the target cells; NaN where the row has none."""
        found = self.cells.flatten(2) @ pattern.float().flatten(2).transpose(1, 2)
        return torch.where(self.present[..., None], found, torch.nan)

    def uniform(self) -> Float[Tensor, "row target"]:
        """The value of a head that attends evenly to all sources."""
        even = 1 / torch.arange(1, self.cells.shape[2] + 1, device=self.cells.device, dtype=torch.float32)
        return torch.where(self.present, (self.cells.sum(-1) * even).sum(-1), torch.nan)


def positional_masks(real: Bool[Tensor, "row pos"], start: int, largest: int) -> dict[str, Bool[Tensor, "row dst src"]]:
    """previous, current and first token, and offsets up to `largest`; `start`: position of the first token of text."""
    size = real.shape[1]
    dst, src = _axes(size, real.device)
    rows = real[:, :, None]
    found = {
        "previous_token": rows & (dst - src == 1) & (src >= start),
        "current_token": rows & (dst == src) & (dst >= start + 1),
        "first_token": rows & (src == 0) & (dst >= 1),
    }
    for k in OFFSETS:
        if k <= largest:
            found[f"offset_{k}"] = rows & (dst - src == k) & (src >= start)
    return found


def repeat_masks(length: int, start: int, device: torch.device) -> dict[str, Bool[Tensor, "row dst src"]]:
    """Cells of `[BOS] r r` with `length` ids in r: one row, the same for all sequences."""
    size = start + 2 * length
    real = torch.ones(1, size, dtype=torch.bool, device=device)
    dst, src = _axes(size, device)
    second = dst >= start + length
    return positional_masks(real, start, length - 2) | {
        "duplicate_token": (second & (dst - src == length))[None],
        "induction": (second & (dst - src == length - 1) & (dst < size - 1))[None],
    }


def text_masks(
    ids: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"], content: Bool[Tensor, "row pos"], start: int
) -> dict[str, Bool[Tensor, "row dst src"]]:
    """Cells of real text; `content`: real positions without control tokens, position 0 excluded where it is BOS.

    duplicate: all earlier sources with the destination's id. induction: all earlier sources whose previous token is
    the destination's id (the destination itself is left to `current_token`). `/last`: the last of these sources alone.
    """
    size = ids.shape[1]
    dst, src = _axes(size, ids.device)
    earlier = (src < dst) & content[:, :, None] & content[:, None, :]
    equal = (ids[:, :, None] == ids[:, None, :]) & earlier
    after = torch.zeros_like(equal)
    after[:, :, 1:] = equal[:, :, :-1]
    content_masks = {"duplicate_token": equal, "induction": after & earlier}
    last = {f"{name}/last": last_cells(cells) for name, cells in content_masks.items()}
    return positional_masks(real, start, size) | content_masks | last


def last_cells(cells: Bool[Tensor, "row dst src"]) -> Bool[Tensor, "row dst src"]:
    """Of each destination's cells, the one with the last source."""
    sources = torch.arange(cells.shape[2], device=cells.device)
    last = torch.where(cells, sources, -1).amax(-1, keepdim=True)
    return cells & (sources == last)


def last_sources(pattern: Float[Tensor, "row head dst src"]) -> Float[Tensor, "row head dst last"]:
    """Attention to the last `LAST` sources, self first; zero before the start of the row."""
    size = pattern.shape[-1]
    positions = torch.arange(size, device=pattern.device)[:, None] - torch.arange(LAST, device=pattern.device)
    index = positions.clamp_min(0).expand(*pattern.shape[:2], size, LAST)
    return pattern.gather(-1, index) * (positions > 0)


def _axes(size: int, device: torch.device) -> tuple[Int[Tensor, "dst 1"], Int[Tensor, "1 src"]]:
    positions = torch.arange(size, device=device)
    return positions[:, None], positions[None, :]
