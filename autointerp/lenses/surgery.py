"""Insert vectors into the residual stream: per row and per block, at chosen positions, in forwards and generation.

1. A row is a dict `{k: Insert(positions, vectors)}`; block k's input (`resid_pre` k) is changed there.
2. Inside `inserting(...)` every forward that holds the whole prompt is changed; a step on a key-value cache is shorter
   than the prompt and passes. So greedy decoding, sampling, cached or not, by us or by `bridge.generate`, all insert.
3. A counter per row and block proves it: leaving the block where an insertion did not fire raises.

Positions are absolute and the same in every forward, so rows are never padded on the left. Hooks return a changed
copy, live only inside the `with` block, and keep no gradient. Modes are those of SelfIE (arXiv 2403.10949) and
`norm_matched`. It does not change anything but the residual stream at block inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model import LanguageModel
from autointerp.model.decoding import Decoding, Generated, generate
from autointerp.model.language_model import HookFunction
from autointerp.model.sites import hook_name

Mode = Literal["normalized", "addition", "norm_matched"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, eq=False)
class Insert:
    """Vectors for positions of one row at one block: one each, or one for all (`[d_model]` or `[1 d_model]`)."""

    positions: tuple[int, ...]
    vectors: Float[Tensor, "*insert d_model"]

    def spread(self) -> Float[Tensor, "insert d_model"]:
        """One vector a position, float32."""
        return self.vectors.detach().float().reshape(-1, self.vectors.shape[-1]).expand(len(self.positions), -1)


@dataclass(frozen=True, eq=False)
class Insertion:
    """What is inserted into a batch: a dict of blocks for every row, with one mode and strength.

    With x the residual, h the vector and a the strength: `normalized` x <- a h + (1 - a) x (nothing is normalised,
    the name is the paper's); `addition` x <- x + a h; `norm_matched` as `normalized` with h scaled to the norm of x.
    """

    rows: tuple[Mapping[int, Insert], ...]
    mode: Mode = "normalized"
    strength: float = 1.0

    @classmethod
    def of(cls, rows: Sequence[Mapping[Any, Any]], mode: Mode = "normalized", strength: float = 1.0) -> Insertion:
        """From dicts `{k: (positions, vectors)}`, as the paper's code writes them; keys that are no block index are
        notes of the caller and left out."""
        found = [
            {k: Insert(tuple(int(p) for p in value[0]), torch.as_tensor(value[1])) for k, value in row.items()
             if isinstance(k, int)}
            for row in rows
        ]  # fmt: skip
        return cls(tuple(found), mode, strength)

    def check(self, model: LanguageModel, lengths: Sequence[int]) -> None:
        """Raises BadInput for a block, position, vector, mode or strength that cannot be used; `lengths`: tokens of
        each row without padding."""
        self._check_strength()
        if len(self.rows) != len(lengths):
            raise BadInput(f"{len(self.rows)} rows of inserts for a batch of {len(lengths)}: give one dict a row.")
        for row, length in zip(self.rows, lengths, strict=True):
            for block, insert in row.items():
                if not 0 <= block < model.n_layers:
                    raise BadInput(
                        f"block {block} is out of range: {model.name} has blocks 0 to {model.n_layers - 1}. "
                        "Name one of those."
                    )
                _check_insert(insert, int(model.bridge.cfg.d_model), length, self.mode)

    def _check_strength(self) -> None:
        if self.mode not in MODES:
            raise BadInput(f"mode {self.mode!r} is unknown. Use one of {', '.join(MODES)}.")
        if not math.isfinite(self.strength) or (self.mode == "addition" and self.strength <= 0):
            raise BadInput(f"strength {self.strength} cannot be added. Give a number above 0.")
        if self.mode != "addition" and not 0 <= self.strength <= 1:
            raise BadInput(f"strength {self.strength} is outside [0, 1], the range of mode {self.mode}.")


def _check_insert(insert: Insert, width: int, length: int, mode: Mode) -> None:
    places, vectors = insert.positions, insert.vectors
    if not places or len(set(places)) != len(places) or not all(0 <= p < length for p in places):
        raise BadInput(f"positions {list(places)} must be distinct and inside the row's {length} tokens (0 to "
                       f"{length - 1}), padding excluded. Correct them.")  # fmt: skip
    if vectors.ndim not in (1, 2) or vectors.shape[-1] != width:
        raise BadInput(f"a vector of shape {tuple(vectors.shape)} cannot be inserted: the stream is {width} wide. "
                       "Give [d_model] or [positions, d_model].")  # fmt: skip
    if vectors.ndim == 2 and len(vectors) not in (1, len(places)):
        raise BadInput(f"{len(vectors)} vectors for {len(places)} positions: give one for all, or one for each.")
    if not bool(torch.isfinite(vectors).all()):
        raise BadInput("a vector to insert holds NaN or infinite values. Check how it was made.")
    if mode == "norm_matched" and bool((vectors.float().norm(dim=-1) == 0).any()):
        raise BadInput("a vector to insert is zero, so it has no direction to match a norm to. Use mode normalized.")


class Fired:
    """What `inserting` did: `counts[row, block]` is the number of forwards in which that insertion was made;
    `stream_norm[row, block]` the mean norm of the residual there before the first of them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, int]] = Counter()
        self.stream_norm: dict[tuple[int, int], float] = {}

    def rows(self, n: int) -> list[int]:
        """Fewest forwards over the blocks of each of `n` rows (0 for a row without inserts)."""
        return [min((c for (r, _), c in self.counts.items() if r == row), default=0) for row in range(n)]


