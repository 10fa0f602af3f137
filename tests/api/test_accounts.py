"""The management API: signing in, keys, users, prices, settings; and calling models by either."""

from __future__ import annotations

import logging
from http.cookies import SimpleCookie

import httpx
import pytest

from osslo.accounts.records import COMMAND_LINE, Options, RateLimits, Role, SignUp, UserState
from osslo.api.sessions import CSRF_HEADER
from tests.accounts.conftest import PASSWORD
from tests.api.accounts_stage import NOBODY, ORIGIN, SERVER_KEY, People, Person, people
from tests.api.conftest import ask

CHAT = "/v1/chat/completions"


def cookie_of(response: httpx.Response) -> tuple[str, str, str]:
    """The name, value and attributes of the cookie that an answer sets."""
    header = response.headers["set-cookie"]
    ((name, morsel),) = SimpleCookie(header).items()
    return name, morsel.value, header.lower()


async def sign_in(
    they: People, email: str, password: str = PASSWORD, **headers: str
) -> httpx.Response:
    body = {"email": email, "password": password}
    return await they.call(NOBODY, "POST", "/v1/sessions", json=body, headers=headers)


async def test_without_users_the_servers_key_works_and_then_no_more() -> None:
    async with people() as they:
        before = await they.call(SERVER_KEY, "POST", CHAT, json=ask())
        manage = await they.call(SERVER_KEY, "GET", "/v1/keys")
        owner = await they.make("own", Role.OWNER)
        key = await they.with_key(owner)
        they.accounts.keyring._checked_at = float("-inf")
        after = await they.call(SERVER_KEY, "POST", CHAT, json=ask())
        by_key = await they.call(key, "POST", CHAT, json=ask())
    assert before.status_code == 200
    assert manage.status_code == 401
    assert after.status_code == 401
    assert "osslo keys create" in after.json()["error"]["message"]
    assert by_key.status_code == 200


async def test_management_says_that_there_are_no_users_yet() -> None:
    async with people() as they:
        for caller in (NOBODY, SERVER_KEY):
            refused = await they.call(caller, "GET", "/v1/me")
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "not_set_up")


async def test_from_the_setup_link_to_an_answer() -> None:
    async with people() as they:
        link = await they.accounts.links.setup()
        assert link is not None
        body = {"token": link.token, "email": "own@example.com", "name": "O", "password": PASSWORD}
        made = await they.call(NOBODY, "POST", "/v1/setup", json=body)
        name, token, _ = cookie_of(made)
        owner = Person(None, {"cookie": f"{name}={token}", CSRF_HEADER: made.json()["csrf"]})
        key = await they.call(owner, "POST", "/v1/keys", json={"name": "laptop"})
        bearer = {"authorization": f"Bearer {key.json()['text']}"}
        answer = await they.call(NOBODY, "POST", CHAT, json=ask(), headers=bearer)
        again = await they.call(NOBODY, "POST", "/v1/setup", json=body)
        listed = (await they.call(owner, "GET", "/v1/keys")).json()
    assert made.status_code == 201
    assert made.json()["user"]["role"] == "owner"
    assert key.status_code == 201
    assert answer.status_code == 200
    assert again.status_code == 403
    assert "text" not in listed["data"][0]
    assert key.json()["text"].startswith(listed["data"][0]["prefix"][:-1])


async def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites() -> None:
    async with people() as they:
        user = await they.make("ann", password=True)
        plain = await sign_in(they, user.email)
    async with people(base_url="https://osslo") as they:
        user = await they.make("ann", password=True)
        secure = await sign_in(they, user.email)
        _, token, _ = cookie_of(secure)
        unprefixed = Person(user, {"cookie": f"osslo_session={token}"})
        refused = await they.call(unprefixed, "GET", "/v1/me")
    name, token, attributes = cookie_of(plain)
    assert name == "osslo_session"
    assert "httponly" in attributes
    assert "samesite=lax" in attributes
    assert "secure" not in attributes
    assert token not in plain.text
    name, _, attributes = cookie_of(secure)
    assert name == "__Host-osslo_session"
    assert "secure" in attributes
    assert "path=/" in attributes
    assert "domain" not in attributes
    assert plain.headers["cache-control"] == "no-store"
    assert refused.status_code == 401


