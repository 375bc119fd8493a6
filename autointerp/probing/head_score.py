"""The scorer `probe` of a described head: is a label that follows from the description carried by what it writes?

1. The caller labels destinations of text windows (the identity or class of the attended source, say); -1 is none.
2. Up to `max_items` labelled destinations are drawn, evenly over documents; classes in fewer than two documents or with
   fewer than `min_class` items are left out, and at most `max_classes` are kept.
3. A linear probe on the head's z is tested on held-out documents, beside a small set of controls: majority, shuffled
   labels, embedding, position, earlier layer, random-OV, control task, a few other heads.

Decodable is not used: the causal scorers say whether the model relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.sites import Kind, Row, Site, read_sites
from autointerp.probing import controls
from autointerp.probing.controls import Outcome
from autointerp.probing.reporting import ControlRow, Others, result_line
from autointerp.probing.results import ProbeResult
from autointerp.probing.uncertainty import Draws
from autointerp.probing.validation import Task, Tested, cross_validate
from autointerp.records import Control, Failure, Head, Score, Unscored

NAME = "probe"
_OF_THE_HEAD: tuple[Kind, ...] = ("pattern_row", "mixed")


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows as fed, right-padded, with a label for each destination that counts.

    `labels [window pos]`: class number, -1 where there is none. `types`: what the control task may memorise, such as
    the attended source's id; without it, the destination's own id. `documents`: any numbers, equal for one document.
    """

    ids: Int[np.ndarray, "window pos"]
    lengths: Int[np.ndarray, " window"]
    documents: Int[np.ndarray, " window"]
    labels: Int[np.ndarray, "window pos"]
    class_names: tuple[str, ...]
    types: Int[np.ndarray, "window pos"] | None = None

    def __post_init__(self) -> None:
        if self.labels.shape != self.ids.shape or (self.types is not None and self.types.shape != self.ids.shape):
            raise BadInput(
                f"labels of shape {self.labels.shape} for ids of shape {self.ids.shape}; give one a position."
            )
        if not len(self.ids) == len(self.lengths) == len(self.documents):
            raise BadInput(f"{len(self.ids)} windows, {len(self.lengths)} lengths, {len(self.documents)} documents.")
        if self.labels.size and int(self.labels.max()) >= len(self.class_names):
            raise BadInput(f"label {int(self.labels.max())} has no name; {len(self.class_names)} are given.")


@dataclass(frozen=True)
class ProbeBudget:
    """What a described head may cost: items, classes, and draws of the controls."""

    max_items: int = 1000
    max_classes: int = 10
    min_class: int = 10
    shuffles: int = 3
    control_tasks: int = 1
    random_ov: int = 1
    other_heads: int = 3
    batch_size: int = 8
    seed: int = 0


def probe_head(
    model: LanguageModel, head: Head, windows: LabelledWindows, budget: ProbeBudget | None = None
) -> Score | Unscored:
    """The result line of one head as a `Score` (accuracy), or why there is none.

    `details`: margin over the best control with its interval, selectivity, head percentile, conclusion.
    """
    budget = budget or ProbeBudget()
    chosen = _chosen(windows, budget)
    if isinstance(chosen, Unscored):
        return chosen
    window, position = chosen
    rows = [Row(windows.ids[w, : windows.lengths[w]], int(p)) for w, p in zip(window, position, strict=True)]
    try:
        task = _task(windows, window, position, budget.seed)
    except BadInput as error:
        return Unscored(scorer=NAME, reason=str(error))
    lab = _Lab.of(model, Site("z", head.layer, head.index), rows, task, budget)
    tested = lab.tested(lab.site)
    if isinstance(tested, Failure):
        return Unscored(scorer=NAME, reason=tested.reason)
    return score_of(result_line(str(lab.site), task, tested, Draws.of(task), lab.controls(), lab.other_heads()))


