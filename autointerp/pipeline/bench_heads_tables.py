"""The tables of `bench heads`, for the screen and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from autointerp.pipeline.bench_heads import ID_ONLY, HeadsBench
from autointerp.pipeline.bench_heads_asked import VERDICTS
from autointerp.pipeline.bench_heads_labels import DENIED_ON_RANDOM
from autointerp.pipeline.bench_heads_ranks import Place, Retrieved, place_of, retrieved
from autointerp.pipeline.bench_heads_run import DETECTORS, RUN
from autointerp.pipeline.bench_heads_scores import (
    Measured,
    Statement,
    claims,
    effect_right,
    labels_found,
    pattern_right,
)
from autointerp.records import Head
from autointerp.report.bench import Bar, BenchTable, Row
from autointerp.stats.bootstrap import clopper_pearson

MEANING = {
    "pattern class": "heads described as looking where one of their published patterns looks",
    "effect class": "heads described as doing to the attended token what was published",
    "label": "heads with one of their published labels",
    "labels found": "published labels that were found",
    "false effects": "denied effects that are claimed all the same (decoys; less is better)",
    "false patterns": "denied patterns that are claimed all the same (decoys; less is better)",
}
CHANCE = (
    "Chance: each published head gets the answer of every head of the run in turn. Percentile: among 1 000 shuffles of "
    "the answers over the heads. 95 % intervals over heads (exact for shares of heads). Of grade B only rows that a "
    "detector of this run confirms; where the detectors are also the explainer, that confirms itself."
)
LOWER = (
    "Average precision over all heads of the model; a lower bound, since heads without a label are unlabelled and not "
    "negative. Chance: positives / heads, and the mean of a random order. Above null: heads above the highest value of "
    "any head of a randomly initialised model or of shuffled text."
)


def tables_of(bench: HeadsBench) -> tuple[BenchTable, ...]:
    """All tables; the last one, head by head, is for the page alone."""
    found = [_summary(bench), *_others(bench), *_roles(bench), _ranks(bench), *_retrieval(bench), *_decoys(bench),
             *_guesses(bench), *_random(bench), _used(bench), _unscored(bench), _heads(bench)]  # fmt: skip
    return tuple(found)


def _cells(one: Measured) -> Row:
    return (Bar(one.value, one.low, one.high), one.chance, one.percentile, one.n, one.n_heads)


def _summary(bench: HeadsBench) -> BenchTable:
    rows = tuple((MEANING[one.name], *_cells(one)) for one in bench.measures[RUN] if one.n)
    columns = ("share of", "value", "chance", "percentile", "n", "heads")
    return BenchTable(f"Descriptions by {bench.run.explainer}", CHANCE, columns, rows)


def _others(bench: HeadsBench) -> list[BenchTable]:
    """Others who answered for the same heads, by the same code, and how far this run is ahead of them."""
    columns = ("share of", "value", "chance", "percentile", "n", "heads", "this run minus these")
    titles = {DETECTORS: "The same heads described by the detectors alone",
              ID_ONLY: "The same heads described by layer, head and model name alone"}  # fmt: skip
    notes = {ID_ONLY: "Shown no evidence. What this scores, the language model knew; subtract it."}
    out = []
    for who, gaps in bench.differences.items():
        rows = tuple((MEANING[one.name], *_cells(one), f"{gap.value:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})")
                     for one, gap in zip(bench.measures[who], gaps, strict=True) if one.n)  # fmt: skip
        out.append(BenchTable(titles.get(who, who), notes.get(who, ""), columns, rows))
    return out


def _roles(bench: HeadsBench) -> list[BenchTable]:
    """Descriptions beside what was published in words, by a judge; heads that were not described match nothing."""
    asked = bench.asked
    if not asked.roles:
        return []
    of = sum(bool(one.labels) and one.head in bench.run.cards for one in bench.known)
    rows: list[Row] = []
    for what, found in (("of the head itself", asked.roles), ("of another head (chance)", asked.other_roles)):
        counts = Counter(found.values())
        share = Bar(counts["matches"] / of, *clopper_pearson(counts["matches"], of))
        rows.append((what, of, len(found), share, *(counts[v] for v in VERDICTS)))
    note = f"Judged by {asked.llm}, who sees neither head nor model. {asked.failed} requests failed."
    columns = ("published words", "heads", "judged", "share that matches", *VERDICTS)
    return [BenchTable("Descriptions beside the published words", note, columns, tuple(rows))]


def _ranks(bench: HeadsBench) -> BenchTable:
    rows = tuple(
        (one.label, " on ".join(one.detector), Bar(one.average_precision, one.low, one.high), one.chance, one.order,
         len(one.places), one.n_heads, sum(p.above_null for p in one.places), _listed(one.places))
        for one in bench.ranks
    )  # fmt: skip
    columns = ("label", "detector", "average precision", "chance", "random order", "positives", "heads", "above null",
               "ranks")  # fmt: skip
    return BenchTable("Rank among all heads, by detector", LOWER, columns, rows)


def _listed(places: Sequence[Place]) -> str:
    return ", ".join(f"{place.head} {place.rank:g}" for place in places)


COUNTED, OTHERS = "with a label that counts", "with other rows only (tasks, memberships, other texts)"


def retrievals(bench: HeadsBench) -> dict[str, Retrieved]:
    """Retrieval ranks of the published heads, in two groups; a group without a rank is left out."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for head in bench.published():
        card = bench.run.cards.get(head)
        if card is not None and card.retrieval is not None:
            groups.setdefault(COUNTED if bench.known_of(head).labels else OTHERS, []).append(card.retrieval)
    return {name: retrieved(groups[name]) for name in (COUNTED, OTHERS) if name in groups}


