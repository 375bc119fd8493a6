"""What learned nothing gains nothing: the null of every head, and the whole pipeline on random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny_models import planted, uniform
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model import LanguageModel
from autointerp.pipeline import Sources, load_inputs
from autointerp.pipeline import random_control as module
from autointerp.pipeline.held_out import held_out_rows
from autointerp.pipeline.random_control import FILE, RandomControl, RandomWeights, drawn_heads, few_windows
from autointerp.predicate import TokenTable
from autointerp.records import Control, Description, Head, Score, Unscored
from autointerp.report import write_reports
from autointerp.report.folder import read_json
from autointerp.scoring import random_weights
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicates import PredicateScorers, PredicateSpec
from autointerp.scoring.random_weights import MISSING, RANDOM, Twin, random_control, twin_of
from autointerp.scoring.verdict import judge
from autointerp.stats.bootstrap import clopper_pearson
from autointerp.store import RunFolder
from tests.report_fixtures import write_run
from tests.run_helpers import config_for, run_here, save_corpus, save_model
from tests.test_report import reports
from tests.test_scoring import claim, effect, rows_of
from tests.tiny_models import tiny_model

HEAD = Head(layer=1, index=0)


def previous(ids: Tensor) -> Tensor:
    """Every head looks one token back."""
    attention = uniform(len(ids)).repeat(4, 1, 1) * 0
    for dst in range(len(ids)):
        attention[:, dst, max(0, dst - 1)] = 1
    return attention


def spread(ids: Tensor) -> Tensor:
    return uniform(len(ids)).repeat(4, 1, 1)


def rests(ids: Tensor) -> Tensor:
    attention = uniform(len(ids)).repeat(4, 1, 1) * 0
    attention[:, :, 0] = 1
    return attention


LEARNED, RANDOMLY, RESTING = planted(previous), planted(spread), planted(rests)


def scored(model: LanguageModel, twin: Twin | None, said: Description, rows: HeldOutRows | None = None) -> Score:
    select, test = rows_of(model, n=80, size=60, seed=1), rows_of(model, n=80, size=60, seed=2)
    table = TokenTable.from_strings(model.strings, model.special_ids)
    spec = PredicateSpec(model, select, rows or test, table, None, 0, 8, twin)
    found = PredicateScorers(spec, lambda *_: None).score({HEAD: said}, {})[HEAD]
    assert isinstance(found, Score)
    return found


def null_of(score: Score) -> Control:
    return next(control for control in score.controls if control.name == RANDOM)


# -- the null of a head --------------------------------------------------------------------------------------


def test_what_was_learned_beats_the_same_words_on_random_weights() -> None:
    score = scored(LEARNED, RANDOMLY, claim())
    null = null_of(score)
    assert score.value == 1 and null.kind == "null" and null.beaten
    assert score.chance <= null.value < 0.5
    assert null.difference == pytest.approx(score.value - null.value)
    assert judge(claim(), (score,), (), effect()).verdict == "supported"


def test_a_description_that_holds_on_random_weights_too_is_refuted() -> None:
    score = scored(LEARNED, LEARNED, claim())
    null = null_of(score)
    assert null.value == pytest.approx(score.value) and (null.low, null.high) == (0, 0) and not null.beaten
    judged = judge(claim(), (score,), (), effect())
    assert judged.verdict == "refuted" and RANDOM in judged.reason


def test_each_head_of_a_layer_meets_its_own_predicate() -> None:
    table = TokenTable.from_strings(LEARNED.strings, LEARNED.special_ids)
    select, test = rows_of(LEARNED, n=40, size=60, seed=1), rows_of(LEARNED, n=40, size=60, seed=2)
    scorers = PredicateScorers(PredicateSpec(LEARNED, select, test, table, None, 0, 8, LEARNED), lambda *_: None)
    right, wrong = HEAD, Head(layer=1, index=1)
    found = scorers.score({right: claim(), wrong: claim(predicate="distance == 2")}, {})
    ones, other = found[right], found[wrong]
    assert isinstance(ones, Score) and isinstance(other, Score)
    assert null_of(ones).value == pytest.approx(1)
    assert null_of(other).value == pytest.approx(other.chance)


@pytest.mark.slow
def test_the_null_is_the_gain_on_the_twin_over_the_chance_of_the_head() -> None:
    alone = scored(RANDOMLY, None, claim())  # the twin's own numbers, taken as if it were the model
    of = null_of(scored(LEARNED, RANDOMLY, claim()))
    chance = scored(LEARNED, None, claim()).chance
    f1, always = alone.details["f1"], 2 * alone.prevalence / (1 + alone.prevalence)
    assert isinstance(f1, float)
    assert of.value == pytest.approx(chance + max(0.0, f1 - always))


def test_losses_and_undefined_scores_on_random_weights_are_no_gain() -> None:
    drawn = np.array([0.5, 0.6, 0.7])
    line = 0.1, np.array([0.1, 0.2, 0.1])
    for point, draws in ((-0.3, np.array([-0.3, -0.1, 0.0])), (float("nan"), np.full(3, np.nan))):
        found = random_control((0.6, drawn), line, (point, draws))
        assert found.value == pytest.approx(0.1) and found.difference == pytest.approx(0.5)
        assert_allclose([found.low, found.high], np.quantile(drawn - line[1], [0.025, 0.975]))


def test_short_rows_whose_every_pair_is_a_positive_refute_nobody() -> None:
    """With few sources each, even attention leaves no negative: F1 of anything is high there, and so is chance."""
    rows = rows_of(LEARNED, n=80, size=12, seed=3)
    score = scored(LEARNED, RANDOMLY, claim(predicate="distance <= 1"), rows)
    twin = scored(RANDOMLY, None, claim(predicate="distance <= 1"), rows)
    assert float(twin.details["f1"] or 0) > 0.6 and twin.prevalence == 1
    assert null_of(score).value == pytest.approx(score.chance)


def test_a_claim_on_the_first_token_gets_the_null_too() -> None:
    said = claim(predicate="src.is_first", label="first_token")
    score = scored(RESTING, RANDOMLY, said)
    assert score.scorer == "first_token" and [c.name for c in score.controls] == ["chance line", RANDOM]
    assert null_of(score).beaten and score.chance <= null_of(score).value < 0.6
    assert not null_of(scored(RESTING, RESTING, said)).beaten


@pytest.mark.slow
def test_without_a_twin_the_score_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: LanguageModel, seed: int) -> LanguageModel:
        raise ModelError("its class wants more than a config.\nSecond line.")

    monkeypatch.setattr(random_weights, "random_twin", fails)
    missing = twin_of(LEARNED, 1)
    assert isinstance(missing, Unscored) and missing.reason.endswith("its class wants more than a config.")
    for model, said in ((LEARNED, claim()), (RESTING, claim(predicate="src.is_first"))):
        score = scored(model, missing, said)
        assert RANDOM not in [c.name for c in score.controls] and score.details[MISSING] == missing.reason
    assert MISSING not in scored(LEARNED, None, claim()).details


# -- the pipeline on random weights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("place")
    return save_model(folder / "model"), save_corpus(folder / "corpus.txt")


@pytest.fixture(scope="module")
def control(place: tuple[Path, Path]) -> RandomControl:
    config = config_for(*place)
    inputs = load_inputs(config, Sources(str(place[0])), place[0] / "cache")
    return RandomControl(inputs, held_out_rows(inputs, np.arange(20, 60), 3), config, 8, lambda *_: None)


def test_heads_are_drawn_once_and_follow_the_seed() -> None:
    model = tiny_model()
    assert drawn_heads(model, 0) == tuple(Head(layer=n, index=h) for n in range(2) for h in range(4))
    monkey = replace(model, bridge=type("Bridge", (), {"cfg": type("C", (), {"n_layers": 6, "n_heads": 6})})())
    drawn = drawn_heads(monkey, 0)
    assert len(set(drawn)) == 20 and list(drawn) == sorted(drawn)
    assert drawn == drawn_heads(monkey, 0) != drawn_heads(monkey, 1)


def test_few_windows_spread_over_documents(control: RandomControl) -> None:
    whole = control._inputs.explain_windows()
    few = few_windows(whole, 12)
    assert len(few.numbers) == 12 and set(few.numbers) <= set(whole.numbers)
    assert len(set(whole.cluster[few.numbers].tolist())) == 12


@pytest.mark.slow
def test_a_model_that_learned_nothing_is_described_by_no_detector(control: RandomControl) -> None:
    twin = twin_of(control._inputs.model, 4)
    assert isinstance(twin, LanguageModel)
    found = control.measured(twin)
    assert found.n == found.described + found.abstained == 8
    assert found.margin_above_0 <= found.described <= 1
    assert (found.low, found.high) == clopper_pearson(found.margin_above_0, 8)


@pytest.mark.slow
def test_descriptions_that_hold_are_counted(control: RandomControl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin whose heads do look one token back, with the detectors' part played by a fixed sentence."""
    monkeypatch.setattr(module, "describe", lambda evidence: claim(label="previous_token"))
    monkeypatch.setattr(module, "twin_of", lambda model, seed: RANDOMLY)
    monkeypatch.setattr(RandomControl, "_collected", lambda self, twin, heads: _Evidence(heads))
    wrong = control.measured(RANDOMLY)
    assert (wrong.n, wrong.described, wrong.margin_above_0, wrong.supported) == (8, 8, 0, 0)
    right = control.measured(LEARNED)
    assert right.margin_above_0 == 8 and right.share == 1 and right.high == 1