@dataclass(frozen=True, eq=False)
class _Lab:
    """Activations of one head and of what its controls need."""

    model: LanguageModel
    site: Site
    task: Task
    budget: ProbeBudget
    heads: tuple[Site, ...]
    x: dict[Site, Float[Tensor, "item d"]]

    @classmethod
    def of(cls, model: LanguageModel, site: Site, rows: Sequence[Row], task: Task, budget: ProbeBudget) -> _Lab:
        heads = _other_heads(model, site, budget)
        sites = [site, Site("resid_pre", 0), Site("resid_pre", site.layer), *heads]
        sites += [Site(kind, site.layer, site.index) for kind in _OF_THE_HEAD]
        x = read_sites(model, rows, list(dict.fromkeys(sites)), batch_size=budget.batch_size)
        return cls(model, site, task, budget, heads, x)

    def tested(self, site: Site) -> Tested | Failure:
        return cross_validate(self.x[site], self.task)

    def controls(self) -> list[ControlRow]:
        x, task, budget = self.x[self.site], self.task, self.budget
        layer, index = self.site.layer, self.site.index
        return [
            ControlRow("majority", "floor", Outcome(controls.majority(task))),
            ControlRow("shuffled_labels", "floor", controls.shuffled_labels(x, task, budget.shuffles)),
            ControlRow("embedding", "presence", self._of(Site("resid_pre", 0))),
            ControlRow("positional", "presence", self._of(Site("pattern_row", layer, index))),
            ControlRow("earlier_layer", "movement", self._of(Site("resid_pre", layer))),
            ControlRow("random_ov", "movement", self._random_ov()),
            ControlRow("control_task", "capacity", controls.control_task(x, task, budget.control_tasks)),
        ]

    def other_heads(self) -> Others:
        found = [t for t in map(self.tested, self.heads) if isinstance(t, Tested)]
        accuracies = [float(t.correct(self.task.y)[self.task.tested].mean()) for t in found]
        return Others(tuple(accuracies), len(self.heads) - len(found))

    def _of(self, other: Site) -> Outcome | Failure:
        return controls.outcome_of(self.tested(other), self.task, str(other))

    def _random_ov(self) -> Outcome | Failure:
        values = self.model.W_V(self.site.layer)
        own = values[self.site.index * len(values) // self.model.n_heads]
        mixed = self.x[Site("mixed", self.site.layer, self.site.index)]
        return controls.random_ov(mixed, own.shape[1], float(own.norm()), self.task, self.budget.random_ov)


def score_of(result: ProbeResult) -> Score:
    """A result line as a scorer's `Score`: floors are nulls, everything else is a rival."""
    return Score(
        scorer=NAME,
        metric="accuracy",
        domain="text",
        value=result.accuracy.value,
        low=result.accuracy.low,
        high=result.accuracy.high,
        n_items=result.n_items,
        n_docs=result.n_groups,
        prevalence=result.chance,
        chance=result.chance,
        controls=tuple(_as_control(c.name, result) for c in result.controls),
        state=result.status,
        details={
            "best_control": result.best_control,
            "margin": result.margin.value,
            "margin_low": result.margin.low,
            "margin_high": result.margin.high,
            "p_margin": result.p_margin,
            "selectivity": None if result.selectivity is None else result.selectivity.value,
            "selectivity_low": None if result.selectivity is None else result.selectivity.low,
            "selectivity_high": None if result.selectivity is None else result.selectivity.high,
            "selectivity_note": result.selectivity_note,
            "head_percentile": None if np.isnan(result.head_percentile) else result.head_percentile,
            "n_other_heads": result.n_other_heads,
            "n_classes": len(result.class_names),
            "macro_f1": result.macro_f1,
            "log_loss": result.log_loss,
            "conclusion": result.conclusion,
        },
    )


def _as_control(name: str, result: ProbeResult) -> Control:
    found = result.control(name)
    if found is None:
        raise BadInput(f"no control {name!r} in the result of {result.site}")
    return Control(
        name=name,
        kind="null" if found.kind == "floor" else "rival",
        value=found.accuracy.value,
        difference=found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        beaten=found.beaten,
        detail=found.detail,
    )


Chosen = tuple[Int[np.ndarray, " item"], Int[np.ndarray, " item"]]


def _chosen(windows: LabelledWindows, budget: ProbeBudget) -> Chosen | Unscored:
    """Window and position of the items: a seeded draw, document by document in turn."""
    inside = np.arange(windows.ids.shape[1]) < windows.lengths[:, None]
    window, position = np.nonzero((windows.labels >= 0) & inside & (np.arange(windows.ids.shape[1]) > 0))
    label, document = windows.labels[window, position], windows.documents[window]
    kept = _kept_classes(label, document, budget)
    if len(kept) < 2:
        return Unscored(
            scorer=NAME,
            reason=f"{len(kept)} classes have {budget.min_class} labelled destinations in two documents, not 2",
        )
    rows = np.flatnonzero(np.isin(label, kept))
    shuffled = np.random.default_rng(budget.seed).permutation(rows)
    turn = np.empty(len(shuffled), dtype=np.int64)
    seen: dict[int, int] = {}
    for place, owner in enumerate(document[shuffled].tolist()):
        turn[place] = seen[owner] = seen.get(owner, -1) + 1
    drawn = np.sort(shuffled[np.argsort(turn, kind="stable")][: budget.max_items])
    return window[drawn], position[drawn]


def _kept_classes(
    label: Int[np.ndarray, " item"], document: Int[np.ndarray, " item"], budget: ProbeBudget
) -> list[int]:
    counts = {c: int((label == c).sum()) for c in np.unique(label).tolist()}
    good = [c for c in counts if counts[c] >= budget.min_class and len(np.unique(document[label == c])) > 1]
    return sorted(sorted(good, key=lambda c: -counts[c])[: budget.max_classes])


def _task(
    windows: LabelledWindows, window: Int[np.ndarray, " item"], position: Int[np.ndarray, " item"], seed: int
) -> Task:
    labels = [windows.class_names[c] for c in windows.labels[window, position].tolist()]
    groups = {"document": [str(d) for d in windows.documents[window].tolist()]}
    types = (windows.ids if windows.types is None else windows.types)[window, position]
    return Task.of(labels, groups, "document", seed, np.asarray(types))


def _other_heads(model: LanguageModel, site: Site, budget: ProbeBudget) -> tuple[Site, ...]:
    """A few other heads of the model, drawn under the seed."""
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    every.remove((site.layer, site.index))
    picks = np.random.default_rng([budget.seed, 6]).permutation(len(every))[: budget.other_heads]
    return tuple(Site("z", *every[p]) for p in sorted(picks.tolist()))
