"""The loop over neurons and latents: its claims and prompts, and whole runs that are killed, budgeted and resumed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autointerp.agent.claims import read_claims, together
from autointerp.agent.feature_kind import FEATURES
from autointerp.agent.journal import Journal
from autointerp.agent.loop import LoopInputs, UnitLoop
from autointerp.agent.spec import LoopSpec
from autointerp.agent.steps import experiments_step, hypotheses_step, revision_step
from autointerp.agent.view import history_view
from autointerp.cli import main
from autointerp.feature_records import FeatureEvidence, FeatureReport
from autointerp.records import Description, Provenance
from autointerp.report.feature_csv import read_features_csv
from tests.agent_helpers import BAD, GOOD, OPEN, FakeBench, Plain, asked, asker_of, chat_of, run_loop
from tests.run_helpers import config_for, lines_of, save_corpus, save_model
from tests.servers import MisbehavingServer, content_for
from tests.test_agent_run import EVIL, bare, killed_and_resumed
from tests.test_feature_job import run_units
from tests.unit_evidence import UNIT, example, unit_evidence

PREDICATES = ('dst.lower == "the"', "dst.is_word", "dst.is_punctuation", "dst.seen_before", "dst.position <= 3")
ACTIVATE = asked("activate", texts=[{"text": "a dog", "mark": "last", "occurrence": 1}])


def claim(predicate: str = 'dst.lower == "dog"', **fields: Any) -> Plain:
    return {
        "activates_on": f"rule {predicate}", "does": "raises what follows", "label": "token", "predicate": predicate,
        "no_predicate": "", "raises": [" barks"], "lowers": [], "conditions": "", "confidence": 50, **fields,
    }  # fmt: skip


def first(predicate: str = 'dst.lower == "cat"') -> Description:
    return Description(summary="s", looks_at="cats", writes="w", label="token", predicate=predicate, raises=(" mews",))


def evidence() -> FeatureEvidence:
    return unit_evidence(examples=[example("the big dog ran home", [0, 0, 0, 1, 0], 3, number=n) for n in range(12)])


def loop_of(chat: Any, bench: FakeBench, **spec: Any) -> UnitLoop[FeatureEvidence]:
    made = Provenance(explainer="llm", prompt_tokens=100, completion_tokens=10)
    return UnitLoop(
        LoopInputs(
            FEATURES, evidence(), first(), made, asker_of(chat), bench, bench, Journal(), LoopSpec(**{"k": 3, **spec})
        )
    )


def replies(claims: list[Plain], experiments: list[Plain] | None = None) -> Mapping[str, Callable[[int], Any]]:
    return {
        "agent_hypotheses_feature": lambda n: {"hypotheses": [claim("dst.is_word"), claim("nonsense(")]},
        "agent_experiments_feature": lambda n: {"thought": "look", "experiments": experiments or [ACTIVATE]},
        "agent_revision_feature": lambda n: {"thought": "so", "claims": claims, "abstain": False},
    }


# the loop with made-up numbers


def test_a_unit_s_loop_asks_with_its_own_templates_and_keeps_the_better_claim() -> None:
    dog = 'dst.lower == "dog"'
    bench = FakeBench({'dst.lower == "cat"': BAD, dog: GOOD}, OPEN)
    chat = chat_of(replies([claim(dog)]))
    result = run_loop(loop_of(chat, bench))
    assert (result.description.predicate, result.description.raises) == (dog, (" barks",))
    assert (result.description.looks_at, result.description.writes) == (f"rule {dog}", "raises what follows")
    assert result.transcript.chosen == "revision 1" and result.transcript.one_shot == first()
    assert [request.schema_name for request in chat.requests] == [
        f"agent_{step}_feature" for step in ("hypotheses", "experiments", "revision")
    ]
    assert [request.unit for request in chat.requests] == [str(UNIT)] * 3
    assert {tuple(r.arguments) for r in bench.ran if r.name == "score_predicate"} == {("predicate",)}


def test_prompts_of_units_show_what_was_claimed_and_name_no_place() -> None:
    chat = chat_of(replies([claim()]))
    run_loop(loop_of(chat, FakeBench(default=BAD), rounds=1))
    last = "".join(m["content"] for m in chat.requests[-1].messages)
    for shown in ('"activates_on"', '"does"', '"raises"', " mews", '"tool": "activate"', "is not valid"):
        assert shown in last
    assert '"looks_at"' not in last and '"domain": "text", "standing"' not in last
    for request in chat.requests:
        text = "".join(m["content"] for m in request.messages)
        assert "773" not in text and "L11" not in text and "layer" not in text.lower()
        assert "attention head" not in text


def test_every_experiment_on_units_can_be_asked_for() -> None:
    steps = (hypotheses_step(FEATURES, 2), experiments_step(FEATURES, 4), revision_step(FEATURES))
    named = json.dumps([step.schema for step in steps])
    assert all(f'"enum": ["{name}"]' in named for name in FEATURES.tools.tools)
    assert '"raises"' in named and '"looks_at"' not in named and '"domain"' not in named
    assert [step.template for step in steps] == [
        f"agent_{s}_feature" for s in ("hypotheses", "experiments", "revision")
    ]


def test_claims_about_units_join_rules_labels_and_tokens() -> None:
    given = [claim('dst.lower == "a"', raises=["x", "y"]), claim('dst.lower == "b"', raises=["z"], label="context")]
    claims = [c.description for c in read_claims(given, 3, "claims", FEATURES.form)]
    joined = together(claims, FEATURES.form)
    assert joined.predicate == '(dst.lower == "a") or (dst.lower == "b")'
    assert joined.raises == ("x", "z", "y") and joined.labels == ("token", "context")
    pair = read_claims([claim("src == dst")], 1, "claims", FEATURES.form)[0]
    assert pair.description.predicate is None and "not valid" in pair.no_predicate


def test_an_experiment_on_heads_is_none_on_units() -> None:
    result = run_loop(loop_of(chat_of(replies([claim()], [asked("ov", tokens=["a"])])), FakeBench(), rounds=1))
    (refused,) = result.transcript.turns[2].experiments
    assert "unknown experiment" in refused.error and "activate" in refused.error
    assert refused.error in json.dumps(history_view(result.transcript.turns, FEATURES.form))


# whole runs


def playing(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """An agent that tries valid, invalid and hostile things on units."""
    names = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {}).get("properties", {})
    draw = random.Random(json.dumps(body["messages"]))
    if "hypotheses" in names:
        return {"hypotheses": [claim(draw.choice(PREDICATES)), claim("nonsense(", activates_on=EVIL, raises=[EVIL])]}
    if "experiments" in names:
        tried = [
            ACTIVATE, asked("rows", kind="top", n=1), asked("steer", texts=[{"text": "the film"}], strength=4),
            asked("attend", texts=[{"text": "x"}]), asked("ablate", texts=[{"text": "the film", "mark": "nowhere"}]),
        ]  # fmt: skip
        return {"thought": EVIL, "experiments": draw.sample(tried, 5)}
    if "claims" in names:
        return {"thought": EVIL, "claims": [claim(p) for p in draw.sample(PREDICATES, 2)], "abstain": False}
    if "activates_on" in names:
        said = claim(draw.choice(PREDICATES))
        said.pop("no_predicate")
        return {**said, "summary": "a unit", "counterexamples": "", "unclear": False}
    return content_for(body)


class Place:
    def __init__(self, root: Path) -> None:
        self.model, self.corpus = save_model(root / "model"), save_corpus(root / "corpus.txt")

    def config(self, **values: Any) -> Any:
        given = {"units": "neurons:L0N0-L0N2", "scorers": ("predicate",), "explainer": "llm", "llm": "fake",
                 "agent": "rounds=1", **values}  # fmt: skip
        return config_for(self.model, self.corpus, **given)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("agent-units"))


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with one round; started again, everything comes from the journal and the request cache."""
    out = tmp_path_factory.mktemp("undisturbed-units") / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = run_units(place.config(), out, base_url=server.base_url)
        assert not server.repeated
        calls, before = server.calls, (out / "features.csv").read_bytes()
        (out / "features.jsonl").unlink()
        run_units(place.config(), out, base_url=server.base_url)
        assert server.calls == calls and (out / "features.csv").read_bytes() == before
    # one of the three is dense: it is not described, and has no loop
    assert {r.evidence.stats.state: (r.status, r.transcript is None) for r in result.reports} == {
        "ok": ("described", False), "dense": ("abstained", True),
    }  # fmt: skip
    assert any(note.startswith("agent: the verdict of ") and " neurons was open" in note for note in result.notes)
    return out


