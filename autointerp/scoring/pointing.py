"""Pointing: an LLM reads the description and names the attended source in held-out contexts.

1. Items: test rows of the claim's domain in which one source has a contribution share >= .3; at most one a document.
2. Candidates: that source and up to four others with a measured share <= .02, of the same distance bucket first.
3. One call holds up to 20 items in seeded order; without log-probabilities three calls with other orders.
4. Accuracy with a document bootstrap against the chance line (mean of 1 / candidates), and on a seeded part of the
   heads against other heads' descriptions on the same items.

The LLM sees neither the pattern nor which head it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.records import Description, Failure, Head, Score, Unscored
from autointerp.scoring.asking import Asker, Controls, Question, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW
from autointerp.stats.bootstrap import Resamples, interval

N_ITEMS, N_OTHERS, BEFORE, AROUND = 20, 4, 40, 3
MIN_ITEMS, MAX_TOKENS = 5, 400
LETTERS = "ABCDE"
_Found = Float[np.ndarray, " item"] | Failure


@dataclass(frozen=True)
class PointingItem:
    """A marked destination and its candidates; `candidates[0]` is the attended source."""

    window: int
    document: int
    dst: int
    candidates: tuple[int, ...]


def choose_items(
    model: LanguageModel, held_out: HeldOutRows, heads: Sequence[Head], seed: int, batch_size: int
) -> dict[Head, list[PointingItem]]:
    """Up to N_ITEMS items a head, windows in seeded order."""
    chooser = _Chooser(model, held_out, heads, seed)
    order = np.random.default_rng(seed).permutation(len(held_out.ids))
    for start in range(0, len(order), batch_size):
        if chooser.full():
            break
        chooser.read(order[start : start + batch_size])
    return chooser.items


class _Chooser:
    def __init__(self, model: LanguageModel, held_out: HeldOutRows, heads: Sequence[Head], seed: int) -> None:
        self._model, self._held_out, self._heads, self._seed = model, held_out, heads, seed
        self._outputs = {n: OutputGeometry.of(model, n) for n in sorted({h.layer for h in heads})}
        self.items: dict[Head, list[PointingItem]] = {head: [] for head in heads}

    def full(self) -> bool:
        return all(len(items) >= N_ITEMS for items in self.items.values())

    def read(self, windows: np.ndarray) -> None:
        ids = self._model.to_ids(self._held_out.ids[windows])
        lengths = torch.as_tensor(self._held_out.lengths[windows].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, self._model.special_ids)

        def keep(layer: Layer) -> None:
            norms = write_norms(self._model, layer, self._outputs[layer.index])
            attention = layer.pattern.float() * masks.allowed[:, None, None, :]
            contribution = attention * norms[:, :, None, :]
            a = (contribution / contribution.sum(-1, keepdim=True).clamp_min(1e-30)).cpu().numpy()
            valid = (attention.sum(-1) >= TAU).cpu().numpy()
            for head in self._heads:
                if head.layer == layer.index:
                    for row, window in enumerate(windows):
                        self._item(head, int(window), a[row, head.index], valid[row, head.index])

        self._model.read_attention(ids, list(self._outputs), keep)

    def _item(self, head: Head, window: int, a: Float[np.ndarray, "dst src"], valid: np.ndarray) -> None:
        items = self.items[head]
        document = int(self._held_out.documents[window])
        if len(items) >= N_ITEMS or any(i.document == document for i in items):
            return
        usable = np.flatnonzero(valid & self._held_out.rows[window] & (a.max(-1) >= THETA_HIGH))
        rng = np.random.default_rng([self._seed, head.layer, head.index, window])
        for dst in rng.permutation(usable):
            true = int(a[dst].argmax())
            others = self._others(a[dst], int(dst), true, self._held_out.sources[window], rng)
            if others:
                items.append(PointingItem(window, document, int(dst), (true, *others)))
                return

    @staticmethod
    def _others(
        a: Float[np.ndarray, " src"], dst: int, true: int, sources: np.ndarray, rng: np.random.Generator
    ) -> list[int]:
        """Sources that were measured to get nothing; those at a like distance first."""
        able = np.flatnonzero((a[: dst + 1] <= THETA_LOW) & sources[: dst + 1])
        shuffled = rng.permutation(able)
        bucket = bucket_of(np.array([dst - true]))[0]
        order = np.argsort(np.abs(bucket_of(dst - shuffled) - bucket), kind="stable")
        return [int(s) for s in shuffled[order][:N_OTHERS]]


@dataclass(frozen=True)
class Pointer:
    """Asks the LLM; all settings change replies."""

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, head: Head, description: Description, controls: Controls, items: Sequence[PointingItem]
    ) -> Score | Unscored:
        """Accuracy of one description on its items; `controls` are other descriptions by name."""
        lacking = self.lacks(items)
        if lacking is not None:
            return lacking
        hits = await self._hits(head, description, "pointing", items)
        if isinstance(hits, Failure):
            return Unscored(scorer="pointing", reason=hits.reason)
        others = await answer_controls(controls, lambda d: self._hits(head, d, "pointing control", items))
        if isinstance(others, Failure):
            return Unscored(scorer="pointing", reason=others.reason)
        return _score(hits, others, items, self.held_out.domain, self.asker.seed)

    def lacks(self, items: Sequence[PointingItem]) -> Unscored | None:
        """Why these items give no score, whatever is said of them."""
        if len(items) >= MIN_ITEMS:
            return None
        return Unscored(scorer="pointing", reason=f"only {len(items)} held-out rows have one clear source")

    async def _hits(self, head: Head, description: Description, purpose: str, items: Sequence[PointingItem]) -> _Found:
        """Share of repeats in which each item was answered right."""
        hits = np.zeros(len(items))
        for repeat in range(self.asker.repeats):
            found = await in_parts(items, partial(self._call, head, description, purpose, repeat))
            if isinstance(found, Failure):
                return found
            hits += np.array(found) / self.asker.repeats
        return hits

    async def _call(
        self, head: Head, description: Description, purpose: str, repeat: int, items: Sequence[PointingItem]
    ) -> list[bool] | Failure:
        order, letters = self._order(head, repeat, items)
        answer = await self.asker.ask(self.question(head, description, items, purpose, repeat))
        if isinstance(answer, Failure):
            return answer
        hits = [False] * len(items)
        for place, (item, shuffle) in enumerate(zip(order, letters, strict=True)):
            chosen = answer.value[place]
            hits[int(item)] = bool(chosen < len(shuffle) and shuffle[chosen] == 0)
        return hits

    def _order(
        self, head: Head, repeat: int, items: Sequence[PointingItem]
    ) -> tuple[np.ndarray, list[Int[np.ndarray, " candidate"]]]:
        """The order of the items, and that of each one's candidates."""
        rng = self.asker.draw(head, repeat)
        order = rng.permutation(len(items))
        return order, [rng.permutation(len(items[i].candidates)) for i in order]

    def question(
        self,
        head: Head,
        description: Description,
        items: Sequence[PointingItem],
        purpose: str = "pointing",
        repeat: int = 0,
    ) -> Question[list[int]]:
        """The question about `items`, in the order of the repeat."""
        n = len(items)
        views = [self._view(items[i], shuffle) for i, shuffle in zip(*self._order(head, repeat, items), strict=True)]
        return Question(
            template="pointing",
            values={"looks_at": description.looks_at, "conditions": description.conditions, "items": views},
            schema_name="choices",
            schema=_schema(n),
            parse=lambda reply: _choices(reply, n),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            head=head,
            repeat=repeat,
        )

    def _view(self, item: PointingItem, shuffle: np.ndarray) -> dict[str, Any]:
        tokens = [self.strings[int(i)] for i in self.held_out.ids[item.window]]
        start = max(0, min(item.dst - BEFORE, *(c - AROUND for c in item.candidates)))
        return {
            "text": "".join(tokens[start : item.dst]),
            "dst": tokens[item.dst],
            "candidates": {
                LETTERS[place]: {
                    "src": tokens[item.candidates[c]],
                    "distance": item.dst - item.candidates[c],
                    "around": "".join(
                        tokens[max(start, item.candidates[c] - AROUND) : min(item.candidates[c] + AROUND, item.dst) + 1]
                    ),
                }
                for place, c in enumerate(shuffle)
            },
        }


