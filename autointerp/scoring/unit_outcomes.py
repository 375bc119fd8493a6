"""What many changes of many units do to the next token, each at one position, in one run over the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from autointerp.evidence.effects import kl_divergence
from autointerp.features.activations import Units
from autointerp.model import LanguageModel
from autointerp.model.one_position import run_additions
from autointerp.model.row_changes import UnitRows, unit_additions
from autointerp.records import Description, Feature
from autointerp.scoring.conditional_effects import Outcomes
from autointerp.scoring.head_values import RowFacts
from autointerp.scoring.held_out import HeldOutRows

LOGIT_CELLS = 8_000_000
MOST_TOKENS = 20


@dataclass(frozen=True, eq=False)
class Claimed:
    """Next tokens that a description says a unit raises (sign 1) or lowers (sign -1); `missing`: how many it names
    that are no tokens."""

    tokens: Int[np.ndarray, " token"]
    signs: Float64[np.ndarray, " token"]
    missing: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


class Vocabulary:
    """Ids of tokens as descriptions write them: exactly, else with a leading space or without one."""

    def __init__(self, model: LanguageModel) -> None:
        self._exact: dict[str, int] = {}
        self._bare: dict[str, list[int]] = {}
        special = set(model.special_ids)
        for number, text in enumerate(model.strings):
            if number not in special and text:
                self._exact.setdefault(text, number)
                self._bare.setdefault(text.strip(), []).append(number)

    def ids(self, text: str) -> list[int]:
        """The token, or those that differ from it in white space alone; none where there is no such token."""
        if text in self._exact:
            return [self._exact[text]]
        return self._bare.get(text.strip(), [])[:2] if text.strip() else []

    def claimed(self, said: Description) -> Claimed:
        """The tokens of `raises` and `lowers`; one that is in both counts for neither."""
        found: dict[int, set[float]] = {}
        missing = 0
        for texts, sign in ((said.raises, 1.0), (said.lowers, -1.0)):
            for text in texts:
                ids = self.ids(text)
                missing += not ids
                for number in ids:
                    found.setdefault(number, set()).add(sign)
        clear = [(number, signs.pop()) for number, signs in found.items() if len(signs) == 1][:MOST_TOKENS]
        return Claimed(np.array([n for n, _ in clear], np.int64), np.array([s for _, s in clear]), missing)


@dataclass(frozen=True, eq=False)
class UnitCases:
    """Rows at which one unit's activation is changed by `amount`."""

    feature: Feature
    window: Int[np.ndarray, " case"]
    dst: Int[np.ndarray, " case"]
    amount: Float32[np.ndarray, " case"]

    def __len__(self) -> int:
        return len(self.dst)


@dataclass(frozen=True, eq=False)
class Field:
    """Where cases are run: a model, its units, rows and what is known of these."""

    model: LanguageModel
    units: Units
    held_out: HeldOutRows
    facts: RowFacts


def run_unit_cases(field: Field, cases: Sequence[UnitCases], claimed: Mapping[Feature, Claimed]) -> list[Outcomes]:
    """Outcomes of each list of cases. `logit`: centred logit lost by the claimed tokens, the mean over these with
    their signs; NaN for a unit that claims none."""
    sizes = [len(part) for part in cases]
    if not sum(sizes):
        return [Outcomes.empty() for _ in cases]
    window, dst, amount = (np.concatenate([getattr(c, name) for c in cases]) for name in ("window", "dst", "amount"))
    places = np.array([field.units.place(part.feature) for part in cases], np.int64)
    site, index = np.repeat(places[:, 0], sizes), np.repeat(places[:, 1], sizes)
    changes = unit_additions(field.model, field.units.sites, UnitRows(window, dst, site, index, amount))
    tokens, weights = _padded([claimed.get(part.feature) for part in cases])
    owner = np.repeat(np.arange(len(cases)), sizes)
    following = field.facts.next_id[window, dst]
    out = np.full((3, len(dst)), np.nan)

    def read(rows: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        own = owner[rows]
        out[:, rows] = _outcome(before, after, following[rows], (tokens[own], weights[own]))

    batch = max(8, min(256, LOGIT_CELLS // field.model.d_vocab))
    run_additions(field.model, field.held_out.ids, changes, batch, read)
    bounds = np.cumsum(sizes)[:-1]
    documents = np.split(field.held_out.documents[window], bounds)
    return [Outcomes(d, *part) for d, part in zip(documents, np.split(out, bounds, axis=1), strict=True)]


def _padded(
    claims: Sequence[Claimed | None],
) -> tuple[Int[np.ndarray, "unit token"], Float64[np.ndarray, "unit token"]]:
    """Tokens of each unit with their weights, sign over number; NaN weights for one that claims none."""
    width = max([1, *(len(c) for c in claims if c is not None)])
    tokens, weights = np.zeros((len(claims), width), np.int64), np.zeros((len(claims), width))
    for row, claim in enumerate(claims):
        if claim is None or not len(claim):
            weights[row] = np.nan
        else:
            tokens[row, : len(claim)] = claim.tokens
            weights[row, : len(claim)] = claim.signs / len(claim)
    return tokens, weights


def _outcome(
    before: Tensor, after: Tensor, following: np.ndarray, claimed: tuple[np.ndarray, np.ndarray]
) -> Float64[np.ndarray, "3 row"]:
    """KL, log p(next) lost, centred logits of the claimed tokens lost, by sign."""
    lost = before - after
    tokens, weights, then = (torch.from_numpy(a).to(lost.device) for a in (*claimed, following))
    gone = lost.gather(1, then.clamp_min(0)[:, None])[:, 0]
    picked = ((lost.gather(1, tokens) - lost.mean(1, keepdim=True)) * weights).sum(1)
    values = (kl_divergence(before, after), torch.where(then >= 0, gone, torch.nan), picked)
    return torch.stack([v.double() for v in values]).cpu().numpy()
