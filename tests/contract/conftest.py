"""A real server on a loopback port over a scripted backend, for official clients."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import openai
import pytest

from tests.api.conftest import KEY, Stage, make_stage
from tests.scripted import serving

StartServer = Callable[..., tuple[str, Stage]]

_NODE = Path(__file__).parent / "node"
_NODE_FILES = ("package.json", "package-lock.json", "client.mjs")


class Node(Protocol):
    """Runs one scenario of the official client for Node against a base URL; what it saw."""

    def __call__(self, url: str, scenario: str, key: str = KEY) -> Any: ...


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start a server; its base URL and what is behind it. Arguments are `make_stage`'s."""
    with ExitStack() as stack:

        def start(*args: object, **fields: object) -> tuple[str, Stage]:
            stage = make_stage(*args, **fields)  # type: ignore[arg-type]  # passed through
            return stack.enter_context(serving(stage.app)), stage

        yield start


@pytest.fixture
def openai_client() -> Iterator[Callable[[str], openai.OpenAI]]:
    """The official client for a base URL; it never retries."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=20)
        )


@pytest.fixture(scope="session")
def node(build_cache: Path) -> Node:
    """The client as its lock file says, in a folder under build/ that the files' content names."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("platform: there is no Node here")
    content = b"".join((_NODE / name).read_bytes() for name in _NODE_FILES)
    folder = build_cache / f"node-client-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        scratch = folder.with_suffix(f".{os.getpid()}")
        scratch.mkdir()
        for name in _NODE_FILES:
            shutil.copy(_NODE / name, scratch)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=scratch, check=True, timeout=120)
        scratch.rename(folder)

    def run(url: str, scenario: str, key: str = KEY) -> Any:
        command = ["node", "client.mjs", url + "/v1", key, scenario]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run
