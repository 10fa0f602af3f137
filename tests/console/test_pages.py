"""Every page in a real browser: accessible, whole, by keyboard, on a phone, and safe from what
models and people write."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import Visitor
from tests.console.conftest import sign_in
from tests.console.demo import MEMBER, OWNER, PASSWORD

STRANGERS_PAGES = (
    "/console/sign-in",
    "/console/sign-up",
    "/console/sign-up?invitation=nonesuch",
    "/console/reset?token=nonesuch",
    "/models",
    "/models/gpt-oss-20b",
    "/models/nonesuch",
)
PAGES = (
    "/console",
    "/console/playground",
    "/console/keys",
    "/console/keys?new=1",
    "/console/usage",
    "/console/usage?until=2001-01-01",
    "/console/tester",
    "/console/account",
    "/console/nonesuch",
    "/console/admin/users",
    "/console/admin/users?search=nobody",
    "/console/admin/models",
    "/console/admin/prices",
    "/console/admin/system",
    "/console/admin/settings",
    "/console/admin/audit",
)
QUICK_MS = 1000
"""What is promised. The best of some counts, for the machine that tests may have other work."""


@pytest.fixture
def owner(guest: Visitor) -> Visitor:
    """The demo's owner, signed in."""
    sign_in(guest, OWNER, PASSWORD)
    return guest


# --- accessible -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desktop", "phone"])
def test_every_page_is_accessible(browser: Browser, demo: str, *, width: int, dark: bool) -> None:
    visitor = Visitor.of(browser, demo, width=width, dark=dark)
    found = {path: violations(visitor, path) for path in STRANGERS_PAGES}
    sign_in(visitor, OWNER, PASSWORD)
    found |= {path: violations(visitor, path) for path in PAGES}
    person = visitor.go("/console/admin/users").get_by_role("link", name=f"Open {MEMBER}")
    found |= {"user": violations(visitor, str(person.get_attribute("href")))}
    assert {path: what for path, what in found.items() if what} == {}
    assert visitor.problems == []
    visitor.context.close()


def violations(visitor: Visitor, path: str) -> list[str]:
    page = visitor.page
    page.goto(visitor.base + path)
    if path.endswith("tester"):
        page.get_by_role("button", name="GET /v1/models", exact=True).wait_for()
    return seen_by_axe(page)


def seen_by_axe(page: Page) -> list[str]:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        f"{page.url} is wide"
    )
    result = Axe().run(page)
    return [
        f"{violation['id']}: {node['target']}"
        for violation in result.response["violations"]
        for node in violation["nodes"]
    ]


def test_dialogs_answers_and_errors_are_accessible(owner: Visitor) -> None:
    page = owner.go("/console/playground")
    ask(page, "What is the capital of Norway?")
    page.get_by_text("Reasoning", exact=True).click()
    assert seen_by_axe(page) == []
    page.get_by_role("button", name="View code").click()
    assert seen_by_axe(page) == []
    page.keyboard.press("Escape")
    page.get_by_text("Tools", exact=True).click()
    page.locator("#tools").fill("{not json")
    page.get_by_label("Message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#tools-error")).to_contain_text("not JSON")
    assert seen_by_axe(page) == []
    page = owner.go("/console/keys?new=1")
    page.get_by_label("Name").fill("wrong network")
    page.get_by_label("Networks").fill("not a network")
    page.get_by_role("button", name="Add the key").click()
    page.get_by_role("alert").wait_for()
    assert seen_by_axe(page) == []


def test_the_keyboard_alone_is_enough(guest: Visitor) -> None:
    page = guest.go("/console/sign-in")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.get_by_label("E-mail").focus()
    page.keyboard.type(OWNER)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    tab_to(page, "Playground")
    page.keyboard.press("Enter")
    page.get_by_label("Message", exact=True).wait_for()
    tab_to(page, "View code")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#code-text")).to_contain_text("from openai import OpenAI")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def tab_to(page: Page, text: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text().strip() == text:
            return
    raise AssertionError(f"the Tab key never came to {text!r}")


