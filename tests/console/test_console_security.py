"""The console's routes, called by everybody and by forgers: generated from the route table."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from osslo.console.templating import CONTENT_SECURITY_POLICY
from osslo.console.visit import admin, member, visit
from tests.api.test_accounts_roles import Endpoint, every_route
from tests.console.demo import LONG, MEMBER, OWNER, PASSWORD, Demo, build
from tests.scripted import serving

ADMIN = "sigrid@fjord.example"
_ADDRESSES = itertools.count()
PEOPLE = {"nobody": None, "member": MEMBER, "admin": ADMIN, "owner": OWNER}
GUARDS = (visit, member, admin)
CLOSED = ("/console/playground", "/console/tester")
"""Pages that let strangers in only while nobody has an account."""


@dataclass(frozen=True)
class Stage:
    """A demo of these tests' own, for they lock addresses and change things."""

    url: str
    demo: Demo

    def client(self) -> httpx.Client:
        """Somebody at an address of their own, so that guesses of one slow down no other."""
        high, low = divmod(next(_ADDRESSES), 250)
        address = f"10.{high}.{low}.1"
        return httpx.Client(base_url=self.url, headers={"x-forwarded-for": address}, timeout=30)

    @contextmanager
    def signed_in(self, email: str | None) -> Iterator[httpx.Client]:
        with self.client() as client:
            if email is not None:
                csrf = form_secret(client.get("/console/sign-in").text)
                fields = {"email": email, "password": PASSWORD, "csrf": csrf, "next": ""}
                answer = client.post("/console/sign-in", data=fields)
                assert answer.headers["location"] == "/console"
            yield client


def form_secret(page: str) -> str:
    """The CSRF secret of a page's forms."""
    found = re.search(r'<meta name="csrf" content="([^"]+)">', page)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ThreadPoolExecutor(1) as aside:
        demo = aside.submit(asyncio.run, build(tmp_path_factory.mktemp("demo"))).result()
        with serving(demo.app) as url:
            yield Stage(url, demo)


def endpoints(stage: Stage) -> list[Endpoint]:
    found = []
    for route in every_route(stage.demo.app.routes):
        if not isinstance(route, APIRoute) or not route.path.startswith(("/console", "/models")):
            continue
        own = {call for call in _calls(route.dependant) if call in GUARDS}
        assert len(own) == 1, f"{route.path} needs exactly one of visit, member, admin"
        found += [Endpoint(method, route.path, *own) for method in sorted(route.methods - {"HEAD"})]
    return found


def _calls(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def seen(answer: httpx.Response) -> str:
    """What an answer means: let in, refused, or led to the sign-in page."""
    if answer.headers.get("location", "").startswith("/console/sign-in?next"):
        return "sign in"
    return "refused" if answer.status_code == 403 else "in"


def promised(endpoint: Endpoint, role: str) -> str:
    """What the guard says, and the path must not say otherwise."""
    if endpoint.path.startswith("/console/admin"):
        assert endpoint.guard is admin, endpoint.path
    if endpoint.guard is visit:
        return "sign in" if endpoint.path in CLOSED and role == "nobody" else "in"
    if role == "nobody":
        return "sign in"
    return "refused" if endpoint.guard is admin and role == "member" else "in"


def test_every_page_by_everybody(stage: Stage) -> None:
    wrong = []
    table = endpoints(stage)
    assert len(table) > 40
    for role, email in PEOPLE.items():
        with stage.signed_in(email) as client:
            for endpoint in table:
                if endpoint.method != "GET":
                    continue
                answer = client.get(endpoint.call_path)
                if seen(answer) != promised(endpoint, role) or answer.status_code >= 500:
                    wrong.append(f"{endpoint} by {role}: {answer.status_code}")
    assert wrong == []


@pytest.mark.parametrize("role", PEOPLE)
def test_every_form_by_everybody_and_by_forgers(stage: Stage, role: str) -> None:
    """With the secret a form gets as far as its guard; without it, nowhere."""
    wrong = []
    forms = [endpoint for endpoint in endpoints(stage) if endpoint.method == "POST"]
    forms.sort(key=lambda form: "sign-out" in form.path)  # after these the session has ended
    endings = [n for n, form in enumerate(forms) if "sign-out" in form.path]
    for part in (forms[: endings[0]], *([forms[n]] for n in endings)):
        with stage.signed_in(PEOPLE[role]) as client:
            page = client.get("/console/sign-in" if role == "nobody" else "/console/account")
            secret = {"csrf": form_secret(page.text)}
            for endpoint in part:
                wanted = promised(endpoint, role)
                forged = "refused" if wanted == "in" else wanted
                for fields, what in (({}, forged), (secret, wanted)):
                    answer = client.post(endpoint.call_path, data=fields)
                    if seen(answer) != what or answer.status_code >= 500:
                        told = f"{answer.status_code} {answer.headers.get('location', '')}"
                        wrong.append(f"{endpoint} with {list(fields)}: {told}, not {what}")
    assert wrong == []


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"origin": "https://elsewhere.example"}],
    ids=["by fetch metadata", "by origin"],
)
def test_a_form_from_another_site_is_refused_with_the_secret_too(
    stage: Stage, headers: dict[str, str]
) -> None:
    with stage.signed_in(MEMBER) as client:
        csrf = form_secret(client.get("/console/account").text)
        answer = client.post("/console/sign-out", data={"csrf": csrf}, headers=headers)
        assert answer.status_code == 403
        assert client.get("/console").status_code == 200


