"""Completeness and minimality of a circuit C in a model M (arXiv 2211.00593, sections 4.2 and 4.3).

Completeness: for subsets K of C, `|F(C \\ K) - F(M \\ K)|`: taking K out must hurt the circuit as it hurts the model.
K are random subsets, whole classes, and sets found greedily. Minimality: for a node v, `|F(C \\ (K + v)) - F(C \\ K)|`
for the K (of candidates without v) that shows v best, as a share of F(M).

Greedy search: from K = {}, repeat: draw k nodes of C \\ K, add the one with the largest objective. The objective is the
incompleteness score, as the paper's text says; `step` is that of its pseudo-code, `|F(C \\ (K + v)) - F(C \\ K)|`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.circuits.ablation import CircuitNode, Selection
from autointerp.circuits.circuit import Circuit, CircuitRuns, CircuitSetting, check_circuit
from autointerp.errors import BadInput
from autointerp.stats.bootstrap import Estimate, interval

OBJECTIVES = ("incompleteness", "step")


@dataclass(frozen=True, eq=False)
class Knockout:
    """One K: F(C \\ K), F(M \\ K) and the difference with its interval, logits."""

    name: str
    nodes: Circuit
    circuit: float
    model: float
    difference: Estimate  # F(C \ K) - F(M \ K)

    @property
    def score(self) -> float:
        return abs(self.difference.value)


@dataclass(frozen=True, eq=False)
class Completeness:
    """All K with their scores."""

    knockouts: tuple[Knockout, ...]
    setting: CircuitSetting


def completeness(runs: CircuitRuns, circuit: Circuit, subsets: Mapping[str, Circuit]) -> Completeness:
    """Score each named K. K = {} is always among them, and its score is the faithfulness gap."""
    check_circuit(runs, circuit)
    named = {"nothing": frozenset[CircuitNode](), **subsets}
    for name, nodes in named.items():
        if not nodes <= circuit:
            raise BadInput(f"K {name!r} holds {', '.join(map(str, sorted(nodes - circuit)))}, not in the circuit.")
    own = runs.logit_diffs([Selection(circuit - nodes, kept=True) for nodes in named.values()])
    whole = runs.logit_diffs([Selection(nodes) for nodes in named.values()])
    found: list[Knockout] = []
    for (name, nodes), first, second in zip(named.items(), own, whole, strict=True):
        drawn = runs.resamples.totals(first - second) / len(first)
        difference = Estimate(float((first - second).mean()), *interval(drawn))
        found.append(Knockout(name, nodes, float(first.mean()), float(second.mean()), difference))
    return Completeness(tuple(found), runs.setting(circuit))


def random_subsets(circuit: Circuit, rng: np.random.Generator, n: int = 10) -> dict[str, Circuit]:
    """Subsets in which each node stands with probability one half."""
    nodes = sorted(circuit)
    draws = rng.random((n, len(nodes))) < 0.5
    return {f"random {k + 1}": frozenset(v for v, there in zip(nodes, row, strict=True) if there)
            for k, row in enumerate(draws)}  # fmt: skip


@dataclass(frozen=True)
class GreedyPlan:
    """`k` candidates a step (the paper: 10, and 5 for its naive circuit), `steps`, `runs`, how many sets to keep."""

    k: int = 10
    steps: int = 10
    runs: int = 10
    keep: int = 5
    objective: str = "incompleteness"


def greedy_subsets(
    runs: CircuitRuns, circuit: Circuit, rng: np.random.Generator, plan: GreedyPlan | None = None
) -> dict[str, Circuit]:
    """The most incomplete sets met, intermediate ones included."""
    plan = plan or GreedyPlan()
    if plan.objective not in OBJECTIVES or min(plan.k, plan.steps, plan.runs, plan.keep) < 1:
        raise BadInput(f"{plan}: the objective is one of {', '.join(OBJECTIVES)}, and the numbers are at least 1.")
    met: dict[Circuit, float] = {}
    for _ in range(plan.runs):
        chosen: Circuit = frozenset()
        for _ in range(min(plan.steps, len(circuit))):
            left = sorted(circuit - chosen)
            some = [left[n] for n in rng.permutation(len(left))[: plan.k]]
            sets = [chosen | {node} for node in some]
            scores = _objective(runs, circuit, chosen, sets, plan.objective)
            chosen = sets[int(np.argmax(scores))]
            met[chosen] = float(_incompleteness(runs, circuit, [chosen])[0])
    best = sorted(met, key=lambda nodes: (-met[nodes], sorted(nodes)))[: plan.keep]
    return {f"greedy {n + 1}": nodes for n, nodes in enumerate(best)}


def _objective(runs: CircuitRuns, circuit: Circuit, chosen: Circuit, sets: Sequence[Circuit], name: str) -> np.ndarray:
    if name == "incompleteness":
        return _incompleteness(runs, circuit, sets)
    before = runs.mean(Selection(circuit - chosen, kept=True))
    after = runs.logit_diffs([Selection(circuit - nodes, kept=True) for nodes in sets]).mean(1)
    return np.asarray(np.abs(after - before))


def _incompleteness(runs: CircuitRuns, circuit: Circuit, sets: Sequence[Circuit]) -> np.ndarray:
    own = runs.logit_diffs([Selection(circuit - nodes, kept=True) for nodes in sets]).mean(1)
    whole = runs.logit_diffs([Selection(nodes) for nodes in sets]).mean(1)
    return np.asarray(np.abs(own - whole))


@dataclass(frozen=True, eq=False)
class NodeNeed:
    """What a node adds: F(C \\ K) and F(C \\ (K + v)), and the difference as a share of F(M)."""

    node: CircuitNode
    k: str
    without: float
    with_node: float
    share: Estimate


@dataclass(frozen=True, eq=False)
class Minimality:
    """One row a node, the least needed last."""

    nodes: tuple[NodeNeed, ...]
    setting: CircuitSetting


def minimality(runs: CircuitRuns, circuit: Circuit, candidates: Mapping[str, Circuit]) -> Minimality:
    """For each node the candidate K (taken without the node; {} is always one) that shows it best.

    The choice of K favours the node: the share is an upper end, and the interval does not know of the choice.
    """
    check_circuit(runs, circuit)
    named = {"nothing": frozenset[CircuitNode](), **candidates}
    whole = runs.logit_diffs([Selection(frozenset())])[0]
    found: list[NodeNeed] = []
    for node in sorted(circuit):
        sets = [(nodes & circuit) - {node} for nodes in named.values()]
        kept = runs.logit_diffs([Selection(circuit - nodes, kept=True) for nodes in sets])
        lost = runs.logit_diffs([Selection(circuit - nodes - {node}, kept=True) for nodes in sets])
        best = int(np.argmax(np.abs((kept - lost).mean(1))))
        change = np.abs(runs.resamples.totals(kept[best] - lost[best])) / np.abs(runs.resamples.totals(whole))
        value = abs(float((kept[best] - lost[best]).mean())) / max(abs(float(whole.mean())), 1e-12)
        share = Estimate(value, *interval(change))
        means = float(lost[best].mean()), float(kept[best].mean())
        found.append(NodeNeed(node, list(named)[best], *means, share))
    found.sort(key=lambda need: -need.share.value)
    return Minimality(tuple(found), runs.setting(circuit))
