"""Three splits by document hash, near-duplicates together (scoring_validity rules 1 and 2).

1. `u = int(sha256(salt || normalised text)) / 2^256`: explain under .5, select under .7, test from there.
2. A document's shingles are the runs of 8 words of its casefolded text, as 64-bit hashes; a document of
   fewer words has one, of its whole text.
3. Two documents are near-duplicates where `|A and B| / min(|A|, |B|) >= .3`; clusters are the connected
   components.
4. A cluster goes to the split of its smallest hash.

Candidates come from an inverted index (shingle to documents), not from MinHash: containment of a short
document in a long one is high where their Jaccard similarity is next to nothing, so that no banding finds
all pairs, while the index counts every shared shingle exactly. Memory stays bounded because the (shingle,
document) pairs lie in a file, are read in parts by hash value, and only shingles that two documents share
are kept; shingles with the same documents (boilerplate) are counted together.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from autointerp.corpus.hashing import Hashes, rolling_hash, spread

SPLITS = ("explain", "select", "test")
SHINGLE_WORDS = 8
CONTAINMENT = 0.3
PART_PAIRS = 1 << 18  # pairs that are sorted at a time
_BOUNDS = (0.5, 0.7)
_WORD = re.compile(r"\w+")
_PAIR = np.dtype([("shingle", np.uint64), ("doc", np.int64)])
Ints = npt.NDArray[np.int64]
Pairs = npt.NDArray[Any]  # of _PAIR


def split_digest(normal: str, salt: str) -> bytes:
    """The 32 bytes whose value over 2^256 is the document's u."""
    return hashlib.sha256((salt + normal).encode("utf-8", "surrogatepass")).digest()


def split_of(digest: bytes) -> int:
    """0 explain, 1 select, 2 test."""
    u = int.from_bytes(digest, "big") / 2 ** (8 * len(digest))
    return sum(u >= bound for bound in _BOUNDS)


def shingles_of(normal: str) -> Hashes:
    """Distinct shingle hashes, sorted. They hold within one process only (they rest on its `hash`)."""
    folded = normal.casefold()
    words = _WORD.findall(folded)
    if len(words) < SHINGLE_WORDS:
        return spread(np.array([hash(folded)], dtype=np.int64).view(np.uint64))
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words))
    return np.unique(rolling_hash(hashes.view(np.uint64), SHINGLE_WORDS))


class ShingleFile:
    """Collects the shingles of documents 0, 1, 2, ... on disk and finds the clusters."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self.counts: list[int] = []

    def add(self, normal: str) -> None:
        """Add the next document."""
        shingles = shingles_of(normal)
        pairs = np.empty(len(shingles), dtype=_PAIR)
        pairs["shingle"], pairs["doc"] = shingles, len(self.counts)
        self._file.write(pairs.tobytes())
        self.counts.append(len(shingles))

    def close(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def clusters(self) -> Ints:
        """For each document the smallest ordinal of its cluster."""
        self._file.flush()
        postings = [part for part in self._shared_parts() if len(part)]
        groups = _Groups(len(self.counts))
        if postings:
            _join_near_duplicates(np.concatenate(postings), np.asarray(self.counts), groups)
        return groups.roots()

    def _shared_parts(self) -> Iterator[Pairs]:
        """Pairs whose shingle two documents share, sorted by shingle and document, by ranges of the hash."""
        total = sum(self.counts)
        parts = -(-total // PART_PAIRS)
        for part in range(parts):
            found = []
            with self._path.open("rb") as file:
                while raw := file.read(PART_PAIRS * _PAIR.itemsize // 4):
                    pairs = np.frombuffer(raw, dtype=_PAIR)
                    share = (pairs["shingle"] >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
                    found.append(pairs[share == part])
            yield _shared(np.concatenate(found))


def _shared(pairs: Pairs) -> Pairs:
    # Documents were written in order, so a stable sort by shingle leaves them sorted within each.
    pairs = pairs[np.argsort(pairs["shingle"], kind="stable")]
    same = pairs["shingle"][1:] == pairs["shingle"][:-1]
    keep = np.zeros(len(pairs), dtype=bool)
    keep[1:] |= same
    keep[:-1] |= same
    return pairs[keep]


def _join_near_duplicates(pairs: Pairs, sizes: Ints, groups: _Groups) -> None:
    """Count shared shingles of each document with every later one, and join where containment is reached."""
    starts, weights, docs = _weighted_lists(pairs)
    lists = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(docs, kind="stable")
    owners, owned = docs[order], lists[order]
    borders = np.flatnonzero(np.diff(owners, prepend=-1, append=len(sizes)))
    for first, last in itertools.pairwise(borders):
        doc, mine = int(owners[first]), owned[first:last]
        begin, length = starts[mine], np.diff(starts)[mine]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        others = docs[np.repeat(begin, length) + within]
        shared = np.bincount(others, np.repeat(weights[mine], length), minlength=doc + 1)[doc + 1 :]
        later = np.flatnonzero(shared) + doc + 1
        least = np.minimum(sizes[later], sizes[doc])
        for other in later[shared[later - doc - 1] >= CONTAINMENT * least - 1e-9]:
            groups.join(doc, int(other))


def _weighted_lists(pairs: Pairs) -> tuple[Ints, npt.NDArray[np.float64], Ints]:
    """Distinct lists of documents as (starts `[list + 1]`, number of shingles with that list, documents)."""
    first = np.flatnonzero(np.diff(pairs["shingle"], prepend=pairs["shingle"][:1] ^ np.uint64(1)))
    length = np.diff(np.append(first, len(pairs)))
    # The documents of a list, as one value: equal for equal lists, and else by chance in one of 2^64.
    marks = np.add.reduceat(spread(pairs["doc"].astype(np.uint64)), first)
    _, chosen, weights = np.unique(marks, return_index=True, return_counts=True)
    length, first = length[chosen], first[chosen]
    starts = np.append(0, np.cumsum(length))
    index = np.repeat(first - starts[:-1], length) + np.arange(starts[-1])
    return starts, weights.astype(np.float64), pairs["doc"][index]


class _Groups:
    """Disjoint sets; the root of each is its smallest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def _find(self, member: int) -> int:
        root = member
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self._find(one), self._find(other)))
        self._parent[high] = low

    def roots(self) -> Ints:
        return np.array([self._find(member) for member in range(len(self._parent))], dtype=np.int64)


def assign_splits(clusters: Ints, digests: Sequence[bytes]) -> tuple[Ints, npt.NDArray[np.int8]]:
    """Each document's representative (the member of its cluster with the smallest hash) and its split."""
    best: dict[int, int] = {}
    for doc, root in enumerate(clusters.tolist()):
        if root not in best or digests[doc] < digests[best[root]]:
            best[root] = doc
    representative = np.array([best[root] for root in clusters.tolist()], dtype=np.int64)
    own = np.array([split_of(digest) for digest in digests], dtype=np.int8)
    return representative, own[representative]
