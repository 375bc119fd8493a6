"""Windows of different splits that share 50 consecutive characters (scoring_validity rule 2, second half).

1. A select window that shares 50 characters with an explain window is dropped: explaining has seen them.
2. A test window that shares 50 characters with an explain window, or with a select window that is left, is
   dropped.

Each run of 50 characters within a window becomes a 64-bit rolling hash; the earlier split's hashes are
sorted and the later split's looked up in them. A window with a hit is dropped once the characters of its run
are found equal. Only hashes are held, and those in parts by value, so that memory does not grow with the
corpus. Characters are those of the text, as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autointerp.corpus.hashing import Hashes, rolling_hash

SHARED_CHARS = 50
PART_RUNS = 1 << 20  # hashes of the earlier split that are held at a time
BATCH_CHARS = 1 << 17
Ints = npt.NDArray[np.int64]
TextOf = Callable[[int], str]  # window number to the text that the window covers


class _Runs(NamedTuple):
    hashes: Hashes
    window: Ints
    start: Ints  # of the run, in the window's text


def dropped_windows(split: npt.NDArray[np.int8], chars: Ints, text_of: TextOf) -> npt.NDArray[np.bool_]:
    """True for each window to drop; `split` (0 explain, 1 select, 2 test) and `chars` (length) by window."""
    dropped = np.zeros(len(split), dtype=bool)
    for later in (1, 2):
        seen = np.flatnonzero((split < later) & ~dropped)
        dropped[_sharing(np.flatnonzero(split == later), seen, chars, text_of)] = True
    return dropped


def _sharing(windows: Ints, seen: Ints, chars: Ints, text_of: TextOf) -> Ints:
    """Those of `windows` that share a run with one of `seen`."""
    runs = int(np.maximum(0, chars[seen] - SHARED_CHARS + 1).sum())
    parts = max(1, -(-runs // PART_RUNS))
    found: set[int] = set()
    for part in range(parts):
        known = _sorted_hashes(seen, chars, text_of, (part, parts))
        left = np.array([window for window in windows.tolist() if window not in found], dtype=np.int64)
        hits = [_first_hits(here, known) for here in _runs_of(left, chars, text_of, (part, parts))]
        found |= _confirmed(hits, _runs_of(seen, chars, text_of, (part, parts)), text_of)
    return np.array(sorted(found), dtype=np.int64)


def _sorted_hashes(windows: Ints, chars: Ints, text_of: TextOf, part: tuple[int, int]) -> Hashes:
    pieces = [runs.hashes for runs in _runs_of(windows, chars, text_of, part)]
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *pieces])
    hashes.sort()
    return hashes


def _first_hits(runs: _Runs, known: Hashes) -> _Runs:
    """Of each window the first run whose hash is among `known`."""
    if not len(known):
        return _Runs(runs.hashes[:0], runs.window[:0], runs.start[:0])
    place = np.minimum(np.searchsorted(known, runs.hashes), len(known) - 1)
    hit = np.flatnonzero(known[place] == runs.hashes)
    first = hit[np.unique(runs.window[hit], return_index=True)[1]]
    return _Runs(runs.hashes[first], runs.window[first], runs.start[first])


def _runs_of(windows: Ints, chars: Ints, text_of: TextOf, part: tuple[int, int]) -> Iterator[_Runs]:
    """Runs of `windows` whose hash falls into the given part, some windows at a time."""
    ends = np.cumsum(chars[windows])
    for batch in np.split(windows, np.flatnonzero(np.diff(ends // BATCH_CHARS)) + 1):
        if len(batch) == 0:
            continue
        texts = [text_of(int(window)) for window in batch]
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        hashes = rolling_hash(codes.astype(np.uint64), SHARED_CHARS)
        begins = np.cumsum(lengths) - lengths
        row = np.repeat(np.arange(len(batch)), lengths)[: len(hashes)]
        start = np.arange(len(hashes)) - begins[row]
        share = (hashes >> np.uint64(32)) * np.uint64(part[1]) >> np.uint64(32)
        keep = (start + SHARED_CHARS <= lengths[row]) & (share == part[0])
        yield _Runs(hashes[keep], batch[row[keep]], start[keep])


def _confirmed(hits: list[_Runs], seen: Iterator[_Runs], text_of: TextOf) -> set[int]:
    """Windows of `hits` whose run is, character by character, one of `seen`."""
    open_hits: dict[int, list[tuple[int, int]]] = {}
    for runs in hits:
        for value, window, start in zip(*(column.tolist() for column in runs), strict=True):
            open_hits.setdefault(value, []).append((window, start))
    wanted = np.array(sorted(open_hits), dtype=np.uint64)
    found: set[int] = set()
    for runs in seen if open_hits else ():
        for at in np.flatnonzero(np.isin(runs.hashes, wanted)).tolist():
            theirs = _run_text(text_of, int(runs.window[at]), int(runs.start[at]))
            rest = open_hits.pop(int(runs.hashes[at]), [])
            equal = {window for window, start in rest if _run_text(text_of, window, start) == theirs}
            found |= equal
    return found


def _run_text(text_of: TextOf, window: int, start: int) -> str:
    return text_of(window)[start : start + SHARED_CHARS]
