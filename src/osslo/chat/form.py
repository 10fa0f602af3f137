"""Which grammar a turn's output follows."""

from __future__ import annotations

from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest
from osslo.types import Grammar


def grammar_for(model: ServedModel, request: ChatRequest) -> Grammar | None:
    """The request's own grammar, else the model's default, else None: free output."""
    return model.default_grammar
