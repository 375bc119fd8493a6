"""What units write: their directions in the residual stream, read as logits and compared with each other.

The scale of the final norm is frozen at its median over some explain rows, so a reading is that of a typical place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.examples import extreme_tokens
from autointerp.feature_records import FeatureReadout
from autointerp.features.text_rows import is_row
from autointerp.features.unit_table import UnitTable
from autointerp.features.units import UnitSet, head_shares
from autointerp.model import LanguageModel, Readout
from autointerp.model.unit_sites import UnitSite, w_out
from autointerp.records import Feature

N_TOKENS, N_RANDOM, N_NEIGHBOURS = 10, 20, 5
_SAMPLE_WINDOWS, _AT_ONCE = 8, 256


@dataclass(frozen=True, eq=False)
class DirectionReader:
    """Readings of directions in the stream; `why_not` says why there are none."""

    model: LanguageModel
    readout: Readout | None
    scale: float
    random: float  # the largest logit of a random direction of norm 1
    why_not: str = ""

    @classmethod
    def of(cls, model: LanguageModel, explain: ExplainWindows, seed: int) -> DirectionReader:
        """Fit the readout on the first windows of the split."""
        numbers = explain.numbers[:_SAMPLE_WINDOWS]
        lengths = np.asarray(explain.windows.lengths[numbers])
        size = int(lengths.max())
        ids = np.asarray(explain.windows.ids[numbers])[:, :size]
        there = torch.from_numpy(is_row(ids, lengths, model.special_ids))
        on_device = model.to_ids(ids)
        try:
            # Whether a unit's place reaches the stream straight is `UnitSite.into_stream`'s question, not the norm's.
            readout = Readout.of(replace(model, direct_writes=True), on_device)
        except ModelError as error:
            return cls(model, None, 1.0, float("nan"), f"promoted tokens are not available: {error}")
        residual = model.final_states(on_device)[0]
        rows = residual[there.to(residual.device)]
        scale = float(readout.scale(rows if len(rows) else residual.reshape(-1, residual.shape[-1])).median())
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(N_RANDOM, residual.shape[-1], generator=generator).to(residual.device)
        drawn = drawn / drawn.norm(dim=1, keepdim=True)
        reader = cls(model, readout, scale, 0.0)
        return cls(model, readout, scale, float(reader.logits(drawn).abs().max()))

    def logits(self, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        """Centred logits of vectors in the stream. Only where there is a readout."""
        if self.readout is None:
            raise ModelError(self.why_not)
        return self.readout.logits(vectors, torch.full((len(vectors),), self.scale, device=vectors.device))

    def read(self, vector: Float[Tensor, " d_model"], shares: tuple[float, ...] = ()) -> FeatureReadout:
        """What a vector does to the vocabulary, beside random vectors of its norm."""
        up, down = extreme_tokens(self.logits(vector[None])[0], self.model.strings, N_TOKENS)
        return FeatureReadout(
            up=tuple(t for t in up if t.value > 0),
            down=tuple(t for t in down if t.value < 0),
            random_max=float(f"{self.random * float(vector.norm()):.6g}"),
            head_shares=shares,
        )


def readouts(
    reader: DirectionReader, units: UnitSet, table: UnitTable, features: Sequence[Feature]
) -> tuple[dict[Feature, FeatureReadout], dict[Feature, str]]:
    """Each unit's direction at its reference activation and sign, or why it cannot be read."""
    found: dict[Feature, FeatureReadout] = {}
    why: dict[Feature, str] = {}
    for site, some in by_site(units, features).items():
        for start in range(0, len(some), _AT_ONCE):
            part = some[start : start + _AT_ONCE]
            try:
                if reader.readout is None:
                    raise ModelError(reader.why_not)
                vectors = site.into_stream(reader.model, [feature.index for feature in part])
            except ModelError as error:
                why |= dict.fromkeys(part, str(error))
                continue
            for feature, vector in zip(part, vectors, strict=True):
                row = table.row(feature)
                shares = head_shares(site, feature.index, reader.model.n_heads) if _joined_heads(site) else ()
                found[feature] = reader.read(vector * float(table.reference[row] * table.sign[row]), shares)
    return found, why


def neighbours(
    model: LanguageModel, units: UnitSet, table: UnitTable, features: Sequence[Feature]
) -> dict[Feature, tuple[Feature, ...]]:
    """Of each unit, the units of its site, neither dead nor dense, whose directions (times sign) have the largest
    cosines with its own, most alike first; only positive cosines count."""
    found: dict[Feature, tuple[Feature, ...]] = {}
    for site, some in by_site(units, features).items():
        start = table.row(site.unit(0))
        part = slice(start, start + site.n_units)
        whole = _directions(model, site)
        whole = whole / whole.norm(dim=1, keepdim=True).clamp_min(1e-12)
        sign = torch.from_numpy(table.sign[part].astype(np.float32)).to(whole.device)
        unlike = torch.from_numpy(table.state[part] != "ok").to(whole.device)
        for first in range(0, len(some), _AT_ONCE):
            chosen = some[first : first + _AT_ONCE]
            index = torch.tensor([feature.index for feature in chosen], device=whole.device)
            cosine = (whole[index] * sign[index, None]) @ whole.T * sign
            cosine[:, unlike] = -1.0
            cosine[torch.arange(len(index), device=whole.device), index] = -1.0
            values, order = cosine.topk(min(N_NEIGHBOURS, site.n_units), dim=1)
            for feature, value, near in zip(chosen, values.tolist(), order.tolist(), strict=True):
                found[feature] = tuple(site.unit(n) for v, n in zip(value, near, strict=True) if v > 0)
    return found


def by_site(units: UnitSet, features: Sequence[Feature]) -> dict[UnitSite, list[Feature]]:
    """The units of each site, in their order."""
    found: dict[UnitSite, list[Feature]] = {}
    for feature in features:
        found.setdefault(units.site_of(feature), []).append(feature)
    return found


def _directions(model: LanguageModel, site: UnitSite) -> Float[Tensor, "unit width"]:
    if site.decoder is None:
        return w_out(model, site.layer)
    return site.decoder.to(model.device).float()


def _joined_heads(site: UnitSite) -> bool:
    return site.place == "z" and site.decoder is not None
