"""Insertion of vectors: exact in every mode, at the right places only, under every way of decoding, nothing left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.lenses.surgery import Insert, Insertion, forward_inserted, generate_inserted, inserting
from autointerp.model import LanguageModel
from autointerp.model.decoding import Decoding, answer_log_probs, generate, stop_ids
from autointerp.model.loading import wrap_bridge
from tests.tiny_models import ARCHITECTURES, boot, random_network, tiny_model, tiny_tokenizer

D = 32


def ids_of(model: LanguageModel, rows: int, size: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(40, model.d_vocab, (rows, size), generator=draw)


def stream(model: LanguageModel, ids: Tensor, block: int, insertion: Insertion | None = None) -> Tensor:
    """The input of a block, read by a hook behind the insertion's own."""
    found: list[Tensor] = []
    reading = [(f"blocks.{block}.hook_resid_pre", lambda tensor, hook: found.append(tensor.clone()))]
    if insertion is None:
        with model.hooks(reading):
            model.forward_base(ids)
    else:
        with inserting(model, insertion, ids.shape[1]), model.hooks(reading):
            model.forward_base(ids)
    return found[0]


def vectors(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def test_modes_do_exactly_what_they_say() -> None:
    model = tiny_model("gpt2")
    ids, h = ids_of(model, 2, 8), vectors(2)
    before = stream(model, ids, 1)
    rows = ({1: Insert((2, 5), h)}, {1: Insert((3,), h[0])})

    def after(mode: str, a: float) -> Tensor:
        return stream(model, ids, 1, Insertion(rows, mode, a))  # type: ignore[arg-type]

    full = after("normalized", 1.0)
    assert torch.equal(full[0, [2, 5]], h)
    assert torch.equal(full[1, 3], h[0])
    untouched = torch.ones(2, 8, dtype=torch.bool)
    untouched[0, [2, 5]] = untouched[1, 3] = False
    assert torch.equal(full[untouched], before[untouched])
    assert torch.equal(after("normalized", 0.0), before)
    half = after("normalized", 0.5)
    assert torch.allclose(half[1, 3], 0.5 * h[0] + 0.5 * before[1, 3])
    assert torch.equal(after("addition", 3.0)[0, 5], before[0, 5] + 3.0 * h[1])
    matched = after("norm_matched", 1.0)
    assert torch.allclose(matched[0, 2].norm(), before[0, 2].norm(), rtol=1e-5)
    assert torch.cosine_similarity(matched[0, 2], h[0], dim=0) > 0.99999


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_own_residual_is_a_no_op(kind: str) -> None:
    model = tiny_model(kind)
    ids = ids_of(model, 1, 7)
    own = stream(model, ids, 1)[0, 2:5]
    same = forward_inserted(model, ids, Insertion(({1: Insert((2, 3, 4), own)},)))
    assert torch.allclose(same, model.logits(ids), atol=1e-6)
    other = forward_inserted(model, ids, Insertion(({1: Insert((2, 3, 4), vectors(3))},)))
    assert not torch.allclose(other, model.logits(ids), atol=1e-2)


def test_several_blocks_and_rows_without_inserts() -> None:
    model = tiny_model("gpt2")
    ids, h = ids_of(model, 3, 6), vectors(2)
    insertion = Insertion(({0: Insert((1,), h[0]), 1: Insert((4,), h[1])}, {}, {0: Insert((5,), h[1])}))
    with inserting(model, insertion, 6) as fired:
        logits = model.logits(ids)
    assert dict(fired.counts) == {(0, 0): 1, (0, 1): 1, (2, 0): 1}
    assert torch.allclose(logits[1], model.logits(ids[1:2])[0], atol=1e-5)
    assert torch.allclose(logits[0], forward_inserted(model, ids[:1], Insertion(insertion.rows[:1]))[0], atol=1e-5)
    last = forward_inserted(model, ids[2:], Insertion(insertion.rows[2:]))
    assert torch.allclose(logits[2], last[0], atol=1e-5)
    assert fired.stream_norm[2, 0] == pytest.approx(float(stream(model, ids, 0)[2, 5].norm()), rel=1e-5)


def test_dicts_of_the_ancestor_and_their_notes() -> None:
    model = tiny_model("gpt2")
    ids, h = ids_of(model, 1, 6), vectors(1)
    told = [{1: ([2, 3], h), "replacing_mode": "ignored", "note": 5}]
    insertion = Insertion.of(told)
    assert list(insertion.rows[0]) == [1]
    ours = Insertion(({1: Insert((2, 3), h[0])},))
    assert torch.equal(forward_inserted(model, ids, insertion), forward_inserted(model, ids, ours))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_equals_uncached_on_every_architecture(architecture: str) -> None:
    model = wrap_bridge(boot(random_network(architecture, len(tiny_tokenizer()))), architecture)[0]
    ids = ids_of(model, 2, 6)
    insertion = Insertion(({1: Insert((2, 3), vectors(2) * 3)}, {1: Insert((4,), vectors(1, 2) * 3)}))
    cached, fired = generate_inserted(model, ids, insertion, Decoding(5))
    whole, fired_whole = generate_inserted(model, ids, insertion, Decoding(5, cached=False))
    assert cached.ids == whole.ids
    assert fired.rows(2) == [1, 1]
    steps = max(len(row) for row in whole.ids)
    assert fired_whole.rows(2) == [steps, steps]
    # the oracle: token by token, a plain forward with the insertion
    row, fed = 0, ids[:1]
    for token in cached.ids[row]:
        longer = Insertion(insertion.rows[:1])
        logits = forward_inserted(model, fed, longer)[0, -1]
        assert float(logits.max() - logits[token]) < 1e-5  # a soft cap makes ties
        fed = torch.cat([fed, torch.tensor([[token]])], dim=1)


def test_sampling_inserts_too_and_is_seeded() -> None:
    model = tiny_model("gpt2")
    ids = ids_of(model, 3, 6)
    insertion = Insertion(tuple({0: Insert((2,), 5 * vectors(1, n)[0])} for n in range(3)))

    def sample(seed: int) -> tuple[tuple[int, ...], ...]:
        decoding = Decoding(8, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        made, fired = generate_inserted(model, ids, insertion, decoding)
        assert fired.rows(3) == [1, 1, 1]
        return made.ids

    assert sample(0) == sample(0) != sample(1)
    with pytest.raises(BadInput, match="generator"):
        generate(model, ids, Decoding(2, temperature=1.0))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
def test_the_bridges_own_generate_inserts(cached: bool, sampled: bool) -> None:
    model = tiny_model("gpt2")
    ids = ids_of(model, 2, 6)
    insertion = Insertion(tuple({1: Insert((2, 3), 5 * vectors(2, n))} for n in range(2)))
    with inserting(model, insertion, 6) as fired:
        made = model.bridge.generate(
            ids, max_new_tokens=4, do_sample=sampled, use_past_kv_cache=cached, stop_at_eos=False, verbose=False,
            return_type="tokens",
        )  # fmt: skip
    assert min(fired.rows(2)) >= 1
    if cached:
        assert fired.rows(2) == [1, 1]
    if not sampled:
        ours = generate_inserted(model, ids, insertion, Decoding(4))[0].ids
        assert all(tuple(made[n, 6 : 6 + len(ours[n])].tolist()) == ours[n] for n in range(2))


def test_batch_equals_single_and_order_does_not_matter() -> None:
    model = tiny_model("llama")
    ids = ids_of(model, 1, 6).expand(4, -1)
    inserts = [{1: Insert((2, 3), 4 * vectors(2, n))} for n in range(4)]
    together = generate_inserted(model, ids, Insertion(tuple(inserts)), Decoding(6))[0].ids
    alone = tuple(generate_inserted(model, ids[:1], Insertion((one,)), Decoding(6))[0].ids[0] for one in inserts)
    backwards = generate_inserted(model, ids, Insertion(tuple(reversed(inserts))), Decoding(6))[0].ids
    assert together == alone == tuple(reversed(backwards))
    assert len(set(together)) > 1


def test_rows_padded_on_the_right() -> None:
    model = tiny_model("gpt2")
    ids = ids_of(model, 2, 8)
    insertion = Insertion(({1: Insert((2,), vectors(1)[0])}, {1: Insert((2,), vectors(1)[0])}))
    logits = forward_inserted(model, ids, insertion, lengths=[8, 4])
    short = forward_inserted(model, ids[1:, :4], Insertion(insertion.rows[1:]))
    assert torch.allclose(logits[1, :4], short[0], atol=1e-5)
    padded = Insertion(({}, {1: Insert((6,), vectors(1)[0])}))
    with pytest.raises(BadInput, match="padding"):
        forward_inserted(model, ids, padded, lengths=[8, 4])


BAD = [
    ({2: Insert((1,), torch.ones(D))}, "normalized", 1.0, "block 2 is out of range"),
    ({-1: Insert((1,), torch.ones(D))}, "normalized", 1.0, "out of range"),
    ({0: Insert((6,), torch.ones(D))}, "normalized", 1.0, "inside the row"),
    ({0: Insert((1, 1), torch.ones(D))}, "normalized", 1.0, "distinct"),
    ({0: Insert((), torch.ones(D))}, "normalized", 1.0, "distinct"),
    ({0: Insert((1,), torch.ones(D + 1))}, "normalized", 1.0, "32 wide"),
    ({0: Insert((1, 2), torch.ones(3, D))}, "normalized", 1.0, "3 vectors for 2 positions"),
    ({0: Insert((1,), torch.full((D,), math.nan))}, "normalized", 1.0, "NaN"),
    ({0: Insert((1,), torch.zeros(D))}, "norm_matched", 1.0, "zero"),
    ({0: Insert((1,), torch.ones(D))}, "normalized", 1.5, "outside"),
    ({0: Insert((1,), torch.ones(D))}, "addition", 0.0, "above 0"),
    ({0: Insert((1,), torch.ones(D))}, "replace", 1.0, "unknown"),
]


@pytest.mark.parametrize(("row", "mode", "strength", "match"), BAD)
def test_bad_inserts_are_refused(row: dict[int, Insert], mode: str, strength: float, match: str) -> None:
    model = tiny_model("gpt2")
    with pytest.raises(BadInput, match=match):
        forward_inserted(model, ids_of(model, 1, 6), Insertion((row,), mode, strength))  # type: ignore[arg-type]


def test_an_insertion_that_never_fires_is_refused_and_no_hook_stays() -> None:
    model = tiny_model("gpt2")
    ids, insertion = ids_of(model, 1, 6), Insertion(({1: Insert((1,), torch.ones(D))},))
    clean = model.logits(ids)
    with pytest.raises(ModelError, match="nothing was inserted"), inserting(model, insertion, 6):
        model.logits(ids[:, :5])
    with pytest.raises(ModelError, match="batch of 2"), inserting(model, insertion, 6):
        model.logits(ids.expand(2, -1))
    with pytest.raises(RuntimeError, match="own"), inserting(model, insertion, 6):
        raise RuntimeError("own")
    assert torch.equal(model.logits(ids), clean)
    with pytest.raises(BadInput, match="one token"):
        generate_inserted(model, ids[:, :1], Insertion(({1: Insert((0,), torch.ones(D))},)))
    with pytest.raises(BadInput, match="rows of inserts"):
        forward_inserted(model, ids.expand(2, -1), insertion)


def test_no_graph_is_kept() -> None:
    model = tiny_model("gpt2")
    h = torch.ones(D, requires_grad=True)
    assert not forward_inserted(model, ids_of(model, 1, 6), Insertion(({1: Insert((1,), h)},))).requires_grad


def test_answers_are_scored_as_the_plain_model_does() -> None:
    model = tiny_model("llama")
    ids = ids_of(model, 2, 5)
    answers = [(50, 51, 52), (60,)]
    for row, scored in enumerate(answer_log_probs(model, ids, answers)):
        whole = torch.cat([ids[row], torch.tensor(answers[row])])[None]
        log_probs = torch.log_softmax(model.logits(whole), dim=-1)[0]
        expected = [float(log_probs[4 + n, token]) for n, token in enumerate(answers[row])]
        assert scored.tolist() == pytest.approx(expected, abs=1e-5)


def test_generation_ends_with_the_first_stop_id() -> None:
    model = tiny_model("gpt2")
    (stop,) = stop_ids(model) & set(model.special_ids)
    bias = torch.zeros(model.d_vocab)
    bias[stop] = 1e4
    push = [("unembed.hook_out", lambda tensor, hook: tensor + bias)]
    with model.hooks(push):
        assert generate(model, ids_of(model, 2, 4), Decoding(5)).ids == ((stop,), (stop,))

    def first_row_only(tensor: Tensor, hook: object) -> Tensor:
        return tensor + bias * torch.tensor([1.0, -1.0])[:, None, None]

    with model.hooks([("unembed.hook_out", first_row_only)]):
        ended, went_on = generate(model, ids_of(model, 2, 4), Decoding(5)).ids
    assert ended == (stop,)
    assert len(went_on) == 5 and stop not in went_on
    with pytest.raises(BadInput, match="context"):
        generate(model, ids_of(model, 1, 60), Decoding(5))
    with pytest.raises(BadInput, match="at least 1"):
        generate(model, ids_of(model, 1, 6), Decoding(0))
    assert np.isfinite(generate(model, ids_of(model, 1, 6), Decoding(1)).entropy.numpy()).all()
