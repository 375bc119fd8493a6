"""Scores of neurons and latents: sums by hand, a model whose neurons do known things, and what must not pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autointerp.features.activations import read_activations
from autointerp.model import UnitSite, neuron_site
from autointerp.predicate import TokenTable
from autointerp.records import Description, Failure, Feature, Score
from autointerp.scoring.contest import f1, totals_of
from autointerp.scoring.destinations import match_nearly
from autointerp.scoring.feature_ablation import ablate_units
from autointerp.scoring.feature_conditional import FeatureClaim, FeatureConditional
from autointerp.scoring.feature_rivals import POSITION_RIVALS, WRONG, TokenRates
from autointerp.scoring.feature_rows import NamedRows, Reading, UnitFacts, active_tokens, iou, scored
from autointerp.scoring.feature_suite import FeatureScores, FeatureSuite, FeatureSuiteSpec, Shuffle
from autointerp.scoring.feature_tallies import UnitActivity, UnitTallies, tally, tally_each
from autointerp.scoring.head_values import RowFacts
from autointerp.scoring.held_out import text_rows
from autointerp.scoring.matching import Kind
from autointerp.scoring.random_weights import twin_of
from autointerp.scoring.steering_directions import Directions
from autointerp.scoring.token_identity import ExplainRows
from autointerp.scoring.twin_units import twin_facts
from autointerp.scoring.unit_outcomes import Field, Vocabulary
from autointerp.scoring.verdict import judge
from tests.causal_model import ids_of
from tests.neuron_model import DOG, Neurons, Sites, neuron, neuron_model, neuron_rows
from tests.tiny_models import tiny_model

ALL = ("predicate", "conditional_ablation", "steering", "ablation")


def silent(stage: str, done: int, of: int) -> None:
    """No progress."""


def said(predicate: str | None, raises: tuple[str, ...] = (), lowers: tuple[str, ...] = ()) -> Description:
    return Description(
        summary="s", looks_at="a", writes="w", label="token", predicate=predicate, raises=raises, lowers=lowers
    )


def explain_rows() -> ExplainRows:
    rows = neuron_rows("test", 60, 3)
    return ExplainRows(rows.ids, rows.lengths)


def facts_of() -> dict[Feature, UnitFacts]:
    """Mean, sign and reference of the six neurons on explain rows."""
    rows, features = explain_rows(), [neuron(k) for k in range(6)]
    raw = read_activations(neuron_model(), Neurons(), features, rows.ids, rows.lengths)
    real = (np.arange(rows.ids.shape[1]) > 0) & (np.arange(rows.ids.shape[1]) < rows.lengths[:, None])
    found = {}
    for k, feature in enumerate(features):
        highest = np.sort(np.where(real, raw[:, :, k], -np.inf).max(1))[-16:]
        found[feature] = UnitFacts(float(raw[:, :, k][real].mean()), max(float(highest.mean()), 1e-9))
    return found


def spec_of(scorers: tuple[str, ...], **changes: object) -> FeatureSuiteSpec:
    given: dict[str, object] = {
        "model": neuron_model(), "units": Neurons(), "facts": facts_of(), "select": neuron_rows("select", 40, 1),
        "test": neuron_rows("test", 60, 2), "explain": explain_rows(), "seed": 0, "scorers": scorers,
        "twin": twin_of(neuron_model(), 0), "alike": {neuron(0): (neuron(1), neuron(2))},
    }  # fmt: skip
    return FeatureSuiteSpec(**(given | changes))  # type: ignore[arg-type]


SAID = {
    neuron(0): said('dst.text == " dog"', (" ran",)),
    neuron(1): said('dst.lower in {"cat", "red", "blue"}', (" ball",), (" park",)),
    neuron(2): said('dst.text == " dog"', (" ran",)),
    neuron(3): said('dst.text == " mat"', (" park",)),
    neuron(4): said("dst.text == ", (" nowhere",)),
    neuron(5): Failure(stage="explain", reason="no reply"),
}


@pytest.fixture(scope="module")
def found() -> dict[Feature, FeatureScores]:
    return FeatureSuite(spec_of(ALL), silent).score(SAID, {neuron(0): said("dst.is_word")})


def score_of(scores: FeatureScores, scorer: str) -> Score:
    return next(s for s in scores.scores if s.scorer == scorer)


def why(scores: FeatureScores, scorer: str) -> str:
    return next(u.reason for u in scores.unscored if u.scorer == scorer)


def verdict(found: dict[Feature, FeatureScores], feature: Feature) -> str:
    scores = found[feature]
    return judge(SAID[feature], tuple(scores.scores), tuple(scores.unscored), scores.effect).verdict


def test_true_descriptions_are_supported_and_an_idle_twin_is_not(found: dict[Feature, FeatureScores]) -> None:
    assert [verdict(found, neuron(k)) for k in range(4)] == ["supported", "supported", "partly", "refuted"]
    idle = score_of(found[neuron(2)], "conditional_ablation")
    assert idle.details["supported"] == "no"
    assert score_of(found[neuron(2)], "predicate").value == 1


def test_the_predicate_score_holds_nulls_rivals_and_tiers(found: dict[Feature, FeatureScores]) -> None:
    score = score_of(found[neuron(0)], "predicate")
    assert (score.metric, score.value, score.details["coverage"]) == ("f1", 1, pytest.approx(1))
    assert score.chance == pytest.approx(2 * score.prevalence / (1 + score.prevalence))
    kinds = {c.name: c for c in score.controls}
    assert {c.kind for c in score.controls if c.name in ("chance line", "random-weights model")} == {"null"}
    assert kinds["token identity"].same_rule  # the neuron is a token, and says so
    assert kinds["detector text"].beaten
    assert any(name.startswith("generic descriptions") for name in kinds)  # three other rules are no shuffle
    rows = neuron_rows("test", 60, 2)
    several = np.isin(rows.ids, ids_of(("cat", "red", "blue"))) & scored(rows)
    assert score.details["negatives_T2"] == several.sum()
    assert score.details["retrieval_rank"] == 1.5  # its idle twin is active where it is
    wrong = score_of(found[neuron(3)], "predicate")
    assert wrong.value < wrong.chance


def test_units_without_a_usable_description_say_why(found: dict[Feature, FeatureScores]) -> None:
    for scorer in ("predicate", "conditional_ablation"):
        assert "its predicate cannot be read" in why(found[neuron(4)], scorer)
        assert why(found[neuron(5)], scorer) == "the description failed (explain)"
    assert "in the vocabulary" in why(found[neuron(4)], "steering")
    assert not found[neuron(5)].scores
    assert found[neuron(5)].kl.value == pytest.approx(0, abs=1e-6)


def test_ablation_at_named_rows_carries_the_effect_and_its_sign(found: dict[Feature, FeatureScores]) -> None:
    score = score_of(found[neuron(0)], "conditional_ablation")
    assert (score.details["supported"], score.details["design"]) == ("yes", "destination")
    assert float(score.details["share"]) > 0.9
    assert score.details["sign"] == 1
    assert all(c.beaten for c in score.controls)
    assert found[neuron(0)].effect.low > 0.1
    wrong = score_of(found[neuron(3)], "conditional_ablation")
    assert wrong.details["supported"] == "no"


def test_steering_raises_the_claimed_token_and_only_that(found: dict[Feature, FeatureScores]) -> None:
    score = score_of(found[neuron(0)], "steering")
    assert score.metric == "logit_change"
    assert score.low > 1
    assert all(c.beaten for c in score.controls)
    curve = [float(score.details[f"logit_change_at_{s}"]) for s in (1, 2, 4, 8)]
    assert curve == sorted(curve)
    assert score.value == curve[-1]
    idle = score_of(found[neuron(2)], "steering")
    assert idle.value == pytest.approx(0, abs=1e-4)
    assert not any(c.beaten for c in idle.controls)
    both = score_of(found[neuron(1)], "steering")
    assert (both.details["claimed_raised"], both.details["claimed_lowered"]) == (1, 1)


def test_a_wrong_token_does_not_rise() -> None:
    claims = {neuron(0): said('dst.text == " dog"', (" park",)), neuron(1): said("dst.is_word", (" ball",))}
    found = FeatureSuite(spec_of(("steering",)), silent).score(claims, {})
    assert not all(c.beaten for c in score_of(found[neuron(0)], "steering").controls)
    assert all(c.beaten for c in score_of(found[neuron(1)], "steering").controls)


def test_a_description_of_everything_has_nothing_to_compare_with() -> None:
    claims = {neuron(0): said("dst.position >= 0"), neuron(2): said("dst.position >= 0")}
    found = FeatureSuite(spec_of(("conditional_ablation",)), silent).score(claims, {})
    score = score_of(found[neuron(0)], "conditional_ablation")
    assert (score.state, score.details["supported"]) == ("always_active", "yes")
    assert score.details["share"] == pytest.approx(1)
    assert score.low > 1e-4
    assert found[neuron(0)].effect.value > 0.05
    assert score_of(found[neuron(2)], "conditional_ablation").details["supported"] == "no"
    unmatched = {name for name in score_of(found[neuron(0)], "conditional_ablation").details if "unmatched" in name}
    assert unmatched == {"unmatched_rows", "shuffled_unmatched_rows"}


def test_whole_ablation_equals_hooked_forwards() -> None:
    model, rows, facts = neuron_model(), neuron_rows("test", 8, 5), facts_of()
    reading = Reading(model, Neurons(), facts, 8)
    named = NamedRows(rows, TokenTable.from_strings(model.strings, model.special_ids))
    features = [neuron(k) for k in range(3)]
    found = ablate_units(reading, features, rows, lambda f, r: named.mask('dst.text == " dog"'), 0, silent)
    for feature in features:

        def to_mean(held: torch.Tensor, hook: object, feature: Feature = feature) -> torch.Tensor:
            changed = held.clone()
            changed[:, 1:, feature.index] = facts[feature].mean
            return changed

        ids = model.to_ids(rows.ids)
        before = torch.log_softmax(model.logits(ids), -1)
        with model.hooks([("blocks.0.mlp.hook_post", to_mean)]):
            after = torch.log_softmax(model.logits(ids), -1)
        place = scored(rows) & (np.arange(rows.ids.shape[1]) < rows.lengths[:, None] - 1)
        lost = (before - after)[:, :-1].gather(2, ids[:, 1:, None])[..., 0].numpy()
        kl = (before.exp() * (before - after)).sum(-1).numpy()
        result = found[feature]
        assert result.loss.value == pytest.approx(lost[place[:, :-1]].mean(), abs=1e-5)
        assert result.kl.value == pytest.approx(kl[place].mean(), abs=1e-5)
        assert result.kl.n == place.sum()
        dog = place & (rows.ids == ids_of((DOG,))[0])
        assert result.effect.value == pytest.approx(kl[dog].mean(), abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_units_that_are_ablated_together_are_each_ablated_alone(kind: str) -> None:
    """In the second layer too: what runs as one batch starts from the stream there, not from the embedding."""
    model = tiny_model(kind)
    assert model.exact_resume and model.shortcuts.tiled
    site = neuron_site(model, 1)
    ids = np.random.default_rng(0).integers(3, model.d_vocab, (3, 16))
    rows = text_rows(ids, np.full(3, 16), np.arange(3), "test", model.special_ids)
    features = [site.unit(k) for k in range(4)]
    facts = {f: UnitFacts(0.3, 2.0, -1 if f.index % 2 else 1) for f in features}
    found = ablate_units(Reading(model, Sites((site,)), facts, 8), features, rows, lambda f, r: None, 0, silent)
    before = torch.log_softmax(model.logits(model.to_ids(ids)), -1)
    place = scored(rows) & (np.arange(16) < 15)
    for feature in features:

        def to_mean(held: torch.Tensor, hook: object, feature: Feature = feature) -> torch.Tensor:
            changed = held.clone()
            changed[:, 1:, feature.index] = 0.3
            return changed

        with model.hooks([(site.hook, to_mean)]):
            after = torch.log_softmax(model.logits(model.to_ids(ids)), -1)
        kl = (before.exp() * (before - after)).sum(-1).numpy()
        assert found[feature].kl.value == pytest.approx(kl[place].mean(), rel=1e-3, abs=1e-6)


def test_a_unit_that_was_dead_on_the_explain_split_is_ablated_where_it_is_active() -> None:
    """Its reference is 0, and its mean too."""
    model, rows = neuron_model(), neuron_rows("test", 8, 5)
    dead = {neuron(0): UnitFacts(0.0, 0.0)}
    alive = {neuron(0): UnitFacts(0.0, 2.0)}
    of = [
        ablate_units(Reading(model, Neurons(), facts, 8), [neuron(0)], rows, lambda f, r: None, 0, silent)[neuron(0)]
        for facts in (dead, alive)
    ]
    assert of[1].kl.value > 1e-3
    assert of[0].kl.value == pytest.approx(of[1].kl.value, rel=1e-4)


def test_sums_of_positions_by_hand() -> None:
    """Two documents of one window, one of two windows; position 0 never counts."""
    ids = np.array([[1, 7, 8, 7], [1, 9, 8, 9], [1, 7, 7, 7]])
    rows = text_rows(ids, np.array([4, 3, 4]), np.array([0, 0, 1]), "test", (9,))
    share = np.array([[[9, 0.5, 0.01, -0.2], [9, 0.9, 0.1, 0.9], [9, 0.0, 1.0, 0.02]]], np.float32)
    alike = np.zeros(share.shape, bool)
    alike[0, 2, 1] = True
    mask = np.zeros((2, 3, 4), bool)
    mask[0, 0, 1:] = mask[1, 2, 1:] = True
    sums = tally(UnitActivity(rows, share, alike), mask)
    first, second = (UnitTallies(sums, 0).of(k) for k in range(2))
    # rows: (0: .5 .01 -.2) (1: only position 2, .1, in the dead zone; 9 is a control token) (2: 0 1 .02)
    assert {k: v.tolist() for k, v in first.items() if k in ("tp", "fp", "predicted", "fp_same_token")} == {
        "tp": [1, 0], "fp": [2, 0], "predicted": [3, 0], "fp_same_token": [1, 0],
    }  # fmt: skip
    assert second["fp_neighbour"].tolist() == [0, 1]
    assert first["positives"].tolist() == [1, 1]
    assert first["negatives"].tolist() == [2, 2]
    assert first["pairs"].tolist() == [4, 3]
    assert first["same_token"].tolist() == [1, 2]
    np.testing.assert_allclose(first["sum_a"], [0.61, 1.02], atol=1e-6)
    np.testing.assert_allclose(first["contribution"], [0.6, 1.0], atol=1e-6)
    np.testing.assert_allclose(first["covered"], [0.5, 0], atol=1e-6)
    np.testing.assert_allclose(first["mass_positive"], [0.5, 1.0], atol=1e-6)
    assert f1({k: v[None] for k, v in totals_of(first).items()})[0] == pytest.approx(2 / (2 + 2 + 1))
    own, totals = tally_each(UnitActivity(rows, share, alike), mask[:1])
    np.testing.assert_allclose(own[:, 0], sums.by_predicate[:, 0, 0])
    np.testing.assert_allclose(totals, sums.by_unit)


def test_token_rates_are_shrunk_to_the_unit_and_know_no_other_token() -> None:
    rates = TokenRates.of([np.array([5, 5, 5]), np.array([], np.int64)], np.array([5, 5, 5, 5, 6, 6, 6, 6]))
    assert rates.base.tolist() == [3 / 8, 0]
    places = rates.places(np.array([[5, 6, 7]]))
    expected = [(3 + 2 * 3 / 8) / (4 + 2), (0 + 2 * 3 / 8) / (4 + 2), 3 / 8]
    np.testing.assert_allclose(rates.predicted(0, places)[0], expected)
    assert rates.predicted(1, places).tolist() == [[0, 0, 0]]


def test_active_tokens_are_those_of_active_rows() -> None:
    reading = Reading(neuron_model(), Neurons(), facts_of(), 8)
    tokens = active_tokens(reading, [neuron(0), neuron(5), neuron(1)], explain_rows(), 0.3)
    dog = ids_of((DOG,))[0]
    assert set(tokens[0].tolist()) == {dog}
    rows = neuron_rows("test", 60, 3)
    assert len(tokens[0]) == ((rows.ids == dog) & scored(rows)).sum()
    assert len(tokens[1]) == 0
    assert set(tokens[2].tolist()) == set(ids_of(("cat", "red", "blue")))


def test_overlap_counts_named_rows() -> None:
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 0]]], bool)
    np.testing.assert_allclose(iou(masks, [0, 2])[[0, 2]], [[1, 1 / 3, 0], [0, 0, 1]], atol=1e-6)


def test_fixed_rules_can_be_read_and_differ() -> None:
    model, rows = neuron_model(), neuron_rows("select", 10, 1)
    named = NamedRows(rows, TokenTable.from_strings(model.strings, model.special_ids))
    masks = named.masks([*POSITION_RIVALS.values(), *WRONG.values()])
    assert masks[0].sum() == scored(rows).sum()  # always
    assert not masks[:, ~scored(rows)].any()


def test_a_shuffled_description_names_other_rows() -> None:
    model, rows = neuron_model(), neuron_rows("select", 20, 1)
    named = NamedRows(rows, TokenTable.from_strings(model.strings, model.special_ids))
    dog, same = 'dst.text == " dog"', 'dst.lower == "dog"'
    shuffle = Shuffle(named, {neuron(0): dog, neuron(1): same}, 0)
    other = shuffle.of(dog)
    assert other in WRONG.values()  # the two others are one rule
    assert iou(named.masks([dog, str(other)]), [0])[0, 1] < 0.5


def test_facts_of_the_twin_are_its_own() -> None:
    model = neuron_model()
    reading = Reading(model, Neurons(), facts_of(), 8)
    rows = explain_rows()
    facts = twin_facts(reading, model, rows, [neuron(0), neuron(5)])
    assert facts[neuron(0)].reference == pytest.approx(facts_of()[neuron(0)].reference, rel=1e-4)
    assert facts[neuron(5)].reference < 1e-3
    assert twin_facts(reading, None, rows, [neuron(0)]) == {}


def test_matching_is_loosened_only_as_far_as_needed() -> None:
    def kind(frequency: list[float], n_class: int) -> Kind:
        n = len(frequency)
        fixed = np.zeros(n, np.int64)
        classes = {"frequency": np.full(n, n_class), "position": fixed, "entropy": fixed}
        values = {"frequency": np.array(frequency), "position": np.ones(n), "entropy": np.linspace(0, 1, n)}
        return Kind(classes, values)

    rng = np.random.default_rng(0)
    near, said_near = match_nearly(kind([1.0] * 6, 0), kind([1.0] * 40, 0), rng)
    assert said_near == "frequency, position, entropy"
    common, said_common = match_nearly(kind([9.0] * 6, 4), kind([1.0] * 40, 0), rng)
    assert (len(common), said_common) == (6, "classes of position, entropy")
    assert len(near) >= 3


def test_claimed_tokens_are_found_as_descriptions_write_them() -> None:
    words = Vocabulary(neuron_model())
    ran = ids_of(("ran",))[0]
    assert words.ids(" ran") == [ran]
    assert ran in words.ids("  ran ")
    assert words.ids("nowhere") == []
    assert words.ids(" ") == [neuron_model().strings.index(" ")]
    claim = words.claimed(said(None, (" ran", " ball", "zzz"), (" ball",)))
    assert (claim.tokens.tolist(), claim.signs.tolist(), claim.missing) == ([ran], [1.0], 1)


def test_random_directions_have_the_norm_that_the_unit_writes() -> None:
    reading = Reading(neuron_model(), Neurons(), facts_of(), 8)
    directions = Directions(reading, [neuron(0), neuron(1)], 0)
    by_hook = dict(zip(directions._hooks, directions._bank, strict=True))
    assert set(by_hook) == {"blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"}
    np.testing.assert_allclose(by_hook["blocks.0.hook_mlp_out"].norm(dim=1), 0.5, rtol=1e-5)
    assert by_hook["blocks.0.mlp.hook_post"].sum() == 2


def test_a_unit_that_means_more_below_zero_is_turned_and_goes_to_its_mean() -> None:
    """In a gated layer activations have both signs: shares turn them, ablation turns them back."""
    model = tiny_model("llama")
    site = neuron_site(model, 0)
    units, rows = Sites((site,)), text_rows(
        np.random.default_rng(0).integers(3, model.d_vocab, (30, 16)), np.full(30, 16), np.arange(30), "test",
        model.special_ids,
    )  # fmt: skip
    feature = site.unit(5)
    raw = read_activations(model, units, [feature], rows.ids, rows.lengths)[:, :, 0]
    facts = {feature: UnitFacts(float(raw.mean()), 2.0, -1)}
    shares = Reading(model, units, facts, 8).shares([feature], rows)
    np.testing.assert_allclose(shares[0], -raw / 2, atol=1e-6)
    place = Field(model, units, rows, RowFacts.of(model, rows, 8))
    conditional = FeatureConditional(place, facts, 0)
    named = np.zeros(raw.shape, bool)
    named[:, 4:8] = True
    plans = conditional._plans(feature, shares[0], FeatureClaim(named, None, None))
    cases = conditional._cases(feature, shares[0], [plan for plan, _ in plans.values()])
    np.testing.assert_allclose(raw[cases.window, cases.dst] + cases.amount, raw.mean(), atol=1e-5)
    plan = plans[feature, "own"][0]
    assert named[plan.cases["named"]].all()
    assert not named[plan.cases["destination_0"]].any()
    above = shares[0] > 0.02
    assert above[plan.cases["above"]].all()
    assert not above[plan.cases["rest"]].any()
    assert sum(plan.sizes) == scored(rows).sum()
    down = twin_facts(Reading(model, units, facts, 8), model, ExplainRows(rows.ids, rows.lengths), [feature])[feature]
    extremes = [np.sort(np.maximum(side[:, 1:], 0).max(1))[-16:].mean() for side in (raw, -raw)]
    assert down.reference == pytest.approx(max(extremes), rel=1e-5)
    assert down.sign == (1 if extremes[0] >= extremes[1] else -1)


def test_latents_are_scored_like_neurons() -> None:
    """One latent of the stream that reads a neuron's token and writes what the neuron writes."""
    model = neuron_model()
    stream = torch.cat([model.bridge.blocks[0].mlp.W_in[:, :1].T, torch.zeros(1, 128)])
    direction = torch.cat([model.bridge.blocks[0].mlp.W_out[:1], torch.zeros(1, 128)]).detach().float()
    bias = torch.tensor([-5.5, -1.0])
    site = UnitSite(
        "latent", 0, "resid_mid", 2, 128, lambda x: torch.relu(x @ stream.T.detach().float() + bias), direction
    )
    latent = site.unit(0)
    facts = {latent: UnitFacts(0.4, 2.5)}
    spec = spec_of(ALL, units=Sites((site,)), facts=facts, alike={})
    found = FeatureSuite(spec, silent).score({latent: said('dst.text == " dog"', (" ran",))}, {})[latent]
    assert score_of(found, "predicate").value == 1
    assert score_of(found, "conditional_ablation").details["supported"] == "yes"
    assert all(c.beaten for c in score_of(found, "steering").controls)
    assert found.kl.low > 0
