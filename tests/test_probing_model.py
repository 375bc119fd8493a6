"""Probe items on real (tiny) models: what is read, ablated and cut, what is stored, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_helpers import NOUNS, noun_items, noun_set
from tiny_models import boot, random_network, tiny_model, tiny_texts, tiny_tokenizer

from autointerp.errors import BadInput, ModelError
from autointerp.model import LanguageModel
from autointerp.model.site_changes import changing_site, final_hidden
from autointerp.model.sites import HEAD_KINDS, LAYER_KINDS, Batch, Row, Site, batches, read_sites
from autointerp.notebook import open_model
from autointerp.probing import ProbeItem, check_items, corpus_items, place_items, template_items
from autointerp.probing.collection import CollectOptions, collect
from autointerp.probing.controls import Budget
from autointerp.probing.folder import save_study
from autointerp.probing.items import Interventions, ProbeSet
from autointerp.probing.linear import LinearProbe
from autointerp.probing.reporting import ATTENTION_ALONE
from autointerp.probing.results import ProbeResult
from autointerp.probing.saved import apply_probe, final_probe, load_probe
from autointerp.probing.storage import (
    activation_facts,
    activations_of,
    load_activations,
    model_facts,
    save_activations,
)
from autointerp.probing.study import StudySettings, run_study, task_of
from autointerp.records import Head

SMALL = Budget(shuffles=1, control_tasks=1, random_ov=1, other_heads=-1)
EVERY = [Site(kind, 1, 2) for kind in HEAD_KINDS] + [Site(kind, 1) for kind in LAYER_KINDS] + [Site("z", 0, 0)]


def document_items(n: int = 9) -> list[ProbeItem]:
    texts = [text[: 40 + 17 * number] for number, text in enumerate(tiny_texts(n, length=30))]
    return [
        ProbeItem(text, 4 + number % 5, "ab"[number % 2], {"document": str(number)})
        for number, text in enumerate(texts)
    ]


def document_set(model: LanguageModel, **everywhere: Any) -> ProbeSet:
    return place_items(model, document_items(), Interventions(**everywhere))


def hook_count(model: LanguageModel) -> int:
    modules = list(model.bridge.modules())
    own = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    return own + sum(len(p.fwd_hooks) for p in model.bridge.hook_dict.values())


# reading


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_heads_and_layers_are_read_where_the_model_computes_them(kind: str) -> None:
    model = tiny_model(kind)
    probe_set = document_set(model)
    x = collect(model, probe_set, [*EVERY, Site("resid_pre", -1), Site("resid_pre", 0)], CollectOptions(batch_size=4))
    for number, placed in enumerate(probe_set.items):
        seen: dict[str, torch.Tensor] = {}

        def keeping(name: str, seen: dict[str, torch.Tensor] = seen) -> Any:
            def keep(tensor: torch.Tensor, hook: Any) -> None:
                seen[name] = tensor.detach().clone()

            return keep

        parts = ["attn.hook_z", "attn.hook_pattern", "attn.hook_v", "attn.hook_in", "hook_attn_out", "hook_resid_pre",
                 "hook_resid_mid"]  # fmt: skip
        names = [f"blocks.{layer}.{part}" for layer in (0, 1) for part in parts]
        with model.hooks([(name, keeping(name)) for name in names]):
            model.forward_base(model.to_ids(placed.ids[None]))
        at = placed.position
        z = {layer: seen[f"blocks.{layer}.attn.hook_z"].reshape(1, len(placed.ids), 4, -1) for layer in (0, 1)}

        def same(site: Site, wanted: torch.Tensor, number: int = number) -> None:
            torch.testing.assert_close(x[site][number], wanted, atol=1e-5, rtol=0)

        same(Site("z", 0, 0), z[0][0, at, 0])
        same(Site("z", 1, 2), z[1][0, at, 2])
        same(Site("result", 1, 2), z[1][0, at, 2] @ model.W_O(1)[2])
        same(Site("attn_out", 1), seen["blocks.1.hook_attn_out"][0, at])
        same(Site("resid_pre", 1), seen["blocks.1.hook_resid_pre"][0, at])
        same(Site("resid_mid", 1), seen["blocks.1.hook_resid_mid"][0, at])
        same(Site("resid_pre", -1), seen["blocks.0.hook_resid_pre"][0, at])
        v = model.expand_kv(seen["blocks.1.attn.hook_v"].reshape(1, len(placed.ids), -1, z[1].shape[-1]))
        same(Site("uniform_z", 1, 2), v[0, : at + 1, 2].mean(0))
        row = seen["blocks.1.attn.hook_pattern"][0, 2, at]
        same(Site("mixed", 1, 2), row @ seen["blocks.1.attn.hook_in"][0])
        features = x[Site("pattern_row", 1, 2)][number]
        share = row[1 : at + 1] / row[1 : at + 1].sum()
        assert features[:at].tolist() == pytest.approx(share.flip(0)[:9].tolist(), abs=1e-5)
        assert features[at:9].abs().max() == 0 if at < 9 else True
        assert float(features[9]) == pytest.approx(float(row[0]), abs=1e-6)
        entropy = -float((share * share.log()).sum()) / np.log(at)
        assert float(features[10]) == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize("architecture", ["GPT2", "Llama", "GPTNeoX", "OPT", "Bloom"])
def test_heads_results_and_the_output_bias_add_up_to_the_attention_output(architecture: str) -> None:
    model = open_model(boot(random_network(architecture, len(tiny_tokenizer())))).model
    sites = [Site("result", 1, h) for h in range(4)] + [Site("attn_out", 1)]
    x = collect(model, document_set(model), sites)
    bias = getattr(model.bridge.blocks[1].attn, "b_O", None)
    total = sum(x[site] for site in sites[:4]) + (0 if bias is None else bias.detach())
    torch.testing.assert_close(total, x[sites[4]], atol=1e-5, rtol=0)


def test_batches_of_mixed_lengths_equal_one_by_one_whatever_the_tokenizers_padding_side() -> None:
    model = tiny_model("llama")
    probe_set = document_set(model)
    assert len({len(p.ids) for p in probe_set.items}) > 3
    alone = collect(model, probe_set, EVERY, CollectOptions(batch_size=1))
    before = model.tokenizer.padding_side
    try:
        for side in ("left", "right"):
            model.tokenizer.padding_side = side
            together = collect(model, probe_set, EVERY, CollectOptions(batch_size=5))
            for site in EVERY:
                torch.testing.assert_close(together[site], alone[site], atol=1e-4, rtol=0)
    finally:
        model.tokenizer.padding_side = before


def test_sites_parse_as_they_print_and_unknown_places_are_refused() -> None:
    model = tiny_model()
    for site in [*EVERY, Site("resid_pre", -1)]:
        assert Site.parse(str(site)) == site
    for text in ("z 5", "resid_pre L0H1", "nothing 3", "z L1"):
        with pytest.raises(BadInput, match="no site"):
            Site.parse(text)
    for site in (Site("z", 2, 0), Site("z", 0, 4), Site("attn_out", -1), Site("resid_post", 2)):
        with pytest.raises(BadInput, match="layers 0 to 1"):
            site.check(model)
    parallel = open_model(boot(random_network("GPTNeoX", len(tiny_tokenizer())))).model
    with pytest.raises(BadInput, match="no such site"):
        collect(parallel, document_set(parallel), [Site("resid_mid", 0)])


# ablations and cuts


def test_a_zero_ablated_head_is_exactly_zero_and_the_others_of_its_layer_are_not() -> None:
    model = tiny_model()
    plain = collect(model, document_set(model), [Site("z", 0, 0), Site("z", 0, 1), Site("z", 1, 0)])
    for everywhere in (False, True):
        probe_set = document_set(model, ablate=(Head(layer=0, index=0),))
        x = collect(model, probe_set, list(plain), CollectOptions(everywhere=everywhere))
        assert x[Site("z", 0, 0)].abs().max() == 0
        torch.testing.assert_close(x[Site("z", 0, 1)], plain[Site("z", 0, 1)])
        assert (x[Site("z", 1, 0)] - plain[Site("z", 1, 0)]).abs().max() > 1e-3


def test_global_and_own_ablations_are_united_applied_and_recorded() -> None:
    model = tiny_model()
    items = document_items()
    items[2] = ProbeItem(items[2].text, items[2].position, items[2].label, items[2].groups, (Head(layer=0, index=3),),
                         ((1, 4),))  # fmt: skip
    probe_set = place_items(model, items, Interventions((Head(layer=0, index=0),), ((2, 3),)))
    x = collect(model, probe_set, [Site("z", 0, 0), Site("z", 0, 3)])
    assert x[Site("z", 0, 0)].abs().max() == 0
    zero = (x[Site("z", 0, 3)].abs().amax(1) == 0).tolist()
    assert zero == [number == 2 for number in range(len(items))]
    assert [str(h) for h in probe_set.items[2].ablate] == ["L0H0", "L0H3"]
    assert probe_set.items[2].cut == ((1, 4), (2, 3))
    assert [str(h) for h in probe_set.items[0].ablate] == ["L0H0"]


def test_mean_and_resample_put_vectors_of_the_data_in_place_whatever_the_batch() -> None:
    model = tiny_model()
    site = Site("z", 0, 1)
    plain = collect(model, document_set(model), [site])[site]
    probe_set = document_set(model, ablate=(Head(layer=0, index=1),))
    mean = collect(model, probe_set, [site], CollectOptions("mean"))[site]
    torch.testing.assert_close(mean, plain.mean(0).expand_as(plain))
    drawn = [collect(model, probe_set, [site], CollectOptions("resample", batch_size=n))[site] for n in (2, 9)]
    torch.testing.assert_close(drawn[0], drawn[1])
    distance = torch.cdist(drawn[0], plain)
    assert distance.amin(1).max() < 1e-5, "each is one of the data's own vectors"
    assert (distance.argmin(1) != torch.arange(len(plain))).any()
    everywhere = collect(model, probe_set, [site], CollectOptions("mean", everywhere=True))[site]
    assert (everywhere - mean).abs().max() > 1e-4, "the mean over all positions"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_cutting_all_edges_out_of_a_token_hides_its_identity_from_later_positions(kind: str) -> None:
    model = tiny_model(kind)
    sites = [Site("resid_post", 1), Site("z", 1, 3)]

    def read(*, cut: bool) -> dict[Site, torch.Tensor]:
        items = []
        for number, noun in enumerate(NOUNS):
            text = f"the old {noun} sat on the news"
            at = 4 if model.bos_id is not None else 3
            edges = tuple((at - 1, later) for later in range(at, at + 4)) if cut else ()
            items.append(ProbeItem(text, " news", "ab"[number % 2], {"document": str(number)}, cut=edges))
        return collect(model, place_items(model, items), sites)

    plain, cut = read(cut=False), read(cut=True)
    for site in sites:
        assert plain[site].std(0).max() > 1e-3
        torch.testing.assert_close(cut[site], cut[site][:1].expand_as(cut[site]), atol=1e-5, rtol=0)
    only = place_items(model, [ProbeItem("the old cat sat", " sat", "a", {"g": "1"}, cut=((1, 4),))])
    named = collect(
        model, only, [Site("z", 0, 0), Site("z", 0, 1)], CollectOptions(cut_heads=(Head(layer=0, index=1),))
    )
    free = collect(model, place_items(model, [ProbeItem("the old cat sat", " sat", "a", {"g": "1"})]), list(named))
    assert torch.equal(named[Site("z", 0, 0)], free[Site("z", 0, 0)])
    assert not torch.equal(named[Site("z", 0, 1)], free[Site("z", 0, 1)])


def test_a_cut_that_the_architecture_ignores_is_an_error() -> None:
    model = open_model(boot(random_network("OPT", len(tiny_tokenizer())))).model
    probe_set = document_set(model, cut=((1, 3),))
    with pytest.raises(ModelError, match="still flows"):
        collect(model, probe_set, [Site("z", 0, 0)])


def test_no_hook_is_left_behind_also_after_an_error() -> None:
    model = tiny_model()
    before = hook_count(model)
    probe_set = document_set(model, ablate=(Head(layer=0, index=0),), cut=((1, 3),))
    collect(model, probe_set, EVERY, CollectOptions("mean"))
    assert hook_count(model) == before
    rows = [Row(placed.ids, placed.position) for placed in probe_set.items]

    def breaking(batch: Batch) -> list[tuple[str, Any]]:
        def fail(tensor: torch.Tensor, hook: Any) -> None:
            raise RuntimeError("in the forward")

        return [("blocks.1.attn.hook_pattern", fail)]

    with pytest.raises(RuntimeError, match="in the forward"):
        read_sites(model, rows, EVERY, breaking)
    assert hook_count(model) == before


@pytest.mark.parametrize(
    ("kind", "layer", "index"), [("z", 1, 2), ("result", 1, 2), ("resid_pre", 1, -1), ("resid_post", 0, -1)]
)
def test_a_changed_site_is_what_the_rest_of_the_model_sees(kind: Any, layer: int, index: int) -> None:
    model = tiny_model()
    rows = [Row(placed.ids, placed.position) for placed in document_set(model).items]
    site = Site(kind, layer, index)
    batch = next(batches(model, rows, 9))
    clean = final_hidden(model, batch)
    same = final_hidden(model, batch, changing_site(model, site, lambda v, b: v))
    torch.testing.assert_close(same, clean, atol=1e-5, rtol=0)
    changed = final_hidden(model, batch, changing_site(model, site, lambda v, b: torch.zeros_like(v)))
    moved = (changed - clean).abs().amax(2)
    for row, at in enumerate(batch.positions.tolist()):
        assert moved[row, :at].max() < 1e-5 < moved[row, at]
    both = [Site("z", 1, 2), Site("result", 1, 2)]
    zeros = [final_hidden(model, batch, changing_site(model, s, lambda v, b: torch.zeros_like(v))) for s in both]
    torch.testing.assert_close(zeros[0], zeros[1], atol=1e-5, rtol=0)
    with pytest.raises(BadInput, match="not written"):
        changing_site(model, Site("pattern_row", 0, 0), lambda v, b: v)


# a whole study


@pytest.mark.slow
def test_z_and_result_carry_the_same_and_the_random_projection_explains_a_head_that_only_attends() -> None:
    """With q and k at zero each head averages its values: what it carries, any projection carries."""
    network = random_network("GPT2", len(tiny_tokenizer()))
    with torch.no_grad():
        for block in network.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0
            block.attn.c_attn.bias[:64] = 0
        network.transformer.wte.weight.mul_(3)
    model = open_model(boot(network)).model
    probe_set = noun_set(model)
    task = task_of(probe_set, "template", 0)
    study = run_study(model, probe_set, task, [Site("z", 0, 1), Site("result", 0, 1)], StudySettings(SMALL))
    z, result = study.results
    assert isinstance(z, ProbeResult) and isinstance(result, ProbeResult)
    assert z.accuracy.low > 1 / 6, z.accuracy
    assert z.accuracy.low <= result.accuracy.value <= z.accuracy.high + 1e-9 or z.accuracy == result.accuracy
    assert z.present and ATTENTION_ALONE in z.conclusion, z.conclusion
    assert z.control("embedding") is not None and z.control("embedding").accuracy.value == pytest.approx(1 / 6)  # type: ignore[union-attr]
    assert {c.name for c in z.controls} == {
        "majority", "shuffled_labels", "embedding", "positional", "random_weights", "earlier_layer", "resid_mid",
        "random_ov", "uniform_pattern",
    }  # fmt: skip
    assert [u.scorer for u in z.unscored] == ["control_task"]
    assert "by construction" in z.selectivity_note
    assert z.n_sites == 2 and z.q_margin >= z.p_margin
    assert z.status == "" and z.n_groups == 6 and z.n_items == 36 and len(z.folds) == 5
    assert np.sum(z.confusion) == 36


@pytest.mark.slow
def test_a_site_of_a_layer_has_its_controls_too() -> None:
    model = tiny_model()
    probe_set = noun_set(model)
    study = run_study(
        model, probe_set, task_of(probe_set, "template", 0), [Site("resid_post", 1)], StudySettings(SMALL)
    )
    found = study.results[0]
    assert isinstance(found, ProbeResult)
    assert {"majority", "embedding", "positional", "earlier_layer"} <= {c.name for c in found.controls}
    assert np.isnan(found.head_percentile)
    with pytest.raises(BadInput, match="can be probed"):
        run_study(model, probe_set, study.task, [Site("mixed", 0, 0)])


# storage


def test_activations_come_back_bit_for_bit_and_damage_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    probe_set = noun_set(model)
    task = task_of(probe_set, "template", 0)
    site = Site("z", 0, 0)
    x = collect(model, probe_set, [site])[site]
    facts = activation_facts(model_facts(model, "tiny"), site, probe_set, task, CollectOptions())
    path = tmp_path / "z_L0H0"
    save_activations(path, activations_of(x, probe_set, task, facts))
    found = load_activations(path)
    assert torch.equal(found.x, x) and found.x.dtype == x.dtype
    assert found.y.tolist() == task.y.tolist() and found.position.tolist() == probe_set.positions.tolist()
    assert set(found.split.tolist()) == set(range(5))
    assert found.facts.items[3].text == probe_set.items[3].item.text
    assert found.facts.items[3].token == " it" and found.facts.class_names == tuple(sorted(NOUNS))
    assert found.facts.model.bos == model.bos_rule and found.facts.model.libraries["torch"]

    data, record = (tmp_path / "z_L0H0.safetensors").read_bytes(), (tmp_path / "z_L0H0.json").read_text()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    (tmp_path / "z_L0H0.safetensors").write_bytes(flipped)
    with pytest.raises(BadInput, match="hash differs"):
        load_activations(path)
    (tmp_path / "z_L0H0.safetensors").write_bytes(data)
    row = json.loads(record)
    for change, match in (
        ({"schema_version": 99}, "schema 99"),
        ({"items": row["items"][:-1]}, "different numbers"),
        ({"class_names": ["a"]}, "labels 0 to 5"),
        ({"surprise": 1}, "surprise"),
    ):
        (tmp_path / "z_L0H0.json").write_text(json.dumps(row | change))
        with pytest.raises(BadInput, match=match):
            load_activations(path)
    with pytest.raises(BadInput, match="not finite"):
        save_activations(
            tmp_path / "bad", activations_of(x.index_fill(0, torch.tensor([1]), np.nan), probe_set, task, facts)
        )
    with pytest.raises(BadInput, match="cannot be read"):
        load_activations(tmp_path / "none")


# what is refused


def bad(number: int = 0, **change: Any) -> list[ProbeItem]:
    items = noun_items()
    fields = {n: getattr(items[number], n) for n in ("text", "position", "label", "groups", "ablate", "cut", "last")}
    items[number] = ProbeItem(**(fields | change))
    return items


@pytest.mark.parametrize(
    ("items", "split", "match"),
    [
        ([], None, "no items"),
        ([i for i in noun_items() if i.label == "cat"], None, "two classes"),
        (
            [*noun_items(), ProbeItem("the old it", " it", "rare", {"template": "t0", "lexeme": "x"})],
            None,
            "has 1 item",
        ),
        (bad(label=""), None, "no label"),
        (bad(groups={}), None, "no group"),
        (bad(position=" zebra"), None, "not in the text"),
        (bad(position=(3, 900)), None, "no span"),
        (bad(position=-1), None, "negative"),
        (bad(cut=((5, 2),)), None, "earlier"),
        (noun_items(), "speaker", "no group 'speaker'"),
        (noun_items(), "lexeme", "stands in one lexeme only"),
        ([i for i in noun_items() if i.groups["template"] == "t0"] * 2, "template", "of one template"),
        ([ProbeItem(i.text, i.position, i.label, {i.label: "x"}) for i in noun_items()], None, "no group is named"),
    ],
)
def test_data_that_cannot_be_probed_is_refused_without_a_model(items: Any, split: str | None, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        check_items(items, split)


@pytest.mark.parametrize(
    ("items", "match"),
    [
        ([*noun_items(), noun_items()[0]], "stands 2 times"),
        (bad(position="sat on"), "not one"),
        (bad(position=0), "special token"),
        (bad(position=60), "beyond"),
        (bad(text="the cat sat on " * 30 + "it", position="it"), "more than the model's context"),
        (bad(ablate=(Head(layer=7, index=0),)), "L7H0 is no head"),
        (bad(cut=((1, 50),)), "does not fit"),
        (bad(cut=((0, 1), (1, 1))), "no source at all"),
        (bad(position=(4, 6)), "not whole tokens"),
    ],
)
def test_what_the_tokenizer_shows_is_refused_before_any_forward(
    items: list[ProbeItem], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(LanguageModel, "forward_base", lambda *a: pytest.fail("the model ran"))
    with pytest.raises(BadInput, match=match):
        place_items(model, items)


def test_positions_are_found_by_string_characters_or_number() -> None:
    model = tiny_model()
    text = "the cat sat on the cat"
    where = [" cat", (4, 7), 2 if model.bos_id is not None else 1]
    for position in where:
        placed = place_items(model, [ProbeItem(text, position, "a", {"g": "1"})]).items[0]
        assert placed.token == " cat" and placed.position == 2
    last = place_items(model, [ProbeItem(text, " cat", "a", {"g": "1"}, last=True)]).items[0]
    assert last.position == 6


# builders


def test_templates_are_filled_with_roles_and_groups() -> None:
    made = list(
        template_items(("the {noun} and {who}", "{who} saw it"), {"noun": ("cat", "dog"), "who": ("Mary", "John")},
                       read="who", label="noun")
    )  # fmt: skip
    assert len(made) == 8
    assert made[0].text == "the cat and Mary" and made[0].position == (12, 16) and made[0].label == "cat"
    assert made[0].groups == {"noun": "cat", "who": "Mary", "template": "t1", "lexeme": "cat"}
    assert made[4].position == (0, 4)
    by_function = next(template_items(("the {noun}",), {"noun": ("cat",)}, read="noun", label=lambda w: w["noun"][0]))
    assert by_function.label == "c"
    for templates, fillers, label in (
        (("{x}",), {"y": ("a",)}, "y"),
        ((), {"y": ("a",)}, "y"),
        (("{y}",), {"y": ("a",)}, "z"),
    ):
        with pytest.raises(BadInput):
            list(template_items(templates, fillers, read="y", label=label))


def test_a_corpus_is_sampled_by_seed_with_its_documents_as_groups() -> None:
    texts = [f"cat {n} dog {n}" for n in range(200)]

    def labeller(text: str) -> list[tuple[tuple[int, int], str]]:
        return [((text.index(word), text.index(word) + 3), word) for word in ("cat", "dog")]

    drawn = corpus_items(texts, labeller, 50, 1)
    assert drawn == corpus_items(iter(texts), labeller, 50, 1) != corpus_items(texts, labeller, 50, 2)
    assert len(drawn) == 50 and {i.label for i in drawn} == {"cat", "dog"}
    assert all(i.groups == {"document": f"d{i.text.split()[1]}"} for i in drawn)
    assert max(int(i.text.split()[1]) for i in drawn) > 150, "not only the first"


# probes on disk; the command's round trip is in test_probing_cli


@pytest.mark.slow
def test_a_probe_comes_back_as_it_was_and_is_refused_for_another_model(tmp_path: Path) -> None:
    model = replace(tiny_model(), revision="sha256:one")
    probe_set = noun_set(model)
    site = Site("z", 0, 1)
    study = run_study(model, probe_set, task_of(probe_set, "template", 0), [site], StudySettings(SMALL))
    save_study(tmp_path, study, probe_set, model, CollectOptions(), ("tiny", "nouns"))
    saved = load_probe(tmp_path / "probes" / "z_L0H1")
    probe = final_probe(study.activations[site], study.task)
    assert isinstance(probe, LinearProbe)
    assert torch.equal(saved.probe.weight, probe.weight) and torch.equal(saved.probe.bias, probe.bias)
    assert saved.facts.result.model_dump_json() == study.results[0].model_dump_json()
    applied = apply_probe(model, saved, [item.text for item in noun_items()], at=" it")
    told = [saved.facts.class_names[int(one.probabilities.argmax())] for one in applied]
    same = probe.logits(study.activations[site]).argmax(1).tolist()
    assert told == [saved.facts.class_names[c] for c in same]
    assert sum(a == b for a, b in zip(told, probe_set.labels, strict=True)) > 12, "trained on these"
    with pytest.raises(BadInput, match="was trained on tiny"):
        apply_probe(replace(model, revision="sha256:two"), saved, ["the cat"])
    with pytest.raises(BadInput, match="'zebra' is not in the text"):
        apply_probe(model, saved, ["the cat"], at="zebra")
    data = bytearray((tmp_path / "probes" / "z_L0H1.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "probes" / "z_L0H1.safetensors").write_bytes(data)
    with pytest.raises(BadInput, match="hash differs"):
        load_probe(tmp_path / "probes" / "z_L0H1.json")
    with pytest.raises(BadInput, match="cannot be read"):
        load_probe(tmp_path / "none")
