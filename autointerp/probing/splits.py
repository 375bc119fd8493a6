"""Which items are trained on and which are tested (probing section 6): groups are held out whole.

`template`, `lexeme`, `document` or any other factor of the items: grouped k-fold, k = min(5, groups), which for at
most five templates is leave-one-template-out. `a x b` (written `lexeme_x_template`): test items have an unseen `a` and
an unseen `b`, and items with only one of them unseen are dropped from that fold. `leaky_row_split` is one random 80/20
split of the rows, there to be compared with: rows of one noun or one template stand on both sides of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from autointerp.errors import BadInput

LEAKY = "leaky_row_split"
MAX_FOLDS = 5
LEAKY_TEST_SHARE = 0.2
_TRIES = 20

Rows = Int[np.ndarray, " row"]
Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Fold:
    """Row numbers to train on and to test on."""

    train: Rows
    test: Rows


def factors_of(split: str) -> tuple[str, ...]:
    """The group factors that a split holds out; none for the leaky one."""
    return () if split == LEAKY else tuple(split.split("_x_"))


@dataclass(frozen=True)
class FoldOptions:
    """At most so many folds a factor; whether a class that some training part lacks is refused."""

    max_folds: int = MAX_FOLDS
    all_classes: bool = True


def make_folds(
    groups: Groups, y: Int[np.ndarray, " item"], split: str, seed: int, options: FoldOptions | None = None
) -> list[Fold]:
    """The folds of `split`; every item of a factor's group is on one side. Raises BadInput where the split asks for
    a factor that the items lack, for more than one group, or for a class that training would never see."""
    if split == LEAKY:
        return [_leaky(len(y), seed)]
    options = options or FoldOptions()
    factors = factors_of(split)
    missing = [name for name in factors if name not in groups]
    if missing:
        have = ", ".join(sorted(groups)) or "none"
        raise BadInput(
            f"--split {split}: the items have no group {missing[0]!r} (they have {have}). Name one of those."
        )
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, attempt])
        sides = [_sides(np.asarray(groups[name]), y, options.max_folds, rng) for name in factors]
        folds = _folds(sides)
        unseen = _unseen(folds, y)
        if not unseen or not options.all_classes:
            return folds
    raise BadInput(
        f"--split {split} leaves {len(unseen)} classes without a training item in some fold (number {min(unseen)}). "
        "Give each class more groups, or hold out another factor."
    )


def _leaky(n: int, seed: int) -> Fold:
    order = np.random.default_rng(seed).permutation(n)
    cut = max(1, round(n * LEAKY_TEST_SHARE))
    return Fold(np.sort(order[cut:]), np.sort(order[:cut]))


def row_folds(n: int, k: int, seed: int) -> list[Fold]:
    """Random k-fold over rows, for choices inside a training part only."""
    side = np.random.default_rng(seed).permutation(n) % k
    return [Fold(np.flatnonzero(side != f), np.flatnonzero(side == f)) for f in range(min(k, n)) if n > 1]


def _sides(
    names: np.ndarray, y: Int[np.ndarray, " item"], max_folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " item"]:
    """The fold of each item: groups are dealt out, large ones first, to where their classes are rarest."""
    values, member = np.unique(names, return_inverse=True)
    if len(values) < 2:
        raise BadInput(
            f"the split needs 2 groups, and all items are of group {values.tolist()[0]!r}. Add items of others."
        )
    k = min(max_folds, len(values))
    counts = np.zeros((len(values), int(y.max()) + 1))
    np.add.at(counts, (member, y), 1)
    held = np.zeros((k, counts.shape[1]))
    fold = np.empty(len(values), dtype=np.int64)
    order = rng.permutation(len(values))
    for group in order[np.argsort(-counts[order].sum(1), kind="stable")]:
        empty = np.flatnonzero(held.sum(1) == 0)
        crowding = (held * counts[group]).sum(1) + 1e-3 * held.sum(1)
        fold[group] = empty[0] if len(empty) else int(np.argmin(crowding))
        held[fold[group]] += counts[group]
    return np.asarray(fold[member])


def _folds(sides: list[Int[np.ndarray, " item"]]) -> list[Fold]:
    """Every combination of held-out parts, one a factor."""
    parts: list[tuple[Bool[np.ndarray, " item"], Bool[np.ndarray, " item"]]] = [
        (np.ones(len(sides[0]), dtype=bool), np.ones(len(sides[0]), dtype=bool))
    ]
    for side in sides:
        parts = [(train & (side != k), test & (side == k)) for train, test in parts for k in range(int(side.max()) + 1)]
    return [Fold(np.flatnonzero(a), np.flatnonzero(b)) for a, b in parts if b.any() and a.any()]


def _unseen(folds: list[Fold], y: Int[np.ndarray, " item"]) -> set[int]:
    return {int(c) for fold in folds for c in np.setdiff1d(y[fold.test], y[fold.train])}


def check_split(groups: Groups, labels: Sequence[str], split: str) -> None:
    """Refuse, from labels and groups alone, a split that cannot be made."""
    for name in factors_of(split):
        if name not in groups:
            have = ", ".join(sorted(groups)) or "none"
            raise BadInput(f"--split {split}: the items have no group {name!r} (they have {have}). Name one of those.")
        if len(set(groups[name])) < 2:
            raise BadInput(
                f"--split {split}: all {len(labels)} items are of one {name} ({groups[name][0]!r}); holding it out "
                "leaves nothing to train on. Add items of another."
            )
        seen: dict[str, set[str]] = {}
        for label, group in zip(labels, groups[name], strict=True):
            seen.setdefault(label, set()).add(group)
        single = sorted(label for label, found in seen.items() if len(found) < 2)
        if single:
            raise BadInput(
                f"--split {split}: class {single[0]!r} (of {len(single)} such) stands in one {name} only, so that "
                f"holding it out leaves none to train on. Hold out another factor, or add items of another {name}."
            )
