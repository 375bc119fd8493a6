"""The head under study and what one run shares between all heads: rows to read, means, the way to read writes.

Rows come from the explain and the select split. There is no field for test rows, and rows of the test split are
refused: what the agent has seen must not be what it is judged on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from autointerp.agent.kept import Kept
from autointerp.agent.picking import token_id
from autointerp.errors import BadInput, ModelError
from autointerp.lenses.head_readings import HeadReader
from autointerp.model import LanguageModel, Readout
from autointerp.predicate import TokenTable
from autointerp.records import Domain, Evidence, Head
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.token_identity import ExplainRows

READOUT_WINDOWS = 4  # that the final norm is fitted on


@dataclass(frozen=True)
class Output:
    """How writes are read as logits: the readout, and the final norm's usual scale for what has no row of its own."""

    readout: Readout
    scale: float


@dataclass(frozen=True, eq=False)
class LabData:
    """What the laboratories of one run share. Build it with `of`.

    `explain`: windows of the explain split · `select`: rows of the select split by domain · `z_mean`: mean z of the
    explain split `[layer head d_head]` · `output`: None where the model's writes cannot be read as logits ·
    `reader`: a lens with SelfIE, where it is wanted · `kept`: what was read of heads, in bounded memory.
    """

    explain: ExplainRows
    select: Mapping[Domain, HeldOutRows]
    z_mean: Float[np.ndarray, "layer head d_head"]
    table: TokenTable
    output: Output | None
    seed: int = 0
    batch_size: int = 8
    reader: HeadReader | None = field(default=None, repr=False)
    kept: Kept = field(init=False, default_factory=Kept, repr=False)  # of these rows: never of a copy with others

    def __post_init__(self) -> None:
        wrong = [rows.split for rows in self.select.values() if rows.split != "select"]
        if wrong:
            raise BadInput(f"rows of the {wrong[0]} split for an experiment; give rows of the select split only.")

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        explain: ExplainRows,
        select: Mapping[Domain, HeldOutRows],
        z_mean: Float[np.ndarray, "layer head d_head"],
        *,
        seed: int = 0,
        batch_size: int = 8,
        reader: HeadReader | None = None,
    ) -> LabData:
        """With the token table of the model and a readout fitted on a few explain windows. Raises BadInput for rows of
        another split, or without an explain window."""
        if not len(explain.ids):
            raise BadInput("0 explain windows for the experiments; give at least one.")
        table = TokenTable.from_strings(model.strings, model.special_ids)
        output = _output(model, explain.ids, explain.lengths)
        return cls(explain, select, z_mean, table, output, seed, batch_size, reader)


def _output(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], lengths: Int[np.ndarray, " window"]
) -> Output | None:
    longest = np.argsort(-lengths, kind="stable")[:READOUT_WINDOWS]
    fed = model.to_ids(ids[longest, : int(lengths[longest].min())])
    try:
        readout = Readout.of(model, fed)
    except ModelError:
        return None
    residual = model.final_states(fed)[0][:, 1:].float()
    return Output(readout, float(readout.scale(residual.reshape(-1, residual.shape[-1])).median()))


@dataclass(frozen=True, eq=False)
class Subject:
    """One head of a model, with its evidence and the run's data."""

    model: LanguageModel
    head: Head
    evidence: Evidence
    data: LabData

    @property
    def z_mean(self) -> Float[np.ndarray, " d_head"]:
        return np.asarray(self.data.z_mean[self.head.layer, self.head.index], np.float32)

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose: an answer does not depend on what was asked before."""
        return np.random.default_rng([self.data.seed, self.head.layer, self.head.index, purpose])

    def token_id(self, text: str) -> int:
        """The vocabulary id of a token, the usual one of two spellings. Raises BadInput."""
        return token_id(self.model, self.data.explain.ids, text)
