"""Pieces of answers that several of OpenAI's protocols have in common."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import osslo
from osslo.api.body import compact_json
from osslo.api.errors import error_body
from osslo.api.sse import data_event
from osslo.errors import OssloError
from osslo.types import Usage

Keep = Callable[[dict[str, Any]], Awaitable[None]]
"""Stores the body of a whole answer."""

SYSTEM_FINGERPRINT = f"osslo-{osslo.__version__}"

_OBFUSCATION_BYTES = 64


def usage_fields(usages: list[Usage]) -> dict[str, Any]:
    """One usage record for all choices of one prompt, which counts once."""
    prompt_tokens = max((usage.prompt_tokens for usage in usages), default=0)
    cached_tokens = min((usage.cached_tokens for usage in usages), default=0)
    return usage_record(
        Usage(
            prompt_tokens,
            sum(usage.completion_tokens for usage in usages),
            cached_tokens,
            sum(usage.reasoning_tokens for usage in usages),
        )
    )


def usage_record(usage: Usage) -> dict[str, Any]:
    """`usage` in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def failure_event(error: OssloError) -> bytes:
    """An error inside a stream; official clients raise it."""
    return data_event(error_body(error))


def obfuscated(chunk: dict[str, Any]) -> dict[str, Any]:
    """`chunk`, padded with random text so that its length says little of the text's."""
    missing = -len(compact_json(chunk)) % _OBFUSCATION_BYTES
    return {**chunk, "obfuscation": secrets.token_hex(_OBFUSCATION_BYTES)[:missing]}


def page_fields(entries: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list of what has an id."""
    return {
        "object": "list",
        "data": [dict(entry) for entry in entries],
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }
