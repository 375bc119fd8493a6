"""The ranked and the random query over the attention pairs of one head (attention_evidence section 1).

1. Every window runs alone through the base model; the head's pattern and write norms are read in the hook.
2. Pairs of a destination after position 0 and an allowed source (no sink, no control token) that pass the
   filters are the population. A ranked query leaves out pairs whose quantity is undefined.
3. Ranked: keys are rounded to 20 binary digits, ties broken by document, window, dst, src; `cells.Best` keeps
   what can still be in the answer. Random: the pairs with the smallest seeded hash, whatever the order.
4. The expectation behind `position_lift` is gathered on the way; only ranking by it needs a sweep of its own.

The ancestor's column-relative "multiple" (top value always the last token of a text) is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence.cells import PER_PAIR, Best, round_keys
from autointerp.evidence.hashing import document_keys, mix, row_hashes
from autointerp.evidence.head_windows import Expectation, HeadReader, HeadWindow
from autointerp.evidence.pair_search import PairSearch, TokenFilter
from autointerp.evidence.table import PairTable
from autointerp.evidence.windows import Window
from autointerp.model import LanguageModel
from autointerp.records import Head

By = Literal["multiple", "share", "contribution", "column_lift", "position_lift"]
Order = Literal["top", "bottom"]
Population = Literal["all", "above_average"]
DEFINITIONS: dict[str, str] = {
    "multiple": "multiple = attention over the row's mean attention to its allowed sources: "
    "(attn / mass) * n_allowed. It cannot exceed n_allowed, so late rows rank high; share does not have that",
    "share": "share = attention over the row's attention to all its allowed sources, attn / mass",
    "contribution": "contribution = attention times the norm of what the source can write, attn ||v W_O||",
    "column_lift": "column_lift = attention over the mean that this source gets from other "
    "destinations in the same distance bucket",
    "position_lift": "position_lift = share over the mean share of pairs in the same buckets of "
    "distance and of row length",
}


@dataclass(frozen=True)
class RankedQuery:
    """Which pairs to list: the `n` highest (`top`) or lowest (`bottom`) by a quantity, among those that pass.

    `src_token`, `dst_token`: exact token strings. `dedupe`: one pair a document, two a token pair.
    """

    by: By = "multiple"
    order: Order = "top"
    n: int = 10
    src_token: str | None = None
    dst_token: str | None = None
    dedupe: bool = True
    exclude_self: bool = False

    def __post_init__(self) -> None:
        _check_count(self.n)
        _check_choice("by", self.by, get_args(By))
        _check_choice("order", self.order, get_args(Order))


@dataclass(frozen=True)
class RandomQuery:
    """A uniform draw of `n` pairs; `above_average` draws from pairs with multiple > 1 only."""

    n: int = 10
    population: Population = "all"
    seed: int = 0
    src_token: str | None = None
    dst_token: str | None = None
    exclude_self: bool = False

    def __post_init__(self) -> None:
        _check_count(self.n)
        _check_choice("population", self.population, get_args(Population))


Expected = Float[Tensor, "row_bucket bucket"]


def _check_count(n: int) -> None:
    if n < 1:
        raise BadInput(f"n is {n}; ask for at least 1 pair.")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"{name}={value!r} is not known; it is one of {', '.join(known)}.")


def ranked_multiples(
    model: LanguageModel,
    windows: Iterable[Window],
    head: Head,
    query: RankedQuery | None = None,
    expected: Expected | None = None,
) -> PairTable:
    """The highest or lowest pairs of `head` over `windows` (windows of a document stand together).

    `expected`: the head's `FirstPass.expected_share()`; measured on these windows when None. Raises BadInput
    for a head or token that the model does not have, or where there are no windows.
    """
    query = query or RankedQuery()
    if query.by == "position_lift" and expected is None:
        expected = expected_shares(model, windows, head, exclude_self=query.exclude_self)
    both = query.src_token is not None and query.dst_token is not None
    best = Best(query.n, dedupe=query.dedupe, per_pair=None if both else PER_PAIR)
    tokens = TokenFilter.of(model, query.src_token, query.dst_token)
    search = PairSearch(HeadReader(model, head, exclude_self=query.exclude_self), tokens, best, expected)

    def choose(seen: HeadWindow) -> tuple[Bool[Tensor, "row src"], Float[Tensor, "row src"]]:
        values = search.quantity(seen, query.by)
        keys = round_keys(values)
        return values.isfinite(), -keys if query.order == "top" else keys

    for window in windows:
        search.add(window, choose)
    order = "highest" if query.order == "top" else "lowest"
    return search.table(order + " {n} of {population} pairs by " + query.by, f"{DEFINITIONS[query.by]}.")


def random_multiples(
    model: LanguageModel,
    windows: Iterable[Window],
    head: Head,
    query: RandomQuery | None = None,
    expected: Expected | None = None,
) -> PairTable:
    """A seeded uniform draw of pairs of `head`, whatever the order of windows; see `ranked_multiples`."""
    query = query or RandomQuery()
    reader = HeadReader(model, head, exclude_self=query.exclude_self)
    tokens = TokenFilter.of(model, query.src_token, query.dst_token)
    search = PairSearch(reader, tokens, Best(query.n, dedupe=False), expected)
    place = np.array([(head.layer, head.index)])

    def choose(seen: HeadWindow) -> tuple[Bool[Tensor, "row src"], Float[Tensor, "row src"]]:
        window = seen.window
        size = len(window.ids)
        document, number = document_keys([window.doc_id]), np.array([window.window])
        rows = row_hashes(query.seed, document, number, place, size)[0, 0, 1:]
        with np.errstate(over="ignore"):
            hashes = mix(rows[:, None] + mix(np.arange(size, dtype=np.uint64) + np.uint64(1 << 61)))
        keys = torch.from_numpy((hashes >> np.uint64(11)).astype(np.float64)).to(seen.pairs.attn.device)
        above = seen.pairs.multiple > 1
        return above if query.population == "above_average" else seen.pairs.allowed, keys

    for window in windows:
        search.add(window, choose)
    among = "pairs above average" if query.population == "above_average" else "pairs"
    definition = f"{DEFINITIONS['multiple']}. Seed {query.seed}."
    return search.table("random {n} of {population} " + among, definition)


def expected_shares(
    model: LanguageModel, windows: Iterable[Window], head: Head, *, exclude_self: bool = False
) -> Expected:
    """E[share | row-length bucket, distance bucket] of one head, every document with equal weight."""
    if iter(windows) is windows:
        raise BadInput("ranking by position_lift reads the windows twice, and these can be read once; give a list.")
    reader, gathered = HeadReader(model, head, exclude_self=exclude_self), Expectation(model.n_ctx)
    for window in windows:
        gathered.add(reader.read(window))
    return gathered.result()
