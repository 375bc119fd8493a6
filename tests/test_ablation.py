"""Ablation by running on from the changed layer equals full forwards with the hook on; the sample of positions; the
direct effect, worked out by hand."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, boot, random_network, tiny_model, tiny_tokenizer
from torch import Tensor

from autointerp.model import LanguageModel, LayerChanges, Readout, Rows, Shortcuts, clean_run, log_probs, prove
from autointerp.notebook import open_model
from autointerp.records import Head, Interval, Unscored
from autointerp.scoring import ablation
from autointerp.scoring.ablation import ablate_heads, ablation_batches, scored_positions
from autointerp.scoring.direct import direct_effects
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.next_token import CleanDistributions

PARALLEL = ("GPTNeoX",)
POST_NORM = ("Gemma2", "Gemma3", "Olmo2")


@functools.cache
def proved(architecture: str) -> LanguageModel:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    return prove(open_model(boot(random_network(architecture, len(tokenizer)), tokenizer)).model)[0]


def rows_of(model: LanguageModel, n: int = 5, size: int = 20) -> HeldOutRows:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, model.d_vocab, (n, size)).astype(np.int32)
    lengths = np.full(n, size)
    lengths[1] = size - 7
    return text_rows(ids, lengths, np.arange(n) // 2, "test", model.special_ids)


def means_of(model: LanguageModel) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(model.n_layers, model.n_heads, model.W_O(0).shape[1]))


def full_states(model: LanguageModel, ids: Tensor, head: Head, mean: np.ndarray) -> Tensor:
    """Final states of a whole forward with the head's z replaced after the first position, by a hook of its own."""

    def hook(z: Tensor, hook: Any) -> Tensor:
        shaped = z.clone().reshape(*z.shape[:2], model.n_heads, -1)
        shaped[:, 1:, head.index] = torch.as_tensor(mean, dtype=z.dtype)
        return shaped.reshape(z.shape)

    with model.hooks([(f"blocks.{head.layer}.attn.hook_z", hook)]):
        return model.final_states(ids)[1]


