"""The model border: the instrument's proof, what it refuses, token strings, changed heads, logit readouts."""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, boot, random_network, tiny_model, tiny_texts, tiny_tokenizer
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model import InstrumentReport, LanguageModel, Layer, Readout, clean_run, log_probs, prove
from autointerp.model import with_changed_z as changed_z
from autointerp.model.instrument import check_patterns, check_tokenizer
from autointerp.notebook import open_model

READ_ONLY = ("OPT", "GPTNeo")
PADDED = 3  # embeddings beyond the tokenizer


@functools.cache
def proved(architecture: str) -> tuple[LanguageModel, InstrumentReport]:
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    return prove(open_model(boot(random_network(architecture, len(tokenizer) + PADDED), tokenizer)).model)


def some_ids(model: LanguageModel, rows: int = 3, size: int = 14) -> Tensor:
    start = 0 if model.bos_id is None else 1
    encoded = [model.encode(text)[0][: size - start] for text in tiny_texts(rows)]
    first = [] if model.bos_id is None else [model.bos_id]
    return model.to_ids(np.array([[*first, *row.tolist()] for row in encoded]))


def layers_of(model: LanguageModel, ids: Tensor) -> list[Layer]:
    layers: list[Layer] = []
    model.read_attention(ids, list(range(model.n_layers)), layers.append)
    return layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_proved_and_measured_right(architecture: str) -> None:
    model, report = proved(architecture)
    assert report.exact_resume
    assert model.exact_resume
    assert report.pattern_read_only == (architecture in READ_ONLY)
    assert report.sink_logits == model.sink_logits == (architecture == "GptOss")
    assert report.row_sum_high == pytest.approx(1, abs=1e-3)
    assert (report.row_sum_low < 0.9) == model.sink_logits
    assert report.future_mass == 0
    assert report.logit_shift > 0.01
    ids = some_ids(model)
    network = random_network(architecture, model.d_vocab)
    network.set_attn_implementation("eager")
    with torch.no_grad():
        original = network(ids, use_cache=False, output_attentions=True)
    torch.testing.assert_close(model.logits(ids), original.logits, atol=1e-5, rtol=0)
    layers = layers_of(model, ids)
    assert [layer.index for layer in layers] == [0, 1]
    for layer, wanted in zip(layers, original.attentions, strict=True):
        torch.testing.assert_close(layer.pattern, wanted, atol=1e-5, rtol=0)
        assert layer.v.shape == (3, 14, model.n_kv_heads, 8)
        assert layer.z.shape == (3, 14, 4, 8)
    hidden = model.final_states(ids)[1]
    torch.testing.assert_close(model.unembed(hidden), original.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_probs(model, hidden), original.logits.log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_changed_z_is_a_full_forward_with_the_same_hook(architecture: str) -> None:
    model, _ = proved(architecture)
    ids = some_ids(model)
    run = clean_run(model, ids)
    for layer in (0, 1):
        torch.testing.assert_close(changed_z(model, run, layer, lambda z: z), run.hidden, atol=1e-6, rtol=0)

        def hook(z: Tensor, hook: Any) -> Tensor:
            shaped = z.clone().reshape(*z.shape[:2], 4, -1)
            shaped[:, 3:, 2] = 0.5
            return shaped.reshape(z.shape)

        def change(z: Tensor) -> Tensor:
            z[:, 3:, 2] = 0.5
            return z

        with model.hooks([(f"blocks.{layer}.attn.hook_z", hook)]):
            wanted = model.final_states(ids)[1]
        assert (wanted - run.hidden).abs().max() > 1e-2
        torch.testing.assert_close(wanted[:, :3], run.hidden[:, :3], atol=1e-5, rtol=0)
        torch.testing.assert_close(changed_z(model, run, layer, change), wanted, atol=1e-5, rtol=0)
        full = replace(model, exact_resume=False)
        torch.testing.assert_close(changed_z(full, run, layer, change), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.final_states(ids)[1], run.hidden, atol=0, rtol=0)


POST_NORM = ("Gemma2", "Gemma3", "Olmo2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_norm_between_the_heads_and_the_stream_is_recognised(architecture: str) -> None:
    model, _ = proved(architecture)
    assert model.direct_writes == (architecture not in POST_NORM)
    assert model.norm_before == (architecture != "Olmo2")
    ids = some_ids(model)
    if model.direct_writes:
        assert Readout.of(model, ids).gain.shape == (32,)
    else:
        with pytest.raises(ModelError, match="norm between its attention and the residual stream"):
            Readout.of(model, ids)


def test_a_model_without_a_final_norm_is_refused() -> None:
    """OPT with `do_layer_norm_before=False` (its 350m) has none, and its `ln1` stands behind the attention."""
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_dim": 64}
    size = len(tiny_tokenizer())
    config = OPTConfig(vocab_size=size, word_embed_proj_dim=32, do_layer_norm_before=False, **shape)
    network = OPTForCausalLM(config).eval()
    with pytest.raises(ModelError, match="no norm before its unembedding"):
        open_model(boot(network))


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in POST_NORM])
def test_the_whole_residual_read_out_is_the_centred_logits(architecture: str) -> None:
    model, _ = proved(architecture)
    ids = some_ids(model)
    readout = Readout.of(model, ids)
    residual = model.final_states(ids)[0].reshape(-1, 32)
    logits = model.logits(ids).reshape(len(residual), -1)
    scale = readout.scale(residual)
    found = readout.logits(residual, scale)
    assert found.mean(1).abs().max() < 1e-5
    rest = found - (logits - logits.mean(1, keepdim=True))
    assert (rest - rest.mean(0)).abs().max() < 1e-4, "more than the same constant (the norm's bias) at every position"
    tokens = ids.reshape(-1)
    torch.testing.assert_close(
        readout.of_tokens(residual, scale, tokens), found[torch.arange(len(tokens)), tokens], atol=1e-5, rtol=0
    )
    halves = readout.logits(residual * 0.25, scale) + readout.logits(residual * 0.75, scale)
    torch.testing.assert_close(halves, found, atol=1e-5, rtol=0)


