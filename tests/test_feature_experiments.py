"""The agent's experiments on neurons and latents whose function is known: numbers by hand and by hooked forwards."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from autointerp.agent.feature_laboratory import FeatureLabData, FeatureLaboratory
from autointerp.agent.feature_reading import strength
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.feature_trials import MOST_EFFECTS, FeatureTrial
from autointerp.agent.picking import heaviest, in_turns
from autointerp.agent.standing import standing_of
from autointerp.features.activations import read_activations
from autointerp.features.effects import UnitPlace, unit_effects
from autointerp.features.units import load_units
from autointerp.model import LanguageModel
from autointerp.planted.features import PlantedFeatures, load_planted_features
from autointerp.planted.neurons import NEURONS
from autointerp.predicate import TokenTable
from autointerp.records import Feature, Score
from autointerp.scoring.feature_rows import UnitFacts, scored
from autointerp.scoring.feature_suite import FeatureSuite, FeatureSuiteSpec
from autointerp.scoring.held_out import HeldOutRows, text_rows
from autointerp.scoring.steering_directions import RANDOM, Directions
from autointerp.scoring.token_identity import ExplainRows
from tests.causal_model import ids_of
from tests.feature_lab_helpers import (
    TEXT,
    asked,
    fed,
    fresh,
    hooked,
    items,
    lab,
    latent_data,
    latent_site,
    neuron_data,
    random_data,
    run,
    run_on,
    some_evidence,
)
from tests.neuron_model import DOG, SEVERAL, Neurons, neuron, neuron_model, neuron_rows
from tests.test_feature_scores import facts_of, said, silent, spec_of
from tests.test_scoring import rows_of
from tests.tiny_models import tiny_model

IS_DOG = 'dst.text == " dog"'
IS_SEVERAL = 'dst.lower in {"cat", "red", "blue"}'
POST = "blocks.0.mlp.hook_post"


def share_of(unit: Feature, text: str) -> np.ndarray:
    """A neuron's share of its reference at each token of a text, from a hooked forward."""
    model, held = neuron_model(), []
    with model.hooks([(POST, lambda tensor, hook: held.append(tensor[0, :, unit.index].float().numpy()))]):
        model.logits(torch.tensor([fed(model, text)]))
    facts = neuron_data().facts[unit]
    return np.asarray(held[0] * facts.sign / facts.reference)


# -- texts ---------------------------------------------------------------------------------------------------


def test_activate_shows_the_strength_at_the_mark_and_the_other_active_tokens() -> None:
    text = "the dog sat on red dog . cat ran"
    found = run(neuron(1), "activate", texts=[{"text": text, "mark": "red"}, {"text": text}])["rows"]
    shares = share_of(neuron(1), text)
    tokens = [neuron_model().strings[i] for i in fed(neuron_model(), text)]
    red, cat, last = tokens.index(" red"), tokens.index(" cat"), len(tokens) - 1
    assert [row["at"] for row in found] == [" red", " ran"]
    assert found[0]["strength"] == pytest.approx(10 * shares[red], rel=1e-2)
    assert found[0]["active_tokens"] == [[" cat", cat - red, strength(float(shares[cat]))]]
    assert found[1]["strength"] == pytest.approx(10 * max(shares[last], 0), abs=2e-3)
    assert [(name, away) for name, away, _ in found[1]["active_tokens"]] == [(" red", red - last), (" cat", cat - last)]
    # below 0 is 0: neuron 3 is active below 0, and its sign is not turned here
    assert run(neuron(3), "activate", texts=[{"text": "the dog"}])["rows"][0]["strength"] == 0


def test_of_many_active_tokens_the_strongest_stand_in_the_order_of_the_text() -> None:
    text = "cat red blue cat cat red cat cat cat ran"
    row = run(neuron(1), "activate", texts=[{"text": text}])["rows"][0]
    shares = share_of(neuron(1), f"{text}")
    places = [away for _, away, _ in row["active_tokens"]]
    assert len(places) == 6 and places == sorted(places)
    last = len(shares) - 1
    weakest = min(shares[last + away] for away in places)
    left = [at for at in range(1, last) if at - last not in places]
    assert all(shares[at] <= weakest for at in left)


