"""Chat models behind the protocol of `llm`: stand-ins without a server, and the wiring of a real one."""

from __future__ import annotations

from autointerp.chat.session import ChatOptions, ChatSession, Memory, chat_session
from autointerp.chat.stand_ins import SERVER_FILE, FakeChat, RecordedChat, ScriptedChat

__all__ = [
    "SERVER_FILE",
    "ChatOptions",
    "ChatSession",
    "FakeChat",
    "Memory",
    "RecordedChat",
    "ScriptedChat",
    "chat_session",
]
