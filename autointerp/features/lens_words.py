"""What units' directions are about, in the model's own words: SelfIE and the entity lens, with their controls.

1. A unit's vector is what it adds to the residual stream at its reference activation.
2. Controls are those of the lenses for heads' outputs (`lenses.head_entities`, `lenses.selfie`): random vectors of the
   norm, the mean of other units' vectors of the site, and one of those. They serve as the other rows do there.
3. A reading is `specific` where the lens's own verdict says so. Everything else is told, and no evidence.

A direction has no text, so SelfIE runs without its text control. Costs hundreds of short forwards a unit: it is meant
for a few units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.feature_records import LensWords
from autointerp.features.readout import by_site
from autointerp.features.unit_table import UnitTable
from autointerp.features.units import UnitSet
from autointerp.lens_records import EntityVectorReading
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.head_entities import HeadEntities
from autointerp.lenses.head_readings import EVIDENCE
from autointerp.lenses.selfie import Interpreter, SelfieOptions
from autointerp.lenses.selfie_records import SelfieRow
from autointerp.lenses.sources import Pool, Source
from autointerp.model import LanguageModel, UnitSite
from autointerp.records import Feature

N_OTHERS = 8  # units of the site whose vectors serve as controls


@dataclass(frozen=True)
class DirectionLenses:
    """Which lenses read: SelfIE with these options (None: not), the entity lens with these vectors (None: not)."""

    selfie: SelfieOptions | None = EVIDENCE
    entities: EntityVectors | None = None
    seed: int = 0


def lens_words(
    model: LanguageModel, units: UnitSet, table: UnitTable, features: Sequence[Feature], lenses: DirectionLenses
) -> dict[Feature, tuple[LensWords, ...]]:
    """Readings of each of `features`; () where its direction does not reach the stream straight."""
    reader = _Reader(
        model,
        None if lenses.selfie is None else Interpreter(model, lenses.selfie),
        None if lenses.entities is None else HeadEntities(model, lenses.entities),
    )
    found: dict[Feature, tuple[LensWords, ...]] = dict.fromkeys(features, ())
    for site, some in by_site(units, features).items():
        others = _others(site, some, table, lenses.seed)
        every = [*some, *others]
        try:
            vectors = _vectors(model, site, every, table)
        except ModelError:
            continue
        if len(every) > 1:
            found |= reader.read(some, every, vectors)
    return found


def _others(site: UnitSite, some: Sequence[Feature], table: UnitTable, seed: int) -> list[Feature]:
    start = table.row(site.unit(0))
    alive = np.flatnonzero(table.state[start : start + site.n_units] == "ok")
    able = np.setdiff1d(alive, [feature.index for feature in some])
    chosen = np.random.default_rng([seed, site.layer]).permutation(able)[:N_OTHERS]
    return [site.unit(int(index)) for index in np.sort(chosen)]


def _vectors(
    model: LanguageModel, site: UnitSite, every: Sequence[Feature], table: UnitTable
) -> Float[Tensor, "unit d_model"]:
    rows = [table.row(feature) for feature in every]
    scale = torch.tensor(table.reference[rows] * table.sign[rows], dtype=torch.float32)
    return site.into_stream(model, [feature.index for feature in every]).float().cpu() * scale[:, None]


@dataclass(frozen=True, eq=False)
class _Reader:
    model: LanguageModel
    interpreter: Interpreter | None
    entities: HeadEntities | None

    def read(
        self, some: Sequence[Feature], every: Sequence[Feature], vectors: Float[Tensor, "unit d_model"]
    ) -> dict[Feature, tuple[LensWords, ...]]:
        """`every` begins with `some`; the rest are controls."""
        said = self._said(some, every, vectors)
        named = self._named(some, every, vectors)
        return {feature: (*named.get(feature, ()), *said.get(feature, ())) for feature in some}

    def _said(
        self, some: Sequence[Feature], every: Sequence[Feature], vectors: Float[Tensor, "unit d_model"]
    ) -> dict[Feature, tuple[LensWords, ...]]:
        """The SelfIE reading of each unit: of its prompts the one that says most of the vector."""
        if self.interpreter is None:
            return {}
        live = [n for n in range(len(every)) if float(vectors[n].norm()) > 0]
        mine = [n for n in live if n < len(some)]
        names = [str(feature) for feature in every]
        if not mine or len(live) < 2:
            return {}
        pool = Pool(vectors[live], tuple(names[n] for n in live), ("",) * len(live))
        sources = [
            Source(names[n], vectors[n], f"direction {names[n]}", every[n].layer, document=names[n]) for n in mine
        ]
        rows = self.interpreter.interpret(sources, pool)
        size = len(self.interpreter.prompts)
        return {some[n]: (_best(rows[k * size : (k + 1) * size]),) for k, n in enumerate(mine)}

    def _named(
        self, some: Sequence[Feature], every: Sequence[Feature], vectors: Float[Tensor, "unit d_model"]
    ) -> dict[Feature, tuple[LensWords, ...]]:
        if self.entities is None:
            return {}
        readings = self.entities.read(some[0], "output", vectors, [str(f) for f in every], len(some))
        return {f: (_mention(r),) for f, r in zip(some, readings, strict=True) if r is not None}


def _best(rows: Sequence[SelfieRow]) -> LensWords:
    row = max(rows, key=lambda row: (row.verdict == "specific", row.margin))
    return LensWords(
        lens="selfie",
        text=row.interpretation,
        controls=tuple(control.text for control in row.controls),
        specific=row.verdict == "specific",
        detail=f"prompt {row.prompt_name}: {row.margin:.3g} nats over its best control, p {row.null_p:.3g}",
    )


def _mention(reading: EntityVectorReading) -> LensWords:
    return LensWords(
        lens="entity",
        text=reading.mention,
        controls=tuple(control.mention for control in reading.controls),
        specific=reading.verdict == "specific",
        detail=f"{reading.margin:.3g} nats over random vectors, p {reading.null_p:.3g}",
    )
