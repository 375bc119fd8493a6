"""Generated reports of neurons and latents for the tests of the report: hostile tokens, every status, every state."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any, Literal

from report_fixtures import HOSTILE, RUN, WORDS, interval, provenance

from autointerp.feature_records import (
    FEATURE_LABELS,
    FeatureEvidence,
    FeatureExample,
    FeatureReadout,
    FeatureReport,
    FeatureStats,
    FeatureStratum,
    LensWords,
    RuleReading,
    TokenActivity,
)
from autointerp.records import (
    Control,
    Description,
    Failure,
    Feature,
    Interval,
    Judgement,
    Score,
    TokenValue,
    Unscored,
)

KINDS = ("supported", "partly", "refuted", "rule", "abstained", "failed", "unscored", "dead", "dense")
STRATA: tuple[FeatureStratum, ...] = ("top", "quantile", "random", "contrast")
NOTHING = Interval(value=math.nan, low=math.nan, high=math.nan, n=0)
Kind = Literal["neuron", "latent"]


def example(rng: random.Random, stratum: FeatureStratum, pool: tuple[str, ...], length: int = 64) -> FeatureExample:
    tokens = ("<|endoftext|>", *(rng.choice(pool) for _ in range(length - 1)))
    dst = rng.randrange(8, length)
    shares = [rng.random() ** 9 for _ in range(length)]
    shares[dst] = 0.01 if stratum == "contrast" else 0.4 + 0.7 * rng.random()
    values = tuple(TokenValue(token=rng.choice(pool), value=-rng.random()) for _ in range(3))
    return FeatureExample(
        doc_id=f"{rng.getrandbits(256):064x}", window=rng.randrange(4), dst=dst, stratum=stratum,
        tier=rng.choice(("token", "neighbour")) if stratum == "contrast" else None,
        weight=12.5 if stratum == "random" else 1.0, tokens=tokens, activations=tuple(shares),
        activation=shares[dst] * 4.2, quantile=rng.random(), next_token=tokens[dst + 1] if dst + 1 < length else None,
        abl_dlogp_next=rng.random() - 0.4, abl_kl=rng.random() * 0.01, lowered=values, raised=values[:1],
    )  # fmt: skip


def stats(rng: random.Random, pool: tuple[str, ...], state: str) -> FeatureStats:
    dead = state == "dead"
    density = 0.0 if dead else 0.7 if state == "dense" else 0.002 + rng.random() ** 4 * 0.3
    top = tuple(TokenActivity(token=rng.choice(pool), part=0.3 / (i + 1), base_rate=0.02, active=40 - i, rows=90)
                for i in range(0 if dead else 14))  # fmt: skip
    return FeatureStats(
        n_rows=20480, n_docs=160, density=density, active_share=interval(rng, 0.2), sign=rng.choice((-1, 1)),
        reference=0.0 if dead else 4.2, maximum=0.0 if dead else 5 + rng.random(), mean=density * 0.4,
        quantiles=() if dead else (0.01, 0.1, 0.3, 0.8, 1.4, 2.2, 4.8),
        state="dead" if dead else "dense" if state == "dense" else "ok", top_tokens=top,
    )  # fmt: skip


def rule(rng: random.Random, name: str) -> RuleReading:
    f1 = rng.random()
    return RuleReading(
        name=name, predicate='dst in {" river", " bridge"} and dst.prev == " the"', f1=f1, precision=f1 * 0.9,
        recall=min(1.0, f1 * 1.1), coverage=f1 * 0.8, n_active=120, n_predicted=140, null_max=0.07, fires=f1 > 0.5,
        detail={"tokens": 2, "first": " river", "gain": 0.03},
    )  # fmt: skip


def evidence(
    rng: random.Random, unit: Feature, state: str, *, hostile: bool = False, per_stratum: int = 3
) -> FeatureEvidence:
    pool = HOSTILE if hostile else WORDS
    up = tuple(TokenValue(token=rng.choice(pool), value=2.5 - 0.3 * i) for i in range(8))
    down = tuple(TokenValue(token=v.token, value=-v.value) for v in up)
    found = state != "dead"
    return FeatureEvidence(
        unit=unit, stats=stats(rng, pool, state),
        rules=tuple(rule(rng, name) for name in ("token", "token_set", "context")) if found else (),
        readout=FeatureReadout(up=up, down=down, random_max=1.1,
                               head_shares=(0.7, 0.2, 0.1) if unit.index % 5 == 0 else ()) if found else None,
        examples=tuple(example(rng, s, pool) for s in STRATA for _ in range(per_stratum)) if found else (),
        neighbours=tuple(unit.model_copy(update={"index": unit.index + k}) for k in (1, 2, 3)),
        lenses=(LensWords(lens="selfie", text=rng.choice(pool), controls=(rng.choice(pool),), specific=True),),
        notes=("contrast: 5 of 6 rows found",),
    )  # fmt: skip


def score_of(rng: random.Random, *, same_rule: bool) -> Score:
    value = 0.3 + 0.6 * rng.random()
    controls = (
        Control(name="shuffled explanation", kind="null", value=0.1, difference=value - 0.1, low=value - 0.15,
                high=value - 0.05, beaten=True, detail="mean over 5 donors"),
        Control(name="token identity", kind="rival", value=value if same_rule else 0.5, difference=value - 0.5,
                low=value - 0.55, high=value - 0.45, beaten=not same_rule, same_rule=same_rule),
    )  # fmt: skip
    return Score(
        scorer="predicate", metric="f1", domain="text", value=value, low=value - 0.04, high=value + 0.04, n_items=90210,
        n_docs=64, prevalence=0.02, chance=0.04, controls=controls, details={"coverage": 0.47, "dead_zone": 812},
    )  # fmt: skip


def steering() -> Score:
    details: dict[str, float | int | str | None] = {"strength": 2.0, "claimed_tokens": 3, "logit_change_at_1": 0.2}
    details |= {"logit_change_at_2": 0.5, "logit_change_at_4": 1.1, "logit_change_at_0.5": 0.1}
    null = Control(name="random directions of the same norm (5)", kind="null", value=-0.03, difference=0.53, low=0.3,
                   high=0.7, beaten=True)  # fmt: skip
    return Score(scorer="steering", metric="logit_change", domain="text", value=0.5, low=0.3, high=0.7, n_items=64,
                 n_docs=40, prevalence=math.nan, chance=0.0, controls=(null,), details=details)  # fmt: skip


def feature_report(
    layer: int, index: int, *, kind: str, unit_kind: Kind = "latent", hostile: bool = False, per_stratum: int = 3
) -> FeatureReport:
    """One report of a KIND."""
    rng = random.Random(layer * 100_003 + index)
    unit = Feature(kind=unit_kind, layer=layer, index=index)
    off = kind in {"dead", "dense"}
    score = score_of(rng, same_rule=kind == "rule")
    scored = kind in {"supported", "partly", "refuted", "rule"}
    measured: dict[str, Any] = {"ablation_loss": NOTHING if off else interval(rng, 0.01)}
    return FeatureReport(
        unit=unit, status="abstained" if off or kind == "abstained" else "failed" if kind == "failed" else "described",
        evidence=evidence(rng, unit, kind, hostile=hostile, per_stratum=per_stratum),
        description=None if off or kind == "failed" else description(rng, kind, hostile=hostile),
        failures=(Failure(stage="explain", reason="the reply was cut off", raw='{"summary": "<b>'),)
        if kind == "failed" else (),
        provenance=provenance(rng, hostile=hostile), scores=(score, steering()) if scored else (),
        unscored=(Unscored(scorer="simulation", reason="no judge model is configured"),),
        judgement=judgement(kind, score), ablation_kl=NOTHING if off else interval(rng, 0.02), **measured,
    )  # fmt: skip


def description(rng: random.Random, kind: str, *, hostile: bool) -> Description:
    if kind == "abstained":
        return Description(summary="Unclear: no rule fires.", looks_at="", writes="", label="unclear", abstained=True)
    label = rng.choice([name for name in FEATURE_LABELS if name != "unclear"])
    evil = "</script><img src=x onerror=alert(1)> | `x` =1+1 \u2028 \u202e \"'" if hostile else ""
    words = rng.choice(("a river or bridge", "a year in brackets", "the second half of a name", "speech after a comma"))
    return Description(
        summary=f"Active on {words}, mostly after an article or at the start of a clause.{evil}", looks_at=f"{words}",
        writes="Promotes words for water.", label=label, labels=(label,), predicate='dst in {" river", " bridge"}',
        conditions="Only after an article.", counterexamples="Not in titles.", confidence=rng.random(),
        raises=(" water", "\u202e" if hostile else " stream"), lowers=(" he",),
    )  # fmt: skip


def judgement(kind: str, score: Score) -> Judgement:
    if kind in {"abstained", "failed", "unscored", "dead", "dense"}:
        return Judgement(verdict="unscored", reason={"unscored": "only 12 test documents"}.get(kind, kind))
    best = score.controls[1]
    verdict: Any = "supported" if kind == "rule" else kind
    return Judgement(
        verdict=verdict, reason=f"{kind}, covers 47 %", metric="f1", domain="text", score=score.value,
        score_low=score.low, score_high=score.high, chance=score.chance, n_items=score.n_items, n_docs=score.n_docs,
        margin=best.difference, margin_low=best.low, margin_high=best.high, compared_with=best.name, coverage=0.47,
    )  # fmt: skip


def write_feature_run(folder: Path, reports: list[FeatureReport], run: dict[str, Any] | None = None) -> Path:
    """A run folder as the pipeline leaves it, without pages and without a table of all units."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": "models/gpt2-tiny", "corpus": ["corpora/wiki.txt"], "seed": 0, "units": "sae:res.5"}
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "features.jsonl").open("w") as file:
        for report in reports:
            file.write(json.dumps(report.model_dump(mode="json")) + "\n")
    told = {"explained_variance": {"value": 0.873, "low": 0.86, "high": 0.881, "n": 40}, "l0": 31.2, "n_tokens": 4096,
            "loss_recovered": {"value": 0.961, "low": 0.95, "high": 0.97, "n": 40}, "losses": {"sae": 3}}  # fmt: skip
    command = "autointerp describe-all-features --units sae:res.5 --sample 200 --out runs/f"
    (folder / "run.json").write_text(
        json.dumps({**RUN, "command": command, "reconstruction": told} if run is None else run)
    )
    return folder


def write_units(folder: Path, names: list[str], seed: int = 0) -> None:
    """A table of all units: every 40th is dead, every 97th dense."""
    import numpy as np

    rng = np.random.default_rng(seed)
    n = len(names)
    density = rng.random(n) ** 4 * 0.3
    states = np.array(["dead" if i % 40 == 7 else "dense" if i % 97 == 5 else "ok" for i in range(n)])
    density[states == "dead"] = 0
    density[states == "dense"] = 0.7
    numbers = {name: density * scale for name, scale in
               (("active_share", 0.3), ("maximum", 20.0), ("reference", 15.0), ("mean", 0.1))}  # fmt: skip
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    units = [Feature.parse(name) for name in names]
    places = {name: np.array([getattr(unit, name) for unit in units]) for name in ("kind", "layer", "index")}
    np.savez(folder / "cache" / "units.npz", **places, state=states, density=density, **numbers)
