"""The detector explainer of neurons and latents: a description from measured rules alone, without a language model.

1. Of the rules that fire on the explain split, the simplest that is within SIMPLER of the best F1 is the claim.
2. Further rules with few false alarms become alternatives, joined by `or`, while that raises F1 on the rows of the
   examples, where the activation is known at every token. Several things can so be said of one unit.
3. What it does: tokens that its direction moves further than any random direction does, and tokens that lose or gain
   in most of its examples when it is taken out.
4. Dead and dense units, and those for which no rule fires, are abstentions with the reason.

Only evidence of the explain split is read. It is the baseline that every run with a language model is compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.errors import PredicateError
from autointerp.explain.outcome import Explanation
from autointerp.explain.predicate_words import in_words, quoted
from autointerp.feature_records import (
    ABLATED,
    ACTIVE,
    RESTING,
    FeatureEvidence,
    FeatureExample,
    FeatureReadout,
    RuleReading,
)
from autointerp.predicate import Predicate, TokenTable, evaluate_positions, parse_positional
from autointerp.records import Description, Provenance, TokenValue
from autointerp.stats.metrics import f1_from_counts

SIMPLER, GAIN = 0.05, 0.05  # of F1: what a richer rule, and another alternative, must add
CLEAN, MIN_RECALL = 0.8, 0.1  # precision and recall of a rule that may become an alternative
MOST_OF, MIN_EXAMPLES = 0.5, 5  # share of active examples, and how many, for a token that is always moved
LEAST = 0.02  # logits; a smaller change is none
MOST_CLAIMS, MOST_TOKENS = 4, 10
SIMPLICITY = ("token", "token_class", "position", "token_set", "repetition", "token_pair", "context")
STATES = {
    "dead": "It is never active on the explain split, so there is nothing to describe.",
    "dense": "It is active on more than half of all tokens, which no rule about tokens describes.",
}


class FeatureDetectorExplainer:
    """Fills a description from rules and read-out; asks nobody."""

    async def explain(self, evidence: FeatureEvidence) -> Explanation:
        return Explanation(outcome=describe_feature(evidence), provenance=Provenance(explainer="detectors"))


def describe_feature(evidence: FeatureEvidence) -> Description:
    """The detectors' description of one unit, or their abstention."""
    if (resting := undescribed(evidence)) is not None:
        return resting
    fired = [rule for rule in evidence.rules if rule.fires]
    claim = _simplest(fired)
    if claim is None:
        return _abstention(evidence, _closest(evidence.rules))
    rules = _alternatives(evidence, claim)
    claim = rules[0]
    predicate = _joined(rules)
    raises, lowers = moved_tokens(evidence)
    said = f"Active where {in_words(predicate)}."
    return Description(
        summary=said,
        looks_at=said,
        writes=_writes(evidence, raises, lowers),
        label=claim.name,
        labels=tuple(dict.fromkeys(rule.name for rule in (*rules, *fired))),
        predicate=str(predicate),
        conditions=f"active on {100 * evidence.stats.active_share.value:.2g} % of the tokens",
        counterexamples="" if len(rules) > 1 else _misses(claim),
        confidence=max(0.0, min(1.0, round(claim.f1, 4))),
        raises=raises,
        lowers=lowers,
    )


def undescribed(evidence: FeatureEvidence) -> Description | None:
    """The abstention for a dead or dense unit; None for one that can be described."""
    reason = STATES.get(evidence.stats.state)
    return None if reason is None else _abstained(reason, writes="unclear")


