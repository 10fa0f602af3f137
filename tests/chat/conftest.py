"""Helpers for turns over a scripted backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from osslo.chat.models import PromptProfile, ServedModel
from tests.scripted import ByteVocabulary, Script, ScriptedBackend, Step

ServeScript = Callable[..., ServedModel]


@pytest.fixture
def vocabulary() -> ByteVocabulary:
    return ByteVocabulary()


@pytest.fixture
def serve(vocabulary: ByteVocabulary) -> ServeScript:
    """A served model whose backend emits `markup`, or a whole script."""

    def build(
        markup: str = "", *, script: Script | None = None, context: int = 4096, **fields: object
    ) -> ServedModel:
        steps: tuple[Step, ...] = (vocabulary.tokens(markup),)
        backend = ScriptedBackend(script or Script(steps), max_context_tokens=context)
        return ServedModel(
            id="scripted",
            backend=backend,
            vocabulary=vocabulary,
            prompt=PromptProfile(show_date=False),
            **fields,  # type: ignore[arg-type]  # passed through as a test writes them
        )

    return build
