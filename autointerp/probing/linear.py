"""A linear probe: multinomial logistic regression, solved to the optimum or not at all (probing section 5).

1. Features are standardised with mean and deviation of the training rows alone; a deviation is at least 1e-3 of the
   median one, so that a dead coordinate is not blown up.
2. Loss: mean cross-entropy, each row weighted n / (C n_c) on request, plus `penalty * |W|^2 / 2`; the bias is free.
3. The optimum has no part outside the span of the training rows, so the problem is solved in their principal axes
   (exact, and small where there are more coordinates than rows), each axis scaled by Boehning's bound on the
   curvature (Boehning 1992), by full-batch L-BFGS in float64 with a strong Wolfe search.
4. It ends where no component of the gradient in the standardised coordinates reaches 1e-6; 500 iterations without
   that are a `Failure`, never a probe.

Nothing here is random. It is no MLP, and it chooses no penalty: see `validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.probing.optimise import minimise
from autointerp.records import Failure

GRADIENT = 1e-6
ITERATIONS = 500
_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and deviation of the training rows, float64."""

    mean: Float64[Tensor, " d"]
    deviation: Float64[Tensor, " d"]

    @classmethod
    def of(cls, x: Float[Tensor, "item d"]) -> Scaling:
        """Deviations below 1e-3 of the median one (of those above 0) are raised to it."""
        x = x.double()
        deviation = x.std(0, correction=0)
        moving = deviation[deviation > 0]
        floor = _FLOOR * float(moving.median()) if len(moving) else 1.0
        return cls(x.mean(0), deviation.clamp_min(floor))

    def apply(self, x: Float[Tensor, "item d"]) -> Float64[Tensor, "item d"]:
        return (x.double() - self.mean) / self.deviation


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """`logits = ((x - mean) / deviation) W + b`, float64 on the CPU; `penalty` as trained with."""

    scaling: Scaling
    weight: Float64[Tensor, "d class"]
    bias: Float64[Tensor, " class"]
    penalty: float
    gradient: float  # bound on its largest component at the end

    def logits(self, x: Float[Tensor, "item d"]) -> Float64[Tensor, "item class"]:
        if x.shape[-1] != len(self.weight):
            raise BadInput(f"{x.shape[-1]} features for a probe of {len(self.weight)}; give the site it was trained at")
        return self.scaling.apply(x) @ self.weight + self.bias

    def log_probs(self, x: Float[Tensor, "item d"]) -> Float64[Tensor, "item class"]:
        return torch.log_softmax(self.logits(x), dim=-1)

    def rows(self) -> Float64[Tensor, "class d"]:
        """The probe's directions in the coordinates of x, standardisation undone."""
        return (self.weight / self.scaling.deviation[:, None]).T


@dataclass(frozen=True)
class FitOptions:
    """`balanced` weights rows n / (C n_c); `gradient` and `iterations` end the search."""

    balanced: bool = False
    gradient: float = GRADIENT
    iterations: int = ITERATIONS


def fit_probe(
    x: Float[Tensor, "item d"],
    y: Int[np.ndarray, " item"],
    n_classes: int,
    penalty: float,
    options: FitOptions | None = None,
) -> LinearProbe | Failure:
    """The optimum for one penalty, or a Failure where it was not reached."""
    return fit_path(x, y, n_classes, [penalty], options or FitOptions())[0]


def fit_path(
    x: Float[Tensor, "item d"],
    y: Int[np.ndarray, " item"],
    n_classes: int,
    penalties: Sequence[float],
    options: FitOptions,
) -> list[LinearProbe | Failure]:
    """Optima for several penalties, given from strong to weak: each search starts where the last one ended."""
    if not len(x) or x.shape[1] == 0:
        raise BadInput(f"features of shape {tuple(x.shape)}: there is nothing to train on")
    scaling = Scaling.of(x)
    present, labels = np.unique(y, return_inverse=True)
    problem = _Problem.of(scaling.apply(x), labels, len(present), balanced=options.balanced)
    found: list[LinearProbe | Failure] = []
    weight, bias = np.zeros((problem.axes.shape[1], len(present))), np.zeros(len(present))
    for penalty in penalties:
        weight, bias, gradient = _solve(problem, (weight, bias), penalty, options)
        if gradient <= options.gradient:
            whole = _with_absent(problem.axes @ torch.as_tensor(weight), torch.as_tensor(bias), present, n_classes)
            found.append(LinearProbe(scaling, *whole, penalty, gradient))
        else:
            found.append(_not_converged(penalty, gradient, options))
    return found


