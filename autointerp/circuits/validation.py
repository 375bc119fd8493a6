"""What heads do outside the task: positional scores on repeated random tokens, copying and successors from weights.

The measures are those of `evidence` (attention_evidence section 6), here for all heads side by side with ranks: a head
that path patching calls an induction head should be one on text that has nothing to do with the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from autointerp.errors import BadInput
from autointerp.evidence.detector_data import repeat_length, repeated_rows
from autointerp.evidence.detector_measure import measure_repeats
from autointerp.evidence.detector_output import Vocabulary, measure_copying, measure_successor
from autointerp.model import LanguageModel, Readout
from autointerp.predicate.tokens import TokenTable
from autointerp.records import Head

ON_REPEATS = ("previous_token", "duplicate_token", "induction")
LENGTH, ROWS = 100, 20


@dataclass(frozen=True, eq=False)
class HeadValidation:
    """`values[name] [head]`, layer by layer; NaN where a measure is not defined (copying at layer 0). `length`: of a
    repeat."""

    heads: tuple[Head, ...]
    values: Mapping[str, Float64[np.ndarray, " head"]]
    length: int
    n_rows: int
    seed: int

    def rank(self, name: str, head: Head) -> int:
        """1 for the head with the highest value; heads without one come last."""
        values = np.nan_to_num(self.values[name], nan=-np.inf)
        return int((values > values[self.heads.index(head)]).sum()) + 1

    def top(self, name: str, n: int) -> list[Head]:
        order = np.argsort(-np.nan_to_num(self.values[name], nan=-np.inf), kind="stable")
        return [self.heads[k] for k in order[:n] if np.isfinite(self.values[name][k])]


def validate_heads(
    model: LanguageModel, pool: Int[np.ndarray, " token"], length: int = LENGTH, n_rows: int = ROWS, seed: int = 0
) -> HeadValidation:
    """`pool`: ordinary ids, most frequent first (`evidence.detector_data.ordinary_pool`).

    Scores on `n_rows` rows of `length` distinct random ids, written twice; copying, anti_copying and successor from
    parameters. Raises BadInput for a pool or a context of fewer than 4 ids.
    """
    found_length = repeat_length(length, model.n_ctx, len(pool), model.bos_id)
    if found_length < 4:
        raise BadInput(f"{len(pool)} ids and a context of {model.n_ctx} give no repeat of 4 tokens. Give more ids.")
    ids = repeated_rows(pool, found_length, n_rows, seed, model.bos_id)
    measured = measure_repeats(model, ids, found_length, ON_REPEATS)
    values = {name: measured[name].value.mean(0) for name in ON_REPEATS}
    table = TokenTable.from_strings(model.strings, model.special_ids)
    words = Vocabulary.of(model.strings, pool, table.flags["is_word"], model.bos_id)
    readout = Readout.of(model, model.to_ids(ids[:4]))
    weights = {**measure_copying(model, readout, words), **measure_successor(model, readout, words, seed)}
    for name in ("copying", "anti_copying", "successor"):
        if name in weights:
            with np.errstate(invalid="ignore"):
                values[name] = weights[name].value.mean(0)
    heads = tuple(Head(layer=n, index=h) for n in range(model.n_layers) for h in range(model.n_heads))
    return HeadValidation(heads, values, found_length, n_rows, seed)
