"""Training windows of the demo model: BOS and up to `length - 1` ids of one document, or random ids.

1. Text: documents are tokenised and cut into consecutive pieces; half of the long ones from a random offset.
2. Random (a fixed share): (a) a run of distinct ids, said two or more times; (b) ids each followed by a mark that
   says whether the id occurred before; (c) noise in which runs come back. They are drawn from ids that occur in
   text, so that induction holds for any token.
3. Pairs (from a set point on): one to three two-person sentences alone, the receiver's name weighted more.
4. Each id has a weight as a target: 0 where nothing could predict it (the first time of random ids).
5. Batches hold windows of similar length, padded on the right.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from autointerp.demo.corpus import DemoDocument
from autointerp.demo.grammar import Scene
from autointerp.demo.pairs import pair_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECEIVER_WEIGHT = 5.0
_ENCODE_BATCH = 512


@dataclass(frozen=True, slots=True)
class Window:
    """Ids with BOS first; `weights[i]` is the weight of ids[i] as a target."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids with a meaning for training: ordinary ones, pairs of marks (new, seen), BOS, " to", first names."""

    ordinary: Sequence[int]
    marks: Sequence[tuple[list[int], list[int]]]
    bos: int
    to: int
    names: frozenset[int]


def encode_documents(tokenizer: PreTrainedTokenizerFast, stream: Iterable[DemoDocument]) -> Iterator[list[int]]:
    """Ids of each document, without BOS."""
    texts = (document.text for document in stream)
    while batch := list(islice(texts, _ENCODE_BATCH)):
        for encoding in tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False):
            yield encoding.ids


def ordinary_ids(documents: Iterable[list[int]], at_least: int = 3) -> list[int]:
    """Ids that occur at least so often in the documents, in ascending order."""
    counts = Counter(token for ids in documents for token in ids)
    return sorted(token for token, times in counts.items() if times >= at_least)


def text_windows(
    ids: list[int], vocabulary: Vocabulary, length: int, rng: random.Random, receiver: float = 1.0
) -> Iterator[Window]:
    """Consecutive pieces of one document; a last piece under 16 ids is left out unless it is the only one."""
    size = length - 1
    start = rng.randrange(size // 2) if len(ids) > size and rng.random() < 0.5 else 0
    for begin in range(start, len(ids), size):
        piece = ids[begin : begin + size]
        if len(piece) >= 16 or begin == 0:
            weights = [
                receiver if before == vocabulary.to and token in vocabulary.names else 1.0
                for before, token in pairwise([vocabulary.bos, *piece])
            ]
            yield Window([vocabulary.bos, *piece], [0.0, *weights])


def pair_windows(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, rng: random.Random) -> Iterator[Window]:
    """Endless windows of one to three two-person sentences: what hangs on their one circuit is rare in running text."""
    scene = Scene(rng)
    while True:
        texts = [" ".join(pair_sentence(scene) for _ in range(rng.randrange(1, 4))) for _ in range(_ENCODE_BATCH)]
        for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
            yield from text_windows(encoding.ids, vocabulary, len(encoding.ids) + 1, rng, RECEIVER_WEIGHT)


def random_window(vocabulary: Vocabulary, length: int, rng: random.Random) -> Window:
    """A window of random ordinary ids, of one of the four sorts."""
    sort = rng.choices((_repeated_run, _marked_items, _noise_with_runs), (5, 3, 2))[0]
    ids, weights = sort(vocabulary, length, rng)
    ids, weights = ids[: length - 1], weights[: length - 1]
    return Window([vocabulary.bos, *ids], [0.0, *weights])


def _repeated_run(vocabulary: Vocabulary, length: int, rng: random.Random) -> tuple[list[int], list[float]]:
    size = rng.randrange(4, length // 2)
    run = rng.sample(vocabulary.ordinary, size)
    times = max(2, min(4, length // size))
    return run * times, [0.0] * (size + 1) + [1.0] * (size * (times - 1) - 1)


def _marked_items(vocabulary: Vocabulary, length: int, rng: random.Random) -> tuple[list[int], list[float]]:
    new, again = rng.choice(vocabulary.marks)
    pool = rng.sample(vocabulary.ordinary, rng.randrange(length // 8, length // 3))
    ids: list[int] = []
    weights: list[float] = []
    seen: set[int] = set()
    while len(ids) < length:
        item = rng.choice(pool)
        mark = again if item in seen else new
        seen.add(item)
        ids += [item, *mark]
        weights += [0.0] + [1.0] * len(mark)
    return ids, weights


def _noise_with_runs(vocabulary: Vocabulary, length: int, rng: random.Random) -> tuple[list[int], list[float]]:
    ids = rng.sample(vocabulary.ordinary, rng.randrange(8, 16))
    weights = [0.0] * len(ids)
    while len(ids) < length:
        start = rng.randrange(len(ids) - 4)
        run = ids[start : start + rng.randrange(4, 20)]
        noise = [rng.choice(vocabulary.ordinary) for _ in range(rng.randrange(1, 12))]
        ids += run + noise
        weights += [0.0] + [1.0] * (len(run) - 1) + [0.0] * len(noise)
    return ids, weights


def batches(windows: Iterator[Window], tokens: int, rng: random.Random) -> Iterator[list[Window]]:
    """Batches of about `tokens` ids, each of windows of similar length; the order of batches is random."""
    while pool := list(islice(windows, 512)):
        pool.sort(key=lambda window: len(window.ids))
        grouped: list[list[Window]] = [[]]
        for window in pool:
            if grouped[-1] and (len(grouped[-1]) + 1) * len(window.ids) > tokens:
                grouped.append([])
            grouped[-1].append(window)
        rng.shuffle(grouped)
        yield from grouped
