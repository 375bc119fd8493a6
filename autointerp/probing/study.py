"""A probe study: one or many sites on one task, with every baseline and control.

1. One collection serves the sites asked for and those that the controls read; another one the random-weights model.
2. Each site's probe is tested on the task's folds; controls go through the same folds and the same penalty rule.
3. `reporting` turns what was right and wrong into the result lines; over many sites the margins' p-values are
   adjusted by Benjamini-Hochberg.

A site that is chosen by its accuracy here needs a new data set for the number to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.model import LanguageModel, random_twin
from autointerp.model.sites import HEAD_KINDS, Site, has_resid_mid
from autointerp.probing import controls
from autointerp.probing.collection import CollectOptions, collect
from autointerp.probing.controls import FULL, Budget, Outcome
from autointerp.probing.items import ProbeSet
from autointerp.probing.reporting import ControlRow, Others, adjusted, result_line
from autointerp.probing.results import ProbeResult
from autointerp.probing.uncertainty import Draws
from autointerp.probing.validation import Task, Tested, cross_validate
from autointerp.records import Failure, Unscored

Progress = Callable[[str, int, int], None]
READABLE = ("z", "result", "pattern_row", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")


def silent(stage: str, done: int, of: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class StudySettings:
    """How much each control is drawn, how activations are collected, who hears of the progress."""

    budget: Budget = FULL
    collecting: CollectOptions = field(default_factory=CollectOptions)
    progress: Progress = silent


@dataclass(frozen=True, eq=False)
class Study:
    """Results in the order of the sites asked for, and the activations behind them."""

    task: Task
    results: tuple[ProbeResult | Failure, ...]
    activations: dict[Site, Float[Tensor, "item d"]] = field(repr=False)


def task_of(probe_set: ProbeSet, split: str, seed: int) -> Task:
    """The task of placed items; the types of the control task are lexemes, or the tokens read where none is named."""
    names = probe_set.groups.get("lexeme") or [placed.token for placed in probe_set.items]
    types = np.unique(np.asarray(names), return_inverse=True)[1]
    return Task.of(probe_set.labels, probe_set.groups, split, seed, types)


def run_study(
    model: LanguageModel, probe_set: ProbeSet, task: Task, sites: Sequence[Site], settings: StudySettings | None = None
) -> Study:
    """Probe every site of `sites`. Raises BadInput for a site that cannot be probed."""
    settings = settings or StudySettings()
    unreadable = next((site for site in sites if site.kind not in READABLE), None)
    if unreadable is not None or not sites:
        raise BadInput(f"site {unreadable} is none that can be probed; those are {', '.join(READABLE)}.")
    asked = [site.check(model) for site in sites]
    lab = _Lab(model, probe_set, task, settings)
    lab.collect(asked)
    draws = Draws.of(task)
    found: list[ProbeResult | Failure] = []
    for number, site in enumerate(asked):
        settings.progress("probing", number, len(asked))
        found.append(_one(lab, site, draws))
    settings.progress("probing", len(asked), len(asked))
    return Study(task, tuple(adjusted(found)), {site: lab.x[read] for site, read in zip(sites, asked, strict=True)})


def _one(lab: _Lab, site: Site, draws: Draws) -> ProbeResult | Failure:
    tested = lab.tested(site)
    if isinstance(tested, Failure):
        return tested
    rows = list(_control_rows(lab, site))
    return result_line(str(site), lab.task, tested, draws, rows, lab.others(site))


class _Lab:
    """Features of all sites that are needed, and each site's test, made once."""

    def __init__(self, model: LanguageModel, probe_set: ProbeSet, task: Task, settings: StudySettings) -> None:
        self.model, self.probe_set, self.task, self.settings = model, probe_set, task, settings
        self.x: dict[Site, Tensor] = {}
        self.twin: dict[Site, Tensor] | Unscored = Unscored(scorer="random_weights", reason="not asked for")
        self._tested: dict[Site, Tested | Failure] = {}
        self._has_mid = has_resid_mid(model)

    @property
    def budget(self) -> Budget:
        return self.settings.budget

    def collect(self, asked: Sequence[Site]) -> None:
        """One collection of the model, one of its random-weights twin."""
        needed = dict.fromkeys(s for site in asked for s in (site, *self._control_sites(site)))
        self.settings.progress("collecting", 0, 1)
        self.x = collect(self.model, self.probe_set, list(needed), self.settings.collecting)
        if self.budget.random_weights:
            self.settings.progress("collecting from random weights", 0, 1)
            try:
                twin = random_twin(self.model, self.task.seed)
                self.twin = collect(twin, self.probe_set, list(dict.fromkeys(asked)), self.settings.collecting)
            except (ModelError, BadInput, RuntimeError, ValueError, TypeError) as error:
                self.twin = Unscored(scorer="random_weights", reason=f"no random-weights model: {str(error)[:200]}")

    def _control_sites(self, site: Site) -> list[Site]:
        needed = [Site("resid_pre", 0)]
        earlier = self.earlier(site)
        needed += [earlier] if earlier else []
        if site.kind not in HEAD_KINDS:
            return needed
        needed += [Site("resid_mid", site.layer)] if self._has_mid else []
        needed += [Site(kind, site.layer, site.index) for kind in ("pattern_row", "mixed", "uniform_z")]
        return needed + [Site(site.kind, *head) for head in self.other_heads(site)]

    def earlier(self, site: Site) -> Site | None:
        """The stream before the layer that writes the site; None for the embedding itself."""
        layer = site.layer - 1 if site.kind == "resid_pre" else site.layer
        return Site("resid_pre", layer) if layer >= 0 else None

    def mid(self, site: Site) -> Site | None:
        return Site("resid_mid", site.layer) if self._has_mid and site.kind in HEAD_KINDS else None

    def other_heads(self, site: Site) -> list[tuple[int, int]]:
        model = self.model
        if self.budget.other_heads < 0:
            return []
        return controls.sampled_heads(site, model.n_layers, model.n_heads, self.budget, self.task.seed)

    def tested(self, site: Site) -> Tested | Failure:
        if site not in self._tested:
            self._tested[site] = cross_validate(self.x[site], self.task)
        return self._tested[site]

    def others(self, site: Site) -> Others:
        """Accuracies of the other heads, and how many could not be trained."""
        if site.kind not in HEAD_KINDS:
            return Others((), 0)
        found = [self.tested(Site(site.kind, *head)) for head in self.other_heads(site)]
        rows = self.task.tested
        good = [t.correct(self.task.y)[rows].mean() for t in found if isinstance(t, Tested)]
        return Others(tuple(float(a) for a in good), len(found) - len(good))


