"""Harmony's nouns: roles, channels, messages, tools and a conversation, as plain frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Channel(StrEnum):
    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


class ReasoningEffort(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. For role TOOL, `name` is the author (`functions.get_weather`, `python`).

    `recipient` is set on calls (`functions.get_weather`) and on tool results (`assistant`).
    `content_type` is what stands after the recipient: `<|constrain|>json` is written `json`.
    """

    role: Role
    content: str
    name: str | None = None
    channel: Channel | None = None
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function in the `functions` namespace; `parameters` is a JSON schema or None.

    `strict` says what happens to a schema that cannot be enforced in full: True refuses it, False
    leaves out what cannot be enforced, with a warning, None takes the request's own rule.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class BuiltinTools:
    """Which built-in tools the system message declares."""

    python: bool = False
    browser: bool = False


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A schema shown to the model under `# Response Formats`."""

    name: str
    schema: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything a prompt is rendered from.

    The system message is built from `identity`, `knowledge_cutoff`, `current_date` (ISO, or None
    to leave the line out), `effort` and `builtin_tools`; the developer message from
    `instructions`, `tools` and `response_formats` (left out when all are empty).
    """

    messages: tuple[Message, ...]
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    identity: str = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str = "2024-06"
    current_date: str | None = None
    instructions: str = ""
    tools: tuple[FunctionTool, ...] = ()
    builtin_tools: BuiltinTools = BuiltinTools()
    response_formats: tuple[ResponseFormat, ...] = ()
