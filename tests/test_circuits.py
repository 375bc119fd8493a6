"""Patching, attribution, ablation and circuit tests: the identities that hold whatever the weights are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.circuits.ablation import Ablation, CircuitNode, Replacements, Selection, ablation_masks
from autointerp.circuits.attribution import attribute
from autointerp.circuits.attribution_patching import screen
from autointerp.circuits.backup import backup_heads, joint_ablation
from autointerp.circuits.cells import Cell, cell_table
from autointerp.circuits.circuit import CircuitRuns, all_nodes, faithfulness
from autointerp.circuits.completeness import GreedyPlan, completeness, greedy_subsets, minimality, random_subsets
from autointerp.circuits.contrast import parse_prompt
from autointerp.circuits.measures import Effects, Reader, effects
from autointerp.circuits.patching import PatchPlan, cell_mask, patch
from autointerp.circuits.path_patching import PathPlan, path_patch
from autointerp.circuits.prompts import ContrastSet, tokenise
from autointerp.circuits.validation import validate_heads
from autointerp.demo.model import weights_folder
from autointerp.errors import AutointerpError, BadInput, ModelError
from autointerp.model import LanguageModel, load_model
from autointerp.model.nodes import HEAD_NODES, KINDS, NodeKind
from autointerp.model.patched_runs import BaseRun
from autointerp.model.path_runs import PathRules
from autointerp.records import Head
from tests.circuit_helpers import hooks_of, padded, pair, small_set
from tests.tiny_models import tiny_model

MODELS = ("gpt2", "llama")


def by_of(node: NodeKind) -> str:
    return "head-position" if node in HEAD_NODES else "position"


def differences(model: LanguageModel, prompts: ContrastSet) -> np.ndarray:
    """Logit differences of the clean prompts, each prompt run alone and unpadded."""
    found = []
    for row in range(len(prompts)):
        ids = model.to_ids(prompts.clean[row : row + 1, : prompts.lengths[row]])
        logits = model.logits(ids)[0, -1].double()
        found.append(float(logits[prompts.answer[row]] - logits[prompts.wrong[row]]))
    return np.array(found)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("node", KINDS)
def test_a_patch_with_the_run_itself_changes_nothing(kind: str, node: NodeKind) -> None:
    model = tiny_model(kind)
    prompts = small_set(model)
    same = replace(prompts, corrupted=prompts.clean)
    table = patch(model, same, PatchPlan(node, by_of(node), "denoise"))["logit_diff"]
    there = np.isfinite(table.mean)
    assert there.any()
    assert np.abs(table.values[there]).max() < 1e-5
    assert not table.flagged.any()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("node", ["resid_pre", "resid_post"])
def test_patching_a_whole_stream_gives_the_source_run(kind: str, direction: str, node: NodeKind) -> None:
    model = tiny_model(kind)
    prompts = small_set(model, mixed=False)
    base = prompts if direction == "noise" else prompts.swapped()
    wanted = differences(model, base.swapped()) - differences(model, base)
    for layer in range(model.n_layers):
        cell = Cell(layer, -1, "")
        plan = PatchPlan(node, "position", direction)  # type: ignore[arg-type]
        found = patch(model, prompts, plan, [cell])["logit_diff"]
        assert found.values[0] == pytest.approx(wanted, abs=1e-4)
        assert np.abs(wanted).max() > 0.05
        score = patch(model, prompts, replace(plan, metrics=("score",)), [cell])["score"]
        assert score.mean[0] == pytest.approx(1.0 if direction == "denoise" else -1.0, abs=1e-3)


@pytest.mark.parametrize("kind", MODELS)
def test_denoising_is_noising_of_the_swapped_set(kind: str) -> None:
    model = tiny_model(kind)
    prompts = small_set(model)
    first = patch(model, prompts, PatchPlan("z", "head-position", "denoise"))["logit_diff"]
    second = patch(model, prompts.swapped(), PatchPlan("z", "head-position", "noise"))["logit_diff"]
    assert np.allclose(first.values, second.values, atol=1e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("node", ["z", "k", "pattern", "mlp_out"])
def test_batched_equals_single_and_padding_changes_nothing(kind: str, node: NodeKind) -> None:
    model = tiny_model(kind)
    prompts = small_set(model)
    plan = PatchPlan(node, by_of(node), "denoise", ("logit_diff", "kl"))
    whole = patch(model, prompts, plan)
    single = patch(model, prompts, replace(plan, batch_cells=1))
    wide = patch(model, padded(prompts, 5), plan)
    unresumed = patch(replace(model, exact_resume=False), prompts, plan)
    for metric in ("logit_diff", "kl"):
        assert np.nanmax(np.abs(whole[metric].values)) > 1e-3
        for other in (single, wide, unresumed):
            assert np.allclose(whole[metric].values, other[metric].values, atol=1e-5, equal_nan=True)
    alone = patch(model, prompts, replace(plan, metrics=("logit_diff",)))["logit_diff"]
    assert np.allclose(alone.values, whole["logit_diff"].values, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("node", "by", "function"),
    [
        ("z", "head", "get_act_patch_attn_head_out_all_pos"),
        ("z", "head-position", "get_act_patch_attn_head_out_by_pos"),
        ("q", "head-position", "get_act_patch_attn_head_q_by_pos"),
        ("v", "head", "get_act_patch_attn_head_v_all_pos"),
        ("pattern", "head", "get_act_patch_attn_head_pattern_all_pos"),
        ("resid_pre", "position", "get_act_patch_resid_pre"),
        ("mlp_out", "position", "get_act_patch_mlp_out"),
    ],
)
def test_the_grids_are_those_of_the_library(node: NodeKind, by: str, function: str) -> None:
    """transformer_lens, one whole forward a cell, absolute positions."""
    from transformer_lens import patching

    model = tiny_model("gpt2")
    prompts = small_set(model, mixed=False)
    positions = () if by == "head" else ("each",)
    table = patch(model, prompts, PatchPlan(node, by, "denoise", positions=positions))["logit_diff"]
    clean, corrupted = model.to_ids(prompts.clean), model.to_ids(prompts.corrupted)
    answer, wrong = torch.from_numpy(prompts.answer), torch.from_numpy(prompts.wrong)
    rows = torch.arange(len(prompts))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, answer] - logits[rows, -1, wrong]).mean()

    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(clean)
        base = metric(model.bridge(corrupted))
        found = (getattr(patching, function)(model.bridge, corrupted, cache, metric) - base).double().numpy()
    for number, cell in enumerate(table.cells):
        at = (
            () if not cell.position else (prompts.clean.shape[1] - 1 if cell.position == "END" else int(cell.position),)
        )
        place = (cell.layer, *at) if cell.head < 0 else (cell.layer, *at, cell.head)
        if np.isfinite(table.mean[number]):
            assert table.mean[number] == pytest.approx(found[place], abs=1e-5)
        else:
            assert abs(found[place]) < 1e-5


def test_no_causal_path_is_nan_and_never_zero() -> None:
    model = tiny_model("llama")  # two key-value heads for four heads
    prompts = small_set(model)
    for node in ("k", "v"):
        table = patch(model, prompts, PatchPlan(node, "head", "noise"))["logit_diff"]  # type: ignore[arg-type]
        beyond = np.array([cell.head >= 2 for cell in table.cells])
        assert np.isnan(table.mean[beyond]).all() and np.isfinite(table.mean[~beyond]).all()
        assert "2 heads of keys and values serve 4 heads" in " ".join(table.notes)
        assert (table.n[beyond] == 0).all() and np.isnan(table.numbers["q"][beyond]).all()
    late = patch(model, prompts, PatchPlan("z", "head-position", "noise", positions=("S2", "END")))["logit_diff"]
    for number, cell in enumerate(late.cells):
        assert np.isfinite(late.mean[number]) == (cell.layer == 0 or cell.position == "END")
    with pytest.raises(BadInput, match="no cell has a causal path"):
        patch(model, prompts, PatchPlan("z", "head-position", "noise", positions=("S2",)), [Cell(1, 0, "S2")])


def test_a_role_is_one_position_a_row_and_never_the_union() -> None:
    model = tiny_model("gpt2")
    prompts = small_set(model)  # S2 at 7 and at 11
    size = prompts.clean.shape[1]
    mask = cell_mask(Cell(0, 1, "S2"), prompts, 4, size)
    assert mask.sum(1).tolist() == [[0, 1, 0, 0]] * len(prompts)
    assert mask[:, :, 1].int().argmax(1).tolist() == prompts.role("S2").tolist()
    kept = Selection(frozenset([CircuitNode(Head(layer=0, index=1), "S2"), CircuitNode(Head(layer=1, index=3), "END")]))
    masks = ablation_masks(model, prompts, replace(kept, kept=True), size)
    assert (~masks).sum((2, 3)).tolist() == [[1] * len(prompts)] * 2


@pytest.mark.parametrize("kind", MODELS)
def test_attribution_adds_up_with_the_biases(kind: str) -> None:
    model = tiny_model(kind)
    prompts = small_set(model)
    found = attribute(model, prompts)
    assert found.logit_diff == pytest.approx(differences(model, prompts), abs=1e-4)
    assert found.values.sum(0) == pytest.approx(found.logit_diff, abs=1e-4)
    assert np.abs(found.heads).max() > 1e-3
    attention, mlps = found.layers()
    rest = [n for n, name in enumerate(found.names) if name in ("embedding", "positions") or name.endswith("g bias")
            or name == "final norm bias"]  # fmt: skip
    assert attention.sum(0) + mlps.sum(0) + found.values[rest].sum(0) == pytest.approx(found.logit_diff, abs=1e-4)
    assert found.lens[-1] == pytest.approx(found.logit_diff, abs=1e-4)
    assert found.cumulative[-1] == pytest.approx(found.logit_diff, abs=1e-4)
    assert np.abs(found.lens[0] - found.cumulative[0]).max() > 1e-3  # two different curves
    assert attribute(model, padded(prompts, 3)).heads == pytest.approx(found.heads, abs=1e-5)


def test_the_demo_model_adds_up_too() -> None:
    model = load_model(str(weights_folder()), "cpu", "float32")[0]
    prompts = _demo_set(model)
    found = attribute(model, prompts)
    assert found.values.sum(0) == pytest.approx(differences(model, prompts), abs=1e-4)
    table = patch(model, prompts, PatchPlan("resid_pre", "position", "denoise"), [Cell(2, -1, "")])["logit_diff"]
    gap = differences(model, prompts) - differences(model, prompts.swapped())
    assert table.values[0] == pytest.approx(gap, abs=1e-4)
    assert table.mean[0] > 5  # it does this task


def _demo_set(model: LanguageModel) -> ContrastSet:
    names = "Tom Emma Jack Sara Paul Mary John Kate".split()
    lines = []
    for n in range(8):
        first, second = names[n], names[(n + 3) % 8]
        text = f"When {first} and {second} went to the park, {{}} gave the lamp to"
        lines.append({"clean": text.format(second), "corrupted": text.format(first),
                      "answers": [f" {first}", f" {second}"], "roles": {"S2": [second, 2]}, "group": "t"})  # fmt: skip
    return tokenise([parse_prompt(line, "line") for line in lines], model, "demo pairs")


def test_architectures_without_additive_writes_are_refused() -> None:
    model = replace(tiny_model("gpt2"), direct_writes=False)
    with pytest.raises(ModelError, match="norm between its attention and the stream"):
        attribute(model, small_set(model))


@pytest.mark.parametrize("node", ["z", "v", "mlp_out"])
def test_estimates_come_with_exact_confirmation(node: NodeKind) -> None:
    model = tiny_model("gpt2")
    prompts = small_set(model)
    plan = PatchPlan(node, by_of(node), "noise")
    found = screen(model, prompts, plan, confirm=4)
    exact = patch(model, prompts, plan)["logit_diff"]
    assert len(found.exact.cells) == 4
    for number, cell in enumerate(found.exact.cells):
        assert found.exact.mean[number] == pytest.approx(exact.mean[exact.cells.index(cell)], abs=1e-6)
    assert np.isnan(found.estimates.mean).tolist() == np.isnan(exact.mean).tolist()
    there = np.isfinite(exact.mean)
    assert np.corrcoef(found.estimates.mean[there], exact.mean[there])[0, 1] > 0.8
    with pytest.raises(BadInput, match="gradient"):
        screen(model, prompts, replace(plan, metrics=("rank",)))


def test_the_first_order_estimate_is_exact_for_a_small_change() -> None:
    """The last MLP's output at END enters the logits through the final norm alone."""
    model = tiny_model("gpt2")
    prompts = small_set(model, 2)
    plan = PatchPlan("mlp_out", "position", "noise", positions=("END",))
    found = screen(model, prompts, plan, confirm=2)
    same = screen(model, replace(prompts, corrupted=prompts.clean), plan, confirm=1)
    assert np.nanmax(np.abs(same.estimates.values)) == 0
    assert np.sign(found.exact.mean).tolist() == [
        np.sign(found.estimates.mean[found.estimates.cells.index(cell)]) for cell in found.exact.cells
    ]


