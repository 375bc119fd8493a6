"""The agent's experiments: on heads whose function is known, under hostile requests, bounded, blind and repeatable."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from causal_model import GATED, NAMES, causal_model, causal_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from autointerp.agent import reading
from autointerp.agent.head_tools import HEAD_TOOLS
from autointerp.agent.laboratory import LabData, Laboratory
from autointerp.agent.plain import ANSWER_CHARACTERS, bounded
from autointerp.agent.requests import Request, RequestError
from autointerp.agent.subject import Subject
from autointerp.agent.trials import Trial
from autointerp.errors import BadInput
from autointerp.evidence.detector_data import repeated_rows
from autointerp.evidence.effects import RowPlace, row_effects
from autointerp.lenses.head_readings import HeadLensOptions, HeadReader
from autointerp.model import LanguageModel
from autointerp.records import Domain, Evidence, Head, Reading
from autointerp.scoring.held_out import HeldOutRows, repeat_rows
from autointerp.scoring.tallies import HeadTruth, tally
from autointerp.scoring.token_identity import ExplainRows
from tests.agent_helpers import tokens_fed
from tests.test_scoring import rows_of

COPIES, IDLE, GATED_HEAD, SPREAD = (Head(layer=0, index=n) for n in range(4))
TEXT = "the cat sat on the mat . the dog ran"
Plain = dict[str, Any]


def select_of(rows: HeldOutRows) -> HeldOutRows:
    return dataclasses.replace(rows, split="select")


def data_of(model: LanguageModel, rows: HeldOutRows, **options: Any) -> LabData:
    """Laboratory data of random words; means over the explain windows."""
    means: list[np.ndarray] = []
    ids = model.to_ids(rows.ids)
    model.read_attention(
        ids, list(range(model.n_layers)), lambda found: means.append(found.z[:, 1:].mean((0, 1)).numpy())
    )
    select: dict[Domain, HeldOutRows] = {"text": select_of(rows)}
    pool = np.array([i for i, name in enumerate(model.strings) if name in {f" {word}" for word in NAMES}])
    select["repeats"] = repeat_rows(repeated_rows(pool, 8, 6, 3, model.bos_id), 8, "select")
    return LabData.of(model, ExplainRows(rows.ids, rows.lengths), select, np.stack(means), **options)


@functools.cache
def causal_data() -> LabData:
    rows = causal_rows(seed=1)
    data = data_of(causal_model(), rows)
    return dataclasses.replace(data, select=data.select | {"text": select_of(causal_rows(seed=2))})


def evidence(head: Head, *readings: Reading) -> Evidence:
    return Evidence.model_construct(head=head, readings=readings)


def lab(head: Head = COPIES, data: LabData | None = None, *readings: Reading) -> Laboratory:
    return Laboratory(causal_model(), head, evidence(head, *readings), data or causal_data())


def asked(name: str, **arguments: Any) -> Request:
    found = HEAD_TOOLS.parse(name, arguments)
    assert isinstance(found, Request), found
    return found


def run(head: Head, name: str, **arguments: Any) -> Plain:
    return lab(head).run(asked(name, **arguments))


# -- what each experiment finds on a head that is known ------------------------------------------------------


def test_attend_shows_the_source_and_what_it_raises() -> None:
    places = [{"text": TEXT}, {"text": TEXT, "mark": "cat"}, {"text": TEXT, "mark": "the", "occurrence": 2}]
    rows = run(COPIES, "attend", texts=places)["rows"]
    assert [(r["at"], r["sources"][0]["token"], r["sources"][0]["distance"]) for r in rows] == [
        (" ran", " dog", 1), (" cat", "the", 1), (" the", " on", 1),
    ]  # fmt: skip
    assert all(r["sources"][0]["attention"] > 0.9 and r["sources"][0]["moved"] > 0.9 for r in rows)
    assert rows[0]["raises"][0][0] == " dog"
    resting = next(name for name in NAMES if name not in GATED)
    row = run(GATED_HEAD, "attend", texts=[{"text": f"the cat {resting}"}])["rows"][0]
    assert row["sources"] == []
    assert row["first_position"] > 0.9
    assert row["note"]


def test_attend_takes_a_word_of_several_tokens() -> None:
    row = run(COPIES, "attend", texts=[{"text": "the cat xyz sat", "mark": "xyz"}])["rows"][0]
    assert row["at"] == "z"


def test_edit_sets_both_rows_side_by_side() -> None:
    found = run(COPIES, "edit", text=TEXT, replace="dog", by="cat sat", mark="ran")
    assert found["before"]["sources"][0]["token"] == " dog"
    assert found["after"]["sources"][0]["token"] == " sat"
    assert found["after"]["at"] == " ran"
    assert found["changed"]["strongest_after"] == [" sat", 1]
    assert not found["changed"]["same_distance_and_token"]
    far = run(COPIES, "edit", text=TEXT, replace=" cat", by=" dog", mark="ran")
    assert far["changed"]["same_distance_and_token"]


def test_rows_are_filtered_and_ordered() -> None:
    found = run(COPIES, "rows", kind="top", n=5)
    assert found["matching"] == found["of"] == 48 * 23
    assert len(found["rows"]) >= 3
    percentiles = [row["activity_percentile"] for row in found["rows"]]
    assert percentiles == sorted(percentiles, reverse=True) and percentiles[0] > 99
    word = NAMES[3]
    some = run(COPIES, "rows", kind="random", dst=word)
    assert 0 < some["matching"] < found["matching"] / 5
    assert all(row["text"].endswith(f"> {word}<") for row in some["rows"])
    sources = run(COPIES, "rows", kind="top", src=word)
    assert all(row["sources"][0]["token"] == f" {word}" for row in sources["rows"])
    assert run(COPIES, "rows", kind="top", min_distance=2)["matching"] <= 48  # rows that have the first position alone
    named = run(COPIES, "rows", kind="random", predicate="distance == 1")["matching"]
    assert named == run(COPIES, "rows", kind="random", predicate="distance == 1 and src.position >= 1")["matching"]
    left = run(COPIES, "rows", kind="random", predicate="distance == 1", holds=False)["matching"]
    assert named + left == found["matching"] and left <= 48


def test_contrast_rows_rest_on_tokens_that_are_active_elsewhere() -> None:
    found = run(GATED_HEAD, "rows", kind="contrast", n=5)
    assert 0 < found["matching"] < 48  # gated words right after the first position
    for row in found["rows"]:
        assert row["sources"] == []
        assert row["text"].rpartition(">")[2].strip(" <") in GATED


def test_a_right_predicate_has_no_counterexample() -> None:
    found = run(COPIES, "score_predicate", predicate="distance == 1")
    assert found["metric"] == "f1" and found["value"] > 0.99 and found["coverage"] > 0.99
    assert found["rival"]["same_rule"] and found["nulls_beaten"]
    assert found["chance"] < 0.2
    for name in ("predicted_but_silent", "active_but_unpredicted", "right_place_no_effect"):
        assert found[name]["rows"] == 0 and found[name]["samples"] == []
    assert found["right_place_no_effect"]["of_tested"] == 24
    assert found["active_but_unpredicted"]["contribution_unexplained"] < 0.01


def test_failures_come_in_their_groups() -> None:
    wrong = run(COPIES, "score_predicate", predicate="distance == 2")
    assert wrong["value"] < 0.05
    assert wrong["predicted_but_silent"]["rows"] == wrong["predicted_but_silent"]["of_predicted"] > 0
    assert wrong["active_but_unpredicted"]["contribution_unexplained"] > 0.99
    sample = wrong["active_but_unpredicted"]["samples"][0]
    assert sample["head"].partition("] ")[2].startswith("1 back: ")
    idle = run(IDLE, "score_predicate", predicate="distance == 1")
    tested = idle["right_place_no_effect"]
    assert idle["value"] > 0.99 and tested["rows"] == tested["of_tested"] == 24
    gated = run(GATED_HEAD, "score_predicate", predicate="distance == 1")["predicted_but_silent"]
    assert gated["rows"] == gated["resting_on_first_position"] > gated["of_predicted"] / 2
    assert all(sample["head"] == "rests" for sample in gated["samples"])
    spread = run(SPREAD, "score_predicate", predicate="distance == 1")["active_but_unpredicted"]
    assert 0.3 < spread["contribution_unexplained"] < 0.7
    assert all("] 2 back: " in sample["head"] for sample in spread["samples"])  # not the predicted one
    pairs = [(s["text"].rpartition(">")[2], s["head"].partition("]")[0]) for s in spread["samples"]]
    assert len(set(pairs)) == len(pairs) > 1


def test_effects_are_those_of_the_evidence() -> None:
    trial = Trial(Subject(causal_model(), SPREAD, evidence(SPREAD), causal_data()), "text")
    window, dst = np.array([0, 3, 3]), np.array([5, 2, 23])
    rows = [(tuple(trial.rows.ids[w, : d + 1].tolist()), None) for w, d in zip(window, dst, strict=True)]
    expected = row_effects(causal_model(), [RowPlace(SPREAD, *row) for row in rows], causal_data().z_mean, 4)
    assert trial.effects(window, dst) == pytest.approx([effect.kl for effect in expected], rel=1e-3)


def test_a_claim_on_the_first_position_is_scored_as_such() -> None:
    found = run(GATED_HEAD, "score_predicate", predicate="src.position == 0")
    assert found["value"] > 0.5 and "first position" in found["note"]


def test_predicates_are_scored_on_repeats_too() -> None:
    found = run(COPIES, "score_predicate", predicate="distance == 1", domain="repeats")
    assert found["domain"] == "repeats" and found["value"] > 0.99
    only_text = dataclasses.replace(causal_data(), select={"text": causal_data().select["text"]})
    request = asked("score_predicate", predicate="distance == 1", domain="repeats")
    assert "repeats" in str(lab(COPIES, only_text).run(request)["error"])


def test_disagreeing_predicates_are_told_apart() -> None:
    found = run(COPIES, "disagree", first="distance == 2", second="distance == 1", n=5)
    assert found["strongest_source_named_by_first_only"] == 0
    assert found["strongest_source_named_by_second_only"] == found["active_rows"] > 900
    sample = found["samples"][0]
    assert "2 back" in sample["named"] and "1 back" in sample["named_by_second"] and "1 back" in sample["head"]
    less = run(COPIES, "disagree", first="distance == 1", second="distance == 1 and src.position == 3")
    assert less["no_strong_source_and_first_names_one"] == 0  # the head is active there
    rests = run(GATED_HEAD, "disagree", first="distance == 1", second=f"distance == 1 and dst.lower in {words(GATED)}")
    assert rests["no_strong_source_and_first_names_one"] > 400
    assert rests["no_strong_source_and_second_names_one"] == rests["strongest_source_named_by_first_only"] == 0


def words(names: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{name.lower()}"' for name in names) + "}"


def test_ablation_takes_the_copied_token_away() -> None:
    rows = run(COPIES, "ablate", texts=[{"text": TEXT}, {"text": TEXT, "mark": "mat"}])["rows"]
    assert [row["lose"][0][0] for row in rows] == [" dog", " the"]
    for row in rows:
        before, after = row["lose"][0][1:]
        assert before > after and row["kl"] > 1e-3
    assert run(IDLE, "ablate", texts=[{"text": TEXT}])["rows"][0]["kl"] < 1e-6


def test_patching_carries_the_answer_both_ways() -> None:
    texts = dict(clean="the cat mat", corrupted="the dog mat", answer="cat", wrong="dog")
    found = run(COPIES, "patch", **texts)
    assert (found["answer"], found["wrong"]) == (" cat", " dog")
    assert found["clean"] > 0 > found["corrupted"]
    assert found["clean"] > found["clean_with_corrupted_output"]
    assert found["corrupted_with_clean_output"] > found["corrupted"]
    assert found["lost"] > 0.1 and found["restored"] > 0.1
    everywhere = run(COPIES, "patch", **texts, mark="all")
    assert everywhere["restored"] == pytest.approx(found["restored"], rel=0.01)  # one layer: the end alone counts
    assert run(COPIES, "patch", **texts, mark="cat")["restored"] == pytest.approx(0, abs=1e-6)
    assert run(IDLE, "patch", **texts)["restored"] == pytest.approx(0, abs=1e-6)
    same = run(COPIES, "patch", clean="the cat mat", corrupted="the cat mat", answer="cat", wrong="dog")
    assert same["note"]


def test_the_lens_reads_the_output() -> None:
    found = run(COPIES, "lens", text=TEXT)
    assert found["output"]["raises"][0][0] == " dog"
    assert found["output"]["of_stream"] > 0.05
    assert run(IDLE, "lens", text=TEXT)["output"]["of_stream"] == 0
    told = run(COPIES, "lens", text=TEXT, selfie=True)
    assert "no SelfIE" in told["selfie"]["error"]
    without = HeadReader(causal_model(), HeadLensOptions(selfie=None))
    reader = dataclasses.replace(causal_data(), reader=without)
    assert "error" in lab(COPIES, reader).run(asked("lens", text=TEXT, selfie=True))["selfie"]  # type: ignore[operator]


def test_selfie_is_read_where_the_run_has_it() -> None:
    from autointerp.lenses.selfie import SelfieOptions

    model = tiny_model("gpt2")
    selfie = SelfieOptions(prompts=("the {P} was",), placeholders=2, max_new_tokens=2, nulls=3)
    options = HeadLensOptions(selfie=selfie, kinds=("output",))
    data = data_of(model, select_of(rows_of(model, n=12)), reader=HeadReader(model, options))
    head = Head(layer=1, index=0)
    found = Laboratory(model, head, evidence(head), data).run(asked("lens", text="the cat sat", selfie=True))
    said: Any = found["selfie"]
    assert len(said["specific"]) + said["not_specific"] == 1


def test_ov_says_what_a_token_raises() -> None:
    found = run(COPIES, "ov", tokens=["cat", " dog"])["tokens"]
    assert [row["token"] for row in found] == [" cat", " dog"]
    for row in found:
        assert row["raises"][0][0] == row["token"] and row["own_percentile"] > 99


def test_detectors_are_listed_with_their_null() -> None:
    values = dict(low=0.0, high=1.0, n=9, lift_over_uniform=2.0)
    readings = (
        Reading(name="dull", data="text", value=0.1234567, percentile=99.0, null_max=0.5, fires=False, **values),
        Reading(name="firing", data="repeats", value=0.9, percentile=80.0, null_max=0.1, fires=True, **values),
        Reading(name="undefined", data="text", value=math.nan, percentile=math.nan, null_max=0, fires=False, **values),
    )
    found = lab(COPIES, None, *readings).run(asked("detectors"))
    assert found["detectors"] == [
        ["firing", "repeats", 0.9, 80.0, 0.1, True], ["dull", "text", 0.123, 99.0, 0.5, False],
    ]  # fmt: skip
    assert found["undefined"] == 1
    one = lab(COPIES, None, *readings).run(asked("detectors", data="repeats"))
    assert [row[0] for row in one["detectors"]] == ["firing"]  # type: ignore[attr-defined]


def test_a_probe_reads_what_the_head_moved_and_nothing_else() -> None:
    others = [name for name in NAMES if name not in ("cat", "dog")][:6]
    items = [
        {"text": f"{word} {animal} mat", "label": animal, "group": word} for word in others for animal in ("cat", "dog")
    ]
    found = run(COPIES, "probe", items=items)
    assert found["accuracy"] == 1.0 and found["held_out_groups"] == 6
    assert found["shuffled_labels"] < 0.75 and found["p"] < 0.06
    assert found["embedding_of_the_token"] == 0.5  # the marked token is the same everywhere
    blind = [item | {"text": f"{item['text']} mat"} for item in items]
    assert run(COPIES, "probe", items=blind)["accuracy"] < 0.8
    one = [item | {"group": item["label"]} for item in items]
    assert "label" in run(COPIES, "probe", items=one)["error"]


# -- what cannot be done -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("attend", {"texts": [{"text": "cat " * 60}]}, "at most 30"),
        ("attend", {"texts": [{"text": TEXT, "mark": "zebra"}]}, "does not stand in the text"),
        ("attend", {"texts": [{"text": TEXT, "mark": "the", "occurrence": 9}]}, "stands 3 times"),
        ("edit", {"text": TEXT, "replace": "zebra", "by": "cat"}, "does not stand"),
        ("edit", {"text": TEXT, "replace": "cat", "by": "cat"}, "changes nothing"),
        ("edit", {"text": TEXT, "replace": TEXT, "by": ""}, "leaves 0 characters"),
        ("ov", {"tokens": ["zebra"]}, "no single token"),
        ("rows", {"kind": "top", "dst": "zebra"}, "no token of the vocabulary"),
        ("rows", {"kind": "top", "predicate": "__import__('os')"}, "does not parse"),
        ("score_predicate", {"predicate": "distance ="}, "does not parse"),
        ("disagree", {"first": "distance == 1", "second": "src.nothing"}, "does not parse"),
        ("patch", {"clean": "the cat", "corrupted": "the cat sat", "answer": "a", "wrong": "in"}, "equal length"),
        ("patch", {"clean": "the cat", "corrupted": "the dog", "answer": "cat", "wrong": "cat"}, "same token"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, arguments: Plain, said: str) -> None:
    found = run(COPIES, name, **arguments)
    assert list(found) == ["error"] and said in str(found["error"])
    assert len(str(found["error"])) <= 300


def test_models_whose_writes_are_no_logits_are_told() -> None:
    data = dataclasses.replace(causal_data(), output=None)
    for request in (asked("lens", text=TEXT), asked("ov", tokens=["cat"])):
        assert "cannot be read" in str(lab(COPIES, data).run(request)["error"])
    row = lab(COPIES, data).run(asked("attend", texts=[{"text": TEXT}]))["rows"][0]  # type: ignore[index]
    assert "raises" not in row and row["sources"]


def test_test_rows_are_no_data_of_a_laboratory() -> None:
    names = {field.name for field in dataclasses.fields(LabData)}
    assert not any("test" in name for name in names) and {"explain", "select"} <= names
    with pytest.raises(BadInput, match="select split only"):
        dataclasses.replace(causal_data(), select={"text": causal_rows()})
    with pytest.raises(BadInput, match="no head"):
        lab(Head(layer=0, index=9))


# -- hostile requests ----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES_OF_TOOLS = st.sampled_from(sorted(HEAD_TOOLS.tools))


@settings(deadline=None, max_examples=150)
@given(NAMES_OF_TOOLS | st.text(max_size=60), JSON)
def test_any_request_is_one_or_gets_a_short_reason(name: str, arguments: object) -> None:
    found = HEAD_TOOLS.parse(name, arguments)
    reason = found.reason if isinstance(found, RequestError) else "cost"
    assert 0 < len(reason) <= 200 and (isinstance(found, RequestError) or HEAD_TOOLS.cost(found) >= 0)


def fields_of(schema: Plain) -> st.SearchStrategy[Any]:
    """Values that a schema allows, some that it does not, and hostile strings."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"]) | st.text(max_size=5)
    kind = schema.get("type")
    if kind == "object":
        known = {name: fields_of(part) for name, part in schema["properties"].items()}
        required = {name: known.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(required, optional=known)
    if kind == "array":
        return st.lists(fields_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema["maxItems"])
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    some = st.sampled_from(
        [TEXT, "cat", " dog", "last", "distance == 1", "src == dst", "\n", "</td>", "<bos>", "🙂", "a"]
    )
    return some | st.text(max_size=20)


@pytest.mark.parametrize("name", sorted(HEAD_TOOLS.tools))
def test_whatever_is_asked_is_answered_in_bounds(name: str) -> None:
    laboratory = lab(SPREAD)

    @settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
    @given(fields_of(HEAD_TOOLS.tools[name].schema))
    def check(arguments: Plain) -> None:
        found = HEAD_TOOLS.parse(name, arguments)
        if isinstance(found, Request):
            text = json.dumps(laboratory.run(found), allow_nan=False)
            assert len(text) <= ANSWER_CHARACTERS
            assert "L0H3" not in text and causal_model().name not in text  # the agent is blind

    check()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("dance", {}, "unknown experiment 'dance'; there are attend"),
        (7, {}, "unknown experiment"),
        ("attend", "{}", "give an object"),
        ("attend", {}, "texts is missing"),
        ("attend", {"texts": [{"text": "a"}] * 1000}, "texts has 1000 items; at most 4"),
        ("attend", {"texts": []}, "texts has 0 items; at least 1"),
        ("attend", {"texts": [{"text": "a" * 301}]}, "texts[0].text has 301 characters; at most 300"),
        ("attend", {"texts": [{"text": ""}]}, "texts[0].text is empty"),
        ("attend", {"texts": [{"text": "a", "code": "x"}]}, "texts[0].code is not an argument of attend"),
        ("ov", {"tokens": ["a"] * 9}, "at most 8"),
        ("rows", {"kind": "top", "n": 6}, "n: "),
        ("rows", {"kind": "top", "n": "3"}, "n: "),
        ("rows", {"kind": "top", "n": True}, "n: "),
        ("score_predicate", {"predicate": "x" * 401}, "at most 400"),
        ("score_predicate", {"predicate": "x", "domain": "test"}, "domain: "),
        ("probe", {"items": [{"text": "a", "label": "x"}] * 8}, "1 labels; give exactly 2"),
        ("probe", {"items": [{"text": "a", "label": "x" if n else "y"} for n in range(8)]}, "at least 4 of each"),
    ],
)
def test_reasons_name_the_fault(name: Any, arguments: object, said: str) -> None:
    found = HEAD_TOOLS.parse(name, arguments)
    assert isinstance(found, RequestError) and said in found.reason
    assert len(found.reason) <= 200


