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
    """The client as its lock file says."""
    folder = npm_folder(_NODE, build_cache)

    def run(url: str, scenario: str, key: str = KEY) -> Any:
        command = ["node", "client.mjs", url + "/v1", key, scenario]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run


def npm_folder(source: Path, build_cache: Path) -> Path:
    """A copy of `source`, with what its lock file says installed, under build/; its name is that
    of the files' content. Skips where there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("platform: there is no Node here")
    files = sorted(path for path in source.iterdir() if path.is_file())
    content = b"".join(path.read_bytes() for path in files)
    folder = build_cache / f"{source.name}-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.exists():
        scratch = folder.with_suffix(f".{os.getpid()}")
        scratch.mkdir()
        for path in files:
            shutil.copy(path, scratch)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=scratch, check=True, timeout=240)
        scratch.rename(folder)
    return folder
