"""What a run would send to the server, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from autointerp.config import RunConfig, Settings
from autointerp.evidence.collect import Collected
from autointerp.explain import explain_prompt
from autointerp.llm import ChatRequest, Usage, estimate_prompt, find_prices
from autointerp.pipeline.inputs import Inputs
from autointerp.pipeline.talking import DONORS, control_heads, language_settings, templates

POINTING_PROMPT, POINTING_REPLY = 4_000, 400  # tokens of 20 items; the items are drawn after describing is planned
PROBE_CALLS, PROBE_TOKENS = 6, 200


@dataclass(frozen=True)
class Estimate:
    """Calls and tokens by purpose; `usd` None where the price is unknown. Repairs are not in it."""

    rows: tuple[tuple[str, int, int, int], ...]  # purpose, calls, prompt tokens, completion tokens (upper bound)
    usd: float | None
    price_source: str

    @property
    def calls(self) -> int:
        return sum(row[1] for row in self.rows)


def estimate_calls(config: RunConfig, settings: Settings, inputs: Inputs, collected: Collected) -> Estimate:
    """An upper estimate for the LLM explainer; nothing for the detectors."""
    if config.explainer != "llm":
        return Estimate((), 0.0, "the detector explainer asks nobody")
    source, asked = templates(config), language_settings(config)
    prompts = [explain_prompt(collected.evidence[head], source, asked)[0] for head in inputs.heads]
    sizes = [estimate_prompt(ChatRequest(messages=p.messages, max_tokens=asked.max_tokens)) for p in prompts]
    n = len(inputs.heads)
    rows = [
        ("probe", PROBE_CALLS, PROBE_CALLS * PROBE_TOKENS, PROBE_CALLS * PROBE_TOKENS),
        ("explain", n, sum(sizes), n * asked.max_tokens),
    ]
    if "pointing" in config.scorers:
        controls = DONORS * len(control_heads(inputs.heads, config.seed))
        rows.append(("pointing", n, n * POINTING_PROMPT, n * POINTING_REPLY))
        rows.append(("pointing controls", controls, controls * POINTING_PROMPT, controls * POINTING_REPLY))
    prices = find_prices(config.llm, config.base_url, (settings.price_input, settings.price_output))
    usage = Usage(prompt_tokens=sum(r[2] for r in rows), completion_tokens=sum(r[3] for r in rows))
    return Estimate(tuple(rows), prices.cost(usage), prices.source)
