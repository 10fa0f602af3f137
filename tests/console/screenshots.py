"""A picture of every page of the console: desktop and phone, light and dark.

`make screenshots`, or `python -m tests.console.screenshots [words]`, where a picture is taken only
if its name holds one of the words.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.console.browser import Visitor, chromium
from tests.console.demo import LONG, MEMBER, OWNER, PASSWORD, demo_site

OUT = Path(__file__).parent.parent.parent / "build" / "screenshots"
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}

Act = Callable[[Page], None]


@dataclass(frozen=True)
class Shot:
    """A picture: what to open, and what to do before it is taken."""

    name: str
    path: str
    act: Act | None = None
    who: str | None = OWNER
    whole: bool = True


def _ask(text: str) -> Act:
    def act(page: Page) -> None:
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Enter")
        expect(page.locator(".message-foot").first).to_contain_text("out")

    return act


def _open_settings(page: Page) -> None:
    button = page.locator("#settings-open")
    if button.is_visible():
        button.click()


def _tool(page: Page) -> None:
    _open_settings(page)
    page.get_by_text("Tools", exact=True).click()
    page.locator("#tools-example").click()
    if page.locator("#settings-close").is_visible():
        page.locator("#settings-close").click()
    _ask("How is the weather in Oslo?")(page)


def _editors(page: Page) -> None:
    _open_settings(page)
    page.get_by_text("Tools", exact=True).click()
    page.locator("#tools-example").click()


def _code(page: Page) -> None:
    page.get_by_label("Message", exact=True).fill("What is the capital of Norway?")
    page.get_by_role("button", name="View code").click()
    page.get_by_role("tab", name="Python").click()


def _call(page: Page) -> None:
    page.get_by_role("button", name="GET /v1/models", exact=True).click()
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#status")).to_contain_text("200")


def _made(page: Page) -> None:
    page.get_by_label("Name").fill("new service")
    page.get_by_role("button", name="Add the key").click()
    page.locator("#new-key-text").wait_for()


def _wrong(page: Page) -> None:
    page.get_by_label("E-mail").fill("nobody@fjord.example")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()


def _menu(page: Page) -> None:
    button = page.get_by_role("button", name="Open the navigation")
    if button.is_visible():
        button.click()
        expect(page.get_by_role("link", name="Usage", exact=True)).to_be_in_viewport()


def _first_user(page: Page) -> None:
    page.get_by_role("link", name=f"Open {MEMBER}").click()
    page.get_by_role("heading", name=MEMBER).wait_for()


def _change_key(page: Page) -> None:
    page.get_by_role("link", name="Change production").click()
    page.get_by_role("heading", name="Change production").wait_for()


SHOTS = (
    Shot("sign-in", "/console/sign-in", who=None),
    Shot("sign-in-wrong", "/console/sign-in", _wrong, who=None),
    Shot("sign-up", "/console/sign-up", who=None),
    Shot("overview", "/console"),
    Shot(
        "overview-new",
        "/console",
        who=LONG,
    ),
    Shot("menu", "/console", _menu, whole=False),
    Shot("keys", "/console/keys"),
    Shot("keys-new", "/console/keys?new=1"),
    Shot("keys-made", "/console/keys?new=1", _made),
    Shot("keys-change", "/console/keys", _change_key),
    Shot("keys-empty", "/console/keys", who="lars@fjord.example"),
    Shot("usage", "/console/usage"),
    Shot("usage-failed", "/console/usage?status=failed"),
    Shot("usage-empty", "/console/usage", who="lars@fjord.example"),
    Shot("playground", "/console/playground"),
    Shot("playground-answer", "/console/playground", _ask("What is the capital of Norway?")),
    Shot("playground-tool", "/console/playground", _tool),
    Shot("playground-editors", "/console/playground", _editors),
    Shot("playground-code", "/console/playground", _code),
    Shot("tester", "/console/tester"),
    Shot("tester-answer", "/console/tester", _call),
    Shot("account", "/console/account"),
    Shot("models", "/models"),
    Shot("model", "/models/gpt-oss-20b"),
    Shot("not-found", "/models/nothing"),
    Shot("admin-users", "/console/admin/users"),
    Shot("admin-user", "/console/admin/users", _first_user),
    Shot("admin-models", "/console/admin/models"),
    Shot("admin-prices", "/console/admin/prices"),
    Shot("admin-system", "/console/admin/system"),
    Shot("admin-settings", "/console/admin/settings"),
    Shot("admin-audit", "/console/admin/audit"),
)


def main(words: Sequence[str]) -> None:
    """Take the pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = [shot for shot in SHOTS if not words or any(word in shot.name for word in words)]
    with (
        tempfile.TemporaryDirectory() as folder,
        demo_site(Path(folder)) as (url, _),
        chromium() as browser,
    ):
        for size in SIZES:
            for dark in (False, True):
                _take_all(browser, url, wanted, size=size, dark=dark)
    print(f"{len(wanted) * 4} pictures in {OUT}")


def _take_all(browser: Browser, url: str, wanted: Sequence[Shot], *, size: str, dark: bool) -> None:
    width, height = SIZES[size]
    for who in dict.fromkeys(shot.who for shot in wanted):
        visitor = Visitor.of(browser, url, width=width, height=height, dark=dark)
        if who is not None:
            _sign_in(visitor, who)
        for shot in wanted:
            if shot.who == who:
                page = visitor.page
                page.set_viewport_size({"width": width, "height": height})
                page.goto(url + shot.path, wait_until="networkidle")
                if shot.act is not None:
                    shot.act(page)
                theme = "dark" if dark else "light"
                path = OUT / f"{shot.name}-{size}-{theme}.png"
                page.screenshot(path=path, full_page=shot.whole)
        visitor.context.close()


def _sign_in(visitor: Visitor, who: str) -> None:
    page = visitor.go("/console/sign-in")
    page.get_by_label("E-mail").fill(who)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()


if __name__ == "__main__":
    main(sys.argv[1:])
