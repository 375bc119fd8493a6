"""Path patching against its definition: every pass as a whole forward, and the identities of the paths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autointerp.circuits.attribution import attribute
from autointerp.circuits.cells import Cell
from autointerp.circuits.contrast import parse_prompt
from autointerp.circuits.patching import PatchPlan, patch
from autointerp.circuits.path_patching import PathPlan, Receiver, path_patch
from autointerp.circuits.prompts import ContrastSet, tokenise
from autointerp.errors import BadInput, ModelError
from autointerp.evidence.detector_data import ordinary_pool
from autointerp.model import LanguageModel, load_model, wrap_bridge
from autointerp.model.nodes import NodeKind, node_hook, putting, read_nodes
from autointerp.model.path_runs import PathRules
from autointerp.records import Head
from tests.circuit_helpers import hooks_of, padded, small_set
from tests.tiny_models import boot, random_network, tiny_model, tiny_tokenizer

MODELS = ("gpt2", "llama")
EVERY = torch.ones(1, 1, 1, dtype=torch.bool)


def deep_model(kind: str) -> LanguageModel:
    """Four layers instead of two, so that receivers stand in the middle."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    size = len(tiny_tokenizer())
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "gpt2":
            network = GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=32, n_head=4, vocab_size=size, n_positions=64))
        else:
            network = LlamaForCausalLM(LlamaConfig(
                num_hidden_layers=4, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=64, vocab_size=size, max_position_embeddings=64,
            ))  # fmt: skip
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return wrap_bridge(boot(network.eval()), f"deep {kind}")[0]


