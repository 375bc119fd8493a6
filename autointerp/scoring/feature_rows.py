"""What neurons and latents do on held-out rows: shares of their reference activation, and what predicates name there.

A share is `sign * activation / reference`, with sign and reference of the explain split. A unit is active at a row
where its share is at least ACTIVE, at rest where it is at most RESTING; below 0 counts as 0. Rows are destinations
after position 0 that hold no control token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from autointerp.features.activations import Units, read_activations
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable, evaluate_positions, parse_positional
from autointerp.records import Feature
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.token_identity import ExplainRows

LEAST_REFERENCE = 1e-12
READ_CELLS = 16_000_000  # activations that one reading holds beside what it keeps


@dataclass(frozen=True)
class UnitFacts:
    """Of a unit on the explain split: the mean of its raw activation, which replaces it where it is ablated; the sign
    that makes larger mean more; the reference activation, in that sign."""

    mean: float
    reference: float
    sign: int = 1

    @property
    def share_size(self) -> float:
        """What a share of 1 is in raw activation; not 0 for a unit that was never above 0 on the explain split."""
        return self.sign * max(self.reference, LEAST_REFERENCE)


@dataclass(frozen=True, eq=False)
class Reading:
    """Units of one model, and how their activations become shares."""

    model: LanguageModel
    units: Units
    facts: Mapping[Feature, UnitFacts]
    batch_size: int

    def shares(
        self, features: Sequence[Feature], rows: HeldOutRows | ExplainRows
    ) -> Float32[np.ndarray, "feature window pos"]:
        """Shares at all tokens, negative ones kept."""
        found = np.zeros((len(features), *rows.ids.shape), np.float32)
        for part, values in self.parts(features, rows):
            found[:, part] = values
        return found

    def parts(
        self, features: Sequence[Feature], rows: HeldOutRows | ExplainRows
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "feature window pos"]]]:
        """The same, some windows at a time."""
        scale = np.array([1 / self.facts[f].share_size for f in features], np.float32)
        step = max(1, READ_CELLS // max(1, len(features) * rows.ids.shape[1]))
        for start in range(0, len(rows.ids), step):
            part = slice(start, start + step)
            ids, lengths = rows.ids[part], rows.lengths[part]
            raw = read_activations(self.model, self.units, features, ids, lengths, self.batch_size)
            yield part, np.ascontiguousarray(np.moveaxis(raw * scale, 2, 0))


def scored(held_out: HeldOutRows) -> Bool[np.ndarray, "window pos"]:
    """The rows of a split that units are scored on."""
    return np.asarray(held_out.rows & held_out.sources)


def ordinary(rows: ExplainRows, special_ids: tuple[int, ...]) -> Bool[np.ndarray, "window pos"]:
    """The same of explain windows."""
    positions = np.arange(rows.ids.shape[1])
    return np.asarray((positions > 0) & (positions < rows.lengths[:, None]) & ~np.isin(rows.ids, special_ids))


class NamedRows:
    """The rows that positional predicates name in a split, kept as bits."""

    def __init__(self, held_out: HeldOutRows, table: TokenTable) -> None:
        self.held_out, self.rows = held_out, scored(held_out)
        self._table = table
        self._bits: dict[str, UInt8[np.ndarray, " byte"]] = {}

    def mask(self, predicate: str) -> Bool[np.ndarray, "window pos"]:
        """Rows that a predicate names. Raises PredicateError for a text that is none."""
        if predicate not in self._bits:
            held = self.held_out
            whole = evaluate_positions(parse_positional(predicate), held.ids, held.lengths, self._table)
            self._bits[predicate] = np.packbits(whole & self.rows)
        return np.unpackbits(self._bits[predicate], count=self.rows.size).reshape(self.rows.shape).astype(bool)

    def masks(self, predicates: Sequence[str]) -> Bool[np.ndarray, "predicate window pos"]:
        return np.stack([self.mask(p) for p in predicates])


def iou(
    masks: Bool[np.ndarray, "predicate window pos"], own: Sequence[int]
) -> Float32[np.ndarray, "predicate predicate"]:
    """Overlap of the named rows of the predicates `own` with those of every predicate; 1 for two that name nothing.
    Rows of other predicates are left at 0."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    both, sizes = flat[list(own)] @ flat.T, flat.sum(1)
    union = sizes[list(own), None] + sizes - both
    found = np.zeros((len(masks), len(masks)), np.float32)
    found[list(own)] = np.where(union > 0, both / np.maximum(union, 1), 1.0)
    return found


def active_tokens(
    reading: Reading, features: Sequence[Feature], rows: ExplainRows, active: float
) -> list[Int[np.ndarray, " row"]]:
    """For each unit, the tokens of the rows at which its share is at least `active`."""
    usable = ordinary(rows, reading.model.special_ids)
    found: list[list[np.ndarray]] = [[] for _ in features]
    for part, values in reading.parts(features, rows):
        feature, window, pos = np.nonzero((values >= active) & usable[part])
        tokens = rows.ids[part][window, pos]
        bounds = np.searchsorted(feature, np.arange(1, len(features)))
        for number, some in enumerate(np.split(tokens, bounds)):
            found[number].append(some)
    return [np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in found]
