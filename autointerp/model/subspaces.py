"""Pieces of transformer_lens that act on linear subspaces, under our names; the definitions are the library's own.

`orthonormal` spans the columns of a matrix by its numerical rank; `SubspaceInterchange` sets coordinates inside a
basis to a source's; `NormMatchedPlacebo` moves as far inside another basis.
"""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class Intervention(Protocol):
    """Base and source activations to new base activations."""

    def __call__(
        self, base: Float[Tensor, "batch d"], source: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch d"]: ...


def orthonormal(matrix: Float[Tensor, "d width"]) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the column space. Raises ValueError for a matrix of rank 0."""
    from transformer_lens.tools.analysis.projection_kernel import orthonormal_subspace

    basis: Tensor = orthonormal_subspace(matrix).basis
    return basis


def random_subspace(size: int, rank: int, seed: int) -> Float[Tensor, "d rank"]:
    """A seeded random orthonormal basis."""
    from transformer_lens.tools.analysis.interchange import random_basis

    basis: Tensor = random_basis(size, rank, seed)
    return basis


def interchange(basis: Float[Tensor, "d rank"]) -> Intervention:
    """`base + (source - base) B B^T`."""
    from transformer_lens.tools.analysis.interchange import SubspaceInterchange

    found: Intervention = SubspaceInterchange(basis)
    return found


def placebo(basis: Float[Tensor, "d rank"], random: Float[Tensor, "d rank"]) -> Intervention:
    """Move as far as `interchange(basis)` would, inside `random`."""
    from transformer_lens.tools.analysis.interchange import NormMatchedPlacebo, SubspaceInterchange

    found: Intervention = NormMatchedPlacebo(SubspaceInterchange(basis), random)
    return found
