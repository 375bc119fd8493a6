"""Classes of heads: the chain of definitions in a made-up model that has all, and the demo model, which has few."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autointerp.circuits.ablation import Ablation
from autointerp.circuits.backup import Backup
from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.measures import Effects
from autointerp.circuits.prompts import ContrastSet
from autointerp.records import Head
from autointerp.studies import ioi_classes
from autointerp.studies.ioi import _is_gpt2_small
from autointerp.studies.ioi_classes import CLASSES, classify
from autointerp.studies.ioi_data import IoiSpec, ioi_prompts, ioi_set
from autointerp.studies.ioi_trace import Stage, TraceSpec, role_attention, trace
from tests.circuit_helpers import demo, fillers

N, LAYERS, HEADS = 40, 6, 4
SPEC = TraceSpec()
# head: where it looks, as (destination, source): mean attention
LOOKING: dict[str, dict[tuple[str, str], float]] = {
    "L5H0": {("END", "IO"): 0.6}, "L5H1": {("END", "IO"): 0.5}, "L5H2": {("END", "S2"): 0.6, ("END", "IO"): 0.2},
    "L4H0": {("END", "S2"): 0.5}, "L4H1": {("END", "IO"): 0.5}, "L3H0": {("S2", "S1+1"): 0.4},
    "L3H1": {("S2", "S1"): 0.7}, "L3H2": {("S2", "S1"): 0.05}, "L1H0": {("S1+1", "S1"): 0.9},
    "L1H1": {("S1+1", "S1"): 0.3, ("S1+1", "S1+1"): 0.6},
}  # fmt: skip
# into, receivers, position: effects of senders
PATHS: dict[tuple[str, tuple[str, ...], str], dict[str, float]] = {
    ("q", ("L5H0",), "END"): {"L4H0": -1.0, "L4H1": -1.0},
    ("v", ("L4H0",), "S2"): {"L3H0": -0.8, "L3H1": -0.4, "L3H2": -0.4},
    ("k", ("L4H0",), "S2"): {"L3H0": -0.3, "L3H1": -0.6},
    ("k", ("L3H0",), "S1+1"): {"L1H0": -0.5, "L1H1": -0.5},
}


def effects_of(sizes: dict[str, float], position: str = "END") -> CellTable:
    rng = np.random.default_rng(0)
    cells = [Cell(layer, head, position) for layer in range(LAYERS) for head in range(HEADS)]
    means = np.array([sizes.get(str(Head(layer=c.layer, index=c.head)), 0.0) for c in cells])
    values = means[:, None] + 0.1 * rng.standard_normal((len(cells), N)) * (means[:, None] != 0)
    return cell_table(cells, Effects("logit_diff", values), {"clean": 3.0, "taken_out": "the movers"})


def stage(into: str, receivers: Sequence[str], position: str, sizes: dict[str, float]) -> Stage:
    order = sorted(sizes, key=lambda name: -abs(sizes[name]))
    helping, hurting = ([Head.parse(n) for n in order if sign * sizes[n] < 0] for sign in (1, -1))
    heads = tuple(Head.parse(name) for name in receivers)
    return Stage(into, heads, position, effects_of(sizes, position), tuple(helping), tuple(hurting))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...], str]]:
    """Replaces what runs a model; returns the paths that were asked for."""
    asked: list[tuple[str, tuple[str, ...], str]] = []

    def senders(model: object, prompts: object, spec: object, what: tuple[str, Sequence[Head], str]) -> Stage:
        key = (what[0], tuple(map(str, what[1])), what[2])
        asked.append(key)
        return stage(*key, PATHS.get(key, {}))

    def attention(model: object, prompts: object, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        found = np.zeros((len(pairs), LAYERS, HEADS, N))
        for name, looks in LOOKING.items():
            head = Head.parse(name)
            for number, pair in enumerate(pairs):
                found[number, head.layer, head.index] = looks.get(pair, 0.0)
        return found + 0.01 * np.random.default_rng(1).random(found.shape)

    def backup(model: object, prompts: object, nodes: Sequence[Any], ablation: object) -> Backup:
        asked.append(("backup", tuple(str(node.head) for node in nodes), "END"))
        before = np.zeros((LAYERS, HEADS))
        before[4, 3] = 10.0
        change = effects_of({"L5H3": 0.9, "L4H3": 1.0, "L2H2": 0.01, "L5H1": -0.4})
        return Backup(change, before, before, (3.0, 2.5), 0.1, 1.2)

    monkeypatch.setattr(ioi_classes, "find_senders", senders)
    monkeypatch.setattr(ioi_classes, "prompt_attention", attention)
    monkeypatch.setattr(ioi_classes, "backup_heads", backup)
    return asked


def made_up_set() -> ContrastSet:
    roles = {name: np.zeros(N, dtype=np.int64) for name in ("IO", "S1", "S1-1", "S1+1", "S2", "END")}
    return _Prompts(roles)  # type: ignore[return-value]


class _Prompts:
    def __init__(self, roles: dict[str, np.ndarray]) -> None:
        self.roles = roles

    def __len__(self) -> int:
        return N


def found_in(first: dict[str, float], *more: Stage) -> ioi_classes.Classes:
    nothing: Any = None
    return classify(nothing, made_up_set(), [stage("logits", (), "END", first), *more], nothing, SPEC)


def names(found: ioi_classes.Classes) -> dict[str, list[str]]:
    return {kind: [str(one.head) for one in found.of(kind)] for kind in CLASSES if found.of(kind)}


def test_every_class_by_its_path_and_where_it_looks(made_up: list[tuple[str, tuple[str, ...], str]]) -> None:
    found = found_in({"L5H0": -2.0, "L5H2": -1.0, "L5H1": 1.5})
    assert names(found) == {
        "name_mover": ["L5H0"], "negative_mover": ["L5H1"], "other_writer": ["L5H2"],  # L5H2 looks at S2
        "s_inhibition": ["L4H0"],  # L4H1 sends there and looks at IO
        "induction": ["L3H0"], "duplicate_token": ["L3H1"],  # L3H2 sends there and hardly looks
        "previous_token": ["L1H0"],  # L1H1 looks at itself
        "backup_mover": ["L5H3"],  # L4H3's rise is the norm's, L2H2's too small
    }  # fmt: skip
    assert found.none_found == () and found.notes == ()
    assert ("backup", ("L5H0",), "END") in made_up  # of the movers alone
    assert {key for key in made_up if key[0] != "backup"} == set(PATHS)
    duplicate = found.of("duplicate_token")[0]
    assert duplicate.evidence == "path to k of L4H0 at S2" and duplicate.looks_at == "S2 to S1"  # its stronger path
    assert duplicate.effect.value == pytest.approx(-0.6, abs=0.05) and duplicate.effect.n == N
    assert duplicate.effect.low < -0.55 < duplicate.effect.high + 0.1 and duplicate.attention is not None
    assert duplicate.attention.low <= duplicate.attention.value <= duplicate.attention.high


def test_without_movers_the_writers_take_their_place_and_it_is_said(
    made_up: list[tuple[str, tuple[str, ...], str]],
) -> None:
    found = found_in({"L5H2": -2.0})
    assert names(found)["other_writer"] == ["L5H2"] and "name_mover" in found.none_found
    assert found.of("other_writer")[0].looks_at == "END to S2"
    assert ("q", ("L5H2",), "END") in made_up and ("v", ("L5H2",), "S2") in made_up
    assert [note[:13] for note in found.notes] == ["no name mover", "no S-inhibiti"]
    assert "previous_token" in found.none_found and not any(key[2] == "S1+1" for key in made_up)


def test_a_path_that_was_traced_is_not_run_again(made_up: list[tuple[str, tuple[str, ...], str]]) -> None:
    known = stage("q", ("L5H0",), "END", PATHS["q", ("L5H0",), "END"])
    found = found_in({"L5H0": -2.0}, known)
    assert [str(one.head) for one in found.of("s_inhibition")] == ["L4H0"]
    assert ("q", ("L5H0",), "END") not in made_up


@pytest.mark.slow
def test_the_demo_model_writes_against_s_and_has_no_mover_by_the_definition() -> None:
    prompts = ioi_set(
        demo(), ioi_prompts(fillers(), IoiSpec(per_group=5, templates=(0, 1, 2, 3))), fillers(), "abc"
    )  # fmt: skip
    stages = trace(demo(), prompts)
    found = classify(demo(), prompts, stages, Ablation("template_mean", prompts), SPEC)
    attention = role_attention(demo(), prompts, ("IO", "S1", "S2", "END"))
    assert found.of("other_writer") and not found.of("name_mover")
    for one in found.of("other_writer"):
        row = attention[one.head.layer, one.head.index, 3, :3]
        assert one.looks_at == f"END to {('IO', 'S1', 'S2')[int(row.argmax())]}"
        assert one.attention is not None and one.attention.value == pytest.approx(row.max(), abs=1e-9)
        assert one.effect == stages[0].effect(one.head)
    duplicates = found.of("duplicate_token")
    assert duplicates
    sent = {head for stage in stages if stage.position == "S2" for head in stage.helping}
    for one in duplicates:
        to_io, to_s1 = attention[one.head.layer, one.head.index, 2, :2]
        assert one.head in sent and to_s1 > max(0.1, to_io) and one.effect.high < 0
    assert found.backup.logit_diff[1] < found.backup.logit_diff[0]


@pytest.mark.parametrize(
    ("name", "revision", "shape", "yes"),
    [
        ("gpt2", "607a30d", (768, 50257), True), ("openai-community/gpt2", "", (768, 50257), True),
        ("models/gpt2", "sha256:12", (768, 50257), True), ("someone/gpt2", "607a30d", (768, 50257), False),
        ("gpt2", "607a30d", (64, 50257), False), ("distilgpt2", "607a30d", (768, 50257), False),
    ],
)  # fmt: skip
def test_gpt2_small_is_known_by_name_and_shape(name: str, revision: str, shape: tuple[int, int], *, yes: bool) -> None:
    model: Any = SimpleNamespace(name=name, revision=revision, n_layers=12, n_heads=12, W_U=np.zeros(shape, dtype="i1"))
    assert _is_gpt2_small(model) == yes