def _retrieval(bench: HeadsBench) -> list[BenchTable]:
    rows = tuple(
        (name, one.n, Bar(one.first, one.low, one.high), one.chance, one.reciprocal, one.reciprocal_chance)
        for name, one in retrievals(bench).items()
    )
    note = "Where a head stands when its description is scored on every head; the run does this for some of its heads."
    columns = ("published heads", "n", "share in first place", "chance", "mean 1 / rank", "chance of that")
    return [BenchTable("Retrieval", note, columns, rows)] if rows else []


def _decoys(bench: HeadsBench) -> list[BenchTable]:
    rows = [row for head in bench.published() for row in _denied(bench, head)]
    if not rows:
        return []
    note = "Heads of which a label was published as wrong. Any label of the same effect class claims a denied effect."
    return [BenchTable("Decoys", note, ("head", "denied", "described as", "claimed", "why"), tuple(rows))]


def _denied(bench: HeadsBench, head: Head) -> list[Row]:
    """A row for what descriptions of the head must not say, and one for what the detector must not show."""
    own = [one for one in bench.statements if one.row.head == head]
    card, rows = bench.run.cards.get(head), list[Row]()
    said = [one for one in own if one.state == "decoy"]
    if said and card is not None:
        claimed = [one.row.label for one in said if claims(one.accepts, card.labels)]
        rows.append((str(head), _joined(one.row.label for one in said), _said(card.labels, card.status),
                     _joined(claimed) or "none", _joined(one.row.role for one in said)))  # fmt: skip
    for one in own:
        place = place_of(head, (min(one.accepts, default=""), "repeats"), bench.run.readings)
        if one.state == "decoy on random tokens" and place is not None:
            rows.append((str(head), one.row.label, f"detector: rank {place.rank:g} of {place.n}", _yes(place.fires),
                         one.row.role))  # fmt: skip
    return rows


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(parts))


def _said(labels: Sequence[str], status: str) -> str:
    return _joined(labels) or ("no label" if status == "described" else status)


def _guesses(bench: HeadsBench) -> list[BenchTable]:
    """The run's own control that was shown no evidence, on the published heads that it was asked about."""
    found: dict[str, list[tuple[float, float, bool]]] = {}
    for head in bench.published():
        card = bench.run.cards.get(head)
        for scorer, value, guess, beaten in () if card is None else card.no_evidence:
            found.setdefault(scorer, []).append((value, guess, beaten))
    if not found:
        return []
    rows = tuple((name, len(v), sum(x[0] for x in v) / len(v), sum(x[1] for x in v) / len(v), sum(x[2] for x in v))
                 for name, v in sorted(found.items()))  # fmt: skip
    note = "The run's scores beside those of a description made without any evidence, means over published heads."
    columns = ("scorer", "heads", "description", "without evidence", "beaten at")
    return [BenchTable("Without evidence", note, columns, rows)]


