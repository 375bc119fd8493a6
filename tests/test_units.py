"""Units of a run: specifications to sites, checked against the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_helpers import HOOK, random_sae, write_sae
from tiny_models import tiny_model

from autointerp.errors import BadInput, ModelError
from autointerp.features.units import head_shares, load_units, select
from autointerp.model.unit_sites import UnitSite, neuron_site, place_hook, read_units, w_out
from autointerp.records import Feature

WIDTH = 128  # neurons of a layer of the tiny gpt2
PLACES = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "mlp_post")


@pytest.mark.parametrize(
    ("spec", "count", "first", "last"),
    [
        ("neurons", 256, "L0N0", "L1N127"),
        ("neurons:L1", 128, "L1N0", "L1N127"),
        ("neurons:L0-L1", 256, "L0N0", "L1N127"),
        ("neurons:L1N17", 1, "L1N17", "L1N17"),
        ("neurons:L1N10-L1N20", 11, "L1N10", "L1N20"),
        ("neurons:L0N126-L1N1", 4, "L0N126", "L1N1"),
        ("neurons: L1N3 , l0n5,L1N2-L1N4", 4, "L0N5", "L1N4"),
    ],
)
def test_selections_of_neurons(spec: str, count: int, first: str, last: str) -> None:
    units = load_units(spec, tiny_model())
    assert len(units.features) == count
    assert (str(units.features[0]), str(units.features[-1])) == (first, last)
    assert list(units.features) == sorted(units.features)
    assert {site.layer for site in units.sites} == {feature.layer for feature in units.features}
    assert units.n_units == WIDTH * len(units.sites) and units.sae is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("neurons:L2", "layer 2 is not there; tiny/gpt2 has layers 0 to 1"),
        ("neurons:L1N128", "neurons 0 to 127"),
        ("neurons:L1N5-L1N500", "neurons 0 to 127"),
        ("neurons:L1N5-L1N4", "from a higher to a lower"),
        ("neurons:L1-L0", "from a higher to a lower"),
        ("neurons:L1N5-L1N6-L1N7", "is no range"),
        ("neurons:", "names no neuron"),
        ("neurons:L1F3", "names no neuron"),
        ("neurons:L1,", "names no neuron"),
        ("neurons:-", "names no neuron"),
        ("heads", "is unknown"),
        ("sae:", "is unknown"),
        ("", "is unknown"),
    ],
)
def test_specifications_that_do_not_do(spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_units(spec, tiny_model())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_neurons_are_what_the_output_weights_read(kind: str) -> None:
    """Gated MLPs have gate and value: the neuron is their product."""
    model = tiny_model(kind)
    ids = torch.arange(10, 22).reshape(2, 6)
    found, out = [], []
    read_units(model, ids, [neuron_site(model, 1)], lambda number, tensor: found.append(tensor))
    with model.hooks([(place_hook("mlp_out", 1), lambda tensor, hook: out.append(tensor.clone()))]):
        model.forward_base(ids)
    bias = getattr(model.bridge.blocks[1].mlp, "b_out", None)
    written = found[0] @ w_out(model, 1) + (bias if isinstance(bias, torch.Tensor) else 0)
    assert torch.allclose(written, out[0], atol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_an_sae_reads_its_place(tmp_path: Path, place: str) -> None:
    model = tiny_model()
    width = WIDTH if place == "mlp_post" else 32
    hook = "mlp.hook_post" if place == "mlp_post" else f"hook_{place}"
    settings = {"architecture": "topk", "k": 3, "hook_name": f"blocks.1.{hook}"}
    units = load_units(f"sae:{write_sae(tmp_path, settings, random_sae(width, 40))}", model)
    site = units.sites[0]
    assert (site.kind, site.layer, site.place, site.n_units, site.width) == ("latent", 1, place, 40, width)
    assert units.features[7] == Feature(kind="latent", layer=1, index=7) and len(units.features) == 40
    ids = torch.arange(10, 22).reshape(2, 6)
    found, held = [], []
    read_units(model, ids, units.sites, lambda number, tensor: found.append(tensor))
    with model.hooks([(site.hook, lambda tensor, hook: held.append(tensor.clone()))]):
        model.forward_base(ids)
    assert units.sae is not None and torch.allclose(found[0][1], units.sae.encode(held[0][1]), atol=1e-5)
    assert int((found[0] > 0).sum(-1).max()) <= 3


def test_joined_z_and_the_shares_of_heads(tmp_path: Path) -> None:
    model = tiny_model("llama")  # four heads of eight, two of keys: z has all four
    tensors = random_sae(32, 6)
    tensors["W_dec"] = tensors["W_dec"].clone()
    tensors["W_dec"][2] = torch.tensor([3.0] + [0.0] * 7 + [0.0] * 8 + [1.0, 0.0] * 4 + [0.0] * 8)
    settings = {"architecture": "standard", "hook_name": "blocks.0.attn.hook_z"}
    units = load_units(f"sae:{write_sae(tmp_path, settings, tensors)}", model)
    site = units.sites[0]
    assert (site.place, site.width, site.hook) == ("z", 32, "blocks.0.attn.hook_z")
    assert head_shares(site, 2, 4) == pytest.approx((9 / 13, 0.0, 4 / 13, 0.0))
    assert sum(head_shares(site, 3, 4)) == pytest.approx(1.0)
    ids = torch.arange(10, 22).reshape(2, 6)
    found, held = [], []
    read_units(model, ids, units.sites, lambda number, tensor: found.append(tensor))
    with model.hooks([(site.hook, lambda tensor, hook: held.append(tensor.clone()))]):
        model.forward_base(ids)
    joined = held[0].reshape(2, 6, 32)
    assert torch.allclose(found[0], (joined @ tensors["W_enc"]).relu(), atol=1e-5)


def test_shares_of_heads_are_for_z_alone() -> None:
    with pytest.raises(BadInput, match="read from mlp_post"):
        head_shares(neuron_site(tiny_model(), 0), 3, 4)


def test_an_sae_of_another_shape_or_depth(tmp_path: Path) -> None:
    model = tiny_model()
    wide = write_sae(tmp_path / "wide", {"architecture": "standard", **HOOK}, random_sae(48, 8))
    with pytest.raises(BadInput, match=r"vectors of 48 numbers, but resid_post of layer 1 of tiny/gpt2 has 32"):
        load_units(f"sae:{wide}", model)
    deep = {"architecture": "standard", "hook_name": "blocks.7.hook_resid_post"}
    with pytest.raises(BadInput, match=r"layer 7, but tiny/gpt2 has layers 0 to 1"):
        load_units(f"sae:{write_sae(tmp_path / 'deep', deep, random_sae(32, 8))}", model)


def test_a_place_that_the_model_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"architecture": "standard", "hook_name": "blocks.1.hook_resid_mid"}
    spec = f"sae:{write_sae(tmp_path, settings, random_sae(32, 8))}"

    def silent(*_args: object) -> int:
        raise ModelError("parallel has no resid_mid at layer 1. Choose another place.")

    monkeypatch.setattr("autointerp.features.units.place_width", silent)
    with pytest.raises(BadInput, match="no resid_mid at layer 1"):
        load_units(spec, tiny_model())


def test_layers_without_neurons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_last(model: object, layer: int) -> UnitSite:
        if layer == 0:
            raise ModelError("layer 0 has experts")
        return UnitSite("neuron", layer, "mlp_post", WIDTH, WIDTH)

    monkeypatch.setattr("autointerp.features.units.neuron_site", only_last)
    units = load_units("neurons", tiny_model())
    assert units.facts["layers_without_neurons"] == [0] and units.features[0].layer == 1
    with pytest.raises(ModelError, match="experts"):
        load_units("neurons:L0", tiny_model())


def test_selecting_latents(tmp_path: Path) -> None:
    spec = f"sae:{write_sae(tmp_path, {'architecture': 'standard', **HOOK}, random_sae(32, 40))}"
    units = load_units(spec, tiny_model())
    chosen = select(units, "L1F17,L1F20-L1F22")
    assert [str(feature) for feature in chosen.features] == ["L1F17", "L1F20", "L1F21", "L1F22"]
    assert chosen.sites == units.sites and chosen.sae is units.sae
    assert chosen.place(chosen.features[1]) == (0, 20) and chosen.site_of(chosen.features[0]) is units.sites[0]
    for text, message in (("L1F40", "latents 0 to 39"), ("L0F3", "latents of layer 1"), ("L1N3", "names no latent")):
        with pytest.raises(BadInput, match=message):
            select(units, text)
    with pytest.raises(BadInput, match="not among"):
        units.place(Feature(kind="neuron", layer=1, index=3))


def test_only_units_of_the_specification_can_be_selected() -> None:
    some = load_units("neurons:L0N2-L0N5", tiny_model())
    assert [str(feature) for feature in select(some, "L0N3-L0N4").features] == ["L0N3", "L0N4"]
    for text in ("L0N6", "L0N4-L0N6", "L0"):  # of the same site, so they could be read
        with pytest.raises(BadInput, match="not among --units neurons:L0N2-L0N5"):
            select(some, text)


def test_facts_say_how_it_is_read(tmp_path: Path) -> None:
    settings = {
        "architecture": "batchtopk",
        "k": 2,
        "normalize_activations": "layer_norm",
        "prepend_bos": False,
        **HOOK,
    }
    units = load_units(f"sae:{write_sae(tmp_path, settings, random_sae(32, 8))}", tiny_model())
    told = " ".join(str(note) for note in units.facts["notes"])  # type: ignore[attr-defined]
    for words in ("2 largest latents of each row", "without BOS", "layer_norm"):
        assert words in told
    assert units.facts["hook"] == "resid_post of layer 1" and units.facts["latents"] == 8


def test_one_unit_of_a_row_scaled_latent_adds_its_decoder_row(tmp_path: Path) -> None:
    settings = {"architecture": "standard", "normalize_activations": "layer_norm", **HOOK}
    units = load_units(f"sae:{write_sae(tmp_path, settings, random_sae(32, 8))}", tiny_model())
    site, sae = units.sites[0], units.sae
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)) * 5
    assert sae is not None and site.encode is not None and site.decoder is not None
    latents = sae.encode(x)
    less = latents.clone()
    less[:, 3] = 0
    change = sae.decode(latents, x) - sae.decode(less, x)
    assert float(change.abs().max()) > 0.1
    assert torch.allclose(change, site.encode(x)[:, 3:4] * site.decoder[3], atol=1e-4)
