"""Who looks after the worker process: starts it, starts it again when it dies, ends it.

A worker that dies soon after its start is started again ever later, so that a fault that is there
to stay does not take the machine.
"""

from __future__ import annotations

import logging
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import replace

from osslo.jobs.process import WorkerOrder
from osslo.telemetry import LOGGER_NAME

_END_S = 15.0
_HEALTHY_S = 60.0
_MAX_DELAY_S = 60.0

_log = logging.getLogger(LOGGER_NAME + ".worker")


class Supervisor:
    """Keeps one worker process running between `start` and `stop`, from a thread of its own."""

    def __init__(self, order: WorkerOrder, *, first_delay_s: float = 0.5) -> None:
        """`order` without a name: every process gets a name of its own. `first_delay_s` is the
        time before the first restart."""
        self._order = order
        self._first_delay_s = first_delay_s
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="osslo-worker-watch", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker: it puts its jobs back. Safe to call again, and before `start`."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            _end(process)
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        dead: str | None = None
        quick_deaths = 0
        while not self._stopping.is_set():
            name = "worker_" + secrets.token_hex(8)
            started = time.monotonic()
            process = self._spawn(replace(self._order, name=name, replaces=dead))
            if process is None:
                return
            code = process.wait()
            _close_input(process)
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - started
            quick_deaths = 0 if lived_s > _HEALTHY_S else quick_deaths + 1
            delay_s = min(_MAX_DELAY_S, self._first_delay_s * 2 ** max(0, quick_deaths - 1))
            _log.warning("the worker died", extra={"code": code, "restart_in_s": delay_s})
            dead = name
            self._stopping.wait(delay_s)

    def _spawn(self, order: WorkerOrder) -> subprocess.Popen[bytes] | None:
        """A new process, told what to do; None if it is no longer wanted."""
        with self._lock:
            if self._stopping.is_set():
                return None
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "osslo.jobs"],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which then ends the worker
            )
        _tell(process, order.to_line())
        return process


def _tell(process: subprocess.Popen[bytes], line: bytes) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        _log.warning("the worker did not take its order")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the worker's input, which ends it; kill it if it does not end."""
    _close_input(process)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close_input(process: subprocess.Popen[bytes]) -> None:
    """Safe to call again."""
    if process.stdin is None:
        return
    try:
        process.stdin.close()
    except OSError:
        _log.debug("the worker was gone")