def test_a_request_built_by_hand_is_checked_again() -> None:
    assert "at most 4" in str(lab().run(Request("attend", {"texts": [{"text": "a"}] * 9}))["error"])
    assert "unknown" in str(lab().run(Request("dance", {}))["error"])


def test_schemas_are_closed_and_bounded() -> None:
    def check(schema: Plain) -> None:
        assert "$ref" not in schema and "title" not in schema
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False
            for part in schema["properties"].values():
                check(part)
        elif schema.get("type") == "array":
            assert schema["maxItems"] <= 24
            check(schema["items"])
        elif schema.get("type") == "string" and "enum" not in schema:
            assert schema["maxLength"] <= 400

    for name, tool in HEAD_TOOLS.tools.items():
        assert tool.name == name and tool.description
        check(tool.schema)
        json.dumps(tool.schema)


@pytest.mark.parametrize("bos", [True, False])
def test_rows_of_a_grouped_query_model_are_the_models_own(*, bos: bool) -> None:
    model = tiny_model("llama")
    model = model if bos else dataclasses.replace(model, bos_id=None)
    head = Head(layer=1, index=3)
    laboratory = Laboratory(model, head, evidence(head), data_of(model, select_of(rows_of(model, n=12))))
    row: Any = laboratory.run(asked("attend", texts=[{"text": TEXT, "mark": "dog"}]))["rows"]
    ids = model.encode(TEXT)[0].tolist()
    fed = ([model.bos_id] if bos else []) + ids
    patterns: list[torch.Tensor] = []
    model.read_attention(model.to_ids(np.array([fed])), [1], lambda layer: patterns.append(layer.pattern[0, 3]))
    dst = len(fed) - 2
    assert row[0]["first_position"] == pytest.approx(float(patterns[0][dst, 0]), rel=0.01)
    for source in row[0]["sources"]:
        assert source["attention"] == pytest.approx(float(patterns[0][dst, dst - source["distance"]]), rel=0.01)
    answers = [laboratory.run(request) for request in REQUESTS]
    assert all(len(json.dumps(answer, allow_nan=False)) <= ANSWER_CHARACTERS for answer in answers)
    assert [answer["error"] for answer in answers if "error" in answer] == []


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=8), JSON.filter(lambda v: v == v), max_size=6), st.integers(80, 400))
def test_answers_have_an_end(answer: Plain, most: int) -> None:
    clean = json.loads(json.dumps(answer))
    found = bounded(clean, most)
    assert len(json.dumps(found)) <= most or set(found) == {"error"}
    if len(json.dumps(clean)) <= most:
        assert json.dumps(found) == json.dumps(clean)


