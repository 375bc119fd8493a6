"""What the detectors run on: repeated random tokens, repeated prefixes, nested delimiters, shuffled rows.

Tokens come from a pool of ordinary ids: no control token, no part of a UTF-8 character, and met at least 3 times in
the explain split, because heads do nothing sensible on ids that their model never saw. All randomness comes from an
explicit generator.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.errors import BadInput
from autointerp.predicate.tokens import TokenTable

AT_LEAST = 3
_PARTIAL = re.compile(r"\\x[0-9a-f]{2}|\ufffd")  # how token strings write bytes that are no whole character
PAIRS = ("()", "[]", "{}", "<>", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb", '""')
NEAR = 3  # sources closer than this are left to the positional detectors


@dataclass(frozen=True)
class TextRows:
    """Windows of real text as fed: right-padded ids, and how many of them are real."""

    ids: Int[np.ndarray, "row pos"]
    lengths: Int[np.ndarray, " row"]

    def some(self, n: int) -> TextRows:
        """At most `n` rows, evenly spaced, cut to the longest of them."""
        chosen = np.unique(np.linspace(0, len(self.lengths) - 1, min(n, len(self.lengths))).astype(int))
        width = int(self.lengths[chosen].max()) if len(chosen) else 0
        return TextRows(self.ids[chosen, :width], self.lengths[chosen])


def ordinary_pool(
    strings: Sequence[str],
    special_ids: Collection[int],
    token_ids: Int[np.ndarray, " token"],
    counts: Float[np.ndarray, " token"],
    at_least: int = AT_LEAST,
) -> Int[np.ndarray, " token"]:
    """Ids that may be drawn, most frequent first (ties by id).

    `token_ids` and `counts`: distinct ids of the explain split and how often each occurs there.
    """
    special = frozenset(special_ids)
    kept = [
        (-float(count), int(number))
        for number, count in zip(token_ids.tolist(), counts.tolist(), strict=True)
        if count >= at_least and number not in special and strings[number] and not _PARTIAL.search(strings[number])
    ]
    return np.array([number for _, number in sorted(kept)], dtype=np.int64)


def repeat_length(wanted: int, n_ctx: int, pool_size: int, bos_id: int | None) -> int:
    """How long a repeat can be: `wanted`, or what the context and the pool allow."""
    return min(wanted, (n_ctx - (bos_id is not None)) // 2, pool_size)


def repeated_rows(
    pool: Int[np.ndarray, " token"], length: int, n: int, seed: int, bos_id: int | None
) -> Int[np.ndarray, "row pos"]:
    """`[BOS] r_1..r_T r_1..r_T`: ids uniform over the pool, all distinct within r (T = `length`).

    Raises BadInput where the pool cannot give `length` different ids, or `length` is under 2.
    """
    if not 2 <= length <= len(pool):
        raise BadInput(
            f"a repeat of {length} different tokens cannot be drawn from a pool of {len(pool)}: it needs at least 2, "
            "and no more than the pool has. Use a longer corpus or a longer context."
        )
    generator = np.random.default_rng(seed)
    first = _distinct(pool, length, n, generator)
    return _with_bos(np.concatenate([first, first], axis=1), bos_id)


def prefix_rows(
    pool: Int[np.ndarray, " token"], prefix: int, n: int, generator: np.random.Generator, bos_id: int | None
) -> tuple[Int[np.ndarray, "row pos"], int]:
    """Rows whose last `prefix` ids occur once before, all else distinct; and the position after the earlier ones.

    `[BOS] a b P x c d ... P` with P of `prefix` ids: the last position is the destination, x the source.
    """
    head, gap = 2, 14
    drawn = _distinct(pool, head + prefix + gap, n, generator)
    rows = np.concatenate([drawn, drawn[:, head : head + prefix]], axis=1)
    return _with_bos(rows, bos_id), head + prefix + (bos_id is not None)


def prefix_room(prefix: int) -> int:
    """How many different ids `prefix_rows` needs."""
    return prefix + 16


def shuffled_rows(
    ids: Int[np.ndarray, "row pos"],
    lengths: Int[np.ndarray, " row"],
    generator: np.random.Generator,
    bos_id: int | None,
) -> Int[np.ndarray, "row pos"]:
    """Each row with its real ids in random order; BOS and padding stay."""
    out = ids.copy()
    start = int(bos_id is not None)
    for row, length in zip(out, lengths, strict=True):
        row[start:length] = generator.permutation(row[start:length])
    return out


@dataclass(frozen=True)
class DelimiterRows:
    """Generated nested bracket and quotation rows, with their matching opening signs as cells `[row dst src]`."""

    ids: Int[np.ndarray, "row pos"]
    closing: Bool[np.ndarray, "row dst src"]  # a closing sign and its opening sign
    inside: Bool[np.ndarray, "row dst src"]  # a token inside, three or more after the innermost opening sign
    other: Bool[np.ndarray, "row dst src"]  # rows of both kinds and the earlier opening signs that do not match
    signs: str

    def some(self, n: int) -> DelimiterRows:
        """The first `n` rows."""
        return DelimiterRows(self.ids[:n], self.closing[:n], self.inside[:n], self.other[:n], self.signs)


def delimiter_pairs(
    table: TokenTable, strings: Sequence[str], pool: Int[np.ndarray, " token"]
) -> list[tuple[int, int]]:
    """(opening id, closing id) of each kind of sign whose two parts are in the pool; the most frequent spelling."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number in pool.tolist():
        bare = strings[number].strip()
        if len(bare) == 1 and table.flags["is_punctuation"][number]:
            first.setdefault(bare, number)
            if bare != strings[number]:
                continue
            last.setdefault(
                bare, number
            )  # a closing sign stands at the word: no space before it where there is a choice
    return [(first[p[0]], last.get(p[1], first[p[1]])) for p in PAIRS if p[0] in first and p[1] in first]


