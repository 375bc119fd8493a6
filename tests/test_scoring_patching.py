"""The patching check and the backup-head numbers: edits, patched logits by hand, planted heads."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from autointerp.predicate import TokenTable, evaluate, parse
from autointerp.records import Head, Interval, Score, Unscored
from autointerp.scoring.backup import TotalAndDirect, remove_heads
from autointerp.scoring.head_values import ExplainMeans, HeadValues, layer_values
from autointerp.scoring.patch_edits import Edits, PatchSpec, find_edits
from autointerp.scoring.patching import Job, PatchClaim, Patched, patch, score_patching
from autointerp.stats.bootstrap import interval
from tests.causal_model import GATED, LENGTH, NAMES, SEEN, causal_model, causal_rows, ids_of
from tests.test_conditional import among
from tests.test_scoring import rows_of
from tests.tiny_models import tiny_model

Kept = list[torch.Tensor]
GATED_PREVIOUS = f"{among('dst', GATED)} and distance == 1"


@functools.cache
def spec_of(n: int = 40, seed: int = 0) -> PatchSpec:
    model = causal_model()
    means = ExplainMeans(np.zeros((1, 5, 32)), np.zeros((1, 5, 9, 32)))
    table = TokenTable.from_strings(model.strings, model.special_ids)
    return PatchSpec(model, causal_rows(n), means, table, np.array(ids_of(NAMES)), seed)


def values_of(spec: PatchSpec) -> list[HeadValues]:
    return next(iter(layer_values(spec.model, spec.held_out, spec.means, [0], 8)))


def scored(claim: PatchClaim, index: int, seed: int = 0) -> Score | Unscored:
    head = Head(layer=0, index=index)
    return score_patching(spec_of(seed=seed), {head: claim})[head]


@pytest.mark.parametrize("predicate", [GATED_PREVIOUS, f"{among('src', SEEN)} and distance <= 2 and distance > 0"])
def test_edits_change_one_token_and_end_the_prediction(predicate: str) -> None:
    spec = spec_of()
    edits = find_edits(spec, values_of(spec)[3], predicate, np.random.default_rng(0), following=True)
    rows = edits.rows(spec.held_out)
    clean = spec.held_out.ids[edits.window]
    assert len(edits) == 20 and len(set(spec.held_out.documents[edits.window].tolist())) > 15
    assert ((rows.ids != clean).sum(1) == 1).all()
    case = np.arange(len(edits))
    assert (rows.ids[case, edits.place] == edits.token).all() and np.isin(edits.token, spec.pool).all()
    assert np.isin(edits.place, np.concatenate([edits.src, edits.dst])).all()
    before = evaluate(parse(predicate), clean, rows.lengths, spec.table)
    after = evaluate(parse(predicate), rows.ids, rows.lengths, spec.table)
    assert before[case, edits.dst, edits.src].all() and not after[case, edits.dst, edits.src].any()
    assert (edits.dst < LENGTH - 1).all()  # a next token is followed


def test_patched_logits_equal_whole_forwards_with_a_hook() -> None:
    spec = spec_of()
    values = values_of(spec)
    edits = find_edits(spec, values[2], GATED_PREVIOUS, np.random.default_rng(0), following=False)
    rows = edits.rows(spec.held_out)
    edited = next(iter(layer_values(spec.model, rows, spec.means, [0], 8)))
    followed = spec.held_out.ids[edits.window, edits.src].astype(np.int64)
    jobs = [Job(np.arange(n), values[i], edited[i], followed[:n]) for i, n in ((0, 7), (2, len(edits)))]
    found = patch(spec, edits, rows, jobs)[1]

    def logit(ids: np.ndarray, i: int, z: torch.Tensor | None) -> tuple[float, torch.Tensor]:
        kept: list[torch.Tensor] = []

        def hook(tensor: torch.Tensor, hook: object) -> torch.Tensor:
            shaped = tensor.reshape(1, LENGTH, 5, -1).clone()
            kept.append(shaped[0, edits.dst[i], 2].clone())
            if z is not None:
                shaped[0, edits.dst[i], 2] = z
            return shaped.reshape(tensor.shape)

        with spec.model.hooks([("blocks.0.attn.hook_z", hook)]):
            logits = spec.model.logits(spec.model.to_ids(ids[None]))[0, edits.dst[i]]
        return float(logits[followed[i]] - logits.mean()), kept[0]

    for i in range(0, len(edits), 4):
        clean_ids = spec.held_out.ids[edits.window[i]]
        clean, clean_z = logit(clean_ids, i, None)
        changed, edited_z = logit(rows.ids[i], i, None)
        assert found.clean[i] == pytest.approx(clean, abs=1e-4)
        assert found.edited[i] == pytest.approx(changed, abs=1e-4)
        assert found.clean_with_edited[i] == pytest.approx(logit(clean_ids, i, edited_z)[0], abs=1e-4)
        assert found.edited_with_clean[i] == pytest.approx(logit(rows.ids[i], i, clean_z)[0], abs=1e-4)


def test_moved_and_total_by_hand() -> None:
    one = Patched(*(np.array([value]) for value in (5.0, 1.0, 2.0, 3.5)))
    assert one.total.tolist() == [4.0] and one.moved.tolist() == [(3.0 + 2.5) / 2]


def test_the_head_that_carries_the_change_passes_and_others_do_not() -> None:
    right = scored(PatchClaim(GATED_PREVIOUS, f"{among('dst', NAMES[1::4])} and distance == 1", 1), 2)
    assert isinstance(right, Score)
    assert right.value > 0.7 and right.low > 0.5 and right.details["sign"] == 1
    assert right.details["T3_fell"] == 1 and right.details["T3_stayed"] == 0 and right.details["T3_positives"] == 20
    assert all(control.beaten for control in right.controls)
    assert [c.name.split(" ")[0] for c in right.controls] == ["random", "shuffled"]
    assert right.details["random_head"] != 2
    opposite = scored(PatchClaim(GATED_PREVIOUS, None, -1), 2)
    assert isinstance(opposite, Score) and opposite.details["sign"] == 0
    silent = scored(PatchClaim(GATED_PREVIOUS, None, 1), 1)  # looks at the previous token always, writes nothing
    assert isinstance(silent, Score) and silent.value == 0
    assert silent.details["T3_stayed"] == 1


def test_a_pattern_that_outlives_the_edit_is_counted() -> None:
    found = scored(PatchClaim(f"{among('src', SEEN)} and 1 <= distance <= 2", None, 1), 3)
    assert isinstance(found, Score)
    assert found.details["edits_of_source"] == found.n_items == 20
    assert float(found.details["T3_stayed"] or 0) > 0.9 and found.details["T3_fell"] == 0
    assert found.details["sign"] == 1  # what is written depends on the source all the same


def test_positional_descriptions_have_no_edit() -> None:
    found = scored(PatchClaim("distance == 1"), 0)
    assert isinstance(found, Unscored) and "one-token edit" in found.reason


def test_without_a_claimed_sign_the_next_token_is_followed() -> None:
    found = scored(PatchClaim(GATED_PREVIOUS), 2)
    assert isinstance(found, Score)
    assert found.details["sign_claimed"] == 0 and found.value > 0.1 and float(found.details["sign"] or 0) > 0.5


def test_the_seed_decides_the_edits() -> None:
    claim = PatchClaim(GATED_PREVIOUS, None, 1)
    one = scored(claim, 2)
    np.random.seed(3)
    assert one.model_dump_json() == scored(claim, 2).model_dump_json()
    assert one != scored(claim, 2, seed=1)


def test_no_ordinary_ids_no_edits() -> None:
    spec = spec_of()
    bare = PatchSpec(spec.model, spec.held_out, spec.means, spec.table, np.zeros(0, np.int64), 0)
    found = find_edits(bare, values_of(spec)[2], GATED_PREVIOUS, np.random.default_rng(0), following=True)
    assert isinstance(found, Edits) and len(found) == 0


def test_total_and_direct_effects_by_hand() -> None:
    model = tiny_model("gpt2")
    rows = rows_of(model, n=4)
    z_mean = np.random.default_rng(0).normal(size=(2, 4, 8)) * 0.1
    heads = [Head(layer=0, index=1), Head(layer=1, index=2)]
    found = remove_heads(model, rows, heads, z_mean, seed=0, rows=1000)
    for head in heads:
        totals, directs = [], []
        for window, length in enumerate(rows.lengths):
            ids = model.to_ids(rows.ids[window : window + 1])
            before = model.logits(ids)[0]
            residual = model.final_states(ids)[0][0]
            gain = model.bridge.ln_final.weight
            for dst in range(1, int(length) - 1):
                kept: Kept = []

                def hook(
                    z: torch.Tensor, hook: object, dst: int = dst, head: Head = head, kept: Kept = kept
                ) -> torch.Tensor:
                    shaped = z.reshape(1, z.shape[1], 4, -1).clone()
                    kept.append(shaped[0, dst, head.index].clone())
                    shaped[0, dst, head.index] = torch.as_tensor(z_mean[head.layer, head.index], dtype=z.dtype)
                    return shaped.reshape(z.shape)

                with model.hooks([(f"blocks.{head.layer}.attn.hook_z", hook)]):
                    after = model.logits(ids)[0]
                following = int(rows.ids[window, dst + 1])
                lost = before[dst] - after[dst]
                totals.append(float(lost[following] - lost.mean()))
                write = (kept[0] - torch.as_tensor(z_mean[head.layer, head.index], dtype=torch.float32)) @ model.W_O(
                    head.layer
                )[head.index]
                write = (write - write.mean()) / (residual[dst].var(correction=0) + 1e-5).sqrt() * gain
                logits = write @ model.W_U
                directs.append(float(logits[following] - logits.mean()))
        assert found.of(head).total.value == pytest.approx(np.mean(totals), abs=1e-3)
        assert found.of(head).direct.value == pytest.approx(np.mean(directs), abs=1e-3)
        assert found.of(head).total_size == pytest.approx(np.abs(totals).mean(), abs=1e-3)
        assert found.of(head).direct_size == pytest.approx(np.abs(directs).mean(), abs=1e-3)
        assert found.of(head).total.n == len(totals) and found.of(head).kl.value > 0


def test_backed_up_heads_are_told() -> None:
    some = Interval(value=0.1, low=0.0, high=0.2, n=9)
    assert TotalAndDirect(some, some, some, direct_size=1.0, total_size=0.4).backed_up
    assert not TotalAndDirect(some, some, some, direct_size=1.0, total_size=0.6).backed_up
    assert not TotalAndDirect(some, some, some, direct_size=0.0, total_size=0.0).backed_up
    assert all(np.isnan(interval(np.full(5, np.nan))))
