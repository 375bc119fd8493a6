"""Rows of real text from the explain split: most active, any, or resting ones, under a filter.

1. One pass over explain windows (a bounded number of tokens) keeps, for every row of the head, its activity, its mass
   off the first position and its strongest source.
2. Top rows: by activity, one a window. Random rows: seeded. Contrast rows: the head rests (`evidence.selection`) where
   the destination token is one of those of active rows.
3. The chosen rows are read in full, as composed texts are, and ablated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from autointerp.agent.arguments import Rows
from autointerp.agent.picking import in_turns, tokens_reading
from autointerp.agent.plain import Plain, ending, number
from autointerp.agent.reading import Fed, ReadRow, read_rows
from autointerp.agent.requests import EXPLAIN_TOKENS
from autointerp.agent.subject import Subject
from autointerp.errors import BadInput
from autointerp.evidence.effects import RowPlace, row_effects
from autointerp.evidence.pairs import row_pairs
from autointerp.evidence.rows import Masks, OutputGeometry, write_norms
from autointerp.evidence.selection import REST_MASS
from autointerp.model import Layer
from autointerp.model.read_up_to import read_up_to
from autointerp.predicate import evaluate, parse

ACTIVE, RESTING = 0.75, 0.1  # quantiles of activity
CHUNK = 16
PURPOSE = 1
SHOWN = 60


@dataclass(frozen=True, eq=False)
class Survey:
    """Every row of the head on explain windows; `top` is the strongest source, -1 where there is none."""

    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    rows: Bool[np.ndarray, "window pos"]
    activity: Float[np.ndarray, "window pos"]
    mass: Float[np.ndarray, "window pos"]
    top: Int[np.ndarray, "window pos"]

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        arrays = (self.ids, self.lengths, self.rows, self.activity, self.mass, self.top)
        return sum(int(array.nbytes) for array in arrays)

    @classmethod
    def of(cls, subject: Subject) -> Survey:
        """One forward over the windows."""
        model, data, head = subject.model, subject.data, subject.head
        n = max(1, EXPLAIN_TOKENS // data.explain.ids.shape[1])
        ids, lengths = np.asarray(data.explain.ids[:n], np.int64), np.asarray(data.explain.lengths[:n], np.int64)
        geometry = OutputGeometry.of(model, head.layer)
        kept: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(ids), data.batch_size):
            part = slice(start, start + data.batch_size)
            fed = model.to_ids(ids[part])
            masks = Masks.of(fed, torch.as_tensor(lengths[part], device=fed.device), model.special_ids)

            def keep(layer: Layer, masks: Masks = masks) -> None:
                norms = write_norms(model, layer, geometry)[:, head.index]
                every = torch.arange(norms.shape[1], device=norms.device)
                for row, pattern in enumerate(layer.pattern[:, head.index].float()):
                    pairs = row_pairs(pattern, norms[row], masks.allowed[row], every)
                    contribution = torch.where(pairs.allowed, pairs.contribution, -1.0)
                    top = torch.where(pairs.n_allowed > 0, contribution.argmax(-1), -1)
                    found = (masks.rows[row], pairs.activity, pairs.mass, top)
                    kept.append(tuple(t.cpu().numpy() for t in found))

            read_up_to(model, fed, [head.layer], keep)
        rows, activity, mass, top = (np.stack(part) for part in zip(*kept, strict=True))
        if not rows.any():
            raise BadInput("there are no rows of text to look at; compose texts")
        return cls(ids, lengths, rows, activity, mass, top)


def find_rows(subject: Subject, survey: Survey, asked: Rows) -> Plain:
    """Rows of the kind under the filter, with how many there are."""
    kept = _filtered(subject, survey, asked)
    if asked.kind == "contrast":
        kept = kept & _resting(survey)
    window, dst = np.nonzero(kept)
    if not len(window):
        return {"matching": 0, "of": int(survey.rows.sum()), "rows": []}
    chosen = _ordered(subject, survey, asked, window, dst)[: asked.n]
    fed = [_fed(subject, survey, int(window[i]), int(dst[i])) for i in chosen]
    ablated = row_effects(
        subject.model,
        [RowPlace(subject.head, tuple(f.ids[: f.dst + 1].tolist()), None) for f in fed],
        subject.data.z_mean,
        subject.data.batch_size,
    )
    activities = np.sort(survey.activity[survey.rows])
    shown = []
    for i, row, effect in zip(chosen, read_rows(subject, fed), ablated, strict=True):
        place = np.searchsorted(activities, survey.activity[window[i], dst[i]], side="right") / len(activities)
        view = _shown(row, bos=subject.model.bos_id is not None)
        shown.append(view | {"activity_percentile": number(100 * place), "kl_without": number(effect.kl)})
    return {"matching": len(window), "of": int(survey.rows.sum()), "rows": shown}


def _fed(subject: Subject, survey: Survey, window: int, dst: int) -> Fed:
    ids = survey.ids[window, : survey.lengths[window]]
    return Fed(ids, dst, tuple(subject.model.strings[i] for i in ids.tolist()))


def _shown(row: ReadRow, *, bos: bool) -> Plain:
    view = row.view(2)
    view.pop("at")
    return {"text": ending(row.fed.tokens, row.fed.dst, SHOWN, bos=bos)} | view


def _filtered(subject: Subject, survey: Survey, asked: Rows) -> Bool[np.ndarray, "window pos"]:
    kept = survey.rows.copy()
    if asked.dst:
        kept &= np.isin(survey.ids, tokens_reading(subject.model.strings, asked.dst))
    distance = np.arange(survey.ids.shape[1]) - survey.top
    if asked.src or asked.predicate or asked.min_distance > 0 or asked.max_distance < survey.ids.shape[1]:
        kept &= (survey.top >= 0) & (distance >= asked.min_distance) & (distance <= asked.max_distance)
    if asked.src:
        sources = np.take_along_axis(survey.ids, np.maximum(survey.top, 0), axis=1)
        kept &= np.isin(sources, tokens_reading(subject.model.strings, asked.src))
    if asked.predicate:
        kept &= _named(subject, survey, asked.predicate) == asked.holds
    return kept


def _named(subject: Subject, survey: Survey, predicate: str) -> Bool[np.ndarray, "window pos"]:
    """Whether the predicate names each row's strongest source."""
    parsed = parse(predicate)
    found = np.zeros(survey.rows.shape, bool)
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        holds = evaluate(parsed, survey.ids[part], survey.lengths[part], subject.data.table)
        found[part] = np.take_along_axis(holds, np.maximum(survey.top[part], 0)[..., None], axis=2)[..., 0]
    return found & (survey.top >= 0)


def _resting(survey: Survey) -> Bool[np.ndarray, "window pos"]:
    """Rows at rest whose destination token is one of an active row's."""
    low, high = np.quantile(survey.activity[survey.rows], [RESTING, ACTIVE])
    rests = (survey.mass < REST_MASS) | (survey.activity < low)
    active = survey.rows & (survey.activity > max(high, 0.0)) & ~rests
    return np.asarray(rests & np.isin(survey.ids, np.unique(survey.ids[active])))


def _ordered(
    subject: Subject, survey: Survey, asked: Rows, window: Int[np.ndarray, " row"], dst: Int[np.ndarray, " row"]
) -> Int[np.ndarray, " row"]:
    """Numbers of the rows, the best first, a first one of every window before any second one."""
    order = subject.rng(PURPOSE).permutation(len(window))
    if asked.kind == "top":
        order = np.argsort(-survey.activity[window, dst], kind="stable")
    return in_turns(order, window)
