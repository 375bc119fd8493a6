"""Predicate scores of neurons and latents on text.

1. Predicates of all descriptions, the positional programs, fixed wrong descriptions and a seeded pool of donors are
   decided on the select and test rows.
2. Units are read in groups that fit in memory; each one's predicate meets its rivals and nulls on the same document
   resamples (`contest`). Token identity is learned on the explain split, its threshold chosen on select.
3. Each predicate is scored on the same unit of a model with random weights: a null. Sign and reference of that unit
   are its own, from explain windows.
4. Some predicates of the run are scored on every unit: where a unit stands among all (`retrieval`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, Int

from autointerp.errors import PredicateError
from autointerp.feature_records import ACTIVE
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Description, Failure, Feature, Score, Unscored
from autointerp.scoring.contest import Contest, Overlap, Sums, divide, f1, score_contest, totals_of
from autointerp.scoring.feature_rivals import POSITION_RIVALS, WRONG, TokenRates, best_threshold
from autointerp.scoring.feature_rows import NamedRows, Reading, UnitFacts, active_tokens, iou, ordinary
from autointerp.scoring.feature_tallies import (
    OF_PREDICATE,
    OF_UNIT,
    PositionTallies,
    UnitActivity,
    UnitTallies,
    tally,
    tally_each,
    with_totals,
)
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicates import DETECTOR_TEXT, Progress
from autointerp.scoring.predicted import predicate_of, some_predicates
from autointerp.scoring.random_weights import MISSING, Twin
from autointerp.scoring.retrieval import Retrieval
from autointerp.scoring.token_identity import ExplainRows
from autointerp.scoring.twin_units import twin_facts
from autointerp.stats.bootstrap import Resamples

SCORER = "predicate"
DONORS, RETRIEVED = 12, 40
TOGETHER = 16  # units that are tallied together
KEPT_CELLS = 100_000_000  # shares of a group of units, over select and test rows
MIN_DONORS, MIN_TIER = 5, 20
Outcomes = Mapping[Feature, Description | Failure]


@dataclass(frozen=True, eq=False)
class FeaturePredicateSpec:
    """What predicate scores of neurons and latents need. `alike`: for each unit the units most like it, whose facts
    are known too; `explain`: windows from which rivals learn."""

    reading: Reading
    select: HeldOutRows
    test: HeldOutRows
    explain: ExplainRows
    table: TokenTable
    seed: int
    twin: Twin | None = None
    alike: Mapping[Feature, Sequence[Feature]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Group:
    """Some units with their shares on both splits, select and test."""

    features: tuple[Feature, ...]
    select: UnitActivity
    test: UnitActivity
    places: tuple[Int[np.ndarray, "window pos"], Int[np.ndarray, "window pos"]]  # of tokens in the table of rates
    random: UnitActivity | None  # on test, of the model with random weights


class FeaturePredicateScorers:
    """Predicate scores of one run's units."""

    def __init__(self, spec: FeaturePredicateSpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self.select, self.test = (NamedRows(rows, spec.table) for rows in (spec.select, spec.test))
        self._resamples = Resamples.of(spec.test.n_documents, spec.seed)

    def readable(self, outcomes: Outcomes) -> tuple[dict[Feature, str], dict[Feature, Unscored]]:
        """The predicates of the descriptions that have one, and why one cannot be used."""
        claims: dict[Feature, str] = {}
        lost: dict[Feature, Unscored] = {}
        for feature, outcome in sorted(outcomes.items()):
            predicate = predicate_of(outcome)
            if predicate is None:
                continue
            try:
                self.select.mask(predicate)
                claims[feature] = predicate
            except PredicateError as error:
                lost[feature] = Unscored(scorer=SCORER, reason=f"its predicate cannot be read: {error}"[:300])
        return claims, lost

    def score(self, claims: Mapping[Feature, str], rivals: Outcomes) -> dict[Feature, Score | Unscored]:
        """The score of every claim; `rivals` are the detectors' descriptions where another explainer wrote it."""
        if not claims:
            return {}
        spec, found = self._spec, dict[Feature, Score | Unscored]()
        texts = self.readable({f: rivals[f] for f in claims if f in rivals})[0]
        claims = dict(claims)
        pool, everywhere = (some_predicates(claims, spec.seed, n) for n in (DONORS, RETRIEVED))
        retrieval = Retrieval(everywhere)
        twin = twin_facts(spec.reading, spec.twin, spec.explain, sorted(claims))
        for group, rates in self._groups(sorted(claims), twin):
            for start in range(0, len(group.features), TOGETHER):
                part = _part(group, slice(start, start + TOGETHER))
                random = self._random(part, claims)
                found |= self._scored(part, _some(rates, start), (claims, texts, pool), random, retrieval)
                self._progress("scoring predicates", len(found), len(claims))
        for feature, score in found.items():
            if isinstance(score, Score):
                details = score.details | retrieval.place(feature, claims[feature])
                if isinstance(spec.twin, Unscored):
                    details |= {MISSING: spec.twin.reason}
                found[feature] = score.model_copy(update={"details": details})
        return found

    def _groups(
        self, features: Sequence[Feature], twin: Mapping[Feature, UnitFacts]
    ) -> Iterator[tuple[Group, TokenRates]]:
        spec, reading = self._spec, self._spec.reading
        size = max(TOGETHER, KEPT_CELLS // max(1, spec.select.ids.size + 2 * spec.test.ids.size))
        seen = spec.explain.ids[ordinary(spec.explain, reading.model.special_ids)]
        for start in range(0, len(features), size):
            some = tuple(features[start : start + size])
            self._progress("reading units on held-out text", start, len(features))
            select = UnitActivity(spec.select, reading.shares(some, spec.select))
            rates = TokenRates.of(active_tokens(reading, some, spec.explain, ACTIVE), seen)
            places = rates.places(spec.select.ids), rates.places(spec.test.ids)
            yield Group(some, select, self._on_test(some), places, self._on_twin(some, twin)), rates

    def _on_test(self, features: Sequence[Feature]) -> UnitActivity:
        """Shares on test, and where one of the units most like each is active."""
        spec, facts = self._spec, self._spec.reading.facts
        alike = {f: [o for o in spec.alike.get(f, ()) if o in facts and o != f] for f in features}
        every = list(dict.fromkeys([*features, *(o for some in alike.values() for o in some)]))
        number = {feature: n for n, feature in enumerate(every)}
        shares = np.zeros((len(features), *spec.test.ids.shape), np.float32)
        near = np.zeros(shares.shape, bool)
        for part, values in spec.reading.parts(every, spec.test):
            shares[:, part] = values[: len(features)]
            for n, feature in enumerate(features):
                if alike[feature]:
                    near[n, part] = (values[[number[o] for o in alike[feature]]] >= ACTIVE).any(0)
        return UnitActivity(spec.test, shares, near if any(alike.values()) else None)

    def _on_twin(self, features: Sequence[Feature], facts: Mapping[Feature, UnitFacts]) -> UnitActivity | None:
        twin, spec = self._spec.twin, self._spec
        if not isinstance(twin, LanguageModel):
            return None
        reading = replace(spec.reading, model=twin, facts=facts)
        return UnitActivity(spec.test, reading.shares(features, spec.test))

    def _scored(
        self,
        group: Group,
        rates: TokenRates,
        sources: tuple[Mapping[Feature, str], Mapping[Feature, str], list[str]],
        random: Mapping[Feature, Sums],
        retrieval: Retrieval,
    ) -> dict[Feature, Score | Unscored]:
        claims, texts, pool = sources
        names = _names(group.features, claims, texts, [*pool, *retrieval.predicates])
        masks = self.select.masks(names), self.test.masks(names)
        own = sorted({names.index(claims[f]) for f in group.features})
        overlaps = Overlap(*(iou(some, own) for some in masks))
        tallies = tally(group.select, masks[0]), tally(group.test, masks[1])
        levels = [self._identity(group, rates, number) for number in range(len(group.features))]
        tallies = (
            replace(tallies[0], own=tally_each(group.select, np.stack([one for one, _ in levels]))[0]),
            replace(tallies[1], own=tally_each(group.test, np.stack([two for _, two in levels]))[0]),
        )
        found: dict[Feature, Score | Unscored] = {}
        fits = _f1s(tallies[1])
        for number, feature in enumerate(group.features):
            contest = replace(
                _contest(claims[feature], texts.get(feature), pool, names),
                identity=(len(names),),
                identity_mask=_always(levels[number][1]),
                own_mask=self.test.mask(claims[feature]),
                random=random.get(feature),
            )
            splits = UnitTallies(tallies[0], number), UnitTallies(tallies[1], number)
            found[feature] = self._one(splits, contest, overlaps)
            retrieval.put(feature, {p: float(fits[number, names.index(p)]) for p in retrieval.predicates})
        return found

    def _one(self, splits: tuple[UnitTallies, UnitTallies], contest: Contest, overlaps: Overlap) -> Score | Unscored:
        score = score_contest(splits, contest, overlaps, self._resamples, self._spec.test.domain)
        if score is None:
            return Unscored(scorer=SCORER, reason=f"it reaches {ACTIVE} of its reference in no held-out row")
        return score.model_copy(update={"details": score.details | _tiers(splits[1].of(contest.own))})

    def _identity(
        self, group: Group, rates: TokenRates, number: int
    ) -> tuple[Bool[np.ndarray, "window pos"], Bool[np.ndarray, "window pos"]]:
        """What token identity names on select and on test, at the threshold that does best on select."""
        predicted = rates.predicted(number, group.places[0])
        least = best_threshold(group.select.quantities[:, number], predicted, self.select.rows)
        named = rates.predicted(number, group.places[1]) >= least
        return (predicted >= least) & self.select.rows, named & self.test.rows

    def _random(self, group: Group, claims: Mapping[Feature, str]) -> dict[Feature, Sums]:
        """Sums of each unit's own predicate on the model with random weights; empty without one."""
        if group.random is None:
            return {}
        sums, totals = tally_each(group.random, self.test.masks([claims[f] for f in group.features]))
        return {f: with_totals(sums[:, n], totals[:, n]) for n, f in enumerate(group.features)}


def _part(group: Group, some: slice) -> Group:
    def cut(activity: UnitActivity) -> UnitActivity:
        alike = None if activity.alike is None else activity.alike[some]
        return replace(activity, shares=activity.shares[some], alike=alike)

    random = None if group.random is None else cut(group.random)
    return Group(group.features[some], cut(group.select), cut(group.test), group.places, random)


def _some(rates: TokenRates, start: int) -> TokenRates:
    return TokenRates(rates.tokens, rates.rate[start : start + TOGETHER], rates.base[start : start + TOGETHER])


def _names(
    features: Sequence[Feature], claims: Mapping[Feature, str], texts: Mapping[Feature, str], more: list[str]
) -> list[str]:
    """All predicates that some units are compared with, each once."""
    own = [claims[f] for f in features] + [texts[f] for f in features if f in texts]
    return list(dict.fromkeys([*own, *POSITION_RIVALS.values(), *WRONG.values(), *more]))


def _contest(own: str, text: str | None, pool: list[str], names: list[str]) -> Contest:
    index = {name: i for i, name in enumerate(names)}
    return Contest(
        own=index[own],
        rivals={name: index[p] for name, p in POSITION_RIVALS.items()},
        others={} if text is None else {DETECTOR_TEXT: index[text]},
        donors=tuple(index[p] for p in pool if p != own),
        generic=tuple(index[p] for p in WRONG.values() if p != own),
        min_donors=MIN_DONORS,
    )


def _always(mask: Bool[np.ndarray, "window pos"]) -> Callable[[int], Bool[np.ndarray, "window pos"]]:
    return lambda _: mask


def _f1s(tallies: PositionTallies) -> Float64[np.ndarray, "feature predicate"]:
    """F1 of every predicate on every unit; 0 where it is undefined."""
    named = dict(zip(OF_PREDICATE, tallies.by_predicate.sum(-1), strict=True))
    positives = tallies.by_unit[OF_UNIT.index("positives")].sum(-1)[:, None]
    fits = f1(named | {"positives": np.broadcast_to(positives, named["tp"].shape)})
    return np.asarray(np.nan_to_num(fits, nan=0.0))


def _tiers(own: Sums) -> dict[str, float | int | str | None]:
    """How often the predicate names resting rows: of all, with a token of an active row, with a like unit active."""
    totals = totals_of(own)
    found: dict[str, float | int | str | None] = {
        "false_positive_rate_T0": float(divide(totals["fp"], totals["negatives"]))
    }
    for tier, name in (("T1", "same_token"), ("T2", "neighbour")):
        n = int(totals[name])
        found |= {
            f"false_positive_rate_{tier}": float(divide(totals[f"fp_{name}"], totals[name])),
            f"negatives_{tier}": n,
            f"negatives_{tier}_note": "" if n >= MIN_TIER else f"fewer than {MIN_TIER}",
        }
    return found
