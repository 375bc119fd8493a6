"""Does an autoencoder reconstruct the model? Numbers by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_helpers import HOOK, random_sae, write_sae
from tiny_models import tiny_model
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.features.reconstruction import Reconstruction, measure_reconstruction, reconstruction
from autointerp.features.units import UnitSet, load_units
from autointerp.model.splice import spliced_losses
from autointerp.model.unit_sites import HookPlace, place_hook

WIDTH = 32
RNG = np.random.default_rng(0)
IDS = RNG.integers(20, 120, (12, 24))
IDS[:, 0] = 1  # <bos>
LENGTHS = np.full(12, 24)


def mirror(scale: float = 1.0) -> dict[str, Tensor]:
    """The identity as relu latents: each number and its negative."""
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    zeros = torch.zeros
    return {"W_enc": both.T, "b_enc": zeros(2 * WIDTH), "W_dec": both * scale, "b_dec": zeros(WIDTH)}


def units_of(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> UnitSet:
    given = {"architecture": "standard", **HOOK, **settings}
    return load_units(f"sae:{write_sae(folder, given, tensors)}", tiny_model())


def measured(units: UnitSet, documents: np.ndarray | None = None) -> Reconstruction:
    return measure_reconstruction(tiny_model(), units, IDS, LENGTHS, documents)


def stream(place: HookPlace = "resid_post") -> Tensor:
    """[row width] after position 0."""
    found: list[Tensor] = []
    model = tiny_model()
    with model.hooks([(place_hook(place, 1), lambda tensor, hook: found.append(tensor.flatten(2)))]):
        model.forward_base(model.to_ids(IDS))
    return found[0][:, 1:].reshape(-1, WIDTH)


@pytest.mark.parametrize("place", ["resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "z"])
def test_the_identity_reconstructs_every_place(tmp_path: Path, place: str) -> None:
    hook = "attn.hook_z" if place == "z" else f"hook_{place}"
    found = measured(units_of(tmp_path, mirror(), hook_name=f"blocks.1.{hook}"))
    assert found.explained_variance.value == pytest.approx(1.0, abs=1e-6)
    assert found.loss_recovered.value == pytest.approx(1.0, abs=1e-4)
    assert found.with_first == pytest.approx((1.0, 1.0), abs=1e-4)
    assert found.losses["sae"] == pytest.approx(found.losses["clean"], abs=1e-5)
    assert found.l0 == pytest.approx(WIDTH, abs=0.01) and 0.5 <= found.alive <= 1.0
    assert found.refusal is None  # it explains turned vectors as well, and everything there is
    assert (found.n_tokens, found.n_docs) == (12 * 24, 12)


def test_half_of_everything_by_hand(tmp_path: Path) -> None:
    found = measured(units_of(tmp_path, mirror(0.5)))
    x = stream()
    expected = 1 - float((0.25 * x.square()).sum() / (x - x.mean(0)).square().sum())
    assert found.explained_variance.value == pytest.approx(expected, abs=1e-5)
    assert found.explained_variance.low <= expected <= found.explained_variance.high
    assert found.explained_variance.n == 12 * 23


def test_losses_by_hand(tmp_path: Path) -> None:
    """What is put in by a hook of our own gives the same losses."""
    model = tiny_model()
    found = measured(units_of(tmp_path, mirror(0.5), hook_name="blocks.0.hook_resid_post"))
    ids = model.to_ids(IDS)

    def loss(scale: float, first: int) -> float:
        def put(tensor: Tensor, hook: Any) -> Tensor:
            new = tensor.clone()
            new[:, first:] *= scale
            return new

        with model.hooks([("blocks.0.hook_resid_post", put)]):
            logits = model.logits(ids)
        return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))

    clean, half, zero, half_first = loss(1, 1), loss(0.5, 1), loss(0, 1), loss(0.5, 0)
    assert found.losses["clean"] == pytest.approx(clean, abs=1e-4)
    assert found.losses["zero"] == pytest.approx(zero, abs=1e-4)
    assert found.loss_recovered.value == pytest.approx((zero - half) / (zero - clean), abs=1e-3)
    zero_first = loss(0, 1)
    assert found.with_first[1] == pytest.approx((zero_first - half_first) / (zero_first - clean), abs=1e-3)


def test_latents_that_never_fire_are_refused(tmp_path: Path) -> None:
    tensors = mirror() | {"b_enc": torch.full((2 * WIDTH,), -1e6)}
    units = units_of(tmp_path, tensors)
    found = measured(units)
    assert found.explained_variance.value <= 0 and (found.l0, found.alive) == (0.0, 0.0)
    assert found.loss_recovered.value == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(BadInput, match=r"does not reconstruct resid_post of layer 1 of tiny/gpt2: it explains -"):
        reconstruction(tiny_model(), units, IDS, LENGTHS)


@pytest.mark.parametrize("k", [3, 8, 16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_random_dictionary_is_refused(tmp_path: Path, k: int, tied: bool) -> None:
    tensors = random_sae(WIDTH, 128)
    if not tied:
        tensors["W_dec"] = random_sae(WIDTH, 128, seed=1)["W_dec"]
    units = units_of(tmp_path, tensors | {"b_dec": stream().mean(0)}, architecture="topk", k=k)
    with pytest.raises(BadInput, match=r"explained variance .* loss recovered"):
        reconstruction(tiny_model(), units, IDS, LENGTHS)


def test_a_left_out_setting_is_named(tmp_path: Path) -> None:
    tensors = mirror() | {"b_dec": torch.full((WIDTH,), 40.0)}
    tensors["b_enc"] = -tensors["W_enc"].T @ tensors["b_dec"]  # what was trained without the subtraction
    with pytest.raises(BadInput, match=r'With "apply_b_dec_to_input": false in its JSON it would explain 100'):
        reconstruction(tiny_model(), units_of(tmp_path / "a", tensors), IDS, LENGTHS)
    good = units_of(tmp_path / "b", tensors, apply_b_dec_to_input=False)
    found = reconstruction(tiny_model(), good, IDS, LENGTHS)
    assert found is not None and found.hint == ""


def test_intervals_draw_documents(tmp_path: Path) -> None:
    tensors = random_sae(WIDTH, 128) | {"b_dec": stream().mean(0)}
    units = units_of(tmp_path, tensors, architecture="topk", k=4)
    alone, paired = measured(units), measured(units, np.arange(12) // 6)
    assert (alone.n_docs, paired.n_docs) == (12, 2)
    assert alone.explained_variance.value == paired.explained_variance.value
    assert alone.explained_variance.low < alone.explained_variance.value < alone.explained_variance.high
    assert paired.facts()["n_docs"] == 2 and f"{paired.explained_variance.value:.3f}" in paired.line


def test_only_a_part_of_long_text_is_read(tmp_path: Path) -> None:
    ids, lengths = np.tile(IDS, (40, 1)), np.tile(LENGTHS, 40)  # 11,520 ids
    found = measure_reconstruction(tiny_model(), units_of(tmp_path, mirror()), ids, lengths)
    assert found.n_tokens <= 4096 and found.n_tokens >= 4000
    assert found.loss_recovered.n <= 2048


def test_padding_does_not_count(tmp_path: Path) -> None:
    units = units_of(tmp_path, mirror(0.5))
    long = np.concatenate([IDS, np.full((12, 10), 7)], axis=1)
    short, padded = measured(units), measure_reconstruction(tiny_model(), units, long, LENGTHS)
    assert padded.explained_variance.value == pytest.approx(short.explained_variance.value, abs=1e-5)
    assert padded.losses == pytest.approx(short.losses, abs=1e-4)


def test_neurons_have_no_reconstruction() -> None:
    units = load_units("neurons:L1", tiny_model())
    assert reconstruction(tiny_model(), units, IDS, LENGTHS) is None
    with pytest.raises(BadInput, match="nothing to reconstruct"):
        measured(units)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_put_at_resid_mid_reaches_the_stream(kind: str) -> None:
    model = tiny_model(kind)
    ids, lengths = model.to_ids(IDS[:3]), torch.tensor([24, 24, 10])
    found = spliced_losses(model, ids, lengths, ("resid_mid", 1), torch.zeros_like)
    places: tuple[HookPlace, ...] = ("resid_pre", "attn_out")
    nothing = [(place_hook(place, 1), lambda tensor, hook: torch.zeros_like(tensor)) for place in places]
    with model.hooks(nothing):
        logits = model.logits(ids).log_softmax(-1)
    expected = -logits[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    counted = ~found.isnan()
    assert torch.allclose(found[counted], expected[counted], atol=1e-4)
    assert counted.sum(1).tolist() == [23, 23, 9]
    same = spliced_losses(model, ids, lengths, ("resid_mid", 1), lambda tensor: None)
    assert not torch.allclose(same[counted], found[counted], atol=1e-2)


def test_a_silent_place() -> None:
    model = tiny_model()
    at: tuple[HookPlace, int] = ("resid_post", 1)
    ids = model.to_ids(IDS[:1])
    object.__setattr__(model, "final_states", lambda ids: (ids, ids))  # a forward that runs nothing
    try:
        with pytest.raises(ModelError, match="nothing arrived from"):
            spliced_losses(model, ids, torch.tensor([24]), at, lambda tensor: None)
    finally:
        object.__delattr__(model, "final_states")
