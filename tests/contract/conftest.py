"""A real server on a loopback port over a scripted backend, for official clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest

from tests.api.conftest import KEY, Stage, make_stage
from tests.scripted import serving

StartServer = Callable[..., tuple[str, Stage]]


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
