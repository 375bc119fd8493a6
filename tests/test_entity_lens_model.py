"""Entity lens: prompts, insertion, loss, decoding and training on tiny random models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from entity_helpers import contexts, soft, tiny_items, tiny_plan, tiny_runner
from tiny_models import boot, random_network, tiny_model

from autointerp.lenses.entity_filter import Filter
from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.entity_items import make_item
from autointerp.lenses.entity_run import Prefix, PromptRunner, Rows
from autointerp.lenses.entity_steps import Keeper, frozen, score_items
from autointerp.lenses.entity_train import Trainer
from autointerp.lenses.entity_vectors import METHODS, ReadPlan, Sources, read_sources

TARGETS = [np.array([30, 2]), np.array([31, 40, 50, 2]), np.array([33, 34, 2])]


def rows_of(runner: PromptRunner, sizes: tuple[int, ...] = (3, 7, 5), slots: int = 2) -> Rows:
    prefix = runner.prefix(contexts(sizes))
    return runner.rows(prefix, list(range(len(sizes))), soft(len(sizes), slots=slots), np.array(runner.frame.slots))


def one_by_one(runner: PromptRunner, rows: Rows, number: int) -> Rows:
    size = int(rows.prefix.lengths[number])
    prefix = runner.prefix([rows.prefix.ids[number, :size].numpy()])
    return runner.rows(prefix, [0], rows.soft[number : number + 1], np.array(runner.frame.slots))


# -- insertion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_inserting_the_slots_own_embeddings_changes_no_bit(kind: str, cached: bool) -> None:
    runner = tiny_runner(kind, cached=cached)
    own = runner.model.bridge.W_E.detach()[list(runner.frame.slots)].expand(3, -1, -1)
    prefix = runner.prefix(contexts((3, 7, 5)))
    tail = np.array(runner.frame.slots)
    put, plain = (runner.rows(prefix, [0, 1, 2], one, tail) for one in (own, own[:, :0]))
    assert torch.equal(runner.score(put, TARGETS).log_prob, runner.score(plain, TARGETS).log_prob)
    assert runner.generate(put, 4) == runner.generate(plain, 4)
    other = runner.score(rows_of(runner), TARGETS).log_prob
    assert not torch.allclose(other, runner.score(plain, TARGETS).log_prob)


@pytest.mark.parametrize("n", [1, 64])
def test_the_hook_fires_once_a_prefill_and_never_in_later_steps(n: int) -> None:
    runner = tiny_runner()
    before = runner.insertions, runner.forwards
    rows = rows_of(runner, tuple([4] * n))
    assert rows.tail.tolist() == [list(runner.frame.slots)] * n
    said = runner.generate(rows, 5)
    steps = max(len(one.ids) for one in said)
    assert runner.insertions - before[0] == 1
    assert runner.forwards - before[1] >= 1 + steps  # contexts, prefill, and a step a further token


def test_only_the_slots_are_replaced() -> None:
    runner = tiny_runner(cached=False)
    seen: list[torch.Tensor] = []
    rows = rows_of(runner)
    with runner.model.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda t, hook: seen.append(t.detach()))]):
        with torch.no_grad():
            runner._whole(rows)
            runner._whole(dataclasses.replace(rows, soft=rows.soft[:, :0]))
    changed = (seen[0] != seen[1]).any(-1)
    want = torch.zeros_like(changed)
    for row, size in enumerate(rows.prefix.lengths.tolist()):
        want[row, size : size + 2] = True
    assert torch.equal(changed, want)


# -- batches, caches, padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_mixed_lengths_equal_one_by_one_with_and_without_cache(kind: str) -> None:
    scores, said = [], []
    for cached in (True, False):
        runner = tiny_runner(kind, cached=cached)
        assert runner.cached is cached
        rows = rows_of(runner)
        scored = runner.score(rows, TARGETS)
        together = runner.generate(rows, 6)
        for number, target in enumerate(TARGETS):
            alone = one_by_one(runner, rows, number)
            own = runner.score(alone, [target]).log_prob
            assert torch.allclose(scored.log_prob[scored.row == number], own, atol=1e-5)
            single = runner.generate(alone, 6)[0]
            assert single.ids == together[number].ids
            assert single.nll == pytest.approx(together[number].nll, abs=1e-5)
        scores.append(scored.log_prob)
        said.append([one.ids for one in together])
    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    assert said[0] == said[1]


@pytest.mark.parametrize("architecture", ["GPTNeoX", "Bloom", "OPT", "Gemma2", "Qwen3", "Mistral"])
def test_other_architectures_agree_with_whole_rows(architecture: str) -> None:
    from autointerp.notebook import open_model

    model = open_model(boot(random_network(architecture, len(tiny_model().strings)))).model
    frame = Frame.of(tiny_model())
    runner, whole = PromptRunner(model, frame), PromptRunner(model, frame, cached=False)
    assert torch.allclose(
        runner.score(rows_of(runner), TARGETS).log_prob, whole.score(rows_of(whole), TARGETS).log_prob, atol=1e-4
    )
    assert [one.ids for one in runner.generate(rows_of(runner), 5)] == [
        one.ids for one in whole.generate(rows_of(whole), 5)
    ]


def test_beginnings_of_a_text_share_one_run_of_it() -> None:
    runner = tiny_runner()
    ids = contexts((9,))[0]
    shared = runner.beginnings(ids, [2, 5, 10])
    apart = runner.prefix([ids[:2], ids[:5], ids[:10]])
    tail = np.array(runner.frame.slots)
    both = [runner.score(runner.rows(p, [0, 1, 2], soft(3), tail), TARGETS).log_prob for p in (shared, apart)]
    assert torch.allclose(both[0], both[1], atol=1e-5)


@pytest.mark.parametrize("stop", [2, 0])  # 0 is the id that rows are padded with
def test_padding_leaves_loss_accuracy_and_gradient_unchanged(stop: int) -> None:
    model = tiny_model()
    runner = PromptRunner(model, dataclasses.replace(Frame.of(model), stop=stop), cached=True)
    short, long = np.array([30, stop]), np.array([31, 40, 50, 51, 52, stop])
    found = []
    for targets in ([short], [short, long]):
        vectors = soft(2)[: len(targets)].requires_grad_()
        prefix = runner.prefix(contexts((3,)))
        rows = runner.rows(prefix, [0] * len(targets), vectors, np.array(runner.frame.slots))
        scored = runner.score(rows, targets)
        assert scored.row.tolist().count(0) == 2  # the mention's id and the stop token, once each
        own = scored.log_prob[scored.row == 0]
        (-own.mean()).backward()
        assert vectors.grad is not None
        found.append((own.detach(), scored.hit[scored.row == 0], vectors.grad[0]))
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one.float(), two.float(), atol=1e-6)


def test_generation_stops_at_the_stop_token_and_counts_it() -> None:
    runner = tiny_runner()
    said = runner.generate(rows_of(runner), 6)
    first = said[0].ids[0]
    stopped = runner.generate(rows_of(runner), 6, stops=[first])[0]
    assert stopped.ids == ()
    with torch.no_grad():
        own = runner.score(rows_of(runner), [np.array([first])] * 3).log_prob[0]
    assert stopped.nll == pytest.approx(-float(own), abs=1e-5)


def test_an_embedding_that_does_not_run_is_refused() -> None:
    from autointerp.errors import ModelError

    runner = tiny_runner()
    with pytest.raises(ModelError, match="embedding ran 0 times"), runner._inserting(soft(1), None):
        pass


# -- sources ---------------------------------------------------------------------------------------------------------


def test_vectors_are_the_streams_at_the_mentions_last_token() -> None:
    runner = tiny_runner()
    model = runner.model
    item = make_item("the cat sat on John and ran", (15, 19), "John", ("", ""), "test")
    found = read_sources(model, runner.frame, [item], ReadPlan((-1, 0, 1)))
    ids = runner.frame.text(model, item.text[:19])
    kept: dict[str, torch.Tensor] = {}
    names = ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
    with model.hooks([(n, lambda t, hook, n=n: kept.__setitem__(n, t.clone())) for n in names]):
        model.forward_base(model.to_ids(ids[None]))
    for place, name in enumerate(names):
        assert torch.allclose(found.h[0, place], kept[name][0, -1], atol=1e-5)
    assert torch.equal(found.h[0, 0], model.bridge.W_E[int(ids[-1])])
    assert found.merged == 0


def test_methods_read_different_places() -> None:
    runner = tiny_runner()
    item = make_item("the dog ran to red house and sat", (15, 24), "red house", ("d", ""), "test")
    vectors = {
        method: read_sources(runner.model, runner.frame, [item], ReadPlan((1,), method)).h[0, 0] for method in METHODS
    }
    assert torch.allclose(vectors["in_context"], vectors["full_context"], atol=1e-5)
    for other in ("after_context", "raw", "average"):
        assert not torch.allclose(vectors["in_context"], vectors[other], atol=1e-3)


def test_contexts_hold_no_more_than_the_vector_has_seen() -> None:
    runner = tiny_runner()
    item = make_item("the dog ran to Mary and sat", (15, 19), "Mary", ("", ""), "test")
    for context, text in (("none", ""), ("prefix", item.text[:19]), ("sentence", item.text)):
        found = read_sources(runner.model, runner.frame, [item], ReadPlan((1,), context=context))
        assert found.contexts[0].tolist() == runner.frame.text(runner.model, text).tolist()
        assert found.targets[0].tolist() == [runner.model.strings.index(" Mary")]  # the same spacing in every mode


# -- training --------------------------------------------------------------------------------------------------------


def sources(layers: tuple[int, ...] = (-1, 0, 1), context: str = "none") -> Sources:
    runner = tiny_runner()
    return read_sources(runner.model, runner.frame, tiny_items(), ReadPlan(layers, context=context))


def test_training_lowers_the_loss_and_leaves_the_model_as_it_was() -> None:
    runner = tiny_runner()
    before = [p.detach().clone() for p in runner.model.bridge.original_model.parameters()]
    data = sources()
    trainer = Trainer(runner, data, data, tiny_plan(min_steps=40))
    trained = trainer.run()
    assert (trainer.dev_loss(trained.theta[0]) < trainer.dev_loss(trainer.start(0))).all()
    after = list(runner.model.bridge.original_model.parameters())
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


@pytest.mark.parametrize("context", ["none", "prefix"])
def test_only_the_soft_token_and_the_filter_have_gradients(context: str) -> None:
    runner = tiny_runner()
    theta = torch.zeros(3, 32, requires_grad=True)
    change = Filter(torch.eye(32).repeat(3, 1, 1).requires_grad_(), torch.zeros(3, 32, requires_grad=True))
    with frozen(runner.model):
        scored, _ = score_items(runner, sources(context=context), theta, [0, 1, 2], change)
        scored.log_prob.mean().backward()
    parameters = list(runner.model.bridge.original_model.parameters())
    assert all(p.grad is None and p.requires_grad for p in parameters)
    for leaf in (theta, change.weight, change.bias):
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0


@pytest.mark.slow
def test_all_layers_at_once_equal_each_layer_alone() -> None:
    runner = tiny_runner()
    plan = tiny_plan(rates=(0.02, 0.05), min_steps=12)
    data = sources()
    joint = Trainer(runner, data, data, plan).run()
    for place, layer in enumerate(plan.layers):
        own = sources((layer,))
        alone = Trainer(runner, own, own, dataclasses.replace(plan, layers=(layer,))).run()
        assert torch.allclose(alone.theta[0, 0], joint.theta[0, place], atol=1e-5)
        assert alone.rates[0] == joint.rates[place]


def test_seeds_repeat_and_differ() -> None:
    runner, data = tiny_runner(), sources((1,))
    first, again = (Trainer(runner, data, data, tiny_plan(layers=(1,), seeds=(0, 1))).run() for _ in range(2))
    assert torch.equal(first.theta, again.theta)
    assert not torch.allclose(first.theta[0], first.theta[1])


def test_the_best_state_is_a_copy() -> None:
    theta = torch.zeros(2, 3)
    keeper = Keeper(theta)
    going = keeper.offer(theta, torch.tensor([0.5, 0.5]), [0, 1])
    theta += 1  # training goes on in place
    going = keeper.offer(theta, torch.tensor([0.2, 0.6]), going)
    going = keeper.offer(theta + 1, torch.tensor([0.2, 0.7]), going)
    assert keeper.best.tolist() == [[0.0] * 3, [2.0] * 3]
    assert keeper.match.tolist() == pytest.approx([0.5, 0.7])
    assert going == [1]  # the first has not risen for two looks


def test_the_filter_starts_as_the_identity_and_lowers_the_dev_loss() -> None:
    runner, data = tiny_runner(), sources((0, 1))
    trainer = Trainer(runner, data, data, tiny_plan(layers=(0, 1), with_filter=True, filter_epochs=2, min_steps=16))
    theta = trainer.start(0)
    identity = Filter.identity(2, 32)
    assert torch.equal(trainer.dev_loss(theta), trainer.dev_loss(theta, identity))
    change = trainer._filter(theta)
    assert (trainer.dev_loss(theta, change) < trainer.dev_loss(theta, identity)).all()


def test_a_prefix_keeps_its_gaps_out_of_sight() -> None:
    runner = tiny_runner()
    prefix = runner.prefix(contexts((3, 7)))
    assert prefix.cache is not None
    spoilt = [(k.clone(), v.clone()) for k, v in prefix.cache]
    for keys, values in spoilt:
        keys[0, :, 4:], values[0, :, 4:] = 50.0, 50.0  # columns of padding of the shorter context
    tail = np.array(runner.frame.slots)
    clean, other = (
        runner.score(runner.rows(Prefix(prefix.ids, prefix.lengths, cache), [0, 1], soft(2), tail), TARGETS[:2])
        for cache in (prefix.cache, spoilt)
    )
    assert torch.allclose(clean.log_prob, other.log_prob, atol=1e-6)
