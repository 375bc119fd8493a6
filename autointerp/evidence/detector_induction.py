"""More about induction: the curve over the length of the matching prefix, and what the head writes there.

1. Curve: rows whose last l ids occur once before, all else distinct; attention from the last position to the token
   after the earlier occurrence, for l = 1..8. A head that matches one token is flat, one that matches several rises.
2. Copying half: on repeats, the centred effect in logits (frozen final scale) of the head's write on the true next
   token, at the rows where induction is measured; the source-independent part of v is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from autointerp.evidence.detector_data import prefix_room, prefix_rows
from autointerp.evidence.detector_measure import PerHead, run_rows
from autointerp.model import LanguageModel, Layer, Readout

PREFIXES = range(1, 9)


def prefix_curve(
    model: LanguageModel, pool: Int[np.ndarray, " token"], n: int, generator: np.random.Generator
) -> dict[str, PerHead]:
    """`prefix_l` by head, as far as the context and the pool reach; `n` rows a length."""
    curve: dict[str, PerHead] = {}
    for length in PREFIXES:
        if prefix_room(length) > len(pool) or prefix_room(length) + length + 1 > model.n_ctx:
            break
        ids, src = prefix_rows(pool, length, n, generator, model.bos_id)
        sums = np.zeros(model.n_layers * model.n_heads)

        def read(_rows: slice, layer: Layer, sums: PerHead = sums, src: int = src) -> None:
            place = slice(layer.index * model.n_heads, (layer.index + 1) * model.n_heads)
            sums[place] += layer.pattern[:, :, -1, src].double().sum(0).cpu().numpy()

        run_rows(model, ids, read)
        curve[f"prefix_{length}"] = sums / n
    return curve


def copying_half(model: LanguageModel, readout: Readout, ids: Int[np.ndarray, "row pos"], length: int) -> PerHead:
    """Mean centred logit effect on the true next token, second copy of repeated rows (`length` ids in a repeat)."""
    rows = slice(ids.shape[1] - length, ids.shape[1] - 1)
    fed = model.to_ids(ids)
    after = fed[:, rows.start + 1 : rows.stop + 1]
    scale = readout.scale(model.final_states(fed)[0][:, rows].flatten(0, 1)).reshape(after.shape)
    wanted = readout.to_logits.T[after] / scale[..., None]
    found: list[np.ndarray] = []

    def read(layer: Layer) -> None:
        constant = model.expand_kv(model.v_constant(layer.index))
        z = layer.z[:, rows].float() - constant
        effect = torch.einsum("bdhk,hkm,bdm->h", z, model.W_O(layer.index), wanted)
        found.append((effect / after.numel()).double().cpu().numpy())

    model.read_attention(fed, list(range(model.n_layers)), read)
    return np.concatenate(found)
