"""Minimal edits: one token of a held-out window changed so that a predicate no longer predicts a source (tier T3).

A row is taken where the predicate predicts a source, and of its predicted sources the one with the largest share. The
source's and the destination's token are tried in turns with ordinary tokens of the text, and the predicate evaluator
says which edit ends the prediction. What the head does on the edited text is for the caller to measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable, evaluate, parse
from autointerp.scoring.conditional_cases import spread
from autointerp.scoring.head_values import ExplainMeans, HeadValues
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import THETA_HIGH

ROWS, TRIES = 20, 12
FIELDS = ("window", "dst", "src", "place", "token", "share")


@dataclass(frozen=True, eq=False)
class PatchSpec:
    """Rows to edit, the ordinary ids that edits are drawn from, and the budget of edits a description."""

    model: LanguageModel
    held_out: HeldOutRows
    means: ExplainMeans
    table: TokenTable
    pool: Int[np.ndarray, " id"]
    seed: int
    rows: int = ROWS
    batch_size: int = 8


@dataclass(frozen=True, eq=False)
class Edits:
    """Case i: window `window[i]` with the token at `place[i]` replaced by `token[i]`, so that the description no longer
    predicts (dst, src). `share`: of that pair in the clean text."""

    window: Int[np.ndarray, " case"]
    dst: Int[np.ndarray, " case"]
    src: Int[np.ndarray, " case"]
    place: Int[np.ndarray, " case"]
    token: Int[np.ndarray, " case"]
    share: Float32[np.ndarray, " case"]

    def __len__(self) -> int:
        return len(self.dst)

    @classmethod
    def joined(cls, parts: list[Edits]) -> Edits:
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))

    def take(self, cases: Int[np.ndarray, " part"]) -> Edits:
        return Edits(*(getattr(self, name)[cases] for name in FIELDS))

    def rows(self, held_out: HeldOutRows) -> HeldOutRows:
        """The edited windows, one a case."""
        ids = held_out.ids[self.window].copy()
        ids[np.arange(len(self)), self.place] = self.token
        parts = (held_out.lengths, held_out.documents, held_out.rows, held_out.sources)
        return HeldOutRows(held_out.domain, held_out.split, ids, *(part[self.window] for part in parts))


def find_edits(
    spec: PatchSpec, values: HeadValues, predicate: str, rng: np.random.Generator, *, following: bool
) -> Edits:
    """Up to `rows` edits, documents spread; `following`: only rows with a next token inside the window."""
    held = spec.held_out
    rows = held.rows & (np.arange(held.ids.shape[1]) < (held.lengths - following)[:, None])
    holds = evaluate(parse(predicate), held.ids, held.lengths, spec.table)
    predicted = np.where(holds & rows[:, :, None] & held.sources[:, None, :], values.shares() + 1e-9, 0)
    window, dst = np.nonzero(predicted.max(-1) > 0)
    best = predicted[window, dst].argmax(-1)
    share = predicted[window, dst, best]
    if (share >= THETA_HIGH).sum() >= spec.rows:
        kept = np.flatnonzero(share >= THETA_HIGH)
        window, dst, best, share = (a[kept] for a in (window, dst, best, share))
    kept = spread(held.documents[window], 2 * spec.rows, rng)  # twice as many: not every row can be edited
    kept = kept[rng.permutation(len(kept))]
    found = _edit(spec, predicate, Edits(*(a[kept] for a in (window, dst, best, best, best, share))), rng)
    return found.take(spread(held.documents[found.window], spec.rows, rng))


def _edit(spec: PatchSpec, predicate: str, cases: Edits, rng: np.random.Generator) -> Edits:
    """For each case the first of TRIES tokens, at the source or the destination in turns, that ends the prediction."""
    tries = 2 * TRIES
    n, size = len(cases), spec.held_out.ids.shape[1]
    if not n or not len(spec.pool):
        return cases.take(np.zeros(0, np.int64))
    first = rng.random(n) < 0.5
    at_source = first[:, None] ^ (np.arange(tries) % 2 == 1)
    place = np.where(at_source, cases.src[:, None], cases.dst[:, None])
    token = rng.choice(spec.pool, (n, tries))
    row = np.arange(n)[:, None]
    ids = np.repeat(spec.held_out.ids[cases.window][:, None], tries, 1)
    changed = np.take_along_axis(ids, place[..., None], 2)[..., 0] != token
    ids[row, np.arange(tries), place] = token
    lengths = np.repeat(cases.dst + 1, tries)
    holds = evaluate(parse(predicate), ids.reshape(n * tries, size), lengths, spec.table).reshape(n, tries, size, size)
    ends: Bool[np.ndarray, "case try"] = changed & ~holds[row, np.arange(tries), cases.dst[:, None], cases.src[:, None]]
    able = np.flatnonzero(ends.any(1))
    chosen = ends.argmax(1)[able]
    return Edits(
        cases.window[able], cases.dst[able], cases.src[able], place[able, chosen], token[able, chosen].astype(np.int64),
        cases.share[able],
    )  # fmt: skip