def _with_absent(
    weight: Float64[Tensor, "d present"],
    bias: Float64[Tensor, " present"],
    present: Int[np.ndarray, " present"],
    n_classes: int,
) -> tuple[Float64[Tensor, "d class"], Float64[Tensor, " class"]]:
    """A class without a training row is never predicted: its bias would fall without end."""
    columns = torch.as_tensor(present, dtype=torch.int64)
    all_weights = torch.zeros(len(weight), n_classes, dtype=torch.float64)
    all_biases = torch.full((n_classes,), float("-inf"), dtype=torch.float64)
    all_weights[:, columns], all_biases[columns] = weight, bias
    return all_weights, all_biases


def _not_converged(penalty: float, gradient: float, options: FitOptions) -> Failure:
    return Failure(
        stage="probe",
        reason=f"the fit with penalty {penalty:g} did not converge: gradient {gradient:.2g} after "
        f"{options.iterations} iterations (wanted {options.gradient:g})",
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """Training rows in their principal axes: `rows [item r]`, `axes [d r]` orthonormal."""

    rows: Float64[np.ndarray, "item r"]
    axes: Float64[Tensor, "d r"]
    y: Int[np.ndarray, " item"]
    n_classes: int
    weights: Float64[np.ndarray, "item 1"]  # sum to 1
    curvature: Float64[np.ndarray, "r 1"]  # Boehning's bound, the penalty not in it

    @classmethod
    def of(
        cls, x: Float64[Tensor, "item d"], y: Int[np.ndarray, " item"], n_classes: int, *, balanced: bool
    ) -> _Problem:
        left, singular, right = torch.linalg.svd(x, full_matrices=False)
        kept = singular > 1e-12 * singular[0].clamp_min(1e-300)
        rows = (left[:, kept] * singular[kept]).numpy()
        weights = np.full((len(x), 1), 1 / len(x))
        if balanced:
            weights = (1 / np.bincount(y, minlength=n_classes)[y])[:, None]
            weights = weights / weights.sum()
        curvature = 0.5 * (weights * rows**2).sum(0)[:, None]
        return cls(rows, right[kept].T.contiguous(), y, n_classes, weights, curvature)

    def loss(
        self, weight: Float64[np.ndarray, "r class"], bias: Float64[np.ndarray, " class"], penalty: float
    ) -> tuple[float, Float64[np.ndarray, "r class"], Float64[np.ndarray, " class"]]:
        """Loss and its gradients."""
        each = np.arange(len(self.y))
        logits = self.rows @ weight + bias
        logits -= logits.max(1, keepdims=True)
        chosen = logits[each, self.y]
        np.exp(logits, out=logits)
        total = logits.sum(1, keepdims=True)
        value = float(self.weights[:, 0] @ (np.log(total[:, 0]) - chosen)) + penalty / 2 * float(
            np.vdot(weight, weight)
        )
        logits /= total
        logits[each, self.y] -= 1
        logits *= self.weights
        return value, self.rows.T @ logits + penalty * weight, logits.sum(0)


def _solve(
    problem: _Problem, start: tuple[np.ndarray, np.ndarray], penalty: float, options: FitOptions
) -> tuple[np.ndarray, np.ndarray, float]:
    """Weight, bias, and a bound on the gradient's components in the standardised coordinates."""
    scale = np.sqrt(problem.curvature + penalty)
    split = problem.rows.shape[1] * problem.n_classes

    def parts(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat[:split].reshape(-1, problem.n_classes), flat[split:]

    def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = parts(flat)
        value, to_weight, to_bias = problem.loss(weight / scale, bias, penalty)
        return value, np.concatenate([(to_weight / scale).ravel(), to_bias])

    def size(gradient: np.ndarray) -> float:
        """Turning the axes back cannot give a component more than its column's length."""
        weight, bias = parts(gradient)
        columns = np.sqrt(((weight * scale) ** 2).sum(0)).max(initial=0.0)
        return float(max(columns, np.abs(bias).max()))

    flat = np.concatenate([(start[0] * scale).ravel(), start[1]])
    found = minimise(function, flat, lambda gradient: size(gradient) <= options.gradient, options.iterations)
    weight, bias = parts(found.x)
    return weight / scale, bias, size(found.gradient)
