"""The autoencoder that ships with the demo model: what it does on text it has not seen, and its training script."""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.demo.corpus import DemoDocument, held_out_texts
from autointerp.demo.model import sae_folder, weights_folder
from autointerp.demo.train_sae import Autoencoder, SaeTraining, fit, quality, save, vectors, windows
from autointerp.errors import BadInput
from autointerp.features.reconstruction import measure_reconstruction, reconstruction
from autointerp.features.units import load_units
from autointerp.model import LanguageModel, load_model, random_twin
from autointerp.sae import Sae, load_sae

SHARED = os.environ.get("AUTOINTERP_SHARED")


@cache
def demo() -> LanguageModel:
    torch.set_num_threads(1)
    return load_model(str(weights_folder()), device="cpu", dtype="float32")[0]


@cache
def held_out() -> np.ndarray:
    """16 whole windows."""
    return next(windows(demo(), held_out_texts())).numpy()


def test_it_reconstructs_the_demo_model() -> None:
    units = load_units("sae:demo", demo())
    ids = held_out()
    found = reconstruction(demo(), units, ids, np.full(len(ids), ids.shape[1]))
    assert found is not None
    assert found.explained_variance.low > 0.88 and found.loss_recovered.low > 0.95
    assert found.loss_recovered_mean.value > 0.95
    assert 9 < found.l0 < 15 and found.alive > 0.9
    assert found.turned < 0.3
    assert units.sites[0].hook == "blocks.2.hook_resid_post" and len(units.features) == 512


def test_its_card_says_what_is_measured() -> None:
    card = json.loads((sae_folder() / "training.json").read_text(encoding="utf-8"))["held_out"]
    again = quality(demo(), load_sae(str(sae_folder())), 32)
    assert again.explained_variance == pytest.approx(card["explained_variance"], abs=0.02)
    assert again.loss_recovered == pytest.approx(card["loss_recovered"], abs=0.02)
    assert again.l0 == pytest.approx(card["l0"], abs=1.0)
    assert card["dead"] <= 10
    assert sum(file.stat().st_size for file in sae_folder().iterdir()) < 400_000


def test_its_latents_are_sparse_and_not_all_alike() -> None:
    latents = load_sae(str(sae_folder())).encode(vectors(demo(), torch.from_numpy(held_out()), 2))
    density = (latents > 0).float().mean(0)
    assert float((density < 0.1).float().mean()) > 0.9
    assert float(density.max()) < 0.6
    rows = load_sae(str(sae_folder())).W_dec
    alike = (rows @ rows.T).fill_diagonal_(0).abs().amax(1)
    assert float(alike.median()) < 0.8


def test_it_is_refused_for_other_weights_of_the_same_shape() -> None:
    twin = random_twin(demo(), 3)
    ids = held_out()
    with pytest.raises(BadInput, match="does not reconstruct resid_post of layer 2"):
        reconstruction(twin, load_units("sae:demo", twin), ids, np.full(len(ids), ids.shape[1]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_refused_when_its_directions_are_those_of_another_basis(seed: int) -> None:
    """As trained on another model of the same size: everything right but the directions."""
    import dataclasses

    units = load_units("sae:demo", demo())
    sae = units.sae
    assert sae is not None
    turn = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(seed)))[0]
    other = dataclasses.replace(sae, W_enc=turn.T @ sae.W_enc, W_dec=sae.W_dec @ turn, b_dec=sae.b_dec @ turn)
    ids = held_out()
    x = vectors(demo(), torch.from_numpy(ids), 2) @ turn
    assert torch.allclose(other.encode(x), sae.encode(x @ turn.T), atol=1e-2)  # the same autoencoder, turned
    foreign = dataclasses.replace(units, sae=other)
    with pytest.raises(BadInput, match="explains"):
        reconstruction(demo(), foreign, ids, np.full(len(ids), ids.shape[1]))


@pytest.mark.slow
def test_training_for_a_moment_improves(tmp_path: Path) -> None:
    short = SaeTraining(d_sae=64, k=8, n_tokens=16_000, buffer_rows=8_000, batch_rows=256)
    first = vectors(demo(), next(windows(demo(), held_out_texts())), short.layer)
    before = _saved(Autoencoder.of(first, short), short, tmp_path / "before")
    after = _saved(fit(demo(), short), short, tmp_path / "after")
    found = [quality(demo(), sae, 16) for sae in (before, after)]
    assert found[1].explained_variance > max(0.3, found[0].explained_variance + 0.2)
    assert found[1].loss_recovered > found[0].loss_recovered
    assert found[1].l0 < 30
    ids = held_out()
    weak = load_units(f"sae:{tmp_path / 'after'}", demo())  # a weak one of the right model is not refused
    assert measure_reconstruction(demo(), weak, ids, np.full(len(ids), ids.shape[1])).refusal is None


def _saved(state: Autoencoder, config: SaeTraining, folder: Path) -> Sae:
    save(state, config, folder)
    return load_sae(str(folder))


def test_windows_are_whole_and_of_one_document() -> None:
    text = "The ledger was open. " * 200
    batch = next(windows(demo(), iter([DemoDocument(text, "prose", ())] * 30)))
    assert batch.shape == (16, 128) and bool((batch[:, 0] == demo().bos_id).all())
    assert int((batch == int(demo().bos_id or 0)).sum()) == 16


@pytest.mark.slow
@pytest.mark.skipif(SHARED is None, reason="AUTOINTERP_SHARED names no folder with other models")
def test_of_two_real_models_each_takes_its_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(SHARED or "")
    models = [load_model(str(root / "models" / name))[0] for name in ("induct-2l", "stories260K")]
    text = (root / "corpora" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:400_000]
    pieces = [DemoDocument(text[start : start + 4000], "text", ()) for start in range(0, len(text), 4000)]
    monkeypatch.setattr("autointerp.demo.train_sae.documents", lambda seed: iter(pieces * 10))
    config = SaeTraining(layer=1, d_sae=256, k=8, n_tokens=60_000, buffer_rows=30_000)
    for number, model in enumerate(models):
        folder = tmp_path / str(number)
        save(fit(model, config), config, folder)
        for other, reader in enumerate(models):
            ids = torch.cat(list(islice(windows(reader, iter(pieces)), 2))).numpy()
            units = load_units(f"sae:{folder}", reader)
            found = measure_reconstruction(reader, units, ids, np.full(len(ids), ids.shape[1]))
            assert (found.refusal is None) == (other == number), found.line
