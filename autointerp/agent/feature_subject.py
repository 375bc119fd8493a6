"""The neuron or latent under study and what one run shares between all of its units.

Activations of real rows are read for many units at once: a run has thousands of units, and each is scored. A pass over
the rows of a split reads the group of wanted units around the one that is asked for, as many as CELLS allows; groups
are kept in bounded memory. Rows are of the explain and the select split: test rows are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from autointerp.agent.kept import Kept
from autointerp.agent.picking import token_id
from autointerp.agent.requests import EXPLAIN_TOKENS, LEARN_TOKENS
from autointerp.agent.trials import trial_rows
from autointerp.errors import BadInput
from autointerp.feature_records import ACTIVE, FeatureEvidence
from autointerp.features.activations import Units
from autointerp.features.readout import DirectionReader
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Feature
from autointerp.scoring.feature_rivals import TokenRates
from autointerp.scoring.feature_rows import NamedRows, Reading, UnitFacts, active_tokens, ordinary
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.token_identity import ExplainRows
from autointerp.stats.bootstrap import Resamples

CELLS = 48_000_000  # activations of a group on one split
Split = Literal["explain", "select"]
Shares = Float32[np.ndarray, "window pos"]


@dataclass(frozen=True, eq=False)
class _ActiveTokens:
    """The tokens of each unit's active rows."""

    tokens: Sequence[Int[np.ndarray, " row"]]

    @property
    def nbytes(self) -> int:
        return sum(some.nbytes for some in self.tokens)


@dataclass(frozen=True, eq=False)
class FeatureLabData:
    """What the laboratories of one run's neurons or latents share.

    `explain`, `select`: windows of the two splits, of which the first ones are read (`explain_rows`, `learn_rows`,
    `select_rows`) ·
    `facts`: mean, reference and sign of the units · `direction`: reads directions as logits, None where nothing does ·
    `wanted`: the units that will be asked about · `kept`: what was read of them, in bounded memory.
    """

    explain: ExplainRows
    select: HeldOutRows
    units: Units
    facts: Mapping[Feature, UnitFacts]
    table: TokenTable
    direction: DirectionReader | None
    seed: int = 0
    batch_size: int = 8
    wanted: Sequence[Feature] = ()
    kept: Kept = field(init=False, default_factory=Kept, repr=False)  # of these rows: never of a copy with others

    def __post_init__(self) -> None:
        split = self.select.split
        if split != "select":
            raise BadInput(f"rows of the {split} split for an experiment; give rows of the select split only.")
        if not len(self.explain.ids):
            raise BadInput("0 explain windows for the experiments; give at least one.")

    @cached_property
    def explain_rows(self) -> ExplainRows:
        """The explain windows that rows are picked from."""
        return self._first(EXPLAIN_TOKENS)

    @cached_property
    def learn_rows(self) -> ExplainRows:
        """The explain windows that token identity is learned from, as many as for the scores of a run."""
        return self._first(LEARN_TOKENS)

    def _first(self, tokens: int) -> ExplainRows:
        n = max(1, tokens // self.explain.ids.shape[1])
        ids = np.asarray(self.explain.ids[:n], np.int64)
        return ExplainRows(ids, np.asarray(self.explain.lengths[:n], np.int64))

    @cached_property
    def select_rows(self) -> HeldOutRows:
        """The select windows that predicates are scored on."""
        return trial_rows(self.select)

    @cached_property
    def named(self) -> NamedRows:
        """What predicates name in the select rows, the same for all units."""
        return NamedRows(self.select_rows, self.table)

    @cached_property
    def resamples(self) -> Resamples:
        """Of the documents of the select rows."""
        return Resamples.of(self.select_rows.n_documents, self.seed)

    @cached_property
    def _groups(self) -> dict[tuple[Feature, Split], tuple[Feature, ...]]:
        found: dict[tuple[Feature, Split], tuple[Feature, ...]] = {}
        order = sorted(dict.fromkeys(unit for unit in self.wanted if unit in self.facts))
        for split in ("explain", "select"):
            size = max(1, CELLS // max(1, self._rows(split).ids.size))
            for start in range(0, len(order), size):
                group = tuple(order[start : start + size])
                found |= {(unit, split): group for unit in group}
        return found

    def _rows(self, split: Split) -> ExplainRows | HeldOutRows:
        return self.explain_rows if split == "explain" else self.select_rows

    def shares(self, model: LanguageModel, unit: Feature, split: Split) -> Shares:
        """A unit's shares of its reference at every token of the rows of a split, sign applied, negative ones kept.
        One pass over the rows for its whole group, unless that is kept."""
        group = self._groups.get((unit, split), (unit,))
        reading = Reading(model, self.units, self.facts, self.batch_size)
        whole = self.kept.get((split, group[0], len(group)), lambda: reading.shares(group, self._rows(split)))
        return np.asarray(whole[group.index(unit)])

    def token_rates(self, model: LanguageModel, unit: Feature) -> TokenRates:
        """How often a unit is active at each token of the learning rows. One pass over them for its whole group."""
        group = self._groups.get((unit, "explain"), (unit,))

        def read() -> _ActiveTokens:
            reading = Reading(model, self.units, self.facts, self.batch_size)
            return _ActiveTokens(active_tokens(reading, group, self.learn_rows, ACTIVE))

        found = self.kept.get(("tokens", group[0], len(group)), read)
        seen = self.learn_rows.ids[ordinary(self.learn_rows, model.special_ids)]
        return TokenRates.of([found.tokens[group.index(unit)]], seen)


@dataclass(frozen=True, eq=False)
class FeatureSubject:
    """One neuron or latent of a model, with its evidence and the run's data."""

    model: LanguageModel
    unit: Feature
    evidence: FeatureEvidence
    data: FeatureLabData

    @property
    def facts(self) -> UnitFacts:
        return self.data.facts[self.unit]

    @property
    def reading(self) -> Reading:
        """How activations of this unit become shares."""
        return Reading(self.model, self.data.units, self.data.facts, self.data.batch_size)

    def shares(self, split: Split) -> Shares:
        """See `FeatureLabData.shares`."""
        return self.data.shares(self.model, self.unit, split)

    def explain_places(self) -> Bool[np.ndarray, "window pos"]:
        """Which places of the explain rows are rows."""
        return ordinary(self.data.explain_rows, self.model.special_ids)

    def rng(self, purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose: an answer does not depend on what was asked before."""
        return np.random.default_rng([self.data.seed, self.unit.layer, self.unit.index, purpose])

    def token_id(self, text: str) -> int:
        """The vocabulary id of a token, the usual one of two spellings. Raises BadInput."""
        return token_id(self.model, self.data.explain.ids, text)

    def amount(self, shares: Float32[np.ndarray, " row"]) -> Float32[np.ndarray, " row"]:
        """How far the mean is above the raw activation, where shares are these: what takes the unit out."""
        return (self.facts.mean - shares * self.facts.share_size).astype(np.float32)

    def strings_of(self, ids: Int[np.ndarray, " pos"]) -> tuple[str, ...]:
        """Ids as tokens."""
        return tuple(self.model.strings[i] for i in ids.tolist())
