"""Simulation: an LLM reads the description and predicts the activation at every token of held-out passages.

1. Passages are the held-out windows cut into pieces of LENGTH tokens. Those in which the unit is active are one
   stratum, the others another; of each, some are drawn at random, each from its own document, and weighted by the
   number of passages that it stands for. So the tokens stand for all held-out text (scoring_validity rule 6).
2. One call for all passages; the LLM names the tokens above 0 with a strength from 1 to 10, all others are 0.
3. Weighted Pearson of predicted strength and measured share of the reference, bootstrap over documents within each
   stratum; chance 0. Nulls: the same predictions shuffled over the tokens, and on a seeded part of the units other
   descriptions on the same passages.

Bills et al. 2023 (simulate and compare), with a representative sample in place of top and random passages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from autointerp.feature_records import ACTIVE
from autointerp.records import Control, Description, Failure, Score, Unit, Unscored
from autointerp.scoring.asking import Asked, Asker, Controls, Question, Reading, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.passages import N_ACTIVE, N_RESTING, Passage
from autointerp.scoring.strengths import MOST, read_strengths, strengths_schema
from autointerp.stats.agreement import items_error
from autointerp.stats.bootstrap import Resamples, interval, pearson_sums
from autointerp.stats.metrics import pearson_from_sums

BEFORE = 40  # tokens that are shown before a passage
MIN_ACTIVE = 2
SHUFFLES = 20
MAX_TOKENS = 1700  # room for a strength at every token
SCORER = "simulation"


@dataclass(frozen=True)
class Simulator:
    """Asks the LLM; all settings change replies."""

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, unit: Unit, description: Description, controls: Controls, items: Sequence[Passage]
    ) -> Score | Unscored:
        """Weighted Pearson of one description on its passages; `controls` are other descriptions by name."""
        lacking = self.lacks(items)
        if lacking is not None:
            return lacking
        said = await self._answers(unit, description, Asked(SCORER), items)
        if isinstance(said, Failure):
            return Unscored(scorer=SCORER, reason=said.reason)
        others = await answer_controls(
            controls, lambda d: self._answers(unit, d, Asked(f"{SCORER} control"), items)
        )  # fmt: skip
        if isinstance(others, Failure):
            return Unscored(scorer=SCORER, reason=others.reason)
        return _Scoring(items, self._counted(items), self.asker.seed).score(said, others, self.held_out.domain)

    @property
    def calls(self) -> int:
        """How many askings of the passages the value is the mean of."""
        return 1

    async def read(
        self, unit: Unit, description: Description, items: Sequence[Passage], asked: Asked
    ) -> Reading | Failure:
        """One asking of the passages; e is the strength of each token on a scale from 0 to 1, answers say whether
        it is active."""
        found = await self._answers(unit, description, asked, items)
        if isinstance(found, Failure):
            return found
        e = np.concatenate(found) / MOST
        return Reading(e, (e >= ACTIVE).astype(np.int64), len(items))

    def score_of(self, reading: Reading, items: Sequence[Passage]) -> Score:
        """The score of one reading, with the null that costs no call."""
        cuts = np.cumsum([len(p.shares) for p in items])[:-1]
        said = [np.asarray(part) for part in np.split(np.round(MOST * reading.e, 9), cuts)]
        return _Scoring(items, self._counted(items), self.asker.seed).score(said, {}, self.held_out.domain)

    def asked(self, items: Sequence[Passage]) -> Sequence[Passage]:
        """Those of the passages that are asked about."""
        return items

    def lacks(self, items: Sequence[Passage]) -> Unscored | None:
        """Why these passages give no score, whatever is said of them."""
        active = sum(p.active for p in items)
        if active >= MIN_ACTIVE and active < len(items):
            return None
        reason = f"the unit is active in passages of only {active} held-out documents; {MIN_ACTIVE} are needed"
        if active >= MIN_ACTIVE:
            reason = "the unit is active in every held-out passage, so there is no text at rest beside it"
        return Unscored(scorer=SCORER, reason=reason)

    def _counted(self, items: Sequence[Passage]) -> list[Bool[np.ndarray, " token"]]:
        """Which tokens of each passage count: no control tokens."""
        return [self.held_out.sources[p.window, p.start : p.stop] for p in items]

    async def _answers(
        self, unit: Unit, description: Description, asked: Asked, items: Sequence[Passage]
    ) -> list[Float[np.ndarray, " token"]] | Failure:
        return await in_parts(items, partial(self._call, unit, description, asked), asked.size)

    async def _call(
        self, unit: Unit, description: Description, asked: Asked, items: Sequence[Passage]
    ) -> list[Float[np.ndarray, " token"]] | Failure:
        order = self.asker.order(unit, asked.repeat, len(items))
        answer = await self.asker.ask(self.question(unit, description, items, asked.purpose, asked.repeat))
        if isinstance(answer, Failure):
            return answer
        found: list[Float[np.ndarray, " token"]] = [np.zeros(0)] * len(items)
        for place, strengths in zip(order, answer.value, strict=True):
            found[int(place)] = strengths
        return found

    def question(
        self,
        unit: Unit,
        description: Description,
        items: Sequence[Passage],
        purpose: str = SCORER,
        repeat: int = 0,
    ) -> Question[list[Float[np.ndarray, " token"]]]:
        """The question about `items`, in the order of the repeat."""
        shown = [items[i] for i in self.asker.order(unit, repeat, len(items))]
        sizes = [len(p.shares) for p in shown]
        return Question(
            template="simulation",
            values={
                "looks_at": description.looks_at,
                "conditions": description.conditions,
                "items": [self._view(number, p) for number, p in enumerate(shown, 1)],
            },
            schema_name="strengths",
            schema=strengths_schema(sizes),
            parse=lambda reply: read_strengths(reply, sizes),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            unit=unit,
            repeat=repeat,
        )

    def _view(self, number: int, passage: Passage) -> dict[str, Any]:
        tokens = [self.strings[int(i)] for i in self.held_out.ids[passage.window, : passage.stop]]
        return {
            "item": number,
            "before": "".join(tokens[max(0, passage.start - BEFORE) : passage.start]),
            "tokens": [[place, token] for place, token in enumerate(tokens[passage.start :], 1)],
        }


class _Scoring:
    """From predictions to a score; one document a passage, resampled within its stratum."""

    def __init__(self, items: Sequence[Passage], counted: Sequence[Bool[np.ndarray, " token"]], seed: int) -> None:
        self._items, self._seed = items, seed
        self._keep = np.concatenate(list(counted))
        self._share = np.concatenate([np.array(p.shares) for p in items])[self._keep]
        self._weight = np.concatenate([np.full(len(p.shares), p.weight) for p in items])[self._keep]
        sizes = [len(p.shares) for p in items]
        self._passage = np.repeat(np.arange(len(items)), sizes)[self._keep]
        self._resamples = Resamples(_stratified(np.array([p.active for p in items]), seed))

    def score(
        self,
        said: list[Float[np.ndarray, " token"]],
        others: Mapping[str, list[list[Float[np.ndarray, " token"]]]],
        domain: str,
    ) -> Score:
        e = self._joined(said)
        value, spread = self._pearson(e)
        low, high = interval(spread)
        controls = [self._shuffled(e, value, spread)]
        for name, answers in others.items():
            found = [self._pearson(self._joined(answer)) for answer in answers]
            of, drawn = float(np.mean([v for v, _ in found])), np.mean([d for _, d in found], axis=0)
            controls.append(compared(name, value, of, spread - drawn))
        active = self._share >= ACTIVE
        n = len(self._items)
        return Score(
            scorer=SCORER, metric="pearson", domain=domain, value=value, low=low, high=high,
            n_items=len(e), n_docs=n, prevalence=float(self._weight @ active / self._weight.sum()), chance=0.0,
            controls=tuple(controls), state="" if n == N_ACTIVE + N_RESTING else "underpowered",
            details={
                "documents_with_positive": sum(p.active for p in self._items),
                "active_tokens": int(active.sum()),
                "predicted_active_tokens": int((e >= ACTIVE).sum()),
                "pearson_unweighted": self._unweighted(e),
                "se_items": items_error(spread),
            },
        )  # fmt: skip

    def _joined(self, said: list[Float[np.ndarray, " token"]]) -> Float[np.ndarray, " token"]:
        return np.asarray(np.concatenate(said)[self._keep] / MOST)

    def _pearson(self, e: Float[np.ndarray, " token"]) -> tuple[float, Float[np.ndarray, " resample"]]:
        sums = pearson_sums(e, self._share, self._weight, self._passage, len(self._items))
        return float(pearson_from_sums(sums.sum(0))), pearson_from_sums(self._resamples.totals(sums))

    def _unweighted(self, e: Float[np.ndarray, " token"]) -> float:
        """The correlation over the shown tokens as they are: a detail, as they are no sample of text."""
        sums = pearson_sums(e, self._share, np.ones(len(e)), self._passage, len(self._items))
        return float(pearson_from_sums(sums.sum(0)))

    def _shuffled(self, e: Float[np.ndarray, " token"], value: float, spread: np.ndarray) -> Control:
        rng = np.random.default_rng([self._seed, len(e)])
        found = [self._pearson(e[rng.permutation(len(e))]) for _ in range(SHUFFLES)]
        of, drawn = float(np.mean([v for v, _ in found])), np.mean([d for _, d in found], axis=0)
        return compared("predictions shuffled over the tokens", value, of, spread - drawn)


def _stratified(active: Bool[np.ndarray, " passage"], seed: int) -> Float[np.ndarray, "resample passage"]:
    """Counts of resamples that draw as many passages of each stratum as there are."""
    parts = [(np.flatnonzero(active == stratum), seed + number) for number, stratum in enumerate((True, False))]
    drawn = {number: (places, Resamples.of(len(places), number).counts) for places, number in parts if len(places)}
    counts = np.zeros((max(len(c) for _, c in drawn.values()), len(active)))
    for places, own in drawn.values():
        counts[:, places] = own
    return counts
