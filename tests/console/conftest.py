"""The console on a real server with the stand-in, and browsers to look at it with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from osslo.serve import Server, build
from osslo.settings import load_settings
from tests.console.browser import Visitor, chromium
from tests.scripted import serving

PASSWORD = "correct horse battery"
OWNER = "ada@example.org"


@dataclass(frozen=True)
class Site:
    """A server whose first owner is `OWNER`."""

    url: str
    server: Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each module: while Playwright is open its loop runs in this thread, and tests
    with a loop of their own could not."""
    with chromium() as opened:
        yield opened


def build_server(home: Path, cache: Path) -> Server:
    """A server over the stand-in, with accounts in a fresh home."""
    variables = {"HOME": str(home), "OSSLO_HOME": str(home), "OSSLO_CACHE": str(cache)}
    return build(load_settings(environment=variables, overrides={"context": 2048, "worker": False}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, build_cache: Path) -> Iterator[Site]:
    # Playwright's loop runs in this thread, so that what starts a loop of its own needs another.
    with ThreadPoolExecutor(1) as aside:
        home = tmp_path_factory.mktemp("home")
        server = aside.submit(build_server, home, build_cache).result()
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
    """Make the first owner by the link that the server printed; signed in afterwards."""
    issued = site.server.first.setup
    assert issued is not None
    page = visitor.go(f"/console/setup?token={issued.token}")
    page.get_by_label("E-mail").fill(OWNER)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Overview").wait_for()


def sign_in(visitor: Visitor, email: str = OWNER, password: str = PASSWORD) -> None:
    """Sign in on the sign-in page."""
    page = visitor.go("/console/sign-in")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()