async def test_sign_in_never_takes_over_a_token_that_was_there() -> None:
    async with people() as they:
        user = await they.make("ann", password=True)
        planted = await sign_in(they, user.email, cookie="osslo_session=planted")
        _, first, _ = cookie_of(planted)
        second = await sign_in(they, user.email, cookie=f"osslo_session={first}")
        _, token, _ = cookie_of(second)
        old = await they.call(Person(user, {"cookie": f"osslo_session={first}"}), "GET", "/v1/me")
        new = await they.call(Person(user, {"cookie": f"osslo_session={token}"}), "GET", "/v1/me")
    assert "planted" != first != token
    assert (old.status_code, new.status_code) == (401, 200)


async def test_what_changes_something_needs_the_csrf_secret() -> None:
    async with people() as they:
        ann = await they.in_session(await they.make("ann"))
        cookie = {"cookie": ann.headers["cookie"]}
        secret = ann.headers[CSRF_HEADER]
        outcomes = {}
        for name, headers in {
            "none": {},
            "wrong": {CSRF_HEADER: "x" + secret},
            "cross": {CSRF_HEADER: secret, "sec-fetch-site": "cross-site"},
            "sibling": {CSRF_HEADER: secret, "sec-fetch-site": "same-site"},
            "origin": {CSRF_HEADER: secret, "origin": "https://evil.example"},
            "null": {CSRF_HEADER: secret, "origin": "null"},
            "ours": {CSRF_HEADER: secret, "sec-fetch-site": "same-origin"},
            "same": {CSRF_HEADER: secret, "origin": ORIGIN},
            "no browser": {CSRF_HEADER: secret},
        }.items():
            for path, body in (("/v1/keys", {"name": "k"}), (CHAT, ask())):
                response = await they.call(
                    NOBODY, "POST", path, json=body, headers=cookie | headers
                )
                outcomes.setdefault(name, set()).add(response.status_code)
        for path in ("/v1/sessions", "/v1/sign_up", "/v1/setup", "/v1/password_resets"):
            forged = await they.call(
                NOBODY, "POST", path, json={}, headers={"sec-fetch-site": "cross-site"}
            )
            assert forged.status_code == 403, path
    assert {n for n, statuses in outcomes.items() if statuses == {403}} == {
        "none",
        "wrong",
        "cross",
        "sibling",
        "origin",
        "null",
    }
    assert {n for n, statuses in outcomes.items() if statuses == {200, 201}} == {
        "ours",
        "same",
        "no browser",
    }


async def test_a_session_can_ask_models_and_a_key_comes_first() -> None:
    async with people() as they:
        ann = await they.in_session(await they.make("ann"))
        by_session = await they.call(ann, "POST", CHAT, json=ask())
        with_bad_key = await they.call(
            ann, "POST", CHAT, json=ask(), headers={"authorization": "Bearer sk-wrong"}
        )
    assert by_session.status_code == 200
    assert with_bad_key.status_code == 401


async def test_rules_of_a_key_hold_where_models_are_asked() -> None:
    async with people(proxies=("127.0.0.1",)) as they:
        ann = await they.make("ann")
        other_model = await they.with_key(ann, models=("nonesuch",))
        this_model = await they.with_key(ann, models=("gpt-oss-20b",))
        here = await they.with_key(ann, networks=("198.51.100.0/24",))
        model = [
            (await they.call(person, "POST", CHAT, json=ask())).status_code
            for person in (other_model, this_model)
        ]
        network = [
            (
                await they.call(
                    here, "POST", CHAT, json=ask(), headers={"x-forwarded-for": address}
                )
            ).status_code
            for address in ("198.51.100.9", "203.0.113.1", "198.51.100.9, 203.0.113.1", "bogus")
        ]
    assert model == [403, 200]
    assert network == [200, 403, 403, 403]


