"""Entity lens: the lens itself, its files, its evaluation and its commands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from entity_helpers import tiny_items, tiny_plan, tiny_runner
from tiny_models import tiny_model

from autointerp.cli import main
from autointerp.demo.corpus import documents
from autointerp.demo.model import weights_folder
from autointerp.errors import BadInput
from autointerp.lenses.entity import LensOptions, entity_lens, read_vectors
from autointerp.lenses.entity_checkpoint import (
    EntityVectors,
    default_path,
    find_vectors,
    load_vectors,
    save_vectors,
    shipped_files,
)  # fmt: skip
from autointerp.lenses.entity_eval import EvalPlan, evaluate_vectors
from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.entity_items import Parts, demo_items, read_items
from autointerp.lenses.entity_job import DataPlan, parts_of, train_vectors
from autointerp.lenses.entity_reader import CONTROLS, EntityReader
from autointerp.lenses.entity_result import EntityReading
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.entity_vectors import read_streams
from autointerp.lenses.entity_widget import LensPanel, entity_widget
from autointerp.model import LanguageModel, load_model

TEXT = "the cat sat on John and Mary ran"


@pytest.fixture(scope="module")
def trained() -> tuple[EntityVectors, Parts]:
    return train_vectors(tiny_runner(), tiny_items(), tiny_plan(with_filter=True, filter_epochs=1), DataPlan())


@pytest.fixture(scope="module")
def contextual() -> tuple[EntityVectors, Parts]:
    return train_vectors(tiny_runner(), tiny_items(), tiny_plan(context="prefix"), DataPlan())


@pytest.fixture(scope="module")
def demo() -> LanguageModel:
    torch.set_num_threads(1)
    return load_model(str(weights_folder()))[0]


# -- the lens --------------------------------------------------------------------------------------------------------


def test_cells_say_what_one_vector_alone_says(trained: tuple[EntityVectors, Parts]) -> None:
    vectors, runner = trained[0], tiny_runner()
    model = runner.model
    found = entity_lens(model, vectors, TEXT, LensOptions(use_filter=False, controls=CONTROLS, logit_lens_k=2), runner)
    ids = runner.frame.text(model, TEXT)
    assert found.layers == (-1, 0, 1) and len(found.cells) == 3 * (len(ids) - 1)
    streams = read_streams(model, ids, found.layers)
    reader = EntityReader(runner, vectors, use_filter=False)
    for place, layer in enumerate(found.layers):
        for pos in (1, 4, len(ids) - 1):
            cell = next(c for c in found.cells if (c.layer, c.pos) == (layer, pos))
            alone = read_vectors(reader, streams[pos, place][None], layer, ())[0]
            assert (cell.mention, cell.ids) == (alone.mention, alone.ids)
            assert cell.ppl == pytest.approx(alone.ppl, rel=1e-4)
            assert cell.token == model.strings[int(ids[pos])] and set(cell.controls) == set(CONTROLS)
            assert len(cell.logit_lens) == 2 and cell.logit_lens[0][1] >= cell.logit_lens[1][1]


def test_the_logit_lens_goes_through_the_final_norm(trained: tuple[EntityVectors, Parts]) -> None:
    runner = tiny_runner()
    model = runner.model
    found = entity_lens(model, trained[0], TEXT, LensOptions(layers=(1,), logit_lens_k=1), runner)
    ids = runner.frame.text(model, TEXT)
    top = torch.softmax(model.logits(model.to_ids(ids[None]))[0, 1:], -1).max(-1)
    assert [c.logit_lens[0][0] for c in found.cells] == [model.strings[i] for i in top.indices.tolist()]
    assert [c.logit_lens[0][1] for c in found.cells] == pytest.approx(top.values.tolist(), rel=1e-4)


def test_one_vector_for_all_layers(trained: tuple[EntityVectors, Parts]) -> None:
    runner = tiny_runner()
    own = entity_lens(runner.model, trained[0], TEXT, LensOptions(use_filter=False), runner)
    one = entity_lens(runner.model, trained[0], TEXT, LensOptions(theta_layer=0, use_filter=False), runner)
    assert {c.theta_layer for c in one.cells} == {0}
    pairs = list(zip(own.cells, one.cells, strict=True))
    assert all(a.ids == b.ids for a, b in pairs if a.layer == 0)
    assert any(a.ids != b.ids or a.ppl != b.ppl for a, b in pairs if a.layer != 0)
    assert "vector 0" in one.to_text()


def test_the_filter_works_or_refuses(trained: tuple[EntityVectors, Parts]) -> None:
    vectors, runner = trained[0], tiny_runner()
    with_it, without = (
        entity_lens(runner.model, vectors, TEXT, LensOptions(use_filter=use), runner) for use in (True, False)
    )
    assert with_it.filtered and not without.filtered
    assert [c.ppl for c in with_it.cells] != [c.ppl for c in without.cells]
    bare = dataclasses.replace(vectors, filters=None)
    with pytest.raises(BadInput, match="no linear filter was trained"):
        entity_lens(runner.model, bare, TEXT, LensOptions(use_filter=True), runner)


def test_cells_with_context_are_marked_where_a_control_says_the_same(contextual: tuple[EntityVectors, Parts]) -> None:
    runner = tiny_runner()
    options = LensOptions(controls=("mean", "shuffled"), max_tokens=4)
    found = entity_lens(runner.model, contextual[0], TEXT, options, runner)
    for cell in found.cells:
        assert set(cell.controls) == {"mean", "shuffled"}
        assert cell.equals_control == (cell.mention in cell.controls.values())
    uncached = entity_lens(runner.model, contextual[0], TEXT, options, tiny_runner(cached=False))
    assert [c.ids for c in uncached.cells] == [c.ids for c in found.cells]
    assert uncached.cells[5].ppl == pytest.approx(found.cells[5].ppl, rel=1e-4)
    with pytest.raises(BadInput, match="read without context"):
        read_vectors(EntityReader(runner, contextual[0]), torch.zeros(1, 32), 0)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", LensOptions(), "text is empty"),
        ("the cat " * 40, LensOptions(), "has room for 64"),
        (TEXT, LensOptions(layers=(2,)), "layers 0 to 1"),
        (TEXT, LensOptions(layers=(-2,)), "layer -2"),
        (TEXT, LensOptions(layers=()), "layer"),
        (TEXT, LensOptions(theta_layer=7), "no vector for layer 7.*entity-lens train"),
        (TEXT, LensOptions(controls=("nonsense",)), "control 'nonsense' is unknown"),
        (TEXT, LensOptions(max_tokens=0), "do not fit"),
    ],
)
def test_bad_requests(trained: tuple[EntityVectors, Parts], text: str, options: LensOptions, message: str) -> None:
    runner = tiny_runner()
    with pytest.raises(BadInput, match=message):
        entity_lens(runner.model, trained[0], text, options, runner)


def test_with_context_the_answer_needs_room_too(contextual: tuple[EntityVectors, Parts]) -> None:
    runner = tiny_runner()
    text = " ".join(["the cat"] * 29)  # 58 tokens and the start token
    entity_lens(runner.model, contextual[0], text, LensOptions(layers=(0,), max_tokens=3, controls=()), runner)
    with pytest.raises(BadInput, match="has room for 54"):
        entity_lens(runner.model, contextual[0], text, LensOptions(layers=(0,), max_tokens=8), runner)


def test_a_tokenizer_without_start_or_stop_is_refused() -> None:
    class Bare:
        bos_token_id = None
        eos_token_id = 2

    model = dataclasses.replace(tiny_model(), tokenizer=Bare(), bos_id=None)
    with pytest.raises(BadInput, match="no BOS token"):
        Frame.of(model)


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_give_back_what_was_saved(trained: tuple[EntityVectors, Parts], tmp_path: Path) -> None:
    vectors, path = trained[0], tmp_path / "one.safetensors"
    save_vectors(path, vectors)
    found = load_vectors(path, tiny_model())
    assert found.layers == vectors.layers and found.facts["data"] == vectors.facts["data"]
    assert found.theta.dtype == torch.float32
    for name in ("theta", "seeds", "mean", "others"):
        assert torch.equal(getattr(found, name), getattr(vectors, name))
    assert found.filters is not None and vectors.filters is not None
    assert torch.equal(found.filters.weight, vectors.filters.weight)


def test_other_models_flags_and_rules_are_refused(
    trained: tuple[EntityVectors, Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.safetensors"
    save_vectors(path, trained[0])
    with pytest.raises(BadInput, match=r"revision 'weights:\w+' there, 'weights:\w+' here"):
        load_vectors(path, tiny_model("gpt2", seed=5))
    with pytest.raises(BadInput, match=r"revision .* there, 'abc' here"):
        load_vectors(path, dataclasses.replace(tiny_model(), revision="abc"))
    monkeypatch.setattr(tiny_model().bridge.cfg, "layer_norm_folding", True, raising=False)
    with pytest.raises(BadInput, match=r"processing .*False.* there, .*'fold_ln': True.* here"):
        load_vectors(path, tiny_model())
    monkeypatch.undo()
    spoilt = dataclasses.replace(
        trained[0], facts=trained[0].facts | {"frame": trained[0].facts["frame"] | {"spacing": "none"}}
    )
    save_vectors(path, spoilt)
    with pytest.raises(BadInput, match=r"'spacing': 'none'.* there, .*'spacing': 'space'.* here"):
        load_vectors(path, tiny_model())


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    for content in (b"", b"nonsense" * 20):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="holds no entity-lens vectors"):
            load_vectors(path, tiny_model())
    with pytest.raises(BadInput, match="holds no entity-lens vectors"):
        load_vectors(tmp_path / "missing", tiny_model())


def test_vectors_are_found_where_training_puts_them(
    trained: tuple[EntityVectors, Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_vectors(tiny_model(), "none") is None
    save_vectors(default_path(tiny_model(), "none"), trained[0])
    found = find_vectors(tiny_model(), "none")
    assert found is not None and torch.equal(found.theta, trained[0].theta)
    assert find_vectors(tiny_model(), "prefix") is None


# -- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_has_every_condition(trained: tuple[EntityVectors, Parts]) -> None:
    vectors, parts = trained
    found = evaluate_vectors(tiny_runner(), vectors, parts, EvalPlan(layers=(-1, 1), matrix=True))
    part = found.rows[0].part
    conditions = {row.condition for row in found.rows if row.part == part and row.layer == 1}
    assert conditions == {"lens", "in_context_prompt", "logit_lens", *CONTROLS}
    row = found.find(part, 1)
    assert row is not None and row.best_control in CONTROLS
    assert row.margin_low is not None and row.margin_high is not None and row.margin_low <= row.margin_high
    assert row.token_acc is not None and 0 <= row.token_acc <= 1
    matrix = found.matrix[part]
    assert matrix[0][0] == pytest.approx(found.find(part, -1).em)  # type: ignore[union-attr]
    assert len(matrix) == 2 and len(matrix[0]) == 2
    assert "exact match of each layer's vector" in found.to_markdown()
    assert found.best_layer == 1


def test_with_context_the_shuffled_control_is_reported(contextual: tuple[EntityVectors, Parts]) -> None:
    vectors, parts = contextual
    found = evaluate_vectors(tiny_runner(), vectors, parts, EvalPlan(layers=(1,)))
    assert any(row.condition == "shuffled" and row.subset == "all" for row in found.rows)


@pytest.mark.slow
def test_the_shipped_vectors_beat_every_control_and_the_embedding(demo: LanguageModel) -> None:
    vectors = find_vectors(demo, "none")
    assert vectors is not None and all(path.stat().st_size < 2_000_000 for path in shipped_files())
    parts, _ = parts_of(demo_items(documents(7), 3000), DataPlan())
    runner = PromptRunner(demo, Frame.of(demo))
    layer = 1
    found = evaluate_vectors(runner, vectors, parts, EvalPlan((-1, layer), max_test=120))
    row, embedding = found.find("seen", layer), found.find("seen", -1)
    assert row is not None and embedding is not None
    assert row.em > embedding.em > 0.5
    for condition in (*CONTROLS, "logit_lens"):
        other = found.find("seen", layer, condition)
        assert other is not None and row.em_low > other.em_high, condition


def test_the_shipped_vectors_name_entities(demo: LanguageModel) -> None:
    vectors = find_vectors(demo, "none")
    assert vectors is not None
    found = entity_lens(demo, vectors, "Shares of Union Tools rose before Tamsin Marr of Long Pellam left")
    said = {(c.token, c.mention) for c in found.cells if c.layer == 1}
    assert len({(" Tools", "Union Tools"), (" Marr", "Tamsin Marr"), (" Pellam", "Long Pellam")} & said) >= 2


# -- notebook --------------------------------------------------------------------------------------------------------


def test_the_panels_vector_follows_layer_and_context(
    trained: tuple[EntityVectors, Parts], contextual: tuple[EntityVectors, Parts]
) -> None:
    panel = LensPanel(tiny_model(), trained[0])
    assert "Type a text" in panel.html()
    panel.set_text(TEXT)
    assert panel.pos == len(panel.reading.tokens)  # type: ignore[union-attr]
    for layer in (-1, 0, 1):
        panel.layer = layer
        assert panel.cell().theta_layer == panel.cell().layer == layer
    panel.vectors["prefix"] = contextual[0]
    panel.pos = 3
    before = panel.cell()
    panel.set_context("prefix")
    assert panel.pos == 3 and panel.reading is not None and panel.reading.context == "prefix"
    assert panel.cell() != before
    with pytest.raises(BadInput, match="no vectors of context 'sentence'"):
        panel.set_context("sentence")


def test_the_widget_draws_the_panel(trained: tuple[EntityVectors, Parts]) -> None:
    pytest.importorskip("ipywidgets")
    box = entity_widget(tiny_model(), trained[0])
    text, choices, tokens, out = box.children
    text.value = TEXT
    assert len(tokens.children) == len(box.panel.reading.tokens)
    tokens.children[2].click()
    assert box.panel.pos == 3 and "layer 1" in out.value
    choices.children[0].value = 0
    assert box.panel.layer == 0 and "layer 0" in out.value
    text.value = "the cat " * 40
    assert "has room for" in out.value


def test_without_ipywidgets_the_widget_says_so(
    trained: tuple[EntityVectors, Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(BadInput, match="needs ipywidgets"):
        entity_widget(tiny_model(), trained[0])


# -- commands --------------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    try:
        return main(list(words))
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.slow
def test_train_show_and_eval_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for number, item in enumerate(demo_items(documents(7), 60)):
        entity = {"start": item.char_start, "end": item.char_end, "mention": item.mention}
        lines.append(json.dumps({"text": item.text, "entities": [entity], "doc_id": f"d{number % 30}"}))
    data, vectors = tmp_path / "data.jsonl", tmp_path / "v.safetensors"
    data.write_text("\n".join(lines))
    assert len(read_items(data)) == len(lines)
    options = ("--seeds", "0", "--epochs", "0.1", "--data", str(data), "--no-filter", "--min-steps", "6")
    assert run("entity-lens", "train", "--layers", "emb,1", "--out", str(vectors), *options) == 0
    assert str(vectors) in capsys.readouterr().out
    text = "Shares of Union Tools rose"
    page = tmp_path / "page.html"
    assert run("entity-lens", "show", text, "--vectors", str(vectors), "--format", "html", "--out", str(page)) == 0
    assert "Tools" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    assert run("entity-lens", "show", text, "--vectors", str(vectors), "--format", "json", "--use-layer", "1") == 0
    reading = EntityReading.from_json(capsys.readouterr().out)
    assert reading.text == text and {c.theta_layer for c in reading.cells} == {1}
    bench = tmp_path / "bench"
    words = ("--vectors", str(vectors), "--data", str(data), "--max-test", "20", "--out", str(bench))
    assert run("entity-lens", "eval", *words) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["layer"] == 1
    assert json.loads((bench / "bench.json").read_text())["summary"] == last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "  "), "TEXT is empty"),
        (("show", "Mary left", "--layers", "a"), "is no layer"),
        (("show", "Mary left", "--layers", "9"), "layers 0 to 3"),
        (("show", "Mary left", "--use-layer", "9"), "no vector for layer 9"),
        (("show", "Mary left", "--controls", "none,some"), "control 'none' is unknown"),
        (("show", "Mary left", "--vectors", "nowhere"), "holds no entity-lens vectors"),
        (("show", "Mary left", "--context", "sentence"), "there are no entity-lens vectors"),
        (("train", "--seeds", "x"), "no list of numbers"),
        (("train", "--data", "missing.jsonl"), "cannot be read"),
        (("eval", "--layers", "5-6"), "layer 5"),
    ],
)
def test_wrong_requests_are_one_clear_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with contextlib.chdir(tmp_path):
        assert run("entity-lens", *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
