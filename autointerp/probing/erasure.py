"""Subspaces that hold a label, and maps that take it out of activations (probing section 10, step 2).

- class means: the span of the centred class means, rank at most C - 1;
- probe rows: the span of a linear probe's directions, standardisation undone;
- LEACE (Belrose et al. 2023): with `W = (Sxx^1/2)^+` and `P` the orthogonal projector onto the columns of `W Sxy`,
  `x - W^+ P W (x - mean)`; afterwards no linear probe beats chance on the training distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model.subspaces import orthonormal
from autointerp.probing.linear import LinearProbe

Labels = Int[np.ndarray, " item"]


def class_mean_basis(x: Float[Tensor, "item d"], y: Labels) -> Float64[Tensor, "d rank"]:
    """Orthonormal basis of the centred class means. Raises BadInput for one class, or classes with one mean."""
    classes = np.unique(y)
    if len(classes) < 2:
        raise BadInput("all items are of one class; class means span nothing. Give two classes.")
    means = torch.stack([x[torch.as_tensor(y == c)].double().mean(0) for c in classes])
    return _spanned((means - means.mean(0)).T)


def probe_rows_basis(probe: LinearProbe) -> Float64[Tensor, "d rank"]:
    """Orthonormal basis of the probe's directions in the coordinates of x, their mean left out (softmax ignores it)."""
    rows = probe.rows()
    return _spanned((rows - rows.mean(0)).T)


def _spanned(matrix: Float64[Tensor, "d width"]) -> Float64[Tensor, "d rank"]:
    try:
        return orthonormal(matrix)
    except ValueError as error:
        raise BadInput(f"the classes differ in no direction ({error}). There is nothing to erase.") from None


@dataclass(frozen=True, eq=False)
class Leace:
    """The LEACE map of one training set: `x - (x - mean) remove`."""

    mean: Float64[Tensor, " d"]
    remove: Float64[Tensor, "d d"]
    rank: int

    def __call__(self, x: Float[Tensor, "item d"]) -> Float[Tensor, "item d"]:
        wide = x.double()
        return (wide - (wide - self.mean) @ self.remove).to(x.dtype)


def leace(x: Float[Tensor, "item d"], y: Labels, n_classes: int) -> Leace:
    """Fit on training items, float64; directions without variance (below 1e-10 of the largest) are left alone."""
    wide = x.double()
    mean = wide.mean(0)
    centred = wide - mean
    labels = torch.nn.functional.one_hot(torch.as_tensor(y, dtype=torch.int64), n_classes).double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = variances > 1e-10 * variances[-1].clamp_min(1e-300)
    deviations, axes = variances[kept].sqrt(), axes[:, kept]
    whiten = axes / deviations @ axes.T
    colour = axes * deviations @ axes.T
    cross = whiten @ (centred.T @ (labels - labels.mean(0)) / len(x))
    left, singular, _ = torch.linalg.svd(cross, full_matrices=False)
    basis = left[:, singular > 1e-10 * singular[0].clamp_min(1e-300)]
    return Leace(mean, (colour @ basis @ basis.T @ whiten).T.contiguous(), basis.shape[1])
