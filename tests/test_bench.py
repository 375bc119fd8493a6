"""Grading of descriptions against a key, nonsense and who may lend it, tables and page; the benchmark's commands."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autointerp.cli.main import main
from autointerp.pipeline import bench_nonsense
from autointerp.pipeline.bench_controls import passed_shares, worst
from autointerp.pipeline.bench_metrics import (
    CLASSES,
    SUMMARY,
    GradedHead,
    calibration,
    calibration_error,
    false_supported,
    label_scores,
    macro_f1,
    with_interval,
)
from autointerp.pipeline.bench_nonsense import BROAD, VAGUE, Claim, Judged, Known, judge_claims, nonsense_claims
from autointerp.pipeline.bench_report import controls_result, planted_result
from autointerp.predicate import parse
from autointerp.records import Head, Interval
from autointerp.report.bench import Bar, BenchTable, bench_page
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.suite import HeldOut, SuiteSpec
from autointerp.stats.bootstrap import clopper_pearson
from tests.tiny_models import tiny_model

NAN = float("nan")


def graded(planted: str = "induction", said: str = "induction", seed: int = 0, **more: Any) -> GradedHead:
    """A head; labels separated by spaces."""
    labels = tuple(said.split())
    base = GradedHead(
        seed=seed, head=Head(layer=1, index=2), kind="any", planted=tuple(planted.split()), allowed=(), matters=True,
        said=labels, status="described" if labels and labels != ("unclear",) else "abstained", verdict="partly",
        confidence=0.7, true_f1=0.9, said_f1=0.8, kl=Interval(value=0.1, low=0.05, high=0.2, n=9),
    )  # fmt: skip
    return replace(base, **more)


# -- grading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "allowed", "said", "named", "right", "complete"),
    [
        ("induction", "", "induction", "induction", True, True),
        ("induction", "copying", "induction copying", "induction", True, True),
        ("induction", "", "induction copying", "induction copying", True, False),
        ("copying", "token_class", "token_class name_mover", "copying", True, True),
        ("copying", "token_class", "token_class", "", True, False),
        ("previous_token", "", "induction", "induction", False, False),
        ("previous_token", "", "previous_token first_token", "previous_token", True, True),
        ("previous_token", "", "first_token previous_token", "first_token previous_token", False, False),
        ("previous_token duplicate_token", "", "duplicate_token", "duplicate_token", True, False),
        ("previous_token duplicate_token", "", "duplicate_token previous_token", "previous_token duplicate_token",
         True, True),
        ("", "", "unclear", "", True, True),
        ("", "", "induction", "induction", False, False),
        ("induction", "", "", "", False, False),
    ],
)  # fmt: skip
def test_labels_are_graded(planted: str, allowed: str, said: str, named: str, right: bool, complete: bool) -> None:
    head = graded(planted, said, allowed=tuple(allowed.split()))
    assert head.named == frozenset(named.split())
    assert (head.right, head.complete) == (right, complete)


def test_a_failed_head_is_no_abstention() -> None:
    assert not graded("", "", status="failed").abstained
    assert graded("", "", status="abstained").abstained


def test_macro_f1_by_hand() -> None:
    heads = [graded(), graded(), graded(said="previous_token"), graded("copying", "induction copying")]
    scores = label_scores(heads)
    assert scores["induction"] == (pytest.approx(2 * 2 / (2 * 2 + 1 + 1)), 2, 1, 1)
    assert scores["previous_token"] == (0.0, 0, 1, 0)
    assert scores["copying"] == (1.0, 1, 0, 0)
    assert math.isnan(scores["successor"][0])
    assert macro_f1(heads) == pytest.approx((4 / 6 + 0 + 1) / 3)
    assert set(scores) == set(CLASSES)


def test_support_is_false_for_idle_heads_and_wrong_labels() -> None:
    heads = [
        graded(verdict="supported"),
        graded(verdict="supported", matters=False),
        graded(said="successor", verdict="supported"),
        graded(said="successor", verdict="partly"),
        graded("", "induction", matters=False, verdict="supported"),
    ]
    assert [h.falsely_supported for h in heads] == [False, True, True, False, True]
    assert false_supported(heads) == 3


def test_summary_numbers_by_hand() -> None:
    quiet = Interval(value=0.0, low=0.0, high=0.0, n=9)
    heads = [graded(true_predicate="distance == 1", verdict="supported"), graded(true_f1=0.7, matters=False),
             graded(true_f1=NAN, matters=False, kl=quiet), graded("", "unclear", true_f1=NAN, matters=False),
             graded("", "copying", true_f1=NAN, matters=False)]  # fmt: skip
    found = {name: measure(heads) for name, measure in SUMMARY.items()}
    assert found["predicate_f1"] == pytest.approx(0.8)
    assert found["causal_accuracy"] == pytest.approx(2 / 3)  # the second head moves predictions but should not
    assert found["abstained_on_noise"] == 0.5
    assert found["label_accuracy"] == pytest.approx(4 / 5)
    assert found["supported_of_right"] == 1.0


def test_intervals_hold_the_value_and_widen_with_seeds_that_differ() -> None:
    alike = [graded(seed=s, said="induction" if k < 8 else "copying") for s in range(3) for k in range(10)]
    apart = [graded(seed=s, said="induction" if s < 2 else "copying") for s in range(3) for k in range(10)]
    both = [with_interval(heads, SUMMARY["label_accuracy"]) for heads in (alike, apart)]
    assert all(i.low <= i.value <= i.high for i in both)
    assert both[1].high - both[1].low > 2 * (both[0].high - both[0].low)
    assert with_interval(alike, macro_f1) == with_interval(alike, macro_f1)
    assert with_interval([graded()], macro_f1).low == 1


def test_calibration_by_hand() -> None:
    heads = [graded(confidence=0.9), graded(confidence=1.0), graded(said="copying", confidence=0.95),
             graded(confidence=0.3), graded("", "unclear", confidence=0.0)]  # fmt: skip
    rows = calibration(heads)
    assert rows[0] == ("0.2 to 0.4", 1, 0.3, 1.0)
    assert rows[1] == ("0.8 to 1.0", 3, pytest.approx(0.95), pytest.approx(2 / 3))
    assert calibration_error(heads) == pytest.approx((0.7 + 3 * (0.95 - 2 / 3)) / 4)
    assert math.isnan(calibration_error([graded("", "unclear")]))


# -- nonsense ------------------------------------------------------------------------------------------------


def rows(split: str, n: int = 36, size: int = 24) -> HeldOutRows:
    generator = np.random.default_rng(len(split))
    model = tiny_model()
    ids = generator.integers(110, len(model.strings), (n, size))
    ids[:, 0] = model.bos_id or 0
    found = text_rows(ids, np.full(n, size), np.arange(n), "test", model.special_ids)
    return replace(found, split="select" if split == "select" else "test")


@pytest.fixture(scope="module")
def spec() -> SuiteSpec:
    model = tiny_model()
    held_out = HeldOut({"text": rows("select")}, {"text": rows("test")})
    z = np.zeros((model.n_layers, model.n_heads, model.W_V(0).shape[-1]))
    return SuiteSpec(model, held_out, held_out.test, z, 0)


HEADS = [Head(layer=n, index=h) for n in range(2) for h in range(4)]
RULES = ("distance == 1", "distance == 1 and src.position > 0", "distance == 2", "distance == 3", "src == dst",
         "distance == 4", "distance == 5", None)  # fmt: skip


def known() -> dict[Head, Known]:
    return {
        head: Known(f"label {n}", rule, "text", frozenset({f"label {n}"}))
        for n, (head, rule) in enumerate(zip(HEADS, RULES, strict=True))
    }


def test_every_rule_of_nonsense_parses() -> None:
    for rule in (*VAGUE.values(), *BROAD.values()):
        assert parse(rule)


def test_twins_and_heads_of_the_same_function_lend_nothing(spec: SuiteSpec) -> None:
    found = known()
    found[HEADS[2]] = replace(found[HEADS[2]], true_labels=frozenset({"label 3"}), true_predicate="distance == 4")
    lent: dict[Head, set[str]] = {head: set() for head in HEADS}
    for seed in range(20):
        for claim in nonsense_claims(replace(spec, seed=seed), HEADS, found):
            if claim.kind == "shuffled":
                lent[claim.head].add(claim.predicate)
    assert not {"distance == 1", "distance == 1 and src.position > 0"} & lent[HEADS[0]]  # itself and its twin
    assert lent[HEADS[0]] == {"distance == 2", "distance == 3", "src == dst", "distance == 4", "distance == 5"}
    assert not {"distance == 2", "distance == 3", "distance == 4"} & lent[HEADS[2]]  # its labels and its true rule
    assert "distance == 1" in lent[HEADS[7]]  # a head without a description borrows from all


def test_own_description_is_never_lent() -> None:
    with pytest.raises(ValueError, match="its own description"):
        bench_nonsense._assert_other(HEADS[0], HEADS[0])


def test_claims_are_counted_and_the_same_again(spec: SuiteSpec) -> None:
    claims = nonsense_claims(spec, HEADS, known())
    assert claims == nonsense_claims(spec, HEADS, known())
    kinds = [claim.kind for claim in claims]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"shuffled": 24, "vague": 16, "over-broad": 8}


def test_nonsense_about_random_attention_does_not_pass(spec: SuiteSpec) -> None:
    """Each claim gets a verdict; a random head can lean to one place, so that a few loose rules may be true of it."""
    real = [rule for rule in RULES if rule is not None]
    claims = [Claim(head, "any", name, rule) for head in HEADS for name, rule in (*VAGUE.items(), *BROAD.items())]
    judged = judge_claims(spec, claims, real)
    assert sorted(str(j.claim) for j in judged) == sorted(map(str, claims))
    assert sum(j.verdict == "supported" for j in judged) <= 0.05 * len(judged)
    assert sum(j.verdict == "refuted" for j in judged) > 0.5 * len(judged)


def judged(kind: str, verdict: str, score: float = 0.5) -> Judged:
    return Judged(Claim(HEADS[0], kind, "a <b> | name", "distance == 1"), verdict, "why", score, 0.4)  # type: ignore[arg-type]


def test_shares_that_passed() -> None:
    found = [judged("shuffled", "supported"), judged("shuffled", "refuted"), judged("vague", "unscored", NAN)]
    whole, *kinds = passed_shares(found)
    assert (whole.passed, whole.n, whole.interval) == (1, 3, clopper_pearson(1, 3))
    assert [(s.kind, s.passed, s.n) for s in kinds] == [("shuffled", 1, 2), ("vague", 0, 1)]
    assert worst(found) == found[:1]


# -- tables, page, files -------------------------------------------------------------------------------------

CONTRACT = {"label_macro_f1", "label_macro_f1_low", "predicate_f1", "false_supported", "abstained_on_noise", "n_heads"}


def test_the_planted_result_has_the_keys_that_are_read(tmp_path: Path) -> None:
    heads = [graded(seed=s, reason="<script>alert(1)</script>") for s in range(3)]
    heads.append(graded("", "unclear", seed=1, matters=False, true_f1=NAN, said_f1=NAN))
    result = planted_result(heads, "detectors")
    assert set(json.loads(result.last_line())) == CONTRACT
    result.write(tmp_path)
    full = json.loads((tmp_path / "bench.json").read_text())
    assert full["n_heads"] == 4
    assert full["heads"][3]["true_f1"] is None
    assert full["labels"]["successor"]["f1"] is None
    assert set(full["by_seed"]) == {"0", "1", "2"}
    assert full["summary"]["label_macro_f1"]["n"] == 4
    page = (tmp_path / "bench.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)


def test_the_controls_result_has_the_keys_that_are_read(tmp_path: Path) -> None:
    result = controls_result([judged("vague", "supported"), judged("vague", "partly")], [0], "detectors")
    line = json.loads(result.last_line())
    assert line == {"passed_share": 0.5, "passed_share_high": clopper_pearson(1, 2)[1], "n": 2}
    result.write(tmp_path)
    assert "a &lt;b&gt; | name" in (tmp_path / "bench.html").read_text()
    assert json.loads((tmp_path / "bench.json").read_text())["by_kind"]["vague"]["partly"] == 1


def test_a_table_survives_what_stands_in_its_cells() -> None:
    table = BenchTable("T", "n", ("a", "b", "c"), (("x|y", Bar(0.5, 0.25, 1.0), NAN), ("</td>", 0.12345, None)))
    text = table.to_markdown()
    assert r"x\|y" in text
    assert "0.5 (0.25 to 1)" in text
    assert "0.123" in text
    assert text.count("\n| ") == 3
    page = bench_page("a & b", "", [table])
    assert "a &amp; b" in page
    assert "&lt;/td&gt;" in page
    assert "left:25.0%;width:75.0%" in page


# -- command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", ["", "a", "1,-2", "0.5"])
def test_seeds_that_are_none_are_refused(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "planted", "--seeds", seeds, "--explainer", "detectors"]) == 2
    assert "--seeds" in capsys.readouterr().err


@pytest.mark.acceptance
@pytest.mark.slow
def test_the_benchmarks_run_to_their_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seeds", "3", "--explainer", "detectors", "--scorers", "predicate,ablation", "--out", str(tmp_path)]
    assert main(["bench", "planted", *options]) == 0
    planted = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(planted) == CONTRACT
    assert planted["label_macro_f1"] >= 0.95
    assert planted["predicate_f1"] >= 0.95
    assert (planted["false_supported"], planted["abstained_on_noise"]) == (0, 1.0)
    assert main(["bench", "controls", *options]) == 0
    controls = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert controls["n"] >= 200
    assert controls["passed_share"] <= 0.05
    assert (tmp_path / "bench.json").exists()
    assert (tmp_path / "seed-3" / "report.html").exists()
