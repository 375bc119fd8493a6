"""Experiments with a unit on composed texts: its strength, an edit, the unit taken out, its direction added."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.agent.arguments import Edit, Places
from autointerp.agent.edits import both_texts
from autointerp.agent.feature_arguments import Steer
from autointerp.agent.feature_changes import without_unit
from autointerp.agent.feature_reading import FIRST, read_texts
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.next_tokens import moved
from autointerp.agent.plain import Plain, number, token
from autointerp.agent.reading import Fed, feed, padded
from autointerp.evidence.effects import kl_divergence
from autointerp.explain.feature_view import STRENGTH
from autointerp.feature_records import ACTIVE
from autointerp.model.one_position import run_whole
from autointerp.scoring.steering_directions import RANDOM, Directions, Job, SteeredRows

LogProbs = Float[Tensor, "part d_vocab"]


def activate(subject: FeatureSubject, asked: Places) -> Plain:
    """The unit's strength at each marked token."""
    return {"rows": [row.view() for row in read_texts(subject, _fed(subject, asked))]}


def edit(subject: FeatureSubject, asked: Edit) -> Plain:
    """The strength before and after."""
    before, after = read_texts(subject, both_texts(subject.model, asked))
    difference = max(after.share, 0.0) - max(before.share, 0.0)
    changed = {
        "strength": number(round(STRENGTH * difference, 3) + 0.0), "was_active": before.share >= ACTIVE,
        "is_active": after.share >= ACTIVE,
    }  # fmt: skip
    return {"before": before.view(), "after": after.view(), "changed": changed}


def ablate(subject: FeatureSubject, asked: Places) -> Plain:
    """Next tokens that lose and gain most, in probability, where the unit is at its mean."""
    rows = read_texts(subject, _fed(subject, asked))
    found: dict[int, Plain] = {}

    def read(numbers: Int[np.ndarray, " part"], before: LogProbs, after: LogProbs) -> None:
        kl = kl_divergence(before, after)
        for i, n in enumerate(numbers.tolist()):
            found[n] = {"kl": number(float(kl[i]))} | moved(subject.model.strings, before[i].exp(), after[i].exp())

    texts = [row.fed for row in rows]
    shares = np.array([row.share for row in rows], np.float32)
    without_unit(subject, padded(texts)[0], (np.arange(len(rows)), _dst(texts)), shares, read)
    shown = [{"at": row.view()["at"], "strength": row.view()["strength"]} | found[n] for n, row in enumerate(rows)]
    return {"unit": "[token, probability with the unit, without]", "rows": shown}


def steer(subject: FeatureSubject, asked: Steer) -> Plain:
    """Next tokens that rise and fall most where the unit's direction is added, and the KL of random directions that
    are as long in the residual stream."""
    texts, n = _fed(subject, asked), len(asked.texts)
    found: dict[int, Plain] = {}
    kls = np.zeros((1 + RANDOM) * n)

    def read(numbers: Int[np.ndarray, " part"], before: LogProbs, after: LogProbs) -> None:
        kls[numbers] = kl_divergence(before, after).double().cpu().numpy()
        for i, row in enumerate(numbers.tolist()):
            if row < n:  # the unit's own direction comes first
                names = "fall", "rise"
                found[row] = moved(subject.model.strings, before[i].exp(), after[i].exp(), names)

    places = SteeredRows(np.arange(n), _dst(texts), np.arange(n))
    jobs = [Job(subject.unit, places, k, float(asked.strength)) for k in range(1 + RANDOM)]
    directions = Directions(subject.reading, [subject.unit], subject.data.seed)
    run_whole(subject.model, padded(texts)[0], directions.additions(jobs), subject.data.batch_size, read)
    random = kls.reshape(-1, n)[1:].max(0)
    shown = [_steered(texts[row], kls[row], random[row], found[row]) for row in range(n)]
    return {"unit": "[token, probability before, after]", "rows": shown}


def _steered(text: Fed, kl: float, random: float, tokens: Plain) -> Plain:
    return {
        "at": token(text.tokens[text.dst]), "kl": number(kl), "kl_of_random_directions": number(random),
        "rise": tokens["rise"], "fall": tokens["fall"],
    } | ({} if text.dst else {"note": FIRST})  # fmt: skip


def _fed(subject: FeatureSubject, asked: Places) -> list[Fed]:
    return [feed(subject.model, place) for place in asked.texts]


def _dst(texts: list[Fed]) -> Int[np.ndarray, " text"]:
    return np.array([text.dst for text in texts])