async def test_forwarded_addresses_of_strangers_are_not_believed() -> None:
    async with people() as they:
        here = await they.with_key(await they.make("ann"), networks=("198.51.100.0/24",))
        forged = {"x-forwarded-for": "198.51.100.9", "x-forwarded-proto": "https"}
        refused = await they.call(here, "POST", CHAT, json=ask(), headers=forged)
        user = await they.make("bob", password=True)
        signed_in = await sign_in(they, user.email, **{"x-forwarded-proto": "https"})
    assert refused.status_code == 403
    assert cookie_of(signed_in)[0] == "osslo_session"


async def test_a_revoked_key_is_refused() -> None:
    async with people() as they:
        ann = await they.make("ann")
        session = await they.in_session(ann)
        made = await they.key(ann)
        bearer = {"authorization": f"Bearer {made.text}"}
        works = await they.call(NOBODY, "POST", CHAT, json=ask(), headers=bearer)
        revoked = await they.call(session, "DELETE", f"/v1/keys/{made.key.id}")
        they.accounts.keyring._checked_at = float("-inf")
        refused = await they.call(NOBODY, "POST", CHAT, json=ask(), headers=bearer)
        shown = await they.call(session, "GET", f"/v1/keys/{made.key.id}")
    assert works.status_code == 200
    assert revoked.json()["state"] == shown.json()["state"] == "revoked"
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_revoked")


async def test_keys_are_changed_rotated_and_revoked_in_bulk() -> None:
    async with people() as they:
        ann = await they.in_session(await they.make("ann"))
        made = (
            await they.call(
                ann,
                "POST",
                "/v1/keys",
                json={
                    "name": "ci",
                    "models": ["gpt-oss-20b"],
                    "expires_at": 4_000_000_000,
                    "spending_limit_nanousd": 5,
                    "spending_period": "daily",
                    "requests_per_minute": 7,
                    "guard": "off",
                },
            )
        ).json()["key"]
        path = f"/v1/keys/{made['id']}"
        changed = (
            await they.call(
                ann, "PATCH", path, json={"models": None, "tokens_per_minute": 9, "guard": None}
            )
        ).json()
        rotated = (await they.call(ann, "POST", f"{path}/rotate", json={"overlap_s": 60})).json()
        old = (await they.call(ann, "GET", path)).json()
        ids = [made["id"], rotated["key"]["id"]]
        both = (await they.call(ann, "POST", "/v1/keys/revoke", json={"ids": ids})).json()
        again = await they.call(ann, "PATCH", path, json={"name": "x"})
        unknown = await they.call(ann, "PATCH", path, json={"colour": "x"})
    assert changed["models"] is None
    assert changed["guard"] is None
    assert changed["limits"] == {"requests_per_minute": 7, "tokens_per_minute": 9}
    assert (changed["expires_at"], changed["name"]) == (4_000_000_000, "ci")
    assert changed["spending_period"] == "daily"
    assert rotated["key"]["rotated_from"] == made["id"]
    assert old["retires_at"] is not None
    assert [key["state"] for key in both["data"]] == ["revoked", "revoked"]
    assert again.status_code == 409
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "colour")


