"""What a head does to the token it attends to: copying, suppression, successors and word relations, from parameters.

1. x_t is what the head's layer really sees at the second position of `[BOS, t]` (variant `after_bos`; without a BOS the
   corpus's most frequent token stands first). Its write is `(v_t - constant) W_O`: attention 1 on t alone.
2. copying: the share of tokens t whose own logit is among the 5 highest of the write (Wang et al. 2022, section 3.2);
   anti_copying: among the 5 lowest. Chance is 5 over the vocabulary.
3. successor: within ordered lists, the share of t whose highest logit is t + 1 (Gould et al. 2023).
4. relation: the share of pairs (x, y) with y among the 10 highest of x's write; relation_suppression: 10 lowest
   (Elhelo and Geva 2024). Nothing of this is defined at layer 0, where x_t has seen no MLP.

The final norm's scale is one number a token and changes no rank. Exact ranks are counted on a sample of the
vocabulary first, and on all of it only for tokens that the sample does not rule out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.evidence.detector_lists import ORDERED, RELATIONS
from autointerp.evidence.detector_measure import Measured, Values
from autointerp.model import LanguageModel, Layer, Readout

N_TOKENS, TOP, RELATION_TOP, LEAST_PAIRS = 100, 5, 10, 30
LEAST_MEMBERS = 4  # of an ordered list
_SCREEN, _CHUNK = 1024, 512
Writes = list[Float[Tensor, "token head d_model"]]  # one a layer


@dataclass(frozen=True)
class Vocabulary:
    """Token sets of this vocabulary: for copying, for each ordered list, for all relations."""

    copied: Int[np.ndarray, " token"]
    chosen: str  # how `copied` was chosen
    lists: tuple[tuple[str, tuple[int, ...]], ...]
    pairs: Int[np.ndarray, "pair 2"]
    first: int  # what is fed before each token

    @classmethod
    def of(
        cls,
        strings: Sequence[str],
        pool: Int[np.ndarray, " token"],
        is_word: Bool[np.ndarray, " vocab"],
        bos_id: int | None,
    ) -> Vocabulary:
        """`pool`: ordinary ids, most frequent first."""
        words = [i for i in pool.tolist() if is_word[i] and strings[i][:1] == " "]
        names = [i for i in words if strings[i][1:2].isupper() and len(strings[i].strip()) > 1]
        enough = len(names) >= N_TOKENS // 2
        chosen = names if enough else words or [i for i in pool.tolist() if is_word[i]] or pool.tolist()
        known = {text: number for number, text in reversed(list(enumerate(strings)))}
        met = frozenset(pool.tolist())
        found = {name: _ids(known, met, members) for name, members in ORDERED.items()}
        lists = tuple((name, ids) for name, ids in found.items() if len(ids) >= LEAST_MEMBERS)
        return cls(
            np.array(chosen[:N_TOKENS], dtype=np.int64),
            "capitalised words" if enough else "frequent words",
            lists,
            _pairs(known),
            bos_id if bos_id is not None else int(pool[0]) if len(pool) else 0,
        )


def _ids(known: dict[str, int], met: Collection[int], members: Sequence[str]) -> tuple[int, ...]:
    """Ids of the members that are single tokens, all with a leading space or all without: the spelling of which the
    text has met more, or else the one that finds more."""
    spaced = tuple(known[f" {m}"] for m in members if f" {m}" in known)
    bare = tuple(known[m] for m in members if m in known)

    def use(ids: tuple[int, ...]) -> tuple[int, int]:
        return sum(i in met for i in ids), len(ids)

    return spaced if use(spaced) >= use(bare) else bare


def _pairs(known: dict[str, int]) -> Int[np.ndarray, "pair 2"]:
    found = [(known[f" {x}"], known[f" {y}"]) for x, y in RELATIONS if f" {x}" in known and f" {y}" in known]
    return np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 2)


def token_writes(model: LanguageModel, tokens: Int[np.ndarray, " token"], first: int) -> Writes:
    """Each head's write where it attends to nothing but the token, in `[first, token]`."""
    writes: Writes = []

    def keep(layer: Layer) -> None:
        v = model.expand_kv(layer.v[:, 1].float() - model.v_constant(layer.index))
        writes.append(torch.einsum("thk,hkm->thm", v, model.W_O(layer.index)))

    rows = np.stack([np.full(len(tokens), first), tokens], 1)
    model.read_attention(model.to_ids(rows), list(range(model.n_layers)), keep)
    return writes


