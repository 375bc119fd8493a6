"""Chat models of OpenAI-compatible servers: the only importer of `openai`, at first use."""

from __future__ import annotations

from autointerp.llm.ask import CONTEXT, Answer, ask, fitted
from autointerp.llm.budget import (
    Budget,
    BudgetedChat,
    Prices,
    by_characters,
    estimate_prompt,
    find_prices,
    token_counter,
)
from autointerp.llm.cached import CachedChat, CallLog, ReplyCache
from autointerp.llm.capability import Capabilities, capability_table, describe_server, probe
from autointerp.llm.client import OpenAIChat
from autointerp.llm.extract import json_objects, parse_reply
from autointerp.llm.request import (
    ChatModel,
    ChatReply,
    ChatRequest,
    Endpoint,
    TokenLogprobs,
    ToolCall,
    ToolSpec,
    Usage,
    content_hash,
    request_hash,
)
from autointerp.llm.room import MAX_PROMPT_TOKENS, PromptRoom, Room
from autointerp.llm.transport import ClientOptions, is_loopback

__all__ = [
    "CONTEXT",
    "MAX_PROMPT_TOKENS",
    "Answer",
    "Budget",
    "BudgetedChat",
    "CachedChat",
    "CallLog",
    "Capabilities",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "ClientOptions",
    "Endpoint",
    "OpenAIChat",
    "Prices",
    "PromptRoom",
    "ReplyCache",
    "Room",
    "TokenLogprobs",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "ask",
    "by_characters",
    "capability_table",
    "content_hash",
    "describe_server",
    "estimate_prompt",
    "find_prices",
    "fitted",
    "is_loopback",
    "json_objects",
    "parse_reply",
    "probe",
    "request_hash",
    "token_counter",
]
