"""Fetching a model from the console, from a hub on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from osslo.console.pulls import Pull, Pulls
from osslo.errors import ConflictError, RequestError
from osslo.model.discovery import ModelRoots
from osslo.model.hub import Hub
from tests.model.hub_server import FakeHub, serving

NAME = "gpt-oss-20b"
FILES = {"config.json": b"{}", "model.safetensors": bytes(1_000_000), "tokenizer.json": b"{}"}


class Watched(Pulls):
    """Does something at each report, in the thread that fetches, and keeps every state."""

    def __init__(self, folder: Path, hub: Hub, at_report: Callable[[Pulls], None]) -> None:
        super().__init__(folder, ModelRoots(folder), hub)
        self.seen: list[Pull] = []
        self._at_report = at_report

    def _report(self, what: str, done_bytes: int, total_bytes: int) -> None:
        self._at_report(self)
        super()._report(what, done_bytes, total_bytes)
        assert self.state is not None
        self.seen.append(self.state)


def ended(pulls: Pulls) -> Pull:
    """The state after the fetch's thread has ended."""
    for thread in threading.enumerate():
        if thread.name == "osslo-pull":
            thread.join(20)
    assert pulls.state is not None
    return pulls.state


def fetch(folder: Path, hub: FakeHub, at_report: Callable[[Pulls], None]) -> Watched:
    pulls = Watched(folder, Hub(hub.endpoint, token=False), at_report)
    pulls.begin(NAME)
    ended(pulls)
    return pulls


def second(pulls: Pulls) -> None:
    with pytest.raises(ConflictError, match="is being fetched"):
        pulls.begin(NAME)


def test_a_fetch_tells_how_far_it_is_and_stands_alone(tmp_path: Path) -> None:
    with serving(FakeHub({"openai/gpt-oss-20b": dict(FILES)})) as hub:
        pulls = fetch(tmp_path, hub, second)
    weights = [state for state in pulls.seen if "model.safetensors" in state.what]
    assert weights[-1].done_bytes == weights[-1].total_bytes == 1_000_000
    assert "model.safetensors, 0.00 of 0.00 GB" in weights[-1].text
    state = ended(pulls)
    assert (state.running, state.error) == (False, None)
    assert (tmp_path / "openai/gpt-oss-20b/model.safetensors").stat().st_size == 1_000_000


def test_a_cancelled_fetch_ends_and_another_can_begin(tmp_path: Path) -> None:
    with serving(FakeHub({"openai/gpt-oss-20b": dict(FILES)})) as hub:
        pulls = fetch(tmp_path, hub, lambda running: running.cancel())
        assert ended(pulls).error == "cancelled"
        pulls._at_report = lambda _: None
        pulls.begin(NAME)
        assert ended(pulls).error is None


def test_a_name_that_means_nothing_is_the_persons_mistake(tmp_path: Path) -> None:
    pulls = Pulls(tmp_path, ModelRoots(tmp_path), Hub(offline=True))
    with pytest.raises(RequestError, match="no such thing"):
        pulls.begin("no such thing")
    assert pulls.state is None


def test_a_fetch_that_fails_says_why(tmp_path: Path) -> None:
    with serving(FakeHub({})) as hub:
        state = ended(fetch(tmp_path, hub, lambda _: None))
    assert not state.running
    assert "openai/gpt-oss-20b" in str(state.error)
    assert "could not be fetched" in state.text
