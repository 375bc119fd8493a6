"""What scoring neurons and latents reads: held-out windows of text, explain windows, and units read on a twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from autointerp.evidence.collect import first_windows
from autointerp.pipeline.inputs import Inputs
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.token_identity import ExplainRows

TEST_TOKENS, SELECT_TOKENS, LEARN_TOKENS = 120_000, 60_000, 120_000


def held_out_text(inputs: Inputs, split: Literal["select", "test"]) -> HeldOutRows:
    """Windows of a held-out split, one a document first, as many as its share of tokens allows. Near-duplicates are
    one document of the bootstrap."""
    held_out = inputs.corpus.held_out(split)
    limit = _windows(inputs, TEST_TOKENS if split == "test" else SELECT_TOKENS)
    clusters = np.asarray(inputs.corpus.cluster)[np.asarray(inputs.corpus.doc)[held_out.windows]]
    batch = held_out.batch(held_out.windows[first_windows(clusters, limit)])
    documents = np.asarray(inputs.corpus.cluster)[batch.doc]
    return text_rows(batch.ids, batch.lengths, documents, split, inputs.model.special_ids)


def explain_text(inputs: Inputs) -> ExplainRows:
    """Explain windows, one a document first, for rivals that learn."""
    explain = inputs.explain_windows()
    chosen = first_windows(explain.cluster[explain.numbers], _windows(inputs, LEARN_TOKENS))
    numbers = explain.numbers[chosen]
    return ExplainRows(np.asarray(explain.windows.ids[numbers]), np.asarray(explain.windows.lengths[numbers]))


def _windows(inputs: Inputs, tokens: int) -> int:
    return max(1, tokens // inputs.corpus.spec.context)


@dataclass(frozen=True)
class FeatureRows:
    """All rows that scoring reads: two held-out splits, and explain windows for what learns."""

    select: HeldOutRows
    test: HeldOutRows
    explain: ExplainRows


def feature_rows(inputs: Inputs) -> FeatureRows:
    """The rows of a run."""
    return FeatureRows(held_out_text(inputs, "select"), held_out_text(inputs, "test"), explain_text(inputs))
