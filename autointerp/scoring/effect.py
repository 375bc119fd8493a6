"""Effect, read by an LLM: does the description predict what the head's write does to the next token's logits?

1. Up to ten held-out rows with destination, source and ten candidate tokens each (`effect_rows`).
2. One call, in which the LLM gives each candidate a number from -5 to 5 from `writes`.
3. Spearman rank correlation with the measured centred logit changes, mean over rows, chance 0; beside it the share of
   the five strongly changed candidates whose sign is right (0 is wrong), against the commoner sign.

What needs no LLM is in `effect_sign`.

Rows are documents, so the bootstrap is over rows. Gould et al. 2023; McDougall et al. 2023; scoring_validity rule 22.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from autointerp.records import Description, Failure, Score, Unit, Unscored
from autointerp.scoring.asking import Asked, Asker, Controls, Question, Reading, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.effect_rows import N_CANDIDATES, N_STRONG, EffectRow
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.agreement import items_error
from autointerp.stats.bootstrap import Estimate, Resamples, interval, ratio_interval

N_ROWS, MIN_ROWS, BEFORE, AROUND = 10, 5, 40, 3
MOST = 5  # numbers run from -MOST to MOST
MAX_TOKENS = 700

EffectItems = Sequence[EffectRow] | Unscored


@dataclass(frozen=True)
class Effect:
    """Asks the LLM; all settings change replies."""

    TEMPLATE: ClassVar[str] = "effect"
    UNIT: ClassVar[str] = "head"
    TOO_FEW: ClassVar[str] = "active held-out rows have one clear source"

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, unit: Unit, description: Description, controls: Controls, items: EffectItems
    ) -> Score | Unscored:
        """Rank correlation of one description on its rows; `controls` are other descriptions by name."""
        rows = self._rows(items)
        if isinstance(rows, Unscored):
            return rows
        if not description.writes.strip():
            return Unscored(scorer="effect", reason=f"the description does not say what the {self.UNIT} writes")
        said = await self._answers(unit, description, "effect", rows)
        if isinstance(said, Failure):
            return Unscored(scorer="effect", reason=said.reason)
        others = await answer_controls(controls, lambda d: self._answers(unit, d, "effect control", rows))
        if isinstance(others, Failure):
            return Unscored(scorer="effect", reason=others.reason)
        return _score(rows, np.array(said), others, self.held_out.domain, self.asker.seed)

    @property
    def calls(self) -> int:
        """How many askings of the rows the value is the mean of."""
        return 1

    async def read(self, unit: Unit, description: Description, items: EffectItems, asked: Asked) -> Reading | Failure:
        """One asking of the rows; e is the number of each candidate on a scale from 0 to 1, answers are signs."""
        once = partial(self._call, unit, description, asked)
        found = await in_parts(self.asked(items), once, asked.size)
        if isinstance(found, Failure):
            return found
        numbers = np.array(found).reshape(-1)
        return Reading((numbers + MOST) / (2 * MOST), (np.sign(numbers) + 1).astype(np.int64), len(found))

    def score_of(self, reading: Reading, items: EffectItems) -> Score:
        """The score of one reading, with the null that costs no call."""
        rows = self.asked(items)
        numbers = (2 * MOST * reading.e - MOST).reshape(len(rows), N_CANDIDATES)
        return _score(rows, np.round(numbers, 9), {}, self.held_out.domain, self.asker.seed)

    def asked(self, items: EffectItems) -> Sequence[EffectRow]:
        """Those of the rows that are asked about."""
        return () if isinstance(items, Unscored) else items[:N_ROWS]

    def lacks(self, items: EffectItems) -> Unscored | None:
        """Why these rows give no score, whatever is said of them."""
        rows = self._rows(items)
        return rows if isinstance(rows, Unscored) else None

    def _rows(self, items: EffectItems) -> Sequence[EffectRow] | Unscored:
        if isinstance(items, Unscored):
            return items
        if len(items) < MIN_ROWS:
            return Unscored(scorer="effect", reason=f"only {len(items)} {self.TOO_FEW}")
        return items[:N_ROWS]

    async def _answers(
        self, unit: Unit, description: Description, purpose: str, rows: Sequence[EffectRow]
    ) -> list[list[float]] | Failure:
        return await in_parts(rows, partial(self._call, unit, description, Asked(purpose)))

    async def _call(
        self, unit: Unit, description: Description, asked: Asked, rows: Sequence[EffectRow]
    ) -> list[list[float]] | Failure:
        order = self._order(unit, asked.repeat, len(rows))
        answer = await self.asker.ask(self.question(unit, description, rows, asked.purpose, asked.repeat))
        if isinstance(answer, Failure):
            return answer
        found: list[list[float]] = [[]] * len(rows)
        for place, numbers in zip(order, answer.value, strict=True):
            found[int(place)] = numbers
        return found

    def _order(self, unit: Unit, repeat: int, n: int) -> np.ndarray:
        """Rows are drawn in seeded order; only repeats shuffle them again."""
        return self.asker.order(unit, repeat, n) if repeat else np.arange(n)

    def question(
        self,
        unit: Unit,
        description: Description,
        rows: EffectItems,
        purpose: str = "effect",
        repeat: int = 0,
    ) -> Question[list[list[float]]]:
        """The question about the first N_ROWS of `rows`, in the order of the repeat."""
        shown = self.asked(rows)
        n = len(shown)
        views = [self._view(number, shown[i]) for number, i in enumerate(self._order(unit, repeat, n), 1)]
        return Question(
            template=self.TEMPLATE,
            values={
                "writes": description.writes,
                "looks_at": description.looks_at,
                "conditions": description.conditions,
                "items": views,
                "candidates": N_CANDIDATES,
            },
            schema_name="changes",
            schema=_schema(n),
            parse=lambda reply: read_changes(reply, n),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            unit=unit,
            repeat=repeat,
        )

    def _view(self, number: int, row: EffectRow) -> dict[str, Any]:
        tokens = [self.strings[int(i)] for i in self.held_out.ids[row.window, : row.dst + 1]]
        return {
            "item": number,
            "before": "".join(tokens[max(0, row.dst - BEFORE) : row.dst]),
            "dst": tokens[row.dst],
            "src": tokens[row.src],
            "distance": row.dst - row.src,
            "around": "".join(tokens[max(0, row.src - AROUND) : row.src + AROUND + 1]),
            "candidates": [self.strings[i] for i in row.candidates],
        }


def _schema(n: int) -> dict[str, Any]:
    number = {"type": "integer", "minimum": -MOST, "maximum": MOST}
    numbers = {"type": "array", "items": number, "minItems": N_CANDIDATES, "maxItems": N_CANDIDATES}
    names = [str(row) for row in range(1, n + 1)]
    rows = {
        "type": "object",
        "properties": {name: numbers for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}


def read_changes(reply: Mapping[str, Any], n: int) -> list[list[float]]:
    """The numbers of rows 1 to n. Raises ValueError for a row or number that is missing, too many or out of range."""
    rows = reply.get("rows")
    if isinstance(rows, list):  # weak models leave the numbers of the items away
        rows = {str(number): row for number, row in enumerate(rows, 1)}
    if not isinstance(rows, Mapping):
        raise ValueError(f"rows must hold an object with the numbers 1 to {n}, not {json.dumps(rows)[:40]}")
    wanted = [str(number) for number in range(1, n + 1)]
    if len(rows) != n or any(name not in rows for name in wanted):
        raise ValueError(f"rows must hold the numbers 1 to {n} and no other; {len(rows)} found")
    return [_numbers(name, rows[name]) for name in wanted]


def _numbers(name: str, row: object) -> list[float]:
    if not isinstance(row, list) or len(row) != N_CANDIDATES:
        found = len(row) if isinstance(row, list) else json.dumps(row)[:40]
        raise ValueError(f"row {name} must be a list of {N_CANDIDATES} numbers, one a candidate; found {found}")
    for value in row:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -MOST <= value <= MOST:  # NaN is in no range
            raise ValueError(f"row {name} holds {json.dumps(value)[:40]}, not a number from -{MOST} to {MOST}")
    return [float(value) for value in row]


def rank_correlations(
    said: Float[np.ndarray, "row candidate"], true: Float[np.ndarray, "row candidate"]
) -> Float[np.ndarray, " row"]:
    """Spearman's correlation of each row, ties at their mean rank; 0 where either never varies."""
    ranks = [np.stack([_ranks(row) for row in values]) for values in (said, true)]
    first, second = (values - values.mean(1, keepdims=True) for values in ranks)
    spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(spread > 0, (first * second).sum(1) / spread, 0.0))


