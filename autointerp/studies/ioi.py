"""The indirect-object study of a model from end to end (arXiv 2211.00593), every head found by what it does.

1. Data (`ioi_data`) and performance on it, on its S2 flip, with IO named once more (adversarial), with S once more.
2. Direct attribution of all heads, and activation patching of z at the roles in both directions.
3. Path patching from the answer back (`ioi_trace`), against the reference distribution `abc`.
4. The traced heads as a circuit: faithfulness, completeness, minimality, under template means of `abc`.
5. Classes of heads by the paper's definitions, the backups of the movers among them (`ioi_classes`).
6. What the traced heads say about S (`ioi_signals`), what the writers write and copy (`ioi_copying`), what the MLPs are
   worth (`ioi_mlps`), and what all heads do on repeated random tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from autointerp.circuits.ablation import Ablation, CircuitNode
from autointerp.circuits.attribution import attribute
from autointerp.circuits.cells import CellTable
from autointerp.circuits.circuit import Circuit, CircuitRuns, Faithfulness, faithfulness
from autointerp.circuits.completeness import (
    Completeness,
    GreedyPlan,
    Minimality,
    completeness,
    greedy_subsets,
    minimality,
    random_subsets,
)
from autointerp.circuits.patching import PatchPlan, patch
from autointerp.circuits.prompts import ContrastSet
from autointerp.circuits.runs import Progress, silent
from autointerp.circuits.saved import revision_of
from autointerp.circuits.validation import HeadValidation, validate_heads
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.stats.bootstrap import clopper_pearson
from autointerp.studies.ioi_classes import Classes, classify
from autointerp.studies.ioi_copying import Copying, Direction, copying, directions
from autointerp.studies.ioi_data import (
    Fillers,
    IoiPerformance,
    IoiPrompt,
    IoiSpec,
    ioi_prompts,
    ioi_set,
    performance,
    with_aside,
)
from autointerp.studies.ioi_mlps import MlpKnockouts, mlp_knockouts
from autointerp.studies.ioi_signals import Signals, signals
from autointerp.studies.ioi_text import NAMES, OBJECTS, PLACES
from autointerp.studies.ioi_trace import Stage, TraceSpec, role_attention, trace, traced_circuit

ROLES = ("IO", "S1", "S2", "END")
GPT2_SMALL = ("gpt2", "openai-community/gpt2")
SHOWN = 3  # writers of each sign whose direction is drawn


@dataclass(frozen=True)
class StudySpec:
    """Size of the data and of the searches. Template means need 5 prompts a group or more."""

    data: IoiSpec = field(default_factory=IoiSpec)
    trace: TraceSpec = field(default_factory=TraceSpec)
    greedy: GreedyPlan = field(default_factory=lambda: GreedyPlan(k=5, steps=4, runs=3))
    random_sets: int = 10


@dataclass(frozen=True, eq=False)
class IoiStudy:
    """All results. `patching` by direction; `attention [layer head dst src]` over ROLES; `signals` by position."""

    model: str
    revision: str
    bos_rule: str
    seed: int
    gpt2_small: bool
    n_prompts: int
    performance: dict[str, IoiPerformance]
    attribution: CellTable
    patching: dict[str, CellTable]
    stages: tuple[Stage, ...]
    attention: Float64[np.ndarray, "layer head dst src"]
    circuit: Circuit
    faithfulness: Faithfulness
    completeness: Completeness
    minimality: Minimality
    classes: Classes
    signals: dict[str, Signals]
    directions: tuple[Direction, ...]
    copying: Copying
    mlps: MlpKnockouts
    validation: HeadValidation
    notes: tuple[str, ...]


def run_study(model: LanguageModel, spec: StudySpec | None = None, progress: Progress = silent) -> IoiStudy:
    """Raises BadInput where the vocabulary lacks the words, or the model does not do the task."""
    spec = spec or StudySpec()
    if spec.data.per_group < 5:
        raise BadInput(f"{spec.data.per_group} prompts in a group; a template mean needs 5 or more.")
    progress("performance", 0, 1)
    fillers = Fillers.of(model)
    prompts = ioi_prompts(fillers, spec.data)
    flipped, reference = (ioi_set(model, prompts, fillers, flip, spec.data.seed) for flip in ("s2_io", "abc"))
    found = _performance(model, prompts, fillers, flipped)
    _check_does_it(model, found["clean"])
    patching = {
        direction: patch(model, flipped, PatchPlan("z", "head-position", direction, ("score",), ROLES),
                         progress=progress)["score"]
        for direction in ("denoise", "noise")
    }  # fmt: skip
    stages = trace(model, reference, spec.trace, progress)
    circuit = traced_circuit(stages)
    progress("circuit", 0, 1)
    runs = CircuitRuns(model, reference, Ablation("template_mean", reference, seed=spec.data.seed))
    rng = np.random.default_rng([spec.data.seed, 4])
    greedy = greedy_subsets(runs, circuit, rng, spec.greedy)
    subsets = {**random_subsets(circuit, rng, spec.random_sets), **_by_stage(stages), **greedy}
    classes = classify(model, reference, stages, runs.ablation, spec.trace)
    progress("signals", 0, 1)
    by_position = {
        position: signals(model, prompts, fillers, [n for n in sorted(circuit) if n.position == position])
        for position in sorted({node.position for node in circuit})
    }
    writers = (*stages[0].helping[:SHOWN], *stages[0].hurting[:SHOWN])
    return IoiStudy(
        model.name, revision_of(model), model.bos_rule, spec.data.seed, _is_gpt2_small(model), len(prompts), found,
        attribute(model, flipped).head_table(spec.data.seed, set=flipped.name), patching, stages,
        role_attention(model, flipped, ROLES), circuit, faithfulness(runs, circuit),
        completeness(runs, circuit, subsets), minimality(runs, circuit, greedy), classes, by_position,
        directions(model, reference, writers, spec.data.seed), copying(model, reference),
        mlp_knockouts(model, reference, spec.data.seed),
        validate_heads(model, _pool(model), seed=spec.data.seed), tuple(dict.fromkeys((*fillers.notes, *runs.notes))),
    )  # fmt: skip


def _check_does_it(model: LanguageModel, clean: IoiPerformance) -> None:
    ahead = round(clean.io_over_s * clean.n)
    if clean.logit_diff <= 0 or clopper_pearson(ahead, clean.n)[0] <= 0.5:
        raise BadInput(
            f"{model.name} does not do the task: mean logit difference {clean.logit_diff:.3g}, the right name ahead in "
            f"{ahead} of {clean.n} prompts, which is no more than chance. There is nothing to explain."
        )


def _performance(
    model: LanguageModel, prompts: list[IoiPrompt], fillers: Fillers, flipped: ContrastSet
) -> dict[str, IoiPerformance]:
    more = {name: ioi_set(model, with_aside(prompts, who), fillers, "s2_io")
            for name, who in (("IO named once more", "io"), ("S named once more", "s"))}  # fmt: skip
    sets = {"clean": flipped, "S2 is IO": flipped.swapped(), **more}
    return {name: performance(model, one) for name, one in sets.items()}


def _by_stage(stages: tuple[Stage, ...]) -> dict[str, Circuit]:
    """Each stage's senders as one set: the classes of this circuit."""
    return {
        f"into {stage.into} at {stage.position}": frozenset(CircuitNode(head, stage.position) for head in stage.senders)
        for stage in stages
        if stage.senders
    }


def _pool(model: LanguageModel) -> Int[np.ndarray, " token"]:
    """Ordinary tokens for the repeats: those of the study's own words."""
    text = " ".join(("Then", *NAMES, *PLACES, *OBJECTS))
    ids = model.encode(text)[0].tolist()
    return np.array([i for i in dict.fromkeys(ids) if i not in model.special_ids], dtype=np.int64)


def _is_gpt2_small(model: LanguageModel) -> bool:
    """By its name on the hub, or that of a local folder, and its shape: 12 layers of 12 heads, width 768."""
    local = model.revision.startswith("sha256:")
    named = (Path(model.name).name if local else model.name) in GPT2_SMALL
    return named and (model.n_layers, model.n_heads, *model.W_U.shape) == (12, 12, 768, 50257)