def test_statistics_by_hand() -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan], [0.0, 0.0, 0.0, 0.0], [np.nan] * 4])
    table = cell_table([Cell(0, h) for h in range(3)], Effects("logit_diff", values), {})
    assert table.n.tolist() == [3, 4, 0]
    assert table.mean[:2].tolist() == [2.0, 0.0]
    assert table.numbers["se"][0] == pytest.approx(1 / np.sqrt(3))
    assert table.numbers["p"][:2].tolist() == [0.25, 1.0]  # 2 of the 8 sign patterns of three prompts are as far from 0
    assert table.numbers["low"][0] >= 1.0 and table.numbers["high"][0] <= 3.0
    assert all(np.isnan(table.numbers[name][2]) for name in ("mean", "se", "low", "high", "p", "q"))
    ratio = cell_table([Cell(0, 0)], Effects("score", np.array([[1.0, 3.0]]), np.array([2.0, 2.0])), {})
    assert ratio.mean[0] == 1.0
    parts = Effects("score", np.array([[1.0, 3.0, 9.0]]), np.array([2.0, 4.0, 0.05]))
    means = cell_table([Cell(0, 0)], parts, {"ratio": "mean_of_ratios"})
    assert means.mean[0] == pytest.approx((0.5 + 0.75) / 2) and means.n[0] == 2
    assert "1 of 3 prompts have a denominator below" in means.notes[0]


