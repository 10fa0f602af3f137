"""What responses and conversations share: items as JSON, moments, parts of lists of items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Item = Mapping[str, Any]
"""An item of the Responses API, complete with its `id`, as it is shown and read back."""

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of a list of items, and whether more follows."""

    items: tuple[Item, ...]
    has_more: bool


def dump(value: Any) -> str:
    """`value` as ASCII JSON: PostgreSQL's text takes neither NUL nor lone surrogates."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def moment(seconds: float) -> datetime:
    """Unix time as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def is_id(text: str) -> bool:
    """Whether `text` can be the id of anything stored."""
    return 0 < len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text
