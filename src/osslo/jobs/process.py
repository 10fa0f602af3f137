"""The worker as a process: how it is told what to do, and how it ends.

Its server writes one line of JSON to its standard input and keeps that pipe open. When the pipe
closes, because the server ends or dies, the worker puts its jobs back and ends too; nothing is left
behind. The secret is in that line, so it is in no argument list, environment or file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from osslo.db.database import Database
from osslo.jobs.batches import BatchHandler
from osslo.jobs.calls import READ_TIMEOUT_S, Api
from osslo.jobs.fine_tuning import TuningHandler, TuningOrder
from osslo.jobs.worker import Handler, Worker
from osslo.settings import FileSettings, JobSettings
from osslo.store.batches import JOB_KIND, BatchStore
from osslo.store.files import FileStore
from osslo.store.fine_tuning import TUNING_KIND, FineTuningStore
from osslo.store.jobs import JobQueue
from osslo.telemetry import LOGGER_NAME, configure_logging

_END_S = 10.0
"""How long a worker whose server is gone may take to put its jobs back."""

_log = logging.getLogger(LOGGER_NAME + ".worker")


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """All that a worker needs to know. `replaces` is the name of a worker that is known to be
    dead: its jobs are free at once. Without `tuning` it leaves fine-tuning jobs alone."""

    name: str
    base_url: str
    secret: str
    database_url: str
    file_folder: str
    files: FileSettings
    jobs: JobSettings
    max_line_bytes: int
    tuning: TuningOrder | None = None
    replaces: str | None = None
    log_level: str = "info"
    log_format: str = "text"

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WorkerOrder:
        fields = json.loads(line)
        fields["files"] = FileSettings(**fields["files"])
        fields["jobs"] = JobSettings(**fields["jobs"])
        if fields["tuning"] is not None:
            fields["tuning"] = TuningOrder.of(fields["tuning"])
        return cls(**fields)


async def work(order: WorkerOrder, stop: asyncio.Event) -> None:
    """Do what `order` says until `stop` is set."""
    database = Database(order.database_url)
    client = httpx.AsyncClient(
        base_url=order.base_url,
        timeout=httpx.Timeout(10.0, read=READ_TIMEOUT_S, pool=None),
        trust_env=False,
    )
    try:
        async with client:
            queue = JobQueue(database)
            if order.replaces is not None:
                await queue.release_worker(order.replaces)
            files = FileStore(database, Path(order.file_folder), order.files)
            batches = BatchHandler(
                BatchStore(files, queue),
                Api(client, order.secret),
                order.jobs,
                max_line_bytes=order.max_line_bytes,
            )
            handlers: dict[str, Handler] = {JOB_KIND: batches}
            if order.tuning is not None:
                handlers[TUNING_KIND] = TuningHandler(FineTuningStore(files, queue), order.tuning)
            worker = Worker(queue, handlers, name=order.name, lease_s=order.jobs.job_lease_s)
            await worker.run(stop)
    finally:
        await database.close()


def main() -> None:
    """The process: read the order, work, and end with the server."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = WorkerOrder.from_line(line)
    configure_logging(order.log_level, order.log_format)
    asyncio.run(_until_told(lambda stop: work(order, stop)))


async def _until_told(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """`run`, until SIGTERM or until nobody holds the other end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    threading.Thread(target=_watch_input, args=(loop, stop), daemon=True).start()
    await run(stop)


def _watch_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Wait for the end of standard input; then the worker has `_END_S` seconds. Runs in a thread of
    its own, so that a worker that hangs ends as well."""
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)
    threading.Event().wait(_END_S)
    os._exit(1)