def test_an_edit_turns_the_unit_off_and_its_mark_stays() -> None:
    found = run(neuron(0), "edit", text=TEXT, mark="dog", replace="dog", by="cat")
    assert (found["before"]["at"], found["after"]["at"]) == (" dog", " cat")
    shares = share_of(neuron(0), TEXT)
    assert found["changed"] == {
        "strength": pytest.approx(-10 * shares.max(), rel=1e-2), "was_active": True, "is_active": False,
    }  # fmt: skip
    far = run(neuron(0), "edit", text=TEXT, mark="dog", replace="cat sat", by="red")
    assert far["after"]["at"] == " dog"
    assert far["changed"]["is_active"] and far["changed"]["strength"] == pytest.approx(0, abs=0.01)


def test_ablation_takes_the_planted_token_away() -> None:
    model, unit = neuron_model(), neuron(0)
    found = run(unit, "ablate", texts=[{"text": TEXT, "mark": "dog"}, {"text": TEXT, "mark": "mat"}])["rows"]
    ids = fed(model, TEXT)
    dst = [model.strings[i] for i in ids].index(" dog")
    facts, shares = neuron_data().facts[unit], share_of(unit, TEXT)
    change = torch.zeros(6)
    change[0] = facts.mean - float(shares[dst]) * facts.reference
    before, after = hooked(model, ids, POST, dst, change)
    kl = float((before.exp() * (before - after)).sum())
    assert found[0]["kl"] == pytest.approx(kl, rel=1e-2)
    assert found[0]["strength"] == pytest.approx(10 * shares[dst], rel=1e-2)
    name, with_unit, without = found[0]["lose"][0]
    ran = ids_of(("ran",))[0]
    assert name == " ran"
    assert [with_unit, without] == pytest.approx([float(before[ran].exp()), float(after[ran].exp())], rel=1e-2)
    assert with_unit > 10 * without
    assert found[1]["kl"] < kl / 100  # it rests there
    assert run(neuron(2), "ablate", texts=[{"text": TEXT, "mark": "dog"}])["rows"][0]["kl"] == pytest.approx(
        0, abs=1e-6
    )


def test_a_whole_bos_free_text_is_fed_as_it_is() -> None:
    model = dataclasses.replace(neuron_model(), bos_id=None)
    laboratory = FeatureLaboratory(model, neuron(0), some_evidence(neuron(0)), fresh(neuron_data()))
    rows = laboratory.run(asked("activate", texts=[{"text": " dog cat dog"}, {"text": " dog", "mark": " dog"}]))["rows"]
    assert [row["strength"] > 9 for row in rows] == [True, True]  # type: ignore[attr-defined]
    assert [token for token, _, _ in rows[0]["active_tokens"]] == []  # type: ignore[index]  # the first is no row
    assert "first position" in rows[1]["note"]  # type: ignore[index]


@pytest.mark.parametrize("strength_", [4, 8])
def test_steering_raises_the_planted_token_more_than_random_directions(strength_: int) -> None:
    model, unit = neuron_model(), neuron(0)
    found = run(unit, "steer", texts=[{"text": TEXT}, {"text": TEXT, "mark": "mat"}], strength=strength_)["rows"]
    ids = fed(model, TEXT)
    dst, facts = len(ids) - 1, neuron_data().facts[unit]
    change = torch.zeros(6)
    change[0] = strength_ * facts.reference
    before, after = hooked(model, ids, POST, dst, change)
    ran = ids_of(("ran",))[0]
    name, low, high = found[0]["rise"][0]
    assert name == " ran"
    assert [low, high] == pytest.approx([float(before[ran].exp()), float(after[ran].exp())], rel=1e-2)
    assert found[0]["kl"] == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-2)
    directions = Directions(FeatureSubject(model, unit, some_evidence(unit), neuron_data()).reading, [unit], 0)
    bank = directions._bank[directions._hooks.index("blocks.0.hook_mlp_out")]
    kls = []
    for vector in bank:
        clean, moved = hooked(model, ids, "blocks.0.hook_mlp_out", dst, strength_ * facts.reference * vector)
        kls.append(float((clean.exp() * (clean - moved)).sum()))
    assert len(kls) == RANDOM
    assert found[0]["kl_of_random_directions"] == pytest.approx(max(kls), rel=1e-2)
    assert all(row["kl"] > row["kl_of_random_directions"] for row in found)


