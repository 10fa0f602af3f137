"""The application: routes, error handlers and the outer gate, wired explicitly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

import osslo
from osslo.accounts.ledger.retention import usage_sweep
from osslo.accounts.ledger.service import Ledger
from osslo.accounts.service import Accounts
from osslo.api import adapters, docs, health, models, tokenize
from osslo.api.accounts import routes as management
from osslo.api.batches import routes as batches
from osslo.api.chat_completions import routes as chat_completions
from osslo.api.chat_completions import stored as stored_completions
from osslo.api.complete import routes as complete
from osslo.api.completions import routes as completions
from osslo.api.conversations import routes as conversations
from osslo.api.direct import DirectRoutes
from osslo.api.errors import install_error_handlers
from osslo.api.files import routes as files
from osslo.api.fine_tuning import routes as fine_tuning
from osslo.api.messages import routes as messages
from osslo.api.middleware import RequestGate
from osslo.api.moderations import routes as moderations
from osslo.api.openapi import install_openapi
from osslo.api.responses import routes as responses
from osslo.api.services import Services
from osslo.db.migrate import upgrade
from osslo.store.batches import file_sweeps
from osslo.store.completions import sweep_completions
from osslo.store.conversations import sweep_conversations
from osslo.store.responses import sweep_responses
from osslo.store.sweep import Sweeper

_DESCRIPTION = "gpt-oss behind your own API. Keys go into `Authorization: Bearer …`."
_EXPOSED_HEADERS = (
    "idempotency-replayed",
    "openai-processing-ms",
    "retry-after",
    "server-timing",
    "x-osslo-model",
    "x-osslo-warnings",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
)
_TAGS = MappingProxyType(
    {
        "chat": "Conversations: OpenAI's chat completions.",
        "responses": "OpenAI's Responses and conversations: what is kept and gone on from.",
        "messages": "Anthropic's messages, and its old text completions.",
        "completions": "Raw prompts: OpenAI's legacy completions.",
        "moderations": "Texts judged under the server's policy.",
        "tokens": "Text to token ids and back.",
        "models": "What is served, and under which names.",
        "files": "Files: what batches read and write.",
        "batches": "Batches: many requests in the background.",
        "fine-tuning": "Fine-tuning jobs: a model taught by your data.",
        "account": "Signing in and up, and one's own account.",
        "keys": "API keys.",
        "users": "Users and invitations, for admins.",
        "usage": "Balances, payments, usage and costs.",
        "operating": "Prices, settings, the audit log.",
        "server": "Health, metrics and where things are; no key needed.",
    }
)


def create_app(services: Services) -> FastAPI:
    """The ASGI application over `services`. It migrates the database when it starts; when it shuts
    down it drains and closes the backends.

    Browsers refuse cross-origin requests, except from the origins in `services.cors_origins`: no
    other gets CORS headers. Cookies never cross origins.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await upgrade(services.database)
        async with tended(services.accounts), charged(services.ledger), swept(services):
            yield
            services.lifecycle.drain()
            await services.background.drain(services.lifecycle.rest_of(services.drain_s))
            for model in services.registry:
                await model.backend.drain(services.drain_s)
                await model.backend.close()
        await services.database.close()

    app = FastAPI(
        title="Osslo",
        version=osslo.__version__,
        description=_DESCRIPTION,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
    )
    app.state.services = services
    services.metrics.watch(services.registry)
    install_error_handlers(app)
    routers = (  # those that matter most first: routes are tried in this order
        chat_completions.router,
        responses.router,
        messages.router,
        completions.router,
        complete.router,
        moderations.router,
        tokenize.router,
        stored_completions.router,
        conversations.router,
        models.router,
        adapters.router,
        files.router,
        batches.router,
        fine_tuning.router,
        health.router,
        *management.routers,
        docs.router,
    )
    for router in routers:
        app.include_router(router)
    install_openapi(app, routers, tags=_TAGS)
    app.add_middleware(DirectRoutes, routers=routers)
    if services.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED_HEADERS,
            max_age=600,
        )
    app.add_middleware(RequestGate, metrics=services.metrics)
    return app


@asynccontextmanager
async def tended(accounts: Accounts | None) -> AsyncIterator[None]:
    """Tend the accounts in the background for the length of the block."""
    if accounts is None:
        yield
        return
    await accounts.options.check_pepper()
    stop = asyncio.Event()
    tending = asyncio.create_task(accounts.run(stop), name="osslo-accounts")
    try:
        yield
    finally:
        stop.set()
        await tending


@asynccontextmanager
async def charged(ledger: Ledger | None) -> AsyncIterator[None]:
    """Let the ledger commit for the length of the block."""
    if ledger is None:
        yield
        return
    await ledger.start()
    try:
        yield
    finally:
        await ledger.close()


@asynccontextmanager
async def swept(services: Services) -> AsyncIterator[None]:
    """Delete what callers kept and what has expired, now and then, for the length of the block."""
    sweeper = Sweeper(
        services.database,
        (
            *(file_sweeps(services.files) if services.files is not None else ()),
            sweep_responses,
            sweep_conversations,
            sweep_completions,
            usage_sweep(services.usage_days),
        ),
        interval_s=services.store.store_sweep_s,
        clock=services.clock,
    )
    sweeper.start()
    try:
        yield
    finally:
        await sweeper.stop()


def _operation_id(route: APIRoute) -> str:
    """The name of an operation in the document, and of the method in generated clients."""
    return route.name
