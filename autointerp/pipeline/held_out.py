"""Held-out rows of a run: test and select windows of text, and fresh repeated random tokens."""

from __future__ import annotations

from typing import Literal

import numpy as np

from autointerp.evidence.collect import first_windows
from autointerp.evidence.detector_data import repeat_length, repeated_rows
from autointerp.model import LanguageModel
from autointerp.pipeline.inputs import Inputs
from autointerp.records import Domain
from autointerp.scoring.held_out import HeldOutRows, repeat_rows, text_rows
from autointerp.scoring.suite import HeldOut
from autointerp.scoring.token_identity import ExplainRows

TEST_PAIRS, SELECT_PAIRS, LEARN_PAIRS = 1_200_000, 500_000, 2_400_000
MIN_WINDOWS = 40
REPEATS, PERIOD = 60, 50
ABLATION_WINDOWS = 48
# The detectors draw their repeats from the run's seed itself; held-out repeats must be others.
SPLIT_SEEDS: dict[str, int] = {"select": 7001, "test": 9001}


def held_out_rows(inputs: Inputs, pool: np.ndarray, seed: int) -> HeldOut:
    """Select and test rows of both domains; repeats only where the pool allows them."""
    splits: dict[str, dict[Domain, HeldOutRows]] = {}
    for split in ("select", "test"):
        splits[split] = {"text": _text(inputs, split)}
        repeats = _repeats(inputs.model, pool, seed, split)
        if repeats is not None:
            splits[split]["repeats"] = repeats
    return HeldOut(select=splits["select"], test=splits["test"])


def ablation_rows(held_out: HeldOut) -> dict[Domain, HeldOutRows]:
    """A part of the test rows for ablation, one window a document first."""
    return {
        domain: rows.take(first_windows(rows.documents, ABLATION_WINDOWS)) for domain, rows in held_out.test.items()
    }


def explain_rows(inputs: Inputs) -> ExplainRows:
    """Explain windows, one a document first, for rivals that learn."""
    explain = inputs.explain_windows()
    context = inputs.corpus.spec.context
    limit = max(MIN_WINDOWS, LEARN_PAIRS // (context * (context + 1) // 2))
    numbers = explain.numbers[first_windows(explain.cluster[explain.numbers], limit)]
    return ExplainRows(np.asarray(explain.windows.ids[numbers]), np.asarray(explain.windows.lengths[numbers]))


def _text(inputs: Inputs, split: Literal["select", "test"]) -> HeldOutRows:
    held_out = inputs.corpus.held_out(split)
    context = inputs.corpus.spec.context
    pairs = TEST_PAIRS if split == "test" else SELECT_PAIRS
    limit = max(MIN_WINDOWS, pairs // (context * (context + 1) // 2))
    clusters = np.asarray(inputs.corpus.cluster)[np.asarray(inputs.corpus.doc)[held_out.windows]]
    numbers = held_out.windows[first_windows(clusters, limit)]
    batch = held_out.batch(numbers)
    documents = np.asarray(inputs.corpus.cluster)[batch.doc]
    return text_rows(batch.ids, batch.lengths, documents, split, inputs.model.special_ids)


def _repeats(model: LanguageModel, pool: np.ndarray, seed: int, split: Literal["select", "test"]) -> HeldOutRows | None:
    period = repeat_length(PERIOD, model.n_ctx, len(pool), model.bos_id)
    if period < 2:
        return None
    ids = repeated_rows(pool, period, REPEATS, seed + SPLIT_SEEDS[split], model.bos_id)
    return repeat_rows(ids, period, split)
