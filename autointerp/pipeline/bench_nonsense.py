"""Descriptions that say nothing true, scored and judged like any other: how often do they come out `supported`?

1. Shuffled: descriptions of other heads. Donors are heads whose predicted pairs have IoU < .5 on select with this
   head's description and with what was planted, and whose label is not true of this head: a twin is no nonsense.
2. Vague and over-broad: fixed rules that say next to nothing.
3. Random weights: the run's own descriptions on a randomly initialised model of the same shape.
4. All rules of a layer are tallied in one pass. Each claim then meets the chance line, the run's real descriptions as
   the shuffle, the positional rivals and ablation, and gets the verdict that a described head would get.

The token-identity rival and the conditional ablation are left out: they could only refuse more of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from autointerp.model import LanguageModel, Layer
from autointerp.predicate import TokenTable
from autointerp.records import Description, Domain, Head, Interval, Score, Unscored, Verdict
from autointerp.scoring.ablation import ablate_heads
from autointerp.scoring.predicate_score import TWIN, Contest, HeadTallies, Overlap, score_predicate
from autointerp.scoring.predicted import GENERIC, POSITIONAL_RIVALS, PredictedPairs, overlap
from autointerp.scoring.suite import SuiteSpec
from autointerp.scoring.tallies import tally
from autointerp.scoring.verdict import judge
from autointerp.stats.bootstrap import Resamples

SHUFFLED, VAGUE_EACH, BROAD_EACH = 3, 2, 1  # claims a head
VAGUE = {name: rule for name, rule in GENERIC.items() if name != "punctuation"} | {"words": "src.is_word"}
BROAD = {
    "everything": "distance >= 0",
    "everything before": "distance >= 1",
    "all of the text": "src.position >= 1",
    "near or far": "distance <= 64",
    "anything but signs": "not src.is_punctuation",
}


@dataclass(frozen=True)
class Claim:
    """A description to be judged: of what kind it is, and whom it is ascribed to."""

    head: Head
    kind: str
    name: str  # a donor, or what the rule is called
    predicate: str
    domain: Domain = "text"


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict and the numbers behind it; NaN where there is none."""

    claim: Claim
    verdict: Verdict
    reason: str
    score: float
    coverage: float


@dataclass(frozen=True)
class Known:
    """A head's description in the run (None: it has no rule) and what is true of it, as far as that is known."""

    label: str
    predicate: str | None
    domain: Domain
    true_labels: frozenset[str] = frozenset()
    true_predicate: str | None = None


def nonsense_claims(spec: SuiteSpec, heads: Sequence[Head], known: Mapping[Head, Known]) -> list[Claim]:
    """Shuffled, vague and over-broad claims of every head, drawn under the spec's seed."""
    table = TokenTable.from_strings(spec.model.strings, spec.model.special_ids)
    donors = _Donors(PredictedPairs(spec.held_out.select["text"], table), known)
    found: list[Claim] = []
    for head in heads:
        generator = np.random.default_rng([spec.seed, 11, head.layer, head.index])
        usable = donors.of(head)
        for k in generator.permutation(len(usable))[:SHUFFLED]:
            donor, lent = usable[int(k)]
            _assert_other(head, donor)
            found.append(Claim(head, "shuffled", str(donor), lent, known[donor].domain))
        for kind, rules, n in (("vague", VAGUE, VAGUE_EACH), ("over-broad", BROAD, BROAD_EACH)):
            names = [list(rules)[int(k)] for k in generator.permutation(len(rules))[:n]]
            found += [Claim(head, kind, name, rules[name]) for name in names]
    return found


def _assert_other(head: Head, donor: Head) -> None:
    """A head's own description is no control of it."""
    if head == donor:
        raise ValueError(f"{head} was to be controlled with its own description")


class _Donors:
    """Who may lend a description to whom."""

    def __init__(self, pairs: PredictedPairs, known: Mapping[Head, Known]) -> None:
        self._known = known
        rules = {rule for k in known.values() for rule in (k.predicate, k.true_predicate) if rule is not None}
        self._names = sorted(rule for rule in rules if not pairs.only_sink(rule))
        self._overlap = overlap(pairs.masks(self._names)) if self._names else np.zeros((0, 0))

    def of(self, head: Head) -> list[tuple[Head, str]]:
        """Donors and what they lend, each rule once."""
        own = self._known[head]
        mine = [rule for rule in (own.predicate, own.true_predicate) if rule in self._names]
        found: dict[str, Head] = {}
        for donor, other in sorted(self._known.items()):
            rule = other.predicate
            if rule is None or rule not in self._names or donor == head or other.label in own.true_labels:
                continue
            if all(self._iou(rule, one) < TWIN for one in mine):
                found.setdefault(rule, donor)
        return [(donor, rule) for rule, donor in found.items()]

    def _iou(self, one: str, other: str | None) -> float:
        return 0.0 if other is None else float(self._overlap[self._names.index(one), self._names.index(other)])


