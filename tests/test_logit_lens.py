"""The logit lens: the last row is the model itself, ranks and probabilities are real, every form holds the tokens."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch

from autointerp.cli import main
from autointerp.errors import AutointerpError, BadInput
from autointerp.lenses.logit import LogitLens, logit_lens
from autointerp.lenses.sources import read_stream, site_of_hidden_state
from autointerp.model.lens import vector_lens
from autointerp.model.loading import wrap_bridge
from autointerp.tables import read_csv_cells
from tests.page_driver import BROWSER, browser_page, file_url
from tests.tiny_models import ARCHITECTURES, boot, random_network, tiny_model, tiny_tokenizer

REFUSED: tuple[str, ...] = ()
TEXT = "the dog sat on it , and | the cat = NA"


def test_the_last_row_is_the_model_and_the_rest_is_its_stream() -> None:
    model = tiny_model("gpt2")
    found = logit_lens(model, TEXT, k=3)
    ids = [model.bos_id, *model.encode(TEXT)[0].tolist()]
    log_probs = torch.log_softmax(model.logits(torch.tensor([ids])), dim=-1)[0]
    assert found.sites == ("resid_pre 0", "resid_pre 1", "resid_post 1")
    for pos in range(len(ids)):
        cell = found.cell("resid_post 1", pos)
        top = log_probs[pos].topk(3)
        assert [one.token for one in cell.top] == [model.strings[int(i)] for i in top.indices]
        assert [one.log_prob for one in cell.top] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert cell.entropy == pytest.approx(float(-(log_probs[pos].exp() * log_probs[pos]).sum()), abs=1e-3)
        if pos + 1 < len(ids):
            assert cell.next_log_prob == pytest.approx(float(log_probs[pos, ids[pos + 1]]), abs=1e-4)
            assert cell.next_rank == int((log_probs[pos] > log_probs[pos, ids[pos + 1]]).sum())
    last = found.cell("resid_post 1", len(ids) - 1)
    assert (last.next_token, last.next_rank, last.next_log_prob) == (None, None, None)
    middle = model.bridge.ln_final(read_stream(model, _fed(ids), [1])[1][None])[0]
    expected = torch.log_softmax(model.unembed(middle.detach()), dim=-1)
    cell = found.cell("resid_pre 1", 2)
    assert cell.top[0].log_prob == pytest.approx(float(expected[2].max()), abs=1e-4)


def _fed(ids: list[int]):  # type: ignore[no-untyped-def]
    from autointerp.lenses.sources import FedText

    return FedText("", tuple(ids), 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_read_or_refused_in_words(architecture: str) -> None:
    model = wrap_bridge(boot(random_network(architecture, len(tiny_tokenizer()))), architecture)[0]
    if architecture in REFUSED:
        with pytest.raises(AutointerpError, match=architecture):
            logit_lens(model, "the dog sat", k=1)
        return
    found = logit_lens(model, "the dog sat", k=1)
    ids = [*([] if model.bos_id is None else [model.bos_id]), *model.encode("the dog sat")[0].tolist()]
    best = model.logits(torch.tensor([ids]))[0].argmax(-1)
    line = found.cells[-1]
    assert [cell.top[0].token for cell in line] == [model.strings[int(i)] for i in best]


def test_layers_and_positions_are_chosen_or_refused() -> None:
    model = tiny_model("llama")
    found = logit_lens(model, TEXT, layers=[1], positions=[2, 4])
    assert found.sites == ("resid_pre 1", "resid_post 1")
    assert [len(line) for line in found.cells] == [2, 2]
    whole = logit_lens(model, TEXT)
    assert found.cell("resid_pre 1", 4) == whole.cell("resid_pre 1", 4)
    for bad in (
        lambda: logit_lens(model, TEXT, layers=[2]),
        lambda: logit_lens(model, TEXT, positions=[99]),
        lambda: logit_lens(model, TEXT, positions=[]),
        lambda: logit_lens(model, ""),
        lambda: logit_lens(model, "the dog " * 64),
        lambda: logit_lens(model, TEXT, k=0),
        lambda: found.cell("resid_pre 0", 2),
    ):
        with pytest.raises(BadInput):
            bad()


def test_hidden_states_are_counted_as_the_original_counts_them() -> None:
    model = tiny_model("llama")
    ids = [model.bos_id or 0, *model.encode("the dog sat on it")[0].tolist()]
    states = model.bridge.original_model.base_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    stream = read_stream(model, _fed(ids), [0, 1])
    for index in (0, 1):
        site = site_of_hidden_state(model, index)
        assert str(site) == f"resid_pre {index}"
        assert torch.allclose(stream[index], states[index][0], atol=1e-6)
    with pytest.raises(BadInput, match="final norm"):
        site_of_hidden_state(model, 2)
    with pytest.raises(BadInput, match="out of range"):
        site_of_hidden_state(model, 3)


def test_every_form_holds_every_token() -> None:
    model = tiny_model("gpt2")
    found = logit_lens(model, "the | dog\n=1+1 NA", k=2)
    table = found.table()
    lines = read_csv_cells(found.to_csv(), table.token_columns)
    assert len(lines) == len(table) == 3 * len(found.positions) * 2
    assert [line["token"] for line in lines] == [row[3] for row in table.rows]
    assert all(math.isclose(float(line["prob"]), math.exp(float(line["log_prob"])), rel_tol=1e-4) for line in lines)
    told = json.loads(found.to_json())
    assert told["cells"][0]["token"] == found.cells[0][0].token
    width = len(found.positions) + 1
    pipes = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    assert {_cells(line) for line in pipes} == {width}
    assert pipes[2].startswith("| resid_post 1")
    assert "resid_pre 0" in found.to_text() and "\n=1" not in found.to_text()
    assert len(found.to_dataframe()) == len(table)  # type: ignore[arg-type]


def _cells(line: str) -> int:
    return len(line.replace("\\|", "").strip().strip("|").split("|"))


def hostile(token: str) -> LogitLens:
    cell = logit_lens(tiny_model("gpt2"), "the dog").cells[0][0]
    top = tuple(one.model_copy(update={"token": token}) for one in cell.top)
    return LogitLens("m", "t", ("resid_pre 0",), (0,), ((cell.model_copy(update={"token": token, "top": top}),),))


@pytest.mark.parametrize("token", ["</td><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202e", "`"])
def test_a_page_escapes_tokens(token: str) -> None:
    page = hostile(token).to_html()
    assert page.count("<script>") == 1 and "<img" not in page
    assert "\u202e" not in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "lens.html"
    model = tiny_model("gpt2")
    path.write_text(logit_lens(model, TEXT).to_html(), encoding="utf-8")
    with browser_page() as page:
        page.open(file_url(path))
        cells = page.run('document.querySelectorAll("td[data-column]").length')
        assert cells == 3 * len(logit_lens(model, TEXT).positions)
        page.run("document.querySelectorAll('button[data-column]')[2].click()")
        shown = page.run('document.querySelector("[data-role=column]").textContent')
        assert "resid_post 1" in shown and "entropy" in shown
        assert "rank" in page.run('document.querySelectorAll("td[data-column]")[1].title')


def test_vectors_are_read_as_streams() -> None:
    model = tiny_model("gpt2")
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    found = vector_lens(model, x, 1)
    expected = model.unembed(model.bridge.ln_final(x[None]).detach()[0]).argmax(-1)
    assert found.top_ids[:, 0].tolist() == expected.tolist()


@pytest.mark.slow
def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logit-lens", "Tamsin Marr sold", "--layers", "0,2", "--format", "csv", "--top", "2"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["site"] for line in lines} == {"resid_pre 0", "resid_pre 2", "resid_post 3"}
    assert main(["logit-lens", "Tamsin Marr sold", "--layers", "9"]) == 2
    assert "layer 9 is out of range" in capsys.readouterr().err
    assert main(["logit-lens", "Tamsin Marr sold", "--at", " Nobody"]) == 2
    assert main(["logit-lens", "Tamsin Marr sold", "--layers", "x"]) == 2
    assert "Traceback" not in capsys.readouterr().err