def test_steering_a_turned_unit_goes_below_zero() -> None:
    """Neuron 3 writes against `park` below 0: turned round, its direction lowers `park` no more but raises it."""
    down = facts_of()[neuron(3)]
    turned = fresh(neuron_data(), facts=neuron_data().facts | {neuron(3): UnitFacts(down.mean, 1.0, -1)})
    for data, name in ((turned, "fall"), (fresh(neuron_data()), "rise")):
        row: Any = lab(neuron(3), data).run(asked("steer", texts=[{"text": "the mat"}], strength=4))["rows"]
        assert " park" in [token for token, _, _ in row[0][name]]


def test_the_direction_is_read_at_its_usual_maximum() -> None:
    found = run(neuron(0), "direction", tokens=["ran", " cat"])
    ran, cat = found["tokens"]
    assert (ran["token"], cat["token"]) == (" ran", " cat")
    assert ran["percentile"] > 99 and ran["logits"] > 5 * abs(cat["logits"])
    model, facts, reader = neuron_model(), neuron_data().facts[neuron(0)], neuron_data().direction
    assert reader is not None
    written = model.bridge.blocks[0].mlp.W_out[0].detach().float() * facts.reference
    assert ran["logits"] == pytest.approx(float(reader.logits(written[None])[0, ids_of(("ran",))[0]]), rel=1e-2)
    assert found["largest_of_random_directions"] == pytest.approx(reader.random * float(written.norm()), rel=1e-2)
    for none in (None, dataclasses.replace(reader, readout=None, why_not="no")):
        error = lab(neuron(0), fresh(neuron_data(), direction=none)).run(asked("direction", tokens=["ran"]))["error"]
        assert "does not reach" in str(error)
    behind_a_norm = dataclasses.replace(model, direct_writes=False)
    laboratory = FeatureLaboratory(behind_a_norm, neuron(0), some_evidence(neuron(0)), neuron_data())
    assert "does not reach" in str(laboratory.run(asked("direction", tokens=["ran"]))["error"])


def test_strengths_tell_labels_apart_or_do_not() -> None:
    animals = [
        {"text": f"{word} {last}", "label": last} for word in ("the", "old", "new", "blue") for last in ("dog", "cat")
    ]
    found = run(neuron(0), "separate", items=animals)
    assert (found["items"], found["auc"]) == (8, 1.0)
    assert found["mean_strength"]["dog"] > 9 and found["mean_strength"]["cat"] == pytest.approx(0, abs=0.01)
    assert found["p"] < 0.08
    # one item of four above the other label, the others tie at 0: (1 + 1/2 * ...) by hand below
    mixed = [{"text": f"the {word}", "label": label}
             for word, label in zip(("dog", *["mat"] * 7), "aaaabbbb", strict=True)]  # fmt: skip
    by_hand = 0.5 + (4 * 1 + 12 * 0) / 16 / 2  # the dog is above all four of b, the three others are equal to them
    one = run(neuron(0), "separate", items=mixed)
    assert one["auc"] == pytest.approx(by_hand, abs=1e-3)
    assert one["p"] > 0.5
    other = run(neuron(0), "separate", items=items(lambda word: "long" if len(word) > 3 else "short", 24))
    assert other["p"] > 0.05 and other["shuffled_highest"] >= other["auc"]
    swapped = run(neuron(0), "separate", items=[item | {"label": "ba"[item["label"] == "b"]} for item in mixed])
    assert swapped["auc"] == one["auc"]


# -- real rows -----------------------------------------------------------------------------------------------