def _schema(n: int) -> dict[str, Any]:
    answers = {"type": "array", "items": {"type": "string", "enum": list(LETTERS)}, "minItems": n, "maxItems": n}
    return {
        "type": "object",
        "properties": {"answers": answers},
        "required": ["answers"],
        "additionalProperties": False,
    }


def _choices(reply: Mapping[str, Any], n: int) -> list[int]:
    """Places of the letters; one that an item does not offer is a wrong choice, not a bad reply."""
    answers = reply.get("answers")
    if not isinstance(answers, list) or len(answers) != n:
        found = len(answers) if isinstance(answers, list) else json.dumps(answers)[:40]
        raise ValueError(f"answers must be a list of {n} letters, one an item; found {found}")
    places: list[int] = []
    for number, letter in enumerate(answers, 1):
        if not isinstance(letter, str) or letter.strip().upper() not in tuple(LETTERS):
            raise ValueError(f"answer {number} is {json.dumps(letter)[:40]}, not one of the letters of its candidates")
        places.append(LETTERS.index(letter.strip().upper()))
    return places


def _score(
    hits: Float[np.ndarray, " item"],
    others: Mapping[str, list[Float[np.ndarray, " item"]]],
    items: Sequence[PointingItem],
    domain: str,
    seed: int,
) -> Score:
    documents = np.unique([i.document for i in items], return_inverse=True)[1]
    n_docs = int(documents.max()) + 1
    resamples = Resamples.of(n_docs, seed)
    chance = np.array([1 / len(i.candidates) for i in items])

    def by_document(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, " resample"]:
        sums = resamples.counts @ np.bincount(documents, values, n_docs)
        return sums / (resamples.counts @ np.bincount(documents, minlength=n_docs))

    spread = by_document(hits)
    low, high = interval(spread)
    value = float(hits.mean())
    controls = [compared("chance line", value, float(chance.mean()), spread - by_document(chance))]
    for name, found in others.items():
        other = np.mean(found, axis=0)
        controls.append(compared(name, value, float(other.mean()), spread - by_document(other)))
    return Score(
        scorer="pointing", metric="pointing", domain=domain, value=value, low=low, high=high,
        n_items=len(items), n_docs=n_docs, prevalence=float(chance.mean()), chance=float(chance.mean()),
        controls=tuple(controls), state="underpowered" if n_docs < N_ITEMS else "",
        details={"documents_with_positive": n_docs, "candidates": float(np.mean([len(i.candidates) for i in items]))},
    )  # fmt: skip