def ranked(
    writes: Float[Tensor, "item d_model"],
    targets: Int[Tensor, " item"],
    to_logits: Float[Tensor, "d_model vocab"],
    k: int,
) -> tuple[Bool[Tensor, " item"], Bool[Tensor, " item"]]:
    """Whether each target is among the k highest, and among the k lowest, of its write's logits. Exact.

    A write of nothing ranks nothing.
    """
    own = (writes * to_logits[:, targets].T).sum(-1)
    alive = writes.norm(dim=-1) > 1e-9
    step = max(1, to_logits.shape[1] // _SCREEN)
    above, below = _beyond(writes, own, to_logits[:, ::step].contiguous())
    out: list[Tensor] = []
    for sign, screened in ((1.0, above), (-1.0, below)):
        hit = torch.zeros_like(alive)
        left = torch.nonzero(alive & (screened < k))[:, 0]
        for part in torch.split(left, _CHUNK) if len(left) else ():
            hit[part] = _beyond(sign * writes[part], sign * own[part], to_logits)[0] < k
        out.append(hit)
    return out[0], out[1]


def _beyond(
    writes: Float[Tensor, "item d_model"],
    own: Float[Tensor, " item"],
    to_logits: Float[Tensor, "d_model token"],
) -> tuple[Int[Tensor, " item"], Int[Tensor, " item"]]:
    """How many tokens have a higher, and a lower, logit than `own`, beyond rounding: no token beats itself."""
    margin = 1e-5 * own.abs()
    counts = []
    for start in range(0, len(writes), _CHUNK):
        logits = writes[start : start + _CHUNK] @ to_logits
        middle, slack = own[start : start + _CHUNK, None], margin[start : start + _CHUNK, None]
        counts.append(torch.stack([(logits > middle + slack).sum(1), (logits < middle - slack).sum(1)]))
    both = torch.cat(counts, 1)
    return both[0], both[1]


def _hits(writes: Writes, targets: Int[np.ndarray, " token"], readout: Readout, k: int) -> tuple[Values, Values]:
    """[token head] 1 where the target is among the k highest (lowest); NaN at layer 0."""
    n, heads = len(targets), writes[0].shape[1]
    up, down = (np.full((n, heads * len(writes)), np.nan) for _ in range(2))
    wanted = torch.from_numpy(targets).to(readout.to_logits.device).repeat_interleave(heads)
    for layer in range(1, len(writes)):
        found = ranked(writes[layer].reshape(n * heads, -1), wanted, readout.to_logits, k)
        place = slice(layer * heads, (layer + 1) * heads)
        up[:, place], down[:, place] = (hit.reshape(n, heads).double().cpu().numpy() for hit in found)
    return up, down


def measure_copying(model: LanguageModel, readout: Readout, words: Vocabulary) -> dict[str, Measured]:
    """`copying` and `anti_copying`."""
    up, down = _hits(token_writes(model, words.copied, words.first), words.copied, readout, TOP)
    chance = np.full_like(up, TOP / model.d_vocab)
    return {"copying": Measured(up, chance, {}), "anti_copying": Measured(down, chance, {})}


def measure_relations(model: LanguageModel, readout: Readout, words: Vocabulary) -> dict[str, Measured]:
    """`relation` and `relation_suppression`; nothing where fewer than 30 pairs are single tokens here."""
    if len(words.pairs) < LEAST_PAIRS:
        return {}
    writes = token_writes(model, words.pairs[:, 0], words.first)
    up, down = _hits(writes, words.pairs[:, 1], readout, RELATION_TOP)
    chance = np.full_like(up, RELATION_TOP / model.d_vocab)
    return {"relation": Measured(up, chance, {}), "relation_suppression": Measured(down, chance, {})}


def measure_successor(model: LanguageModel, readout: Readout, words: Vocabulary, seed: int) -> dict[str, Measured]:
    """`successor`: share of t with best token t + 1 in its list; more: copies, raised, and lists in random order."""
    parts = [_one_list(model, readout, (ids, words.first), seed) for _, ids in words.lists]
    if not parts:
        return {}
    names = parts[0].keys()
    joined = {name: np.concatenate([p[name] for p in parts]) for name in names}
    value, chance = joined.pop("value"), joined.pop("chance")
    return {"successor": Measured(value, chance, joined)}


def _one_list(model: LanguageModel, readout: Readout, fed: tuple[tuple[int, ...], int], seed: int) -> dict[str, Values]:
    ids, first = np.array(fed[0], dtype=np.int64), fed[1]
    m = len(ids)
    directions = readout.to_logits[:, torch.from_numpy(ids).to(readout.to_logits.device)]
    logits = torch.cat([w @ directions for w in token_writes(model, ids, first)], 1).double().cpu().numpy()
    best = logits.argmax(-1)  # [token head]
    own, following = np.arange(m)[:, None], np.arange(1, m)[:, None]
    raised = np.take_along_axis(logits[:-1], following[:, :, None], 2) > np.take_along_axis(
        logits[:-1], own[:-1, :, None], 2
    )
    generator = np.random.default_rng(seed)
    shuffled = np.zeros((m - 1, best.shape[1]))
    for _ in range(20):
        order = generator.permutation(m)
        shuffled += (best[order[:-1]] == order[1:, None]) / 20
    found = {
        "value": (best[:-1] == following).astype(np.float64),
        "chance": np.full(best[:-1].shape, 1 / m),
        "copies": (best[:-1] == own[:-1]).astype(np.float64),
        "raised": raised[..., 0].astype(np.float64),
        "random_order": shuffled,
    }
    for values in found.values():
        values[:, : model.n_heads] = np.nan  # layer 0
    return found
