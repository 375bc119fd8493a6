"""`--llm rules`: a chat model of fixed rules that answers the product's prompts from what they show, and nothing else.

It reads the JSON blocks of a prompt: no model, no answer key, no file. It is no good explainer on purpose: its first
answer falls into the traps of the planted models, and only experiments lead it out again (`rules_agent`, and
`rules_unit_agent` for neurons and latents).

- Two functions that show: it names one.
- A fixed offset: it says the token before.
- Earlier copies of the same token: it says the token that followed one.
- A head that looks and changes nothing: it says that the attended token is copied.
- A unit that answers to a set of tokens, to a token after another, or to either of two: it names one token.

So it proves that loop, protocol and stop rules work, and nothing about the worth of the method.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autointerp.chat.rules_agent import ask_experiments, other_hypotheses, revise
from autointerp.chat.rules_claims import RULES, Seen, claim
from autointerp.chat.rules_features import change, describe_unit, detect, is_about_unit, simulate
from autointerp.chat.rules_unit_agent import ask_unit_experiments, other_unit_hypotheses, revise_unit
from autointerp.errors import ChatFailed
from autointerp.llm import Capabilities, ChatReply, ChatRequest, Endpoint, Usage, by_characters, estimate_prompt

RULES_NAME = "rules"
PAIRS = (("previous_token", "duplicate_token"), ("current_token", "induction"))
BLOCK = re.compile(r"<<<([A-Z]+)\n(.*?)\n\1>>>", re.DOTALL)
Plain = dict[str, Any]


class RulesChat:
    """See the top of this module."""

    endpoint = Endpoint(model=RULES_NAME, base_url="rules:1")
    found = Capabilities(model=RULES_NAME, logprobs=False)

    async def capabilities(self) -> Capabilities:
        """It gives no log-probabilities and obeys every schema."""
        return self.found

    async def complete(self, request: ChatRequest) -> ChatReply:
        """See `ChatModel.complete`."""
        answer = ANSWERS.get(request.schema_name if request.json_schema is not None else "")
        if answer is None:
            raise ChatFailed(
                f"--llm rules has no rule for this request ({request.schema_name!r}). Ask a language model."
            )
        text = json.dumps(answer(_blocks(request)))
        usage = Usage(prompt_tokens=estimate_prompt(request), completion_tokens=by_characters(text))
        return ChatReply(text=text, usage=usage, finish_reason="stop", model=RULES_NAME)


def _blocks(request: ChatRequest) -> Plain:
    """The marked blocks of the prompt, by name; the last of a name counts."""
    found: Plain = {}
    for message in request.messages:
        if message.get("role") == "assistant":
            continue
        for name, text in BLOCK.findall(message.get("content", "")):
            try:
                found[name] = json.loads(text)
            except ValueError:
                continue
    return found


def _describe(blocks: Plain) -> Plain:
    seen = Seen.of(blocks.get("EVIDENCE", {}))
    said = first_claim(seen)
    said.pop("no_predicate")
    return {**said, "summary": said["looks_at"], "counterexamples": "", "unclear": said["label"] == "unclear"}


def first_claim(seen: Seen) -> Plain:
    """What it says of a head before any experiment."""
    label = seen.strongest
    wrong = {"fixed_offset": "previous_token"}.get(label, label)
    if seen.idle and label not in ("unclear", "first_token"):
        return claim(wrong, seen, label="copying", writes="Raises the attended token as the next token.")
    wrong = {"duplicate_token": "induction"}.get(label, wrong)
    pair = next((pair for pair in PAIRS if seen.both(*pair)), None)
    return claim(pair[0] if pair else wrong, seen)


def _hypotheses(blocks: Plain) -> Plain:
    return {"hypotheses": other_hypotheses(Seen.of(blocks.get("EVIDENCE", {})))}


def _experiments(blocks: Plain) -> Plain:
    return ask_experiments(Seen.of(blocks.get("EVIDENCE", {})), blocks.get("HISTORY", {}))


def _revision(blocks: Plain) -> Plain:
    return revise(Seen.of(blocks.get("EVIDENCE", {})), blocks.get("HISTORY", {}))


def _guess(blocks: Plain) -> Plain:
    looks_at, _ = RULES["previous_token"]
    return {"looks_at": looks_at, "writes": "Raises what usually follows.", "conditions": "Everywhere."}


@dataclass(frozen=True)
class _Words:
    """What the words of a description say about where to look."""

    offset: int | None
    same: bool
    after: bool

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> _Words:
        text = str(description.get("looks_at", "")).lower()
        number = re.search(r"(\d+) positions before", text)
        offset = int(number[1]) if number else 1 if "directly before" in text else 0 if "to itself" in text else None
        return cls(offset, "earlier occurrence" in text, "followed" in text)


def _pointing(blocks: Plain) -> Plain:
    words = _Words.of(blocks.get("DESCRIPTION", {}))
    return {"answers": [_letter(words, item) for item in blocks.get("ITEMS", [])]}


def _letter(words: _Words, item: Mapping[str, Any]) -> str:
    candidates: Mapping[str, Any] = item["candidates"]
    dst = str(item.get("dst", ""))

    def fits(candidate: Mapping[str, Any]) -> float:
        distance, src = candidate.get("distance"), str(candidate.get("src", ""))
        if words.offset is not None and distance == words.offset:
            return 3
        if words.same and not words.after and src.strip() == dst.strip() and distance:
            return 2
        return 1 if words.after and f"{dst}{src}" in str(candidate.get("around", "")) else 0

    return max(candidates, key=lambda letter: (fits(candidates[letter]), -candidates[letter].get("distance", 0)))


def _detection(blocks: Plain) -> Plain:
    if is_about_unit(blocks.get("DESCRIPTION", {})):
        return detect(blocks["DESCRIPTION"], blocks.get("ITEMS", []))
    words = _Words.of(blocks.get("DESCRIPTION", {}))
    answers = {}
    for number, item in enumerate(blocks.get("ITEMS", []), 1):
        before, token = str(item.get("before", "")), str(item.get("token", "")).strip()
        active = words.offset is not None or (bool(token) and token in before)
        answers[str(number)] = "yes" if active else "no"
    return {"answers": answers}


def _effect(blocks: Plain) -> Plain:
    if is_about_unit(blocks.get("DESCRIPTION", {})):
        return change(blocks["DESCRIPTION"], blocks.get("ITEMS", []))
    raises = "raises the attended" in str(blocks.get("DESCRIPTION", {}).get("writes", "")).lower()
    rows = {}
    for number, item in enumerate(blocks.get("ITEMS", []), 1):
        src = str(item.get("src", "")).strip()
        rows[str(number)] = [5 if raises and str(c).strip() == src else 0 for c in item.get("candidates", [])]
    return {"rows": rows}


def _unit(blocks: Plain) -> Plain:
    return describe_unit(blocks.get("EVIDENCE", {}))


def _unit_hypotheses(blocks: Plain) -> Plain:
    return {"hypotheses": other_unit_hypotheses(blocks.get("EVIDENCE", {}))}


def _unit_experiments(blocks: Plain) -> Plain:
    return ask_unit_experiments(blocks.get("EVIDENCE", {}), blocks.get("HISTORY", {}))


def _unit_revision(blocks: Plain) -> Plain:
    return revise_unit(blocks.get("EVIDENCE", {}), blocks.get("HISTORY", {}))


def _simulation(blocks: Plain) -> Plain:
    return simulate(blocks.get("DESCRIPTION", {}), blocks.get("ITEMS", []))


ANSWERS: dict[str, Callable[[Plain], Plain]] = {
    "description": _describe,
    "agent_hypotheses": _hypotheses,
    "agent_experiments": _experiments,
    "agent_revision": _revision,
    "guess": _guess,
    "choices": _pointing,
    "answers": _detection,
    "changes": _effect,
    "feature_description": _unit,
    "agent_hypotheses_feature": _unit_hypotheses,
    "agent_experiments_feature": _unit_experiments,
    "agent_revision_feature": _unit_revision,
    "strengths": _simulation,
}