def _control_rows(lab: _Lab, site: Site) -> list[ControlRow]:
    """All controls of a site, in the order of the table."""
    task, x, budget = lab.task, lab.x[site], lab.budget
    rows = [
        ControlRow("majority", "floor", Outcome(controls.majority(task))),
        ControlRow("shuffled_labels", "floor", controls.shuffled_labels(x, task, budget.shuffles)),
        ControlRow("embedding", "presence", _of_site(lab, site, Site("resid_pre", 0))),
        ControlRow("positional", "presence", _positional(lab, site)),
        ControlRow("random_weights", "presence", _random_weights(lab, site)),
        ControlRow("earlier_layer", "movement", _of_site(lab, site, lab.earlier(site))),
    ]
    if site.kind in HEAD_KINDS:
        mid = lab.mid(site)
        gain = _of_site(lab, site, mid) if mid else Unscored(scorer="resid_mid", reason="the block has no such stream")
        rows += [
            ControlRow("resid_mid", "context", gain),
            ControlRow("random_ov", "movement", _random_ov(lab, site)),
            ControlRow("uniform_pattern", "movement", _uniform(lab, site)),
        ]
    return [*rows, ControlRow("control_task", "capacity", controls.control_task(x, task, budget.control_tasks))]


def _of_site(lab: _Lab, site: Site, other: Site | None) -> Outcome | Failure | Unscored:
    if other is None or other == site:
        return Unscored(scorer="site", reason=f"{site} is that place itself")
    return controls.outcome_of(lab.tested(other), lab.task, str(other))


def _positional(lab: _Lab, site: Site) -> Outcome | Failure | Unscored:
    if site.kind == "pattern_row":
        return Unscored(scorer="positional", reason="the site is the positional control itself")
    if site.kind in HEAD_KINDS:
        return controls.outcome_of(lab.tested(Site("pattern_row", site.layer, site.index)), lab.task, "pattern_row")
    lengths = np.array([len(placed.ids) for placed in lab.probe_set.items])
    features = controls.position_features(lab.probe_set.positions, lengths)
    return controls.outcome_of(cross_validate(features, lab.task), lab.task, "position and length")


def _random_weights(lab: _Lab, site: Site) -> Outcome | Failure | Unscored:
    if isinstance(lab.twin, Unscored):
        return lab.twin
    return controls.outcome_of(cross_validate(lab.twin[site], lab.task), lab.task, "same architecture, untrained")


def _random_ov(lab: _Lab, site: Site) -> Outcome | Failure | Unscored:
    if site.kind == "pattern_row":
        return Unscored(scorer="random_ov", reason="a pattern has no output circuit")
    values = lab.model.W_V(site.layer)
    own = values[site.index * len(values) // lab.model.n_heads]
    mixed = lab.x[Site("mixed", site.layer, site.index)]
    return controls.random_ov(mixed, own.shape[1], float(own.norm()), lab.task, lab.budget.random_ov)


def _uniform(lab: _Lab, site: Site) -> Outcome | Failure | Unscored:
    if site.kind == "pattern_row":
        return Unscored(scorer="uniform_pattern", reason="a uniform pattern holds nothing")
    return _of_site(lab, site, Site("uniform_z", site.layer, site.index))