# -- the model is left as it was, and answers do not depend on each other ------------------------------------

REQUESTS = (
    asked("attend", texts=[{"text": TEXT}]),
    asked("edit", text=TEXT, replace="dog", by="cat"),
    asked("rows", kind="random"),
    asked("rows", kind="contrast"),
    asked("score_predicate", predicate="distance == 1 or distance == 2"),
    asked("score_predicate", predicate="src.position == 0"),
    asked("disagree", first="distance == 1", second="distance == 2"),
    asked("ablate", texts=[{"text": TEXT}]),
    asked("patch", clean="the cat mat", corrupted="the dog mat", answer="cat", wrong="dog"),
    asked("lens", text=TEXT),
    asked("ov", tokens=["cat", "dog"]),
    asked("probe", items=[{"text": f"{w} mat", "label": "xy"[n % 2]} for n, w in enumerate(NAMES[:10])]),
)


def test_answers_do_not_depend_on_what_was_asked_before() -> None:
    first, second = (lab(SPREAD, dataclasses.replace(causal_data())) for _ in range(2))
    forward = [first.run(request) for request in REQUESTS]
    backward = [second.run(request) for request in reversed(REQUESTS)][::-1]
    assert forward == backward
    assert [first.run(request) for request in REQUESTS] == forward
    assert not any("error" in answer for answer in forward)