def test_measures_by_hand() -> None:
    model = tiny_model("gpt2")
    prompts = small_set(model, 2, mixed=False)
    base = BaseRun(model, model.to_ids(prompts.clean), torch.from_numpy(prompts.ends))
    found = Reader.of(model, prompts, base.hidden).values(
        base.hidden[None], ("logit_diff", "log_prob", "prob", "rank", "kl")
    )
    logits = model.logits(model.to_ids(prompts.clean))[:, -1].double()
    log_probs = torch.log_softmax(logits, -1)
    for row in range(2):
        right, wrong = prompts.answer[row], prompts.wrong[row]
        assert found["logit_diff"][0, row] == pytest.approx(
            float(log_probs[row, right] - log_probs[row, wrong]), abs=1e-4
        )
        assert found["log_prob"][0, row] == pytest.approx(float(log_probs[row, right]), abs=1e-4)
        assert found["prob"][0, row] == pytest.approx(float(log_probs[row, right].exp()), abs=1e-5)
        assert found["rank"][0, row] == int((logits[row] > logits[row, right]).sum())
    assert np.abs(found["kl"]).max() < 1e-5
    with pytest.raises(BadInput, match="divide by 0"):
        effects("score", found, {"logit_diff": np.ones(2)}, {"logit_diff": np.ones(2)}, "noise")


