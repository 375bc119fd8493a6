"""Linear probes, splits, controls and erasure on pure numbers: what each must and must not find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_helpers import planted, task_for

from autointerp.errors import BadInput
from autointerp.probing import controls
from autointerp.probing.controls import Outcome
from autointerp.probing.erasure import class_mean_basis, leace, probe_rows_basis
from autointerp.probing.linear import FitOptions, LinearProbe, Scaling, fit_path, fit_probe
from autointerp.probing.reporting import ALREADY_THERE, ATTENTION_ALONE, ControlRow, Others, adjusted, result_line
from autointerp.probing.splits import LEAKY, FoldOptions, make_folds
from autointerp.probing.uncertainty import Draws
from autointerp.probing.validation import PENALTIES, Task, Tested, cross_validate, one_standard_error, train
from autointerp.records import Failure, Unscored


def accuracy(x: torch.Tensor, task: Task) -> float:
    tested = cross_validate(x, task)
    assert isinstance(tested, Tested), tested
    return float(np.nanmean(tested.correct(task.y)))


def by_groups(n: int, y: np.ndarray, k: int = 10) -> Task:
    return task_for(y, {"document": (np.arange(n) // 2) % k}, "document")


# the fit


@pytest.mark.parametrize(("n", "d", "n_classes", "balanced"), [(60, 4, 2, False), (40, 90, 3, False), (70, 5, 4, True)])
def test_the_fit_is_the_optimum_of_the_stated_loss(n: int, d: int, n_classes: int, balanced: bool) -> None:
    draw = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=draw) * torch.rand(d, generator=draw) * 5 + 3
    y = np.sort(np.arange(n) % n_classes * (np.arange(n) % 3 > 0))
    n_present = len(np.unique(y))
    probe = fit_probe(x, y, n_present, 0.1, FitOptions(balanced=balanced))
    assert isinstance(probe, LinearProbe)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    scaled = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    counts = np.bincount(y)
    rows = torch.as_tensor(n / (n_present * counts[y])) if balanced else torch.ones(n).double()
    losses = torch.nn.functional.cross_entropy(scaled @ weight + bias, torch.as_tensor(y), reduction="none")
    loss = (rows * losses).mean() + 0.1 / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None and bias.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 2e-6
    assert probe.gradient < 1e-6
    torch.testing.assert_close(probe.logits(x), scaled @ probe.weight + probe.bias)


def test_a_fit_that_does_not_converge_is_a_failure_and_no_probe() -> None:
    x, y, _ = planted(40, 6, 0)
    failed = fit_probe(x, y, 2, 1e-4, FitOptions(iterations=5))
    assert isinstance(failed, Failure)
    assert "did not converge" in failed.reason
    assert isinstance(cross_validate(x, replace(by_groups(40, y), options=FitOptions(iterations=5))), Failure)


def test_the_path_from_strong_to_weak_finds_the_same_probes_as_single_fits() -> None:
    x, y, _ = planted(50, 5, 1, shift=1.0)
    for penalty, probe in zip(PENALTIES, fit_path(x, y, 2, PENALTIES, FitOptions()), strict=True):
        alone = fit_probe(x, y, 2, penalty)
        assert isinstance(probe, LinearProbe) and isinstance(alone, LinearProbe)
        torch.testing.assert_close(probe.weight, alone.weight, atol=2e-2 if penalty < 1e-3 else 1e-3, rtol=1e-2)


def test_a_class_without_training_rows_is_never_predicted() -> None:
    x, y, _ = planted(40, 4, 2)
    probe = fit_probe(x, y * 2, 3, 0.1)
    assert isinstance(probe, LinearProbe)
    assert set(probe.logits(x).argmax(1).tolist()) == {0, 2}


def test_standardisation_sees_training_rows_only_and_has_a_floor() -> None:
    x, y, _ = planted(60, 6, 3)
    task = by_groups(60, y)
    fold = task.folds[0]
    changed = x.clone()
    changed[torch.as_tensor(fold.test)] += 1000.0
    before, after = (train(data, y, fold.train, task) for data in (x, changed))
    assert isinstance(before, LinearProbe) and isinstance(after, LinearProbe)
    assert torch.equal(before.scaling.mean, after.scaling.mean)
    assert torch.equal(before.scaling.deviation, after.scaling.deviation)
    assert torch.equal(before.weight, after.weight)
    x[:, 0] = 5.0
    deviation = Scaling.of(x).deviation
    assert deviation[0] == pytest.approx(1e-3 * float(deviation[1:].median()))


# what is found, and what is not


def without(x: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return x - x @ basis @ basis.T


def test_a_planted_direction_is_found_and_only_its_erasure_removes_it() -> None:
    x, y, direction = planted(160, 20, 4)
    task = by_groups(160, y, 20)
    assert accuracy(x, task) > 0.97
    assert float((class_mean_basis(x, y).T @ direction.double()).abs()) > 0.95
    random = torch.linalg.qr(torch.randn(20, 1, generator=torch.Generator().manual_seed(9)))[0]
    tested = cross_validate(without(x, direction[:, None]), task)
    assert isinstance(tested, Tested)
    found = Draws.of(task).accuracy(tested.correct(y))
    assert found.low - 0.02 < 0.5 < found.high
    assert accuracy(without(x, random), task) > 0.97
    train_rows, test_rows = (torch.as_tensor(rows) for rows in (task.folds[0].train, task.folds[0].test))
    basis = class_mean_basis(x[train_rows], y[task.folds[0].train])  # as in use: from the training part
    probe = fit_probe(without(x[train_rows].double(), basis), y[task.folds[0].train], 2, 1.0)
    assert isinstance(probe, LinearProbe)
    guess = probe.logits(without(x[test_rows].double(), basis)).argmax(1).numpy()
    assert (guess == y[task.folds[0].test]).mean() < 0.75
    probe = train(x, y, np.arange(160), task)
    assert isinstance(probe, LinearProbe)
    assert float((probe_rows_basis(probe).T @ direction.double()).abs()) > 0.9


@pytest.mark.slow
def test_pure_noise_is_at_chance_and_shuffled_labels_too() -> None:
    n, n_classes, values, covered = 300, 20, [], 0
    for seed in range(6):
        x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
        y = np.arange(n) % n_classes
        task = task_for(y, {"document": np.arange(n) // n_classes}, "document", seed)
        tested = cross_validate(x, task)
        assert isinstance(tested, Tested)
        found = Draws.of(task).accuracy(tested.correct(task.y))
        values.append(found.value)
        covered += found.low <= 1 / n_classes <= found.high
    assert covered >= 5
    assert abs(np.mean(values) - 1 / n_classes) < 2.5 * np.sqrt(0.05 * 0.95 / (n * 6))
    shuffled = controls.shuffled_labels(x, task, 3)
    assert isinstance(shuffled, Outcome)
    assert abs(np.mean(shuffled.draws) - 1 / n_classes) < 2.5 * np.sqrt(0.05 * 0.95 / (n * 3))


@pytest.mark.slow
def test_memorised_lexemes_pass_the_template_split_and_fail_the_lexeme_split() -> None:
    n_lexemes, n_templates = 24, 4
    lexeme, template = np.repeat(np.arange(n_lexemes), n_templates), np.tile(np.arange(n_templates), n_lexemes)
    attribute = np.random.default_rng(0).permutation(np.arange(n_lexemes) % 2)
    x, y = torch.eye(n_lexemes)[lexeme], attribute[lexeme]
    groups = {"lexeme": lexeme, "template": template}
    held_lexemes = task_for(y, groups, "lexeme", types=lexeme)
    tested = cross_validate(x, held_lexemes)
    assert isinstance(tested, Tested)
    found = Draws.of(held_lexemes).accuracy(tested.correct(y))
    assert found.low <= 0.5 <= found.high
    held_templates = task_for(y, groups, "template", types=lexeme)
    assert accuracy(x, held_templates) == 1.0
    memorised = controls.control_task(x, held_templates, 2)
    assert isinstance(memorised, Outcome)
    assert np.mean(memorised.draws) == pytest.approx(1.0)
    both = task_for(y, groups, "lexeme_x_template", types=lexeme)
    assert accuracy(x, both) < 0.75


def test_the_ancestors_setting_gives_two_numbers_of_two_names() -> None:
    """97 nouns in 4 templates, a head that shows the noun through a template of its own each time."""
    draw = torch.Generator().manual_seed(6)
    nouns, templates = np.repeat(np.arange(25), 4), np.tile(np.arange(4), 25)
    turns = torch.linalg.qr(torch.randn(4, 24, 24, generator=draw))[0]
    shared, own = torch.randn(25, 24, generator=draw), torch.randn(25, 24, generator=draw)
    x = torch.stack([0.4 * shared[n] + own[n] @ turns[t] for n, t in zip(nouns, templates, strict=True)])
    groups = {"template": templates, "lexeme": nouns}
    results = {}
    for split in (LEAKY, "template"):
        task = task_for(nouns, groups, split)
        tested = cross_validate(x, task)
        assert isinstance(tested, Tested)
        rows = [ControlRow("majority", "floor", Outcome(controls.majority(task)))]
        results[split] = result_line("z L0H0", task, tested, Draws.of(task), rows, Others((), 0))
    assert results[LEAKY].split == "leaky_row_split" and results["template"].split == "template"
    assert results[LEAKY].n_items == 20 and results["template"].n_items == 100
    assert results["template"].status == "underpowered", "four templates"
    assert len(results["template"].folds) == 4


def test_identity_labels_have_no_selectivity_and_say_so() -> None:
    nouns = np.repeat(np.arange(5), 4)
    task = task_for(nouns, {"template": np.tile(np.arange(4), 5)}, "template", types=nouns)
    found = controls.control_task(torch.eye(5)[nouns], task, 2)
    assert isinstance(found, Unscored)
    assert "by construction" in found.reason
    alone = replace(task, types=np.zeros(20, dtype=int))
    assert isinstance(controls.control_task(torch.eye(5)[nouns], alone, 2), Unscored)


def test_control_labels_keep_types_together_and_class_frequencies() -> None:
    types = np.repeat(np.arange(30), 3)
    y = (np.arange(30) % 3 == 0).astype(int)[types]
    drawn = controls.control_labels(types, y, np.random.default_rng(1))
    assert all(len(set(drawn[types == t])) == 1 for t in range(30))
    assert np.bincount(drawn).tolist() == np.bincount(y).tolist()
    assert (drawn != y).any()


def test_attention_alone_explains_a_head_that_a_random_projection_equals() -> None:
    draw = torch.Generator().manual_seed(7)
    n, d_model, d_head, n_classes = 120, 30, 10, 4
    y = np.arange(n) % n_classes
    attended = torch.randn(n_classes, d_model, generator=draw)[y] * 1.5 + torch.randn(n, d_model, generator=draw) * 0.4
    task = task_for(y, {"document": np.arange(n) // 8}, "document")
    heads = {
        "copies": attended @ torch.randn(d_model, d_head, generator=draw),
        "reads": torch.nn.functional.one_hot(torch.as_tensor(y), d_head).float(),
    }
    noise = torch.randn(n, d_model, generator=draw)
    sees = {"copies": attended, "reads": noise}
    found = {}
    for name, x in heads.items():
        tested = cross_validate(x, task)
        assert isinstance(tested, Tested)
        alone = controls.random_ov(sees[name], d_head, 3.0, task, 2)
        stream = controls.outcome_of(cross_validate(noise, task), task)
        rows = [
            ControlRow("majority", "floor", Outcome(controls.majority(task))),
            ControlRow("random_ov", "movement", alone),
            ControlRow("earlier_layer", "movement", stream),
        ]
        found[name] = result_line(name, task, tested, Draws.of(task), rows, Others((0.1, 0.2), 0))
    assert found["copies"].present and ATTENTION_ALONE in found["copies"].conclusion
    assert ALREADY_THERE not in found["copies"].conclusion
    assert found["reads"].present and "this head moves it" in found["reads"].conclusion
    assert found["reads"].head_percentile == 100.0


def test_leace_makes_the_class_means_equal_and_leaves_nothing_to_a_probe() -> None:
    x, y, _ = planted(150, 10, 8, shift=2.0)
    y = (y + (np.arange(150) % 3 == 0)) % 3
    x = x + torch.as_tensor(y)[:, None] * torch.linspace(0, 1, 10)
    erase = leace(x, y, 3)
    left = erase(x.double())
    means = torch.stack([left[torch.as_tensor(y == c)].mean(0) for c in range(3)])
    assert (means - means.mean(0)).abs().max() < 1e-6
    assert (erase(left) - left).abs().max() < 1e-9, "erasing twice changes nothing"
    fit = fit_probe(left, y, 3, 1e-3)
    assert isinstance(fit, LinearProbe)
    guess = fit.logits(left).argmax(1).numpy()
    assert (guess == y).mean() <= np.bincount(y).max() / 150 + 1e-9
    assert erase.rank == 2
    assert float((left - x.double()).norm() / x.double().norm()) < 0.9, "most of the stream stays"
    flat = torch.cat([x, torch.zeros(150, 2), x[:, :1]], 1)  # dead and repeated coordinates
    again = leace(flat, y, 3)(flat.double())
    means = torch.stack([again[torch.as_tensor(y == c)].mean(0) for c in range(3)])
    assert (means - means.mean(0)).abs().max() < 1e-6


# splits and intervals


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(2, 4), st.integers(0, 5))
def test_no_group_is_on_both_sides_and_every_item_is_tested_once(n_groups: int, n_classes: int, seed: int) -> None:
    group = np.repeat(np.arange(n_groups), n_classes * 2)
    y = np.tile(np.arange(n_classes), n_groups * 2)
    folds = make_folds({"g": [str(v) for v in group]}, y, "g", seed)
    assert len(folds) == min(5, n_groups)
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(len(y)))
    for fold in folds:
        assert not set(group[fold.train]) & set(group[fold.test])
        assert set(y[fold.test]) <= set(y[fold.train])


def test_the_crossed_split_tests_unseen_by_unseen_and_drops_mixed_cells() -> None:
    lexeme, template = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    groups = {"lexeme": [str(v) for v in lexeme], "template": [str(v) for v in template]}
    folds = make_folds(groups, lexeme % 2, "lexeme_x_template", 0, FoldOptions(3))
    assert len(folds) == 9
    for fold in folds:
        assert not set(lexeme[fold.train]) & set(lexeme[fold.test])
        assert not set(template[fold.train]) & set(template[fold.test])
        assert len(fold.train) + len(fold.test) < 36
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(36))


def test_splits_that_cannot_be_made_are_refused() -> None:
    y = np.array([0, 0, 1, 1])
    with pytest.raises(BadInput, match="no group 'template'"):
        make_folds({"document": list("abcd")}, y, "template", 0)
    with pytest.raises(BadInput, match="needs 2 groups"):
        make_folds({"document": list("aaaa")}, y, "document", 0)
    with pytest.raises(BadInput, match="without a training item"):
        make_folds({"document": list("aabb")}, y, "document", 0)


def test_one_standard_error_takes_the_strongest_penalty_that_is_as_good() -> None:
    scores = np.full((3, len(PENALTIES), 1), 1.0)
    scores[:, 3, 0] = (0.1, 0.2, 0.3)
    assert one_standard_error(scores) == PENALTIES[3]
    scores[:, 1, 0] = 0.25
    assert one_standard_error(scores) == PENALTIES[1]
    scores[:, 1, 0] = 0.27
    assert one_standard_error(scores) == PENALTIES[3]


def test_overconfidence_of_a_shifted_group_does_not_choose_the_penalty() -> None:
    scores = np.full((3, len(PENALTIES), 2), 2.0)
    scores[:, 6, 0], scores[:, 6, 1] = 9.0, 0.5  # bad as it is, good when softened
    assert one_standard_error(scores) == PENALTIES[6]


def test_intervals_resample_groups_and_know_when_there_are_too_few() -> None:
    n = 100
    y = np.arange(n) % 2
    right = (np.arange(n) // 20 != 0).astype(float)  # one of five groups is all wrong
    grouped = task_for(y, {"document": np.arange(n) // 20}, "document")
    draws = Draws.of(grouped)
    wide = draws.accuracy(right)
    assert wide.value == pytest.approx(0.8)
    assert wide.high - wide.low > 0.3, "five groups, one wrong: items would give 0.16"
    assert not draws.underpowered
    assert draws.difference(right, right).high == 0.0
    assert draws.accuracy(np.ones(n)).low == pytest.approx(0.9638, abs=1e-3)  # exact, 100 of 100
    few = Draws.of(task_for(y, {"document": np.arange(n) // 25}, "document"))
    assert few.underpowered
    leaky = Draws.of(task_for(y, {"document": np.arange(n) // 20}, LEAKY))
    assert len(leaky.rows) == 20 and not leaky.underpowered
    exact = leaky.accuracy(np.where(np.arange(n) == leaky.rows[0], 0.0, 1.0))
    assert (exact.low, exact.high) == pytest.approx((0.7513, 0.9987), abs=1e-3)  # 19 of 20


def test_many_sites_are_adjusted_together() -> None:
    x, y, _ = planted(60, 4, 9)
    task = by_groups(60, y)
    tested = cross_validate(x, task)
    assert isinstance(tested, Tested)
    rows = [ControlRow("majority", "floor", Outcome(controls.majority(task)))]
    one = result_line("z L0H0", task, tested, Draws.of(task), rows, Others((), 0))
    two = one.model_copy(update={"p_margin": 0.04})
    found = adjusted([one, Failure(stage="probe", reason="no"), two])
    assert [r.q_margin for r in found if not isinstance(r, Failure)] == pytest.approx([2 * one.p_margin, 0.04])
    assert isinstance(found[1], Failure)
    assert adjusted([]) == []


def test_permutation_p_counts_the_observed_value() -> None:
    assert controls.permutation_p(0.9, [0.1] * 19) == pytest.approx(1 / 20)
    assert controls.permutation_p(0.1, [0.1] * 19) == 1.0
