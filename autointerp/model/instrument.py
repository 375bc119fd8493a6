"""Proof, on load, that what the hooks show is the attention that the model uses.

1. Every layer reports a pattern `[batch head dst src]`.
2. Rows sum to 1 (±1e-3, ±1e-2 in half precision), or the model has sink logits and no row sums to more than 1.
3. Nothing attends to a later position; a transposed pattern fails here.
4. z is the pattern times v. Zeroing the patterns empties z in every layer and moves the logits; where the
   architecture shows its pattern after use (`pattern_read_only`), zeroing z, which is how we intervene, must.
5. The tokenizer round-trips text.
6. Unembedding the final norm gives the logits, up to one factor and the soft cap.
7. Where the norms of a block stand: before the attention, or between it and the stream.
8. Running again from a block's inputs gives the same logits; if not, `exact_resume` is off and full forwards are used.
9. Which shorter ways to run on from a changed head are exact (`shortcuts`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.language_model import HookFunction, LanguageModel, Layer
from autointerp.model.resume import clean_run, with_changed_z
from autointerp.model.shortcuts import find_shortcuts

SAMPLE = "The clerk said: 'Wait here.' Then 12 of them left, and the clerk said nothing more about it."


@dataclass(frozen=True)
class InstrumentReport:
    """What the proof measured: largest deviations, and whether the model has sink logits or an exact resume."""

    row_sum_low: float
    row_sum_high: float
    future_mass: float
    z_error: float
    logit_shift: float
    sink_logits: bool
    pattern_read_only: bool
    exact_resume: bool
    resume_error: float


def prove(model: LanguageModel) -> tuple[LanguageModel, InstrumentReport]:
    """Check `model` on a short text; returns it with what was found out set (`sink_logits`, `exact_resume`,
    `shortcuts`, ...), and the measurements.

    Raises ModelError with the failing check and its value.
    """
    check_tokenizer(model)
    if getattr(model.bridge.ln_final, "original_component", model.bridge.ln_final) is None:
        raise ModelError(
            f"{model.name} has no norm before its unembedding, so its effects cannot be measured. "
            "This architecture is not supported."
        )
    ids = _sample_ids(model)
    layers: list[Layer] = []
    model.read_attention(ids, list(range(model.n_layers)), layers.append)
    low, high, future = check_patterns(model, [layer.pattern for layer in layers])
    z_error = max(_z_error(model, layer) for layer in layers)
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    if not z_error <= tolerance:
        raise ModelError(
            f"{model.name}: z differs from pattern x v by {z_error:.3g} of its size, so contributions would be wrong. "
            "This architecture is not supported."
        )
    shift, read_only = _zeroing_shift(model, ids)
    sinks = _has_sinks(model)
    norm_before, direct = _norm_places(model, ids)
    model = replace(model, norm_before=norm_before, direct_writes=direct)
    model = replace(model, logit_scale=_logit_scale(replace(model, logit_scale=1.0), ids))
    error = _resume_error(model, ids)
    proved = replace(model, sink_logits=sinks, exact_resume=error < 1e-3)
    proved = replace(proved, shortcuts=find_shortcuts(proved, ids))
    return proved, InstrumentReport(low, high, future, z_error, shift, sinks, read_only, error < 1e-3, error)


def check_patterns(
    model: LanguageModel, patterns: list[Float[Tensor, "batch head dst src"]]
) -> tuple[float, float, float]:
    """Row sums and causality of real patterns; returns (lowest sum, highest sum, largest mass on the future)."""
    tolerance = 1e-3 if model.dtype == torch.float32 else 1e-2
    sums = torch.stack([p.float().sum(-1) for p in patterns])
    future = max(float(p.float().triu(1).abs().max()) for p in patterns)
    low, high = float(sums.min()), float(sums.max())
    if future > 1e-6:
        raise ModelError(
            f"{model.name}: attention reaches later positions (up to {future:.3g}); either the model is not a causal "
            "decoder, or destination and source are swapped. It cannot be used."
        )
    if high > 1 + tolerance or (low < 1 - tolerance and not _has_sinks(model)):
        raise ModelError(
            f"{model.name}: rows of the attention pattern sum to {low:.4f} to {high:.4f} instead of 1 and the model "
            "has no sink logits. Its hook does not show attention probabilities; it cannot be used."
        )
    return low, high, future


def check_tokenizer(model: LanguageModel) -> None:
    """Vocabulary size and a decode(encode()) round trip; raises ModelError."""
    size = len(model.tokenizer)
    ids, _ = model.encode(SAMPLE)
    text = model.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)
    if size < 3 or "".join(text.split()).casefold() != "".join(SAMPLE.split()).casefold():
        raise ModelError(
            f"the tokenizer of {model.name} does not round-trip: it holds {size} tokens and turns {SAMPLE!r} into "
            f"{text!r}. The model folder probably lacks its tokenizer files; add them."
        )


def _sample_ids(model: LanguageModel) -> Int[Tensor, "batch pos"]:
    ids = model.encode(SAMPLE)[0].tolist()
    ids = ([] if model.bos_id is None else [model.bos_id]) + ids
    row = torch.tensor(ids[: min(model.n_ctx, 32)], device=model.device)
    return torch.stack([row, row.flip(0)])


def _z_error(model: LanguageModel, layer: Layer) -> float:
    v = model.expand_kv(layer.v.float())
    z = torch.einsum("bhds,bshk->bdhk", layer.pattern.float(), v)
    return float((z - layer.z.float()).abs().max() / layer.z.float().abs().max().clamp_min(1e-6))


def _zeroing_shift(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> tuple[float, bool]:
    """Zero every pattern, or else every z: (largest move of a logit, whether the pattern can only be read)."""
    shift, alive = _zeroed(model, ids, "pattern")
    if not alive and shift > 0:
        return shift, False
    shift_z, _ = _zeroed(model, ids, "z")
    if len(alive) == model.n_layers and shift_z > 0:
        return shift_z, True
    where = f"layers {alive} still write" if alive else "the logits did not move"
    raise ModelError(
        f"{model.name}: with every attention pattern set to zero, {where}: the hooks do not reach the computation. "
        "It cannot be used; load it with eager attention."
    )


def _zeroed(model: LanguageModel, ids: Int[Tensor, "batch pos"], part: str) -> tuple[float, list[int]]:
    """Largest move of a logit with `part` zeroed everywhere, and the layers whose z is not zero after it."""
    alive: list[int] = []

    def zero(tensor: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(tensor)

    def watcher(layer: int) -> HookFunction:
        def watch(tensor: Tensor, hook: Any) -> None:
            if float(tensor.abs().max()) > 0:
                alive.append(layer)

        return watch

    hooks: list[tuple[str, HookFunction]] = [(f"blocks.{n}.attn.hook_{part}", zero) for n in range(model.n_layers)]
    hooks += [(f"blocks.{n}.attn.hook_z", watcher(n)) for n in range(model.n_layers)]
    before = model.logits(ids)
    with model.hooks(hooks):
        after = model.logits(ids)
    return float((before - after).abs().max()), alive


def _norm_places(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> tuple[bool, bool]:
    """(whether block 0's `ln1` runs before its attention, whether no norm stands between attention and stream).

    OPT's post-norm models call a norm `ln1` that runs after the attention; Gemma 2, OLMo 2 and others have an
    `ln1_post`.
    """
    block = model.bridge.blocks[0]
    order: list[str] = []

    def noting(name: str) -> Any:
        return lambda *_: order.append(name)

    handles = [
        module.register_forward_hook(noting(name))
        for name in ("ln1", "ln1_post")
        if isinstance(module := getattr(block, name, None), torch.nn.Module)
    ]
    try:
        model.read_attention(ids, [0], noting("attention"))
    finally:
        for handle in handles:
            handle.remove()
    attention = order.index("attention")
    return "ln1" in order[:attention], not ("ln1" in order[attention:] or "ln1_post" in order)


def _has_sinks(model: LanguageModel) -> bool:
    return any(name.endswith("sinks") for name, _ in model.bridge.original_model.named_parameters())


def _logit_scale(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> float:
    """Factor between the model's logits and its unembedding (Cohere, Granite scale them); checked to be one factor."""
    logits, raw = model.logits(ids), model.unembed(model.final_states(ids)[1])
    if model.soft_cap:
        factor = 1.0
    else:
        factor = float((logits * raw).sum() / raw.square().sum().clamp_min(1e-12))
        factor = 1.0 if abs(factor - 1) < 1e-3 else factor
    error = float((logits - raw * factor).abs().max() / logits.abs().max().clamp_min(1e-6))
    if error > (1e-3 if model.dtype == torch.float32 else 5e-2):
        raise ModelError(
            f"{model.name}: its logits differ from unembedding its final norm by {error:.3g} of their size, so effects "
            "cannot be measured. This architecture is not supported."
        )
    return factor


def _resume_error(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> float:
    """Relative difference between a full forward and one resumed at the first block with nothing changed, and the
    same with a changed z at the middle block."""
    run = clean_run(model, ids)
    same = replace(model, exact_resume=True)
    full = replace(model, exact_resume=False)
    scale = float(run.hidden.abs().max().clamp_min(1e-6))
    middle = model.n_layers // 2
    try:
        plain = with_changed_z(same, run, 0, lambda z: z)
        changed = with_changed_z(same, run, middle, lambda z: z * 0.5)
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        return float("inf")  # this architecture's blocks cannot be called alone: full forwards are used
    expected = with_changed_z(full, run, middle, lambda z: z * 0.5)
    return max(float((plain - run.hidden).abs().max()), float((changed - expected).abs().max())) / scale
