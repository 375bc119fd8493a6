"""What a user reads when a file of a run or an autoencoder is not as it has to be, and how models are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit_evidence import STATS, UNIT, unit_evidence

from autointerp.cli.sources import without_demo_folder
from autointerp.demo.model import weights_folder
from autointerp.errors import RunFolderError
from autointerp.feature_records import FeatureEvidence, FeatureStats
from autointerp.pipeline.describing import DESCRIPTIONS, stored_descriptions
from autointerp.pipeline.feature_collecting import EVIDENCE, TABLE, feature_evidence_of
from autointerp.records import Head
from autointerp.sae.settings import read_settings
from autointerp.store import REMOVE_FILE, RunFolder, read_as


def test_a_line_of_another_shape_is_one_error_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "features.jsonl"
    good = STATS.model_dump_json()
    path.write_text(f"{good}\n\n" + good.replace('"n_rows":1000', '"n_rows":"many"') + "\n")
    with pytest.raises(RunFolderError) as error:
        read_as(path, FeatureStats, REMOVE_FILE)
    said = str(error.value)
    assert said.startswith(f"{path} line 3 is not as this version writes it (n_rows: ") and said.endswith(REMOVE_FILE)
    assert "\n" not in said and "https" not in said
    path.write_text(f"{good}\n" + good.replace("n_docs", "documents") + "\n")
    with pytest.raises(RunFolderError, match=r"line 2 .*n_docs.*Remove that line"):
        read_as(path, FeatureStats)


def test_records_are_read_as_they_were_written_without_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert read_as(path, FeatureStats) == []
    path.write_text(f'{STATS.model_dump_json()}\n{STATS.model_dump_json()}\n{{"n_rows": 1')
    assert read_as(path, FeatureStats) == [STATS, STATS]


def test_descriptions_and_evidence_of_another_version_say_how_to_go_on(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        (tmp_path / "cache").mkdir()
        run.append(DESCRIPTIONS, {"head": {"layer": 1, "index": 2}})
        with pytest.raises(RunFolderError, match=r"descriptions.jsonl line 1 .*Remove that line"):
            stored_descriptions(run, Head, retry_failed=False)
    evidence = unit_evidence()
    (tmp_path / EVIDENCE).write_text(evidence.model_dump_json() + "\n")
    assert feature_evidence_of(tmp_path, UNIT) == FeatureEvidence.model_validate(json.loads(evidence.model_dump_json()))
    (tmp_path / EVIDENCE).write_text('{"unit": "L1N2"}\n')
    with pytest.raises(RunFolderError, match=f"line 1 .*{TABLE}"):
        feature_evidence_of(tmp_path, UNIT)


def test_settings_of_an_autoencoder_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "cfg.json"
    given = {"architecture": "standard", "d_in": 4, "d_sae": 8, "hook_name": "blocks.1.hook_resid_post"}
    path.write_text(json.dumps(given), encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert read_settings(path).d_sae == 8


def test_errors_name_the_demo_model_and_not_its_folder() -> None:
    folder = weights_folder()
    assert without_demo_folder(f"layer 9 is not there; {folder} has layers 0 to 3.") == (
        "layer 9 is not there; the demo model has layers 0 to 3."
    )
    for said in (f"--model {folder} has no weights", f"{folder}/config.json is torn", f"model {str(folder)!r} broke"):
        assert without_demo_folder(said) == said  # where the folder is what has to be looked at
