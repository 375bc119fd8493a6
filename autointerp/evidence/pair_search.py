"""What the attention queries share: token filters, gathering candidate cells, and the table of the best."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence.cells import Best, Cell, Row
from autointerp.evidence.head_windows import Expectation, HeadReader, HeadWindow
from autointerp.evidence.pairs import N_MIN, expected_share, position_lift, source_flags
from autointerp.evidence.rows import TAU
from autointerp.evidence.table import PairRow, PairTable
from autointerp.evidence.windows import Window
from autointerp.model import LanguageModel

SINK_RULE = (
    "The sink (position 0 and control tokens) is left out before any division; sink_mass is what it had. "
    f"Rows with less than {TAU} off the sink have no share, rows with under {N_MIN} sources no multiple; "
    "such rows are not ranked by what they lack, nor short rows by share."
)
VALUES = ("attn", "share", "multiple", "contribution")
Choose = Callable[[HeadWindow], tuple[Bool[Tensor, "row src"], Float[Tensor, "row src"]]]


@dataclass(frozen=True, eq=False)
class TokenFilter:
    """Exact token strings that source and destination must have, as vocabulary ids; None lets all pass."""

    src: str | None
    dst: str | None
    src_ids: tuple[int, ...]
    dst_ids: tuple[int, ...]

    @classmethod
    def of(cls, model: LanguageModel, src: str | None, dst: str | None) -> TokenFilter:
        """Raises BadInput with the nearest tokens for a string that is none."""
        return cls(src, dst, _ids_of(model, src), _ids_of(model, dst))

    def mask(self, seen: HeadWindow) -> Bool[Tensor, "row src"]:
        """Which pairs of a window pass."""
        ids = torch.as_tensor(seen.window.ids, device=seen.dst.device)
        passed = seen.pairs.allowed
        if self.src is not None:
            passed = passed & torch.isin(ids, torch.tensor(self.src_ids, device=ids.device))[None, :]
        if self.dst is not None:
            passed = passed & torch.isin(ids[1:], torch.tensor(self.dst_ids, device=ids.device))[:, None]
        return passed

    def __str__(self) -> str:
        named = (("source", self.src), ("destination", self.dst))
        found = [f"{name} {token!r}" for name, token in named if token is not None]
        return f" for {' and '.join(found)}" if found else ""


def _ids_of(model: LanguageModel, token: str | None) -> tuple[int, ...]:
    if token is None:
        return ()
    found = tuple(i for i, string in enumerate(model.strings) if string == token)
    if not found:
        near = ", ".join(repr(string) for string in _near(token, model.strings)) or "none"
        raise BadInput(f"{token!r} is no token of {model.name}; the nearest are {near}. Spaces count.")
    return found


def _near(token: str, strings: list[str]) -> list[str]:
    bare = token.strip().casefold()
    alike = [string for string in dict.fromkeys(strings) if string.strip().casefold() == bare and bare]
    return alike[:3] or difflib.get_close_matches(token, strings, n=3, cutoff=0.5)


class PairSearch:
    """One query being answered: takes in windows, then gives the table."""

    def __init__(
        self,
        reader: HeadReader,
        tokens: TokenFilter,
        best: Best,
        expected: Float[Tensor, "row_bucket bucket"] | None,
    ) -> None:
        self._reader, self._tokens, self._best = reader, tokens, best
        self._expected = None if expected is None else torch.as_tensor(expected, dtype=torch.float64)
        self._expectation = Expectation(reader.model.n_ctx)
        self._population = self._windows = 0

    def quantity(self, seen: HeadWindow, by: str) -> Float[Tensor, "row src"]:
        """The named quantity of a window's pairs, NaN for pairs that are not to be ranked by it."""
        if by == "column_lift":
            return seen.column_lift()
        long = (seen.pairs.n_allowed >= N_MIN)[:, None]  # a lone source has share 1: the rank would be n
        if by == "share":
            return torch.where(long, seen.pairs.share, torch.nan)
        if by == "position_lift" and self._expected is not None:
            return torch.where(long, position_lift(seen.pairs.share, seen.dst, self._expected), torch.nan)
        found: Float[Tensor, "row src"] = getattr(seen.pairs, by)
        return found

    def add(self, window: Window, choose: Choose) -> None:
        """Run a window; `choose` says which pairs are in the population, and gives keys (least is best)."""
        seen = self._reader.read(window)
        self._windows += 1
        if self._expected is None:
            self._expectation.add(seen)
        member, keys = choose(seen)
        member = member & self._tokens.mask(seen)
        self._population += int(member.sum())
        self._best.offer(self._cells(seen, member.cpu().numpy(), keys.double().cpu().numpy()))

    def _cells(self, seen: HeadWindow, member: np.ndarray, keys: np.ndarray) -> list[Cell]:
        """The window's cells that may count; the row's data is copied for these only."""
        row, src = np.nonzero(member)
        order = np.argsort(keys[row, src], kind="stable")
        row, src = row[order], src[order]
        if self._best.distinct_pairs:
            ids = seen.window.ids.astype(np.int64)
            first = np.unique(ids[row + 1] << 32 | ids[src], return_index=True)[1]
            keep = np.sort(first)[: self._best.per_window]
            row, src = row[keep], src[keep]
        lift: Float[Tensor, "row src"] | None = None
        cells: list[Cell] = []
        most = self._best.per_window
        for r, s in zip(row[:most].tolist(), src[:most].tolist(), strict=True):
            place = (float(keys[r, s]), seen.window.doc_id, seen.window.window, r + 1, s)
            if not self._best.could_enter(place):
                break
            lift = seen.column_lift() if lift is None else lift
            cells.append(_cell(seen, place, float(lift[r, s])))
        return cells

    def table(self, title: str, definition: str) -> PairTable:
        """The answer; `title` has the places {n} and {population}. Raises BadInput where no window came."""
        if not self._windows:
            raise BadInput("there are no windows to read (0 texts). Give at least one text.")
        expected = self._expectation.result() if self._expected is None else self._expected
        cells = self._best.result()
        lifts = _position_lifts(cells, expected.cpu())
        rows = tuple(self._row(*found) for found in zip(range(1, len(cells) + 1), cells, lifts, strict=True))
        notes = [SINK_RULE]
        if len(rows) < self._best.n:
            rest = f"no further pair of the {self._population} may stand beside them"
            notes.append(f"{len(rows)} of the {self._best.n} rows asked for: {rest}.")
        name = f"{self._reader.head}: {title.format(n=len(rows), population=self._population)}{self._tokens}"
        return PairTable(rows, name, definition, self._population, tuple(notes))

    def _row(self, rank: int, cell: Cell, lift: float) -> PairRow:
        model, window = self._reader.model, cell.row.window
        dst, src = cell.row.dst, cell.src
        ids = window.ids.tolist()
        flags = source_flags(ids, dst, src, model.strings, model.special_ids)
        special = set(model.special_ids)
        return PairRow(
            rank=rank,
            doc_id=window.doc_id,
            window_id=window.window,
            dst=dst,
            dst_token=model.strings[ids[dst]],
            src=src,
            src_token=model.strings[ids[src]],
            distance=dst - src,
            **cell.values,
            position_lift=lift,
            sink_mass=cell.row.sink_mass,
            n_allowed=cell.row.n_allowed,
            flags=" ".join((*flags.names, f"n_occurrences={flags.n_occurrences}")),
            prefix_text=window.prefix_text(dst),
            tokens=tuple(model.strings[i] for i in ids[: dst + 1]),
            pattern=tuple(cell.row.attn.tolist()),
            sinks=tuple(p for p in range(dst + 1) if p == 0 or ids[p] in special),
        )


def _position_lifts(cells: list[Cell], expected: Float[Tensor, "row_bucket bucket"]) -> list[float]:
    dst = torch.tensor([cell.row.dst for cell in cells], dtype=torch.long)
    src = torch.tensor([cell.src for cell in cells], dtype=torch.long)
    share = torch.tensor([cell.values["share"] for cell in cells], dtype=torch.float64)
    wanted = expected_share(expected, dst, dst - src)
    lifts: list[float] = torch.where(wanted > 0, share / wanted, torch.nan).tolist()
    return lifts


def _cell(seen: HeadWindow, order: tuple[float, str, int, int, int], lift: float) -> Cell:
    dst, src = order[3], order[4]
    pairs, ids = seen.pairs, seen.window.ids
    values = {name: float(getattr(pairs, name)[dst - 1, src]) for name in VALUES}
    row = Row(
        seen.window,
        dst,
        pairs.attn[dst - 1, : dst + 1].cpu().clone(),
        float(pairs.sink_mass[dst - 1]),
        int(pairs.n_allowed[dst - 1]),
    )
    return Cell(order, (int(ids[dst]), int(ids[src])), row, src, {**values, "column_lift": lift})