async def test_nobody_reaches_what_is_anothers() -> None:
    async with people() as they:
        ann, bob = await they.make("ann"), await they.make("bob")
        key = await they.key(ann)
        session = (await they.in_session(ann), (await they.accounts.sessions.of_user(ann.id))[0])
        me = await they.in_session(bob)
        calls = [
            ("GET", f"/v1/keys/{key.key.id}", None),
            ("PATCH", f"/v1/keys/{key.key.id}", {"name": "mine"}),
            ("DELETE", f"/v1/keys/{key.key.id}", None),
            ("POST", f"/v1/keys/{key.key.id}/rotate", {}),
            ("POST", "/v1/keys/revoke", {"ids": [key.key.id]}),
            ("POST", "/v1/keys", {"name": "for ann", "user_id": ann.id}),
            ("DELETE", f"/v1/sessions/{session[1].id}", None),
        ]
        statuses = [
            (await they.call(me, method, path, json=body)).status_code
            for method, path, body in calls
        ]
        listing = await they.call(me, "GET", "/v1/keys", params={"user_id": ann.id})
        own = (await they.call(me, "GET", "/v1/keys")).json()["data"]
        still = await they.call(session[0], "GET", f"/v1/keys/{key.key.id}")
    assert statuses == [404] * 7
    assert listing.status_code == 403
    assert own == []
    assert (still.json()["state"], still.json()["name"]) == ("active", "a key")


async def test_admins_look_after_users() -> None:
    async with people() as they:
        admin = await they.in_session(await they.make("adm", Role.ADMIN))
        made = await they.call(
            admin, "POST", "/v1/users", json={"email": "New@Example.com", "name": "New"}
        )
        path = f"/v1/users/{made.json()['id']}"
        link = (await they.call(admin, "POST", f"{path}/password_reset")).json()
        reset = await they.call(
            NOBODY,
            "POST",
            "/v1/password_resets",
            json={"token": link["token"], "password": PASSWORD},
        )
        signed_in = await sign_in(they, "new@example.com")
        changed = await they.call(
            admin, "PATCH", path, json={"state": "disabled", "requests_per_minute": 3}
        )
        refused = await sign_in(they, "new@example.com")
        promoted = await they.call(admin, "PATCH", path, json={"role": "owner"})
        found = (await they.call(admin, "GET", "/v1/users", params={"search": "new@"})).json()
        acts = (await they.call(admin, "GET", "/v1/audit_log", params={"limit": 3})).json()
        rest = (
            await they.call(admin, "GET", "/v1/audit_log", params={"after": acts["last_id"]})
        ).json()
        strange = await they.call(admin, "GET", "/v1/audit_log", params={"after": "1; x"})
    assert strange.status_code == 400
    assert made.json()["email"] == "new@example.com"
    assert link["url"] == f"{ORIGIN}/console/reset?token={link['token']}"
    assert reset.status_code == signed_in.status_code == 201
    assert changed.json()["limits"]["requests_per_minute"] == 3
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "user_disabled")
    assert promoted.status_code == 403
    assert [user["name"] for user in found["data"]] == ["New"]
    assert [entry["act"] for entry in acts["data"]] == [
        "user.disabled",
        "user.limits",
        "user.password_reset",
    ]
    assert acts["has_more"]
    assert not {e["id"] for e in rest["data"]} & {e["id"] for e in acts["data"]}


async def test_invitations_and_sign_up() -> None:
    async with people() as they:
        owner = await they.in_session(await they.make("own", Role.OWNER))
        body = {"email": "dan@example.com", "name": "Dan", "password": PASSWORD}
        uninvited = await they.call(NOBODY, "POST", "/v1/sign_up", json=body)
        link = (await they.call(owner, "POST", "/v1/invitations", json={"role": "admin"})).json()
        made = await they.call(
            NOBODY, "POST", "/v1/sign_up", json=body | {"invitation": link["token"]}
        )
        listed = (await they.call(owner, "GET", "/v1/invitations")).json()["data"]
        used = await they.call(owner, "DELETE", f"/v1/invitations/{listed[0]['id']}")
        opened = await they.call(owner, "PATCH", "/v1/settings", json={"sign_up": "open"})
        they.accounts.keyring._checked_at = float("-inf")
        free = await they.call(
            NOBODY, "POST", "/v1/sign_up", json=body | {"email": "eve@example.com"}
        )
        taken = await they.call(NOBODY, "POST", "/v1/sign_up", json=body)
    assert (uninvited.status_code, uninvited.json()["error"]["code"]) == (403, "invitation_needed")
    assert made.json()["user"]["role"] == "admin"
    assert listed[0]["used_at"] is not None
    assert "token" not in str(listed)
    assert used.status_code == 409
    assert opened.json()["sign_up"] == "open"
    assert free.json()["user"]["role"] == "member"
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "email_taken")


