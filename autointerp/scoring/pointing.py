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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.llm import CONTEXT, Capabilities, ChatModel, ChatRequest, ask
from autointerp.model import LanguageModel, Layer
from autointerp.prompting import Templates
from autointerp.records import Control, Description, Failure, Head, Score, Unscored
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW
from autointerp.stats.bootstrap import Resamples, interval

N_ITEMS, N_OTHERS, BEFORE, AROUND = 20, 4, 40, 3
REPEATS_WITHOUT_LOGPROBS = 3
MIN_ITEMS = 5
LETTERS = "ABCDE"


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

    chat: ChatModel
    capabilities: Capabilities
    templates: Templates
    strings: Sequence[str]
    held_out: HeldOutRows
    seed: int
    max_tokens: int = 400

    async def score(
        self, head: Head, description: Description, donors: Sequence[Description], items: list[PointingItem]
    ) -> Score | Unscored:
        """Accuracy of one description on its items; `donors` are other heads' descriptions (none: no such control)."""
        if len(items) < MIN_ITEMS:
            return Unscored(scorer="pointing", reason=f"only {len(items)} held-out rows have one clear source")
        hits = await self._hits(head, description, items, "pointing")
        if isinstance(hits, Failure):
            return Unscored(scorer="pointing", reason=hits.reason)
        shuffled: list[Float[np.ndarray, " item"]] = []
        for donor in donors:
            other = await self._hits(head, donor, items, "pointing control")
            if isinstance(other, Failure):
                return Unscored(scorer="pointing", reason=f"in the shuffled control: {other.reason}")
            shuffled.append(other)
        return _score(hits, shuffled, items, self.held_out.domain, self.seed)

    async def _hits(
        self, head: Head, description: Description, items: list[PointingItem], purpose: str
    ) -> Float[np.ndarray, " item"] | Failure:
        """Share of repeats in which each item was answered right."""
        repeats = 1 if self.capabilities.logprobs else REPEATS_WITHOUT_LOGPROBS
        hits = np.zeros(len(items))
        for repeat in range(repeats):
            found = await self._once(head, description, items, purpose, repeat)
            if isinstance(found, Failure):
                return found
            hits += found / repeats
        return hits

    async def _once(
        self, head: Head, description: Description, items: list[PointingItem], purpose: str, repeat: int
    ) -> Float[np.ndarray, " item"] | Failure:
        """Hits of one repeat; items that do not fit the server's context together are asked in halves."""
        found = await self._call(head, description, items, purpose, repeat)
        if not isinstance(found, Failure) or found.stage != CONTEXT or len(items) < 2:
            return found
        halves: list[Float[np.ndarray, " item"]] = []
        for part in (items[: len(items) // 2], items[len(items) // 2 :]):
            half = await self._once(head, description, part, purpose, repeat)
            if isinstance(half, Failure):
                return half
            halves.append(half)
        return np.concatenate(halves)

    async def _call(
        self, head: Head, description: Description, items: list[PointingItem], purpose: str, repeat: int
    ) -> Float[np.ndarray, " item"] | Failure:
        rng = np.random.default_rng([self.seed, head.layer, head.index, repeat])
        order = rng.permutation(len(items))
        letters = [rng.permutation(len(items[i].candidates)) for i in order]
        views = [self._view(items[i], shuffle) for i, shuffle in zip(order, letters, strict=True)]
        values = {"looks_at": description.looks_at, "conditions": description.conditions, "items": views}
        prompt = self.templates.render("pointing", values)
        request = ChatRequest(
            messages=prompt.messages,
            json_schema=_schema(len(views)),
            schema_name="choices",
            max_tokens=self.max_tokens,
            seed=self.seed,
            repeat=repeat,
            purpose=purpose,
            unit=str(head),
            template_hash=prompt.template_hash,
        )
        answer = await ask(
            self.chat,
            request,
            lambda reply: _choices(reply, len(views)),
            lambda reason: self.templates.render("repair", {"reason": reason}).messages[-1]["content"],
            self.capabilities,
        )
        if isinstance(answer, Failure):
            return answer
        hits = np.zeros(len(items))
        for place, (item, shuffle) in enumerate(zip(order, letters, strict=True)):
            chosen = answer.value[place]
            hits[item] = chosen < len(shuffle) and shuffle[chosen] == 0
        return hits

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
    shuffled: list[Float[np.ndarray, " item"]],
    items: list[PointingItem],
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
    controls = [_null("chance line", hits, chance, spread - by_document(chance))]
    if shuffled:
        mean = np.mean(shuffled, axis=0)
        name = f"shuffled explanation ({len(shuffled)} donors)"
        controls.append(_null(name, hits, mean, spread - by_document(mean)))
    return Score(
        scorer="pointing", metric="pointing", domain=domain, value=float(hits.mean()), low=low, high=high,
        n_items=len(items), n_docs=n_docs, prevalence=float(chance.mean()), chance=float(chance.mean()),
        controls=tuple(controls), state="underpowered" if n_docs < N_ITEMS else "",
        details={"documents_with_positive": n_docs, "candidates": float(np.mean([len(i.candidates) for i in items]))},
    )  # fmt: skip


def _null(name: str, hits: np.ndarray, control: np.ndarray, difference: np.ndarray) -> Control:
    low, high = interval(difference)
    return Control(
        name=name, kind="null", value=float(control.mean()), difference=float(hits.mean() - control.mean()),
        low=low, high=high, beaten=low > 0,
    )  # fmt: skip


Scorer = Callable[[Head], Awaitable[Score | Unscored]]
