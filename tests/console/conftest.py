"""The console on a real server with the stand-in, and browsers to look at it with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from osslo.serve import Server, build, startup_text
from osslo.settings import load_settings
from tests.console.browser import Visitor, chromium
from tests.console.demo import build as build_demo
from tests.scripted import serving

PASSWORD = "correct horse battery"
OWNER = "ada@example.org"


@dataclass(frozen=True)
class Site:
    """A server whose first owner is `OWNER`."""

    url: str
    server: Server


_SHARED = pytest.StashKey[ExitStack]()


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> ExitStack:
    """What this folder's tests share is opened on it once, and closed after the last of them:
    while Playwright is open its loop runs in this thread, and tests with a loop of their own could
    not. So no test of this folder is a coroutine."""
    return pytestconfig.stash.setdefault(_SHARED, ExitStack())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """Close what is shared when the next test is not of this folder."""
    try:
        yield
    finally:
        if nextitem is None or not nextitem.path.is_relative_to(Path(__file__).parent):
            item.config.stash.setdefault(_SHARED, ExitStack()).close()


@pytest.fixture(scope="session")
def browser(shared: ExitStack) -> Browser:
    return shared.enter_context(chromium())


@pytest.fixture(scope="session")
def demo(shared: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a console with people and history in it, over scripted models."""
    folder = tmp_path_factory.mktemp("demo")
    with ThreadPoolExecutor(1) as aside:  # Playwright's loop runs in this thread
        made = aside.submit(asyncio.run, build_demo(folder)).result()
    return shared.enter_context(serving(made.app))


def build_server(home: Path, cache: Path) -> Server:
    """A server over the stand-in, with accounts in a fresh home."""
    variables = {"HOME": str(home), "OSSLO_HOME": str(home), "OSSLO_CACHE": str(cache)}
    return build(load_settings(environment=variables, overrides={"context": 2048, "worker": False}))


@pytest.fixture(scope="session")
def site(shared: ExitStack, tmp_path_factory: pytest.TempPathFactory, build_cache: Path) -> Site:
    """The stand-in on a server of its own."""
    return shared.enter_context(serve_stand_in(tmp_path_factory.mktemp("home"), build_cache))


@contextmanager
def serve_stand_in(home: Path, cache: Path) -> Iterator[Site]:
    """A server over the stand-in with a fresh home, for the length of the block."""
    with ThreadPoolExecutor(1) as aside:  # Playwright's loop runs in this thread
        server = aside.submit(build_server, home, cache).result()
        try:
            with serving(server.app) as url:
                yield Site(url, server)
        finally:
            aside.submit(asyncio.run, server.model.backend.close()).result()


@pytest.fixture
def visitor(browser: Browser, site: Site) -> Iterator[Visitor]:
    """A person with a fresh browser, who must have met no complaint at the end."""
    visiting = Visitor.of(browser, site.url)
    yield visiting
    visiting.context.close()
    assert visiting.problems == []


def set_up_owner(visitor: Visitor, site: Site) -> None:
    """Make the first owner by the link in the text that the server prints; signed in afterwards."""
    link = re.search(r"^ *(http\S+/console/setup\S+)$", startup_text(site.server, site.url), re.M)
    assert link is not None
    page = visitor.go(link[1].removeprefix(site.url))
    page.get_by_label("E-mail").fill(OWNER)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Overview").wait_for()


@pytest.fixture
def guest(browser: Browser, demo: str) -> Iterator[Visitor]:
    """A person at the demo with a fresh browser, who must have met no complaint at the end."""
    visiting = Visitor.of(browser, demo)
    yield visiting
    visiting.context.close()
    assert visiting.problems == []


def sign_in(visitor: Visitor, email: str = OWNER, password: str = PASSWORD) -> None:
    """Sign in on the sign-in page."""
    page = visitor.go("/console/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()
