"""The embedded corpus and model: determinism, entities, variety, reserved combinations, learned heads."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.demo import pairs
from autointerp.demo.brackets import bracket_pairs
from autointerp.demo.card import Measures, load, render
from autointerp.demo.corpus import KIND_WEIGHTS, DemoDocument, documents, held_out_texts, ioi_prompts
from autointerp.demo.measure import (
    IoiResult,
    TextScores,
    detector_scores,
    ioi_result,
    patterns,
    repeated_random,
    single_id,
    text_masks,
)
from autointerp.demo.model import weights_folder
from autointerp.demo.people import ENTITIES, FIRST_NAMES
from autointerp.demo.train import Batch, duplicate_loss
from autointerp.demo.windows import (
    RECEIVER_WEIGHT,
    Vocabulary,
    batches,
    encode_documents,
    ordinary_ids,
    random_window,
    text_windows,
)

N_DOCUMENTS = 600
SHARED_CHARACTERS = 50


@cache
def held_out() -> tuple[DemoDocument, ...]:
    return tuple(islice(held_out_texts(), N_DOCUMENTS))


@cache
def loaded():  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    return load()


def test_the_stream_is_the_same_for_the_same_seed_and_known() -> None:
    first, again = list(islice(documents(3), 30)), list(islice(documents(3), 30))
    assert first == again
    assert first != list(islice(documents(4), 30))
    # A literal fixes the stream across machines and Python versions.
    assert next(documents(3)).text.startswith("Miner in Elm Bridge unfolded steep clock\n\nWest Ordley")


def test_held_out_text_shares_no_document_with_training() -> None:
    training = {document.text for document in islice(documents(0), 2000)}
    assert not training & {document.text for document in held_out()}


def test_every_kind_occurs_and_documents_have_a_usable_length() -> None:
    assert {document.kind for document in held_out()} == set(KIND_WEIGHTS)
    lengths = [len(ids) for ids in encode_documents(loaded()[1], held_out())]
    assert sum(80 <= length <= 400 for length in lengths) / len(lengths) > 0.8


def test_entity_spans_are_exact_and_complete() -> None:
    names = {entity.entity_id: entity.mention for entity in ENTITIES}
    for document in held_out():
        for span in document.entities:
            assert document.text[span.start : span.stop] == span.mention == names[span.entity_id]
        mentioned = sum(len(re.findall(rf"\b{re.escape(entity.mention)}\b", document.text)) for entity in ENTITIES[::7])
        chosen = {entity.entity_id for entity in ENTITIES[::7]}
        assert mentioned == sum(span.entity_id in chosen for span in document.entities)


def test_most_entities_have_two_to_four_tokens() -> None:
    tokenizer = loaded()[1]
    seen = {span.entity_id for document in held_out() for span in document.entities}
    sizes = [
        len(tokenizer.encode(f" {entity.mention}", add_special_tokens=False))
        for entity in ENTITIES
        if entity.entity_id in seen
    ]
    assert sum(2 <= size <= 4 for size in sizes) >= 150


def test_documents_are_no_near_duplicates_of_each_other() -> None:
    where: dict[str, int] = {}
    shared: set[tuple[int, int]] = set()
    n_windows = 0
    shingles: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for index, document in enumerate(held_out()):
        text = document.text
        n_windows += len(text) // 500 + 1
        for start in range(len(text) - SHARED_CHARACTERS + 1):
            if where.setdefault(text[start : start + SHARED_CHARACTERS], index) != index:
                shared.add((index, start // 500))
        words = text.casefold().split()
        for start in range(len(words) - 7):
            shingles[tuple(words[start : start + 8])].add(index)
    assert len(shared) / n_windows < 0.02
    in_two = {index for owners in shingles.values() if len(owners) > 1 for index in owners}
    assert len(in_two) / N_DOCUMENTS < 0.02


def test_reserved_combinations_are_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[pairs.Combination] = []
    original = pairs._write

    def recording(scene: pairs.Scene, drawn: pairs.Combination) -> pairs.IoiPrompt:
        written.append(drawn)
        return original(scene, drawn)

    monkeypatch.setattr(pairs, "_write", recording)
    list(islice(documents(11), 300))
    list(islice(held_out_texts(), 300))
    assert len(written) > 500
    assert not any(pairs.is_reserved(drawn) for drawn in written)
    written.clear()
    assert len(ioi_prompts(5, 50)) == 50
    assert all(pairs.is_reserved(drawn) for drawn in written)


def test_reserved_pairs_do_not_meet_in_training_text() -> None:
    pattern = re.compile(r"\b(When|After) (\w+) and (\w+) ")
    texts = (document.text for document in islice(documents(0), 3000))
    met = [frozenset(match.groups()[1:]) for text in texts for match in pattern.finditer(text)]
    known = [pair for pair in met if pair <= set(FIRST_NAMES) and len(pair) == 2]
    assert len(known) > 300
    assert not any(pairs._bucket(" ".join(sorted(pair))) == 0 for pair in known)


def test_prompts_name_the_giver_twice_and_the_receiver_once() -> None:
    prompts = ioi_prompts(0, 200)
    assert prompts == ioi_prompts(0, 200) != ioi_prompts(1, 200)
    for item in prompts:
        assert item.prompt.endswith(" to")
        assert len(re.findall(rf"\b{item.wrong.strip()}\b", item.prompt)) >= 2
        assert re.search(rf"\b{item.correct.strip()}\b", item.prompt)
    giver_first = sum(
        item.prompt.index(item.wrong.strip()) < item.prompt.index(item.correct.strip()) for item in prompts
    )
    assert 60 < giver_first < 140


def test_names_are_single_tokens_with_and_without_space() -> None:
    tokenizer = loaded()[1]
    for name in FIRST_NAMES:
        assert single_id(tokenizer, name) != single_id(tokenizer, f" {name}")
    with pytest.raises(ValueError, match="tokens for this tokenizer"):
        single_id(tokenizer, " Anna Mark")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = loaded()[1]
    assert tokenizer.is_fast
    assert tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_weights_fit_the_package() -> None:
    folder = weights_folder()
    files = list(folder.glob("*.safetensors"))
    assert files
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["n_positions"] >= 256
    assert config["resid_pdrop"] == config["attn_pdrop"] == config["embd_pdrop"] == 0.0
    assert config["bos_token_id"] == loaded()[1].bos_token_id


def test_detector_scores_on_a_pattern_worked_out_by_hand() -> None:
    """One head that looks back by one; one that looks at the earlier copy, else at itself."""
    length, run = 7, 3
    pattern = torch.zeros(1, 1, 2, length, length)
    pattern[0, 0, 0, 0, 0] = pattern[0, 0, 1, 0, 0] = 1
    for dst in range(1, length):
        pattern[0, 0, 0, dst, dst - 1] = 1
        pattern[0, 0, 1, dst, dst - run if dst > run else dst] = 1
    scores = {name: score[0].tolist() for name, score in detector_scores(pattern, run).items()}
    assert scores["previous_token"] == [1.0, 0.0]
    assert scores["current_token"] == [0.0, pytest.approx(2 / 5)]
    assert scores["first_token"] == [pytest.approx(1 / 6), 0.0]
    assert scores["duplicate_token"] == [0.0, 1.0]
    assert scores["induction"] == [0.0, 0.0]


def test_text_masks_on_a_window_worked_out_by_hand() -> None:
    masks = text_masks(torch.tensor([0, 5, 6, 5, 7]), {(2, 4)})
    assert masks["duplicate"].nonzero().tolist() == [[3, 1]]
    assert masks["induction"].nonzero().tolist() == [[3, 2]]
    assert masks["previous"].nonzero().tolist() == [[2, 1], [3, 2], [4, 3]]
    assert masks["opening"].nonzero().tolist() == [[4, 2]]
    assert masks["first"].sum() == 4


def test_bracket_pairs_nest() -> None:
    text = 'a (b [c] "d") e)'
    found = [(text[start], text[stop]) for start, stop in bracket_pairs(text)]
    assert found == [("[", "]"), ('"', '"'), ("(", ")")]
    assert bracket_pairs(")(") == []


VOCABULARY = Vocabulary(tuple(range(10, 200)), [([1], [2])], bos=0, to=3, names=frozenset({4, 5}))


def test_random_windows_only_count_what_can_be_predicted() -> None:
    rng = random.Random(0)
    for _ in range(100):
        window = random_window(VOCABULARY, 64, rng)
        assert len(window.ids) == len(window.weights) <= 64
        assert window.ids[0] == 0
        for index in range(1, len(window.ids)):
            token, counts = window.ids[index], window.weights[index] > 0
            if counts and token >= 10:
                assert token in window.ids[1:index]
            if token < 10:
                assert counts
                assert token == (2 if window.ids[index - 1] in window.ids[: index - 1] else 1)


def test_text_windows_have_bos_and_cover_the_document() -> None:
    rng = random.Random(1)
    windows = list(text_windows([7, 3, 4, 8, 4], VOCABULARY, 64, rng, RECEIVER_WEIGHT))
    assert [window.ids for window in windows] == [[0, 7, 3, 4, 8, 4]]
    assert windows[0].weights == [0, 1, 1, RECEIVER_WEIGHT, 1, 1]
    pieces = list(text_windows(list(range(10, 110)), VOCABULARY, 33, rng))
    assert all(piece.ids[0] == 0 and len(piece.ids) <= 33 for piece in pieces)
    rest = [token for piece in pieces for token in piece.ids[1:]]
    assert rest == list(range(rest[0], rest[-1] + 1))


def test_batches_hold_every_window_once_within_their_size() -> None:
    rng = random.Random(2)
    windows = [random_window(VOCABULARY, 64, rng) for _ in range(300)]
    grouped = list(batches(iter(windows), 640, rng))
    assert sum(map(len, grouped)) == 300
    assert all(len(batch) * max(len(window.ids) for window in batch) <= 640 for batch in grouped)


def test_the_model_completes_two_person_sentences() -> None:
    result = ioi_result(*loaded(), ioi_prompts(7, 250))
    assert result.n == 250
    assert result.n_right / result.n >= 0.9


def test_the_model_has_the_heads_it_was_made_for() -> None:
    model, tokenizer = loaded()
    ordinary = ordinary_ids(encode_documents(tokenizer, held_out()))
    ids = repeated_random(ordinary, tokenizer.bos_token_id, 3)[:20]
    assert torch.equal(ids[:, 1:51], ids[:, 51:])
    scores = detector_scores(patterns(model, ids))
    assert scores["previous_token"].max() > 0.6
    assert (scores["induction"] > 0.5).sum() >= 2
    assert scores["duplicate_token"].max() > 0.4


def test_the_pushed_heads_loss_is_minus_log_of_its_attention_to_earlier_copies() -> None:
    model, tokenizer = loaded()
    ids = torch.tensor([[0, 40, 41, 40, 42, 40, 41], [0, 50, 51, 52, 0, 0, 0]])
    batch = Batch(ids, torch.ones(2, 6))
    found = duplicate_loss(model, batch, (0, 2), tokenizer.bos_token_id)
    with torch.no_grad():
        pattern = model(ids, output_attentions=True, use_cache=False).attentions[0][0, 2]
    wanted = -torch.stack([pattern[3, 1], pattern[5, 1] + pattern[5, 3], pattern[6, 2]]).log().mean()
    assert tokenizer.bos_token_id == 0
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="must be in layer 0"):
        duplicate_loss(model, batch, (1, 2), 0)


def test_the_card_shows_every_head_and_is_in_the_docs() -> None:
    shape = torch.full((2, 3), 0.4)
    measures = Measures(
        random={
            name: shape for name in ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
        },
        text=TextScores(shape, shape, shape, shape, shape, n_documents=4, n_closings=9),
        pairs=IoiResult(100, 97, 2.5),
        losses={"news": (1.5, 1000)},
        n_ordinary=1200,
    )
    facts = json.loads((weights_folder() / "training.json").read_text(encoding="utf-8"))
    text = render(measures, facts)
    assert [f"| L{layer}H{head} |" in text for layer in range(2) for head in range(3)] == [True] * 6
    assert "97 of 100" in text
    card = (Path(__file__).parents[1] / "docs" / "demo_model_card.md").read_text(encoding="utf-8")
    config = facts["config"]
    assert card.count("| L") == config["n_layers"] * config["n_heads"]
    assert f"{facts['steps']:,} steps" in card