def test_top_rows_are_the_strongest_with_what_is_lost_there() -> None:
    found = run(neuron(0), "rows", kind="top", n=5)
    rows = neuron_data().explain_rows
    raw = read_activations(neuron_model(), Neurons(), [neuron(0)], rows.ids, rows.lengths)[:, :, 0]
    there = (np.arange(rows.ids.shape[1]) > 0) & (np.arange(rows.ids.shape[1]) < rows.lengths[:, None])
    assert found["matching"] == found["of"] == there.sum()
    facts = neuron_data().facts[neuron(0)]
    best = np.where(there, raw, -1)
    windows = np.argsort(-best.max(1), kind="stable")[:5]
    assert [row["strength"] for row in found["rows"]] == pytest.approx(
        [10 * best[w].max() / facts.reference for w in windows], rel=1e-2
    )
    places = [
        UnitPlace(
            neuron(0), int(w), int(best[w].argmax()), float(facts.mean - best[w].max()),
            int(rows.ids[w, best[w].argmax() + 1]) if best[w].argmax() + 1 < rows.lengths[w] else None,
        )
        for w in windows
    ]  # fmt: skip
    effects = unit_effects(neuron_model(), Neurons(), rows.ids, places, 8)
    assert [row["kl_without"] for row in found["rows"]] == pytest.approx([e.kl for e in effects], rel=1e-2)
    lost = [np.nan if row["lost_log_prob"] is None else row["lost_log_prob"] for row in found["rows"]]
    assert lost == pytest.approx([e.dlogp_next for e in effects], rel=1e-2, nan_ok=True)
    assert found["rows"][0]["activation_percentile"] == 100
    assert all(row["text"].endswith("> dog<") for row in found["rows"])


def test_rows_are_filtered_by_token_and_predicate() -> None:
    rows = neuron_data().explain_rows
    real = (np.arange(rows.ids.shape[1]) > 0) & (np.arange(rows.ids.shape[1]) < rows.lengths[:, None])
    dogs = int(((rows.ids == ids_of((DOG,))[0]) & real).sum())
    some = run(neuron(0), "rows", kind="random", token="dog", n=5)
    assert some["matching"] == dogs and all(row["text"].endswith("> dog<") for row in some["rows"])
    named = run(neuron(1), "rows", kind="top", predicate=IS_SEVERAL)
    left = run(neuron(1), "rows", kind="top", predicate=IS_SEVERAL, holds=False)
    assert named["matching"] == (np.isin(rows.ids, ids_of(SEVERAL)) & real).sum()
    assert named["matching"] + left["matching"] == named["of"]
    assert min(row["strength"] for row in named["rows"]) > 3 > max(row["strength"] for row in left["rows"])
    assert run(neuron(1), "rows", kind="top", token="dog", predicate=IS_SEVERAL) == {
        "matching": 0, "of": named["of"], "rows": [],
    }  # fmt: skip


def test_a_row_at_the_end_of_a_text_has_no_next_token() -> None:
    rows, dog = neuron_data().explain, ids_of((DOG,))[0]
    there = np.flatnonzero((rows.ids[:, 2:20] == dog).any(1))[:6]
    first = (rows.ids[there, 2:20] == dog).argmax(1) + 2
    data = fresh(neuron_data(), explain=ExplainRows(rows.ids[there], first + 1))
    found: Any = lab(neuron(0), data).run(asked("rows", kind="top", n=4))
    assert [row["lost_log_prob"] for row in found["rows"]] == [None] * 4
    assert all(row["kl_without"] > 0.1 for row in found["rows"])


def test_contrast_rows_rest_on_tokens_that_are_active_elsewhere() -> None:
    model = tiny_model("llama")
    data = random_data(model, rows_of(model, n=12))
    counts = []
    for unit in data.facts:
        found: Any = FeatureLaboratory(model, unit, some_evidence(unit), data).run(asked("rows", kind="contrast"))
        rows, facts = data.explain_rows, data.facts[unit]
        raw = read_activations(model, data.units, [unit], rows.ids, rows.lengths)[:, :, 0]
        share = facts.sign * raw / facts.reference
        real = (np.arange(rows.ids.shape[1]) > 0) & (np.arange(rows.ids.shape[1]) < rows.lengths[:, None])
        real &= ~np.isin(rows.ids, model.special_ids)
        active = set(rows.ids[real & (share >= 0.3)].tolist())
        resting = real & (share <= 0.02)
        assert found["matching"] == sum(int(token) in active for token in rows.ids[resting])
        counts.append(found["matching"])
        assert all(row["strength"] <= 0.2 for row in found["rows"])
    assert min(counts) > 0