def _ablation(prompts: ContrastSet, kind: str = "template_mean") -> Ablation:
    return Ablation(kind, prompts)


@pytest.mark.parametrize("kind", MODELS)
def test_a_full_circuit_is_the_model_and_an_empty_one_is_none_of_it(kind: str) -> None:
    model = tiny_model(kind)
    prompts = small_set(model, 12)
    for ablation in ("zero", "mean", "template_mean", "resample"):
        runs = CircuitRuns(model, prompts, _ablation(prompts, ablation))
        whole = faithfulness(runs, all_nodes(model))
        assert whole.circuit.value == pytest.approx(differences(model, prompts).mean(), abs=1e-4)
        assert whole.gap < 1e-5 and whole.ratio.value == pytest.approx(1.0, abs=1e-4)
        none = faithfulness(runs, frozenset())
        assert none.circuit.value == pytest.approx(whole.empty.value, abs=1e-6)
        assert none.gap > 1e-3
        for part in (ablation, "BOS", "small", "12", "z of heads", "ratio of means"):
            assert part in str(none.setting)
        assert str(none.setting) in str(none)


def test_a_template_mean_of_one_prompt_over_and_over_is_the_prompt() -> None:
    model = tiny_model("gpt2")
    prompts = tokenise([pair(0)] * 6, model, "same")
    ablation = Ablation("template_mean", prompts, side="clean")
    runs = CircuitRuns(model, prompts, ablation)
    empty, whole = runs.logit_diffs([Selection(frozenset(), kept=True), Selection(frozenset())])
    assert empty == pytest.approx(whole, abs=1e-5)
    other = CircuitRuns(model, prompts, Ablation("template_mean", prompts))
    assert np.abs(other.logit_diffs([Selection(frozenset(), kept=True)])[0] - whole).max() > 1e-3


