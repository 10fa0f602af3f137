"""A newcomer's way through the console, in a real browser, against the real stand-in."""

from __future__ import annotations

import re

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.console.browser import Visitor
from tests.console.conftest import OWNER, PASSWORD, Site, set_up_owner, sign_in

pytestmark = pytest.mark.model

MEMBER_PAGES = (
    "/console",
    "/console/playground",
    "/console/keys",
    "/console/keys?new=1",
    "/console/usage",
    "/console/tester",
    "/console/account",
    "/models",
    "/models/gpt-oss-20b",
)
ADMIN_PAGES = (
    "/console/admin/users",
    "/console/admin/models",
    "/console/admin/prices",
    "/console/admin/system",
    "/console/admin/settings",
    "/console/admin/audit",
)


@pytest.fixture(scope="module")
def owned(browser: Browser, site: Site) -> Site:
    """The site after its first owner was made."""
    visitor = Visitor.of(browser, site.url)
    set_up_owner(visitor, site)
    visitor.context.close()
    return site


def test_before_anybody_has_an_account_the_key_works_in_the_playground(
    browser: Browser, site: Site
) -> None:
    visitor = Visitor.of(browser, site.url)
    page = visitor.go("/console/playground")
    page.get_by_label("API key").fill(site.server.key)
    page.get_by_label("Most tokens").fill("12")
    page.get_by_label("Message", exact=True).fill("Name a colour.")
    page.keyboard.press("Enter")
    expect(page.locator(".message-foot")).to_contain_text("out", timeout=60_000)
    assert visitor.problems == []
    visitor.context.close()


def test_from_nothing_to_a_charged_request_and_a_revoked_key(visitor: Visitor, owned: Site) -> None:
    sign_in(visitor)
    page = visitor.page
    page.get_by_role("link", name="Add a key").click()
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Add the key").click()
    key = page.locator("#new-key-text").inner_text()
    assert key.startswith("sk-")

    visitor.go("/console/playground")
    page.get_by_label("Most tokens").fill("160")  # it reasons first
    page.get_by_label("Message", exact=True).fill("What is the capital of Norway?")
    page.keyboard.press("Enter")
    foot = page.locator(".message-foot")
    expect(foot).to_contain_text("tokens/s", timeout=60_000)
    expect(foot).to_contain_text("$")
    assert page.locator(".answer").inner_text().strip()

    asked = {"model": "gpt-oss-20b", "prompt": "Hello", "max_tokens": 8}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=owned.url, headers=headers, timeout=60) as client:
        assert client.post("/v1/chat/completions", json=asked).status_code == 200

        visitor.go("/console/usage")
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("laptop")
        for row in rows.all():
            cost = row.locator('[data-label="Cost"]').inner_text()
            assert re.fullmatch(r"\$0\.\d{6}", cost)
            assert float(cost[1:]) > 0
        visitor.go("/console")
        expect(page.locator(".stat").nth(2)).to_contain_text("2")

        visitor.go("/console/keys")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Revoke laptop").click()
        expect(page.get_by_role("status")).to_contain_text("Revoked")
        expect(page.locator("tbody tr").first).to_contain_text("revoked")

        refused = None
        for _ in range(40):
            refused = client.post("/v1/chat/completions", json=asked)
            if refused.status_code != 200:
                break
        assert refused is not None
        assert refused.status_code == 401


def test_the_tester_calls_an_endpoint(visitor: Visitor, owned: Site) -> None:
    sign_in(visitor)
    page = visitor.go("/console/tester")
    page.get_by_role("button", name="GET /v1/models", exact=True).click()
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#status")).to_contain_text("200")
    expect(page.locator("#response-body")).to_contain_text("gpt-oss-20b")


def test_code_is_shown_in_three_languages(visitor: Visitor, owned: Site) -> None:
    sign_in(visitor)
    page = visitor.go("/console/playground")
    page.get_by_label("Message", exact=True).fill("It's a test")
    page.get_by_role("button", name="View code").click()
    for language, begins in (
        ("curl", "curl http"),
        ("Python", "import os"),
        ("JavaScript", "import OpenAI"),
    ):
        page.get_by_role("tab", name=language).click()
        text = page.locator("#code-text").inner_text()
        assert text.startswith(begins)
        assert "It" in text


def test_keys_alone_reach_everything(visitor: Visitor, owned: Site) -> None:
    page = visitor.go("/console/sign-in")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.get_by_label("E-mail").focus()
    page.keyboard.type(OWNER)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text().strip() == "Playground":
            break
    page.keyboard.press("Enter")
    page.get_by_label("Message", exact=True).wait_for()


def test_a_member_sees_no_administration(browser: Browser, owned: Site) -> None:
    admin = Visitor.of(browser, owned.url)
    sign_in(admin)
    page = admin.go("/console/admin/users")
    page.get_by_role("button", name="Make an invitation").click()
    link = page.locator("#link-text").inner_text()
    admin.context.close()

    invited = Visitor.of(browser, owned.url)
    page = invited.go(link.removeprefix(owned.url))
    page.get_by_label("E-mail").fill("bob@example.org")
    page.get_by_label("Password").fill("another long password")
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Overview").wait_for()
    assert page.get_by_role("link", name="Audit log").count() == 0
    for path in ADMIN_PAGES:
        answer = page.goto(owned.url + path)
        assert answer is not None
        assert answer.status == 403
    invited.context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_every_page_is_accessible(browser: Browser, owned: Site, *, width: int, dark: bool) -> None:
    visitor = Visitor.of(browser, owned.url, width=width, dark=dark)
    found = {"/console/sign-in": _violations(visitor, "/console/sign-in")}
    sign_in(visitor)
    found |= {path: _violations(visitor, path) for path in MEMBER_PAGES + ADMIN_PAGES}
    assert {path: what for path, what in found.items() if what} == {}
    assert visitor.problems == []
    visitor.context.close()


def _violations(visitor: Visitor, path: str) -> list[str]:
    page = visitor.go(path)
    if path.endswith("tester"):
        page.get_by_role("button", name="GET /v1/models", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} overflows"
    result = Axe().run(page)
    return [
        f"{violation['id']}: {node['target']}"
        for violation in result.response["violations"]
        for node in violation["nodes"]
    ]


def test_the_first_page_is_quick(visitor: Visitor, owned: Site) -> None:
    page = visitor.go("/console/sign-in")
    interactive = page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive")
    assert interactive < 1000