async def test_prices_are_public_unless_an_owner_says_no() -> None:
    async with people() as they:
        owner = await they.in_session(await they.make("own", Role.OWNER))
        member = await they.with_key(await they.make("ann"))
        shown = (await they.call(NOBODY, "GET", "/v1/prices")).json()["data"]
        made = await they.call(
            owner,
            "POST",
            "/v1/prices",
            json={"model": "a/b", "input_list_nanousd": 10, "output_list_nanousd": 20},
        )
        ended = await they.call(owner, "DELETE", "/v1/prices/a/b")
        every = (await they.call(owner, "GET", "/v1/prices", params={"all": "true"})).json()
        await they.call(owner, "PATCH", "/v1/settings", json={"prices_public": False})
        they.accounts.keyring._checked_at = float("-inf")
        statuses = [
            (await they.call(person, "GET", "/v1/prices")).status_code
            for person in (NOBODY, member, owner)
        ]
    assert [(p["model"], p["input_nanousd"], p["output_nanousd"]) for p in shown] == [
        ("*", 80, 320),
        ("gpt-oss-20b", 80, 320),
    ]
    assert (made.status_code, ended.status_code) == (201, 200)
    assert len(every["data"]) == 3
    assert statuses == [401, 200, 200]


async def test_one_looks_after_oneself() -> None:
    async with people() as they:
        user = await they.make("ann", password=True)
        here = await they.in_session(user)
        there = await they.in_session(user)
        renamed = await they.call(here, "PATCH", "/v1/me", json={"name": "Ann <b>"})
        wrong = await they.call(
            here,
            "PUT",
            "/v1/password",
            json={"old_password": "not this", "new_password": "another good one"},
        )
        right = await they.call(
            here,
            "PUT",
            "/v1/password",
            json={"old_password": PASSWORD, "new_password": "another good one"},
        )
        gone = await they.call(there, "GET", "/v1/me")
        me = (await they.call(here, "GET", "/v1/me")).json()
        out = await they.call(here, "DELETE", "/v1/sessions/current")
        after = await they.call(here, "GET", "/v1/me")
        key = await they.with_key(user)
        by_key = (await they.call(key, "GET", "/v1/me")).json()
    assert renamed.json()["name"] == "Ann <b>"
    assert (wrong.status_code, right.status_code) == (401, 200)
    assert gone.status_code == 401
    assert (me["by"], me["csrf"]) == ("session", here.headers[CSRF_HEADER])
    assert 'osslo_session="";' in out.headers["set-cookie"]
    assert "max-age=0" in out.headers["set-cookie"].lower()
    assert after.status_code == 401
    assert (by_key["by"], by_key["csrf"]) == ("key", None)


async def test_links_that_are_not_valid_slow_their_sender_down() -> None:
    async with people() as they:
        await they.make("own", Role.OWNER)
        body = {"token": "made up", "password": PASSWORD}
        statuses = [
            (await they.call(NOBODY, "POST", "/v1/password_resets", json=body)).status_code
            for _ in range(12)
        ]
    assert statuses[:10] == [403] * 10
    assert statuses[10:] == [429, 429]