def test_template_means_by_hand_and_resamples_from_others() -> None:
    model = tiny_model("llama")
    prompts = small_set(model, 12)
    found = Replacements(model, prompts, _ablation(prompts))
    rows = np.array([1, 2])
    source = found.source(1, rows, 9)
    for place, row in enumerate(rows):
        group = [n for n in range(12) if prompts.groups[n] == prompts.groups[row]]
        z = []
        model.read_attention(model.to_ids(prompts.corrupted[group]), [1], lambda layer, z=z: z.append(layer.z[:, :9]))
        assert torch.allclose(source[place], z[0].mean(0), atol=1e-5)
    drawn = Replacements(model, prompts, _ablation(prompts, "resample")).partners
    assert drawn.shape == (5, 12)
    for prompt in range(12):
        assert prompt not in drawn[:, prompt]
        assert set(prompts.lengths[drawn[:, prompt]]) == {prompts.lengths[prompt]}


def test_groups_that_cannot_have_a_template_mean() -> None:
    model = tiny_model("gpt2")
    few = small_set(model, 8)
    with pytest.raises(BadInput, match="group 'a' has 4 reference prompts"):
        CircuitRuns(model, few, _ablation(few))
    some = small_set(model, 12)
    assert "fewer than 20" in " ".join(CircuitRuns(model, some, _ablation(some)).notes)
    mixed = replace(some, groups=("a",) * 12)
    with pytest.raises(BadInput, match="differ in length"):
        CircuitRuns(model, mixed, _ablation(mixed))
    one = tokenise([pair(0)], model, "one")
    with pytest.raises(BadInput, match="fewer than 2 reference prompts"):
        CircuitRuns(model, one, Ablation("resample", one))


@pytest.mark.parametrize("kind", MODELS)
def test_completeness_and_minimality(kind: str) -> None:
    model = tiny_model(kind)
    prompts = small_set(model, 12)
    runs = CircuitRuns(model, prompts, _ablation(prompts))
    circuit = frozenset(CircuitNode(Head(layer=n, index=h), "END") for n in range(2) for h in range(3))
    faithful = faithfulness(runs, circuit)
    rng = np.random.default_rng(0)
    plan = GreedyPlan(k=4, steps=3, runs=2, keep=3)
    greedy = greedy_subsets(runs, circuit, rng, plan)
    found = completeness(runs, circuit, {**random_subsets(circuit, rng, 4), **greedy})
    assert found.knockouts[0].name == "nothing"
    assert found.knockouts[0].score == pytest.approx(faithful.gap, abs=1e-6)
    scores = {one.name: one.score for one in found.knockouts}
    assert scores["greedy 1"] == max(scores[name] for name in greedy)
    for one in found.knockouts:
        assert one.score == pytest.approx(abs(one.circuit - one.model), abs=1e-9)
    by_step = greedy_subsets(runs, circuit, rng, replace(plan, objective="step"))
    assert len(by_step) == 3
    needs = minimality(runs, circuit, {"all": circuit})
    assert {need.node for need in needs.nodes} == circuit
    top = needs.nodes[0]
    whole = differences(model, prompts).mean()
    assert top.share.value == pytest.approx(abs(top.with_node - top.without) / abs(whole), abs=1e-4)
    assert [n.share.value for n in needs.nodes] == sorted((n.share.value for n in needs.nodes), reverse=True)
    with pytest.raises(BadInput, match="not in the circuit"):
        completeness(runs, circuit, {"x": all_nodes(model)})


def test_backups_and_joint_ablation() -> None:
    model = tiny_model("gpt2")
    prompts = small_set(model, 12)
    node = CircuitNode(Head(layer=0, index=1), "END")
    found = backup_heads(model, prompts, [node], _ablation(prompts))
    assert found.logit_diff[0] == pytest.approx(differences(model, prompts).mean(), abs=1e-4)
    runs = CircuitRuns(model, prompts, _ablation(prompts))
    assert found.logit_diff[1] == pytest.approx(runs.mean(Selection(frozenset([node]))), abs=1e-4)
    assert np.isnan(found.change.mean[1]) and np.isfinite(found.change.mean[[0, 2, 3, 4, 5, 6, 7]]).all()
    assert found.after - found.before == pytest.approx(
        np.where(np.isnan(found.change.mean), found.after.ravel() - found.before.ravel(), found.change.mean).reshape(
            2, 4
        )
    )
    # the scale moves, so layer-0 heads change by that alone; heads of layer 1 read what is missing
    assert np.abs(found.change.mean[4:]).max() > 1e-4
    both = frozenset([node, CircuitNode(Head(layer=1, index=0), "END")])
    joint = joint_ablation(runs, both)
    alone = sum(estimate.value for estimate in joint.alone.values())
    assert joint.beyond.value == pytest.approx(joint.together.value - alone, abs=1e-6)
    with pytest.raises(BadInput, match="two or more"):
        joint_ablation(runs, frozenset([node]))


