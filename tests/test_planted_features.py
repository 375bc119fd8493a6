"""The planted feature model: neurons do what the key says, exactly; idle ones do nothing; the dictionary gives back the
stream; every seed plants every kind, often enough in the text."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.features.activations import read_activations
from autointerp.features.reconstruction import measure_reconstruction
from autointerp.features.units import load_units
from autointerp.model import LanguageModel
from autointerp.model.native import AttentionWeights, MlpWeights, NativeWeights
from autointerp.model.unit_sites import w_out
from autointerp.planted.corpus import documents
from autointerp.planted.counts import counts
from autointerp.planted.dictionary import CARRIER, CARRIERS, JUMP, PlantedDictionary
from autointerp.planted.features import PlantedFeatures, feature_seed_of, load_planted_features
from autointerp.planted.heads import Truth
from autointerp.planted.neurons import DESCRIBED, FEATURE_LAYERS, IDLE, KINDS, NEURONS, PlantedNeuron, Reads
from autointerp.planted.words import vocabulary
from autointerp.predicate import TokenTable, evaluate_positions, parse_positional
from autointerp.records import Feature

SEED = 3
TEXTS = list(itertools.islice(documents(), 40))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class World:
    """The model of a seed, what is planted in it, and rows as fed: text, then random tokens."""

    model: LanguageModel
    planted: PlantedFeatures
    ids: np.ndarray
    lengths: np.ndarray
    activations: np.ndarray  # [neuron row pos]

    @property
    def rows(self) -> np.ndarray:
        places = np.arange(self.ids.shape[1])
        return np.asarray((places > 0) & (places < self.lengths[:, None]))


@pytest.fixture(scope="module")
def world() -> World:
    model = load_planted_features(SEED)[0]
    rows = [[model.bos_id, *model.encode(text)[0].tolist()] for text in TEXTS]
    generator = np.random.default_rng(0)
    coded = np.array(counts().coded)
    rows += [[model.bos_id, *generator.choice(coded, 99)] for _ in range(6)]
    rows += [[model.bos_id, *generator.integers(1, len(vocabulary()), 99)] for _ in range(6)]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    units = load_units("neurons", model)
    found = read_activations(model, units, units.features, ids, lengths)
    return World(model, PlantedFeatures.of(SEED), ids, lengths, np.moveaxis(found, 2, 0))


# -- what is drawn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_seed_plants_every_kind_often_enough(seed: int) -> None:
    neurons = PlantedFeatures.of(seed).neurons
    assert Counter(neuron.truth.kind for neuron in neurons) == KINDS
    assert len(neurons) == FEATURE_LAYERS * NEURONS
    stated = [n.truth.predicate for n in neurons if n.truth.predicate is not None]
    assert len(set(stated)) == len(stated) == sum(KINDS[kind] for kind in (*DESCRIBED, "either", *IDLE))
    for neuron in neurons:
        truth = neuron.truth
        assert truth.predicate is None or parse_positional(truth.predicate)
        assert truth.matters == (truth.kind in (*DESCRIBED, "either", "mix"))
        assert (neuron.output == "said") == (truth.kind not in IDLE)
        active = (neuron.activation(counts().ids) > 0).any(1).mean()
        assert active > 0.3 if truth.kind != "dead" else active == 0, truth
        share = (neuron.activation(counts().ids)[:, 1:] > 0).mean()
        assert (share > 0.5) == (truth.kind == "dense"), truth


def test_members_of_a_set_share_it() -> None:
    """No token of a drawn set or pair is so common beside the others that a simpler rule would do."""
    for neuron in PlantedFeatures.of(SEED).neurons:
        if neuron.truth.kind == "token_pair":
            here, before = list(neuron.reads.token), list(neuron.reads.before)
            both = counts().rows(here, before).sum()
            assert both <= 0.6 * min(counts().rows(here).sum(), counts().after_any(before).sum())
            parts = [counts().rows([i], before).sum() for i in here]
            assert max(parts) <= 3 * min(parts)


def test_other_seeds_are_other_models() -> None:
    keys = [[n.truth.predicate for n in PlantedFeatures.of(seed).neurons] for seed in (0, 1, 2)]
    assert all(a != b for a, b in itertools.combinations(keys, 2))
    assert keys[0] == [n.truth.predicate for n in PlantedFeatures.of(0).neurons]


def test_a_definition_by_hand() -> None:
    reads = Reads(-1.0, {5: 2.0}, {6: 0.5}, {7: 0.25}, {4: 3.0})
    neuron = PlantedNeuron(reads, 10.0, Truth("any", (), None))
    found = neuron.activation(np.array([[0, 7, 6, 5, 1, 5]]))
    assert found.tolist() == [[0, 0, 0, 10 * (2 + 0.5 + 0.25 - 1), 10 * (3 - 1), 10.0]]


# -- the model -----------------------------------------------------------------------------------------------


def test_activations_are_as_defined(world: World) -> None:
    for number, neuron in enumerate(world.planted.neurons):
        wanted = neuron.activation(world.ids)
        assert np.abs(world.activations[number] - wanted)[world.rows].max() < 1e-4, (number, neuron.truth.kind)
        if neuron.truth.kind not in ("noise", "dense"):  # at rest exactly: rounding makes no neuron active
            assert ((world.activations[number] > 0) == (wanted > 0))[world.rows].all(), neuron.truth


def test_the_key_names_the_active_places(world: World) -> None:
    table = TokenTable.from_strings(world.model.strings, world.model.special_ids)
    checked = 0
    for number, neuron in enumerate(world.planted.neurons):
        if neuron.truth.predicate is None:
            continue
        named = evaluate_positions(parse_positional(neuron.truth.predicate), world.ids, world.lengths, table)
        active = world.activations[number] > 0
        assert active[world.rows].any(), neuron.truth
        assert (named == active)[world.rows].all(), neuron.truth
        checked += 1
    assert checked == 24


@pytest.mark.slow
def test_predictions_depend_on_the_neurons_that_matter_alone(world: World) -> None:
    model, ids = world.model, world.model.to_ids(world.ids[:12])
    rows = torch.from_numpy(world.rows[:12])
    before = model.logits(ids).log_softmax(-1)[rows]
    for number, neuron in enumerate(world.planted.neurons):
        layer, index = divmod(number, NEURONS)

        def without(tensor: Tensor, hook: object, index: int = index) -> Tensor:
            changed = tensor.clone()
            changed[:, :, index] = 0
            return changed

        with model.hooks([(f"blocks.{layer}.mlp.hook_post", without)]):
            after = model.logits(ids).log_softmax(-1)[rows]
        active = torch.from_numpy(world.activations[number][:12] > 0)[rows]
        if neuron.truth.kind == "dead":
            continue
        kl = float((before.exp() * (before - after)).sum(-1)[active].mean())
        if neuron.truth.matters:
            assert kl > 0.01, neuron.truth
        elif neuron.truth.kind in IDLE:
            assert kl < 1e-5, neuron.truth
            assert neuron.truth.kind != "zero_output" or abs(kl) < 1e-9


def test_the_weights_out_are_the_directions(world: World) -> None:
    for layer in range(FEATURE_LAYERS):
        written = w_out(world.model, layer).numpy()
        assert written == pytest.approx(world.planted.directions[list(world.planted.layer(layer))], abs=1e-5)
    product = world.planted.readers @ world.planted.directions.T
    written_at_all = np.array([neuron.output != "nothing" for neuron in world.planted.neurons])
    assert product == pytest.approx(np.diag(written_at_all.astype(float)), abs=1e-9)


def test_a_model_without_mlps_has_none() -> None:
    zeros = np.zeros((1, 4, 2))
    attention = AttentionWeights(zeros, zeros, zeros, np.zeros((1, 2, 4)))
    plain = NativeWeights(np.zeros((3, 4)), np.zeros((5, 4)), [attention], np.zeros((3, 4)))
    assert not [name for name in plain.arrays() if "mlp" in name]
    mlp = MlpWeights(np.ones((4, 3)), np.arange(3.0), np.ones((3, 4)))
    found = NativeWeights(np.zeros((3, 4)), np.zeros((5, 4)), [attention], np.zeros((3, 4)), [mlp]).arrays()
    assert found["layers.0.mlp.fc_in.weight"].shape == (3, 4)
    assert found["layers.0.mlp.fc_in.bias"].tolist() == [0, 1, 2]
    assert found["layers.0.mlp.fc_out.weight"].shape == (4, 3)


# -- the dictionary ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_dictionary_gives_back_the_stream_and_the_neurons(world: World, tmp_path: Path) -> None:
    dictionary = PlantedDictionary(world.planted)
    dictionary.write(tmp_path / "sae")
    units = load_units(f"sae:{tmp_path / 'sae'}", world.model)
    fit = measure_reconstruction(world.model, units, world.ids[:40], world.lengths[:40])
    assert fit.explained_variance.low > 0.999
    assert fit.loss_recovered.low > 0.99
    assert fit.refusal is None
    key = dictionary.key()
    found = read_activations(world.model, units, sorted(key), world.ids, world.lengths)
    numbers = {id(neuron.truth): number for number, neuron in enumerate(world.planted.neurons)}
    for column, latent in enumerate(sorted(key)):
        if key[latent].kind == CARRIER:
            continue
        wanted = world.activations[numbers[id(key[latent])]]
        wanted = np.where(wanted > JUMP, wanted, 0)
        assert np.abs(found[:, :, column] - wanted)[world.rows].max() < 1e-3, key[latent]


def test_latents_that_carry_a_token_stand_for_it_and_nothing_reads_them(world: World, tmp_path: Path) -> None:
    dictionary = PlantedDictionary(world.planted)
    dictionary.write(tmp_path / "sae")
    units = load_units(f"sae:{tmp_path / 'sae'}", world.model)
    carriers = {latent: truth for latent, truth in dictionary.key().items() if truth.kind == CARRIER}
    assert len(carriers) == CARRIERS
    assert not any(truth.matters for truth in carriers.values())
    table = TokenTable.from_strings(world.model.strings, world.model.special_ids)
    found = read_activations(world.model, units, sorted(carriers), world.ids, world.lengths)
    for column, latent in enumerate(sorted(carriers)):
        named = evaluate_positions(parse_positional(carriers[latent].predicate or ""), world.ids, world.lengths, table)
        assert found[:, :, column][world.rows] == pytest.approx(named[world.rows].astype(float), abs=1e-4)


def test_the_key_of_the_dictionary_leaves_out_what_is_not_in_the_stream() -> None:
    dictionary = PlantedDictionary.of(SEED)
    kinds = Counter(truth.kind for truth in dictionary.key().values())
    assert kinds == {**{k: n for k, n in KINDS.items() if k != "zero_output"}, CARRIER: CARRIERS}
    assert all(isinstance(unit, Feature) and unit.kind == "latent" for unit in dictionary.key())
    others = {unit.index for unit in PlantedDictionary.of(SEED + 1).key()}
    assert others != {unit.index for unit in dictionary.key()}  # a latent's number says nothing


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "seed"), [("planted-features", 0), ("planted-features:3", 3), ("planted:3", None), ("demo", None)]
)
def test_the_seed_stands_in_the_name(spec: str, seed: int | None) -> None:
    assert feature_seed_of(spec) == seed


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="planted-features:3"):
        feature_seed_of("planted-features:x")
