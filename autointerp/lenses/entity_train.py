"""Trains task vectors: soft tokens that make the frozen model spell out the mention that a vector stands for.

1. One vector a layer, all layers in one batch: each step takes items and runs them at every layer that still learns.
   The losses of different layers share nothing, so this equals training each layer alone.
2. Loss: mean over the targets of a layer (mention ids and EOS, padding left out) of the negative log-probability.
3. Adam. The learning rate of each layer is the best of `rates` by dev loss after a first short piece of an epoch; one
   cosine decay to a tenth over the run.
4. Every quarter of an epoch, dev items are generated greedily. The best state by exact match is copied; a layer whose
   match has not risen for half an epoch stops.
5. All seeds are kept; the lens uses the best by dev match.

Optionally a linear map of the vector (`Filter`), from the identity, with the task vector frozen; its best state is
the one of the lowest dev loss. (arXiv 2510.09421; specification: entity lens, section 4.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.lenses.entity_filter import Filter
from autointerp.lenses.entity_frame import Context
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.entity_steps import Keeper, Order, frozen, layer_losses, match_items, score_items
from autointerp.lenses.entity_vectors import Method, Progress, Sources, silent


@dataclass(frozen=True)
class TrainPlan:
    """Everything that determines the vectors beside model and data. `min_steps`: with few items an epoch is short,
    and more of them are run."""

    layers: tuple[int, ...]
    context: Context = "none"
    method: Method = "in_context"
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (1e-2, 2e-2, 4e-2, 2e-1)
    epochs: float = 2.0
    batch_items: int = 32
    dev_items: int = 500
    trial_steps: int = 20
    min_steps: int = 150
    with_filter: bool = False
    filter_rate: float = 1e-2
    filter_epochs: float = 4.0


@dataclass(frozen=True, eq=False)
class Trained:
    """All seeds, and the curve of dev match `(seed, epoch, layer, loss, match)`."""

    layers: tuple[int, ...]
    theta: Float[Tensor, "seed layer d_model"]
    dev_em: Float[Tensor, "seed layer"]
    rates: tuple[float, ...]  # one a layer
    curve: tuple[tuple[int, float, int, float, float], ...]
    filters: Filter | None = None

    def best(self) -> Float[Tensor, "layer d_model"]:
        """Each layer's seed of the highest dev match (the first of equals)."""
        return self.theta[self.dev_em.argmax(0), torch.arange(len(self.layers))]


