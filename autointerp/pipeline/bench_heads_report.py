"""`bench.json` and the last line of `bench heads`."""

from __future__ import annotations

from dataclasses import asdict

from autointerp.pipeline.bench_heads import ID_ONLY, HeadsBench
from autointerp.pipeline.bench_heads_labels import MEANINGS
from autointerp.pipeline.bench_heads_ranks import Ranked
from autointerp.pipeline.bench_heads_run import RUN
from autointerp.pipeline.bench_heads_scores import (
    Statement,
    effect_right,
    label_right,
    labels_found,
    pattern_right,
)
from autointerp.pipeline.bench_heads_tables import retrievals, tables_of
from autointerp.pipeline.bench_report import BenchResult, Json
from autointerp.records import Head

LINE = {"pattern class": "pattern", "effect class": "effect", "label": "label", "labels found": "labels_found",
        "false effects": "false_effects", "false patterns": "false_patterns"}  # fmt: skip


def heads_result(bench: HeadsBench) -> BenchResult:
    """Everything for the screen, `bench.json` and `bench.html`."""
    run = bench.run
    model = f"{run.model} as {bench.choice.name}" if bench.choice.name else run.model
    counted = sum(bool(one.labels) for one in bench.known)
    lede = f"{len(bench.published())} published heads of {model}, {counted} with a label that counts on "
    lede += f"{' and '.join(bench.choice.texts)} text; described by {run.explainer} among {len(run.cards)} heads; "
    lede += f"corpus {', '.join(run.corpus)}"
    lede += f"; {bench.missing} published heads are not in the run" if bench.missing else ""
    if run.leaks:
        lede += f". NOT BLIND: prompts hold {', '.join(run.leaks[:4])}"
    return BenchResult("Published heads", lede, _line(bench), _full(bench), tables_of(bench))


def _line(bench: HeadsBench) -> Json:
    line: Json = {"model": bench.run.model, "explainer": bench.run.explainer, "blind": not bench.run.leaks}
    for one in bench.measures[RUN]:
        name = LINE[one.name]
        line |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_chance": one.chance,
                 f"{name}_n": one.n}  # fmt: skip
    line["id_only_label"] = next((m.value for m in bench.measures.get(ID_ONLY, ()) if m.name == "label"), None)
    asked = bench.asked
    line["role_matches"] = sum(v == "matches" for v in asked.roles.values()) if asked.roles else None
    return line | {"n_heads": len(bench.published()), "n_missing": bench.missing}


def _full(bench: HeadsBench) -> Json:
    return {
        "texts": bench.choice.texts,
        "corpus": bench.run.corpus,
        "heads_in_run": len(bench.run.cards),
        "measures": {who: {m.name: asdict(m) for m in found} for who, found in bench.measures.items()},
        "differences": {who: {d.name: asdict(d) for d in found} for who, found in bench.differences.items()},
        "retrieval": {name: asdict(one) for name, one in retrievals(bench).items()},
        "ranks": [_rank_json(one) for one in bench.ranks],
        "random_weights": dict(bench.run.random_weights),
        "statements": [_statement_json(one) for one in bench.statements],
        "heads": [_head_json(bench, head) for head in bench.published()],
        "unscored": [one.model_dump() for one in bench.unscored],
        "asked": {"llm": bench.asked.llm, "failed": bench.asked.failed,
                  "identity": {str(h): v for h, v in bench.asked.identity.items()},
                  "roles": {str(h): v for h, v in bench.asked.roles.items()},
                  "other_roles": {str(h): v for h, v in bench.asked.other_roles.items()}},
        "prompts_checked": bench.run.n_prompts,
        "leaks": bench.run.leaks,
    }  # fmt: skip


def _rank_json(one: Ranked) -> Json:
    return {**asdict(one), "places": [{**asdict(p), "head": str(p.head)} for p in one.places]}


def _statement_json(one: Statement) -> Json:
    text = MEANINGS[one.row.label].text if one.row.label in MEANINGS else "random tokens"
    return {"head": str(one.row.head), "label": one.row.named, "text": text, "state": one.state,
            "grade": one.row.grade, "source": one.row.source, "confirmed_by": one.confirmed_by}  # fmt: skip


def _head_json(bench: HeadsBench, head: Head) -> Json:
    card, known = bench.run.cards.get(head), bench.known_of(head)
    if card is None:
        return {"head": str(head), "status": "not in the run"}
    return {
        "head": str(head), "status": card.status, "said": card.labels, "verdict": card.verdict,
        "summary": card.summary, "published": [o.row.named for o in bench.statements if o.row.head == head],
        "pattern": pattern_right(known, card.labels) if known.patterns else None,
        "effect": effect_right(known, card.labels) if known.effects else None,
        "label": label_right(known, card.labels) if known.labels else None,
        "labels_found": labels_found(known, card.labels), "labels": len(known.labels), "retrieval": card.retrieval,
    }  # fmt: skip
