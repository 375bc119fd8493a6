"""Vectors added at a hook of one position: steps and whole rows give what a whole forward with a hook gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autointerp.errors import BadInput
from autointerp.model import LanguageModel, UnitSite
from autointerp.model import one_position as module
from autointerp.model.one_position import run_additions, run_whole, steps_exactly
from autointerp.model.row_changes import RowAdditions, UnitRows, unit_additions, write_hook
from autointerp.model.sites import hook_name
from autointerp.model.unit_sites import HookPlace, neuron_site, place_width
from tests.test_conditional import gathered, native_model
from tests.tiny_models import boot, random_network, tiny_model, tiny_tokenizer

N, PLACES = 14, ("mlp_post", "resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "z")


def additions(
    model: LanguageModel, place: HookPlace, layer: int
) -> tuple[np.ndarray, RowAdditions, UnitSite, torch.Tensor]:
    rng = np.random.default_rng(2)
    ids = rng.integers(3, model.d_vocab, (5, 18))
    width = place_width(model, place, layer)
    vectors = torch.from_numpy(rng.normal(size=(N, width)).astype(np.float32))
    site = UnitSite("latent", layer, place, N, width, None, vectors)
    rows = UnitRows(rng.integers(0, 5, N), rng.integers(1, 18, N), np.zeros(N, np.int64), np.arange(N), np.ones(N))
    return ids, unit_additions(model, [site], rows), site, vectors


def by_hand(model: LanguageModel, ids: np.ndarray, added: RowAdditions, vectors: torch.Tensor) -> np.ndarray:
    found = np.zeros((N, model.d_vocab))
    for row in range(N):
        dst, fed = int(added.dst[row]), model.to_ids(ids[added.window[row]][None])

        def add(held: torch.Tensor, hook: object, row: int = row, dst: int = dst) -> torch.Tensor:
            changed = held.clone()
            changed[0, dst] += vectors[row].reshape(held.shape[2:])
            return changed

        with model.hooks([(added.hooks[0], add)]):
            found[row] = torch.log_softmax(model.logits(fed), -1)[0, dst].numpy()
    return found


def check(model: LanguageModel, place: HookPlace, layer: int) -> None:
    ids, added, _, vectors = additions(model, place, layer)
    expected = by_hand(model, ids, added, vectors)
    for run in (run_additions, run_whole):
        before, after = gathered(model, ids, added, run)
        np.testing.assert_allclose(after, expected, atol=1e-4)
        assert np.abs(after - before).max() > 0.05


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_addition_equals_a_whole_forward_with_a_hook(kind: str, place: HookPlace) -> None:
    check(tiny_model(kind), place, 1 if place == "resid_pre" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["GPTNeoX", "Gemma2", "Bloom"])
def test_additions_on_other_architectures(architecture: str) -> None:
    from autointerp.notebook import open_model

    model = open_model(boot(random_network(architecture, len(tiny_tokenizer())))).model
    assert steps_exactly(model, additions(model, "mlp_out", 0)[0])
    for place in ("mlp_post", "mlp_out", "attn_out"):
        check(model, place, 0)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"normalization_type": "LN"}, {"normalization_type": "LN", "gated_mlp": True}, {"attn_only": True}]
)
def test_additions_in_native_steps(options: dict[str, object]) -> None:
    model = native_model(**options)
    assert steps_exactly(model, additions(model, "resid_pre", 0)[0])
    without = ("mlp_post", "resid_mid", "mlp_out") if options.get("attn_only") else ()
    for place in PLACES:
        if place not in without:
            check(model, place, 0)  # type: ignore[arg-type]


def test_what_is_added_in_the_middle_of_a_block_reaches_the_stream() -> None:
    """The hook of that name stands at a norm's input: what is added there does not."""
    model = tiny_model("gpt2")
    ids, _, site, _ = additions(model, "resid_mid", 0)
    assert write_hook(site) == hook_name("attn_out", 0)
    kept: list[torch.Tensor] = []

    def keep(held: torch.Tensor, hook: object) -> None:
        kept.append(held.clone())

    def add(held: torch.Tensor, hook: object) -> torch.Tensor:
        return held + 1

    fed = model.to_ids(ids)
    for hooks in ([], [(write_hook(site), add)]):
        with model.hooks([*hooks, (hook_name("resid_mid", 0), keep)]):
            model.final_states(fed)
    np.testing.assert_allclose(kept[1].numpy(), kept[0].numpy() + 1, atol=1e-5)


def test_neurons_of_two_layers_share_a_run() -> None:
    model = tiny_model("gpt2")
    sites = [neuron_site(model, layer) for layer in range(2)]
    ids = np.random.default_rng(0).integers(3, model.d_vocab, (4, 12))
    rows = UnitRows(
        np.array([0, 1, 2, 3]), np.array([3, 3, 5, 3]), np.array([0, 1, 1, 0]), np.array([4, 7, 4, 4]),
        np.array([1.0, -2.0, 3.0, 0.0]),
    )  # fmt: skip
    found = gathered(model, ids, unit_additions(model, sites, rows), run_additions)
    for row in range(4):

        def add(held: torch.Tensor, hook: object, row: int = row) -> torch.Tensor:
            changed = held.clone()
            changed[0, rows.dst[row], rows.index[row]] += rows.amount[row]
            return changed

        with model.hooks([(sites[rows.site[row]].hook, add)]):
            logits = model.logits(model.to_ids(ids[rows.window[row]][None]))
        np.testing.assert_allclose(found[1][row], torch.log_softmax(logits, -1)[0, rows.dst[row]].numpy(), atol=1e-4)
    np.testing.assert_allclose(found[0][3], found[1][3], atol=1e-5)


def test_a_unit_that_is_not_there_is_refused() -> None:
    model = tiny_model("gpt2")
    site = neuron_site(model, 0)
    rows = UnitRows(np.zeros(1, int), np.ones(1, int), np.zeros(1, int), np.array([site.n_units]), np.ones(1))
    with pytest.raises(BadInput, match=str(site.n_units)):
        unit_additions(model, [site], rows)


def test_a_hook_that_a_step_does_not_reach_runs_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = native_model(normalization_type="LN")
    ids, added, _, vectors = additions(model, "mlp_out", 0)
    honest = module.native_hidden
    monkeypatch.setattr(module, "native_hidden", lambda model, tokens, past, changes: honest(model, tokens, past, {}))
    assert steps_exactly(model, ids)
    after = gathered(model, ids, added, run_additions)[1]
    np.testing.assert_allclose(after, by_hand(model, ids, added, vectors), atol=1e-4)
