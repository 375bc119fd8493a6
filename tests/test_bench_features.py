"""`bench planted --units features`: grading by hand, the key on test text, tables and the last line; the whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autointerp.cli.main import main
from autointerp.config import RunConfig
from autointerp.feature_records import FeatureEvidence, FeatureReport, FeatureStats
from autointerp.pipeline.bench_features import feature_sources, neuron_key, planted_feature_f1
from autointerp.pipeline.bench_features_report import SUMMARY, feature_labels, features_result
from autointerp.pipeline.bench_metrics import GradedHead
from autointerp.pipeline.bench_planted import graded as graded_report
from autointerp.pipeline.inputs import load_inputs
from autointerp.planted.features import PlantedFeatures
from autointerp.planted.heads import Truth
from autointerp.planted.neurons import KINDS, NEURONS
from autointerp.records import Description, Feature, Interval, Judgement, Provenance

NAN = float("nan")
LOUD, QUIET = Interval(value=0.1, low=0.05, high=0.2, n=9), Interval(value=0.0, low=0.0, high=0.0, n=9)
CONTRACT = {"label_macro_f1", "label_macro_f1_low", "predicate_f1", "false_supported", "abstained_on_noise", "n_units"}


def unit(kind: str, said: str = "", verdict: str = "partly", seed: int = 0, **more: Any) -> GradedHead:
    """A unit of a kind with the label that was said of it; none: abstained."""
    planted = {"token": ("token",), "token_set": ("token_set",), "token_pair": ("token_pair",),
               "either": ("token", "token_pair"), "unread_output": ("token",)}.get(kind, ())  # fmt: skip
    base = GradedHead(
        seed=seed, head=Feature(kind="neuron", layer=0, index=3), kind=kind, planted=planted, allowed=(),
        matters=kind in ("token", "token_set", "token_pair", "either", "mix"), said=(said,) if said else (),
        status="described" if said else "abstained", verdict=verdict if said else "unscored",  # type: ignore[arg-type]
        confidence=0.9 if said else NAN, true_f1=1.0 if planted else NAN, said_f1=NAN, kl=LOUD,
        true_predicate="dst.is_word" if planted else "",
    )  # fmt: skip
    return replace(base, **more)


def measured(units: list[GradedHead]) -> dict[str, float]:
    return {name: measure(units) for name, measure in SUMMARY.items()}


# -- grading -------------------------------------------------------------------------------------------------


def test_labels_of_token_set_and_pair_units_by_hand() -> None:
    units = [
        unit("token", "token"), unit("token", "token_set"), unit("token_set", "token_set"), unit("token_set"),
        unit("token_pair", "token_pair"), unit("noise", "token_pair"), unit("noise", "position"), unit("noise"),
        unit("either", "token"), unit("mix", "token_set"), unit("dead", "token"),
    ]  # fmt: skip
    found = feature_labels(units)
    assert found["token"] == (pytest.approx(2 / 3), 1, 0, 1)
    assert found["token_set"] == (pytest.approx(2 / 4), 1, 1, 1)
    assert found["token_pair"] == (pytest.approx(2 / 3), 1, 1, 0)  # a name for noise is a false alarm
    assert measured(units)["label_macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)


def test_support_is_false_for_what_is_idle_noise_or_wrong() -> None:
    units = [
        unit("token", "token", "supported"),
        unit("token", "token_pair", "supported"),
        unit("noise", "token_set", "supported", matters=False),
        unit("unread_output", "token", "supported"),
        unit("unread_output", "token", "partly"),
        unit("mix", "token_set", "supported"),
        unit("mix", "token_set", "partly"),
        unit("either", "token_pair", "supported"),
    ]
    assert [u.falsely_supported for u in units] == [False, True, True, True, False, True, False, False]
    assert measured(units)["false_supported"] == 4
    assert measured(units)["mix_not_supported"] == 0.5


def test_summary_numbers_by_hand() -> None:
    units = [
        unit("token", "token", "supported"), unit("token_set", "token_set", "partly"), unit("noise"),
        unit("noise", "token", "refuted", matters=False), unit("unread_output", "token", kl=QUIET),
        unit("dead"), unit("dense", "token", matters=False), unit("token_pair", "token_pair", true_f1=0.7, kl=QUIET),
    ]  # fmt: skip
    found = measured(units)
    assert found["abstained_on_noise"] == 0.5
    assert found["dead_and_dense_left_out"] == 0.5
    assert found["predicate_f1"] == pytest.approx((1 + 1 + 1 + 0.7) / 4)
    assert found["causal_accuracy"] == pytest.approx(3 / 4)
    assert found["supported_of_right"] == pytest.approx(1 / 3)
    assert found["label_accuracy"] == 1.0


def report(feature: Feature, description: Description | None, **stats: Any) -> FeatureReport:
    """A report of which only what is graded is real."""
    numbers: dict[str, Any] = {
        "n_rows": 10, "n_docs": 5, "density": 0.1, "active_share": LOUD, "sign": 1, "reference": 1.0, "maximum": 1.0,
        "mean": 0.1, "quantiles": (0.0,) * 7, "state": "ok", **stats,
    }  # fmt: skip
    evidence = FeatureEvidence(unit=feature, stats=FeatureStats(**numbers), rules=(), readout=None, examples=())
    return FeatureReport(
        unit=feature, status="described" if description else "failed", evidence=evidence, description=description,
        failures=(), provenance=Provenance(explainer="detectors"), scores=(), unscored=(),
        judgement=Judgement(verdict="unscored", reason="no scorer"), ablation_loss=QUIET, ablation_kl=QUIET,
    )  # fmt: skip


def test_the_first_label_of_a_unit_is_its_answer() -> None:
    """The detectors list the labels of all rules that hold somewhere; these are no claims."""
    description = Description(
        summary="s", looks_at="l", writes="w", label="token", labels=("token", "token_pair", "context"), confidence=0.8
    )
    feature = Feature(kind="neuron", layer=1, index=2)
    truth = Truth("token", ("token",), "dst.is_word")
    found = graded_report(4, report(feature, description), truth, {feature: 0.9})
    assert (found.seed, found.head, found.said, found.true_f1) == (4, feature, ("token",), 0.9)
    assert found.right
    assert found.complete
    assert graded_report(4, report(feature, None), truth, {}).status == "failed"


def test_the_result_has_the_keys_that_are_read(tmp_path: Path) -> None:
    units = [unit(kind, kind, seed=seed) for kind in ("token", "token_set", "token_pair") for seed in (0, 1)]
    units.append(unit("noise", head=Feature(kind="latent", layer=1, index=700)))
    result = features_result(units, "detectors")
    assert set(json.loads(result.last_line())) == CONTRACT
    result.write(tmp_path)
    full = json.loads((tmp_path / "bench.json").read_text())
    assert full["n_units"] == len(full["units"]) == 7
    assert full["units"][6]["unit"] == "L1F700"
    assert full["label_macro_f1"] == 1.0
    assert set(full["labels"]) == {"token", "token_set", "token_pair"}
    page = (tmp_path / "bench.html").read_text()
    assert "noise (latent)" in page
    assert "token (neuron)" in page
    assert "head" not in " ".join(t.title + t.note for t in result.tables)


# -- the key on test text ------------------------------------------------------------------------------------


def test_the_planted_rules_hold_on_test_text(tmp_path: Path) -> None:
    seed = 1
    sources = feature_sources(seed)
    config = RunConfig(model=sources.model, corpus=("planted",), max_tokens=4000, context=96)
    inputs = load_inputs(config, sources, tmp_path)
    truths = neuron_key(seed)
    assert len(truths) == sum(KINDS.values())
    neurons = PlantedFeatures.of(seed).neurons
    reports = [report(f, None, reference=neurons[f.layer * NEURONS + f.index].gain) for f in truths]
    found = planted_feature_f1(inputs, "neurons", reports, truths, 8)
    assert set(found) == {f for f, truth in truths.items() if truth.predicate is not None}
    known = [value for value in found.values() if not np.isnan(value)]
    assert len(known) > 0.8 * len(found)  # so short a text may not hold the rest
    assert min(known) > 0.99
    other = {f: replace(t, predicate="dst.is_capitalised") if t.predicate else t for f, t in truths.items()}
    assert np.nanmean(list(planted_feature_f1(inputs, "neurons", reports, other, 8).values())) < 0.5


# -- command line --------------------------------------------------------------------------------------------


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "planted", "--units", "features", "--seeds", "x", "--explainer", "detectors"]) == 2
    assert "--seeds" in capsys.readouterr().err
    assert main(["bench", "planted", "--units", "features", "--scorers", "pointing"]) == 2
    assert "--scorers" in capsys.readouterr().err  # heads have it, neurons have not
    with pytest.raises(SystemExit):
        main(["bench", "planted", "--units", "neurons"])


@pytest.mark.acceptance
@pytest.mark.slow
def test_the_benchmark_runs_to_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--units", "features", "--seeds", "3", "--explainer", "detectors", "--out", str(tmp_path)]
    assert main(["bench", "planted", *options]) == 0
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(line) == CONTRACT
    assert line["label_macro_f1"] >= 0.9
    assert line["predicate_f1"] >= 0.95
    assert line["false_supported"] == 0
    assert line["n_units"] == 73
    assert (tmp_path / "seed-3" / "neurons" / "report.html").exists()
    assert (tmp_path / "seed-3" / "latents" / "features.csv").exists()
