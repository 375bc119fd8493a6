"""What the study says of writes, copying and MLPs, against the same numbers made the long way on the demo model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autointerp.circuits.measures import Reader
from autointerp.circuits.prompts import ContrastSet
from autointerp.model.nodes import node_hook, read_nodes
from autointerp.records import Head
from autointerp.studies.ioi_copying import TOP, copying, directions
from autointerp.studies.ioi_data import IoiSpec, ioi_prompts, ioi_set
from autointerp.studies.ioi_mlps import mlp_knockouts
from tests.circuit_helpers import demo, fillers


def some(per_group: int = 5) -> ContrastSet:
    return ioi_set(demo(), ioi_prompts(fillers(), IoiSpec(per_group=per_group, templates=(0, 6))), fillers(), "abc")


def logit_diffs(prompts: ContrastSet, hooks: list[tuple[str, object]]) -> np.ndarray:
    ends, each = torch.from_numpy(prompts.ends), torch.arange(len(prompts))
    with demo().hooks(hooks):  # type: ignore[arg-type]
        hidden = demo().final_states(demo().to_ids(prompts.clean))[1][each, ends]
    return np.asarray(Reader(demo(), prompts).values(hidden[None], ("logit_diff",))["logit_diff"][0])


def test_mlps_out_by_hand() -> None:
    prompts = some()
    found = mlp_knockouts(demo(), prompts)
    n = demo().n_layers
    assert set(found.logit_diff) == {"nothing", "all", "all but MLP 0", *(f"MLP {k}" for k in range(n))}
    wanted: dict[str, list[float]] = {"nothing": [], "MLP 1": [], "all but MLP 0": []}
    for group in sorted(set(prompts.groups)):
        part = prompts.take(np.array([k for k, name in enumerate(prompts.groups) if name == group]))
        size = int(part.lengths.max())
        means = {
            layer: read_nodes(demo(), demo().to_ids(part.corrupted), [("mlp_out", layer)])["mlp_out", layer].mean(0)
            for layer in range(n)
        }

        def put(layer: int, means: dict[int, torch.Tensor] = means, size: int = size) -> tuple[str, object]:
            def hook(tensor: torch.Tensor, hook: object) -> torch.Tensor:
                out = tensor.clone()
                out[:, :size] = means[layer][:size, 0]
                return out

            return node_hook("mlp_out", layer), hook

        for name, layers in (("nothing", []), ("MLP 1", [1]), ("all but MLP 0", list(range(1, n)))):
            wanted[name] += logit_diffs(part, [put(layer) for layer in layers]).tolist()
    for name, values in wanted.items():
        assert found.logit_diff[name].value == pytest.approx(np.mean(values), abs=1e-4)
        assert found.logit_diff[name].low < found.logit_diff[name].value < found.logit_diff[name].high
    assert found.logit_diff["MLP 1"].value != pytest.approx(found.logit_diff["nothing"].value, abs=0.1)


def test_copying_by_the_paper_s_definition_by_hand() -> None:
    prompts, model = some(2), demo()
    found = copying(model, prompts)
    assert found.n == 3 * len(prompts) and np.isnan(found.copies[0]).all()
    stream = read_nodes(model, model.to_ids(prompts.clean), [("resid_post", 0)])["resid_post", 0][:, :, 0]
    for layer, head in ((layer, head) for layer in range(1, model.n_layers) for head in range(model.n_heads)):
        hits = [0, 0]
        ln1, final = model.bridge.blocks[layer].ln1, model.bridge.ln_final
        for row in range(len(prompts)):
            for role in ("IO", "S1", "S2"):
                at = int(prompts.roles[role][row])
                with torch.no_grad():
                    x = (
                        ln1(stream[row, at][None, None])[0, 0]
                        - ln1(torch.zeros_like(stream[row, at])[None, None])[0, 0]
                    )
                    out = x @ model.W_V(layer)[head] @ model.W_O(layer)[head]
                    logits = (final(out[None, None])[0, 0] - final(torch.zeros_like(out)[None, None])[0, 0]) @ model.W_U
                name = int(prompts.clean[row, at])
                hits[0] += name in logits.topk(TOP).indices.tolist()
                hits[1] += name in (-logits).topk(TOP).indices.tolist()
        assert found.copies[layer, head] == pytest.approx(hits[0] / found.n)
        assert found.suppresses[layer, head] == pytest.approx(hits[1] / found.n)
    assert np.nanmax(found.copies) > 0.5  # some head copies


def test_the_direction_of_a_write_by_hand() -> None:
    prompts, model, head = some(2), demo(), Head.parse("L1H7")
    (found,) = directions(model, prompts, [head])
    both = np.stack([found.attention.ravel(), found.written.ravel()])
    assert found.correlation.value == pytest.approx(np.corrcoef(both)[0, 1])
    assert found.correlation.low < found.correlation.value < found.correlation.high
    assert found.correlation.high < 0  # it writes against the name that it looks at
    ids = model.to_ids(prompts.clean)
    z = read_nodes(model, ids, [("z", 1)])["z", 1]
    patterns: list[torch.Tensor] = []
    model.read_attention(ids, [1], lambda layer: patterns.append(layer.pattern))
    gain = model.bridge.ln_final.original_component.weight.detach()
    for row in range(len(prompts)):
        end = int(prompts.ends[row])
        write = z[row, end, 7] @ model.W_O(1)[7]
        logits = ((write - write.mean()) * gain) @ model.W_U
        logits = (logits - logits.mean()).detach().numpy()
        assert found.written[0, row] == pytest.approx(logits[prompts.answer[row]], abs=1e-3)
        assert found.written[1, row] == pytest.approx(logits[prompts.wrong[row]], abs=1e-3)
        s = sum(float(patterns[0][row, 7, end, prompts.roles[r][row]]) for r in ("S1", "S2"))
        assert found.attention[1, row] == pytest.approx(s, abs=1e-6)