def delimiter_rows(
    pairs: Sequence[tuple[int, int]],
    words: Int[np.ndarray, " token"],
    shape: tuple[int, int],
    generator: np.random.Generator,
    bos_id: int | None,
    others: Int[np.ndarray, " token"] | None = None,
) -> DelimiterRows:
    """`shape = (rows, positions)`: words with nested pairs of signs, one pair inside another, cut to the length.

    `others`: signs that are no delimiters. One stands after the first word inside each pair, so that a head which looks
    at the last sign of any kind does not pass for one that looks at the opening.
    """
    n, size = shape
    others = np.zeros(0, dtype=np.int64) if others is None else others
    ids = np.zeros(shape, dtype=np.int64)
    cells = np.zeros((3, n, size, size), dtype=bool)
    for row in range(n):
        order = iter(np.tile(generator.permutation(words), size // len(words) + 1).tolist())
        signs_between = iter(generator.choice(others, size).tolist()) if len(others) else iter(())
        writer = _Writer([] if bos_id is None else [bos_id], [], [], signs_between)
        while len(writer.ids) < size:
            writer.words(order, int(generator.integers(2, 5)))
            outer, inner = (pairs[int(k)] for k in generator.integers(0, len(pairs), 2))
            writer.block(outer, inner, order, generator)
        ids[row] = writer.ids[:size]
        _mark(cells[:, row], writer, size)
    signs = " ".join(sorted({f"{a}:{b}" for a, b in pairs}))
    return DelimiterRows(ids, cells[0], cells[1], cells[2], signs)


@dataclass
class _Writer:
    """A row being written: its ids, its openings, and (kind, position, opening) of its marked positions."""

    ids: list[int]
    openings: list[int]
    marks: list[tuple[int, int, int]]  # kind 0 closing, 1 inside
    between: Iterator[int]  # other signs

    def words(self, order: Iterator[int], n: int, opening: int | None = None) -> None:
        for number in range(n):
            if opening is not None and number == 1:
                self.ids += [sign for sign in [next(self.between, None)] if sign is not None]
            if opening is not None and len(self.ids) - opening >= NEAR:
                self.marks.append((1, len(self.ids), opening))
            self.ids.append(next(order))

    def block(
        self,
        outer: tuple[int, int],
        inner: tuple[int, int],
        order: Iterator[int],
        generator: np.random.Generator,
    ) -> None:
        start = self._open(outer[0])
        self.words(order, int(generator.integers(3, 6)), start)
        if generator.random() < 0.5 and inner != outer:
            nested = self._open(inner[0])
            self.words(order, int(generator.integers(3, 6)), nested)
            self._close(inner[1], nested)
            self.words(order, int(generator.integers(1, 3)), start)
        self._close(outer[1], start)

    def _open(self, sign: int) -> int:
        self.openings.append(len(self.ids))
        self.ids.append(sign)
        return self.openings[-1]

    def _close(self, sign: int, opening: int) -> None:
        self.marks.append((0, len(self.ids), opening))
        self.ids.append(sign)


def _mark(cells: Bool[np.ndarray, "kind dst src"], writer: _Writer, size: int) -> None:
    for kind, dst, opening in writer.marks:
        if dst < size:
            cells[kind, dst, opening] = True
            cells[2, dst, [o for o in writer.openings if o < dst and o != opening]] = True


def _distinct(
    pool: Int[np.ndarray, " token"], length: int, n: int, generator: np.random.Generator
) -> Int[np.ndarray, "row token"]:
    return np.stack([generator.choice(pool, length, replace=False) for _ in range(n)]).astype(np.int64)


def _with_bos(rows: Int[np.ndarray, "row pos"], bos_id: int | None) -> Int[np.ndarray, "row pos"]:
    return rows if bos_id is None else np.pad(rows, ((0, 0), (1, 0)), constant_values=bos_id)
