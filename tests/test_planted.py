"""The planted model: its words, its heads do what the key says, idle heads do nothing, other seeds are other models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput
from autointerp.model import LanguageModel, Layer
from autointerp.planted.codes import spread_codes
from autointerp.planted.corpus import documents
from autointerp.planted.heads import HEADS, LAYERS, PlantedHead
from autointerp.planted.model import load_planted, placed_heads, seed_of
from autointerp.planted.tokenizer import planted_tokenizer
from autointerp.planted.words import CLASSES, vocabulary
from autointerp.predicate import TokenTable, evaluate, parse
from autointerp.records import LABELS, Head
from autointerp.scoring.ablation import ablate_heads
from autointerp.scoring.held_out import text_rows

TEXTS = list(itertools.islice(documents(), 10))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Planted:
    """A model, its heads, and some text as fed."""

    model: LanguageModel
    heads: list[list[PlantedHead]]
    ids: np.ndarray
    lengths: np.ndarray
    pattern: np.ndarray  # [layer row head dst src]

    def each(self) -> Iterator[tuple[Head, PlantedHead]]:
        for layer, row in enumerate(self.heads):
            for index, head in enumerate(row):
                yield Head(layer=layer, index=index), head


@pytest.fixture(scope="module")
def planted() -> Planted:
    model = load_planted(4)[0]
    rows = [[model.bos_id, *model.encode(text)[0].tolist()] for text in TEXTS]
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    patterns: list[np.ndarray] = []
    model.read_attention(model.to_ids(ids), list(range(LAYERS)), lambda layer: patterns.append(layer.pattern.numpy()))
    return Planted(model, placed_heads(4), ids, lengths, np.stack(patterns))


# -- words ---------------------------------------------------------------------------------------------------


def test_the_text_is_made_of_whole_words() -> None:
    tokenizer = planted_tokenizer()
    kinds = [kind for _, kind in vocabulary()]
    for text in itertools.islice(documents(), 200):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokenizer.decode(found["input_ids"], clean_up_tokenization_spaces=False) == text
        assert not {"control", "character"} & {kinds[i] for i in found["input_ids"]}
        assert [text[a:b] for a, b in found["offset_mapping"]] == [vocabulary()[i][0] for i in found["input_ids"]]
        assert 31 <= len(found["input_ids"]) <= 127


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=60))
def test_other_text_round_trips_by_character(text: str) -> None:
    tokenizer = planted_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_word_inside_another_is_not_cut_out() -> None:
    tokenizer = planted_tokenizer()
    pieces = [vocabulary()[i][0] for i in tokenizer.encode("the catalogue (cat)", add_special_tokens=False)]
    assert pieces[0] == "the"
    assert pieces[-3:] == [" (", "cat", ")"]
    assert " cat" not in pieces


def test_words_have_one_class_each() -> None:
    words = [word for group in CLASSES.values() for word in group]
    assert len(words) == len(set(words))
    assert len({token for token, _ in vocabulary()}) == len(vocabulary())


def test_documents_are_the_same_again_and_differ() -> None:
    assert list(itertools.islice(documents(), 10)) == TEXTS
    assert len(set(TEXTS)) == 10
    assert next(documents("another stream")) not in TEXTS


def test_codes_match_themselves_alone() -> None:
    codes = spread_codes(200, 48, np.random.default_rng(0))
    cosines = codes @ codes.T
    assert np.diag(cosines) == pytest.approx(1)
    assert np.abs(cosines - np.eye(200)).max() < 0.3


# -- heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_every_seed_plants_every_function(seed: int) -> None:
    rows = placed_heads(seed)
    assert [len(row) for row in rows] == [HEADS] * LAYERS
    truths = [head.truth for row in rows for head in row]
    named = {label for t in truths for label in t.labels}
    assert named == {
        "previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset",
        "punctuation", "delimiter_matching", "token_class", "copying", "copy_suppression", "successor",
    }  # fmt: skip
    assert named | {label for t in truths for label in t.allowed} <= set(LABELS)
    kinds = [t.kind for t in truths]
    assert kinds.count("two_functions") == kinds.count("zero_output") == kinds.count("unread_output") == 2
    assert kinds.count("noise") >= 4
    for truth in truths:
        assert truth.predicate is None or parse(truth.predicate)
        assert truth.matters == (truth.kind not in ("noise", "first_token", "zero_output", "unread_output"))
    before = min(layer for layer, row in enumerate(rows) for head in row if head.write.to == "before")
    for layer, row in enumerate(rows):
        assert all(head.layers[0] <= layer <= head.layers[1] for head in row)
        assert all(layer > before for head in row if head.needs_before)


def test_other_seeds_are_other_models() -> None:
    shapes = [[[head.truth.predicate for head in row] for row in placed_heads(seed)] for seed in range(4)]
    assert placed_heads(0)[0][0] == placed_heads(0)[0][0]
    assert all(a != b for a, b in itertools.combinations(shapes, 2))
    offsets = [{h.truth.predicate for row in placed_heads(s) for h in row if h.truth.kind == "fixed_offset"}
               for s in range(4)]  # fmt: skip
    assert len({frozenset(o) for o in offsets}) > 1


def test_heads_look_where_the_key_says(planted: Planted) -> None:
    table = TokenTable.from_strings(planted.model.strings, planted.model.special_ids)
    places = np.arange(planted.ids.shape[1])
    real = (places > 0) & (places < planted.lengths[:, None])
    checked = 0
    for head, one in planted.each():
        if one.truth.predicate is None:
            continue
        checked += 1
        pattern = planted.pattern[head.layer, :, head.index]
        mask = evaluate(parse(one.truth.predicate), planted.ids, planted.lengths, table)
        named = mask.any(-1) & real
        mass = (pattern * mask).sum(-1)
        assert named.sum() > 5, one.truth.kind
        assert mass[named].mean() > 0.85, (head, one.truth.kind)
        if one.truth.kind in ("previous_token", "current_token", "fixed_offset"):
            assert 0.95 < mass[named].mean() < 0.995, one.truth.kind  # sharp, not infinite
        if (~named & real).any() and one.truth.kind != "two_functions":
            assert pattern[:, :, 0][~named & real].mean() > 0.9, (head, one.truth.kind)
    assert checked >= 28


def test_the_proof_on_load_knows_the_model(planted: Planted) -> None:
    model = planted.model
    assert (model.n_layers, model.n_heads, model.bos_id, model.n_ctx) == (LAYERS, HEADS, 0, 128)
    assert model.exact_resume
    assert model.revision.startswith("sha256:")
    assert "planted" in model.name


def test_induction_needs_the_head_before_it(planted: Planted) -> None:
    """Composition for real: without the previous-token head that writes for it, induction finds nothing."""
    model = planted.model
    before = next(head for head, one in planted.each() if one.write.to == "before")
    induction = next(head for head, one in planted.each() if one.truth.kind == "induction")
    pool = np.array(
        [i for i, (token, kind) in enumerate(vocabulary()) if kind in ("animal", "thing") and token[0] == " "]
    )
    first = np.random.default_rng(0).permutation(pool)[:12]
    ids = model.to_ids(np.concatenate([[0], first, first])[None])
    places = np.arange(13, 24)

    def strength() -> float:
        seen: list[torch.Tensor] = []
        model.read_attention(ids, [induction.layer], lambda layer: seen.append(layer.pattern[0, induction.index]))
        return float(seen[0][places, places - 11].mean())

    def without(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z.view(*z.shape[:2], HEADS, -1)[:, :, before.index] = 0
        return z

    assert strength() > 0.9
    with model.hooks([(f"blocks.{before.layer}.attn.hook_z", without)]):
        assert strength() < 0.2


@pytest.mark.slow
def test_predictions_depend_on_the_heads_that_matter_alone(planted: Planted) -> None:
    heads = tuple(head for head, one in planted.each() if one.truth.labels)
    rows = text_rows(planted.ids, planted.lengths, np.arange(len(planted.ids)), "test", planted.model.special_ids)
    places = np.arange(planted.ids.shape[1])
    real = (places > 0) & (places < planted.lengths[:, None])
    z = np.zeros((LAYERS, HEADS, planted.model.W_V(0).shape[-1]))

    def keep(layer: Layer) -> None:
        z[layer.index] = layer.z.numpy()[real].mean(0)

    planted.model.read_attention(planted.model.to_ids(planted.ids), list(range(LAYERS)), keep)
    effects = ablate_heads(planted.model, rows, heads, z, 0)
    truths = {head: one.truth for head, one in planted.each()}
    for head in heads:
        effect = effects.mean(head, "kl")
        if truths[head].matters:
            assert effect.low > 1e-4, (head, truths[head].kind)
        else:
            assert effect.high < 1e-5, (head, truths[head].kind)
        assert truths[head].kind != "zero_output" or effect.value == 0


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "seed"), [("planted", 0), ("planted:3", 3), ("demo", None), ("file.py:planted", None)]
)
def test_the_seed_stands_in_the_name(spec: str, seed: int | None) -> None:
    assert seed_of(spec) == seed


@pytest.mark.parametrize("spec", ["planted:", "planted:x", "planted:-1"])
def test_a_seed_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="planted:3"):
        seed_of(spec)
