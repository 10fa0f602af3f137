"""The composition root: from settings to a running server. Builds everything, once.

Settings → an opened model (`opening`) → registry → application → a server that drains. Nobody below
knows how the parts are made.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from osslo.accounts.ledger.service import Ledger, welcome
from osslo.accounts.records import IssuedLink
from osslo.accounts.service import open_accounts
from osslo.api.accounts.keyring import AccountsKeyRing
from osslo.api.accounts.replies import link_url
from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.client_address import Proxies
from osslo.api.delegation import WorkerDelegation, batch_owners
from osslo.api.metering import LedgerMeter
from osslo.api.rate_limits import LimitedMeter
from osslo.api.replays import Replays
from osslo.api.responses.background import BackgroundResponses
from osslo.api.seal import Seal
from osslo.api.services import Lifecycle, Services
from osslo.chat.judge import Judge
from osslo.chat.models import ModelRegistry, ServedModel
from osslo.chat.moderation import GuardMode, load_policy
from osslo.console.ledger_books import LedgerBooks
from osslo.console.pulls import Pulls
from osslo.console.site import install_console
from osslo.console.visit import Console, FixedSetting
from osslo.db.database import Database, sqlite_url
from osslo.db.migrate import upgrade
from osslo.engine.adapters import AdapterPool
from osslo.engine.constraint import ConstraintCompiler
from osslo.errors import ConfigurationError
from osslo.jobs.fine_tuning import TunableModel, TuningOrder
from osslo.jobs.process import WorkerOrder
from osslo.jobs.supervisor import Supervisor
from osslo.model.discovery import ModelRoots
from osslo.model.hub import Hub
from osslo.model.memory import MemoryPlan
from osslo.model.model import Model
from osslo.model.packed_file import SUFFIX
from osslo.opening import (
    Located,
    Progress,
    find_adapters,
    locate,
    open_native,
    open_served,
    plan_memory,
)
from osslo.server_key import api_key, seal_key
from osslo.settings import Settings, setting_values
from osslo.store.batches import BatchStore
from osslo.store.files import FileStore
from osslo.telemetry import configure_logging

KEEP_ALIVE_S = 75
"""An idle connection stays open longer than clients keep theirs (httpx: 5 s, uvicorn's own default;
Node's agents and most proxies: up to 60 s). Where both let go at the same time, a request that
crosses the server's close fails for no reason."""

DATABASE_WAIT_S = 30.0
"""How long a start waits for a PostgreSQL server that does not answer: both may start with the
machine."""

_IDLE_CHECK_S = 2.0
_ADAPTER_CHECK_S = 1.0
"""How soon an adapter's new folder is found."""


@dataclass(frozen=True, slots=True)
class Server:
    """A built server, ready to run. `key` is the one that callers need."""

    settings: Settings
    app: FastAPI
    services: Services
    model: ServedModel
    located: Located
    native: Model
    constraints: ConstraintCompiler
    adapters: AdapterPool
    memory: MemoryPlan
    key: str
    key_origin: str
    first: FirstStart
    worker_secret: str


@dataclass(frozen=True, slots=True)
class FirstStart:
    """Whether there are users, and if not the link with which the first one is made."""

    has_users: bool
    setup: IssuedLink | None


def build(
    settings: Settings, located: Located | None = None, *, progress: Progress | None = None
) -> Server:
    """Find and open the model and put the server together. The engine's thread starts here.

    `located` overrides what the settings say. Raises `ModelError` for files that cannot be used,
    `MemoryPlanError` if they do not fit, `DownloadError` if the model cannot be had.
    """
    located = located or locate(settings, progress)
    native = open_native(settings, located, progress)
    adapters = find_adapters(settings, native)
    memory = plan_memory(settings, native, adapters)
    opened = open_served(settings, located, native, memory, adapters)
    key, origin = api_key(settings)
    first = asyncio.run(prepare_accounts(settings))
    database = Database(database_url(settings))
    accounts = open_accounts(
        database, settings.accounts, settings.folders.home, on_user_created=welcome
    )
    ledger = Ledger(accounts.context, accounts.prices)
    keys = AccountsKeyRing(accounts, SingleKeyRing(key))
    files = FileStore(database, file_folder(settings), settings.files)
    worker_secret = secrets.token_urlsafe(32)
    services = Services(
        registry=ModelRegistry((opened.served,)),
        adapters=opened.adapters,
        keys=keys,
        files=files,
        jobs=settings.jobs,
        tunable=frozenset(tunable_models(settings, located)),
        delegation=WorkerDelegation(worker_secret, batch_owners(BatchStore(files)), keys),
        database=database,
        accounts=accounts,
        proxies=Proxies(settings.accounts.trusted_proxies),
        public_url=settings.accounts.public_url,
        ledger=ledger,
        usage_days=settings.accounts.usage_days,
        meter=LimitedMeter(accounts, LedgerMeter(ledger)),
        seal=Seal(seal_key(settings)),
        limits=settings.limits,
        store=settings.store,
        judge=Judge(load_policy(settings.moderation.moderation_policy)),
        guard=GuardMode(settings.moderation.guard),
        background=BackgroundResponses(
            running=settings.store.background_running,
            unfinished=settings.store.max_background_all,
        ),
        replays=Replays(
            ttl_s=settings.server.idempotency_ttl_s,
            max_bytes=settings.server.idempotency_max_bytes,
        ),
        cors_origins=settings.server.cors_origins,
        heartbeat_s=settings.server.heartbeat_s,
        drain_s=settings.server.drain_s,
    )
    app = create_app(services)
    install_console(
        app,
        Console(
            books=LedgerBooks(ledger, accounts),
            fixed_settings=tuple(FixedSetting(*row) for row in setting_values(settings)),
            memory={opened.served.id: tuple(memory.rows())},
            pulls=Pulls(
                settings.folders.models,
                ModelRoots.of(settings.folders, settings.paths.model_roots),
                _hub(settings),
            ),
        ),
    )
    return Server(
        settings=settings,
        app=app,
        services=services,
        model=opened.served,
        located=located,
        native=native,
        constraints=opened.constraints,
        adapters=opened.adapters,
        memory=memory,
        key=key,
        key_origin=origin,
        first=first,
        worker_secret=worker_secret,
    )


def _hub(settings: Settings) -> Hub:
    paths = settings.paths
    if paths.hub_endpoint is None:
        return Hub(offline=paths.offline)
    return Hub(endpoint=paths.hub_endpoint, offline=paths.offline)


async def prepare_accounts(settings: Settings) -> FirstStart:
    """Bring the database up to date, and make the first owner's link if there are no users.

    Raises `ConfigurationError` for a database that cannot be used, or one whose keys were made with
    another pepper.
    """
    database = Database(database_url(settings))
    try:
        await upgrade(database, wait_s=DATABASE_WAIT_S)
        accounts = open_accounts(database, settings.accounts, settings.folders.home)
        await accounts.options.check_pepper()
        setup = await accounts.links.setup()
        return FirstStart(has_users=setup is None, setup=setup)
    finally:
        await database.close()


def database_url(settings: Settings) -> str:
    """The database's URL: the one that was set, else a SQLite file in Osslo's home folder."""
    return settings.database.database_url or sqlite_url(settings.folders.home / "osslo.db")


def file_folder(settings: Settings) -> Path:
    """The folder that holds uploads and what batches write."""
    return settings.folders.home / "files"


# --- what is printed at the start ---------------------------------------------------------------


def startup_text(server: Server, url: str) -> str:
    """What a person needs to know once the server listens on `url`: the model that really
    answers, the memory, the key, a curl line to try, and where to go next."""
    model, native = server.model, server.native
    memory = enumerate(server.memory.rows())
    names = ", ".join((model.id, *model.aliases))
    question = {
        "model": (model.aliases or (model.id,))[0],
        "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
    }
    lines = [
        f"Osslo serves {model.id} on {url}",
        f"  {model.note}" if model.note else "",
        f"  names:    {names}",
        f"  context:  {model.context_tokens:,} tokens",
        *(f"  {'memory:' if not row else '':9} {what}: {size}" for row, (what, size) in memory),
        f"  compute:  {native.threads} threads, {native.kernels} kernels",
        *_key_lines(server),
        "",
        *_first_steps(server, server.settings.accounts.public_url or url),
        "Or by a program:" if server.first.setup else "By a program:",
        f"  curl {url}/v1/chat/completions \\",
        f"    -H 'Authorization: Bearer {_shown_key(server)}' \\",
        f"    -d '{json.dumps(question)}'",
        "",
        f"Next: {url}/docs (API), osslo chat (terminal).",
        "Stop with Ctrl-C.",
    ]
    return "\n".join(line for index, line in enumerate(lines) if line or index > 2)


def _key_lines(server: Server) -> list[str]:
    if server.first.setup is None:
        return [
            "  keys:     those of this server's users, from the console or osslo keys",
            f"  note:     since there are users, the key from {server.key_origin} is not taken",
        ]
    return [
        f"  key:      {server.key}  (from {server.key_origin})",
        "  accounts: none yet; until the first is made this key works and everything is free",
    ]


def _first_steps(server: Server, url: str) -> list[str]:
    """What to open in a browser: the owner's account first, where there is none."""
    if server.first.setup is None:
        return ["In a browser:", f"  {url}/console", ""]
    return [
        "In a browser: make your account, the owner's (the link works once, for a day):",
        f"  {link_url(url, server.first.setup)}",
        "",
    ]


def _shown_key(server: Server) -> str:
    return "YOUR_KEY" if server.first.has_users else server.key


# --- running ------------------------------------------------------------------------------------


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first makes the application refuse new work, that
    `on_listening(url)` is called once connections are taken, and `on_ending()` (in a thread) before
    running requests are waited for."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        on_listening: Callable[[str], None],
        on_ending: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._on_listening = on_listening
        self._on_ending = on_ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_listening(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_ending is not None:
            await asyncio.to_thread(self._on_ending)
        await super().shutdown(sockets)

    @property
    def url(self) -> str:
        """The base URL, with the port that was really taken."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
        return f"http://{host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Drain. uvicorn would raise the signal again after it has stopped; a drained server has
        ended well, so its process ends with code 0. A second Ctrl-C does not wait."""
        self._lifecycle.drain()
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def http_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    return uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        http="httptools",  # "auto" would take slower ones in silence where these are missing
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `Proxies` reads them, from named proxies only
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.server.drain_s)),
    )