def every_head(model: LanguageModel) -> tuple[Head, ...]:
    return tuple(Head(layer=layer, index=index) for layer in range(model.n_layers) for index in range(model.n_heads))


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablation_is_a_full_forward_with_the_hook_on(
    architecture: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = proved(architecture)
    assert model.shortcuts == Shortcuts(True, architecture in PARALLEL, True, True)
    if sampled:
        monkeypatch.setattr(ablation, "VOCABULARY_CELLS", 0)  # at most 12 positions a window
    rows = rows_of(model, size=40)
    means = means_of(model)
    effects = ablate_heads(model, rows, every_head(model), means, seed=0)
    scored = scored_positions(rows, model.d_vocab, np.random.default_rng(0))
    assert (scored.sum(1).max() == 12) == sampled
    ids = model.to_ids(rows.ids)
    before = log_probs(model, model.final_states(ids)[1])
    window, pos = np.nonzero(scored)
    row = np.arange(len(pos))
    for number, head in enumerate(effects.heads):
        after = log_probs(model, full_states(model, ids, head, means[head.layer, head.index]))
        change = (before - after)[window, pos]
        kl = (before[window, pos].exp() * change).sum(-1)
        assert kl.max() > 1e-3
        rise = change[row, rows.ids[window, pos + 1].astype(np.int64)]
        np.testing.assert_allclose(effects.loss[number][scored], rise, atol=1e-5, rtol=0)
        np.testing.assert_allclose(effects.kl[number][scored], kl, atol=1e-5, rtol=0)
        assert np.isnan(effects.loss[number][~scored]).all() and np.isnan(effects.kl[number][~scored]).all()


@pytest.mark.parametrize("architecture", ["Llama", "GPTNeoX", "Olmo2", "Bloom"])
@pytest.mark.parametrize(
    "shortcuts",
    [Shortcuts(), Shortcuts(rest_of_block=True), Shortcuts(rest_of_block=True, rows=True), Shortcuts(True, tiled=True)],
)
def test_any_part_of_the_shortcuts_gives_the_same(architecture: str, shortcuts: Shortcuts) -> None:
    model = replace(proved(architecture), shortcuts=shortcuts)
    ids = model.to_ids(rows_of(model).ids)
    run = clean_run(model, ids)
    rows = Rows(torch.tensor([0, 0, 3, 4]), torch.tensor([2, 19, 7, 11]))
    for layer in range(model.n_layers):
        changes = LayerChanges(model, run, layer)
        new = changes.z[:, :, [3, 1]].permute(2, 0, 1, 3).clone()
        new[:, :, 1:] = 0.5
        found = changes.final_rows([3, 1], new, rows)
        for head, states in zip((3, 1), found, strict=True):
            wanted = full_states(model, ids, Head(layer=layer, index=head), np.full(new.shape[-1], 0.5))
            torch.testing.assert_close(states, wanted[rows.window, rows.pos], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.final_states(ids)[1], run.hidden, atol=0, rtol=0)


def deep_network(architecture: str) -> Any:
    """Four layers; Gemma's look back 5 positions in every other one."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

    size = len(tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture == "GPT2":
            return GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=32, n_head=4, vocab_size=size, n_positions=64)).eval()
        shape = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "head_dim": 8}
        kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 5}
        extra = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
        network = Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=size, **shape, **kinds, **extra)).eval()
    network.config.architectures = ["Gemma3ForCausalLM"]
    return network


@pytest.mark.parametrize("architecture", ["GPT2", "Gemma3"])
def test_layers_in_between_run_with_their_own_masks(architecture: str) -> None:
    torch.set_num_threads(1)
    model = prove(open_model(boot(deep_network(architecture))).model)[0]
    assert model.shortcuts == Shortcuts(True, False, True, True)
    rows = rows_of(model)
    means = means_of(model)
    effects = ablate_heads(model, rows, every_head(model), means, seed=0)
    ids = model.to_ids(rows.ids)
    before = log_probs(model, model.final_states(ids)[1])
    scored = ~np.isnan(effects.kl[0])
    for number, head in enumerate(effects.heads):
        after = log_probs(model, full_states(model, ids, head, means[head.layer, head.index]))
        kl = (before.exp() * (before - after)).sum(-1).numpy()
        np.testing.assert_allclose(effects.kl[number][scored], kl[scored], atol=1e-5, rtol=0)


def test_a_shortcut_that_is_not_exact_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP that reads the attention is not put aside; a W_O that is not the model's leaves full forwards."""
    assert not proved("Llama").shortcuts.mlp_apart
    model = proved("GPT2")

    class Other(LanguageModel):
        def W_O(self, layer: int) -> Tensor:
            return super().W_O(layer) * 1.01

    wrong = prove(Other(**{name: getattr(model, name) for name in model.__dataclass_fields__}))[0]
    assert wrong.exact_resume and wrong.shortcuts == Shortcuts()
    assert replace(model, exact_resume=False).shortcuts == model.shortcuts  # what proves is prove, on load
    monkeypatch.setattr("autointerp.model.instrument._resume_error", lambda *_: 1.0)
    assert prove(model)[0].shortcuts == Shortcuts()


def test_nothing_stays_changed_when_a_run_fails() -> None:
    model = proved("GPT2")
    ids = model.to_ids(rows_of(model).ids)
    run = clean_run(model, ids)
    changes = LayerChanges(model, run, 0)
    new = changes.z[:, :, [0]].permute(2, 0, 1, 3)
    broken = Rows(torch.tensor([99]), torch.tensor([0]))
    with pytest.raises(IndexError):
        changes.final_rows([0], new, broken)
    assert not any("forward" in module.__dict__ for module in model.bridge.modules())
    torch.testing.assert_close(model.final_states(ids)[1], run.hidden, atol=0, rtol=0)


def test_every_position_has_the_same_chance_of_being_scored() -> None:
    model = tiny_model("gpt2")
    base = rows_of(model, n=400, size=64)
    rows = replace(base, lengths=np.full(400, 64), rows=np.broadcast_to(np.arange(64) > 0, (400, 64)))
    rng = np.random.default_rng(0)
    drawn = [scored_positions(rows, 10**9, rng) for _ in range(10)]
    assert all((scored.sum(1) >= 11).all() and (scored.sum(1) <= 12).all() for scored in drawn)
    share = np.mean(drawn, axis=(0, 1))
    assert share[0] == share[63] == 0
    expected = share[1:63].mean()
    assert np.abs(share[1:63] - expected).max() < 5 * np.sqrt(expected * (1 - expected) / 4000)
    spans = [np.ptp(np.flatnonzero(row)) for row in drawn[0]]
    assert max(spans) < 62 / 5 + 2, "a window is scored in one stretch"


def test_batches_hold_every_scored_position_once_and_end_at_the_last() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=30, size=64)
    scored = scored_positions(rows, 10**9, np.random.default_rng(0))
    scored[7] = False
    seen = np.zeros_like(scored, dtype=int)
    for batch in ablation_batches(rows, scored, model.d_vocab):
        windows = batch.windows[batch.row_window]
        np.add.at(seen, (windows, batch.pos), 1)
        assert batch.ids.shape[1] == batch.pos.max() + 1
        np.testing.assert_array_equal(batch.ids, rows.ids[batch.windows, : batch.ids.shape[1]])
        np.testing.assert_array_equal(batch.next_ids, rows.ids[windows, batch.pos + 1])
    np.testing.assert_array_equal(seen, scored)


def test_progress_reaches_the_end_where_windows_have_nothing_to_score() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model)
    rows = replace(rows, rows=rows.rows & (np.arange(5) < 3)[:, None])
    told: list[tuple[int, int]] = []
    ablate_heads(model, rows, (Head(layer=0, index=0),), means_of(model), 0, lambda *at: told.append(at))
    assert told[-1] == (5, 5)