def test_on_a_phone_menus_open_and_close(browser: Browser, demo: str) -> None:
    visitor = Visitor.of(browser, demo, width=390, height=844)
    sign_in(visitor, OWNER, PASSWORD)
    page = visitor.page
    menu = page.get_by_role("button", name="Open the navigation")
    expect(page.get_by_role("link", name="Usage", exact=True)).to_be_hidden()
    menu.click()
    expect(page.get_by_role("link", name="Usage", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    page = visitor.go("/console/playground")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System text").fill("You are brief.")
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_label("System text")).to_be_hidden()
    ask(page, "Hello")
    assert visitor.problems == []
    visitor.context.close()


def test_the_first_page_is_quick(
    browser: Browser, demo: str, record_property: Callable[[str, object], None]
) -> None:
    """With nothing cached, until it can be used; the best of some, for machines are busy."""
    took_ms = min(_interactive_ms(browser, demo) for _ in range(5))
    record_property("first_page_interactive_ms", round(took_ms))
    assert 0 < took_ms < QUICK_MS


def _interactive_ms(browser: Browser, url: str) -> float:
    """From the start of the navigation until the scripts have run and something is painted."""
    visitor = Visitor.of(browser, url)
    took_ms = visitor.go("/console/sign-in").evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => "
        "done(Math.max(performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
        " ...performance.getEntriesByType('paint').map((one) => one.startTime))))))"
    )
    visitor.context.close()
    return float(took_ms)


# --- playground -----------------------------------------------------------------------------------


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".message-foot").last).to_contain_text("out")


def test_an_answer_shows_reasoning_folded_and_what_it_took(owner: Visitor) -> None:
    page = owner.go("/console/playground")
    ask(page, "What is the capital of Norway?")
    reasoning = page.locator("details.reasoning")
    expect(reasoning).not_to_have_attribute("open", "")
    reasoning.locator("summary").click()
    expect(reasoning).to_contain_text("capital")
    expect(page.locator(".answer strong")).to_have_text("Oslo")
    expect(page.locator(".answer pre code")).to_contain_text("Hei, Oslo!")
    for figure in ("tokens/s", "$", "first token after"):
        expect(page.locator(".message-foot")).to_contain_text(figure)


def test_a_tool_call_is_shown_and_answered_by_hand(owner: Visitor) -> None:
    page = owner.go("/console/playground")
    page.get_by_text("Tools", exact=True).click()
    page.locator("#tools-example").click()
    ask(page, "How is the weather in Oslo?")
    expect(page.locator(".tool-call")).to_contain_text("get_weather")
    expect(page.locator(".tool-call pre")).to_contain_text('"city": "Oslo"')
    page.get_by_label("Result of get_weather").fill("12 degrees, rain")
    page.get_by_role("button", name="Send result").click()
    expect(page.locator(".message.assistant")).to_have_count(2)


def test_view_code_gives_the_same_request(owner: Visitor) -> None:
    page = owner.go("/console/playground")
    page.get_by_role("radio", name="high").check()
    page.get_by_label("System text").fill("You are brief.")
    page.get_by_text("Answer by a JSON schema").click()
    page.locator("#schema-example").click()
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
        for part in ("high", "You are brief.", "json_schema", "inhabitants", "s a test"):
            assert part in text


def test_models_show_their_memory_plan_and_adapters(owner: Visitor) -> None:
    page = owner.go("/console/admin/models")
    expect(page.get_by_role("heading", name="Memory plan")).to_be_visible()
    expect(page.get_by_role("row", name="gpt-oss-20b:house-style")).to_contain_text("2026-11-")
    page = owner.go("/console/playground")
    names = page.get_by_label("Model", exact=True).locator("option").all_inner_texts()
    assert "gpt-oss-20b:house-style" in names


