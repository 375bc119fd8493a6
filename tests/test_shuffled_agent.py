"""`--agent rounds=N,shuffled` answers each unit with experiments on another one: there must be another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import BadInput
from autointerp.pipeline.agents import shuffled
from autointerp.records import Feature, Head
from tests.run_helpers import asking_config, lines_of, run_here, save_corpus, save_model
from tests.servers import MisbehavingServer
from tests.test_feature_job import run_units


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("shuffled")
    return save_model(root / "model"), save_corpus(root / "corpus.txt")


@pytest.mark.parametrize(
    ("run", "given", "more"),
    [
        (run_here, {"heads": "0.0", "lenses": ("none",)}, {}),
        (run_here, {"heads": "0.0", "lenses": ("none",)}, {"dry_run": True}),
        (run_units, {"units": "neurons:L0N2"}, {}),
    ],
)
def test_a_single_unit_has_no_other_one(
    places: tuple[Path, Path], tmp_path: Path, run: Any, given: dict[str, Any], more: dict[str, Any]
) -> None:
    out = tmp_path / "runs" / "run"
    config = asking_config(*places, agent="rounds=1,shuffled", scorers=("predicate",), **given)
    with MisbehavingServer() as server, pytest.raises(BadInput, match=r"only L0\w\d is studied. Select two or more"):
        run(config, out, base_url=server.base_url, **more)
    asked = lines_of(out / "calls.jsonl") if (out / "calls.jsonl").exists() else []
    assert {line["purpose"] for line in asked} <= {"probe"}


@pytest.mark.parametrize("n", [2, 3, 4, 7, 40])
def test_everyone_s_donor_is_another_one(n: int) -> None:
    heads = [Head(layer=0, index=index) for index in range(n)]
    donors = shuffled(heads)
    assert set(donors) == set(donors.values()) == set(heads)
    assert all(unit != donor for unit, donor in donors.items())


def test_without_any_unit_there_is_nothing_to_refuse() -> None:
    nothing: list[Feature] = []
    assert shuffled(nothing) == {}
