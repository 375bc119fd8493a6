"""What a head's write does to candidate next tokens, measured on held-out rows for the effect scorers.

1. Rows: active test rows (`activity.row_states`) in which one source has a contribution share >= .3, one a document.
2. The write `(z - constant) W_O` of the row is read through the final norm, frozen at the row, as centred logits.
3. Pool of candidates: ordinary tokens of the held-out text. Ten a row: five that the write changes most, of which a
   binomial number (1 to 4) is raised and the others lowered, and five of the same frequencies (log2 bucket) whose
   change lies in the lower half of the pool (scoring_validity rule 22).
4. For claims about the source: the change of the source's own token and of its successor in an ordered list, each
   with matched tokens of like frequency.

Direct effect only: what later layers make of the write is the business of the causal scorers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.evidence.detector_lists import ORDERED
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer, Readout
from autointerp.records import Head
from autointerp.scoring.activity import RowStates
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import NO_WRITE, THETA_HIGH

N_STRONG, N_CANDIDATES = 5, 10
MAX_ROWS = 60  # a head; the LLM is asked about the first ten
N_MATCHED = 10


@dataclass(frozen=True)
class Change:
    """Centred logit change of a token, and of other tokens of like frequency."""

    value: float
    matched: tuple[float, ...]


@dataclass(frozen=True)
class EffectRow:
    """A row with one clear source; `changes` belong to `candidates`, `strong` says which are among the extremes."""

    window: int
    document: int
    dst: int
    src: int
    candidates: tuple[int, ...]
    changes: tuple[float, ...]
    strong: tuple[bool, ...]
    source: Change
    successor: Change | None = None


@dataclass(frozen=True)
class CandidatePool:
    """Ordinary tokens of the held-out text with their frequency buckets; `successor` maps list members on."""

    ids: Int[np.ndarray, " token"]
    bucket: Int[np.ndarray, " token"]  # of each of `ids`
    of_token: Int[np.ndarray, " vocab"]  # bucket of every token of the vocabulary
    successor: Mapping[int, int]

    @classmethod
    def of(cls, model: LanguageModel, texts: Sequence[HeldOutRows]) -> CandidatePool:
        counts = np.zeros(model.d_vocab, np.int64)
        for text in texts:
            real = np.arange(text.ids.shape[1]) < text.lengths[:, None]
            counts += np.bincount(text.ids[real], minlength=model.d_vocab)
        bucket = np.floor(np.log2(np.maximum(counts, 1))).astype(np.int64)
        usable = counts > 0
        usable[list(model.special_ids)] = False
        ids = np.array([i for i in np.flatnonzero(usable) if model.strings[i].strip()], dtype=np.int64)
        return cls(ids, bucket[ids], bucket, successors(model.strings))

    def nearest(self, bucket: int, among: Int[np.ndarray, " place"]) -> Int[np.ndarray, " place"]:
        """Those places of the pool (of `among`) whose frequency bucket is nearest to `bucket`."""
        distance = np.abs(self.bucket[among] - bucket)
        return among[distance == distance.min()] if len(among) else among


def successors(strings: Sequence[str]) -> dict[int, int]:
    """Token -> the token that follows it in an ordered list (numerals without end), with the same leading space."""
    known = {text: number for number, text in reversed(list(enumerate(strings)))}
    following = {a: b for members in ORDERED.values() for a, b in pairwise(members)}
    found: dict[int, int] = {}
    for number, text in enumerate(strings):
        word = text.strip()
        then = str(int(word) + 1) if word.isascii() and word.isdigit() else following.get(word)
        place = None if then is None else known.get(text[: len(text) - len(text.lstrip())] + then)
        if place is not None:
            found[number] = place
    return found


def effect_rows(
    model: LanguageModel,
    test: HeldOutRows,
    states: Mapping[Head, RowStates],
    pool: CandidatePool,
    seed: int,
    batch_size: int,
) -> dict[Head, list[EffectRow]]:
    """Up to MAX_ROWS rows a head, in seeded order. Raises ModelError where writes cannot be read as logits."""
    readout = Readout.of(model, model.to_ids(test.ids[:8]))
    reader = _Reader(model, test, readout, pool, seed)
    wanted: dict[int, list[tuple[Head, int]]] = defaultdict(list)
    order: dict[Head, list[int]] = {}
    for head, state in states.items():
        places = active_places(test, state, np.random.default_rng([seed, head.layer, head.index]))
        order[head] = [window for window, _ in places]
        for window, dst in places:
            wanted[window].append((head, dst))
    found: dict[tuple[Head, int], EffectRow] = {}
    windows = sorted(wanted)
    for start in range(0, len(windows), batch_size):
        part = windows[start : start + batch_size]
        found |= reader.read(part, {w: wanted[w] for w in part})
    return {head: [found[head, w] for w in order[head] if (head, w) in found] for head in states}


def active_places(
    test: HeldOutRows, state: RowStates, rng: np.random.Generator, limit: int = MAX_ROWS
) -> list[tuple[int, int]]:
    """One active row a document, in seeded order, at most `limit`."""
    found: dict[int, tuple[int, int]] = {}
    rows = rng.permutation(np.argwhere((state.state == 1) & test.rows))
    for window, dst in rows.tolist():
        found.setdefault(int(test.documents[window]), (window, dst))
        if len(found) == limit:
            break
    return list(found.values())


@dataclass(frozen=True)
class _Write:
    head: Head
    window: int
    dst: int
    src: int
    vector: Float[Tensor, " d_model"]


class _Reader:
    """Reads the writes of the wanted rows, window by window."""

    def __init__(
        self, model: LanguageModel, test: HeldOutRows, readout: Readout, pool: CandidatePool, seed: int
    ) -> None:
        self._model, self._test, self._readout, self._pool, self._seed = model, test, readout, pool, seed
        self._to_pool = readout.to_logits[:, torch.from_numpy(pool.ids).to(readout.to_logits.device)]
        self._outputs: dict[int, OutputGeometry] = {}

    def read(
        self, windows: list[int], wanted: Mapping[int, list[tuple[Head, int]]]
    ) -> dict[tuple[Head, int], EffectRow]:
        ids = self._model.to_ids(self._test.ids[windows])
        lengths = torch.as_tensor(self._test.lengths[windows].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, self._model.special_ids)
        layers = sorted({head.layer for places in wanted.values() for head, _ in places})
        writes: list[_Write] = []
        with self._model.observing(layers, self._keep(windows, wanted, masks, writes)):
            residual, _ = self._model.final_states(ids)
        place = {window: row for row, window in enumerate(windows)}
        found: dict[tuple[Head, int], EffectRow] = {}
        for write in writes:
            stream = residual[place[write.window], write.dst].float()
            if write.vector.norm() >= NO_WRITE * stream.norm():
                row = self._row(write, write.vector / self._readout.scale(stream[None])[0])
                if row is not None:
                    found[write.head, write.window] = row
        return found

    def _keep(
        self,
        windows: list[int],
        wanted: Mapping[int, list[tuple[Head, int]]],
        masks: Masks,
        writes: list[_Write],
    ) -> Callable[[Layer], None]:
        def keep(layer: Layer) -> None:
            geometry = self._outputs.setdefault(layer.index, OutputGeometry.of(self._model, layer.index))
            norms = write_norms(self._model, layer, geometry)
            for row, window in enumerate(windows):
                for head, dst in wanted[window]:
                    if head.layer == layer.index:
                        pattern = layer.pattern[row, head.index, dst].float()
                        contribution = pattern * norms[row, head.index] * masks.allowed[row]
                        src = int(contribution.argmax())
                        if contribution[src] >= THETA_HIGH * contribution.sum().clamp_min(1e-30):
                            vector = self._write(layer, head, (row, dst), pattern)
                            writes.append(_Write(head, window, dst, src, vector))

        return keep

    def _write(
        self, layer: Layer, head: Head, at: tuple[int, int], pattern: Float[Tensor, " src"]
    ) -> Float[Tensor, " d_model"]:
        """The row's `(z - constant) W_O`."""
        constant = self._model.expand_kv(self._outputs[layer.index].v_constant[None])[0, head.index]
        z = layer.z[at[0], at[1], head.index].float() - constant * pattern.sum()
        return z @ self._model.W_O(layer.index)[head.index]

    def _row(self, write: _Write, scaled: Float[Tensor, " d_model"]) -> EffectRow | None:
        """`scaled` is the write over the final norm's divisor at the row."""
        head, source = write.head, int(self._test.ids[write.window, write.src])
        rng = np.random.default_rng([self._seed, head.layer, head.index, write.window])
        changes = (scaled @ self._to_pool).double().cpu().numpy()
        chosen = choose_candidates(changes, self._pool, rng)
        if chosen is None:
            return None
        order = rng.permutation(N_CANDIDATES)
        places = chosen[order]
        following = self._pool.successor.get(source)
        return EffectRow(
            window=write.window,
            document=int(self._test.documents[write.window]),
            dst=write.dst,
            src=write.src,
            candidates=tuple(self._pool.ids[places].tolist()),
            changes=tuple(changes[places].tolist()),
            strong=tuple((order < N_STRONG).tolist()),
            source=self._change(source, scaled, changes, rng),
            successor=None if following is None else self._change(following, scaled, changes, rng),
        )

    def _change(
        self,
        token: int,
        scaled: Float[Tensor, " d_model"],
        changes: Float[np.ndarray, " token"],
        rng: np.random.Generator,
    ) -> Change:
        """The change of any token, and of tokens of the pool whose frequency is nearest to its own."""
        others = np.flatnonzero(self._pool.ids != token)
        near = rng.permutation(others)[: 50 * N_MATCHED]
        ranked = near[np.argsort(np.abs(self._pool.bucket[near] - self._pool.of_token[token]), kind="stable")]
        value = float(scaled @ self._readout.to_logits[:, token])
        return Change(value, tuple(changes[ranked[:N_MATCHED]].tolist()))


def choose_candidates(
    changes: Float[np.ndarray, " token"], pool: CandidatePool, rng: np.random.Generator
) -> Int[np.ndarray, " place"] | None:
    """Places in the pool: five extremes, then five matched tokens with a small change; None for too small a pool."""
    ranked = np.argsort(changes, kind="stable")
    up = int(np.clip(rng.binomial(N_STRONG, 0.5), 1, N_STRONG - 1))
    highest, lowest = ranked[::-1][:up], ranked[: N_STRONG - up]
    if len(changes) < 4 * N_CANDIDATES or changes[highest].min() <= 0 or changes[lowest].max() >= 0:
        return None
    extremes = np.concatenate([highest, lowest])
    small = np.abs(changes) <= np.median(np.abs(changes))
    small[extremes] = False
    matched: list[int] = []
    for place in extremes:
        matched.append(int(rng.choice(pool.nearest(int(pool.bucket[place]), np.flatnonzero(small)))))
        small[matched[-1]] = False
    return np.concatenate([extremes, matched])
