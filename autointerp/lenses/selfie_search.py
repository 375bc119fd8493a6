"""The strength at which a direction explains best (self-explanation of features, Kharlapenko et al.).

1. Candidates are 0.25 to 16 times the median residual norm at the insertion, all in one batch; the controls of each
   candidate have its norm.
2. For each: cosine of the final residual at the first answer position with the direction, entropy of the first answer
   token (nats), total and margin of the answer.
3. The largest total among those whose entropy is below the median over candidates is taken.
4. Where no candidate beats all its controls there is nothing to take, and the verdict is `abstain`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.lenses.selfie_numbers import cosine, margin, total
from autointerp.lenses.selfie_prompts import PlaceholderPrompt
from autointerp.lenses.selfie_run import Case, Runner, Vectors, read_cases
from autointerp.lenses.sources import FedText, read_stream
from autointerp.lenses.surgery import Insert, Insertion, inserting

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Candidate:
    """One strength, as a multiple of the median residual norm, and what it gave."""

    scale: float
    self_similarity: float
    entropy: float
    total: float
    margin: float


@dataclass(frozen=True, eq=False)
class ScaleSearch:
    """All candidates, the place of the chosen one, and the case at that strength; `usable`: some beat its controls."""

    candidates: tuple[Candidate, ...]
    chosen: int
    case: Case
    usable: bool


def median_norm(runner: Runner, prompt: PlaceholderPrompt) -> float:
    """Median norm of the residual at the placeholders, at the block of the insertion."""
    stream = read_stream(runner.model, FedText("", prompt.ids, 0), [runner.settings.block])[runner.settings.block]
    return float(stream[list(prompt.positions)].norm(dim=-1).median())


def search_scales(runner: Runner, prompt: PlaceholderPrompt, cases: Sequence[Case]) -> list[ScaleSearch]:
    """A search for each case; the runner's mode must put the vector as it is (`normalized`)."""
    size = median_norm(runner, prompt)
    scaled = [_unit(case).scaled(scale * size) for case in cases for scale in SCALES]
    readings = read_cases(runner, prompt, scaled)
    residual, entropy = _first_step(runner, prompt, [case.vectors for case in scaled])
    found = []
    for number in range(len(cases)):
        own = range(number * len(SCALES), (number + 1) * len(SCALES))
        candidates = tuple(
            Candidate(
                scale,
                cosine(residual[n], scaled[n].vectors.mean(0)),
                float(entropy[n]),
                total(readings[n].p, readings[n].q["none"]),
                margin({name: total(readings[n].p, q) for name, q in readings[n].q.items()}),
            )
            for n, scale in zip(own, SCALES, strict=True)
        )
        chosen = choose(candidates)
        usable = any(one.margin > 0 for one in candidates)
        found.append(ScaleSearch(candidates, chosen, scaled[own[chosen]], usable))
    return found


def choose(candidates: Sequence[Candidate]) -> int:
    """Place of the largest total among candidates with entropy below the median (at it, where none is below)."""
    middle = statistics.median(one.entropy for one in candidates)
    below = [n for n, one in enumerate(candidates) if one.entropy < middle]
    allowed = below or [n for n, one in enumerate(candidates) if one.entropy <= middle]
    return max(allowed, key=lambda n: candidates[n].total)


def _unit(case: Case) -> Case:
    norm: Vectors = case.vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return Case(case.vectors / norm, case.controls).scaled(1.0)


def _first_step(
    runner: Runner, prompt: PlaceholderPrompt, vectors: Sequence[Vectors]
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " row"]]:
    """Input of the final norm at the prompt's last position, and the entropy of what follows."""
    residuals: list[Tensor] = []
    entropies: list[Tensor] = []
    size, block = runner.settings.batch_size, runner.settings.block
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        ids = runner.model.to_ids(np.tile(np.array(prompt.ids), (len(part), 1)))
        insertion = Insertion(tuple({block: Insert(prompt.positions, one)} for one in part))
        with inserting(runner.model, insertion, ids.shape[1]):
            residual, hidden = runner.model.final_states(ids)
        log_probs = torch.log_softmax(runner.model.unembed(hidden[:, -1]), dim=-1)
        residuals.append(residual[:, -1].float().cpu())
        entropies.append(-(log_probs.exp() * log_probs.clamp_min(-1e30)).sum(-1).cpu())
        runner.tokens_fed += ids.numel()
    return torch.cat(residuals), torch.cat(entropies)
