"""Texts from JSON, a CSV that grows and goes on, the command, and readings of heads as records."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from autointerp.cli import main
from autointerp.demo.corpus import held_out_texts
from autointerp.errors import BadInput
from autointerp.lenses.head_readings import HeadLensOptions, HeadReader, HeadReadings, cost_bound, head_readings
from autointerp.lenses.head_vectors import HeadRow, head_vectors, text_head_sources
from autointerp.lenses.patchscopes import Patch, next_token_decoding
from autointerp.lenses.selfie import Interpreter, SelfieOptions
from autointerp.lenses.selfie_job import prepare, run_job
from autointerp.lenses.selfie_records import TEXT_COLUMNS
from autointerp.lenses.selfie_texts import ReadPlan, SourceText, fed_text, read_examples, text_sources
from autointerp.model import LanguageModel, Readout
from autointerp.notebook import open_model
from autointerp.records import Head
from autointerp.tables import read_csv_cells
from tests.test_selfie_prompts import CHAT
from tests.tiny_models import tiny_model, tiny_texts, tiny_tokenizer

QUICK = SelfieOptions(prompts=("the {P} was", "it was {P} ."), placeholders=2, max_new_tokens=3, nulls=2)
PLAN = ReadPlan(layers=(1,), positions=(2, 3), continuation=3)


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_raw_false_and_missing_are_the_same(tmp_path: Path) -> None:
    listed = [{"text": "the dog"}, {"text": "the dog", "raw": False}, {"text": "the dog", "raw": True}, "the dog"]
    missing, false, true, bare = read_examples(write(tmp_path / "a.json", listed))
    assert (missing.raw, false.raw, true.raw, bare.raw) == (False, False, True, False)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    model = replace(tiny_model("gpt2"), tokenizer=tokenizer)
    assert fed_text(model, missing).ids == fed_text(model, false).ids == fed_text(model, bare).ids
    assert fed_text(model, true).ids == (model.bos_id, *model.encode("the dog")[0].tolist())
    chat = fed_text(model, false)
    assert len(chat.ids) > 3 and chat.ids.count(model.bos_id) == 1 and tokenizer.eos_token_id in chat.ids
    assert not {chat.ids[p] for p in chat.own_positions(model)} & set(model.special_ids)
    assert text_sources(model, false)[0].text_ids == tuple(model.encode("the dog")[0].tolist())
    with pytest.raises(BadInput, match="chat template, more than"):
        fed_text(model, SourceText("the dog " * 30))


def test_the_ancestors_file_and_bad_files(tmp_path: Path) -> None:
    told = {
        "examples": [{"prompt": "the dog", "category": "pet", "raw": False}, {"prompt": "a cat", "category": "pet"}]
    }
    first, second = read_examples(write(tmp_path / "a.json", told))
    assert first == SourceText("the dog", "pet", False, "pet 0")
    assert second.source_id == "pet 1"
    for bad in ([], {}, {"examples": []}, [3], [{"text": ""}], [{"category": "x"}], [{"text": "a", "raw": "no"}], "x"):
        with pytest.raises(BadInput):
            read_examples(write(tmp_path / "b.json", bad))
    (tmp_path / "c.json").write_text("{", encoding="utf-8")
    for name in ("c.json", "absent.json"):
        with pytest.raises(BadInput, match=name):
            read_examples(tmp_path / name)


def test_a_generated_token_can_be_read_too() -> None:
    model = tiny_model("gpt2")
    plain = text_sources(model, SourceText("the dog"), replace(PLAN, positions=None))
    longer = text_sources(model, SourceText("the dog"), replace(PLAN, positions=None, with_next=True))
    assert {s.pos for s in plain} == {1, 2}
    assert max(s.pos for s in longer) == 3
    best = int(model.logits(torch.tensor([[model.bos_id or 0, *model.encode("the dog")[0].tolist()]]))[0, -1].argmax())
    assert longer[0].tokens[3] == model.strings[best]
    assert plain[0].continuation == longer[0].continuation != ""


def texts() -> list[SourceText]:
    return [SourceText(text, source_id=str(n)) for n, text in enumerate(tiny_texts(2, length=5))]


def test_a_job_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    model, out = tiny_model("gpt2"), tmp_path / "deep" / "out.csv"
    summary = run_job(Interpreter(model, QUICK), texts(), PLAN, out)
    whole = out.read_bytes()
    rows = read_csv_cells(whole.decode(), TEXT_COLUMNS)
    assert (summary.written, summary.found) == (8, 0) == (len(rows), 0)
    assert {row["continuation"] for row in rows if row["source_id"] == "0"} != {""}
    again = Interpreter(model, QUICK)
    assert run_job(again, texts(), PLAN, out).written == 0
    assert again.tokens_fed == 0
    assert out.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:4]) + lines[4][:25])  # killed in the middle of a line, and of a vector
    assert run_job(Interpreter(model, QUICK), texts(), PLAN, out).written == 5
    assert out.read_bytes() == whole
    other = run_job(Interpreter(model, replace(QUICK, batch_size=3)), texts(), PLAN, out)
    assert other.written == 0
    assert run_job(Interpreter(model, replace(QUICK, seed=1)), texts()[:1], PLAN, out).written == 4


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="other columns"):
        prepare(out)
    assert out.read_text() == "a,b\n1,2\n"


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--prompt", "After {P} comes", "--max-new-tokens", "2", "--nulls", "2", "--placeholders", "2"]
    assert main(["selfie", "Tamsin Marr sold", "--layers", "2", "--at", " Marr", "--format", "json", *short]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["token"], row["layer"], row["site"], row["k"]) == (" Marr", 2, "resid_pre 2", 1)
    assert {c["name"] for c in row["controls"]} >= {"none", "zero", "random", "mean", "shuffled", "text_only"}
    assert main(["selfie", "Tamsin Marr sold", "--head", "L1H2", "--positions", "3", *short]) == 0
    assert "abstain" in capsys.readouterr().out
    file = write(tmp_path / "a.json", {"examples": [{"prompt": "Tamsin Marr sold", "category": "c", "raw": True}]})
    out = tmp_path / "out.csv"
    assert (
        main(["selfie", "--examples", str(file), "--out", str(out), "--layers", "1", "--positions", "2", *short]) == 0
    )
    assert "1 readings written" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "either a TEXT or --examples"),
        (["a", "--examples", "b"], "either a TEXT or --examples"),
        (["--examples", "absent.json"], "needs --out"),
        (["--examples", "absent.json", "--out", "x.csv"], "cannot be read"),
        (["a", "--strength", "much"], "no number"),
        (["a", "--strength", "3", "--positions", "1"], "outside"),
        (["a", "--layers", "4"], "layer 4 is out of range"),
        (["a", "--block", "4"], "block 4 is out of range"),
        (["a", "--prompt", "say it"], "no placeholder"),
        (["a", "--positions", "9"], "position 9"),
        (["a", "--nulls", "-1"], "--nulls"),
        (["a", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["a", "--max-readings", "3"], "--max-readings 3"),
        (["a", "--head", "L9H1"], "L9H1"),
        (["a", "--head", "x"], "not a head"),
        (["a " * 300], "more than the context"),
    ],
)
def test_bad_requests_end_in_one_error(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selfie", *words]) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said


# -- heads -----------------------------------------------------------------------------------------------------------


def head_rows(model: LanguageModel, n: int) -> list[HeadRow]:
    fed = [(model.bos_id or 0, *model.encode(text)[0].tolist()) for text in tiny_texts(n, seed=3, length=8)]
    return [HeadRow(ids, 5 + number % 3, f"doc{number}", 0) for number, ids in enumerate(fed)]


def test_outputs_and_differences_are_what_they_say() -> None:
    model = tiny_model("gpt2")
    rows, head = head_rows(model, 4), Head(layer=0, index=2)
    found = head_vectors(model, head, rows, batch_size=3)
    for n, row in enumerate(rows):
        ids = torch.tensor([row.ids])
        z: list[torch.Tensor] = []
        with model.hooks([("blocks.0.attn.hook_z", lambda t, hook, keep=z.append: keep(t.clone()))]):
            clean = model.final_states(ids)[0]
        assert torch.allclose(found.output[n], z[0].reshape(1, -1, 4, 8)[0, row.dst, 2] @ model.W_O(0)[2], atol=1e-5)

        def without(t: torch.Tensor, hook: object, dst: int = row.dst) -> torch.Tensor:
            changed = t.clone().reshape(1, t.shape[1], 4, 8)
            changed[0, dst, 2] = 0
            return changed.reshape(t.shape)

        with model.hooks([("blocks.0.attn.hook_z", without)]):
            changed = model.final_states(ids)[0]
        expected = (clean - changed)[0, row.dst]
        assert expected.norm() > 1e-3
        assert torch.allclose(found.difference[n], expected, atol=1e-5)
    last = head_vectors(model, Head(layer=1, index=0), rows)
    assert not torch.allclose(last.output, last.difference, atol=1e-3)  # the MLP reads the head
    own_z = np.full(8, 0.3, dtype=np.float32)
    moved = head_vectors(model, head, rows, own_z)
    assert torch.allclose(moved.output, found.output) and not torch.allclose(moved.difference, found.difference)


def test_readings_of_a_head_are_records() -> None:
    model = tiny_model("gpt2")
    rows, head = head_rows(model, 5), Head(layer=1, index=1)
    options = HeadLensOptions(selfie=QUICK, max_rows=1)
    found = head_readings(model, head, rows[:2], rows[2:], options=options)
    assert HeadReadings.model_validate_json(found.model_dump_json()) == found
    assert [row.doc_id for row in found.rows] == ["doc0", "doc1"]
    assert [v.what for v in found.rows[0].vectors] == ["output", "difference"]
    assert [len(v.selfie) for row in found.rows for v in row.vectors] == [2, 2, 0, 0]
    reading = found.rows[0].vectors[0].selfie[0]
    assert {c.name for c in reading.controls} == {"none", "zero", "random", "mean", "shuffled", "text_only"}
    assert 0 < found.tokens <= cost_bound(model, options, 5, max(r.dst + 1 for r in rows))
    # the lens is the product's readout of writes
    vectors = head_vectors(model, head, rows)
    readout = Readout.of(model, torch.tensor([max((r.ids for r in rows), key=len)]))
    logits = readout.logits(vectors.output[:1], readout.scale(vectors.final[:1]))[0]
    assert found.rows[0].vectors[0].up[0].token == model.strings[int(logits.argmax())]
    assert found.rows[0].vectors[0].down[0].value == pytest.approx(float(logits.min()), rel=1e-3)


def test_the_logit_lens_alone_costs_little_and_one_document_is_told() -> None:
    model = tiny_model("llama")
    rows, head = head_rows(model, 3), Head(layer=0, index=0)
    alone = HeadReader(model, HeadLensOptions(selfie=None)).read(head, rows)
    assert alone.tokens == 3 * sum(row.dst + 1 for row in rows)
    assert not alone.specific() and all(v.up for row in alone.rows for v in row.vectors)
    same = [replace(row, doc_id="one") for row in rows]
    told = HeadReader(model, HeadLensOptions(selfie=QUICK)).read(head, same)
    assert "2 documents" in told.notes[0]
    assert HeadReader(model, HeadLensOptions(selfie=None)).read(head, []).rows == ()
    with pytest.raises(BadInput, match="destination 40"):
        head_vectors(model, head, [replace(rows[0], dst=40)])
    with pytest.raises(BadInput, match="L7H0"):
        head_vectors(model, Head(layer=7, index=0), rows)
    with pytest.raises(BadInput, match="kinds"):
        HeadReader(model, HeadLensOptions(kinds=()))


def test_head_outputs_of_a_text() -> None:
    model = tiny_model("gpt2")
    head = Head(layer=1, index=3)
    sources = text_head_sources(model, head, "the dog sat")
    assert [s.pos for s in sources] == [1, 2, 3]
    ids = (model.bos_id or 0, *model.encode("the dog sat")[0].tolist())
    expected = head_vectors(model, head, [HeadRow(ids, 2)]).output[0]
    assert torch.allclose(sources[1].vector, expected, atol=1e-6)
    assert sources[1].site == "result L1H3" and sources[1].text_ids == ids[1:3]


def test_the_stream_of_a_trained_model_predicts_in_another_prompt() -> None:
    model = open_model("demo").model
    texts_ = [document.text[:100] for document in islice(held_out_texts(), 3)]
    found = next_token_decoding(model, texts_, Patch(3, 3))
    assert found.n > 40
    assert found.precision > 0.5 > 0.2 > found.random_precision
    assert found.surprisal < found.random_surprisal
    crossed = next_token_decoding(model, texts_, Patch(3, 0))
    assert crossed.precision < found.precision
    with pytest.raises(BadInput, match="layer 4"):
        next_token_decoding(model, texts_, Patch(4, 4))
    with pytest.raises(BadInput, match="no text"):
        next_token_decoding(model, [], Patch(1, 1))
