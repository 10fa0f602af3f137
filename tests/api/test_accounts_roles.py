"""Every endpoint, called by everybody: generated from the route table.

What a route lets in is read from its one dependency, so a route without one fails here, and so does
one whose dependency and behaviour differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from osslo.accounts.records import Role, User
from osslo.api.auth import require_caller
from osslo.api.sessions import Requires, anyone
from tests.api.accounts_stage import NOBODY, People, Person, people
from tests.api.conftest import make_stage

OPEN_TO_ALL = {
    "/",
    "/health",
    "/ready",
    "/metrics",
    "/docs",
    "/docs/assets/{name}",
    "/openapi.json",
}
"""Infrastructure that needs nobody's account, and shows nobody's data."""

UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass(frozen=True)
class Endpoint:
    """A method and path, and what guards it."""

    method: str
    path: str
    guard: object

    @property
    def call_path(self) -> str:
        return re.sub(r"\{[^}]+\}", "nonesuch", self.path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def guards(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        if isinstance(dependency.call, Requires) or dependency.call in (require_caller, anyone):
            yield dependency.call
        yield from guards(dependency)


def every_route(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """Routes, those of included routers too (which newer FastAPI keeps apart)."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from every_route(included.routes)


def endpoints(app: FastAPI) -> list[Endpoint]:
    found = []
    for route in every_route(app.routes):
        if not isinstance(route, APIRoute) or route.path in OPEN_TO_ALL:
            continue
        if not route.path.startswith("/v1/"):
            continue  # the console guards its own pages, and tests them
        own = list(dict.fromkeys(guards(route.dependant)))
        assert len(own) == 1, f"{route.path} needs exactly one of requires, anyone, WithCaller"
        found += [
            Endpoint(method, route.path, own[0]) for method in sorted(route.methods - {"HEAD"})
        ]
    return found


ENDPOINTS = endpoints(make_stage().app)
MANAGED = [e for e in ENDPOINTS if isinstance(e.guard, Requires)]
CALLED = [e for e in ENDPOINTS if e.guard is require_caller]


def test_the_table_is_whole() -> None:
    paths = {endpoint.path for endpoint in ENDPOINTS}
    assert {"/v1/keys", "/v1/users/{user_id}", "/v1/chat/completions"} <= paths
    assert len(MANAGED) > 20
    least = {str(e): e.guard.least for e in MANAGED if isinstance(e.guard, Requires)}
    assert least["PATCH /v1/settings"] is Role.OWNER
    for path in ("/v1/users", "/v1/invitations", "/v1/audit_log", "/v1/prices", "/v1/settings"):
        guarded = [least[name] for name in least if name.split(" ")[1].startswith(path)]
        assert all(role.covers(Role.ADMIN) for role in guarded), path


async def cast(they: People) -> dict[str, tuple[Person, Role | None, bool]]:
    """Everybody who may call: who, with which role, and whether by a key that only generates."""
    roles = {role: await they.make(role.value, role) for role in Role}
    other = await they.make("other")
    persons: dict[str, tuple[Person, Role | None, bool]] = {"nobody": (NOBODY, None, False)}
    for role, user in roles.items():
        persons[role.value] = (await they.in_session(user), role, False)
        persons[f"{role.value}'s key"] = (await they.with_key(user), Role.MEMBER, True)
        if role is not Role.MEMBER:
            managing = await they.with_key(user, management=True)
            persons[f"{role.value}'s management key"] = (managing, role, False)
    persons["other member"] = (await they.in_session(other), Role.MEMBER, False)
    forged = persons["member"][0].headers["cookie"][:-4] + "AAAA"
    persons["forger"] = (Person(None, {"cookie": forged}), None, False)
    return persons


def expected(endpoint: Endpoint, role: Role | None, *, generating_key: bool) -> str:
    """What the guard promises: `in`, or the status with which it refuses."""
    if role is None:
        return "401"
    guard = endpoint.guard
    if not isinstance(guard, Requires):
        return "in"
    if generating_key and not (guard.any_key and endpoint.method == "GET"):
        return "403"
    return "in" if role.covers(guard.least) else "403"


async def freshly(they: People, person: Person, user: User | None) -> Person:
    """The same person in a new session, for the last call may have ended the old one."""
    if user is None or "cookie" not in person.headers:
        return person
    return await they.in_session(user)


@pytest.mark.parametrize("chunk", range(4))
async def test_every_endpoint_by_everybody(chunk: int) -> None:
    wrong = []
    async with people() as they:
        persons = await cast(they)
        for endpoint in (MANAGED + CALLED)[chunk::4]:
            for name, (who, role, generating_key) in persons.items():
                person = await freshly(they, who, who.user)
                response = await they.call(person, endpoint.method, endpoint.call_path, json={})
                refused = response.status_code in (401, 403)
                seen = str(response.status_code) if refused else "in"
                wanted = expected(endpoint, role, generating_key=generating_key)
                if seen != wanted or response.status_code >= 500:
                    wrong.append(f"{endpoint} by {name}: {response.status_code}, not {wanted}")
    assert wrong == []


async def test_every_change_by_a_session_needs_the_csrf_secret() -> None:
    wrong = []
    async with people() as they:
        owner = await they.make("own", Role.OWNER)
        for endpoint in MANAGED + CALLED:
            if endpoint.method not in UNSAFE:
                continue
            cookie = {"cookie": (await they.in_session(owner)).headers["cookie"]}
            response = await they.call(
                NOBODY, endpoint.method, endpoint.call_path, json={}, headers=cookie
            )
            if response.status_code != 403 or "another site" not in response.text:
                wrong.append(f"{endpoint}: {response.status_code}")
    assert wrong == []