def moved_tokens(evidence: FeatureEvidence) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The next tokens that a unit raises and lowers: by its direction, then by what its examples lose without it."""
    up, down = _by_direction(evidence.readout)
    lost, gained = _without_it(evidence)
    raises, lowers = dict.fromkeys([*up, *lost]), dict.fromkeys([*down, *gained])
    return (
        tuple(token for token in raises if token not in lowers)[:MOST_TOKENS],
        tuple(token for token in lowers if token not in raises)[:MOST_TOKENS],
    )


def _by_direction(readout: FeatureReadout | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tokens that move further than random directions of the same norm move any token."""
    if readout is None:
        return (), ()

    def beyond(values: tuple[TokenValue, ...], sign: int) -> tuple[str, ...]:
        return tuple(v.token for v in values if sign * v.value > readout.random_max)

    return beyond(readout.up, 1), beyond(readout.down, -1)


def _without_it(evidence: FeatureEvidence) -> tuple[list[str], list[str]]:
    """Tokens among those that lose, and that gain, most logit in most of the active examples without the unit."""
    active = active_ablated(evidence.examples)
    if len(active) < MIN_EXAMPLES:
        return [], []

    def often(changes: list[tuple[TokenValue, ...]]) -> list[str]:
        counts = Counter(token for values in changes for token in {v.token for v in values if abs(v.value) >= LEAST})
        return [token for token, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if n > MOST_OF * len(active)]

    return often([e.lowered for e in active]), often([e.raised for e in active])


def active_ablated(examples: Sequence[FeatureExample]) -> list[FeatureExample]:
    """The examples in which the unit is active and that were also run without it."""
    return [e for e in examples if e.stratum in ABLATED and e.activations[e.dst] >= ACTIVE]


def _abstention(evidence: FeatureEvidence, reason: str) -> Description:
    return _abstained(reason, writes=_writes(evidence, *moved_tokens(evidence)))


def _abstained(reason: str, writes: str) -> Description:
    return Description(summary=reason, looks_at="unclear", writes=writes, label="unclear", abstained=True)


def _simplest(fired: list[RuleReading]) -> RuleReading | None:
    """The simplest of the rules that are about as good as the best."""
    best = max((rule.f1 for rule in fired), default=0.0)
    near = [rule for rule in fired if rule.f1 >= best - SIMPLER]
    return min(near, key=lambda rule: (_rank(rule), -rule.f1), default=None)


def _rank(rule: RuleReading) -> int:
    return SIMPLICITY.index(rule.name) if rule.name in SIMPLICITY else len(SIMPLICITY)


def _closest(rules: tuple[RuleReading, ...]) -> str:
    best = max((rule for rule in rules if rule.f1 == rule.f1), key=lambda rule: rule.f1, default=None)
    if best is None:
        return "No rule about tokens could be learned."
    return (
        f"No rule about tokens fires. The closest was {best.name}, {best.predicate}: F1 {best.f1:.2f}, "
        f"{best.null_max:.2f} on shuffled activations."
    )


def _misses(rule: RuleReading) -> str:
    return f"precision {rule.precision:.2f} and recall {rule.recall:.2f} on the explain split"


def _alternatives(evidence: FeatureEvidence, claim: RuleReading) -> list[RuleReading]:
    """The claim and the rules that add to it, best first."""
    rows, rules = ExampleRows(evidence), [claim]
    clean = [
        rule for rule in evidence.rules
        if rule is not claim and rule.precision >= CLEAN and rule.recall >= MIN_RECALL and rule.f1 > rule.null_max
    ]  # fmt: skip
    while clean and len(rules) < MOST_CLAIMS:
        reached = rows.f1(_joined(rules))
        gains = [(rows.f1(both), rule) for rule in clean if (both := _try_joined([*rules, rule])) is not None]
        best, rule = max(gains, key=lambda gain: gain[0], default=(0.0, claim))
        if not best >= reached + GAIN:
            break
        rules.append(rule)
        clean.remove(rule)
    return _needed(rows, rules)


def _needed(rows: ExampleRows, rules: list[RuleReading]) -> list[RuleReading]:
    """Without the rules that say nothing beside the others, such as one token of a set that is there too."""
    kept = rules
    for rule in rules:
        rest = [other for other in kept if other is not rule]
        named = rows.holds(_joined([rule]))
        if rest and named.any() and not (named & ~rows.holds(_joined(rest))).any():
            kept = rest
    return kept


