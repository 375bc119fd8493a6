"""Token classes: what kinds of source token a head prefers, beyond how many there are and where they stand.

1. Shares off the sink, over rows with mass of at least TAU and at least 8 allowed sources.
2. share on the class; `available`: the class's part of the allowed sources of the same rows; `expected`: its part when
   each source gets the head's mean share at that distance (`expected_share` of the first pass), which is what a purely
   positional head would give. share / available is the lift over uniform, share / expected the position lift;
   `nearest`: the share on the last source of the class before the destination, a part of share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.detector_data import TextRows
from autointerp.evidence.rows import TAU, Masks
from autointerp.predicate.tokens import TokenRows, TokenTable
from autointerp.records import Head

LEAST_SOURCES = 8
SHARED = ("capitalised", "numeral", "function_word", "newline", "word_initial", "punctuation")
CLASSES = (*SHARED, "own")
_FUNCTION_WORDS = (
    "a an the this that these those my your his her its our their some any no each every all both either neither "
    "i you he she it we they me him us them who whom which what whose there here "
    "of in on at to from by with for about into onto over under after before between through during without within "
    "against among across upon toward towards near off up down out as than like "
    "and or but nor so yet if then because while although though until unless since when where why how whether "
    "is am are was were be been being has have had having do does did doing will would shall should can could may "
    "might must not n't 's 're 've 'll 'd 'm just only also very too"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class ClassMasks:
    """Which positions of some text rows belong to each class; `own` by head (flattened layer by layer)."""

    shared: Bool[np.ndarray, "class row pos"]
    own_of_token: Bool[np.ndarray, "head vocab"]

    @classmethod
    def of(
        cls, text: TextRows, table: TokenTable, own: Mapping[Head, Sequence[int]], heads: Sequence[Head]
    ) -> ClassMasks:
        rows = TokenRows(text.ids, text.lengths, table)
        by_name = {
            "capitalised": rows.attribute("is_capitalised"),
            "numeral": rows.attribute("is_number"),
            "function_word": _in_strings(table, FUNCTION_WORDS)[rows.ids],
            "newline": rows.attribute("is_newline"),
            "word_initial": rows.attribute("is_word_start"),
            "punctuation": rows.attribute("is_punctuation"),
        }
        owned = np.zeros((len(heads), len(table)), dtype=bool)
        for index, head in enumerate(heads):
            owned[index, list(own.get(head, ()))] = True
        return cls(np.stack([by_name[name] for name in SHARED]) & rows.valid, owned)


def _in_strings(table: TokenTable, strings: Collection[str]) -> Bool[np.ndarray, " vocab"]:
    codes = [table.code(string) for string in strings]
    return np.isin(table.lower, [code for code in codes if code >= 0])


def expected_pattern(
    expected_share: Float[np.ndarray, "head row_bucket bucket"] | None, n_heads: int, size: int
) -> Float[np.ndarray, "head dst src"]:
    """The share of each source in a positional copy of each head (not normalised); even shares without a table."""
    dst, src = np.arange(size)[:, None], np.arange(size)[None, :]
    causal = (src >= 1) & (src <= dst)
    if expected_share is None:
        return np.broadcast_to(causal.astype(np.float32), (n_heads, size, size))
    rows = bucket_of(np.arange(size))[:, None]
    distance = bucket_of(np.maximum(dst - src, 0).reshape(-1)).reshape(size, size)
    return np.asarray(np.where(causal, np.nan_to_num(expected_share)[:, rows, distance], 0.0), dtype=np.float32)


@dataclass(frozen=True)
class ClassShares:
    """Per row of text and head, the means over its destinations; NaN where no destination counts."""

    share: Float[Tensor, "class row head"]
    available: Float[Tensor, "class row head"]
    expected: Float[Tensor, "class row head"]
    nearest: Float[Tensor, "class row head"]


def counted_rows(
    pattern: Float[Tensor, "row head dst src"], masks: Masks
) -> tuple[Float[Tensor, "row head dst"], Bool[Tensor, "row head dst"], Float[Tensor, "row dst"]]:
    """Mass off the sink, which rows count for shares (mass >= TAU, 8 sources), and how many sources each has."""
    allowed = masks.allowed.float()
    mass = (pattern @ allowed[:, None, :, None])[..., 0]
    n_allowed = allowed.cumsum(1)
    there = masks.rows & (n_allowed >= LEAST_SOURCES)
    return mass, there[:, None] & (mass >= TAU), n_allowed


def class_shares(
    pattern: Float[Tensor, "row head dst src"],
    masks: Masks,
    classes: tuple[Bool[Tensor, "class row pos"], Bool[Tensor, "row head pos"]],
    expected: Float[Tensor, "head dst src"],
) -> ClassShares:
    """Shares on each class; `classes` = the shared ones, and each head's own."""
    shared, own = classes
    mass, valid, n_allowed = counted_rows(pattern, masks)
    allowed = masks.allowed[:, None, :].float()
    columns = torch.cat([shared.permute(1, 2, 0)[:, None].expand(-1, own.shape[1], -1, -1), own[..., None]], -1).float()
    columns = columns * allowed[..., None]
    weight = valid / valid.sum(-1, keepdim=True).clamp_min(1)
    inside = pattern @ columns / mass.clamp_min(TAU)[..., None]
    even = columns.cumsum(2) / n_allowed.clamp_min(1)[:, None, :, None]
    total = (expected @ allowed.transpose(1, 2)[:, None])[..., :1]
    positional = expected @ columns / total.clamp_min(1e-6)
    near = _on_nearest(pattern, columns) / mass.clamp_min(TAU)[..., None]
    found = [
        torch.where(valid.any(-1)[..., None], (x * weight[..., None]).sum(2), torch.nan).permute(2, 0, 1)
        for x in (inside, even, positional, near)
    ]
    return ClassShares(*found)


def _on_nearest(
    pattern: Float[Tensor, "row head dst src"], columns: Float[Tensor, "row head src class"]
) -> Float[Tensor, "row head dst class"]:
    """Attention to the last earlier source of each class; 0 where there is none."""
    places = torch.where(columns > 0, torch.arange(columns.shape[2], device=columns.device)[:, None], -1)
    before = places.cummax(2).values.roll(1, 2)
    before[:, :, 0] = -1
    return pattern.gather(-1, before.clamp_min(0)) * (before >= 0)
