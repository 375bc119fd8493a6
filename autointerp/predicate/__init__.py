"""The small safe language in which a description can be executed (docs/predicates.md).

A predicate is a boolean expression over one pair of positions: `dst`, the token that attends, and `src`,
a token at or before it. `parse` reads it into a frozen tree of our own (nothing is ever run as Python),
`evaluate` decides it for all pairs of all rows at once. A positional predicate (`parse_positional`) speaks of
`dst` alone and, inside any(..), of tokens before it; `evaluate_positions` decides it. numpy only.
"""

from __future__ import annotations

from autointerp.predicate.evaluator import evaluate, evaluate_positions
from autointerp.predicate.parser import (
    MAX_CHARACTERS,
    MAX_NODES,
    Predicate,
    parse,
    parse_positional,
)
from autointerp.predicate.tokens import TokenRows, TokenTable
from autointerp.predicate.tree import ATTRIBUTES

__all__ = [
    "ATTRIBUTES",
    "MAX_CHARACTERS",
    "MAX_NODES",
    "Predicate",
    "TokenRows",
    "TokenTable",
    "evaluate",
    "evaluate_positions",
    "parse",
    "parse_positional",
]
