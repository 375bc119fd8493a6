"""Tracing the answer back on the demo model, which does the task: what is found must be what ablation says."""

from __future__ import annotations

import numpy as np
import pytest

from autointerp.circuits.ablation import Ablation, CircuitNode, Selection
from autointerp.circuits.circuit import CircuitRuns, faithfulness
from autointerp.circuits.patching import PatchPlan, patch
from autointerp.errors import BadInput
from autointerp.records import Head
from autointerp.studies.ioi_data import SIGNALS, IoiSpec, ioi_prompts, ioi_set
from autointerp.studies.ioi_signals import signals
from autointerp.studies.ioi_trace import Stage, TraceSpec, role_attention, trace, traced_circuit
from tests.circuit_helpers import demo, fillers

SPEC = IoiSpec(per_group=5, templates=(0, 1, 2, 3, 8, 9))


@pytest.fixture(scope="module")
def stages() -> tuple[Stage, ...]:
    return trace(demo(), ioi_set(demo(), ioi_prompts(fillers(), SPEC), fillers(), "abc"))


def test_the_first_stage_is_the_logits_and_every_other_one_is_behind_it(stages: tuple[Stage, ...]) -> None:
    assert stages[0].into == "logits" and stages[0].receivers == () and stages[0].position == "END"
    movers = stages[0].senders
    assert movers
    for stage in stages[1:]:
        assert stage.into in ("q", "k", "v") and stage.receivers
        for sender in stage.senders:
            assert sender.layer < max(head.layer for head in stage.receivers)
    assert any(stage.senders and set(stage.receivers) <= set(movers) for stage in stages[1:])


def test_senders_pass_the_test_and_the_threshold(stages: tuple[Stage, ...]) -> None:
    for stage in stages:
        least = 0.02 * abs(float(stage.table.settings["clean"]))
        for n, cell in enumerate(stage.table.cells):
            head = Head(layer=cell.layer, index=cell.head)
            mean = stage.table.mean[n]
            wanted = bool(stage.table.flagged[n]) and abs(mean) >= least
            assert (head in stage.senders) == wanted
            if wanted:
                assert (head in stage.helping) == (mean < 0)


def test_the_movers_are_the_heads_whose_patch_breaks_the_answer(stages: tuple[Stage, ...]) -> None:
    prompts = ioi_set(demo(), ioi_prompts(fillers(), SPEC), fillers(), "abc")
    table = patch(demo(), prompts, PatchPlan("z", "head-position", "noise", positions=("END",)))["logit_diff"]
    worst = table.cells[table.strongest(1)[0]]
    assert Head(layer=worst.layer, index=worst.head) == stages[0].helping[0]


def test_the_traced_heads_do_the_task_and_others_do_not(stages: tuple[Stage, ...]) -> None:
    prompts = ioi_set(demo(), ioi_prompts(fillers(), SPEC), fillers(), "abc")
    runs = CircuitRuns(demo(), prompts, Ablation("template_mean", prompts))
    circuit = traced_circuit(stages)
    found = faithfulness(runs, circuit)
    assert found.circuit.value > 0.7 * found.model.value > 1.0
    assert abs(found.empty.value) < 0.3 * found.model.value
    without = runs.mean(Selection(circuit))
    assert without < 0.4 * found.model.value
    with pytest.raises(BadInput, match="no head moves the answer"):
        traced_circuit([])


def test_attention_between_roles_by_hand() -> None:
    prompts = ioi_set(demo(), ioi_prompts(fillers(), SPEC)[:7], fillers(), "abc")
    found = role_attention(demo(), prompts, ("IO", "S2", "END"))
    total = np.zeros((demo().n_heads,))
    for row in range(7):
        ids = demo().to_ids(prompts.clean[row : row + 1, : prompts.lengths[row]])
        patterns = []
        demo().read_attention(ids, [1], lambda layer, into=patterns: into.append(layer.pattern[0]))
        total += patterns[0][:, prompts.roles["END"][row], prompts.roles["S2"][row]].double().numpy()
    assert found[1, :, 2, 1] == pytest.approx(total / 7, abs=1e-6)
    assert np.isnan(found[:, :, 0, 1]).all() and np.isfinite(found[:, :, 2]).all()
    with pytest.raises(BadInput, match="role 'X'"):
        trace(demo(), prompts, TraceSpec(roles=("X",)))


def test_signals_of_the_unflipped_run_are_the_model_s_own(stages: tuple[Stage, ...]) -> None:
    prompts = ioi_prompts(fillers(), SPEC)
    nodes = sorted({CircuitNode(head, s.position) for s in stages for head in s.senders if s.position == "END"})
    found = signals(demo(), prompts, fillers(), nodes)
    original = found.logit_diff["original", "original"]
    assert set(found.logit_diff) == set(SIGNALS)
    runs = ioi_set(demo(), prompts, fillers(), "none")
    table = CircuitRuns(demo(), runs, Ablation("zero", runs)).mean(Selection(frozenset()))
    assert original.value == pytest.approx(table, abs=1e-4)
    assert found.logit_diff["inverted", "original"].value < original.value
    assert found.token.low > 0  # the demo model goes by which name S2 is
    assert found.error < 0.6
    with pytest.raises(BadInput, match="no head was named"):
        signals(demo(), prompts, fillers(), [])
    with pytest.raises(BadInput, match="L9H9"):
        signals(demo(), prompts, fillers(), [CircuitNode(Head.parse("L9H9"), "END")])


def test_signals_by_hand_with_everything_patched() -> None:
    """All heads at S2 and END from the s2_io run: nearly that run itself, and far from the original."""
    prompts = ioi_prompts(fillers(), SPEC)
    every = [
        CircuitNode(Head(layer=n, index=h), role)
        for n in range(demo().n_layers) for h in range(demo().n_heads) for role in ("S2", "END")
    ]  # fmt: skip
    found = signals(demo(), prompts, fillers(), every)
    runs = ioi_set(demo(), prompts, fillers(), "s2_io")
    flipped = CircuitRuns(demo(), runs.swapped(), Ablation("zero", runs)).mean(Selection(frozenset()))
    whole = found.logit_diff["original", "original"].value
    assert abs(found.logit_diff["inverted", "inverted"].value - flipped) < 0.3 * abs(whole - flipped)