# --- headers --------------------------------------------------------------------------------------


def test_every_answer_carries_the_headers(stage: Stage) -> None:
    """Pages, redirects, errors, downloads, and static files that are there or not."""
    with stage.signed_in(OWNER) as client:
        style = re.search(r'href="(/console/static/css/base[^"]+)"', client.get("/console").text)
        assert style is not None
        paths = {
            style[1]: 200,
            "/console/static/js/frame.js": 200,
            "/console/static/nonesuch.js": 404,
            "/console/static/../visit.py": 404,
            "/console/static/%2e%2e/visit.py": 404,
            "/console": 200,
            "/console/nonesuch": 404,
            "/console/keys?edit=nonesuch": 404,
            "/console/usage.csv": 200,
            "/console/usage.json": 200,
            "/console/admin/system.json": 200,
            "/models/nonesuch": 404,
        }
        for path, status in paths.items():
            answer = client.get(path)
            assert answer.status_code == status, path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["x-frame-options"] == "DENY", path
            if answer.headers["content-type"].startswith("text/html"):
                assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
                assert answer.headers["cache-control"] == "no-store", path
        assert "immutable" in client.get(style[1]).headers["cache-control"]


def test_the_policy_allows_no_inline_code_and_pages_have_none(stage: Stage) -> None:
    policy = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert policy["frame-ancestors"] == "'none'"
    with stage.signed_in(OWNER) as client:
        for endpoint in endpoints(stage):
            if endpoint.method == "GET":
                text = client.get(endpoint.call_path).text
                assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text), endpoint
                for script in re.findall(r"<script[^>]*>([^<]*)", text):
                    assert not script.strip(), endpoint


# --- sessions and guessing ------------------------------------------------------------------------


def test_a_planted_session_never_becomes_the_persons(stage: Stage) -> None:
    planted = "A" * 43
    with stage.client() as client:
        client.cookies.set("osslo_session", planted, domain="127.0.0.1")
        csrf = form_secret(client.get("/console/sign-in").text)
        fields = {"email": MEMBER, "password": PASSWORD, "csrf": csrf}
        answer = client.post("/console/sign-in", data=fields)
        cookie = answer.headers["set-cookie"]
    assert answer.headers["location"] == "/console"
    assert planted not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    with stage.client() as thief:
        thief.cookies.set("osslo_session", planted, domain="127.0.0.1")
        assert seen(thief.get("/console/keys")) == "sign in"


def test_signing_out_ends_the_session_for_whoever_copied_it(stage: Stage) -> None:
    with stage.signed_in(MEMBER) as client, stage.client() as copy:
        copy.cookies.update(client.cookies)
        assert copy.get("/console/keys").status_code == 200
        csrf = form_secret(client.get("/console").text)
        client.post("/console/sign-out", data={"csrf": csrf})
        assert seen(copy.get("/console/keys")) == "sign in"


