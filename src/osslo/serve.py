"""The composition root: from settings to a running server. Builds everything, once.

Settings → which model → packed file → native model → engine → registry → application. Nobody below
knows how the parts are made.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from osslo.api.app import create_app
from osslo.api.auth import SingleKeyRing
from osslo.api.services import Lifecycle, Services
from osslo.chat.models import ModelRegistry, PromptProfile, ServedModel
from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.errors import ConfigurationError
from osslo.harmony.vocabulary import Markers
from osslo.model.available import available_memory
from osslo.model.checkpoints import open_checkpoint
from osslo.model.discovery import ModelRoots, find_local, resolve
from osslo.model.memory import MemoryPlan, MemoryRequest, Weights, check, plan
from osslo.model.model import Model
from osslo.model.pack import Precision, ensure_packed
from osslo.model.packed_file import SUFFIX
from osslo.model.standin import STANDIN_NAME, ensure_standin
from osslo.settings import Settings
from osslo.telemetry import LOGGER_NAME, configure_logging

STAND_IN_NOTE = (
    "A small stand-in, SmolLM2-135M-Instruct in gpt-oss's architecture: it shows that everything "
    "works, with the answers of a very small model. 'osslo pull gpt-oss-20b' gets the real one."
)

DEFAULT_MODEL = "gpt-oss-20b"
STAND_IN_NAMES = frozenset({STANDIN_NAME, "stand-in", "standin"})
DEFAULT_CONTEXT_TOKENS = 32_768
"""The context where none is asked for, if the model has it and memory allows."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many."""

_KEY_FILE = "api-key"
_log = logging.getLogger(LOGGER_NAME + ".serve")


@dataclass(frozen=True, slots=True)
class Located:
    """Which model is to be served: its id, its checkpoint or packed file, and what it is."""

    id: str
    path: Path
    note: str
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A built server, ready to run. `key` is the one that callers need."""

    settings: Settings
    app: FastAPI
    services: Services
    model: ServedModel
    located: Located
    native: Model
    memory: MemoryPlan
    key: str
    key_origin: str


def build(
    settings: Settings, located: Located | None = None, *, progress: Progress | None = None
) -> Server:
    """Find and open the model and put the server together. The engine's thread starts here.

    `located` overrides what the settings say. Raises `ModelError` for files that cannot be used,
    `MemoryPlanError` if they do not fit, `DownloadError` if the model cannot be had.
    """
    located = located or locate(settings, progress)
    native = open_native(settings, located, progress)
    memory = plan_memory(settings, native)
    served = open_served(settings, located, native, memory)
    key, origin = api_key(settings)
    services = Services(
        registry=ModelRegistry((served,)),
        keys=SingleKeyRing(key),
        limits=settings.limits,
        heartbeat_s=settings.server.heartbeat_s,
        drain_s=settings.server.drain_s,
    )
    app = create_app(services)
    return Server(settings, app, services, served, located, native, memory, key, origin)


# --- the model ----------------------------------------------------------------------------------


def locate(settings: Settings, progress: Progress | None = None) -> Located:
    """Which model the settings mean: the one they name, else gpt-oss-20b if its weights are on
    this machine, else the stand-in, which is fetched and built if it is not there."""
    roots = ModelRoots.of(settings.folders, settings.paths.model_roots)
    name = settings.model.model
    if name is None:
        found = find_local(roots, DEFAULT_MODEL)
        if found:
            return Located(DEFAULT_MODEL, found[0].path, f"From {found[0].source}.")
    if name is None or name in STAND_IN_NAMES:
        path = ensure_standin(settings.folders.cache, progress=progress)
        return Located(STANDIN_NAME, path, STAND_IN_NOTE, stand_in=True)
    path = resolve(name, roots)
    return Located(_id_of(name, path), path, "")


def _id_of(name: str, path: Path) -> str:
    """What callers call the model: its name as it was given, or its file's if that was a path."""
    if not Path(name).expanduser().exists():
        return name
    return path.stem if path.is_file() else path.resolve().name


def open_native(settings: Settings, located: Located, progress: Progress | None = None) -> Model:
    """The native model of a checkpoint or of a packed file; a checkpoint is packed if need be."""
    path = located.path
    if path.suffix != SUFFIX:
        path = ensure_packed(
            open_checkpoint(path),
            settings.folders.cache / "packed",
            precision=_precision(settings.model.precision),
            name=located.id,
            progress=None if progress is None else partial(progress, "packing"),
        )
    return Model.load(path, threads=settings.model.threads)