def judge_claims(spec: SuiteSpec, claims: Sequence[Claim], real: Sequence[str]) -> list[Judged]:
    """Verdicts of all claims; `real` are the run's own predicates, the donors of their shuffled control."""
    found: list[Judged] = []
    for domain in spec.held_out.test:
        inside = [claim for claim in claims if claim.domain == domain]
        if inside:
            found += _Domain(spec, domain, inside, tuple(dict.fromkeys(real))).judged()
    return found


class _Domain:
    def __init__(self, spec: SuiteSpec, domain: Domain, claims: Sequence[Claim], real: Sequence[str]) -> None:
        self._spec, self._domain, self._claims, self._real = spec, domain, claims, real
        self._table = TokenTable.from_strings(spec.model.strings, spec.model.special_ids)
        self._select = PredictedPairs(spec.held_out.select[domain], self._table)
        self._test = PredictedPairs(spec.held_out.test[domain], self._table)
        self._resamples = Resamples.of(self._test.held_out.n_documents, spec.seed)

    def judged(self) -> list[Judged]:
        effects = self._effects()
        model, batch = self._spec.model, self._spec.batch_size
        lists = {layer: self._names(layer) for layer in range(model.n_layers)}
        selects = tally(model, self._select.held_out, lambda n: self._select.masks(lists[n]), batch)
        tests = tally(model, self._test.held_out, lambda n: self._test.masks(lists[n]), batch)
        found: list[Judged] = []
        for select, test in zip(selects, tests, strict=True):
            names = lists[test.layer]
            overlaps = Overlap(overlap(self._select.masks(names)), overlap(self._test.masks(names)))
            for claim in self._of_layer(test.layer):
                splits = HeadTallies(select, claim.head.index), HeadTallies(test, claim.head.index)
                contest = self._contest(claim.predicate, names)
                score = score_predicate(*splits, contest, overlaps, self._resamples, self._domain)
                found.append(_verdict(claim, score, effects[claim]))
        return found

    def _of_layer(self, layer: int) -> list[Claim]:
        return [claim for claim in self._claims if claim.head.layer == layer]

    def _names(self, layer: int) -> list[str]:
        own = [claim.predicate for claim in self._of_layer(layer)]
        return list(dict.fromkeys([*own, *self._real, *POSITIONAL_RIVALS.values(), *GENERIC.values()]))

    def _contest(self, own: str, names: list[str]) -> Contest:
        index = {name: i for i, name in enumerate(names)}
        return Contest(
            own=index[own],
            rivals={name: index[rule] for name, rule in POSITIONAL_RIVALS.items()},
            others={},
            donors=tuple(index[rule] for rule in self._real if rule != own),
            generic=tuple(index[rule] for rule in GENERIC.values() if rule != own),
        )

    def _effects(self) -> dict[Claim, Interval]:
        rows = self._spec.ablation[self._domain]
        heads = tuple(sorted({claim.head for claim in self._claims}))
        effects = ablate_heads(self._spec.model, rows, heads, self._spec.z_mean, self._spec.seed)
        pairs = PredictedPairs(rows, self._table)
        return {c: effects.mean(c.head, "kl", pairs.destinations(c.predicate)) for c in self._claims}


def _verdict(claim: Claim, score: Score | Unscored, effect: Interval) -> Judged:
    said = Description(
        summary=claim.name,
        looks_at=claim.name,
        writes="",
        label="other",
        predicate=claim.predicate,
        domain=claim.domain,
    )
    scores, unscored = ((score,), ()) if isinstance(score, Score) else ((), (score,))
    judgement = judge(said, scores, unscored, effect)
    numbers = (judgement.score, judgement.coverage)
    return Judged(claim, judgement.verdict, judgement.reason, *(float("nan") if x is None else x for x in numbers))


def mean_z(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], lengths: Int[np.ndarray, " window"], batch_size: int
) -> Float64[np.ndarray, "layer head d_head"]:
    """Each head's mean z over the real positions of some windows, the first left out."""
    sums: dict[int, np.ndarray] = {}
    inside = (np.arange(ids.shape[1]) < lengths[:, None]) & (np.arange(ids.shape[1]) > 0)
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)

        def add(layer: Layer, part: slice = part) -> None:
            z = layer.z.double().cpu().numpy()[inside[part]]
            sums[layer.index] = sums.get(layer.index, 0.0) + z.sum(0)

        model.read_attention(model.to_ids(ids[part]), list(range(model.n_layers)), add)
    return np.asarray(np.stack([sums[layer] for layer in range(model.n_layers)]) / inside.sum())