class FourPasses:
    """The published algorithm, a whole forward a pass, one prompt at a time; recomputed MLPs and norms."""

    def __init__(self, model: LanguageModel, prompts: ContrastSet, row: int) -> None:
        self.model, size = model, int(prompts.lengths[row])
        self.old = model.to_ids(prompts.clean[row : row + 1, :size])
        self.new = model.to_ids(prompts.corrupted[row : row + 1, :size])
        self.answers = int(prompts.answer[row]), int(prompts.wrong[row])
        self.names: list[tuple[NodeKind, int]] = [("z", layer) for layer in range(model.n_layers)]
        self.z_old, self.z_new = read_nodes(model, self.old, self.names), read_nodes(model, self.new, self.names)

    def difference(self, hooks: list) -> float:  # type: ignore[type-arg]
        with self.model.hooks(hooks):
            logits = self.model.logits(self.old)[0, -1].double()
        return float(logits[self.answers[0]] - logits[self.answers[1]])

    def frozen(self, senders: tuple[Head, ...], position: int | None) -> list:  # type: ignore[type-arg]
        hooks = []
        for kind, layer in self.names:
            z = self.z_old[kind, layer].clone()
            at = slice(None) if position is None else position
            for head in senders:
                if head.layer == layer:
                    z[:, at, head.index] = self.z_new[kind, layer][:, at, head.index]
            hooks.append((node_hook("z", layer), putting("z", self.model.n_heads, EVERY, z)))
        return hooks

    def effect(self, senders: tuple[Head, ...], receivers: tuple[Receiver, ...], position: int | None = None) -> float:
        base = self.difference([])
        hooks = self.frozen(senders, position)
        if not receivers:
            return self.difference(hooks) - base
        seen: dict[tuple[NodeKind, int], Tensor] = {}

        def keep(kind: NodeKind, layer: int):  # type: ignore[no-untyped-def]
            def hook_function(tensor: Tensor, hook: object) -> None:
                seen[kind, layer] = tensor.detach().clone()

            return hook_function

        wanted: list[tuple[NodeKind, int]] = sorted({(r.kind, r.head.layer) for r in receivers})
        self.difference([*hooks, *((node_hook(*name), keep(*name)) for name in wanted)])
        last = []
        for kind, layer in wanted:
            width = self.model.n_kv_heads if kind in ("k", "v") else self.model.n_heads
            mask = torch.zeros(1, self.old.shape[1], width, dtype=torch.bool)
            for receiver in receivers:
                if (receiver.kind, receiver.head.layer) == (kind, layer):
                    own = receiver.head.index * width // self.model.n_heads
                    mask[:, slice(None) if position is None else position, own] = True
            grid = seen[kind, layer].reshape(1, self.old.shape[1], width, -1)
            last.append((node_hook(kind, layer), putting(kind, width, mask, grid)))
        return self.difference(last) - base


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("to", "position"),
    [((), "END"), ((), ""), (("L2H0.q", "L3H1.q"), "END"), (("L3H2.v",), "S2"), (("L2H1.k", "L3H3.k"), "S2"),
     (("L3H0.q", "L3H0.k", "L2H2.v"), "")],
)  # fmt: skip
def test_all_senders_equal_the_four_passes(kind: str, to: tuple[str, ...], position: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model, 4)
    receivers = tuple(Receiver.parse(text) for text in to)
    table = path_patch(model, prompts, PathPlan("noise", receivers, position))["logit_diff"]
    top = max((r.head.layer for r in receivers), default=4)
    assert len(table.cells) == 16 and np.nanmax(np.abs(table.values)) > 1e-3
    for row in (0, 1):
        passes = FourPasses(model, prompts, row)
        at = None if not position else int(prompts.role(position)[row])
        for number, cell in enumerate(table.cells):
            if cell.layer >= top:
                assert np.isnan(table.values[number]).all()
                continue
            wanted = passes.effect((Head(layer=cell.layer, index=cell.head),), receivers, at)
            assert table.values[number, row] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_several_senders_together(kind: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model, 2)
    group = (Head(layer=0, index=1), Head(layer=1, index=2), Head(layer=1, index=0))
    receivers = (Receiver.parse("L3H1.k"), Receiver.parse("L2H0.v"))
    for to in ((), receivers):
        position = "S2" if to else "END"
        plan = PathPlan("noise", to, position, senders=(group, group[:1]))
        table = path_patch(model, prompts, plan)["logit_diff"]
        assert [table.name(n) for n in range(2)] == ["L0H1+L1H0+L1H2", "L0H1"]
        for row in range(2):
            passes = FourPasses(model, prompts, row)
            at = int(prompts.role(position)[row])
            assert table.values[0, row] == pytest.approx(passes.effect(group, to, at), abs=1e-5)
            assert table.values[1, row] == pytest.approx(passes.effect(group[:1], to, at), abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_all_frozen_is_the_direct_effect(kind: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model, 6)
    plan = PathPlan("noise", (), "END", PathRules("freeze", "freeze"))
    table = path_patch(model, prompts, plan)["logit_diff"]
    clean, corrupted = attribute(model, prompts), _on_clean_scale(model, prompts)
    assert table.values.reshape(corrupted.shape) == pytest.approx(corrupted - clean.heads, abs=1e-4)
    assert np.abs(table.values).max() > 1e-2
    loose = path_patch(model, prompts, replace(plan, rules=PathRules("freeze", "recompute")))["logit_diff"]
    assert np.abs(loose.values - table.values).max() > 1e-4  # the norm's divisor moves


def _on_clean_scale(model: LanguageModel, prompts: ContrastSet) -> np.ndarray:
    """Attributions of the corrupted prompts' heads, with the divisors of the clean ones."""
    clean, corrupted = attribute(model, prompts), attribute(model, prompts, "corrupted")
    return np.asarray(corrupted.heads * corrupted.scale / clean.scale)


@pytest.mark.parametrize("kind", MODELS)
def test_with_no_head_above_the_path_is_the_whole_effect(kind: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model, 4)
    last = model.n_layers - 1
    senders = tuple((Head(layer=last, index=h),) for h in range(4))
    path = path_patch(model, prompts, PathPlan("noise", (), "END", senders=senders))["logit_diff"]
    cells = [Cell(last, h, "END") for h in range(4)]
    whole = patch(model, prompts, PatchPlan("z", "head-position", "noise"), cells)["logit_diff"]
    assert path.values == pytest.approx(whole.values, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_freezing_norms_before_mlps_changes_only_their_divisor(kind: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model, 4)
    same = replace(prompts, corrupted=prompts.clean)
    for rules in (PathRules("recompute", "freeze"), PathRules("freeze", "freeze"), PathRules()):
        for to, position in (((), "END"), ((Receiver.parse("L3H1.q"),), "S2"), ((Receiver.parse("L3H1.k"),), "S2")):
            if to and to[0].kind == "q":
                position = "END" if to[0].head.layer == model.n_layers - 1 else position
            nothing = path_patch(model, same, PathPlan("noise", to, position, rules))["logit_diff"]
            assert np.nanmax(np.abs(nothing.values)) < 1e-5
            found = path_patch(model, prompts, PathPlan("noise", to, position, rules))["logit_diff"]
            assert np.nanmax(np.abs(found.values)) > 1e-5


def test_frozen_norm_into_a_receiver_by_hand() -> None:
    """With MLPs and norms frozen, a key moves by (W_K of the gain times the write, mean off) over the clean divisor."""
    model = deep_model("gpt2")
    prompts = small_set(model, 1)
    receivers = (Receiver.parse("L2H1.k"),)
    sender = Head(layer=0, index=3)
    plan = PathPlan("noise", receivers, "S2", PathRules("freeze", "freeze"), ((sender,),))
    found = path_patch(model, prompts, plan)["logit_diff"].values[0, 0]
    passes, at = FourPasses(model, prompts, 0), int(prompts.role("S2")[0])
    write = (passes.z_new["z", 0] - passes.z_old["z", 0])[0, at, 3] @ model.W_O(0)[3]
    block = model.bridge.blocks[2]
    stream = read_nodes(model, passes.old, [("resid_pre", 2)])["resid_pre", 2][0, at, 0]
    divisor = (stream.var(unbiased=False) + 1e-5).sqrt()
    moved = (write - write.mean()) * block.ln1.weight.detach() / divisor
    key = read_nodes(model, passes.old, [("k", 2)])["k", 2]
    change = moved @ block.attn.W_K[1].detach()
    key[0, at, 1] += change
    mask = torch.zeros(1, passes.old.shape[1], 4, dtype=torch.bool)
    mask[:, at, 1] = True
    wanted = passes.difference([(node_hook("k", 2), putting("k", 4, mask, key))]) - passes.difference([])
    assert found == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted) > 1e-6


def test_in_an_attention_only_model_all_paths_and_the_direct_one_are_the_whole() -> None:
    """q, k, v of all later heads at their pass-C values and the sender's own z: plain activation patching of z."""
    model = tiny_model("gpt2")
    prompts = small_set(model, 1)
    passes = FourPasses(model, prompts, 0)
    sender = Head(layer=0, index=2)
    frozen = passes.frozen((sender,), None)
    seen: dict[str, Tensor] = {}

    def keep(kind: str):  # type: ignore[no-untyped-def]
        def hook_function(tensor: Tensor, hook: object) -> None:
            seen[kind] = tensor.detach().clone()

        return hook_function

    zero = [(node_hook("mlp_out", n), lambda tensor, hook: torch.zeros_like(tensor)) for n in range(2)]
    passes.z_old, passes.z_new = ({}, {})
    for into, ids in ((passes.z_old, passes.old), (passes.z_new, passes.new)):
        for layer in range(2):
            with model.hooks(zero):
                into["z", layer] = read_nodes(model, ids, [("z", layer)])["z", layer]
    frozen = passes.frozen((sender,), None)
    passes.difference([*zero, *frozen, *((node_hook(k, 1), keep(k)) for k in ("q", "k", "v"))])  # type: ignore[arg-type]
    inputs = [(node_hook(k, 1), lambda tensor, hook, k=k: seen[k]) for k in ("q", "k", "v")]  # type: ignore[arg-type]
    own = frozen[:1]
    together = passes.difference([*zero, *own, *inputs])
    plain = passes.difference([*zero, *own])
    assert together == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_the_edge_on_the_stream_is_the_library_s(component: str) -> None:
    from transformer_lens.patching import get_act_patch_direct_path

    model = deep_model("gpt2")
    prompts = small_set(model, 4, mixed=False)
    clean, corrupted = model.to_ids(prompts.clean), model.to_ids(prompts.corrupted)
    answer, wrong = torch.from_numpy(prompts.answer), torch.from_numpy(prompts.wrong)
    rows = torch.arange(len(prompts))

    def metric(logits: Tensor) -> Tensor:
        return (logits[rows, -1, answer] - logits[rows, -1, wrong]).mean()

    with torch.no_grad():
        _, clean_cache = model.bridge.run_with_cache(clean)
        _, corrupted_cache = model.bridge.run_with_cache(corrupted)
        base = float(metric(model.bridge(corrupted)))
        found = get_act_patch_direct_path(
            model.bridge,
            corrupted,
            clean_cache,
            corrupted_cache,
            metric,
            1,
            2,
            component,
            verbose=False,  # type: ignore[arg-type]
        )
    for layer, index in ((2, 0), (3, 1), (3, 3)):
        receiver = Receiver.parse(f"L{layer}H{index}.{component}")
        rules = PathRules("freeze", "recompute")
        plan = PathPlan("denoise", (receiver,), "", rules, ((Head(layer=1, index=2),),))
        ours = path_patch(model, prompts, plan)["logit_diff"].mean[0]
        assert ours == pytest.approx(float(found[layer, index]) - base, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_batches_and_padding_do_not_matter(kind: str) -> None:
    model = deep_model(kind)
    prompts = small_set(model)
    for to, position in (((), "END"), ((Receiver.parse("L2H1.k"), Receiver.parse("L3H0.q")), "")):
        plan = PathPlan("noise", to, position, metrics=("logit_diff", "kl"))
        whole = path_patch(model, prompts, plan)
        for other in (
            path_patch(model, prompts, replace(plan, batch_cells=1)),
            path_patch(model, padded(prompts, 4), plan),
        ):
            for metric in ("logit_diff", "kl"):
                assert np.allclose(whole[metric].values, other[metric].values, atol=1e-5, equal_nan=True)


def test_permuting_heads_permutes_the_result() -> None:
    model = deep_model("llama")
    prompts = small_set(model, 4)
    before = path_patch(model, prompts, PathPlan("noise", (), "END"))["logit_diff"]
    attention = model.bridge.original_model.model.layers[2].self_attn
    swapped = deep_model("llama")
    other = swapped.bridge.original_model.model.layers[2].self_attn
    order = torch.tensor([1, 0, 2, 3])  # heads 0 and 1 share their keys and values
    with torch.no_grad():
        for name in ("q_proj", "o_proj"):
            own = next(p for n, p in attention.named_parameters() if name in n)
            into = next(p for n, p in other.named_parameters() if name in n)
            if name == "q_proj":
                into.copy_(own.reshape(4, 8, -1)[order].reshape(own.shape))
            else:
                into.copy_(own.reshape(-1, 4, 8)[:, order].reshape(own.shape))
    after = path_patch(swapped, prompts, PathPlan("noise", (), "END"))["logit_diff"]
    a, b = before.values.reshape(4, 4, -1), after.values.reshape(4, 4, -1)
    assert b[2][[1, 0, 2, 3]] == pytest.approx(a[2], abs=1e-5)
    assert b[[0, 1, 3]] == pytest.approx(a[[0, 1, 3]], abs=1e-5)
    assert np.abs(a[2][0] - a[2][1]).max() > 1e-4


def test_what_cannot_be_done_is_refused() -> None:
    model = tiny_model("llama")
    prompts = small_set(model)
    tied = path_patch(model, prompts, PathPlan("noise", (Receiver.parse("1.1.v"),), "S2"))["logit_diff"]
    assert "shared by 2 heads" in " ".join(tied.notes)
    with pytest.raises(BadInput, match="no path at S2"):
        path_patch(model, prompts, PathPlan("noise", (), "S2"))
    with pytest.raises(BadInput, match="no path"):
        path_patch(model, prompts, PathPlan("noise", (Receiver.parse("L0H1.q"),), "END"))
    with pytest.raises(BadInput, match="role 'S9'"):
        path_patch(model, prompts, PathPlan("noise", (), "S9"))
    with pytest.raises(BadInput, match="L7H0"):
        path_patch(model, prompts, PathPlan("noise", (Receiver.parse("L7H0.q"),), "END"))
    with pytest.raises(BadInput, match="no receiver"):
        Receiver.parse("L1H0.z")
    with pytest.raises(BadInput, match="group of senders is empty"):
        path_patch(model, prompts, PathPlan("noise", (), "END", senders=((),)))
    with pytest.raises(ModelError, match="put aside"):
        path_patch(replace(model, exact_resume=False), prompts, PathPlan("noise", (), "END"))


@pytest.mark.parametrize("architecture", ["GPTNeoX", "Gemma2", "OPT", "Qwen3"])
def test_other_architectures_equal_the_four_passes(architecture: str) -> None:
    model = wrap_bridge(boot(random_network(architecture, len(tiny_tokenizer()))), architecture)[0]
    prompts = small_set(model, 2)
    sender, to = (Head(layer=0, index=2),), (Receiver.parse("L1H1.k"),)
    for receivers, position in (((), "END"), (to, "S2")):
        found = path_patch(model, prompts, PathPlan("noise", receivers, position, senders=(sender,)))["logit_diff"]
        passes = FourPasses(model, prompts, 1)
        wanted = passes.effect(sender, receivers, int(prompts.role(position)[1]))
        assert found.values[0, 1] == pytest.approx(wanted, abs=1e-5)


def test_no_hook_and_no_put_aside_module_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep_model("llama")
    prompts = small_set(model)
    before = hooks_of(model)
    plans = [
        PathPlan("noise", (), "END"),
        PathPlan("noise", (Receiver.parse("L3H1.k"),), "S2", PathRules("freeze", "freeze")),
    ]
    for plan in plans:
        path_patch(model, prompts, plan)
        assert hooks_of(model) == before
    from autointerp.model import path_runs

    def breaks(*_args: object, **_kwargs: object) -> Tensor:
        raise RuntimeError("stop")

    monkeypatch.setattr(path_runs, "run_block", breaks)
    for plan in plans:
        with pytest.raises(RuntimeError, match="stop"):
            path_patch(model, prompts, plan)
        assert hooks_of(model) == before


@pytest.mark.skipif("AUTOINTERP_SHARED" not in os.environ, reason="needs the shared models")
def test_the_previous_token_head_feeds_the_keys_of_the_induction_heads() -> None:
    """Repeated random tokens: of all senders, L0H3 alone carries the match into the keys of L1H0 and L1H1."""
    model = load_model(str(Path(os.environ["AUTOINTERP_SHARED"]) / "models" / "induct-2l"), "cpu", "float32")[0]
    prompts = repeated_tokens(model, 24, 12, seed=0)
    receivers = (Receiver.parse("L1H0.k"), Receiver.parse("L1H1.k"))
    table = path_patch(model, prompts, PathPlan("noise", receivers, "after", metrics=("log_prob",)))["log_prob"]
    first, second = table.strongest(2)
    assert table.name(first) == "L0H3"
    assert table.numbers["high"][first] < 0
    assert abs(table.mean[first]) > 20 * abs(table.mean[second])
    assert np.isnan(table.mean[4:]).all()


def repeated_tokens(model: LanguageModel, n: int, length: int, seed: int) -> ContrastSet:
    """`r_1..r_T r_1..r_k`: the answer is r_(k+1). Corrupted: the first r_k is another token, so that what stands after
    it is no longer preceded by the last token. Role `after`: the place of the first r_(k+1)."""
    rng = np.random.default_rng(seed)
    text = (Path(os.environ["AUTOINTERP_SHARED"]) / "corpora" / "wikitext2-valid.txt").read_text("utf-8")[:100_000]
    met, counts = np.unique(model.encode(text)[0], return_counts=True)
    pool = ordinary_pool(model.strings, model.special_ids, met, counts)  # half of the vocabulary was never trained
    lines = []
    for number in range(n):
        drawn = rng.choice(pool, length + 1, replace=False).tolist()
        row, other = drawn[:length], drawn[length]
        k = int(rng.integers(2, length - 2))
        clean = [*row, *row[: k + 1]]
        corrupted = [*clean]
        corrupted[k] = other
        line = {"clean": clean, "corrupted": corrupted, "answers": [row[k + 1]], "roles": {"after": k + 1}}
        lines.append(parse_prompt(line, f"row {number}"))
    return tokenise(lines, model, "repeated random tokens")
