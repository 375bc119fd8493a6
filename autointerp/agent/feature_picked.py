"""Rows of real text from the explain split: where a unit is most active, any, or at rest, under a filter.

1. The unit's shares are read once on the first explain windows (a bounded number of tokens), with its group.
2. Top rows: by activation, one a window first. Random rows: seeded. Contrast rows: the unit rests on a token at which
   it is active elsewhere.
3. The chosen rows are run with the unit at its mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from autointerp.agent.feature_arguments import UnitRows
from autointerp.agent.feature_changes import Places, without_unit
from autointerp.agent.feature_reading import strength
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.picking import in_turns, tokens_reading
from autointerp.agent.plain import Plain, ending, number
from autointerp.errors import BadInput
from autointerp.evidence.effects import kl_divergence
from autointerp.feature_records import ACTIVE, RESTING
from autointerp.predicate import evaluate_positions, parse_positional

PURPOSE = 1
SHOWN = 60


@dataclass(frozen=True, eq=False)
class Survey:
    """The unit on the explain rows: which places are rows, and its shares, negative ones as 0."""

    rows: Bool[np.ndarray, "window pos"]
    shares: Float32[np.ndarray, "window pos"]

    @classmethod
    def of(cls, subject: FeatureSubject) -> Survey:
        """From the shares that are kept for its group. Raises BadInput without a row."""
        rows = subject.explain_places()
        if not rows.any():
            raise BadInput("there are no rows of text to look at; compose texts")
        return cls(rows, np.maximum(subject.shares("explain"), 0))


def find_rows(subject: FeatureSubject, asked: UnitRows) -> Plain:
    """Rows of the kind under the filter, with how many there are."""
    survey = Survey.of(subject)
    kept = _filtered(subject, survey, asked)
    window, dst = np.nonzero(kept)
    found: Plain = {"matching": len(window), "of": int(survey.rows.sum())}
    if not len(window):
        return found | {"rows": []}
    shares = survey.shares[window, dst]
    order = np.argsort(-shares, kind="stable") if asked.kind == "top" else subject.rng(PURPOSE).permutation(len(window))
    chosen = in_turns(order, window)[: asked.n]
    everywhere = np.sort(survey.shares[survey.rows])
    lost = _lost(subject, (window[chosen], dst[chosen]))
    shown = []
    for i, (kl, log_prob) in zip(chosen.tolist(), lost, strict=True):
        below = np.searchsorted(everywhere, shares[i]) / max(1, len(everywhere) - 1)  # of the others
        tokens = subject.strings_of(subject.data.explain_rows.ids[window[i], : dst[i] + 1])
        shown.append({
            "text": ending(tokens, int(dst[i]), SHOWN, bos=subject.model.bos_id is not None),
            "strength": strength(float(shares[i])),
            "activation_percentile": number(100 * below), "kl_without": number(kl), "lost_log_prob": log_prob,
        })  # fmt: skip
    return found | {"rows": shown}


def _filtered(subject: FeatureSubject, survey: Survey, asked: UnitRows) -> Bool[np.ndarray, "window pos"]:
    rows, kept = subject.data.explain_rows, survey.rows.copy()
    if asked.token:
        kept &= np.isin(rows.ids, tokens_reading(subject.model.strings, asked.token))
    if asked.predicate:
        named = evaluate_positions(parse_positional(asked.predicate), rows.ids, rows.lengths, subject.data.table)
        kept &= named == asked.holds
    if asked.kind == "contrast":
        active = survey.rows & (survey.shares >= ACTIVE)
        kept &= (survey.shares <= RESTING) & np.isin(rows.ids, np.unique(rows.ids[active]))
    return kept


def _lost(subject: FeatureSubject, places: Places) -> list[tuple[float, float | None]]:
    """Of each place, the KL without the unit and what the next token's log probability loses; None at the end. What is
    taken out is the activation as it is, also where it is negative and shown as 0."""
    rows, (window, dst) = subject.data.explain_rows, places
    shares = subject.shares("explain")[window, dst]
    found: dict[int, tuple[float, float | None]] = {}

    def read(
        numbers: Int[np.ndarray, " part"], before: Float[Tensor, "part d_vocab"], after: Float[Tensor, "part d_vocab"]
    ) -> None:
        kl = kl_divergence(before, after)
        for i, n in enumerate(numbers.tolist()):
            following = int(dst[n]) + 1
            lost = None
            if following < rows.lengths[window[n]]:
                token = int(rows.ids[window[n], following])
                lost = number(float(before[i, token] - after[i, token]))
            found[n] = float(kl[i]), lost

    without_unit(subject, rows.ids, places, shares, read)
    return [found[n] for n in range(len(dst))]
