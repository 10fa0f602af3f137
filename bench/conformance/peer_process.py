"""Another project's server in a process of its own, to be measured beside ours."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.conformance.server import Running

_START_S = 120.0
_STOP_S = 30.0


@contextmanager
def peer_server(
    program: Path,
    options: Sequence[str],
    *,
    key: str,
    health: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run `program` with `options`, `--host` and `--port` in `folder`, once the path `health`
    answers 200; ends it. Raises RuntimeError if it does not start."""
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"there is no program {program}")
    port = _free_port()
    process = subprocess.Popen(
        [Path(found).absolute(), *options, "--host", "127.0.0.1", "--port", str(port)],
        cwd=folder,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url + health, process, program.name)
        yield Running(url, key, process.pid)
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{name} did not start within {_START_S:.0f} s, or ended")