def _joined(rules: list[RuleReading]) -> Predicate:
    """The rules joined by `or`. PredicateError: a rule of ours that does not parse is our error."""
    return parse_positional(" or ".join(f"({rule.predicate})" for rule in rules) if rules[1:] else rules[0].predicate)


def _try_joined(rules: list[RuleReading]) -> Predicate | None:
    """None where the joined rule is longer than a predicate may be."""
    try:
        return _joined(rules)
    except PredicateError:
        return None


@dataclass(frozen=True)
class ExampleRows:
    """The whole rows of a unit's examples with its activation at every token."""

    evidence: FeatureEvidence

    def holds(self, predicate: Predicate) -> Bool[np.ndarray, "row pos"]:
        """The positions that the predicate names; control tokens are none."""
        ids, lengths, table = self._rows
        return np.asarray(evaluate_positions(predicate, ids, lengths, table) & ~table.flags["is_special"][ids])

    def f1(self, predicate: Predicate) -> float:
        """F1 of the predicate over active against resting positions; NaN without an active one."""
        holds = self.holds(predicate)
        active, counted = self._states
        tp, fp = (holds & active).sum(), (holds & counted & ~active).sum()
        fn = (active & ~holds).sum()
        return float(f1_from_counts(*(np.array([float(n)]) for n in (tp, fp, fn)))[0])

    @cached_property
    def _rows(self) -> tuple[Int[np.ndarray, "row pos"], Int[np.ndarray, " row"], TokenTable]:
        rows = [_marked(example) for example in self._examples]
        known = {token: number for number, token in enumerate(dict.fromkeys(token for row in rows for token in row))}
        ids = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = [known[token] for token in row]
        control = tuple(number for (_, is_control), number in known.items() if is_control)
        table = TokenTable.from_strings([text for text, _ in known], control)
        return ids, np.array([len(row) for row in rows], np.int64), table

    @property
    def _examples(self) -> list[FeatureExample]:
        """One of the examples that show the same row."""
        return list({(e.doc_id, e.window): e for e in self.evidence.examples}.values())

    @cached_property
    def _states(self) -> tuple[Bool[np.ndarray, "row pos"], Bool[np.ndarray, "row pos"]]:
        """Where the unit is active, and where it is active or at rest; position 0 and control tokens are left out."""
        shares: Float[np.ndarray, "row pos"] = np.full(self._rows[0].shape, np.nan)
        for number, example in enumerate(self._examples):
            shares[number, : len(example.activations)] = example.activations
            shares[number, list(example.control)] = np.nan
        shares[:, :1] = np.nan
        active = shares >= ACTIVE
        return active, active | (shares <= RESTING)


def _marked(example: FeatureExample) -> list[tuple[str, bool]]:
    """Its tokens, and whether each is a control token, which text with the same letters is not."""
    control = frozenset(example.control)
    return [(token, place in control) for place, token in enumerate(example.tokens)]


def _writes(evidence: FeatureEvidence, raises: tuple[str, ...], lowers: tuple[str, ...]) -> str:
    readout = evidence.readout
    if not raises and not lowers:
        why = "cannot be read from its direction" if readout is None else "is not more than a random direction does"
        return f"What it does to single next tokens {why}, and differs from example to example."
    pairs = (("raises", raises), ("lowers", lowers))
    said = " and ".join(f"{verb} {', '.join(map(quoted, tokens))}" for verb, tokens in pairs if tokens)
    far = max((abs(v.value) for v in (*readout.up, *readout.down)), default=0.0) if readout is not None else 0.0
    if readout is None or far <= readout.random_max:
        return f"{said[:1].upper()}{said[1:]}, in most of its examples."
    return f"{said[:1].upper()}{said[1:]} (up to {far:.2f} logits; random directions reach {readout.random_max:.2f})."
