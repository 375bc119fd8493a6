"""The claim that a head rests on the first position: scored with the sink kept, against the always-yes line.

A pair is positive where the attention is >= .3 and negative where it is <= .02; the claim predicts source 0 of every
row. It has its own name and stays out of the mean margin (scoring_validity rule 11).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64

from autointerp.model import LanguageModel, Layer
from autointerp.records import Head, Score, Unscored
from autointerp.scoring.controls import compared
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.random_weights import random_control
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW
from autointerp.stats.bootstrap import Draws, Resamples, interval

QUANTITIES = ("tp", "fp", "positives", "negatives", "sink", "rows")


def tally_first_token(
    model: LanguageModel, held_out: HeldOutRows, batch_size: int
) -> Float64[np.ndarray, "quantity layer head doc"]:
    """Counts by document for all heads, in the order of QUANTITIES."""
    sums = np.zeros((len(QUANTITIES), model.n_layers, model.n_heads, held_out.n_documents))
    for start in range(0, len(held_out.ids), batch_size):
        part = slice(start, start + batch_size)
        rows = torch.as_tensor(held_out.rows[part], device=model.device)

        def keep(layer: Layer, rows: torch.Tensor = rows, start: int = start) -> None:
            pattern = layer.pattern.float() * rows[:, None, :, None]
            sink = pattern[..., 0]
            size = pattern.shape[-1]
            causal = torch.ones(size, size, dtype=torch.bool, device=pattern.device).tril() & rows[:, None, :, None]
            parts = [
                (sink >= THETA_HIGH).sum(-1),
                ((sink <= THETA_LOW) & rows[:, None]).sum(-1),
                (pattern >= THETA_HIGH).sum((-1, -2)),
                ((pattern <= THETA_LOW) & causal).sum((-1, -2)),
                sink.sum(-1),
                rows.sum(-1)[:, None].expand(sink.shape[:2]),
            ]
            values = torch.stack([p.double() for p in parts]).cpu().numpy()
            for i in range(values.shape[1]):
                sums[:, layer.index, :, held_out.documents[start + i]] += values[:, i]

        model.read_attention(model.to_ids(held_out.ids[part]), list(range(model.n_layers)), keep)
    return sums


def score_first_token(
    sums: Float64[np.ndarray, "quantity layer head doc"],
    head: Head,
    resamples: Resamples,
    domain: str,
    random: Float64[np.ndarray, "quantity layer head doc"] | None = None,
) -> Score | Unscored:
    """F1 of "source 0 in every row" on one head; `random`: the counts on a model with random weights, a null."""
    by_document = dict(zip(QUANTITIES, sums[:, head.layer, head.index], strict=True))
    documents = int((by_document["positives"] > 0).sum())
    if documents == 0:
        return Unscored(scorer="first_token", reason="no source reaches an attention of .3 in any held-out row")
    totals = {name: np.array([values.sum()]) for name, values in by_document.items()}
    (value, spread), (chance, line) = _f1_and_always(by_document, resamples)
    low, high = interval(spread)
    nulls = [compared("chance line", value, chance, spread - line)]
    if random is not None:
        there = dict(zip(QUANTITIES, random[:, head.layer, head.index], strict=True))
        (reached, reached_drawn), (always, always_drawn) = _f1_and_always(there, resamples)
        gained = reached - always, reached_drawn - always_drawn
        nulls.append(random_control((value, spread), (chance, line), gained))
    return Score(
        scorer="first_token", metric="f1", domain=domain, value=value, low=low, high=high,
        n_items=int(totals["positives"][0] + totals["negatives"][0]), n_docs=int((by_document["rows"] > 0).sum()),
        prevalence=float(totals["positives"][0] / (totals["positives"][0] + totals["negatives"][0])), chance=chance,
        controls=tuple(nulls), state="" if documents >= 30 else "underpowered",
        details={
            "coverage": float(totals["sink"][0] / max(totals["rows"][0], 1.0)), "sink_kept": "yes",
            "documents_with_positive": documents,
        },
    )  # fmt: skip


def _f1_and_always(
    by_document: dict[str, np.ndarray], resamples: Resamples
) -> tuple[tuple[float, Draws], tuple[float, Draws]]:
    """The claim's F1 and the always-yes line, each as a point and resampled."""
    totals = {name: np.array([values.sum()]) for name, values in by_document.items()}
    drawn = {name: resamples.counts @ values for name, values in by_document.items()}
    return (float(_f1(totals)[0]), _f1(drawn)), (float(_always(totals)[0]), _always(drawn))


def _f1(sums: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(2 * sums["tp"] / np.maximum(sums["tp"] + sums["fp"] + sums["positives"], 1e-12))


def _always(sums: dict[str, np.ndarray]) -> np.ndarray:
    share = sums["positives"] / np.maximum(sums["positives"] + sums["negatives"], 1e-12)
    return np.asarray(2 * share / (1 + share))