def freeze_heap() -> None:
    """Let the garbage collector leave alone what was built by now, which stays until the end: a
    full collection over it takes a tenth of a second, in which no stream moves."""
    gc.collect()
    gc.freeze()
    atexit.register(_free_heap)


def _free_heap() -> None:
    """Collect what was frozen while modules still stand. Afterwards the interpreter does not reach
    the application's cycles, and the engine's objects in them are reported as leaked."""
    gc.unfreeze()
    gc.collect()


def run(server: Server, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running requests finish for `drain_s` seconds.

    `on_listening(url)` is called once the port is open. Raises `ConfigurationError` if it is taken.
    """
    settings = server.settings
    configure_logging(settings.log.log_level, settings.log.log_format)
    config = http_config(server.app, settings)
    stopped = threading.Event()
    warming = threading.Thread(
        target=warm_up_when_idle, args=(server, stopped), name="osslo-warm-up", daemon=True
    )
    watching = threading.Thread(
        target=watch_adapters, args=(server, stopped), name="osslo-adapters", daemon=True
    )
    workers: list[Supervisor] = []

    def listening(url: str) -> None:
        freeze_heap()
        on_listening(url)
        warming.start()
        watching.start()
        if settings.jobs.worker:
            workers.append(Supervisor(worker_order(server, url)))
            workers[0].start()

    def ending() -> None:
        for worker in workers:
            worker.stop()

    runner = DrainingServer(config, server.services.lifecycle, listening, ending)
    try:
        runner.run()
    except SystemExit as error:  # uvicorn exits where it cannot listen
        raise ConfigurationError(
            f"cannot listen on {settings.server.host}:{settings.server.port}; the port may be "
            "taken: stop the other server or set OSSLO_PORT"
        ) from error
    finally:
        stopped.set()
        ending()


def worker_order(server: Server, url: str) -> WorkerOrder:
    """What the worker process is told: it runs batches against this server, at `url`."""
    settings = server.settings
    return WorkerOrder(
        name="",
        base_url=url,
        secret=server.worker_secret,
        database_url=database_url(settings),
        file_folder=str(file_folder(settings)),
        files=settings.files,
        jobs=settings.jobs,
        max_line_bytes=settings.limits.max_body_bytes,
        tuning=TuningOrder(
            str(settings.folders.home / "tuning" / "jobs"),
            str(settings.folders.home / "adapters"),
            tunable_models(settings, server.located),
        ),
        log_level=settings.log.log_level,
        log_format=settings.log.log_format,
    )


def tunable_models(settings: Settings, located: Located) -> dict[str, TunableModel]:
    """What the worker can fine-tune: the served model, if its checkpoint is here and there is a
    worker."""
    if not settings.jobs.worker or located.path.suffix == SUFFIX:
        return {}
    return {located.id: TunableModel(str(located.path), show_date=not located.stand_in)}


def watch_adapters(
    server: Server, stopped: threading.Event, *, check_s: float = _ADAPTER_CHECK_S
) -> None:
    """Find adapters that are added or removed while the server runs, until `stopped` is set."""
    while server.settings.model.max_adapters and not stopped.wait(check_s):
        server.adapters.catalogue.refresh()


def warm_up_when_idle(
    server: Server, stopped: threading.Event, *, check_s: float = _IDLE_CHECK_S
) -> None:
    """Build what grammars need, once, `check_s` seconds after the start or at the first such moment
    at which nobody waits for tokens: nothing else in the process runs for that second or two.

    A grammar that comes earlier builds it itself. Setting `stopped` ends the waiting.
    """
    while not stopped.wait(check_s):
        load = server.model.backend.stats()
        if load.running == load.waiting == 0:
            server.constraints.warm_up()
            return