def test_a_fetch_that_fails_is_told_when_it_has(owner: Visitor) -> None:
    """The demo is offline; the page looks again by itself until the fetch has ended. That
    somebody began it is on record."""
    page = owner.go("/console/admin/models")
    page.get_by_role("button", name="Fetch").click()
    expect(page.get_by_text("could not be fetched")).to_be_visible()
    expect(owner.go("/console/admin/audit").get_by_text("model.pull").first).to_be_visible()


# --- tester ---------------------------------------------------------------------------------------


def test_the_tester_has_every_endpoint_and_calls_it(owner: Visitor, demo: str) -> None:
    document = httpx.get(f"{demo}/openapi.json").json()
    operations = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    page = owner.go("/console/tester")
    page.get_by_role("button", name="GET /v1/models", exact=True).wait_for()
    shown = page.locator(".endpoint").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert set(shown) == operations
    page.get_by_role("button", name="GET /v1/models", exact=True).click()
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#status")).to_contain_text("200")
    expect(page.locator("#response-body")).to_contain_text("gpt-oss-20b")
    page.get_by_role("button", name="POST /v1/chat/completions", exact=True).click()
    page.get_by_label("API key").fill("sk-wrong")
    page.get_by_role("button", name="Send request").click()
    expect(page.locator("#status")).to_contain_text("401")


def test_nothing_is_fetched_from_elsewhere(owner: Visitor, demo: str) -> None:
    asked: list[str] = []
    owner.page.on("request", lambda request: asked.append(request.url))
    for path in ("/console", "/console/playground", "/console/tester", "/models/gpt-oss-20b"):
        owner.page.goto(demo + path, wait_until="networkidle")
    assert asked
    assert [url for url in asked if not url.startswith((demo, "data:"))] == []


def test_the_documentation_works_under_its_policy(guest: Visitor) -> None:
    page = guest.go("/docs")
    page.locator(".opblock-post").first.click()
    expect(page.locator(".opblock-body").first).to_be_visible()
    assert guest.problems == []


def test_a_browser_at_the_servers_address_comes_to_the_console(guest: Visitor, demo: str) -> None:
    assert guest.go("/").url.startswith(demo + "/console")
    assert httpx.get(demo + "/").json()["name"] == "osslo"


# --- what others write --------------------------------------------------------------------------


def test_a_models_answer_cannot_become_markup(owner: Visitor) -> None:
    page = owner.go("/console/playground")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "attack")
    page.get_by_text("Reasoning", exact=True).click()
    thread = page.locator("#thread")
    expect(thread).to_contain_text("<script>")
    assert thread.locator("script, img, iframe, [onerror]").count() == 0
    schemes = thread.locator("a").evaluate_all("all => all.map(one => one.protocol)")
    assert set(schemes) <= {"http:", "https:"}
    assert [url for url in asked if "elsewhere" in url] == []
    assert "owned" not in page.title()


HOSTILE = "<img src=x onerror=\"document.title='owned'\">'\"{{ 7*7 }}</script><script>"


def test_a_persons_names_cannot_become_markup(owner: Visitor) -> None:
    page = owner.go("/console/keys?new=1")
    page.get_by_label("Name").fill(HOSTILE)
    page.get_by_label("Networks").fill("10.0.0.0/8")
    page.get_by_role("button", name="Add the key").click()
    page.locator("#new-key-text").wait_for()
    for path in (
        "/console/keys",
        "/console/usage",
        "/console/admin/audit",
        f"/console/usage?model={HOSTILE}&since={HOSTILE}",
        f"/console/admin/users?search={HOSTILE}",
        f"/models/{HOSTILE.replace('/', '')}",
        f"/console/sign-in?next={HOSTILE}",
    ):
        page.goto(owner.base + path)
        assert "owned" not in page.title()
        assert page.locator("[onerror]").count() == 0
        assert "49" not in page.locator("h1, h2, input, tbody").all_inner_texts()
    expect(owner.go("/console/keys").locator("tbody")).to_contain_text("<img src=x")