# -- predicates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "predicate"),
    [(0, IS_DOG), (1, 'dst.lower in {"cat", "dog"}'), (2, "dst.is_word"), (4, 'dst.lower in {"the", "a", "cat"}')],
)
def test_a_score_is_the_one_that_the_suite_gives_for_these_rows(unit: int, predicate: str) -> None:
    rows = neuron_data().select_rows
    test = dataclasses.replace(rows, split="test")
    spec = spec_of(("predicate",), select=rows, test=test, twin=None, alike={})
    suite = FeatureSuite(spec, silent).score({neuron(unit): said(predicate)}, {})[neuron(unit)]
    wanted: Score = next(s for s in suite.scores if s.scorer == "predicate")
    found = run(neuron(unit), "score_predicate", predicate=predicate)
    for name in ("value", "low", "high", "chance"):
        assert found[name] == pytest.approx(getattr(wanted, name), rel=6e-3), name
    for name in ("precision", "recall", "coverage", "enrichment"):
        value = wanted.details[name]
        assert isinstance(value, float) and found[name] == pytest.approx(value, rel=6e-3, abs=1e-3), name
    assert (found["metric"], found["n_rows"], found["n_documents"]) == (wanted.metric, wanted.n_items, wanted.n_docs)
    assert found["nulls_beaten"] == all(c.beaten for c in wanted.controls if c.kind == "null")
    rival = next(c for c in wanted.controls if c.kind == "rival")
    if rival.name == found["rival"]["rule"]:
        assert found["rival"]["value"] == pytest.approx(rival.value, rel=6e-3, abs=1e-3)
        assert found["rival"].get("same_rule", False) == rival.same_rule
    if not rival.same_rule:
        assert found["rival"]["rule"] == rival.name
        assert found["rival"]["difference"] == pytest.approx([rival.low, rival.high], rel=6e-3, abs=1e-3)


def test_a_unit_that_is_active_in_all_degrees_is_scored_as_by_the_suite() -> None:
    """Of a random model: what lies between rest and active is in no group, token identity has a threshold to find."""
    model = tiny_model("llama")
    data = random_data(model, rows_of(model, n=40))
    rows, claim = data.select_rows, "dst.is_word and dst.position <= 12"
    test = dataclasses.replace(rows, split="test")
    spec = FeatureSuiteSpec(model, data.units, data.facts, rows, test, data.explain, 0, 8, ("predicate",), None, {})
    suite = FeatureSuite(spec, silent).score(dict.fromkeys(data.facts, said(claim)), {})
    identities = 0
    for unit in data.facts:
        found: Any = FeatureLaboratory(model, unit, some_evidence(unit), data).run(
            asked("score_predicate", predicate=claim)
        )
        wanted = next(s for s in suite[unit].scores if s.scorer == "predicate")
        assert found["value"] == pytest.approx(wanted.value, rel=6e-3, abs=1e-3)
        rival = next(c for c in wanted.controls if c.kind == "rival")
        identities += rival.name == found["rival"]["rule"] == "token identity"
        if rival.name == found["rival"]["rule"]:
            assert found["rival"]["value"] == pytest.approx(rival.value, rel=6e-3, abs=1e-3)
        share = data.shares(model, unit, "select")
        mask = data.named.mask(claim)
        silent_ = found["predicted_but_silent"]
        assert (silent_["rows"], silent_["of_predicted"]) == ((mask & (share <= 0.02)).sum(), mask.sum())
        missed = found["active_but_unpredicted"]
        active = scored(rows) & (share >= 0.3)
        assert (missed["rows"], missed["of_active"]) == ((active & ~mask).sum(), active.sum())
        above = np.where(scored(rows) & (share > 0.02), share, 0)
        assert missed["activation_unexplained"] == pytest.approx(1 - above[mask].sum() / above.sum(), abs=2e-3)
        other = run_on(model, unit, data, "disagree", first=claim, second="dst.position <= 20")
        only = data.named.mask("dst.position <= 20") & ~mask
        assert other["silent_named_by_second_only"] == (only & (share <= 0.02)).sum()
        assert other["active_named_by_second_only"] == (only & active).sum()
    assert identities >= 2