def _ranks(values: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return np.asarray(below + (equal - 1) / 2)


def _score(
    rows: Sequence[EffectRow],
    said: Float[np.ndarray, "row candidate"],
    others: Mapping[str, list[list[list[float]]]],
    domain: str,
    seed: int,
) -> Score:
    true = np.array([row.changes for row in rows])
    resamples = Resamples.of(len(rows), seed)

    def drawn(correlations: Float[np.ndarray, " row"]) -> Float[np.ndarray, " resample"]:
        return np.asarray(resamples.counts @ correlations / len(rows))

    own = rank_correlations(said, true)
    value, spread = float(own.mean()), drawn(own)
    low, high = interval(spread)
    controls = [compared("chance line", value, 0.0, spread)]
    for name, answers in others.items():
        other = np.mean([rank_correlations(np.array(a), true) for a in answers], axis=0)
        controls.append(compared(name, value, float(other.mean()), spread - drawn(other)))
    return Score(
        scorer="effect", metric="spearman", domain=domain, value=value, low=low, high=high,
        n_items=len(rows) * N_CANDIDATES, n_docs=len(rows), prevalence=float((true > 0).mean()), chance=0.0,
        controls=tuple(controls), state="underpowered" if len(rows) < N_ROWS else "",
        details={
            "documents_with_positive": len(rows), **_signs(rows, said, true, resamples),
            "se_items": items_error(spread),
        },
    )  # fmt: skip


def _signs(
    rows: Sequence[EffectRow],
    said: Float[np.ndarray, "row candidate"],
    true: Float[np.ndarray, "row candidate"],
    resamples: Resamples,
) -> dict[str, float | int | str | None]:
    """Share of strongly changed candidates whose sign is right, and what always saying the commoner sign gives."""
    strong = np.array([row.strong for row in rows])
    right = (strong & (np.sign(said) == np.sign(true))).sum(1)
    share: Estimate = ratio_interval(right, strong.sum(1), resamples)
    up = float((true > 0)[strong].mean())
    return {
        "sign_share": share.value,
        "sign_low": share.low,
        "sign_high": share.high,
        "sign_chance": max(up, 1 - up),
        "strong_candidates": len(rows) * N_STRONG,
    }
