"""The "looks at" query: which heads attend from one token to another over many prompts.

1. Spans become positions (token finder); a prompt whose span is missing is left out, with the reason.
2. Each prompt runs alone; the row of the destination (the last token of its span) is read from every head.
3. By head and prompt: does the source set hold the strongest source off the sink, its attention, its margin
   over the strongest other source, its rank, multiple and share of the write; attention on distractors.
   Prompts where the head keeps less than 0.1 off the sink are left out for that head.
4. By head: rate of success with its Clopper-Pearson interval, means with bootstrap intervals over prompts.

A prompt that fails does not delete a head; attention of an argmax is shown, as 0.03 is not looking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.evidence.looks_at_table import LooksAtFilter, LooksAtRow, LooksAtTable
from autointerp.evidence.pairs import row_pairs
from autointerp.evidence.prompt_spans import LooksAtPrompt, Placed, place
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.records import Head
from autointerp.stats.bootstrap import clopper_pearson
from autointerp.stats.means import mean_intervals

MEASURES = (
    "hit",
    "hit_raw",
    "mass",
    "multiple",
    "margin",
    "rank",
    "distractor",
    "contribution_share",
    "kept",
)
_TIE = 1 + 1e-6  # the strongest source has to be stronger than float32 noise
Table = Float64[np.ndarray, "measure prompt head"]


def looks_at(
    model: LanguageModel,
    prompts: Sequence[LooksAtPrompt],
    filters: LooksAtFilter | None = None,
    *,
    seed: int = 0,
) -> LooksAtTable:
    """A row for each head that passes `filters` (applied to lower interval ends), best first.

    `LooksAtTable.everything` holds all heads. Raises BadInput without prompts, for an empty span, for a
    destination before all sources, or where no prompt is usable.
    """
    if not prompts:
        raise BadInput("there are no prompts (0). Give at least one prompt with its spans.")
    placed = [place(model, prompt, number) for number, prompt in enumerate(prompts)]
    usable = [found for found in placed if isinstance(found, Placed)]
    missing = [reason for reason in placed if isinstance(reason, str)]
    if not usable:
        raise BadInput(f"none of the {len(prompts)} prompts is usable: {missing[0]}. Correct the spans.")
    output = [OutputGeometry.of(model, layer) for layer in range(model.n_layers)]
    measured = np.stack([_measure(model, output, prompt) for prompt in usable], axis=1)
    spread = np.stack([mean_intervals(measured[MEASURES.index(name)], seed) for name in ("mass", "margin")], axis=1)
    heads = [Head(layer=n, index=h) for n in range(model.n_layers) for h in range(model.n_heads)]
    rows = [_summary(h, measured[:, :, n], spread[n], usable, missing) for n, h in enumerate(heads)]
    title = f"heads that look from the destination to the source in {len(usable)} of {len(prompts)} prompts"
    return LooksAtTable.of(rows, title, filters or LooksAtFilter())


def _measure(model: LanguageModel, output: list[OutputGeometry], prompt: Placed) -> Float64[np.ndarray, "measure head"]:
    """The MEASURES of all heads on one prompt."""
    ids = model.to_ids(prompt.ids[None])
    sources = Masks.of(ids, torch.tensor([len(prompt.ids)], device=ids.device), model.special_ids).allowed[0]
    found: dict[int, np.ndarray] = {}

    def keep(layer: Layer) -> None:
        attn = layer.pattern[0, :, prompt.dst].double()
        norms = write_norms(model, layer, output[layer.index])[0].double()
        found[layer.index] = _of_heads(attn, norms, sources, prompt).cpu().numpy()

    model.read_attention(ids, list(range(model.n_layers)), keep)
    return np.concatenate([found[layer] for layer in range(model.n_layers)], axis=1)


def _of_heads(attn: Tensor, norms: Tensor, sources: Bool[Tensor, " src"], prompt: Placed) -> Tensor:
    dst = torch.full((attn.shape[0],), prompt.dst, device=attn.device)
    pairs = row_pairs(attn, norms, sources, dst)
    allowed = pairs.allowed[0]
    wanted = torch.zeros_like(allowed)
    wanted[list(prompt.src)] = True
    target, visible = wanted & allowed, torch.arange(len(allowed), device=attn.device) <= prompt.dst
    best, other = _largest(attn, target), _largest(attn, allowed & ~target)
    mass = attn[:, target].sum(-1)
    distracted = [attn[:, list(span)].sum(-1) for span in prompt.distractors]
    kept = pairs.mass >= TAU
    values = {
        "hit": (best > other * _TIE).double(),
        "hit_raw": (_largest(attn, wanted) > _largest(attn, visible & ~wanted) * _TIE).double(),
        "mass": mass,
        "multiple": pairs.multiple[:, target].mean(-1),
        "margin": mass - other,
        "rank": 1 + (attn[:, allowed] > best[:, None]).sum(-1).double(),
        "distractor": torch.stack(distracted).mean(0) if distracted else torch.full_like(mass, torch.nan),
        "contribution_share": pairs.contribution_share[:, target].sum(-1),
        "kept": pairs.mass,
    }
    return torch.stack([torch.where(kept | (name == "kept"), values[name], torch.nan) for name in MEASURES])


def _largest(attn: Tensor, where: Bool[Tensor, " src"]) -> Tensor:
    """Largest attention over a set of sources, 0 where it is empty."""
    return torch.where(where, attn, 0.0).amax(-1)


def _summary(
    head: Head,
    measured: Float64[np.ndarray, "measure prompt"],
    spread: Float64[np.ndarray, "2 3"],
    prompts: list[Placed],
    missing: list[str],
) -> LooksAtRow:
    values = dict(zip(MEASURES, measured, strict=True))
    used = ~np.isnan(values["hit"])
    n = int(used.sum())
    low, high = clopper_pearson(int(np.nansum(values["hit"])), n) if n else (float("nan"), float("nan"))
    resting = [
        f"{p.id}: {kept:.3g} of the attention is off the sink"
        for p, kept, ok in zip(prompts, values["kept"], used, strict=True)
        if not ok
    ]
    (mass, mass_low, mass_high), (margin, margin_low, margin_high) = spread.tolist()
    return LooksAtRow(
        head=str(head),
        layer=head.layer,
        index=head.index,
        n=n,
        n_excluded=len(missing) + len(resting),
        rate=_mean(values["hit"]),
        ci_low=low,
        ci_high=high,
        rate_raw=_mean(values["hit_raw"]),
        mass_mean=mass,
        mass_ci_low=mass_low,
        mass_ci_high=mass_high,
        multiple_mean=_mean(values["multiple"]),
        margin_mean=margin,
        margin_ci_low=margin_low,
        margin_ci_high=margin_high,
        rank_mean=_mean(values["rank"]),
        distractor_mass=_mean(values["distractor"]),
        contribution_share_mean=_mean(values["contribution_share"]),
        failures=tuple(p.id for p, hit in zip(prompts, values["hit"], strict=True) if hit == 0),
        excluded=(*missing, *resting),
    )


def _mean(values: Float64[np.ndarray, " prompt"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
