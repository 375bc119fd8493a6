"""SelfIE readings: no-op, exact numbers, controls, verdicts, batches, the table and the search for a strength."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import BadInput
from autointerp.lenses.selfie import Interpreter, SelfieOptions, interpret_directions, interpret_sources, interpret_text
from autointerp.lenses.selfie_numbers import (
    VECTOR_CONTROLS,
    SourceTest,
    judged_source,
    margin,
    normalised,
    row_verdict,
    signed,
    total,
    treatment,
)
from autointerp.lenses.selfie_prompts import build_prompt
from autointerp.lenses.selfie_records import ANCESTOR_COLUMNS, TEXT_COLUMNS, SelfieTable
from autointerp.lenses.selfie_run import Runner, Settings, null_case, read_cases, source_case
from autointerp.lenses.selfie_search import SCALES, Candidate, choose, search_scales
from autointerp.lenses.selfie_texts import SourceText, text_sources
from autointerp.lenses.sources import Pool, Source, read_pool, read_stream
from autointerp.model.decoding import Decoding, generate, stop_ids
from autointerp.model.sites import Site
from autointerp.tables import read_csv_cells
from tests.tiny_models import tiny_model, tiny_texts

PROMPTS = ("the {P} was", "a dog sat on {P} and", "it was {P} .")
QUICK = SelfieOptions(prompts=PROMPTS, placeholders=3, max_new_tokens=4, nulls=3)
TEXT = "the red dog sat"
REFERENCE = tiny_texts(3, length=6)


def table(options: SelfieOptions = QUICK, kind: str = "gpt2", text: str = TEXT) -> SelfieTable:
    model = tiny_model(kind)
    return interpret_sources(Interpreter(model, options), text_sources(model, SourceText(text)), REFERENCE)


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.2, 1e-12]).log(), torch.tensor([0.25, 0.4, 0.5]).log()
    assert treatment(p, q) == pytest.approx((0.25, 0.2, 0.5))
    assert signed(p, q) == pytest.approx((math.log(2), -math.log(2), math.log(1e-9 / 0.5)))
    assert total(p, q) == pytest.approx(math.log(1e-9 / 0.5))
    totals = {name: float(n) for n, name in enumerate(VECTOR_CONTROLS, start=2)} | {"text_only": -5.0}
    assert margin(totals) == 2.0


@given(st.text())
def test_normalised_text_ignores_case_space_and_outer_punctuation(text: str) -> None:
    assert normalised(f" {text}.\n") == normalised(text)
    assert normalised("The  Cat.") == normalised("the cat")


def test_verdicts() -> None:
    good = SourceTest(2.0, 1.0, 3.0, 0.04, True, 3)
    said = dict.fromkeys((*VECTOR_CONTROLS, "text_only"), "something else")
    assert row_verdict(good, 1.0, "a dog", said) == "specific"
    assert row_verdict(good, 0.0, "a dog", said) == "abstain"
    assert row_verdict(good, 1.0, " ", said) == "abstain"
    assert row_verdict(good, 1.0, "a dog", said | {"zero": "A dog."}) == "abstain"
    assert row_verdict(good, 1.0, "a dog", said | {"text_only": "A dog."}) == "context_only"
    assert row_verdict(replace(good, beats_text=False), 1.0, "a dog", said) == "context_only"
    assert row_verdict(replace(good, beats_text=None), 1.0, "a dog", said) == "specific"
    for bad in (replace(good, low=0.0), replace(good, p=0.06), replace(good, n_prompts=2)):
        assert row_verdict(bad, 1.0, "a dog", said) == "abstain"


def test_a_source_is_held_against_random_vectors() -> None:
    test = judged_source([2.0, 3.0, 4.0], [1.0, 1.0, -5.0], [0.0] * 18 + [3.5], 0)
    assert test.margin == pytest.approx(3.0)
    assert 2.0 <= test.low < 3.0 < test.high <= 4.0
    assert test.p == 2 / 20
    assert test.beats_text is False
    assert judged_source([2.0], None, [0.0] * 19, 0).beats_text is None
    assert not judged_source([2.0, 2.0], None, [0.0] * 19, 0).passed
    assert judged_source([2.0, 2.0, 2.0], None, [0.0] * 19, 0).passed
    assert not judged_source([2.0, 2.0, 2.0], None, [0.0] * 18, 0).passed  # 1/19 is above 0.05


# -- readings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_placeholders_own_residual_has_no_relevancy(kind: str) -> None:
    model = tiny_model(kind)
    prompt = build_prompt(model, PROMPTS[1], 3)
    said = generate(model, torch.tensor([prompt.ids]), Decoding(QUICK.max_new_tokens)).ids[0]
    # read in a forward of the shape that scores it, so that not even rounding differs
    own = read_stream(model, _fed((*prompt.ids, *said[:-1])), [1])[1][list(prompt.positions)]
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    options = replace(QUICK, prompts=(PROMPTS[1],))
    (row,) = Interpreter(model, options).interpret([Source("own", own, "resid_pre 1", 1)], pool)
    assert set(row.treatment) == {0.0} == set(row.signed)
    assert row.total == 0.0
    plain = row.control("none")
    assert plain is not None and plain.text == row.interpretation
    assert row.verdict == "abstain"


def _fed(ids):  # type: ignore[no-untyped-def]
    from autointerp.lenses.sources import FedText

    return FedText("", tuple(ids), 0)


def test_probabilities_are_the_models_own_and_scores_end_with_the_text() -> None:
    model = tiny_model("gpt2")
    found = table()
    ends = stop_ids(model)
    for row in found.rows:
        m = len(row.interpretation_ids)
        assert len(row.treatment) == len(row.signed) == len(row.prob) == m
        assert not set(row.interpretation_ids[:-1]) & ends
        prompt = build_prompt(model, PROMPTS[[p[:40] for p in PROMPTS].index(row.prompt_name)], 3)
        ids = [*prompt.ids, *row.interpretation_ids]
        plain = torch.log_softmax(model.logits(torch.tensor([ids])), dim=-1)[0]
        q = [float(plain[len(prompt.ids) - 1 + n, token]) for n, token in enumerate(row.interpretation_ids)]
        assert row.signed == pytest.approx([math.log(p) - one for p, one in zip(row.prob, q, strict=True)], abs=1e-4)
        assert row.total == pytest.approx(sum(row.signed), abs=1e-6)
        assert row.margin == min(c.total for c in row.controls if c.name != "text_only")
        assert {c.name for c in row.controls} == {*VECTOR_CONTROLS, "text_only"}


@pytest.mark.slow
def test_batches_and_order_change_nothing() -> None:
    model = tiny_model("llama")
    sources = text_sources(model, SourceText(TEXT))
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    own = [source for source in sources if source.layer == 1]
    together = Interpreter(model, QUICK).interpret(own, pool)
    small = Interpreter(model, replace(QUICK, batch_size=1)).interpret(list(reversed(own)), pool)
    alone = {row.row_id: row for row in small}
    assert len(alone) == len(together) == len(own) * len(PROMPTS)
    for row in together:
        other = alone[row.row_id]
        assert row.interpretation_ids == other.interpretation_ids
        assert row.verdict == other.verdict
        assert [c.text for c in row.controls] == [c.text for c in other.controls]
        assert row.margin == pytest.approx(other.margin, abs=1e-4)
        assert (row.source_low, row.null_p) == pytest.approx((other.source_low, other.null_p), abs=1e-4)


def test_control_vectors() -> None:
    model = tiny_model("gpt2")
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    source = text_sources(model, SourceText(REFERENCE[0]))[-1]
    seen = set()
    for seed in range(20):
        case = source_case(source, pool, seed)
        assert torch.equal(case.controls["zero"], torch.zeros(1, 32))
        assert case.controls["random"].norm() == pytest.approx(float(source.vector.norm()), rel=1e-5)
        assert torch.equal(case.controls["mean"][0], pool.vectors.mean(0))
        place = int((pool.vectors == case.controls["shuffled"][0]).all(1).nonzero()[0])
        assert pool.texts[place] != source.text
        assert pool.tokens[place] != source.token
        seen.add(place)
        null = null_case(seed, pool, 0)
        sizes = pool.vectors.norm(dim=1)
        assert float((sizes - null.vectors.norm()).abs().min()) < 1e-4
    assert len(seen) > 5
    with pytest.raises(BadInput, match="2 texts"):
        Pool(torch.ones(2, 4), ("one", "one"), ("a", "b"))
    assert pool.other("none of them", "", torch.Generator().manual_seed(0)) >= 0


@pytest.mark.slow
def test_random_weights_are_seldom_specific() -> None:
    options = replace(QUICK, nulls=24)
    verdicts = []
    for seed in (11, 12):
        model = tiny_model("gpt2", seed)
        sources = [s for text in tiny_texts(2, seed, 5) for s in text_sources(model, SourceText(text))]
        rows = interpret_sources(Interpreter(model, options), sources, REFERENCE).rows
        verdicts += [row.verdict for row in rows]
        assert np.mean([row.margin > 0 for row in rows]) > 0.1  # what the random vectors are there to answer
    assert len(verdicts) > 100
    assert np.mean([verdict == "specific" for verdict in verdicts]) < 0.05


def test_no_graph_is_kept_and_the_cost_is_told() -> None:
    model = tiny_model("gpt2")
    assert any(p.requires_grad for p in model.bridge.original_model.parameters())
    prompt = build_prompt(model, PROMPTS[0], 2)
    runner = Runner(model, Settings(max_new_tokens=3))
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    readings = read_cases(runner, prompt, [null_case(0, pool, 0)])
    assert not any(q.requires_grad for reading in readings for q in (reading.p, *reading.q.values()))
    assert runner.tokens_fed >= 7 * len(prompt.ids)
    assert "tokens through the model" in table().notes[0]


def test_bad_requests() -> None:
    model = tiny_model("gpt2")
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    three = Source("three", torch.randn(4, 32), "resid_pre 1", 1)
    with pytest.raises(BadInput, match="4 vectors for the 3 placeholders"):
        Interpreter(model, QUICK).interpret([three], pool)
    with pytest.raises(BadInput, match="one for all, or one for each"):
        Interpreter(model, QUICK).interpret([replace(three, vector=torch.randn(2, 32))], pool)
    with pytest.raises(BadInput, match="block 2 is out of range"):
        Interpreter(model, replace(QUICK, block=2)).interpret([replace(three, vector=torch.randn(32))], pool)
    with pytest.raises(BadInput, match="no placeholder"):
        Interpreter(model, replace(QUICK, prompts=("what is it",)))
    with pytest.raises(BadInput, match="no interpretation prompt"):
        Interpreter(model, replace(QUICK, prompts=()))
    with pytest.raises(BadInput, match="context"):
        Interpreter(model, replace(QUICK, max_new_tokens=60))
    with pytest.raises(BadInput, match="layer 2 is out of range"):
        interpret_text(model, TEXT, QUICK, layers=[2])
    with pytest.raises(BadInput, match="position 50"):
        interpret_text(model, TEXT, QUICK, positions=[50])
    with pytest.raises(BadInput, match="more than the context"):
        interpret_text(model, "the dog " * 64, QUICK)


def test_few_prompts_or_nulls_abstain_and_say_so() -> None:
    rows = table(replace(QUICK, prompts=PROMPTS[:1])).rows
    assert {row.verdict for row in rows} == {"abstain"}
    assert all({"few_prompts", "few_nulls"} <= set(row.flags) for row in rows)


# -- strength --------------------------------------------------------------------------------------------------------


def test_the_choice_of_a_strength() -> None:
    def one(entropy: float, gain: float) -> Candidate:
        return Candidate(1.0, 0.0, entropy, gain, gain)

    assert choose([one(1, 0.5), one(2, 2), one(3, 9), one(4, 9), one(5, 9)]) == 1
    assert choose([one(1, 1), one(1, 3), one(1, 2)]) == 1  # nothing is below its own median


def test_a_search_scales_vectors_and_controls_alike() -> None:
    model = tiny_model("gpt2")
    runner = Runner(model, Settings(max_new_tokens=3))
    prompt = build_prompt(model, PROMPTS[0], 3)
    pool = read_pool(model, Site("resid_pre", 1), REFERENCE)
    case = null_case(0, pool, 0)
    (search,) = search_scales(runner, prompt, [case])
    stream = read_stream(model, _fed(prompt.ids), [1])[1][list(prompt.positions)]
    size = float(stream.norm(dim=-1).median()) * SCALES[search.chosen]
    assert [c.scale for c in search.candidates] == list(SCALES)
    assert search.case.vectors.norm() == pytest.approx(size, rel=1e-4)
    for name in ("random", "mean", "shuffled"):
        assert float(search.case.controls[name].norm()) == pytest.approx(size, rel=1e-4)
    assert search.case.controls["zero"].norm() == 0
    assert search.usable == any(c.margin > 0 for c in search.candidates)
    assert torch.cosine_similarity(search.case.vectors, case.vectors).item() == pytest.approx(1, abs=1e-5)


def test_directions_are_read_without_a_text() -> None:
    model = tiny_model("gpt2")
    options = replace(QUICK, strength="search", nulls=2, max_new_tokens=2)
    found = interpret_directions(model, {"W_U of dog": model.W_U[:, model.strings.index("dog")]}, options)
    assert len(found) == len(PROMPTS)
    for row in found.rows:
        assert "no_text" in row.flags
        assert row.control("text_only") is None
        assert row.mode == "normalized" and row.h_norm > 0


# -- table -----------------------------------------------------------------------------------------------------------


def test_the_table_keeps_everything() -> None:
    found = table(text='the "NA" | dog')
    lines = read_csv_cells(found.to_csv(), TEXT_COLUMNS)
    assert len(lines) == len(found)
    for line, row in zip(lines, found.rows, strict=True):
        assert line["interpretation"] == row.interpretation
        assert line["token"] == line["current token"] == row.token
        assert json.loads(line["interpretation_ids"]) == list(row.interpretation_ids)
        weights, prob = json.loads(line["interpretation_weights"]), json.loads(line["interpretation_prob"])
        assert weights == pytest.approx(list(row.treatment), rel=1e-4, abs=1e-12)
        assert prob == pytest.approx(list(row.prob), rel=1e-4, abs=1e-12)
        assert json.loads(line["tokens"]) == list(row.tokens)
        assert {c["name"] for c in json.loads(line["controls"])} == {*VECTOR_CONTROLS, "text_only"}
    assert set(ANCESTOR_COLUMNS) <= set(lines[0])
    told = json.loads(found.to_json())
    assert told[0]["controls"][0]["name"] == "none"
    assert len(found.to_dataframe()) == len(found)  # type: ignore[arg-type]
    assert "<script" not in found.to_html() and "abstain" in found.to_markdown()
    assert {row.verdict for row in found.specific().rows} <= {"specific"}