def test_standings_follow_from_the_answer() -> None:
    settled = run(neuron(0), "score_predicate", predicate=IS_DOG)
    assert settled["rival"] == {"rule": "token identity", "value": 1.0, "same_rule": True}
    assert standing_of(settled)[0] == "settled"
    idle = run(neuron(2), "score_predicate", predicate=IS_DOG)
    assert idle["right_place_no_effect"]["rows"] == idle["right_place_no_effect"]["of_tested"] == MOST_EFFECTS
    assert standing_of(idle)[0] == "open"
    half = run(neuron(1), "score_predicate", predicate='dst.lower in {"cat"}')
    assert half["rival"]["rule"] == "token identity" and half["rival"]["difference"][1] < 0
    assert standing_of(half)[0] == "refuted"
    assert standing_of(run(neuron(0), "score_predicate", predicate='dst.text == " cat"'))[0] == "refuted"
    assert standing_of(run(neuron(5), "score_predicate", predicate=IS_DOG))[0] == "unscored"


def test_failures_come_in_their_groups() -> None:
    found = run(neuron(1), "score_predicate", predicate='dst.lower in {"cat", "dog"}')
    rows = neuron_data().select_rows
    count = {
        word: int(((rows.ids == ids_of((word,))[0]) & scored(rows)).sum()) for word in ("cat", "red", "blue", "dog")
    }
    silent_, missed = found["predicted_but_silent"], found["active_but_unpredicted"]
    assert (silent_["rows"], silent_["of_predicted"]) == (count["dog"], count["dog"] + count["cat"])
    assert all(s["text"].endswith("> dog<") and s["strength"] <= 0.2 for s in silent_["samples"])
    assert (missed["rows"], missed["of_active"]) == (
        count["red"] + count["blue"], count["cat"] + count["red"] + count["blue"],
    )  # fmt: skip
    assert missed["activation_unexplained"] == pytest.approx(1 - found["coverage"], abs=2e-3)
    assert {s["text"].rpartition(">")[2] for s in missed["samples"][:2]} == {" red<", " blue<"}
    assert found["right_place_no_effect"] == {"rows": 0, "of_tested": min(MOST_EFFECTS, count["cat"]), "samples": []}
    resting = run(neuron(1), "score_predicate", predicate=IS_DOG)["right_place_no_effect"]
    assert resting == {"rows": 0, "of_tested": 0, "samples": []}  # named, but never active


def test_effects_are_those_of_the_evidence() -> None:
    data, model = neuron_data(), neuron_model()
    trial = FeatureTrial(FeatureSubject(model, neuron(1), some_evidence(neuron(1)), data))
    window, dst = np.array([0, 3, 3]), np.array([5, 2, 18])
    raw = read_activations(model, Neurons(), [neuron(1)], trial.rows.ids, trial.rows.lengths)[window, dst, 0]
    mean = data.facts[neuron(1)].mean
    places = [
        UnitPlace(neuron(1), int(w), int(d), float(mean - a), None) for w, d, a in zip(window, dst, raw, strict=True)
    ]
    expected = unit_effects(model, Neurons(), trial.rows.ids, places, 8)
    assert trial.effects(window, dst) == pytest.approx([e.kl for e in expected], rel=1e-3, abs=1e-6)


def test_disagreeing_predicates_are_told_apart() -> None:
    found = run(neuron(1), "disagree", first='dst.lower in {"cat", "red"}', second='dst.lower in {"cat", "dog"}', n=5)
    rows = neuron_data().select_rows
    count = {
        word: int(((rows.ids == ids_of((word,))[0]) & scored(rows)).sum()) for word in ("cat", "red", "blue", "dog")
    }
    assert {name: value for name, value in found.items() if name != "samples"} == {
        "rows": int(scored(rows).sum()), "rows_where_they_differ": count["red"] + count["dog"],
        "active_rows": count["cat"] + count["red"] + count["blue"], "named_by_both": count["cat"],
        "active_named_by_first_only": count["red"], "active_named_by_second_only": 0,
        "silent_named_by_first_only": 0, "silent_named_by_second_only": count["dog"],
    }  # fmt: skip
    assert len(found["samples"]) == 5
    for sample in found["samples"]:
        word = sample["text"].rpartition(">")[2]
        assert (sample["first"], sample["second"]) == ((True, False) if word == " red<" else (False, True))
        assert (sample["strength"] > 3) == (word == " red<")


