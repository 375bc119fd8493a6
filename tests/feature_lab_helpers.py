"""Laboratories of neurons and latents on small models: data, requests, and what a hooked forward gives."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autointerp.agent.feature_laboratory import FeatureLabData, FeatureLaboratory
from autointerp.agent.feature_tools import FEATURE_TOOLS
from autointerp.agent.requests import Request
from autointerp.evidence.collect import ExplainWindows
from autointerp.feature_records import FeatureEvidence
from autointerp.features.activations import Units, read_activations
from autointerp.features.readout import DirectionReader
from autointerp.model import LanguageModel, UnitSite, neuron_site
from autointerp.predicate import TokenTable
from autointerp.records import Feature
from autointerp.scoring.feature_rows import UnitFacts, ordinary
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.token_identity import ExplainRows
from tests.causal_model import NAMES
from tests.feature_fixtures import evidence
from tests.neuron_model import Neurons, Sites, neuron_model, neuron_rows
from tests.test_feature_scores import explain_rows, facts_of

TEXT = "the cat sat on the mat . the dog ran"
Plain = dict[str, Any]


def direction_reader(model: LanguageModel, rows: ExplainRows, seed: int = 0) -> DirectionReader:
    """Fitted on the first of these windows."""

    @dataclasses.dataclass(frozen=True)
    class Windows:
        ids: np.ndarray
        lengths: np.ndarray

    @dataclasses.dataclass(frozen=True)
    class Explain:
        numbers: np.ndarray
        windows: Windows

    explain: Any = Explain(np.arange(len(rows.ids)), Windows(rows.ids, rows.lengths))
    windows: ExplainWindows = explain
    return DirectionReader.of(model, windows, seed)


@functools.cache
def neuron_data() -> FeatureLabData:
    """Of the six neurons of the neuron model; select rows as in the tests of the scores."""
    model, facts = neuron_model(), facts_of()
    table = TokenTable.from_strings(model.strings, model.special_ids)
    reader = direction_reader(model, explain_rows())
    return FeatureLabData(
        explain_rows(), neuron_rows("select", 40, 1), Neurons(), facts, table, reader, wanted=tuple(facts)
    )


def fresh(data: FeatureLabData, **changes: Any) -> FeatureLabData:
    """The same data with nothing kept."""
    return dataclasses.replace(data, **changes)


def some_evidence(unit: Feature) -> FeatureEvidence:
    return evidence(random.Random(0), unit, "ok")


def lab(unit: Feature, data: FeatureLabData | None = None) -> FeatureLaboratory:
    return FeatureLaboratory(neuron_model(), unit, some_evidence(unit), data or neuron_data())


def asked(name: str, **arguments: Any) -> Request:
    found = FEATURE_TOOLS.parse(name, arguments)
    assert isinstance(found, Request), found
    return found


def run(unit: Feature, name: str, **arguments: Any) -> Plain:
    return lab(unit).run(asked(name, **arguments))


def run_on(model: LanguageModel, unit: Feature, data: FeatureLabData, name: str, **arguments: Any) -> Plain:
    """One request on a unit of any model."""
    return FeatureLaboratory(model, unit, some_evidence(unit), data).run(asked(name, **arguments))


def fed(model: LanguageModel, text: str) -> list[int]:
    """Ids as fed."""
    return ([] if model.bos_id is None else [model.bos_id]) + [int(i) for i in model.encode(text)[0]]


def hooked(
    model: LanguageModel, ids: Sequence[int], hook: str, dst: int, change: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities at `dst` in a whole forward, as it is and with `change` added at one position of a hook."""

    def add(held: torch.Tensor, hook: object) -> torch.Tensor:
        changed = held.clone()
        changed[:, dst] += change.to(held.dtype).reshape(changed[:, dst].shape)
        return changed

    tokens = torch.tensor([list(ids)])
    before = torch.log_softmax(model.logits(tokens), -1)[0, dst]
    with model.hooks([(hook, add)]):
        after = torch.log_softmax(model.logits(tokens), -1)[0, dst]
    return before, after


def latent_site(n: int = 3) -> UnitSite:
    """Latents of the neuron model's stream before the MLP: each reads a neuron's token and writes what it writes."""
    model = neuron_model()
    mlp = model.bridge.blocks[0].mlp
    stream = mlp.W_in[:, :n].T.detach().float()
    direction = mlp.W_out[:n].detach().float()
    return UnitSite("latent", 0, "resid_mid", n, 128, lambda x: torch.relu(x @ stream.T - 5.5), direction)


@functools.cache
def latent_data() -> FeatureLabData:
    site, model, rows = latent_site(), neuron_model(), explain_rows()
    units = Sites((site,))
    facts = facts_on(model, units, [site.unit(k) for k in range(site.n_units)], rows)
    return fresh(neuron_data(), units=units, facts=facts, wanted=tuple(facts))


def facts_on(
    model: LanguageModel, units: Units, features: Sequence[Feature], rows: ExplainRows
) -> dict[Feature, UnitFacts]:
    """Mean, and the mean of the 16 highest values as reference; every second neuron is turned round."""
    raw = read_activations(model, units, features, rows.ids, rows.lengths)
    real = ordinary(rows, model.special_ids)
    found = {}
    for column, feature in enumerate(features):
        sign = -1 if feature.kind == "neuron" and feature.index % 2 else 1
        highest = np.sort(sign * raw[:, :, column][real])[-16:]
        found[feature] = UnitFacts(float(raw[:, :, column][real].mean()), max(float(highest.mean()), 1e-9), sign)
    return found


def random_data(model: LanguageModel, rows: HeldOutRows, layer: int = 1, n: int = 4) -> FeatureLabData:
    """Of some neurons of a random model; the same windows serve as explain and select rows."""
    site = neuron_site(model, layer)
    units, explain = Sites(tuple(neuron_site(model, k) for k in range(layer + 1))), ExplainRows(rows.ids, rows.lengths)
    facts = facts_on(model, units, [site.unit(k) for k in range(n)], explain)
    table = TokenTable.from_strings(model.strings, model.special_ids)
    select = dataclasses.replace(rows, split="select")
    reader = direction_reader(model, explain)
    return FeatureLabData(explain, select, units, facts, table, reader, wanted=tuple(facts))


def items(label_of: Any, n: int = 12) -> list[Plain]:
    """Short texts that end in different words, labelled by the word."""
    return [{"text": f"the {word}", "label": label_of(word)} for word in NAMES[:n]]