@pytest.mark.parametrize("kind", MODELS)
def test_no_hook_is_left_behind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kind)
    prompts = small_set(model)
    before = hooks_of(model)
    jobs: list[Callable[[], object]] = [
        lambda: patch(model, prompts, PatchPlan("z", "head", "noise")),
        lambda: attribute(model, prompts),
        lambda: screen(model, prompts, PatchPlan("v", "head", "noise"), 1),
    ]
    for job in jobs:
        job()
        assert hooks_of(model) == before
    block = type(model.bridge.ln_final)
    calls = [0]
    original = block.forward

    def breaks(self: torch.nn.Module, *args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] >= 3 and self is model.bridge.ln_final:
            raise RuntimeError("stop")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(block, "forward", breaks)
    for job in jobs:
        calls[0] = 0
        with pytest.raises((RuntimeError, AutointerpError)):
            job()
        assert hooks_of(model) == before


def test_training_mode_is_refused() -> None:
    model = tiny_model("gpt2")
    prompts = small_set(model)
    model.bridge.original_model.train()
    try:
        with pytest.raises(ModelError, match="training mode"):
            patch(model, prompts, PatchPlan("z", "head", "noise"))
    finally:
        model.bridge.original_model.eval()


def test_validation_reuses_the_detectors() -> None:
    model = tiny_model("gpt2")
    pool = np.array([i for i in range(len(model.strings)) if i not in model.special_ids and model.strings[i].isalpha()])
    found = validate_heads(model, pool, length=10, n_rows=4)
    assert found.length == 10 and len(found.heads) == 8
    for name in ("previous_token", "duplicate_token", "induction"):
        assert found.values[name].shape == (8,) and np.isfinite(found.values[name]).all()
        best = found.top(name, 1)[0]
        assert found.rank(name, best) == 1
    assert np.isnan(found.values["copying"][:4]).all()  # not defined at layer 0


def shared_or_demo(name: str) -> LanguageModel:
    if name == "demo":
        return load_model(str(weights_folder()), "cpu", "float32")[0]
    if "AUTOINTERP_SHARED" not in os.environ:
        pytest.skip("needs the shared models")
    return load_model(str(Path(os.environ["AUTOINTERP_SHARED"]) / "models" / name), "cpu", "float32")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "stories260K", "induct-2l"])
def test_the_identities_hold_on_real_models(name: str) -> None:
    model = shared_or_demo(name)
    rng = np.random.default_rng(0)
    pool = [i for i in range(model.d_vocab) if i not in model.special_ids]
    lines = []
    for number in range(12):
        clean = rng.choice(pool, 12).tolist()
        corrupted = [*clean[:5], int(rng.choice(pool)), *clean[6:]]
        answers = [int(i) for i in rng.choice(pool, 2, replace=False)]
        line = {"clean": clean, "corrupted": corrupted, "answers": answers, "roles": {"here": 5}, "group": "a"}
        lines.append(parse_prompt(line, f"row {number}"))
    prompts = tokenise(lines, model, "random tokens")
    gap = differences(model, prompts.swapped()) - differences(model, prompts)
    for layer in range(model.n_layers):
        whole = patch(model, prompts, PatchPlan("resid_pre", "position", "noise"), [Cell(layer, -1, "")])["logit_diff"]
        assert whole.values[0] == pytest.approx(gap, abs=1e-4)
    for node in KINDS:
        same = patch(model, replace(prompts, corrupted=prompts.clean), PatchPlan(node, by_of(node), "noise"))
        assert np.nanmax(np.abs(same["logit_diff"].values)) < 1e-5
    found = attribute(model, prompts)
    assert found.values.sum(0) == pytest.approx(found.logit_diff, abs=1e-4)
    other = attribute(model, prompts, "corrupted")
    rules = PathRules("freeze", "freeze")
    path = path_patch(model, prompts, PathPlan("noise", (), "END", rules))["logit_diff"].values
    wanted = other.heads * other.scale / found.scale - found.heads
    assert path.reshape(wanted.shape) == pytest.approx(wanted, abs=1e-4)
    runs = CircuitRuns(model, prompts, Ablation("template_mean", prompts))
    assert faithfulness(runs, all_nodes(model)).gap < 1e-5
