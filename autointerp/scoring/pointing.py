"""Pointing: an LLM reads the description and names the attended source in held-out contexts.

1. Items: up to 20 test rows of the claim's domain with the attended source and up to four others (`pointing_items`).
2. One call holds up to 20 items in seeded order; without log-probabilities three calls with other orders.
3. Accuracy with a document bootstrap against the chance line (mean of 1 / candidates), and on a seeded part of the
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
from jaxtyping import Float, Int

from autointerp.records import Description, Failure, Score, Unit, Unscored
from autointerp.scoring.asking import Asked, Asker, Controls, Question, Reading, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.pointing_items import N_ITEMS, PointingItem
from autointerp.stats.agreement import items_error
from autointerp.stats.bootstrap import Resamples, interval

BEFORE, AROUND = 40, 3
MIN_ITEMS, MAX_TOKENS = 5, 400
LETTERS = "ABCDE"
NOT_OFFERED = len(LETTERS)  # a letter that the item does not have
_Found = Float[np.ndarray, " item"] | Failure


@dataclass(frozen=True)
class Pointer:
    """Asks the LLM; all settings change replies."""

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, unit: Unit, description: Description, controls: Controls, items: Sequence[PointingItem]
    ) -> Score | Unscored:
        """Accuracy of one description on its items; `controls` are other descriptions by name."""
        lacking = self.lacks(items)
        if lacking is not None:
            return lacking
        hits = await self._hits(unit, description, "pointing", items)
        if isinstance(hits, Failure):
            return Unscored(scorer="pointing", reason=hits.reason)
        others = await answer_controls(controls, lambda d: self._hits(unit, d, "pointing control", items))
        if isinstance(others, Failure):
            return Unscored(scorer="pointing", reason=others.reason)
        return _score(hits, others, items, self.held_out.domain, self.asker.seed)

    @property
    def calls(self) -> int:
        """How many askings of the items the value is the mean of."""
        return self.asker.repeats

    async def read(
        self, unit: Unit, description: Description, items: Sequence[PointingItem], asked: Asked
    ) -> Reading | Failure:
        """One asking of the items; e is 1 where the answer is right. Answers are named by the letter that the chosen
        candidate has in the first call, so that choosing at random agrees by 1 / candidates."""
        once = partial(self._call, unit, description, asked.purpose, asked.repeat)
        found = await in_parts(items, once, asked.size)
        if isinstance(found, Failure):
            return found
        said = np.full(len(items), NOT_OFFERED)
        for item, shuffle in zip(*self._order(unit, 0, items), strict=True):
            if found[item] != NOT_OFFERED:
                said[item] = int(np.flatnonzero(shuffle == found[item])[0])
        return Reading(np.array([float(chosen == 0) for chosen in found]), said, len(items))

    def score_of(self, reading: Reading, items: Sequence[PointingItem]) -> Score:
        """The score of one reading, with the null that costs no call."""
        return _score(reading.e, {}, items, self.held_out.domain, self.asker.seed)

    def asked(self, items: Sequence[PointingItem]) -> Sequence[PointingItem]:
        """Those of the items that are asked about."""
        return items

    def lacks(self, items: Sequence[PointingItem]) -> Unscored | None:
        """Why these items give no score, whatever is said of them."""
        if len(items) >= MIN_ITEMS:
            return None
        return Unscored(scorer="pointing", reason=f"only {len(items)} held-out rows have one clear source")

    async def _hits(self, unit: Unit, description: Description, purpose: str, items: Sequence[PointingItem]) -> _Found:
        """Share of repeats in which each item was answered right."""
        hits = np.zeros(len(items))
        for repeat in range(self.asker.repeats):
            found = await in_parts(items, partial(self._call, unit, description, purpose, repeat))
            if isinstance(found, Failure):
                return found
            hits += np.array([chosen == 0 for chosen in found]) / self.asker.repeats
        return hits

    async def _call(
        self, unit: Unit, description: Description, purpose: str, repeat: int, items: Sequence[PointingItem]
    ) -> list[int] | Failure:
        """The chosen candidate of each item."""
        order, letters = self._order(unit, repeat, items)
        answer = await self.asker.ask(self.question(unit, description, items, purpose, repeat))
        if isinstance(answer, Failure):
            return answer
        found = [NOT_OFFERED] * len(items)
        for place, (item, shuffle) in enumerate(zip(order, letters, strict=True)):
            if answer.value[place] < len(shuffle):
                found[int(item)] = int(shuffle[answer.value[place]])
        return found

    def _order(
        self, unit: Unit, repeat: int, items: Sequence[PointingItem]
    ) -> tuple[np.ndarray, list[Int[np.ndarray, " candidate"]]]:
        """The order of the items, and that of each one's candidates; an item by itself draws its own, else the true
        candidate of all items asked singly would have the same letter."""
        rng = self.asker.draw(unit, repeat, *((items[0].window, items[0].dst) if len(items) == 1 else ()))
        order = rng.permutation(len(items))
        return order, [rng.permutation(len(items[i].candidates)) for i in order]

    def question(
        self,
        unit: Unit,
        description: Description,
        items: Sequence[PointingItem],
        purpose: str = "pointing",
        repeat: int = 0,
    ) -> Question[list[int]]:
        """The question about `items`, in the order of the repeat."""
        n = len(items)
        views = [self._view(items[i], shuffle) for i, shuffle in zip(*self._order(unit, repeat, items), strict=True)]
        return Question(
            template="pointing",
            values={"looks_at": description.looks_at, "conditions": description.conditions, "items": views},
            schema_name="choices",
            schema=_schema(n),
            parse=lambda reply: _choices(reply, n),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            unit=unit,
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
        details={
            "documents_with_positive": n_docs, "candidates": float(np.mean([len(i.candidates) for i in items])),
            "se_items": items_error(spread),
        },
    )  # fmt: skip
