"""A newcomer's way through the console, in a real browser, against the real stand-in."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Visitor
from tests.console.conftest import Site, set_up_owner, sign_in

pytestmark = pytest.mark.model

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


def test_a_stranger_signs_up_and_pays_for_a_request_until_the_key_is_revoked(
    browser: Browser, owned: Site
) -> None:
    """From the owner who opens the door to a key that is refused; one walk, for each step needs
    what the one before it made."""
    owner = Visitor.of(browser, owned.url)
    sign_in(owner)
    page = owner.go("/console/admin/settings")
    page.get_by_label("Who may make an account").select_option("open")
    page.get_by_label("Credit for new users").fill("2.50")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Saved")

    stranger = Visitor.of(browser, owned.url)
    page = stranger.go("/console")
    page.get_by_role("link", name="Make an account").click()
    page.get_by_label("E-mail").fill("kari@example.org")
    page.get_by_label("Password").fill("a few unrelated words")
    page.get_by_role("button", name="Make the account").click()
    page.get_by_role("heading", name="Overview").wait_for()
    expect(page.locator(".stat").first).to_contain_text("$2.50")

    page.get_by_role("link", name="Add a key").click()
    page.get_by_label("Name").fill("laptop")
    page.get_by_role("button", name="Add the key").click()
    key = page.locator("#new-key-text").inner_text()
    assert key.startswith("sk-")

    _ask_in_the_playground(stranger)
    asked = {"model": "gpt-oss-20b", "prompt": "Hello", "max_tokens": 8}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=owned.url, headers=headers, timeout=60) as client:
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        _see_the_cost(stranger)
        _revoke(stranger)
        refused = None
        for _ in range(40):
            refused = client.post("/v1/chat/completions", json=asked)
            if refused.status_code != 200:
                break
        assert refused is not None
        assert refused.status_code == 401
    for person in (owner, stranger):
        assert person.problems == []
        person.context.close()


def _ask_in_the_playground(visitor: Visitor) -> None:
    page = visitor.go("/console/playground")
    page.get_by_label("Most tokens").fill("160")  # it reasons first
    page.get_by_label("Message", exact=True).fill("What is the capital of Norway?")
    page.keyboard.press("Enter")
    foot = page.locator(".message-foot")
    expect(foot).to_contain_text("tokens/s", timeout=60_000)
    expect(foot).to_contain_text("$")
    assert page.locator(".answer").inner_text().strip()


def _see_the_cost(visitor: Visitor) -> None:
    page = visitor.go("/console/usage")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("laptop")
    for row in rows.all():
        cost = row.locator('[data-label="Cost"]').inner_text()
        assert re.fullmatch(r"\$0\.\d{6}", cost)
        assert float(cost[1:]) > 0
    visitor.go("/console")
    expect(page.locator(".stat").nth(2)).to_contain_text("2")


def _revoke(visitor: Visitor) -> None:
    page = visitor.go("/console/keys")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke laptop").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked")
    expect(page.locator("tbody tr").first).to_contain_text("revoked")


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
