"""Does a set of heads do a task alone? Node-level faithfulness, in the definition of arXiv 2211.00593.

A circuit is a set of (head, role). All other (head, position) z are ablated; MLPs, norms and embeddings stay. F is the
mean logit difference: F(M) of the model, F(C) of the circuit. Faithfulness is `|F(M) - F(C)|` and `F(C) / F(M)`.
Such numbers hang on how they were made (arXiv 2407.08734), so none exists here without its `CircuitSetting`.

`transformer_lens.tools.analysis.faithfulness` measures edges, one pair at a time, as the share of the gap between clean
and corrupted: another quantity, not used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float64

from autointerp.circuits.ablation import (
    BATCH_CELLS,
    Ablation,
    CircuitNode,
    Replacements,
    Selection,
    ablation_edits,
)
from autointerp.circuits.measures import Reader, check_metrics
from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.patched_runs import BaseRun
from autointerp.records import Head
from autointerp.stats.bootstrap import Estimate, Resamples, interval

Circuit = frozenset[CircuitNode]


@dataclass(frozen=True)
class CircuitSetting:
    """Everything that was chosen; `str` gives it as one line, to stand beside every number."""

    model: str
    weights: str
    bos: str
    data_set: str
    n_prompts: int
    nodes: str
    positions: str
    ablation: str
    reference: str
    n_reference: int
    ratio: str
    seed: int

    def __str__(self) -> str:
        return "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in asdict(self).items())


class CircuitRuns:
    """Logit differences of the model with some nodes ablated, several selections side by side; each is run once."""

    def __init__(self, model: LanguageModel, prompts: ContrastSet, ablation: Ablation) -> None:
        check_metrics(("logit_diff",), prompts)
        self.model, self.prompts, self.ablation = model, prompts, ablation
        self._replacements = Replacements(model, prompts, ablation)
        self._known: dict[Selection, Float64[np.ndarray, " prompt"]] = {}
        self.resamples = Resamples.of(len(prompts), ablation.seed)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.prompts.notes, *self._replacements.notes)

    def logit_diffs(self, selections: Sequence[Selection]) -> Float64[np.ndarray, "selection prompt"]:
        """One row a selection; an average over draws where z is resampled."""
        wanted = [one for one in dict.fromkeys(selections) if one not in self._known]
        if wanted:
            for one, row in zip(wanted, self._run(wanted), strict=True):
                self._known[one] = row
        return np.stack([self._known[one] for one in selections])

    def mean(self, selection: Selection) -> float:
        return float(self.logit_diffs([selection])[0].mean())

    def _run(self, selections: Sequence[Selection]) -> Float64[np.ndarray, "selection prompt"]:
        found = np.zeros((len(selections), len(self.prompts)))
        for rows in self.prompts.batches(BATCH_CELLS):
            part = self.prompts.take(rows)
            reader = Reader(self.model, part)
            ends = torch.from_numpy(part.ends).to(self.model.device)
            base = BaseRun(self.model, self.model.to_ids(part.clean), ends)
            step = max(1, BATCH_CELLS // part.clean.size)
            for start in range(0, len(selections), step):
                some = selections[start : start + step]
                for draw in range(self._replacements.draws):
                    edits = ablation_edits(self.model, part, some, (self._replacements, rows, draw))
                    values = reader.values(base.final(edits, len(some)), ("logit_diff",))["logit_diff"]
                    found[start : start + step, rows] += values / self._replacements.draws
        return found

    def setting(self, nodes: Iterable[CircuitNode]) -> CircuitSetting:
        """The record of a number made here about these nodes."""
        roles = sorted({node.position or "all tokens" for node in nodes})
        reference = f"{self.ablation.reference.name} ({self.ablation.side})"
        revision = f" {self.model.revision}" if self.model.revision else ""
        return CircuitSetting(
            f"{self.model.name}{revision}", "as in the checkpoint, nothing folded or centred", self.model.bos_rule,
            self.prompts.name, len(self.prompts), "z of heads", ", ".join(roles) or "none", self.ablation.kind,
            "none" if self.ablation.kind == "zero" else reference, len(self.ablation.reference),
            "ratio of means", self.ablation.seed,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """F of the model, of the circuit and with everything ablated, logits; the gap and the ratio with intervals."""

    model: Estimate
    circuit: Estimate
    empty: Estimate
    gap: float
    ratio: Estimate
    n_nodes: int
    node_share: float  # of all (head, position) pairs
    setting: CircuitSetting
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"F(C) = {self.circuit.value:.3f} [{self.circuit.low:.3f}, {self.circuit.high:.3f}] of F(M) = "
            f"{self.model.value:.3f}, gap {self.gap:.3f}, ratio {self.ratio.value:.3f} [{self.ratio.low:.3f}, "
            f"{self.ratio.high:.3f}], everything ablated {self.empty.value:.3f} ({self.setting})"
        )


def faithfulness(runs: CircuitRuns, circuit: Circuit) -> Faithfulness:
    """Compare the circuit with the model. Raises BadInput for nodes that the model or the prompts do not have."""
    check_circuit(runs, circuit)
    everything = Selection(frozenset())
    whole, own, empty = runs.logit_diffs([everything, Selection(circuit, kept=True), Selection(frozenset(), kept=True)])
    model, kept, nothing = (estimate_mean(runs, values) for values in (whole, own, empty))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = runs.resamples.totals(own) / runs.resamples.totals(whole)
    ratio = kept.value / model.value if model.value else float("nan")
    pairs = float(runs.prompts.lengths.mean()) * runs.model.n_layers * runs.model.n_heads
    covered = sum(1.0 if node.position else float(runs.prompts.lengths.mean()) for node in circuit)
    return Faithfulness(
        model, kept, nothing, abs(model.value - kept.value), Estimate(ratio, *interval(drawn)), len(circuit),
        covered / pairs, runs.setting(circuit), runs.notes,
    )  # fmt: skip


def estimate_mean(runs: CircuitRuns, values: Float64[np.ndarray, " prompt"]) -> Estimate:
    """The mean over prompts with its interval."""
    return Estimate(float(values.mean()), *interval(runs.resamples.totals(values) / len(values)))


def check_circuit(runs: CircuitRuns, circuit: Circuit) -> None:
    """Raises BadInput for nodes that are not there."""
    check_nodes(runs.model, runs.prompts, circuit)


def check_nodes(model: LanguageModel, prompts: ContrastSet, nodes: Iterable[CircuitNode]) -> None:
    """Raises BadInput for heads that the model does not have and roles that the prompts do not have."""
    for node in nodes:
        if not (0 <= node.head.layer < model.n_layers and 0 <= node.head.index < model.n_heads):
            raise BadInput(
                f"{node.head}: {model.name} has layers 0 to {model.n_layers - 1} with heads 0 to {model.n_heads - 1}."
            )
        if node.position:
            prompts.role(node.position)


def all_nodes(model: LanguageModel) -> Circuit:
    """Every head at all positions."""
    return frozenset(CircuitNode(Head(layer=n, index=h)) for n in range(model.n_layers) for h in range(model.n_heads))