@pytest.mark.parametrize(
    "path",
    ["//elsewhere.example", "https://elsewhere.example", "/console\\\\elsewhere", "/consolex//y"],
)
def test_signing_in_never_leads_to_another_site(stage: Stage, path: str) -> None:
    with stage.client() as client:
        csrf = form_secret(client.get("/console/sign-in").text)
        fields = {"email": MEMBER, "password": PASSWORD, "csrf": csrf, "next": path}
        assert client.post("/console/sign-in", data=fields).headers["location"] == "/console"


def test_one_does_not_reach_the_keys_of_another(stage: Stage) -> None:
    with stage.signed_in(OWNER) as owner, stage.signed_in(MEMBER) as person:
        ids = re.findall(r"/console/keys\?edit=([\w-]+)", owner.get("/console/keys").text)
        assert ids
        csrf = form_secret(person.get("/console/keys").text)
        assert person.get(f"/console/keys?edit={ids[0]}").status_code == 404
        for act in ("", "/rotate", "/revoke"):
            answer = person.post(f"/console/keys/{ids[0]}{act}", data={"csrf": csrf, "name": "x"})
            assert answer.status_code == 404, act
        theirs = person.get(f"/console/usage.json?key={ids[0]}").json()
        assert theirs == []


def test_saving_a_key_unchanged_changes_nothing(stage: Stage) -> None:
    """Also what the form shows by the day, or in dollars and cents."""
    rules = {
        "name": "precise",
        "expires_at": 1_900_000_000,
        "spending_limit_nanousd": 1_234_567,
        "spending_period": "weekly",
        "networks": ["10.0.0.0/8"],
        "requests_per_minute": 7,
    }
    with stage.signed_in(MEMBER) as client:
        csrf = client.get("/v1/me").json()["csrf"]
        made = client.post("/v1/keys", json=rules, headers={"x-csrf-token": csrf}).json()["key"]
        page = client.get(f"/console/keys?edit={made['id']}").text
        form = page[page.index(f'action="/console/keys/{made["id"]}"') :]
        form = form[: form.index("</form>")]
        tags = re.findall(r"<input [^>]*>", form)
        fields = {
            named[1]: value
            for tag in tags
            if (named := re.search(r'name="(\w+)"', tag))
            for value in re.findall(r' value="([^"]*)"', tag)
            if "disabled" not in tag
        }
        chosen = re.findall(r'<select[^>]* name="(\w+)".*?</select>', form, re.S)
        assert set(chosen) == {"period", "guard"}
        fields |= {"period": "weekly", "guard": ""}
        saved = client.post(f"/console/keys/{made['id']}", data=fields)
        assert saved.headers["location"].endswith("done=key-changed")
        kept = client.get(f"/v1/keys/{made['id']}").json()
    assert kept == made


@pytest.mark.parametrize("hostile", ["' OR '1'='1", "x'; DROP TABLE users; --", "%", "\\"])
def test_sql_in_what_is_typed_finds_nothing_and_breaks_nothing(stage: Stage, hostile: str) -> None:
    with stage.signed_in(OWNER) as client:
        for name in ("key", "model", "after"):
            answer = client.get("/console/usage.json", params={name: hostile})
            assert answer.status_code == 200
            assert name == "after" or answer.json() == []
        assert client.get("/console/admin/audit", params={"after": hostile}).status_code == 200
        page = client.get("/console/admin/users", params={"search": hostile})
        assert page.status_code == 200
        assert MEMBER not in page.text
        assert client.get(f"/console/admin/users/{hostile}").status_code == 404
        assert MEMBER in client.get("/console/admin/users").text
    with stage.client() as client:
        csrf = form_secret(client.get("/console/sign-in").text)
        fields = {"email": f"{LONG}{hostile}", "password": hostile, "csrf": csrf}
        assert client.post("/console/sign-in", data=fields).status_code in (400, 401)


def test_guessing_a_password_in_the_form_is_slowed_down(stage: Stage) -> None:
    statuses = []
    with stage.client() as client:
        csrf = form_secret(client.get("/console/sign-in").text)
        for number in range(14):
            fields = {"email": LONG, "password": f"guess {number}", "csrf": csrf}
            answer = client.post("/console/sign-in", data=fields)
            statuses.append(answer.status_code)
        right = client.post("/console/sign-in", data=fields | {"password": PASSWORD})
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert right.status_code == 429
    assert "location" not in right.headers
