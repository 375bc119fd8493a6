"""What is known of a unit without an experiment on texts: its measurements, and its direction read by the weights."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.agent.arguments import Ov
from autointerp.agent.feature_arguments import UnitMeasurements
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.plain import Plain, number, token, values
from autointerp.errors import BadInput, ModelError
from autointerp.explain.feature_view import feature_view
from autointerp.feature_records import FeatureEvidence, FeatureStats, RuleReading

NO_DIRECTION = "the unit's direction does not reach the residual stream straight; use steer or ablate"


def measurements(subject: FeatureSubject, asked: UnitMeasurements) -> Plain:
    """Parts of the evidence, all of a part where it is asked for alone."""
    evidence, everything = subject.evidence, asked.data == "all"
    found: Plain = {}
    if asked.data in ("all", "rules"):
        found |= _rules(evidence.rules, 4 if everything else 9)
    if asked.data in ("all", "tokens"):
        found |= _tokens(evidence.stats, 6 if everything else 20)
    if asked.data in ("all", "output"):
        found |= _output(evidence, 4 if everything else 8)
    return found


def _rules(rules: Sequence[RuleReading], most: int) -> Plain:
    """Those that fire first, then by F1."""
    known = sorted((rule for rule in rules if rule.f1 == rule.f1), key=lambda rule: (not rule.fires, -rule.f1))
    shown = [
        [rule.name, rule.predicate, number(rule.f1), number(rule.precision), number(rule.recall), number(rule.coverage),
         number(rule.null_max), rule.fires]
        for rule in known[:most]
    ]  # fmt: skip
    columns = ["kind", "predicate", "f1", "precision", "recall", "coverage", "f1_on_shuffled", "fires"]
    return {"rule_columns": columns, "rules": shown, "rules_not_shown": max(0, len(known) - most)}


def _tokens(stats: FeatureStats, most: int) -> Plain:
    columns = ["token", "part_of_activation", "of_text", "active", "occurs"]
    shown = [
        [token(one.token), number(one.part), number(one.base_rate), one.active, one.rows]
        for one in stats.top_tokens[:most]
    ]
    return {
        "active_share_of_tokens": number(stats.active_share.value), "above_0_share_of_tokens": number(stats.density),
        "token_columns": columns, "tokens_with_most_activation": shown,
    }  # fmt: skip


def _output(evidence: FeatureEvidence, most: int) -> Plain:
    """[token, logits] of the direction, and of what changed in the examples without the unit."""
    read, view = evidence.readout, feature_view(evidence, ())["output"]
    found: Plain = {"raised": None, "lowered": None}
    if read is not None:
        found = {"raised": values(read.up, most), "lowered": values(read.down, most),
                 "largest_of_random_directions": number(read.random_max)}  # fmt: skip
    for name in ("without_unit_lowered", "without_unit_raised"):
        found[name] = [[token(one["token"]), one["logits"]] for one in view[name][:most]]
    return {"output": found | {"loss_without_unit": view["loss_without_unit"]}}


def direction(subject: FeatureSubject, asked: Ov) -> Plain:
    """Centred logits of some tokens, straight through the final norm, with the unit at its usual maximum."""
    model, reader, facts = subject.model, subject.data.direction, subject.facts
    if reader is None or reader.readout is None:
        raise BadInput(NO_DIRECTION)
    ids = [subject.token_id(text) for text in asked.tokens]
    site, index = subject.data.units.place(subject.unit)
    try:
        written = subject.data.units.sites[site].into_stream(model, [index])[0] * facts.reference * facts.sign
    except ModelError:
        raise BadInput(NO_DIRECTION) from None
    logits = reader.logits(written[None])[0]
    return {
        "unit": "centred logits at the usual maximum",
        "largest_of_random_directions": number(reader.random * float(written.norm())),
        "tokens": [
            {
                "token": token(model.strings[i]), "logits": number(float(logits[i])),
                "percentile": number(100 * float((logits < logits[i]).double().mean())),
            }
            for i in ids
        ],
    }  # fmt: skip