def reports_of(run: Path) -> list[FeatureReport]:
    """Those that have a loop."""
    lines = (run / "features.jsonl").read_text().splitlines()
    return [r for r in map(FeatureReport.model_validate_json, lines) if r.transcript is not None]


def test_every_unit_has_its_transcript(undisturbed: Path) -> None:
    looped = 0
    for report in reports_of(undisturbed):
        transcript = report.transcript
        assert transcript is not None and transcript.one_shot is not None
        assert transcript.one_shot_select.get("value") is not None
        steps = [turn.step for turn in transcript.turns]
        assert steps in (["one_shot"], ["one_shot", "hypotheses", "experiments", "revision"])
        if len(steps) > 1:
            looped += 1
            tried = transcript.turns[2].experiments
            assert any(e.numbers for e in tried) and "at most 4 experiments" in tried[4].error
    assert looped
    purposes = {line["purpose"] for line in lines_of(undisturbed / "calls.jsonl")}
    assert {f"agent {step} feature" for step in ("hypotheses", "experiments", "revision")} <= purposes


def test_the_table_and_the_card_tell_of_the_loop(undisturbed: Path) -> None:
    rows = read_features_csv(undisturbed / "features.csv")
    assert {row["rounds"] for row in rows} <= {None, 0, 1} and any(row["k"] == 3 for row in rows)
    page = (undisturbed / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and page.count("</script>") == page.count("<script")


@pytest.mark.parametrize("lives", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8, 14))])
def test_killed_inside_a_unit_nothing_is_repeated(
    place: Place, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: int
) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = killed_and_resumed(
            lambda: run_units(place.config(), out, base_url=server.base_url), monkeypatch, out, lives
        )
        lost = json.loads((out / "run.json").read_text())["lost_in_flight"]
        assert len(server.repeated) <= lost <= 2  # requests of the other loops that were under way
    assert [bare(r) for r in result.reports if r.transcript is not None] == [bare(r) for r in reports_of(undisturbed)]


def test_dry_run_counts_the_loops_of_units(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "describe-all-features", "--units", "neurons:L0N0-L0N2", "--model", str(place.model), "--corpus",
        str(place.corpus), "--out", str(tmp_path / "run"), "--max-tokens", "5000", "--context", "24", "--llm", "rules",
        "--scorers", "predicate", "--agent", "rounds=2", "--dry-run",
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "agent hypotheses feature" in said and "agent revision feature" in said
    words[words.index("rounds=2")] = "off"
    words[words.index(str(tmp_path / "run"))] = str(tmp_path / "other")
    assert main(words) == 0
    assert "agent" not in capsys.readouterr().out.replace("--agent off", "")


@pytest.mark.slow
def test_the_best_of_several_answers_of_a_unit(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "run"
    with MisbehavingServer(playing) as server:
        result = run_units(place.config(agent="best_of=2"), out, base_url=server.base_url)
    purposes = [line["purpose"] for line in lines_of(out / "calls.jsonl")]
    assert not [purpose for purpose in purposes if purpose.startswith("agent")]
    stops = [r.transcript.stop for r in result.reports if r.transcript is not None]
    assert len(stops) == 2 and any(stop.startswith("best of 2 one-shot answers") for stop in stops)