class _Evidence:
    """What the control takes of a collection."""

    def __init__(self, heads: tuple[Head, ...]) -> None:
        self.evidence = dict.fromkeys(heads)
        self.z_mean = np.zeros((2, 4, 8))


def test_numbers_are_kept_and_a_missing_twin_is_said(
    control: RandomControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path) as run:
        missing = Unscored(scorer=RANDOM, reason="no model with random weights could be made: why")
        assert control.facts(run, missing) == {"reason": missing.reason}
        assert not run.path(FILE).exists()
        monkeypatch.setattr(RandomControl, "measured", lambda self, twin: RandomWeights(8, 1, 7, 0, 0, 0.0, 0.0, 0.37))
        first = control.facts(run, tiny_model())
        assert json.loads(run.path(FILE).read_text()) == first
        monkeypatch.setattr(RandomControl, "measured", None)
        assert control.facts(run, tiny_model()) == first


@pytest.mark.slow
def test_every_run_has_it_and_the_pages_say_so(place: tuple[Path, Path], tmp_path: Path) -> None:
    assert run_here(config_for(*place, scorers=("predicate",)), tmp_path / "run").stopped is None
    found = read_json(tmp_path / "run" / "run.json")["random_weights"]
    assert found["n"] == 8 and found["explainer"] == "detectors" and found["margin_above_0"] <= 1
    said = f"{found['margin_above_0']} of 8 heads got a margin above 0"
    assert said in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert said in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("facts", "wanted", "unwanted"),
    [
        ({"explainer": "llm"}, "0 of 20 heads got a margin above 0", "not measured"),
        ({"explainer": "detectors"}, "2 described, 18 abstained", "not by this run"),
        ({"random_weights": {"reason": "because"}}, "not measured: because", "of 20 heads"),
        ({"random_weights": None}, "mean margin", "random weights"),
    ],
)
def test_the_line_of_the_run_page(tmp_path: Path, facts: dict[str, object], wanted: str, unwanted: str) -> None:
    numbers = {"n": 20, "described": 2, "abstained": 18, "supported": 0, "margin_above_0": 0, "share": 0.0,
               "low": 0.0, "high": 0.168, "explainer": "detectors", "seconds": 1.0}  # fmt: skip
    write_run(tmp_path, reports(), {"random_weights": numbers} | facts)
    write_reports(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert wanted in text and unwanted not in text
    assert ("by this run's LLM" in text) == (facts.get("explainer") == "llm")
