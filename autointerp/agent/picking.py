"""Which of many places or tokens are meant or shown: seeded, one a document or window before any second one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.scoring.conditional_cases import spread

DRAWN = 24  # places that are drawn; the others follow in their order


@dataclass(frozen=True, eq=False)
class Group:
    """Places that have something in common: how many there are, of how many, and numbers of drawn ones."""

    window: Int[np.ndarray, " row"]
    dst: Int[np.ndarray, " row"]
    of: int

    def __len__(self) -> int:
        return len(self.dst)

    def first(self, n: int) -> list[tuple[int, int]]:
        """(window, dst) of the first n."""
        return list(zip(self.window[:n].tolist(), self.dst[:n].tolist(), strict=True))


def drawn(
    where: Bool[np.ndarray, "window dst"], documents: Int[np.ndarray, " window"], rng: np.random.Generator, of: int = 0
) -> Group:
    """All places, in a seeded order that takes documents in turns."""
    window, dst = np.nonzero(where)
    few = spread(documents[window], DRAWN, rng)
    rest = np.setdiff1d(np.arange(len(window)), few)
    order = np.concatenate([rng.permutation(few), rest]).astype(np.int64)
    return Group(window[order], dst[order], of)


def heaviest(
    window: Int[np.ndarray, " row"],
    dst: Int[np.ndarray, " row"],
    weight: Float[np.ndarray, " row"],
    keys: Sequence[Sequence[tuple[int, ...]]],
    of: int,
) -> Group:
    """Places with the largest weight first; of every key (of a document, of tokens) a first one before any second.

    `keys` holds a sequence over the rows for each kind of key."""
    order = np.argsort(-weight, kind="stable")
    turn = np.zeros(len(order), np.int64)
    seen: list[dict[tuple[int, ...], int]] = [{} for _ in keys]
    for place, row in enumerate(order.tolist()):
        own = [kind[row] for kind in keys]
        turn[place] = max((counts.get(key, 0) for counts, key in zip(seen, own, strict=True)), default=0)
        for counts, key in zip(seen, own, strict=True):
            counts[key] = counts.get(key, 0) + 1
    order = order[np.argsort(turn, kind="stable")]
    return Group(window[order], dst[order], of)


def in_turns(order: Int[np.ndarray, " row"], window: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """Rows in `order`, but a first one of every window before any second one."""
    first = np.zeros(len(order), np.int64)
    seen: dict[int, int] = {}
    for place, row in enumerate(order.tolist()):
        first[place] = seen[int(window[row])] = seen.get(int(window[row]), -1) + 1
    return np.asarray(order[np.argsort(first, kind="stable")])


def tokens_reading(strings: Sequence[str], text: str) -> list[int]:
    """All tokens that read so, with or without a leading space; exactly so where a space is given. Raises BadInput."""
    wanted = {text} if text.startswith(" ") else {text, f" {text}"}
    found = [i for i, name in enumerate(strings) if name in wanted]
    if not found:
        raise BadInput(f"{text!r} is no token of the vocabulary; give one token")
    return found


def token_id(model: LanguageModel, seen: Int[np.ndarray, "window pos"], text: str) -> int:
    """The vocabulary id of a token; of the spellings with and without a leading space the one that `seen` holds more
    of. Raises BadInput."""
    strings = model.strings
    known = [strings.index(wanted) for wanted in (text, f" {text}") if wanted in strings]
    if not known:
        pieces = " | ".join(strings[i] for i in model.encode(text)[0].tolist())
        raise BadInput(f"{text!r} is no single token of the vocabulary but {pieces[:80]}; give one token")
    return max(known, key=lambda one: int((seen == one).sum()))
