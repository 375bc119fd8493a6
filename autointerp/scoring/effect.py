"""Effect: does the description predict what the head's write does to the next token's logits?

With an LLM (`Effect`): 1. up to ten held-out rows with destination, source and ten candidate tokens each
(`effect_rows`); 2. one call, in which the LLM gives each candidate a number from -5 to 5 from `writes`; 3. Spearman
rank correlation with the measured centred logit changes, mean over rows, chance 0; beside it the share of the five
strongly changed candidates whose sign is right (0 is wrong), against the commoner sign.

Without one (`effect_without_llm`): a label that says what becomes of the attended token (copying, name_mover and
induction raise it, copy_suppression lowers it, successor raises the next of its list) gives the share of rows whose
sign is right, against tokens of like frequency in the same rows.

Rows are documents, so the bootstrap is over rows. Gould et al. 2023; McDougall et al. 2023; scoring_validity rule 22.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from autointerp.records import Description, Failure, Head, Score, Unscored
from autointerp.scoring.asking import Asker, Controls, Question, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.effect_rows import N_CANDIDATES, N_STRONG, Change, EffectRow
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.bootstrap import Estimate, Resamples, interval, ratio_interval

N_ROWS, MIN_ROWS, BEFORE, AROUND = 10, 5, 40, 3
MIN_SIGN_ROWS, ENOUGH_SIGN_ROWS = 10, 30
MOST = 5  # numbers run from -MOST to MOST
MAX_TOKENS = 700
SOURCE_UP, SOURCE_DOWN, SUCCESSOR_UP = "raises the source", "lowers the source", "raises the source's successor"
CLAIMED: dict[str, str] = {
    "copying": SOURCE_UP,
    "name_mover": SOURCE_UP,
    "induction": SOURCE_UP,
    "copy_suppression": SOURCE_DOWN,
    "successor": SUCCESSOR_UP,
}

EffectItems = Sequence[EffectRow] | Unscored


@dataclass(frozen=True)
class Effect:
    """Asks the LLM; all settings change replies."""

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, head: Head, description: Description, controls: Controls, items: EffectItems
    ) -> Score | Unscored:
        """Rank correlation of one description on its rows; `controls` are other descriptions by name."""
        rows = _rows(items)
        if isinstance(rows, Unscored):
            return rows
        if not description.writes.strip():
            return Unscored(scorer="effect", reason="the description does not say what the head writes")
        said = await self._answers(head, description, "effect", rows)
        if isinstance(said, Failure):
            return Unscored(scorer="effect", reason=said.reason)
        others = await answer_controls(controls, lambda d: self._answers(head, d, "effect control", rows))
        if isinstance(others, Failure):
            return Unscored(scorer="effect", reason=others.reason)
        return _score(rows, np.array(said), others, self.held_out.domain, self.asker.seed)

    def lacks(self, items: EffectItems) -> Unscored | None:
        """Why these rows give no score, whatever is said of them."""
        rows = _rows(items)
        return rows if isinstance(rows, Unscored) else None

    async def _answers(
        self, head: Head, description: Description, purpose: str, rows: Sequence[EffectRow]
    ) -> list[list[float]] | Failure:
        return await in_parts(rows, partial(self._call, head, description, purpose))

    async def _call(
        self, head: Head, description: Description, purpose: str, rows: Sequence[EffectRow]
    ) -> list[list[float]] | Failure:
        answer = await self.asker.ask(self.question(head, description, rows, purpose))
        return answer if isinstance(answer, Failure) else answer.value

    def question(
        self, head: Head, description: Description, rows: Sequence[EffectRow], purpose: str = "effect"
    ) -> Question[list[list[float]]]:
        """The question about the first N_ROWS of `rows`."""
        n = len(rows[:N_ROWS])
        return Question(
            template="effect",
            values={
                "writes": description.writes,
                "looks_at": description.looks_at,
                "conditions": description.conditions,
                "items": [self._view(number, row) for number, row in enumerate(rows[:N_ROWS], 1)],
                "candidates": N_CANDIDATES,
            },
            schema_name="changes",
            schema=_schema(n),
            parse=lambda reply: read_changes(reply, n),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            head=head,
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


def _rows(items: EffectItems) -> Sequence[EffectRow] | Unscored:
    if isinstance(items, Unscored):
        return items
    if len(items) < MIN_ROWS:
        return Unscored(scorer="effect", reason=f"only {len(items)} active held-out rows have one clear source")
    return items[:N_ROWS]


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
        details={"documents_with_positive": len(rows), **_signs(rows, said, true, resamples)},
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


def claimed_effect(description: Description) -> str | None:
    """What the labels say of the attended token's logit; None where they say nothing."""
    labels = (description.label, *description.labels)
    return next((CLAIMED[label] for label in labels if label in CLAIMED), None)


def effect_without_llm(description: Description, items: EffectItems, domain: str, seed: int) -> Score | Unscored:
    """Share of held-out rows in which the labels' claim about the attended token has the right sign."""
    claim = claimed_effect(description)
    if claim is None:
        return _no_sign(f"label {description.label!r} says nothing of the attended token's logit")
    if isinstance(items, Unscored):
        return _no_sign(items.reason)
    changes = [change for row in items if (change := _claimed_change(claim, row)) is not None]
    if len(changes) < MIN_SIGN_ROWS:
        return _no_sign(f"only {len(changes)} active held-out rows have one clear source that the claim is about")
    direction = -1.0 if claim == SOURCE_DOWN else 1.0
    right = np.array([float(direction * change.value > 0) for change in changes])
    like = np.array([np.mean([direction * value > 0 for value in change.matched]) for change in changes])
    resamples = Resamples.of(len(changes), seed)
    share = ratio_interval(right, np.ones(len(changes)), resamples)
    difference = resamples.counts @ (right - like) / len(changes)
    chance = float(like.mean())
    return Score(
        scorer="effect_sign", metric="sign_share", domain=domain, value=share.value, low=share.low, high=share.high,
        n_items=len(changes), n_docs=len(changes), prevalence=chance, chance=chance,
        controls=(compared("tokens of like frequency", share.value, chance, difference),),
        state="underpowered" if len(changes) < ENOUGH_SIGN_ROWS else "",
        details={
            "claim": claim, "mean_change": float(np.mean([change.value for change in changes])),
            "documents_with_positive": len(changes),
        },
    )  # fmt: skip


def _claimed_change(claim: str, row: EffectRow) -> Change | None:
    return row.successor if claim == SUCCESSOR_UP else row.source


def _no_sign(reason: str) -> Unscored:
    return Unscored(scorer="effect_sign", reason=reason)
