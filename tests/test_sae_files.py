"""Autoencoders as files: what each format computes, by hand, and one clear error for everything that is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_helpers import HAND, HOOK, random_sae, write_sae
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.sae import hub, load_sae
from autointerp.sae.settings import settings_from

X = torch.tensor([[2.0, 1.0], [0.0, 0.0]])
PRE = torch.tensor([[1.0, 3.0, 1.5], [-1.0, 1.0, 2.5]])  # (x - b_dec) W_enc + b_enc by hand


def test_relu_by_hand(tmp_path: Path) -> None:
    sae = load_sae(str(write_sae(tmp_path, {"architecture": "standard", **HOOK})))
    assert torch.equal(sae.encode(X), PRE.relu())
    # row 0: 1*(3,0) + 3*(0,4) + 1.5*(1,1) + (1,-1)
    assert torch.equal(sae.decode(sae.encode(X))[0], torch.tensor([5.5, 12.5]))
    assert torch.equal(sae.reconstruct(X), sae.decode(sae.encode(X)))
    assert (sae.settings.place, sae.settings.layer, sae.n_latents, sae.width) == ("resid_post", 1, 3, 2)
    assert sae.file_hash.startswith("sha256:")


def test_b_dec_stays_out_of_the_input_where_the_file_says_so(tmp_path: Path) -> None:
    sae = load_sae(str(write_sae(tmp_path, {"architecture": "standard", "apply_b_dec_to_input": False, **HOOK})))
    assert torch.equal(sae.encode(X), (X @ HAND["W_enc"] + HAND["b_enc"]).relu())


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 1}},  # SAELens 3 to 5
        {"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": 1}},
        {"architecture": "topk", "activation_fn_str": "relu", "activation_fn_kwargs": {}, "k": 1},
        {"activation": "topk", "k": 1},
        {"activation": "batch-topk", "k": 0.6},  # without a threshold: of each row
    ],
)
def test_topk_keeps_the_largest_of_each_row(tmp_path: Path, settings: dict[str, Any]) -> None:
    sae = load_sae(str(write_sae(tmp_path, {**settings, **HOOK})))
    assert torch.equal(sae.encode(X), torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.5]]))
    assert ("largest latents of each row" in " ".join(sae.notes)) == ("activation" in settings and settings["k"] != 1)


def test_topk_never_lets_a_negative_through(tmp_path: Path) -> None:
    sae = load_sae(str(write_sae(tmp_path, {"activation": "topk", "k": 3, **HOOK})))
    assert torch.equal(sae.encode(X), PRE.relu())


@pytest.mark.parametrize("activation", ["jumprelu", "batchtopk"])
def test_thresholds_cut_what_is_not_above_them(tmp_path: Path, activation: str) -> None:
    tensors = {**HAND, "threshold": torch.tensor([1.0, 2.0, -5.0])}
    settings = {"architecture": activation, "k": 2, **HOOK}
    sae = load_sae(str(write_sae(tmp_path, settings, tensors)))
    assert torch.equal(sae.encode(X), torch.tensor([[0.0, 3.0, 1.5], [0.0, 0.0, 2.5]]))
    assert float(sae.encode(torch.tensor([[1.0, -1.0]])).min()) >= 0  # a threshold under 0 is 0


def test_log_thresholds_and_one_for_all(tmp_path: Path) -> None:
    old = load_sae(str(write_sae(tmp_path / "old", {"architecture": "jumprelu", **HOOK},
                                 {**HAND, "log_threshold": torch.log(torch.tensor([1.0, 2.0, 2.0]))})))  # fmt: skip
    assert torch.equal(old.encode(X), torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.5]]))
    one = load_sae(str(write_sae(tmp_path / "one", {"activation": "jumprelu", "threshold": 2.0, **HOOK})))
    assert torch.equal(one.encode(X), torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.5]]))


def test_gated_by_hand(tmp_path: Path) -> None:
    tensors = {name: value for name, value in HAND.items() if name != "b_enc"}
    tensors |= {"b_gate": torch.tensor([-2.0, 0.0, 0.0]), "r_mag": torch.tensor([0.0, math.log(2), 0.0])}
    tensors["b_mag"] = torch.tensor([0.0, 1.0, -9.0])
    sae = load_sae(str(write_sae(tmp_path, {"architecture": "gated", **HOOK}, tensors)))
    # x - b_dec = (1, 2): (x - b_dec) W_enc = (1, 4, 1); gate of latent 0 shut, of latent 2 open but its size under 0
    assert torch.allclose(sae.encode(X[:1]), torch.tensor([[0.0, 9.0, 0.0]]))


def test_decoder_norms_decide_what_is_largest(tmp_path: Path) -> None:
    settings = {"architecture": "topk", "k": 1, "rescale_acts_by_decoder_norm": True, **HOOK}
    tensors = {**HAND, "W_dec": torch.tensor([[100.0, 0.0], [0.0, 4.0], [1.0, 1.0]])}
    sae = load_sae(str(write_sae(tmp_path, settings, tensors)))
    latents = sae.encode(X)
    assert latents[0].nonzero().flatten().tolist() == [0]  # 1 * 100 goes before 3 * 4
    assert torch.allclose(latents[0, 0], torch.tensor(100.0))
    assert torch.allclose(sae.decode(latents)[0], torch.tensor([101.0, -1.0]))


def test_the_scale_of_inputs_is_undone(tmp_path: Path) -> None:
    settings = {"architecture": "standard", "normalize_activations": "expected_average_only_in", **HOOK}
    sae = load_sae(str(write_sae(tmp_path / "a", {**settings, "scaling_factor": 0.5})))
    plain = load_sae(str(write_sae(tmp_path / "b", {"architecture": "standard", **HOOK})))
    assert torch.allclose(sae.encode(X), plain.encode(X * 0.5))
    assert torch.allclose(sae.reconstruct(X), plain.reconstruct(X * 0.5) * 2)
    assert "folded" in load_sae(str(write_sae(tmp_path / "c", settings))).notes[0]


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_row_normalisation_is_undone(tmp_path: Path, kind: str) -> None:
    tensors = random_sae(8, 24)
    tensors["W_enc"], tensors["W_dec"] = torch.eye(8).repeat(1, 3), torch.eye(8).repeat(3, 1) / 3
    tensors["b_enc"] = torch.full((24,), 50.0)  # so that relu lets all through
    tensors["b_dec"] = torch.full((8,), -50.0)
    settings = {"architecture": "standard", "normalize_activations": kind, "apply_b_dec_to_input": False, **HOOK}
    sae = load_sae(str(write_sae(tmp_path, settings, tensors)))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 3 + 7
    assert torch.allclose(sae.reconstruct(x), x, atol=2e-3)
    inner = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) if kind == "layer_norm" else (
        x / x.norm(dim=1, keepdim=True) * 8**0.5)  # fmt: skip
    assert torch.allclose(sae.encode(x)[:, :8], inner + 50, atol=1e-3)
    change = sae.encode_scaled(x) @ sae.W_dec  # in the model's own units: one unit adds one decoder row
    back = sae.reconstruct(x) - (x.mean(1, keepdim=True) if kind == "layer_norm" else 0)
    scale = x.std(1, keepdim=True) if kind == "layer_norm" else x.norm(dim=1, keepdim=True) / 8**0.5
    assert torch.allclose(change + sae.b_dec * scale, back, atol=2e-3)
    with pytest.raises(BadInput, match="like"):
        sae.decode(sae.encode(x))


def test_a_stream_without_its_mean(tmp_path: Path) -> None:
    settings = {"architecture": "standard", "model_from_pretrained_kwargs": {"center_writing_weights": True}, **HOOK}
    centred = load_sae(str(write_sae(tmp_path / "a", settings)))
    plain = load_sae(str(write_sae(tmp_path / "b", {"architecture": "standard", **HOOK})))
    mean = X.mean(1, keepdim=True)
    assert torch.allclose(centred.encode(X), plain.encode(X - mean))
    assert torch.allclose(centred.reconstruct(X), plain.reconstruct(X - mean) + mean)


def test_fine_tuning_factors_scale_what_is_written(tmp_path: Path) -> None:
    tensors = {**HAND, "finetuning_scaling_factor": torch.tensor([2.0, 1.0, 1.0])}
    sae = load_sae(str(write_sae(tmp_path, {"architecture": "standard", "finetuning_scaling_factor": True, **HOOK},
                                 tensors)))  # fmt: skip
    assert torch.equal(sae.decode(torch.tensor([[1.0, 0.0, 0.0]])), torch.tensor([[7.0, -1.0]]))


def test_the_hook_of_version_6_and_its_facts(tmp_path: Path) -> None:
    metadata = {"hook_name": "blocks.4.attn.hook_z", "prepend_bos": False, "model_name": "m", "hook_head_index": None}
    sae = load_sae(str(write_sae(tmp_path, {"architecture": "standard", "metadata": metadata})))
    assert (sae.settings.place, sae.settings.layer) == ("z", 4)
    assert sae.settings.facts == {"model_name": "m", "prepend_bos": False}


def test_the_first_versions_name_no_activation(tmp_path: Path) -> None:
    settings = {"hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "hook_point_head_index": None}
    settings |= {"d_in": 2, "d_sae": 3, "dtype": "torch.float32", "l1_coefficient": 8e-5, "expansion_factor": 32}
    sae = load_sae(str(write_sae(tmp_path, settings)))
    assert (sae.settings.place, sae.settings.layer, sae.settings.activation) == ("resid_pre", 8, "relu")
    assert "taken as relu" in sae.notes[0] and torch.equal(sae.encode(X), PRE.relu())


def test_a_single_file_with_its_json(tmp_path: Path) -> None:
    write_sae(tmp_path, {}, name="mine")
    (tmp_path / "cfg.json").unlink()
    (tmp_path / "mine.json").write_text(json.dumps({"place": "mlp_out", "layer": 2, "activation": "relu"}))
    for spec in (tmp_path / "mine.safetensors", tmp_path):
        sae = load_sae(str(spec))
        assert (sae.settings.place, sae.settings.layer) == ("mlp_out", 2)
        assert torch.equal(sae.encode(X), PRE.relu())


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    sae = load_sae(
        str(write_sae(tmp_path, {"architecture": "standard", **HOOK}, {k: v.half() for k, v in HAND.items()}))
    )
    assert torch.equal(sae.encode(X), PRE.relu()) and sae.W_dec.dtype == torch.float32


STANDARD = {"architecture": "standard", **HOOK}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "topk", **HOOK}, "without k"),
        ({"activation": "batch-topk", **HOOK}, "without k"),
        ({"activation": "topk", "k": 4, **HOOK}, "there are 3 latents"),
        ({"activation": "topk", "k": 0, **HOOK}, "k is 0"),
        ({"activation": "topk", "k": 1.5, **HOOK}, "k is 1.5"),
        ({"activation": "topk", "k": "many", **HOOK}, "k is 'many'"),
        ({"architecture": "jumprelu", **HOOK}, "no threshold"),
        ({"architecture": "temporal", **HOOK}, "'temporal' is not supported"),
        ({"architecture": "transcoder", **HOOK}, "'transcoder' is not supported"),
        ({"architecture": "jumprelu", "activation": "topk", "k": 1, **HOOK}, "contradicts itself"),
        ({"hook_name": "blocks.1.hook_resid_post"}, "names no activation"),
        ({"architecture": "standard"}, "names no hook point"),
        ({"architecture": "standard", "hook_name": "blocks.1.ln1.hook_normalized"}, "not supported"),
        ({"architecture": "standard", "hook_name": "hook_embed"}, "not supported"),
        ({"architecture": "standard", "hook_name": "resid_post"}, "no layer"),
        ({"architecture": "standard", "hook_name": "blocks.1.hook_resid_post", "hook_layer": 2}, "contradicts itself"),
        ({"architecture": "standard", "place": "z", "layer": -1}, "the layer is -1"),
        ({**STANDARD, "hook_name_out": "blocks.1.hook_mlp_out"}, "transcoder"),
        ({**STANDARD, "d_in": 2, "d_out": 5}, "transcoder"),
        ({**STANDARD, "hook_head_index": 3}, "one head"),
        ({**STANDARD, "d_in": 5}, r"W_enc has shape \[2, 3\], expected \[5, 3\]"),
        ({**STANDARD, "d_sae": 4}, r"expected \[2, 4\]"),
        ({**STANDARD, "d_in": "wide"}, "d_in is 'wide'"),
        ({**STANDARD, "normalize_activations": "zscore"}, "'zscore'"),
        ({**STANDARD, "apply_b_dec_to_input": "no"}, "neither true nor false"),
    ],
)
def test_settings_that_do_not_do(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_sae(str(write_sae(tmp_path, settings)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"W_dec": t["W_dec"].T}, "W_dec has shape .* transposed"),
        (lambda t: t | {"W_enc": t["W_enc"].T}, "W_enc has shape .* transposed"),
        (lambda t: t | {"b_enc": torch.zeros(4)}, "expected"),
        (lambda t: t | {"W_enc": t["W_enc"] * float("nan")}, "W_enc holds 6 numbers that are NaN"),
        (lambda t: t | {"b_dec": torch.tensor([0.0, float("inf")])}, "b_dec holds 1 numbers"),
        (lambda t: {k: v for k, v in t.items() if k != "b_dec"}, "has no b_dec; it holds W_dec, W_enc, b_enc"),
        (lambda t: t | {"W_skip": torch.zeros(2, 2)}, "skip transcoder"),
        (lambda t: t | {"b_gate": torch.zeros(3)}, "b_gate"),
        (lambda t: t | {"threshold": torch.ones(3)}, "the activation is relu"),
        (lambda t: t | {"threshold": torch.ones(7)}, "threshold has shape"),
        (lambda t: {}, "it holds nothing"),
    ],
)  # fmt: skip
def test_weights_that_do_not_do(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        load_sae(str(write_sae(tmp_path, STANDARD, change(dict(HAND)))))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not there"):
        load_sae(str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"no sae_weights\.safetensors"):
        load_sae(str(tmp_path))
    folder = write_sae(tmp_path / "a", STANDARD)
    (folder / "cfg.json").unlink()
    with pytest.raises(BadInput, match=r"no cfg\.json"):
        load_sae(str(folder))
    with pytest.raises(BadInput, match="no JSON beside it"):
        load_sae(str(folder / "sae_weights.safetensors"))
    two = write_sae(tmp_path / "b", STANDARD, name="one")
    write_sae(two, STANDARD, name="two")
    with pytest.raises(BadInput, match="several safetensors files"):
        load_sae(str(two))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_sae(tmp_path / "a", STANDARD)
    (folder / "sae_weights.safetensors").write_bytes(b"not this")
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        load_sae(str(folder))
    for text, message in (("{", "cannot be read as JSON"), ("[1]", "holds a list"), ("\xff\xfe", "cannot be read")):
        (folder / "cfg.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(BadInput, match=message):
            load_sae(str(folder))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pkl", ".ckpt", ".pth", ".npz"])
def test_a_pickle_is_never_opened(tmp_path: Path, suffix: str) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    file = tmp_path / f"sae{suffix}"
    file.write_bytes(pickle.dumps(Trap()))
    (tmp_path / "cfg.json").write_text(json.dumps(STANDARD))
    for spec in (file, tmp_path):
        with pytest.raises(BadInput, match="can run code"):
            load_sae(str(spec))
    assert not (tmp_path / "opened").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["architecture", "activation", "activation_fn", "activation_fn_kwargs", "hook_name", "hook_layer", "layer", "k",
         "d_in", "d_sae", "d_out", "metadata", "normalize_activations", "scaling_factor", "apply_b_dec_to_input",
         "model_from_pretrained_kwargs", "threshold", "hook_head_index"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_settings_are_read_or_refused(changes: dict[str, Any]) -> None:
    for raw in (changes, STANDARD | changes, {"activation": "topk", "k": 2, "place": "z", "layer": 0} | changes):
        try:
            found = settings_from(raw, "test")
        except BadInput:
            continue
        assert found.layer >= 0 and (found.k is None) == (found.activation not in ("topk", "batchtopk"))


class FakeHub:
    """A repository in a folder, instead of huggingface_hub's two functions."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list_repo_files(self, repo: str) -> list[str]:
        return [p.relative_to(self.root / repo).as_posix() for p in (self.root / repo).rglob("*") if p.is_file()]

    def hf_hub_download(self, repo: str, name: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        if not (self.root / repo).is_dir():
            raise LocalEntryNotFoundError(f"no repository {repo}")
        if not (self.root / repo / name).is_file():
            raise EntryNotFoundError(f"404: {name}")
        return str(self.root / repo / name)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub

    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fake.list_repo_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    return fake.root


def test_an_sae_of_the_hub(fake_hub: Path) -> None:
    write_sae(fake_hub / "me/saes", STANDARD)
    write_sae(fake_hub / "me/saes/blocks.3/small", {**STANDARD, "hook_name": "blocks.3.hook_mlp_out"}, name="other")
    assert load_sae("hf:me/saes").settings.layer == 1
    assert load_sae("hf:me/saes:blocks.3/small/").settings.place == "mlp_out"


def test_what_is_missing_on_the_hub(fake_hub: Path) -> None:
    write_sae(fake_hub / "me/saes/layer3", STANDARD)
    with pytest.raises(BadInput, match="Name one of its folders after a colon: layer3"):
        load_sae("hf:me/saes")
    (fake_hub / "me/saes/layer3/sae_weights.safetensors").rename(fake_hub / "me/saes/layer3/sae.pt")
    with pytest.raises(BadInput, match="Only safetensors"):
        load_sae("hf:me/saes:layer3")
    with pytest.raises(BadInput, match=r"cannot be fetched \(LocalEntryNotFoundError: no repository me/none\)"):
        load_sae("hf:me/none")
    with pytest.raises(BadInput, match="names no repository"):
        hub.download("hf:")