@contextmanager
def inserting(
    model: LanguageModel, insertion: Insertion, length: int, lengths: Sequence[int] | None = None
) -> Iterator[Fired]:
    """Make the insertion in every forward in the block that holds the prompt of `length` tokens.

    `lengths`: tokens of each row where rows are padded on the right. Raises BadInput for what cannot be inserted,
    ModelError where an insertion never fired or a batch of another size ran.
    """
    insertion.check(model, [length] * len(insertion.rows) if lengths is None else lengths)
    fired = Fired()
    blocks = sorted({block for row in insertion.rows for block in row})
    with model.hooks([(hook_name("resid_pre", k), _hook(insertion, k, length, fired)) for k in blocks]):
        yield fired
    silent = [(r, k) for r, row in enumerate(insertion.rows) for k in row if not fired.counts[r, k]]
    if silent:
        raise ModelError(
            f"{model.name}: nothing was inserted into row {silent[0][0]} at block {silent[0][1]}: no forward held the "
            f"whole prompt of {length} tokens. Run the model on it inside the block."
        )


def _hook(insertion: Insertion, block: int, length: int, fired: Fired) -> HookFunction:
    rows = [r for r, row in enumerate(insertion.rows) if block in row]
    inserts = [insertion.rows[r][block] for r in rows]
    at = torch.tensor([r for r, i in zip(rows, inserts, strict=True) for _ in i.positions])
    places = torch.tensor([p for i in inserts for p in i.positions])
    vectors = torch.cat([i.spread() for i in inserts])

    def change(stream: Tensor, hook: Any) -> Tensor | None:
        if stream.shape[1] < length:
            return None  # a step on a cache: the prompt has run
        if len(stream) != len(insertion.rows):
            raise ModelError(f"a batch of {len(stream)} ran where {len(insertion.rows)} rows of inserts are made. Run "
                             "the batch that the insertion was written for.")  # fmt: skip
        x = stream[at, places].float()
        changed = stream.clone()
        changed[at, places] = _mixed(insertion, x, vectors.to(x.device)).to(stream.dtype)
        _count(fired, rows, block, at, x)
        return changed

    return change


def _mixed(
    insertion: Insertion, x: Float[Tensor, "insert d_model"], h: Float[Tensor, "insert d_model"]
) -> Float[Tensor, "insert d_model"]:
    a = insertion.strength
    if insertion.mode == "addition":
        return x + a * h
    if insertion.mode == "norm_matched":
        h = h * (x.norm(dim=-1, keepdim=True) / h.norm(dim=-1, keepdim=True))
    return a * h + (1 - a) * x


def _count(fired: Fired, rows: list[int], block: int, at: Tensor, x: Tensor) -> None:
    norms = x.norm(dim=-1).cpu()
    for row in rows:
        if not fired.counts[row, block]:
            fired.stream_norm[row, block] = float(norms[at == row].mean())
        fired.counts[row, block] += 1


def forward_inserted(
    model: LanguageModel, ids: Int[Tensor, "batch pos"], insertion: Insertion, lengths: Sequence[int] | None = None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of one forward with the insertion made; `lengths` where rows are padded on the right."""
    with inserting(model, insertion, ids.shape[1], lengths or [ids.shape[1]] * len(ids)):
        return model.logits(ids)


def generate_inserted(
    model: LanguageModel, ids: Int[Tensor, "batch pos"], insertion: Insertion, decoding: Decoding | None = None
) -> tuple[Generated, Fired]:
    """Continue `ids` with the insertion made in the prompt, greedily (the default) or by sampling.

    Raises BadInput for a prompt of one token: a step on a cache could not be told from it.
    """
    if ids.shape[1] < 2:
        raise BadInput("the prompt has one token; give at least 2 to insert into and generate from.")
    with inserting(model, insertion, ids.shape[1], [ids.shape[1]] * len(ids)) as fired:
        return generate(model, ids, decoding or Decoding()), fired