def test_measurements_are_those_of_the_evidence() -> None:
    unit = neuron(0)
    evidence, found = some_evidence(unit), {d: run(unit, "measurements", data=d) for d in ("rules", "tokens", "output")}
    assert [row[0] for row in found["rules"]["rules"]] == [
        r.name for r in sorted(evidence.rules, key=lambda r: (not r.fires, -r.f1))
    ]
    assert found["tokens"]["active_share_of_tokens"] == pytest.approx(evidence.stats.active_share.value, rel=1e-2)
    assert len(found["tokens"]["tokens_with_most_activation"]) == len(evidence.stats.top_tokens)
    assert evidence.readout is not None
    assert found["output"]["output"]["raised"][0] == [evidence.readout.up[0].token, evidence.readout.up[0].value]
    assert set(run(unit, "measurements")) == {name for part in found.values() for name in part}
    blank = evidence.model_copy(update={"readout": None, "rules": (), "examples": ()})
    empty: Any = FeatureLaboratory(neuron_model(), unit, blank, neuron_data()).run(asked("measurements"))
    assert empty["output"]["raised"] is None and empty["rules"] == []


def test_the_heaviest_places_come_in_turns_of_documents_and_tokens() -> None:
    window, dst, weight = np.array([0, 0, 1, 2]), np.array([1, 2, 3, 4]), np.array([0.9, 0.8, 0.7, 0.1])
    documents, tokens = [(0,), (0,), (1,), (2,)], [(5,), (6,), (5,), (7,)]
    group = heaviest(window, dst, weight, (documents, tokens), 9)
    assert (group.dst.tolist(), group.of) == ([1, 4, 2, 3], 9)  # 2 and 3 repeat a document and a token
    assert group.first(2) == [(0, 1), (2, 4)]
    assert in_turns(np.array([3, 1, 0, 2]), np.array([0, 0, 1, 2])).tolist() == [3, 1, 2, 0]


# -- latents, contexts, test rows ----------------------------------------------------------------------------


def test_latents_are_asked_about_like_neurons() -> None:
    data, site = latent_data(), latent_site()
    laboratory = lab(site.unit(0), data)
    model = neuron_model()
    score = laboratory.run(asked("score_predicate", predicate=IS_DOG))
    assert score["value"] == 1 and standing_of(score)[0] == "settled"
    row: Any = laboratory.run(asked("ablate", texts=[{"text": TEXT, "mark": "dog"}]))["rows"]
    assert row[0]["lose"][0][0] == " ran"
    ids = fed(model, TEXT)
    dst, facts = [model.strings[i] for i in ids].index(" dog"), data.facts[site.unit(0)]
    held: list[torch.Tensor] = []
    with model.hooks([(site.hook, lambda tensor, hook: held.append(site.read(tensor)[0, dst, 0]))]):
        model.logits(torch.tensor([ids]))
    assert site.decoder is not None
    change = (facts.mean - float(held[0])) * site.decoder[0]
    before, after = hooked(model, ids, "blocks.0.hook_attn_out", dst, change)
    assert row[0]["kl"] == pytest.approx(float((before.exp() * (before - after)).sum()), rel=1e-2)
    steered: Any = laboratory.run(asked("steer", texts=[{"text": "the mat"}], strength=4))["rows"]
    assert steered[0]["rise"][0][0] == " ran" and steered[0]["kl"] > steered[0]["kl_of_random_directions"]
    tokens: Any = laboratory.run(asked("direction", tokens=["ran"]))["tokens"]
    assert tokens[0]["percentile"] > 99


def planted_data(model: LanguageModel, units: Any, wanted: tuple[Feature, ...]) -> FeatureLabData:
    """Rows of the planted corpus."""
    from autointerp.planted.corpus import documents

    texts = [text for text, _ in zip(documents(), range(80), strict=False)]
    rows = [np.array(fed(model, text)[:64]) for text in texts]
    ids, lengths = np.zeros((len(rows), 64), np.int64), np.array([len(row) for row in rows])
    for window, row in enumerate(rows):
        ids[window, : len(row)] = row
    select = text_rows(ids[40:], lengths[40:], np.arange(40), "select", model.special_ids)
    raw = read_activations(model, units, wanted, ids[:40], lengths[:40])
    facts = {f: UnitFacts(float(raw[..., n].mean()), float(np.sort(raw[:, 1:, n].max(1))[-16:].mean()))
             for n, f in enumerate(wanted)}  # fmt: skip
    table = TokenTable.from_strings(model.strings, model.special_ids)
    return FeatureLabData(ExplainRows(ids[:40], lengths[:40]), select, units, facts, table, None, wanted=wanted)