async def test_rate_limits_are_told_and_kept() -> None:
    async with people() as they:
        ann = await they.make("ann")
        key = await they.with_key(ann, limits=RateLimits(2, 5000))
        other = await they.with_key(ann)
        first = await they.call(key, "POST", CHAT, json=ask(max_tokens=100))
        second = await they.call(key, "POST", CHAT, json=ask(max_tokens=100, n=2))
        third = await they.call(key, "POST", CHAT, json=ask(max_tokens=100))
        free = await they.call(other, "POST", CHAT, json=ask())
        anthropic = await they.call(
            key,
            "POST",
            "/v1/messages",
            json={
                "model": "gpt-oss-20b",
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "x"}],
            },
            headers={"anthropic-version": "2023-06-01"},
        )
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "5000"
    assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 5000
    assert first.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert second.status_code == 200, "two answers to one request are one request"
    assert second.headers["x-ratelimit-remaining-requests"] == "0"
    assert third.status_code == 429
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(third.headers["retry-after"]) >= 1
    assert free.status_code == 200
    assert "x-ratelimit-limit-requests" not in free.headers
    assert anthropic.status_code == 429
    assert anthropic.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert anthropic.headers["anthropic-ratelimit-requests-reset"].endswith("Z")


async def test_a_users_limit_and_the_default_hold_for_all_keys_together() -> None:
    async with people() as they:
        await they.accounts.options.change(
            COMMAND_LINE,
            Options(default_limits=RateLimits(3, None)),
        )
        ann = await they.make("ann")
        keys = [await they.with_key(ann) for _ in range(2)]
        session = await they.in_session(ann)
        statuses = [
            (await they.call(person, "POST", CHAT, json=ask())).status_code
            for person in (*keys, session, keys[0])
        ]
    assert statuses == [200, 200, 200, 429]


async def test_every_answer_tells_browsers_to_be_careful() -> None:
    async with people() as they:
        for path in ("/", "/v1/me", "/v1/prices", "/nowhere", "/docs"):
            headers = (await they.call(NOBODY, "GET", path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
            assert "server" not in headers


async def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with people() as they:
        user = await they.make("ann", Role.ADMIN, password=True)
        signed_in = await sign_in(they, user.email)
        _, token, _ = cookie_of(signed_in)
        csrf = signed_in.json()["csrf"]
        ann = Person(user, {"cookie": f"osslo_session={token}", CSRF_HEADER: csrf})
        await sign_in(they, user.email, "a secret that is wrong")
        made = (await they.call(ann, "POST", "/v1/keys", json={"name": "k"})).json()
        key = made["text"]
        link = (await they.call(ann, "POST", "/v1/invitations", json={})).json()
        bearer = {"authorization": f"Bearer {key}"}
        await they.call(NOBODY, "POST", CHAT, json=ask(), headers=bearer)
        await they.call(NOBODY, "GET", f"/v1/keys/{key}", headers=bearer)
        await they.call(NOBODY, "GET", "/v1/me", headers={"authorization": f"Bearer {key}x"})
        entries = await they.accounts.audit_log(COMMAND_LINE)
    secrets = (PASSWORD, "a secret that is wrong", token, csrf, key, link["token"])
    ours = [r for r in caplog.records if r.name.split(".")[0] in ("osslo", "uvicorn", "fastapi")]
    assert ours
    for secret in secrets:
        assert not any(secret in str(vars(record)) for record in ours)
        assert secret not in str(entries)


@pytest.mark.parametrize("state", list(UserState))
async def test_signing_up_tells_nothing_of_states(state: UserState) -> None:
    async with people() as they:
        await they.make("own", Role.OWNER)
        ann = await they.make("ann")
        await they.accounts.users.set_state(COMMAND_LINE, ann.id, state)
        await they.accounts.options.change(COMMAND_LINE, Options(sign_up=SignUp.OPEN))
        body = {"email": ann.email, "name": "Ann", "password": PASSWORD}
        taken = await they.call(NOBODY, "POST", "/v1/sign_up", json=body)
    assert taken.json()["error"]["code"] == "email_taken"