def _random(bench: HeadsBench) -> list[BenchTable]:
    found = bench.run.random_weights
    n, described = found.get("n"), found.get("described")
    if not isinstance(n, int) or not isinstance(described, int) or not n:
        return []
    supported = found.get("supported")
    rows: list[Row] = [("given a label", described, n, Bar(described / n, *clopper_pearson(described, n)))]
    if isinstance(supported, int):
        rows.append(("supported", supported, n, Bar(supported / n, *clopper_pearson(supported, n))))
    note = f"Heads of a model of the same shape that learned nothing, described by {found.get('explainer', 'the run')}."
    return [BenchTable("Random heads", note, ("what", "heads", "of", "share"), tuple(rows))]


def _used(bench: HeadsBench) -> BenchTable:
    counts = Counter(str(one.state) for one in bench.statements)
    rows = tuple((state, STATES[state], counts[state]) for state in STATES if counts[state])
    return BenchTable("Rows of the table", "", ("used as", "meaning", "rows"), rows)


STATES = {
    "counted": "in pattern class, effect class and label",
    "retrieval only": "a task or a membership in a circuit, which no label of ours says; see the head's retrieval rank",
    "other text": "true on a text that this run is not scored for (--text)",
    "unconfirmed": "of grade B, and no detector of this run confirms it",
    "denied": "a not: row of the same head takes it back",
    "decoy": "a wrong answer, verified or reported",
    "decoy on random tokens": "what the detector on random tokens must not show",
}


def _unscored(bench: HeadsBench) -> BenchTable:
    rows = tuple((one.scorer, one.reason) for one in bench.unscored)
    return BenchTable("Not scored", "", ("what", "why"), rows)


def _heads(bench: HeadsBench) -> BenchTable:
    rows = tuple(_head_row(bench, head) for head in bench.published())
    note = "Right: any published label that counts. Retrieval: its rank when its description is scored on all heads."
    columns = ("head", "published", "described as", "pattern", "effect", "labels found", "verdict", "retrieval",
               "summary", "source")  # fmt: skip
    return BenchTable("Heads", note, columns, rows)


def _head_row(bench: HeadsBench, head: Head) -> Row:
    own = [one for one in bench.statements if one.row.head == head]
    published = "; ".join(dict.fromkeys(_marked(one, own) for one in own))
    sources = "; ".join(dict.fromkeys(one.row.source for one in own))
    card, known = bench.run.cards.get(head), bench.known_of(head)
    if card is None:
        return (str(head), published, "not in the run", None, None, None, None, None, "", sources)
    found = f"{labels_found(known, card.labels):g} of {len(known.labels)}" if known.labels else None
    rank = None if card.retrieval is None else f"{card.retrieval[0]:g} of {card.retrieval[1]}"
    return (str(head), published, _said(card.labels, card.status),
            _yes(pattern_right(known, card.labels)) if known.patterns else None,
            _yes(effect_right(known, card.labels)) if known.effects else None,
            found, card.verdict, rank, card.summary, sources)  # fmt: skip


def _marked(one: Statement, own: Sequence[Statement]) -> str:
    """The label, with its grade where it is not A and its state where it does not count. Hard: a detector on random
    tokens is published not to show it."""
    hard = {DENIED_ON_RANDOM[o.row.label] for o in own if o.row.negative and o.row.label in DENIED_ON_RANDOM}
    if one.state == "counted" and hard & one.accepts:
        return one.row.named + " [hard]"
    grade = " (B)" if one.row.grade == "B" else ""
    state = f" [{one.state}]" if one.state in ("retrieval only", "other text", "unconfirmed", "denied") else ""
    return one.row.named + grade + state


def _yes(value: float) -> str:
    return "yes" if value else "no"