@pytest.mark.slow
def test_a_unit_that_asks_for_the_token_before_rests_without_it() -> None:
    model, planted = load_planted_features(3)[0], PlantedFeatures.of(3)
    units = load_units("neurons", model)
    pairs = [n for n, neuron_ in enumerate(planted.neurons) if neuron_.truth.kind == "token_pair"]
    wanted = tuple(Feature(kind="neuron", layer=n // NEURONS, index=n % NEURONS) for n in pairs)
    data = planted_data(model, units, wanted)
    settled = 0
    for unit, n in zip(wanted, pairs, strict=True):
        truth = planted.neurons[n].truth.predicate
        laboratory = FeatureLaboratory(model, unit, some_evidence(unit), data)
        score: Any = laboratory.run(asked("score_predicate", predicate=truth))
        if "value" not in score:
            continue
        settled += standing_of(score)[0] == "settled"
        contrast: Any = laboratory.run(asked("rows", kind="contrast", n=5))
        assert all(row["strength"] <= 0.2 for row in contrast["rows"])
        named = laboratory.run(asked("rows", kind="contrast", predicate=truth))
        assert named["matching"] == 0  # nowhere does the rule hold and the unit rest
        alone: Any = laboratory.run(asked("rows", kind="top", predicate=truth, holds=False, n=1))
        assert alone["rows"][0]["strength"] < 3
        if contrast["matching"]:
            where = contrast["rows"][0]["text"].rpartition(">")[2][:-1]
            found: Any = laboratory.run(asked("rows", kind="top", token=where, n=1))
            assert found["rows"][0]["strength"] > 3  # it is active on that token elsewhere
    assert settled >= 3


def test_test_rows_are_no_data_of_a_laboratory() -> None:
    names = {field.name for field in dataclasses.fields(FeatureLabData)}
    assert not any("test" in name for name in names) and {"explain", "select"} <= names
    from autointerp.errors import BadInput

    with pytest.raises(BadInput, match="select split only"):
        fresh(neuron_data(), select=neuron_rows("test", 4, 1))
    with pytest.raises(BadInput, match="0 explain windows"):
        fresh(neuron_data(), explain=ExplainRows(np.zeros((0, 4), np.int64), np.zeros(0, np.int64)))


def test_a_group_of_units_is_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from autointerp.agent import feature_subject
    from autointerp.scoring.feature_rows import Reading

    read: list[tuple[Feature, ...]] = []
    whole = Reading.parts

    def parts(self: Reading, features: Any, rows: Any) -> Any:
        read.append(tuple(features))
        return whole(self, features, rows)

    monkeypatch.setattr(Reading, "parts", parts)
    data = fresh(neuron_data())
    score = asked("score_predicate", predicate=IS_DOG)
    answers = [lab(neuron(k), data).run(score) for k in range(6)]
    assert read == [tuple(neuron(k) for k in range(6))] * 2  # once on select, once on explain
    read.clear()
    monkeypatch.setattr(feature_subject, "CELLS", 2 * data.select_rows.ids.size)
    small = fresh(neuron_data())
    assert [lab(neuron(k), small).run(score) for k in range(6)] == answers
    assert max(map(len, read)) == 2
    alone = fresh(neuron_data(), wanted=())
    assert [lab(neuron(k), alone).run(score) for k in (3, 0)] == [answers[3], answers[0]]


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from autointerp.agent import feature_subject, trials

    rows: HeldOutRows = neuron_rows("select", 40, 1)
    monkeypatch.setattr(feature_subject, "EXPLAIN_TOKENS", 10 * rows.ids.shape[1])
    monkeypatch.setattr(trials, "SELECT_TOKENS", 12 * rows.ids.shape[1])
    data = fresh(neuron_data())
    assert len(data.explain_rows.ids) == 10 and len(data.select_rows.ids) == 12
    found = lab(neuron(0), data).run(asked("disagree", first="dst.is_word", second=IS_DOG))
    assert found["rows"] == scored(data.select_rows).sum() < scored(rows).sum()
    assert lab(neuron(0), data).run(asked("rows", kind="random"))["of"] < 10 * rows.ids.shape[1]
    json.dumps(found)
