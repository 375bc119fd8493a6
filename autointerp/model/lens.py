"""The logit lens of transformer_lens under our names; definition and checks are the library's own.

`stream_lens` reads the stream before every block and after the last through the final norm (statistics of each
vector) and the unembedding; the library refuses models whose logits are not made that way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model.language_model import LanguageModel
from autointerp.model.loading import quiet


@dataclass(frozen=True, eq=False)
class LensReadout:
    """`top_ids`, `top_log_probs`: the likeliest tokens, best first (nats); `entropy` in nats; `rank` (0 is the
    likeliest) and `log_prob` of the target of each row, NaN-free only where a target was given."""

    top_ids: Int[Tensor, "*row k"]
    top_log_probs: Float[Tensor, "*row k"]
    entropy: Float[Tensor, "*row"]
    rank: Int[Tensor, "*row"] | None = None
    log_prob: Float[Tensor, "*row"] | None = None


def stream_lens(
    model: LanguageModel, ids: Int[Tensor, "1 pos"], k: int, *, mid: bool = False
) -> tuple[list[str], LensReadout]:
    """Site names (`resid_pre 0`, `resid_mid 0`, ..., `resid_post N`) and the readout `[site pos]` of one text; the
    target of a position is the token that follows it (itself at the last one, to be ignored).

    Raises BadInput for a k outside the vocabulary, ModelError where the library refuses the model.
    """
    from transformer_lens.tools.analysis import logit_lens

    _check_k(model, k)
    targets = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
    with quiet(), torch.no_grad():
        try:
            top = logit_lens(model.bridge, ids, positions=None, incl_mid=mid, top_k=k, return_type="log_probs")
            aimed = logit_lens(
                model.bridge, ids, positions=None, incl_mid=mid, targets=targets, return_type="log_probs"
            )
        except (ValueError, NotImplementedError, KeyError) as error:
            raise ModelError(f"{model.name} has no logit lens: {error}") from error
    found = LensReadout(
        _one(top.readout.top_ids), _one(top.values).float(), _one(top.readout.entropy),
        _one(aimed.readout.target_ranks)[..., 0], _one(aimed.values)[..., 0].float(),
    )  # fmt: skip
    return [_site(label, model.n_layers) for label in top.labels], found


def vector_lens(model: LanguageModel, vectors: Float[Tensor, "*row d_model"], k: int) -> LensReadout:
    """The readout of vectors taken as if each were the whole residual stream."""
    from transformer_lens.tools.analysis import logit_readout

    _check_k(model, k)
    try:
        found = logit_readout(model.bridge, vectors.to(model.device), top_k=k, return_type="log_probs")
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"{model.name} has no logit lens: {error}") from error
    return LensReadout(found.top_ids.cpu(), found.values.float().cpu(), found.entropy.cpu())


def _check_k(model: LanguageModel, k: int) -> None:
    if not 1 <= k <= model.d_vocab:
        raise BadInput(f"{k} tokens are asked for in each cell; give 1 to {model.d_vocab}.")


def _one(values: Tensor) -> Tensor:
    """Without the batch axis, which has one entry."""
    return values[:, 0].detach().cpu()


def _site(label: str, n_layers: int) -> str:
    layer, _, part = label.partition("_")
    return f"resid_post {n_layers - 1}" if layer == "final" else f"resid_{part} {layer}"
