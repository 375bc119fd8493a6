"""Effect without an LLM: does the attended token gain or lose what the labels say?

A label that says what becomes of the attended token (copying, name_mover and induction raise it, copy_suppression
lowers it, successor raises the next of its list) gives the share of held-out rows whose sign is right, against tokens
of like frequency in the same rows. Rows are documents, so the bootstrap is over rows.
Gould et al. 2023; McDougall et al. 2023; scoring_validity rule 22.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.records import Description, Score, Unscored
from autointerp.scoring.controls import compared
from autointerp.scoring.effect_rows import Change, EffectRow
from autointerp.stats.bootstrap import Resamples, ratio_interval

MIN_SIGN_ROWS, ENOUGH_SIGN_ROWS = 10, 30
SOURCE_UP, SOURCE_DOWN, SUCCESSOR_UP = "raises the source", "lowers the source", "raises the source's successor"
CLAIMED: dict[str, str] = {
    "copying": SOURCE_UP,
    "name_mover": SOURCE_UP,
    "induction": SOURCE_UP,
    "copy_suppression": SOURCE_DOWN,
    "successor": SUCCESSOR_UP,
}


def claimed_effect(description: Description) -> str | None:
    """What the labels say of the attended token's logit; None where they say nothing."""
    labels = (description.label, *description.labels)
    return next((CLAIMED[label] for label in labels if label in CLAIMED), None)


def effect_without_llm(
    description: Description, items: Sequence[EffectRow] | Unscored, domain: str, seed: int
) -> Score | Unscored:
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