def test_the_readout_holds_where_the_stream_is_as_small_as_the_norms_epsilon() -> None:
    network = random_network("GPT2", len(tiny_tokenizer()))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "wte" in name or "wpe" in name or "c_proj" in name:
                parameter.mul_(0.01)
    model = open_model(boot(network)).model
    ids = some_ids(model)
    readout = Readout.of(model, ids)
    residual = model.final_states(ids)[0].reshape(-1, 32)
    assert residual.var(-1).min() < 1e-3
    logits = model.logits(ids).reshape(len(residual), -1)
    rest = readout.logits(residual, readout.scale(residual)) - (logits - logits.mean(1, keepdim=True))
    assert (rest - rest.mean(0)).abs().max() < 1e-3 * (logits - logits.mean(0)).abs().max()


@pytest.mark.parametrize("architecture", ["GPT2", "Llama", "Qwen2", "GPTNeoX", "OPT", "Bloom", "GPTNeo"])
def test_v_less_its_constant_is_linear_in_the_normalised_stream(architecture: str) -> None:
    model, _ = proved(architecture)
    ids = some_ids(model)
    seen: list[Tensor] = []
    handle = model.bridge.blocks[1].ln1.register_forward_hook(lambda m, a, out: seen.append(out))
    try:
        layer = layers_of(model, ids)[1]
    finally:
        handle.remove()
    bias = getattr(model.bridge.blocks[1].ln1, "bias", None)
    stream = seen[0] - (0 if bias is None else bias)
    wanted = torch.einsum("bsm,kmd->bskd", stream, model.W_V(1))
    torch.testing.assert_close(layer.v - model.v_constant(1), wanted, atol=1e-5, rtol=0)
    assert (model.v_constant(1).abs().max() > 0.01) == (architecture != "Llama")


def hooks_of(model: LanguageModel) -> list[object]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [hook for m in model.bridge.modules() for kind in kinds for hook in getattr(m, kind).values()]


def test_no_hook_is_left_behind_after_an_exception() -> None:
    model, _ = proved("GPT2")
    ids = some_ids(model)
    before = hooks_of(model)
    run = clean_run(model, ids)

    def fail(*_: object) -> Tensor:
        raise KeyError("from inside")

    for attempt in (
        lambda: model.read_attention(ids, [0, 1], fail),
        lambda: changed_z(model, run, 0, fail),
        lambda: changed_z(replace(model, exact_resume=False), run, 1, fail),
    ):
        with pytest.raises(KeyError, match="from inside"):
            attempt()
    assert hooks_of(model) == before
    layers_of(model, ids)
    assert hooks_of(model) == before
    torch.testing.assert_close(model.final_states(ids)[1], run.hidden, atol=0, rtol=0)


