"""Shapes of `/v1/moderations`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.shapes import Reply

MOST_INPUTS = 32
"""How many texts one request may ask about."""


class ModerationPart(StrictSchema):
    """A part of one input. Only text is understood; pictures are refused by name."""

    type: str = Field(json_schema_extra={"enum": ["text"]})
    text: str | None = None
    image_url: Any = None


class ModerationRequest(StrictSchema):
    """Texts to judge: one, several with a result each, or one in parts. `model` may be a model that
    is served, or one of OpenAI's moderation models, in whose place the first one judges."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS)]
        | Annotated[list[ModerationPart], Field(min_length=1, max_length=MOST_INPUTS)]
    )
    model: str | None = Field(None, min_length=1, max_length=256)


class ModerationResult(Reply):
    """The verdict on one input, by category."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationReply(Reply):
    """The verdicts, in the order of the inputs. `model` is the one that judged; `usage` is what it
    took."""

    id: str
    model: str
    results: list[ModerationResult]
    usage: dict[str, Any]