def test_small_effects_survive_large_logits() -> None:
    """Logits around -90, as GPT-2 has them, and a KL of about 1e-5."""

    class Far(LanguageModel):
        def unembed(self, hidden: Tensor) -> Tensor:
            return super().unembed(hidden) * 8 - 90

    base = tiny_model("gpt2")
    model = Far(**{name: getattr(base, name) for name in base.__dataclass_fields__})
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 32, generator=draw)
    moved = hidden + 1e-3 * torch.randn(40, 32, generator=draw)
    next_ids = torch.randint(model.d_vocab, (40,), generator=draw)
    rise, kl = CleanDistributions.of(model, hidden, next_ids).effects(moved[None])
    before, after = (torch.log_softmax(model.unembed(h).double(), -1) for h in (hidden, moved))
    torch.testing.assert_close(kl[0].double(), (before.exp() * (before - after)).sum(-1), atol=2e-6, rtol=0)
    each = torch.arange(40)
    torch.testing.assert_close(rise[0].double(), (before - after)[each, next_ids], atol=1e-5, rtol=0)


# -- the direct effect


@pytest.mark.parametrize("architecture", ["GPT2", "Llama", "GPTNeoX", "GptOss"])
def test_the_direct_effect_is_the_write_through_the_frozen_norm(architecture: str) -> None:
    model = proved(architecture)
    rows = rows_of(model, n=9)
    means = means_of(model)
    found = direct_effects(model, rows, means)
    assert isinstance(found, dict) and set(found) == set(every_head(model))
    ids = model.to_ids(rows.ids)
    readout = Readout.of(model, ids)
    z: dict[int, Tensor] = {}
    model.read_attention(ids, [0, 1], lambda layer: z.update({layer.index: layer.z}))
    residual = model.final_states(ids)[0]
    for head in (Head(layer=0, index=2), Head(layer=1, index=0)):
        values = []
        for window in range(9):
            for pos in range(1, int(rows.lengths[window]) - 1):
                own = z[head.layer][window, pos, head.index] - torch.as_tensor(means[head.layer, head.index]).float()
                write = own @ model.W_O(head.layer)[head.index]
                logits = readout.logits(write[None], readout.scale(residual[window, pos][None]))[0]
                values.append(float(logits[int(rows.ids[window, pos + 1])]))
        assert found[head].value == pytest.approx(np.mean(values), abs=1e-4)
        assert found[head].n == len(values)
        assert found[head].low < found[head].value < found[head].high


def test_the_direct_effect_of_the_last_layer_is_the_change_of_the_logit() -> None:
    """Where the last MLP is silent and the write stands square to the stream, the frozen scale is the real one."""
    network = random_network("GPT2", len(tiny_tokenizer()))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("transformer.h.1.mlp.c_proj"):
                parameter.zero_()
    model = prove(open_model(boot(network)).model)[0]
    rows = rows_of(model, n=2)
    ids = model.to_ids(rows.ids)
    z: dict[int, Tensor] = {}
    model.read_attention(ids, [0, 1], lambda layer: z.update({layer.index: layer.z}))
    rows = replace(rows, rows=rows.rows & (np.arange(2)[:, None] == 0) & (np.arange(20) == 9))
    means = np.stack([layer[0, 9].numpy() for layer in z.values()]).astype(np.float64)
    stream = model.final_states(ids)[0][0, 9]
    along = (model.W_O(1)[3] @ (stream - stream.mean())).numpy()
    step = np.random.default_rng(0).normal(size=means.shape[-1])
    step = 0.01 * (step - along * (step @ along) / (along @ along))
    means[1, 3] -= step
    found = direct_effects(model, rows, means)
    assert isinstance(found, dict)
    head = Head(layer=1, index=3)

    def hook(value: Tensor, hook: Any) -> Tensor:
        shaped = value.clone().reshape(*value.shape[:2], model.n_heads, -1)
        shaped[:, 9, head.index] -= torch.as_tensor(step, dtype=value.dtype)
        return shaped.reshape(value.shape)

    before = model.logits(ids)[0, 9]
    with model.hooks([("blocks.1.attn.hook_z", hook)]):
        after = model.logits(ids)[0, 9]
    moved = before - before.mean() - (after - after.mean())
    assert found[head].n == 1
    assert abs(found[head].value) > 1e-4
    assert found[head].value == pytest.approx(float(moved[int(rows.ids[0, 10])]), rel=0.05)
    assert all(abs(found[other].value) < 1e-5 for other in found if other != head), "these are at their mean"


def test_the_direct_effect_is_not_available_behind_a_norm() -> None:
    for architecture in POST_NORM:
        model = proved(architecture)
        found = direct_effects(model, rows_of(model), means_of(model))
        assert isinstance(found, Unscored)
        assert "norm between its attention and the residual stream" in found.reason


def test_the_direct_effect_without_rows_is_undefined() -> None:
    model = proved("GPT2")
    rows = rows_of(model)
    found = direct_effects(model, replace(rows, rows=np.zeros_like(rows.rows)), means_of(model))
    assert isinstance(found, dict)
    empty: Interval = found[Head(layer=0, index=0)]
    assert empty.n == 0 and np.isnan(empty.value)
