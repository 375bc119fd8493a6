"""The sign-flip permutation test of transformer_lens, in pieces that fit the memory."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64

CELLS = 64  # tested at once: up to 12 prompts all 4096 sign patterns of each are made


def sign_flip_p(effects: Float64[np.ndarray, "cell prompt"], seed: int) -> Float64[np.ndarray, " cell"]:
    """Two-sided p-value that the mean over prompts is 0: exact for 12 prompts or fewer, else 1000 random patterns.

    NaN entries are left out of their cell; a cell without any is NaN.
    """
    from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

    found = np.full(len(effects), np.nan)
    there = ~np.isnan(effects)
    for pattern in np.unique(there, axis=0):
        cells = np.flatnonzero((there == pattern).all(1))
        if not pattern.any():
            continue
        for start in range(0, len(cells), CELLS):
            some = cells[start : start + CELLS]
            values = torch.from_numpy(np.ascontiguousarray(effects[some][:, pattern]))
            generator = derive_generator(seed, "permutation")
            found[some] = sign_flip_permutation_pvalue(values, generator=generator).numpy()
    return found
