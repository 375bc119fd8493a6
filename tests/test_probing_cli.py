"""`autointerp probe`: train, save, apply; one clear error for each bad dataset and request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autointerp.cli import main
from autointerp.probing import check_items, read_items
from tests.run_helpers import save_model

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("probe")
    rows = [
        {
            "text": f"a {word} {noun} sat on it",
            "span": " it",
            "label": kind,
            "groups": {"lexeme": noun, "template": word},
        }
        for word in ("red", "blue", "old", "new", "and", "of")
        for noun, kind in zip(("cat", "dog", "park", "house"), ("animal", "animal", "place", "place"), strict=True)
    ]
    (root / "items.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    code = """import json
from pathlib import Path


def items():
    for line in Path(__file__).with_name("items.jsonl").open():
        yield json.loads(line)
"""
    (root / "made.py").write_text(code)
    return {"model": save_model(root / "model"), "items": root / "items.jsonl", "made": root / "made.py"}


def words_for(place: dict[str, Path], out: Path, *more: str) -> list[str]:
    return [
        "probe",
        str(place["items"]),
        "--model",
        str(place["model"]),
        "--out",
        str(out),
        "--controls",
        "light",
        *more,
    ]


@pytest.mark.slow
def test_the_command_trains_saves_and_applies(place: dict[str, Path], tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    assert main(words_for(place, out, "--head", "0.1", "--split", "template")) == 0
    said = capsys.readouterr().out
    for word in ("z L0H1", "majority", "shuffled\\_labels", "random\\_ov", "selectivity", "conclusion", "q"):
        assert word.replace("\\", "") in said.replace("\\", ""), word
    assert json.loads(said.strip().splitlines()[-1]) == {"n_sites": 1, "n_failed": 0, "folder": str(out)}
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "activations/z_L0H1.safetensors", "activations/z_L0H1.json", "probes/z_L0H1.safetensors",
        "probes/z_L0H1.json", "probes.csv", "probes.json",
    }  # fmt: skip
    assert json.loads((out / "probes.json").read_text())[0]["result"]["split"] == "template"
    assert (
        main(["probe", "--apply", str(out / "probes" / "z_L0H1"), "--text", "a red cat sat on it", "--at", "it"]) == 0
    )
    applied = capsys.readouterr().out
    assert '" it"' in applied and '"animal"' in applied
    assert main(["probe", "--apply", str(out / "probes" / "z_L0H1.json"), "--text", "a red cat", "--top", "1"]) == 0
    assert capsys.readouterr().out.count('"a red cat"') == 3


@pytest.mark.slow
def test_several_heads_are_adjusted_together_and_generators_are_read(
    place: dict[str, Path], tmp_path: Path, capsys: Said
) -> None:
    words = words_for(place, tmp_path / "run", "--heads", "0.0-0.1", "--split", "template", "--ablate", "1.0")
    words[1] = f"{place['made']}:items"
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 sites tested" in said
    facts = json.loads((tmp_path / "run" / "activations" / "z_L0H1.json").read_text())
    assert facts["items"][0]["ablate"] == ["L1H0"]


@pytest.mark.slow
def test_items_with_continuations_get_the_causal_check(place: dict[str, Path], tmp_path: Path, capsys: Said) -> None:
    rows = [json.loads(line) for line in place["items"].read_text().splitlines()]
    named = [r | {"correct": f" {r['groups']['lexeme']}", "incorrect": " ball"} for r in rows]
    path = tmp_path / "told.jsonl"
    path.write_text("\n".join(map(json.dumps, named)))
    words = words_for(place, tmp_path / "run", "--site", "resid_pre", "--layer", "1", "--split", "template")
    words[1] = str(path)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "causal check" in said and "label subspace" in said
    assert json.loads((tmp_path / "run" / "causal.json").read_text())["rank"] == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows: [r | {"label": "x"} for r in rows], "two classes"),
        (lambda rows: [r | {"groups": {"template": "t"}} for r in rows], "of one template"),
        (lambda rows: [r | {"span": " zebra"} for r in rows], "not in the text"),
        (lambda rows: [{k: v for k, v in r.items() if k != "label"} for r in rows], "no label"),
        (lambda rows: [{k: v for k, v in r.items() if k != "groups"} for r in rows], "no group"),
        (lambda rows: [{k: v for k, v in r.items() if k != "span"} for r in rows], "neither span and position"),
        (lambda rows: [{k: v for k, v in r.items() if k != "text"} for r in rows], "no text"),
        (lambda rows: [r | {"layer": 1} for r in rows], "unknown key 'layer'"),
        (lambda rows: [r | {"ablate": ["nine"]} for r in rows], "ablate and cut"),
        (lambda rows: [r | {"span": [1, 2, 3]} for r in rows], "neither a string"),
        (lambda rows: [r | {"groups": ["t"]} for r in rows], "groups is"),
        (lambda rows: [[1, 2]], "not an object"),
        (lambda rows: [], "no items"),
    ],
)
def test_a_bad_dataset_stops_before_the_model_is_loaded(
    place: dict[str, Path], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, change: Any, match: str
) -> None:
    monkeypatch.setattr("autointerp.model.load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    rows = [json.loads(line) for line in place["items"].read_text().splitlines()]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, change(rows))))
    assert main(["probe", str(path), "--head", "0.0", "--split", "template"]) == 2
    said = capsys.readouterr().err
    assert match in said and "Traceback" not in said and len(said.strip().splitlines()) <= 3, said


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["probe"], "no dataset"),
        (["probe", "none.jsonl", "--head", "0.0"], "no file"),
        (["probe", "ITEMS"], "--head L5H1 or --heads"),
        (["probe", "ITEMS", "--head", "0.0", "--heads", "all"], "either"),
        (["probe", "ITEMS", "--site", "resid_pre"], "--layer N"),
        (["probe", "ITEMS", "--head", "0.0"], "Say which to hold out"),
        (["probe", "ITEMS", "--head", "0.0", "--split", "speaker"], "no group 'speaker'"),
        (["probe", "none.py:items", "--head", "0.0"], "cannot be imported"),
        (["probe", "MADE:nothing", "--head", "0.0"], "no callable"),
        (["probe", "MADE", "--head", "0.0"], "name its generator"),
        (["probe", "--apply", "nowhere"], "--text"),
        (["probe", "--apply", "nowhere", "--text", "a"], "cannot be read"),
    ],
)
def test_wrong_requests(place: dict[str, Path], capsys: Said, words: list[str], match: str) -> None:
    named = {"ITEMS": str(place["items"]), "MADE": str(place["made"])}
    given = [named.get(w, w.replace("MADE", named["MADE"])) for w in words]
    assert main(given) == 2
    assert match in capsys.readouterr().err


def test_the_example_yields_its_items() -> None:
    path = Path(__file__).parent.parent / "docs" / "examples" / "it_probe.py"
    items = read_items(f"{path}:items")
    check_items(items, "template")
    assert len(items) == 388 and len({i.label for i in items}) == 97
    assert len({i.groups["template"] for i in read_items(f"{path}:eight")}) == 8