@dataclass(frozen=True, eq=False)
class Trainer:
    """Runs steps of one model on training and dev items."""

    runner: PromptRunner
    train: Sources
    dev: Sources
    plan: TrainPlan
    progress: Progress = silent
    curve: list[tuple[int, float, int, float, float]] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, math.ceil(len(self.train) / self.plan.batch_items))

    @property
    def _quarter(self) -> int:
        return max(1, self.steps_per_epoch // 4, self.plan.min_steps // 8)

    @property
    def _dev(self) -> Sources:
        return self.dev.at(range(min(len(self.dev), self.plan.dev_items)))

    @property
    def _every(self) -> list[int]:
        return list(range(len(self.plan.layers)))

    def run(self) -> Trained:
        """All seeds, then the filter where one is asked for."""
        with frozen(self.runner.model):
            return self._trained()

    def _trained(self) -> Trained:
        rates = self._rates()
        done = [self._one_seed(seed, rates) for seed in self.plan.seeds]
        theta, match = (torch.stack(list(part)) for part in zip(*done, strict=True))
        found = Trained(self.plan.layers, theta, match, rates, tuple(self.curve))
        return replace(found, filters=self._filter(found.best())) if self.plan.with_filter else found

    def start(self, seed: int) -> Float[Tensor, "layer d_model"]:
        """Initial vectors, N(0, 1); a layer's do not depend on which others are trained."""
        d_model = self.train.h.shape[-1]
        draws = [torch.Generator().manual_seed(1009 * seed + layer + 1) for layer in self.plan.layers]
        return torch.stack([torch.randn(d_model, generator=draw) for draw in draws])

    def _steps(self, epochs: float) -> int:
        return max(self.plan.min_steps, round(epochs * self.steps_per_epoch))

    def _rates(self) -> tuple[float, ...]:
        """Each layer's rate, chosen with the first seed."""
        if len(self.plan.rates) == 1:
            return self.plan.rates * len(self.plan.layers)
        steps = max(min(self.plan.trial_steps, self._steps(self.plan.epochs)), self.steps_per_epoch // 20)
        losses = []
        for number, rate in enumerate(self.plan.rates):
            self.progress("choosing the learning rate", number, len(self.plan.rates))
            run = _Run(self, self.start(self.plan.seeds[0]), (rate,) * len(self.plan.layers))
            for ids in Order(len(self.train), self.plan.batch_items, self.plan.seeds[0]).take(steps):
                run.step(ids, 1.0)
            losses.append(self.dev_loss(run.theta()))
        self.progress("choosing the learning rate", len(self.plan.rates), len(self.plan.rates))
        return tuple(self.plan.rates[int(best)] for best in torch.stack(losses).argmin(0))

    def _one_seed(
        self, seed: int, rates: tuple[float, ...]
    ) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, " layer"]]:
        run = _Run(self, self.start(seed), rates)
        keeper = Keeper(run.theta())
        total = self._steps(self.plan.epochs)
        losses: list[Tensor] = []
        for step, ids in enumerate(Order(len(self.train), self.plan.batch_items, seed).take(total)):
            self.progress(f"training, seed {seed}", step, total)
            losses.append(run.step(ids, _decay(step, total)))
            if (step + 1) % self._quarter == 0 or step + 1 == total:
                match = match_items(self.runner, self._dev, run.theta(), run.learning)
                mean = torch.stack(losses).mean(0)
                losses = []
                epoch = (step + 1) / self.steps_per_epoch
                for place in run.learning:
                    self.curve.append((seed, epoch, self.plan.layers[place], float(mean[place]), float(match[place])))
                run.learning = keeper.offer(run.theta(), match, run.learning)
                if not run.learning:
                    break
        self.progress(f"training, seed {seed}", total, total)
        return keeper.best, keeper.match

    def dev_loss(self, theta: Float[Tensor, "layer d_model"], change: Filter | None = None) -> Float[Tensor, " layer"]:
        """Mean negative log-probability of dev targets, by layer."""
        sums, counts, dev = torch.zeros(len(theta)), torch.zeros(len(theta)), self._dev
        with torch.no_grad():
            for start in range(0, len(dev), self.plan.batch_items):
                part = dev.at(range(start, min(start + self.plan.batch_items, len(dev))))
                scored, layer = score_items(self.runner, part, theta, self._every, change)
                sums.index_add_(0, layer, -scored.log_prob.cpu())
                counts.index_add_(0, layer, torch.ones(len(layer)))
        return sums / counts

    def _filter(self, theta: Float[Tensor, "layer d_model"]) -> Filter:
        best = Filter.identity(len(theta), theta.shape[-1])
        change = best.copy()
        optimiser = torch.optim.Adam([change.weight.requires_grad_(), change.bias.requires_grad_()], lr=1.0)
        lowest = self.dev_loss(theta, best)
        total = self._steps(self.plan.filter_epochs)
        for step, ids in enumerate(Order(len(self.train), self.plan.batch_items, self.plan.seeds[0]).take(total)):
            self.progress("training the filter", step, total)
            optimiser.param_groups[0]["lr"] = self.plan.filter_rate * _decay(step, total)
            optimiser.zero_grad()
            scored, layer = score_items(self.runner, self.train.at(ids), theta, self._every, change)
            layer_losses(scored, layer, len(theta)).sum().backward()
            optimiser.step()
            if (step + 1) % self._quarter == 0 or step + 1 == total:
                now = change.copy()
                loss = self.dev_loss(theta, now)
                better = loss < lowest
                lowest = torch.where(better, loss, lowest)
                best.weight[better], best.bias[better] = now.weight[better], now.bias[better]
        self.progress("training the filter", total, total)
        return best


def _decay(step: int, total: int) -> float:
    """One cosine from 1 to a tenth."""
    return 0.55 + 0.45 * math.cos(math.pi * step / total)


class _Run:
    """Parameters and optimiser of one seed; each layer is a parameter of its own."""

    def __init__(self, trainer: Trainer, theta: Float[Tensor, "layer d_model"], rates: tuple[float, ...]) -> None:
        self._trainer, self._rates = trainer, rates
        self._parameters = [torch.nn.Parameter(one.clone()) for one in theta]
        groups = [{"params": [p], "lr": rate} for p, rate in zip(self._parameters, rates, strict=True)]
        self._optimiser = torch.optim.Adam(groups)
        self.learning = list(range(len(theta)))

    def theta(self) -> Float[Tensor, "layer d_model"]:
        """A copy of the vectors as they are now."""
        return torch.stack([p.detach().clone() for p in self._parameters])

    def step(self, ids: Sequence[int], part: float) -> Float[Tensor, " layer"]:
        """One step at `part` of the learning rates; returns the losses by layer."""
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * part
        self._optimiser.zero_grad(set_to_none=True)
        theta = torch.stack(list(self._parameters))
        trainer = self._trainer
        scored, layer = score_items(trainer.runner, trainer.train.at(ids), theta, self.learning)
        losses = layer_losses(scored, layer, len(self._parameters))
        losses[self.learning].sum().backward()
        for place, parameter in enumerate(self._parameters):
            if place not in self.learning:
                parameter.grad = None  # Adam would go on moving a layer that has stopped
        self._optimiser.step()
        return losses.detach()