def hooks(model: LanguageModel) -> int:
    modules = {*model.bridge.modules(), *model.bridge.original_model.modules()}
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_no_hook_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, laboratory = causal_model(), lab()
    ids = model.to_ids(causal_rows(2).ids)
    before, logits = hooks(model), model.logits(ids)
    for request in REQUESTS:
        laboratory.run(request)

    def broken(*args: object) -> object:
        raise RuntimeError("broken")

    monkeypatch.setattr(reading, "row_pairs", broken)
    with pytest.raises(RuntimeError, match="broken"):
        laboratory.run(REQUESTS[0])
    assert hooks(model) == before
    assert torch.equal(model.logits(ids), logits)


@pytest.fixture
def fed() -> Iterator[list[int]]:
    """Tokens that went through the first block, once the data are there."""
    causal_data()
    with tokens_fed(causal_model()) as counts:
        yield counts


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_the_cost_is_a_bound(request_: Request, fed: list[int]) -> None:
    laboratory = lab(data=dataclasses.replace(causal_data()))  # nothing is kept from another laboratory
    laboratory.run(request_)
    assert 0 < fed[0] <= laboratory.cost(request_) <= HEAD_TOOLS.cost(request_)


def test_a_head_alone_is_tallied_as_among_all() -> None:
    model = tiny_model("llama")
    rows = rows_of(model, n=12)
    rng = np.random.default_rng(0)
    masks = rng.random((3, *rows.rows.shape, rows.ids.shape[1])) < 0.2
    masks &= rows.rows[None, :, :, None] & rows.sources[None, :, None, :] & np.tri(rows.ids.shape[1], dtype=bool)
    for found in tally(model, rows, lambda _layer: masks, 4):
        for index in (0, 3):
            one = HeadTruth.of(model, rows, Head(layer=found.layer, index=index), 4).tally(masks)
            assert np.allclose(one.by_predicate[:, 0], found.by_predicate[:, index], rtol=1e-4, atol=1e-5)
            assert np.allclose(one.by_head[:, 0], found.by_head[:, index], rtol=1e-4, atol=1e-5)
