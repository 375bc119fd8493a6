"""Groups of heads removed together: identities with single heads, a hand count, and a planted head with a backup."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from autointerp.model import LanguageModel
from autointerp.model.native import AttentionWeights, NativeWeights, load_native
from autointerp.records import Description, Failure, GroupEffect, Head, HeadReport, Interval
from autointerp.report.data import card
from autointerp.scoring.backup import RemovedHeads, remove_heads
from autointerp.scoring.groups import Group, group_of
from autointerp.scoring.suite import HeldOut, Suite, SuiteSpec
from tests.test_report import reports
from tests.test_scoring import claim as unlabelled
from tests.test_scoring import rows_of
from tests.tiny_models import tiny_model, tiny_tokenizer

A, B, SILENT = Head(layer=0, index=0), Head(layer=1, index=0), Head(layer=0, index=1)
CONSTANT, BOS, FLAG, WRITTEN = range(4)  # dimensions of the stream


@functools.cache
def backed_up_model() -> LanguageModel:
    """A writes one direction everywhere, and a flag. B would write the same, but rests on BOS where the flag is."""
    generator = np.random.default_rng(0)
    tokenizer = tiny_tokenizer()
    size, bos = len(tokenizer), tokenizer.bos_token_id
    embedding, unembedding = np.zeros((size, 8)), np.zeros((size, 8))
    embedding[:, CONSTANT], embedding[:, 4:] = 10, 0.1 * generator.normal(size=(size, 4))
    embedding[bos, [CONSTANT, BOS]] = 0, 10
    unembedding[:, WRITTEN] = generator.normal(size=size)

    def weights() -> np.ndarray:
        return np.zeros((2, 8, 4))

    def writer(outputs: list[int]) -> tuple[np.ndarray, np.ndarray]:
        value, out = weights(), np.zeros((2, 4, 8))
        value[0, CONSTANT, 0] = 0.1
        out[0, 0, outputs] = 1
        return value, out

    query, key = weights(), weights()
    query[0, FLAG, 0], key[0, BOS, 0] = 20, 1
    layers = [
        AttentionWeights(weights(), weights(), *writer([WRITTEN, FLAG])),
        AttentionWeights(query, key, *writer([WRITTEN])),
    ]
    return load_native(NativeWeights(embedding, np.zeros((64, 8)), layers, unembedding), tokenizer, "backup", "cpu")[0]


def claim(**values: object) -> Description:
    return unlabelled(**{"label": "previous_token", **values})


def removed(model: LanguageModel, heads: list[Head], z_mean: np.ndarray) -> RemovedHeads:
    return remove_heads(model, rows_of(model, n=6), heads, z_mean, seed=0, rows=40)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_group_of_one_is_the_head_alone(kind: str) -> None:
    model = tiny_model(kind)
    z_mean = np.random.default_rng(0).normal(size=(2, 4, 8)) * 0.1
    heads = [Head(layer=0, index=3), Head(layer=1, index=2)]
    found = removed(model, heads, z_mean)
    for number, head in enumerate(heads):
        assert_allclose(found.together(Group((head,), "predicate")), found.total[number], atol=2e-5)


def test_a_group_in_two_layers_by_hand() -> None:
    model = tiny_model("gpt2")
    z_mean = np.random.default_rng(1).normal(size=(2, 4, 8)) * 0.1
    heads = [Head(layer=0, index=1), Head(layer=0, index=2), Head(layer=1, index=0)]
    found = removed(model, heads, z_mean)
    rows = found.rows
    ids = model.to_ids(rows.held_out.ids[rows.window])
    at = torch.arange(len(rows.dst)), torch.from_numpy(rows.dst)

    def changing(layer: int, indices: list[int]) -> tuple[str, Callable[..., torch.Tensor]]:
        def hook(z: torch.Tensor, hook: object) -> torch.Tensor:
            changed = z.reshape(*z.shape[:2], 4, -1).clone()
            for row, dst in enumerate(rows.dst.tolist()):
                for index in indices:
                    changed[row, dst, index] = torch.as_tensor(z_mean[layer, index], dtype=z.dtype)
            return changed.reshape(z.shape)

        return f"blocks.{layer}.attn.hook_z", hook

    before = model.logits(ids)[at]
    with model.hooks([changing(0, [1, 2]), changing(1, [0])]):
        lost = before - model.logits(ids)[at]
    wanted = (lost - lost.mean(1, keepdim=True))[torch.arange(len(rows.dst)), torch.from_numpy(rows.next_ids)]
    assert_allclose(found.together(Group(tuple(heads), "label")), wanted.numpy(), atol=1e-4)
    assert_allclose(found.together(Group(tuple(heads[::-1]), "label")), wanted.numpy(), atol=1e-4)


def test_a_head_with_a_backup_shows_in_its_group_alone() -> None:
    model = backed_up_model()
    found = removed(model, [A, SILENT, B], np.zeros((2, 2, 4)))
    assert found.of(A).backed_up and found.of(A).direct_size > 0.05
    assert found.of(A).total_size < 0.05 * found.of(A).direct_size
    assert not found.of(SILENT).backed_up
    pair = Group((A, B), "predicate")
    together = found.together(pair)
    direct = found.direct[0]
    assert_allclose(together, direct, atol=0.1 * np.abs(direct).max())  # together they lose what A writes
    effect = found.group_effect(A, pair, together)
    assert effect.heads == (A, B) and effect.total.n == len(direct)
    assert effect.alone == found.of(A).total
    assert effect.excess.value == pytest.approx(effect.total.value - effect.sum_of_singles.value)
    assert abs(effect.sum_of_singles.value) < 0.1 * abs(effect.total.value)


def test_groups_are_made_of_what_is_said() -> None:
    heads = [Head(layer=0, index=i) for i in range(8)]
    same = [claim(predicate="distance == 1"), claim(predicate="distance == 1"), claim(predicate="distance == 2")]
    outcomes: dict[Head, Description | Failure] = dict(zip(heads, same, strict=False))
    outcomes[heads[3]] = claim(predicate="distance == 1", domain="repeats")
    outcomes[heads[4]] = claim(predicate="distance == 1").model_copy(update={"abstained": True})
    outcomes[heads[5]] = claim(predicate="distance == 3").model_copy(update={"labels": ("other",)})
    outcomes[heads[6]] = claim(predicate="distance == 4").model_copy(update={"labels": ("other",)})
    outcomes[heads[7]] = Failure(stage="describe", reason="no reply")
    by_rule = Group((heads[0], heads[1]), "predicate")
    assert group_of(heads[0], outcomes) == group_of(heads[1], outcomes) == by_rule
    assert group_of(heads[2], outcomes) == Group(tuple(heads[:3]), "label")  # nobody else has its rule
    assert [group_of(head, outcomes) for head in heads[3:]] == [None] * 5


def test_the_suite_removes_the_group_of_a_backed_up_head() -> None:
    model = backed_up_model()
    rows = rows_of(model, n=40)
    spec = SuiteSpec(model, HeldOut({}, {}), {"text": rows}, np.zeros((2, 2, 4)), 0, scorers=("ablation",))
    described = claim(predicate="distance >= 0")
    found = Suite(spec, lambda *_: None).score({A: described, B: described, SILENT: claim(predicate=None)}, {})
    assert found[A].group is not None and found[A].group.heads == (A, B)
    assert found[SILENT].group is None
    alone = Suite(spec, lambda *_: None).score({A: described, SILENT: claim(predicate="distance == 9")}, {})
    assert alone[A].total is not None and alone[A].total.backed_up
    by_label = alone[A].group
    assert by_label is not None and by_label.alike_in == "label" and by_label.heads == (A, SILENT)


def test_the_card_shows_the_group_beside_the_total() -> None:
    some = Interval(value=0.1, low=0.0, high=0.2, n=9)
    heads = tuple(Head(layer=0, index=i) for i in range(8))
    group = GroupEffect(heads=heads, alike_in="label", total=some, alone=some, sum_of_singles=some, excess=some)
    report = reports()[0].model_copy(update={"total_effect": some, "backed_up": True, "group_effect": group})
    names = [row[0] for row in card(report)["stats"]]
    place = names.index("total effect on it, later heads make up for it")
    assert names[place + 1].endswith("with this label together (L0H0, L0H1, L0H2, L0H3, L0H4, L0H5 and 2 more)")
    assert names[place + 2 : place + 4] == ["each of them alone, added up", "together minus added up"]
    assert HeadReport.model_validate(report.model_dump(mode="json")).group_effect == group
