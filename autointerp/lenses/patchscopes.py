"""Patchscopes (arXiv 2401.06102): a vector of one run put into another, and how well it still predicts there.

The general form is source (text, position i, layer l), map f, target (prompt, positions i*, layer l*). SelfIE has
several target positions and f the identity. With the identity prompt, one placeholder and l* = l this decodes what a
vector predicts next: `precision` is how often the most likely token at the placeholder is the one that the model
predicts in the source text itself, `surprisal` the mean of -ln p_source(that token), nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.selfie_prompts import build_prompt
from autointerp.lenses.selfie_run import draw, random_like
from autointerp.lenses.sources import FedText, check_layers, feed_text, read_stream
from autointerp.lenses.surgery import Insert, Insertion, Mode, forward_inserted
from autointerp.model import LanguageModel

BATCH = 32


@dataclass(frozen=True)
class Patch:
    """Where vectors come from and where they go; the map is `mode` with `strength`."""

    source_layer: int
    target_layer: int
    prompt: str = "identity"
    mode: Mode = "normalized"
    strength: float = 1.0


@dataclass(frozen=True)
class Decoded:
    """How well the patched model says what the source says next, over `n` tokens, beside random vectors of the same
    norms in place of the source's."""

    precision: float
    surprisal: float
    random_precision: float
    random_surprisal: float
    n: int


def next_token_decoding(model: LanguageModel, texts: Sequence[str], patch: Patch, seed: int = 0) -> Decoded:
    """Decode every own token of the texts. Raises BadInput for a layer out of range or no text."""
    check_layers(model, [patch.source_layer, patch.target_layer])
    found: list[Tensor] = []
    log_probs: list[Tensor] = []
    for text in texts:
        fed = feed_text(model, text)
        places = fed.own_positions(model)
        found.append(read_stream(model, fed, [patch.source_layer])[patch.source_layer][places])
        log_probs.append(_predicted(model, fed)[places])
    if not found:
        raise BadInput("no text is given to decode. Give at least one.")
    vectors, own = torch.cat(found), torch.cat(log_probs)
    hits = _said(model, patch, vectors)
    others = _said(model, patch, random_like(vectors, draw(seed, "patchscopes")))
    best = own.argmax(-1)
    each = torch.arange(len(best))
    return Decoded(
        float((hits == best).float().mean()),
        float(-own[each, hits].mean()),
        float((others == best).float().mean()),
        float(-own[each, others].mean()),
        len(best),
    )


def _predicted(model: LanguageModel, fed: FedText) -> Float[Tensor, "pos d_vocab"]:
    return torch.log_softmax(model.logits(model.to_ids(np.array([fed.ids])))[0], dim=-1).cpu()


def _said(model: LanguageModel, patch: Patch, vectors: Float[Tensor, "vector d_model"]) -> Int[Tensor, " vector"]:
    """The most likely token at the placeholder with each vector there."""
    prompt = build_prompt(model, patch.prompt, 1)
    (place,) = prompt.positions
    said = []
    for part in vectors.split(BATCH):
        rows = tuple({patch.target_layer: Insert((place,), vector)} for vector in part)
        ids = model.to_ids(np.tile(np.array(prompt.ids), (len(part), 1)))
        logits = forward_inserted(model, ids, Insertion(rows, patch.mode, patch.strength))
        said.append(logits[:, place].argmax(-1).cpu())
    return torch.cat(said)
