"""A client that talks ASGI to the application over a scripted backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.services import Services
from osslo.chat.models import ModelRegistry, PromptProfile, ServedModel
from osslo.settings import FileSettings, LimitSettings
from osslo.store.files import FileStore
from tests.databases import migrated_sqlite
from tests.scripted import ByteVocabulary, Script, ScriptedBackend

KEY = "sk-test-key"
ANSWER = (
    "<|channel|>analysis<|message|>Easy.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Oslo.<|return|>"
)


@dataclass(frozen=True)
class Stage:
    """An application, its services and its backend."""

    app: FastAPI
    services: Services
    backend: ScriptedBackend

    @asynccontextmanager
    async def client(self, key: str | None = KEY) -> AsyncIterator[httpx.AsyncClient]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://osslo", headers=headers
        ) as client:
            try:
                yield client
            finally:
                await self.services.database.close()


MakeStage = Callable[..., Stage]


def make_stage(
    markup: str = ANSWER,
    *,
    script: Script | None = None,
    limits: LimitSettings | None = None,
    context: int = 8192,
    heartbeat_s: float = 10.0,
    start_grace_s: float = 1.0,
) -> Stage:
    """The application over a backend that emits `markup`, or follows `script`."""
    vocabulary = ByteVocabulary()
    backend = ScriptedBackend(
        script or Script((vocabulary.tokens(markup),)), max_context_tokens=context
    )
    model = ServedModel(
        id="scripted-model",
        backend=backend,
        vocabulary=vocabulary,
        aliases=("gpt-oss-20b",),
        note="A script, not a model.",
        created=1_700_000_000,
        prompt=PromptProfile(show_date=False),
    )
    database = migrated_sqlite()
    services = Services(
        registry=ModelRegistry((model,)),
        keys=SingleKeyRing(KEY),
        database=database,
        files=FileStore(database, Path(f"{database.url.database}.files"), FileSettings()),
        limits=limits or LimitSettings(),
        heartbeat_s=heartbeat_s,
        start_grace_s=start_grace_s,
        clock=lambda: 1_800_000_000.0,
    )
    return Stage(create_app(services), services, backend)


@pytest.fixture
def stage() -> Stage:
    return make_stage()


def ask(**fields: object) -> dict[str, object]:
    """A chat completion request."""
    return {
        "model": "gpt-oss-20b",
        "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
    } | fields
