"""`autointerp patch`: contrast sets as written, every way in which they can be wrong, and what is written."""

from __future__ import annotations

import csv
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.contrast import parse_prompt, read_prompts
from autointerp.circuits.heat_map import colour, page, panels
from autointerp.circuits.measures import METRICS, Effects
from autointerp.circuits.png import encode, heat_map_png
from autointerp.circuits.prompts import tokenise
from autointerp.cli import main
from autointerp.cli import patch as command
from autointerp.errors import BadInput
from autointerp.model.nodes import HEAD_NODES, KINDS
from tests.tiny_models import tiny_model

CLEAN, CORRUPTED = "When John and Mary went to John gave", "When John and Mary went to Mary gave"
GOOD: dict[str, Any] = {
    "clean": CLEAN, "corrupted": CORRUPTED, "answers": [" Mary", " John"], "roles": {"S2": ["John", 2]}, "group": "a",
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on the tiny model instead of the demo model."""
    monkeypatch.setattr(command, "load", lambda arguments: tiny_model("gpt2"))


def written(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def pairs(n: int) -> list[dict[str, Any]]:
    names = ["John", "Mary", "dog", "cat", "ball"]
    found = []
    for k in range(n):
        first, second = names[k % 5], names[(k + 1) % 5]
        text = f"When {first} and {second} went to {{}} gave"
        found.append({**GOOD, "clean": text.format(first), "corrupted": text.format(second),
                      "answers": [f" {second}", f" {first}"], "roles": {"S2": [first, 2], "IO": second}})  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": ""}, "clean is ''"),
        ({"corrupted": None}, "corrupted is None"),
        ({"clean": [1, 2]}, "text and a list of ids"),
        ({"answers": []}, "answers is"),
        ({"answers": [" Mary", " John", " dog"]}, "right answer and"),
        ({"answers": [3]}, "each a text"),
        ({"roles": ["S2"]}, "roles is"),
        ({"roles": {"S2": "John"}}, "occurs 2 times"),
        ({"roles": {"S2": ["John", 3]}}, "no occurrence 3"),
        ({"roles": {"S2": ["John", 0]}}, "no occurrence 0"),
        ({"roles": {"S2": [5, 400]}}, "range of characters"),
        ({"roles": {"S2": [5, 5]}}, "range of characters"),
        ({"roles": {"END": [0, 4]}}, "always the last token"),
        ({"group": None}, "group is None"),
        ({"extra": 1}, "unknown fields extra"),
    ],
)
def test_a_line_that_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        parse_prompt({**GOOD, **change}, "set.jsonl line 3")
    assert "set.jsonl line 3" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupted": CORRUPTED + " then"}, "clean has 9 tokens and corrupted 10"),
        ({"answers": [" Mary dog"]}, r"answer ' Mary dog' is 2 tokens"),
        ({"answers": ["Zed"]}, "starts with a space"),
        ({"roles": {"S2": "Mary went"}}, "covers 2 tokens"),
    ],
)
def test_what_only_the_tokenizer_can_tell(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tokenise([parse_prompt({**GOOD, **change}, "p")], tiny_model("gpt2"), "set")


def test_ids_instead_of_texts() -> None:
    model = tiny_model("gpt2")
    line = {"clean": [20, 21, 22], "corrupted": [20, 23, 22], "answers": [30], "roles": {"here": 1}}
    found = tokenise([parse_prompt(line, "p")], model, "ids")
    assert found.clean.tolist() == [[model.bos_id, 20, 21, 22]]
    assert found.roles["here"].tolist() == [2] and found.ends.tolist() == [3]
    assert found.wrong.tolist() == [-1] and not found.has_wrong
    for change, message in (({"roles": {"here": 3}}, "index from 0 to 2"), ({"answers": [" a"]}, "each a token id")):
        with pytest.raises(BadInput, match=message):
            parse_prompt({**line, **change}, "p")
    with pytest.raises(BadInput, match="id 99999"):
        tokenise([parse_prompt({**line, "clean": [20, 99999, 22]}, "p")], model)
    with pytest.raises(BadInput, match="takes 2 to 64"):
        tokenise([parse_prompt({**line, "clean": [20] * 70, "corrupted": [20] * 70}, "p")], model)


def test_notes_say_what_a_reader_should_know() -> None:
    from dataclasses import replace

    model = tiny_model("gpt2")
    lines = [GOOD, {**GOOD, "corrupted": CLEAN, "roles": {}}]
    notes = " ".join(tokenise([parse_prompt(line, "p") for line in lines], replace(model, bos_id=None), "set").notes)
    assert "1 of 2 pairs have identical prompts" in notes
    assert "no BOS is fed" in notes
    assert "role S2 is not in every prompt" in notes


@given(st.text(min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_a_span_is_kept_or_refused(text: str, start: int, stop: int) -> None:
    line = {"clean": text, "corrupted": text, "answers": [" x"], "roles": {"r": [start, stop]}}
    if 0 <= start < stop <= len(text):
        assert parse_prompt(line, "p").roles["r"] == (start, stop)
    else:
        with pytest.raises(BadInput, match="role r"):
            parse_prompt(line, "p")


def test_files_and_callables(tmp_path: Path) -> None:
    assert len(read_prompts(written(tmp_path / "set.jsonl", pairs(3)))) == 3
    for text, message in (("", "holds no prompt"), ("{", "line 1 is no JSON"), ("[1]", "line 1 is a list")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(BadInput, match=message):
            read_prompts(str(tmp_path / "bad.jsonl"))
    with pytest.raises(BadInput, match="neither"):
        read_prompts(str(tmp_path / "none.jsonl"))
    source = (
        f"LINE = {GOOD!r}\ndef plain():\n    yield LINE\ndef with_model(model):\n    return [LINE] * model.n_layers\n"
    )
    (tmp_path / "make.py").write_text(source + "def empty():\n    return []\n")
    assert len(read_prompts(f"{tmp_path / 'make.py'}:plain")) == 1
    assert len(read_prompts(f"{tmp_path / 'make.py'}:with_model", tiny_model("gpt2"))) == 2
    for name, message in (("empty", "yielded no prompt"), ("other", "no callable 'other'")):
        with pytest.raises(BadInput, match=message):
            read_prompts(f"{tmp_path / 'make.py'}:{name}")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    with pytest.raises(BadInput, match="cannot be imported"):
        read_prompts(f"{tmp_path / 'broken.py'}:x")


def test_the_command_writes_a_tidy_table_pictures_and_json(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "set.jsonl", pairs(5))
    out = tmp_path / "out"
    words = [
        "patch",
        path,
        "--node",
        "z",
        "--by",
        "head-position",
        "--positions",
        "S2,END",
        "--metric",
        "logit_diff,kl",
    ]
    assert main([*words, "--out", str(out), "--top", "3"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    summary = json.loads(printed[-1])
    assert summary["metrics"]["logit_diff"]["cells"] == 16 and summary["metrics"]["logit_diff"]["tested"] == 12
    assert {Path(file).name for file in summary["files"]} == {
        "patch.csv", "patch.html", "patch_logit_diff.png", "patch_kl.png"
    }  # fmt: skip
    rows = list(csv.DictReader((out / "patch.csv").open(encoding="utf-8")))
    assert len(rows) == 32
    assert {row["metric"] for row in rows} == {"logit_diff", "kl"}
    for row in rows:
        no_path = row["layer"] == "1" and row["position"] == "S2"
        assert (row["mean"] == "") == no_path and (row["n"] == "0") == no_path
    top = summary["metrics"]["logit_diff"]["top"][0]
    first = next(row for row in rows if row["cell"] == top["cell"] and row["metric"] == "logit_diff")
    assert float(first["mean"]) == pytest.approx(top["mean"], abs=1e-5)
    html = (out / "patch.html").read_text(encoding="utf-8")
    assert "no causal path" in html and "<script" not in html and "http" not in html
    assert (out / "patch_kl.png").read_bytes().startswith(b"\x89PNG")


def test_paths_and_screens(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "set.jsonl", pairs(5))
    assert main(["patch", path, "--to", "logits", "--positions", "END"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["receivers"] == "final residual"
    assert main(["patch", path, "--to", "L1H0.k", "--positions", "S2", "--senders", "0.1+0.2,L0H3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one["cell"] for one in found["metrics"]["logit_diff"]["top"]} == {"L0H1+L0H2", "L0H3"}
    assert main(["patch", path, "--node", "mlp_out", "--screen", "2"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["metrics"]["logit_diff"]["cells"] == 2
    assert "strongest estimates" in captured.err


def test_without_a_wrong_answer_the_log_probability_is_read(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "set.jsonl", [{**line, "answers": line["answers"][:1]} for line in pairs(5)])
    assert main(["patch", path]) == 0
    assert list(json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]) == ["log_prob"]
    assert main(["patch", path, "--metric", "score"]) == 2
    assert "needs a wrong answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--node", "resid_pre", "--by", "head"], "has no heads"),
        (["--by", "head", "--positions", "S2"], "patches all positions"),
        (["--metric", "loss"], "--metric loss is unknown"),
        (["--metric", ","], "--metric  is unknown"),
        (["--top", "0"], "--top is 0"),
        (["--screen", "0"], "--screen is 0"),
        (["--senders", "0.1"], "for path patching"),
        (["--to", "logits", "--node", "z"], "not for path patching"),
        (["--to", "logits,L1H0.q"], "give logits, or receivers"),
        (["--to", "L1H0"], "no receiver"),
        (["--to", "L1H0.q", "--positions", "S2,END"], "one role"),
        (["--to", "logits", "--senders", "9"], "--senders"),
    ],
)
def test_wrong_options_are_told_before_a_model_is_loaded(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(command, "load", never)
    path = written(tmp_path / "set.jsonl", pairs(2))
    assert main(["patch", path, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_file_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load", lambda arguments: pytest.fail("the model was loaded"))
    path = written(tmp_path / "set.jsonl", [GOOD, {**GOOD, "answers": []}])
    assert main(["patch", path]) == 2
    assert "line 2" in capsys.readouterr().err


def test_the_score_of_a_set_that_says_nothing_is_refused(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "set.jsonl", [{**line, "corrupted": line["clean"]} for line in pairs(3)])
    assert main(["patch", path, "--metric", "score"]) == 2
    assert "would divide by 0" in capsys.readouterr().err
    assert main(["patch", path]) == 0
    assert "identical prompts" in capsys.readouterr().err


def test_the_names_of_the_options_are_those_of_the_engine() -> None:
    assert command.NODES == KINDS and command.HEAD_NODES == HEAD_NODES and command.METRICS == METRICS


def _table() -> CellTable:
    cells = [Cell(layer, head, place) for layer in range(2) for place in ("<b>", "END") for head in range(3)]
    values = np.tile(np.array([[1.0, 1.2]]), (12, 1)) * np.linspace(-1, 1, 12)[:, None]
    values[5] = np.nan
    return cell_table(cells, Effects("logit_diff", values), {"metric": "a&b", "set": "<script>"})


def test_the_page_escapes_and_shows_every_cell() -> None:
    html = page("t<i>", [_table()])
    assert "<script>" not in html and "<b>" not in html and "<i>" not in html
    assert html.count("<rect") == 12 and html.count('fill="url(#none)"') == 1
    first, second = panels(_table())
    assert first.values.shape == (2, 3) and np.isnan(second.values).sum() == 1
    assert colour(1.0, 1.0)[0] > colour(1.0, 1.0)[2] and colour(-1.0, 1.0)[2] > colour(-1.0, 1.0)[0]
    assert colour(0.0, 0.0) == colour(0.0, 1.0)


def test_the_picture_is_a_png_that_reads_back() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 5, 3)).astype(np.uint8)
    assert (_read(encode(pixels)) == pixels).all()
    drawn = _read(heat_map_png(_table()))
    assert drawn.shape[0] > 50 and drawn.shape[1] > 150
    assert len({tuple(one) for one in drawn.reshape(-1, 3)}) > 6


def _read(data: bytes) -> np.ndarray:
    """A PNG of filter 0 as pixels; its checksums must hold."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, size = 8, b"", (0, 0)
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        part = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + part)
        if kind == b"IHDR":
            size = struct.unpack(">II", part[:8])
        body += part if kind == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(size[1], -1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:].reshape(size[1], size[0], 3)