def plan_memory(settings: Settings, native: Model) -> MemoryPlan:
    """What the model will take. Without a context in the settings it is the largest that fits, up
    to `DEFAULT_CONTEXT_TOKENS`. Raises `MemoryPlanError`."""
    wanted = settings.model.context
    request = MemoryRequest(
        context_tokens=wanted or DEFAULT_CONTEXT_TOKENS,
        concurrent=settings.model.max_running,
        threads=native.threads,
    )
    planned = _plan(native, request)
    if wanted is None and not planned.fits and planned.largest_context_tokens:
        planned = _plan(native, replace(request, context_tokens=planned.largest_context_tokens))
    check(planned)
    return planned


def _plan(native: Model, request: MemoryRequest) -> MemoryPlan:
    return plan(
        native.config,
        request,
        precision=_precision(native.header.precision),
        weights=Weights.packed(native.header),
        available_bytes=available_memory(),
    )


def _precision(name: str) -> Precision:
    return "exact" if name == "exact" else "default"


def open_served(
    settings: Settings, located: Located, native: Model, memory: MemoryPlan
) -> ServedModel:
    """The engine over a native model, and the model as callers see it."""
    tokenizer = native.tokenizer
    markers = Markers.of(tokenizer)
    ends = tuple(sorted({*native.config.eos_token_ids, markers.return_, markers.call}))
    limits = EngineLimits(
        context_tokens=memory.request.context_tokens,
        full_pages=memory.full_pages,
        window_pages=memory.window_pages,
        eos_token_ids=ends,
        max_running=memory.request.concurrent,
        max_waiting=settings.model.max_waiting,
        step_tokens=memory.request.step_tokens,
    )
    engine = Engine(native, limits, constraints=ConstraintCompiler(tokenizer.to_json(), ends))
    alias = settings.model.model_alias
    return ServedModel(
        id=located.id,
        backend=engine,
        vocabulary=tokenizer,
        aliases=(alias,) if alias and alias != located.id else (),
        note=located.note,
        created=int(time.time()),
        reasons=not located.stand_in,
        prompt=PromptProfile(show_date=not located.stand_in),
    )


# --- the key ------------------------------------------------------------------------------------


def api_key(settings: Settings) -> tuple[str, str]:
    """The key that callers need and where it comes from: `OSSLO_API_KEY`, else the one kept in
    Osslo's home folder, made there on the first start and readable by its owner only."""
    if settings.server.api_key is not None:
        return settings.server.api_key, "OSSLO_API_KEY"
    path = settings.folders.home / _KEY_FILE
    try:
        kept = path.read_text(encoding="ascii").strip() if path.exists() else ""
        return (kept, str(path)) if kept else (_new_key(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the key file {path} cannot be used ({error}); set OSSLO_API_KEY or OSSLO_HOME"
        ) from error


def _new_key(path: Path) -> str:
    key = "sk-osslo-" + secrets.token_urlsafe(24)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)  # also where the file was there with other rights
        file.write(key + "\n")
    return key


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
        f"  key:      {server.key}  (from {server.key_origin})",
        "",
        "Try it:",
        f"  curl {url}/v1/chat/completions \\",
        f"    -H 'Authorization: Bearer {server.key}' \\",
        f"    -d '{json.dumps(question)}'",
        "",
        f"Next: {url}/docs (API), osslo chat (terminal), osslo --help. Stop with Ctrl-C.",
    ]
    return "\n".join(line for index, line in enumerate(lines) if line or index > 2)


# --- running ------------------------------------------------------------------------------------


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first makes the application refuse new work, and that
    `on_listening(url)` is called once connections are taken."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, on_listening: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_listening(self.url)

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


def run(server: Server, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running requests finish for `drain_s` seconds.

    `on_listening(url)` is called once the port is open. Raises `ConfigurationError` if it is taken.
    """
    settings = server.settings
    configure_logging(settings.log.log_level, settings.log.log_format)
    config = uvicorn.Config(
        server.app,
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.server.drain_s)),
    )
    runner = DrainingServer(config, server.services.lifecycle, on_listening)
    try:
        runner.run()
    except SystemExit as error:  # uvicorn exits where it cannot listen
        raise ConfigurationError(
            f"cannot listen on {settings.server.host}:{settings.server.port}; the port may be "
            "taken: stop the other server or set OSSLO_PORT"
        ) from error