def test_reading_attention_of_a_layer_that_never_reports_is_refused() -> None:
    model, _ = proved("GPT2")
    with (
        pytest.raises(ModelError, match=r"no attention arrived from layers \[0, 1\]"),
        model.observing([0, 1], lambda layer: None),
    ):
        pass


# -- what the proof refuses


@pytest.mark.parametrize("architecture", ["GPT2", "GptOss"])
def test_a_transposed_pattern_is_refused(architecture: str) -> None:
    model, _ = proved(architecture)
    patterns = [layer.pattern for layer in layers_of(model, some_ids(model))]
    check_patterns(model, patterns)
    with pytest.raises(ModelError, match="destination and source are swapped"):
        check_patterns(model, [patterns[0], patterns[1].transpose(-1, -2)])


def test_rows_that_do_not_sum_to_one_are_refused_without_sink_logits() -> None:
    model, _ = proved("GPT2")
    sinks, _ = proved("GptOss")
    pattern = layers_of(model, some_ids(model))[0].pattern
    short, long = pattern * 0.9, pattern * 1.1
    with pytest.raises(ModelError, match=r"sum to 0\.9000 to 1\.0000 instead of 1"):
        check_patterns(model, [pattern, short])
    assert check_patterns(sinks, [pattern, short])[0] == pytest.approx(0.9, abs=1e-5)
    for either in (model, sinks):
        with pytest.raises(ModelError, match=r"1\.1000 instead of 1"):
            check_patterns(either, [pattern, long])


def test_half_precision_has_its_own_tolerance() -> None:
    network = random_network("GPT2", len(tiny_tokenizer()))
    model = open_model(boot(network, dtype=torch.bfloat16)).model
    assert model.dtype == torch.bfloat16
    exact, _ = proved("GPT2")
    pattern = layers_of(exact, some_ids(exact))[0].pattern
    for factor, fits_half, fits_single in ((1.004, True, False), (0.996, True, False), (1.02, False, False)):
        for judge, fits in ((model, fits_half), (exact, fits_single)):
            if fits:
                check_patterns(judge, [pattern * factor])
            else:
                with pytest.raises(ModelError, match="instead of 1"):
                    check_patterns(judge, [pattern * factor])


class Elsewhere(LanguageModel):
    """Shows values that are not those its attention used."""

    def read_attention(self, ids: Tensor, layers: list[int], read: Any) -> None:
        super().read_attention(ids, layers, lambda layer: read(replace(layer, v=layer.v + 0.1)))


class Deaf(LanguageModel):
    """A model whose hooks reach nothing."""

    def hooks(self, hooks: Any) -> Any:
        return super().hooks([])


class Other(LanguageModel):
    """A model whose unembedding is not that of its logits."""

    def logits(self, ids: Tensor) -> Tensor:
        return super().logits(ids).flip(-1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Elsewhere, "z differs from pattern x v"), (Deaf, "no attention arrived"), (Other, "unembedding its final norm")],
)
def test_an_instrument_that_shows_something_else_is_refused(kind: type[LanguageModel], message: str) -> None:
    model, _ = proved("GPT2")
    with pytest.raises(ModelError, match=message):
        prove(kind(**{f.name: getattr(model, f.name) for f in fields(LanguageModel)}))


def test_hooks_that_read_but_do_not_reach_the_computation_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = proved("GPT2")
    layers = layers_of(model, some_ids(model))

    def replay(self: LanguageModel, ids: Tensor, wanted: list[int], read: Any) -> None:
        for layer in layers:
            read(layer)

    deaf = Deaf(**{f.name: getattr(model, f.name) for f in fields(LanguageModel)})
    monkeypatch.setattr(Deaf, "read_attention", replay)
    with pytest.raises(ModelError, match="logits did not move"):
        prove(deaf)


def test_a_tokenizer_that_does_not_round_trip_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = tiny_model("gpt2")
    check_tokenizer(model)
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")))
    with pytest.raises(ModelError, match="does not round-trip: it holds 1 tokens"):
        check_tokenizer(replace(model, tokenizer=empty))
    with pytest.raises(ModelError, match=r"gives id 1[0-9][0-9], but the model has 40"):
        check_tokenizer(replace(model, strings=model.strings[:40]))
