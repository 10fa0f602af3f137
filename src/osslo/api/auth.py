"""Who calls: the key of a request, or the session of a browser. A `KeyRing` says whose it is."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from osslo.api.client_address import Proxies
from osslo.chat.moderation import GuardMode
from osslo.errors import AuthenticationError
from osslo.store.jobs import JOB_HEADER

bearer_scheme = HTTPBearer(auto_error=False, description="Authorization: Bearer sk-…")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    `tenant` is the unit of fairness, of cache isolation and of ownership of what is stored.
    `user_id` and `key_id` are None where there are no accounts. `models` limits the models that
    the key may name; None allows all. `guard` is what a judge looks at of the key's requests; None
    takes the server's setting. A `background` caller gives way to whoever waits for an answer.
    """

    tenant: str
    user_id: str | None = None
    key_id: str | None = None
    models: frozenset[str] | None = None
    guard: GuardMode | None = None
    background: bool = False


class KeyRing(Protocol):
    """Knows the keys."""

    async def identify(self, key: str, *, address: str | None = None) -> Caller | None:
        """Whose `key` is, or None. Takes the same time for every wrong key of a length. Raises
        `RequestError` where a known key may not be used (any more, or from `address`)."""
        ...

    async def of_session(self, request: Request) -> Caller | None:
        """The user who is signed in by the browser's cookie, or None. Raises
        `PermissionDeniedError` for a request that another site may have forged."""
        ...

    async def again(self, caller: Caller) -> Caller | None:
        """The caller who asked for a background job earlier, with what their key allows now; None
        if it was revoked meanwhile. Only `tenant`, `user_id` and `key_id` of `caller` are known."""
        ...


class SingleKeyRing:
    """One key for everybody."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def identify(
        self,
        key: str,
        *,
        address: str | None = None,  # noqa: ARG002 - the interface's
    ) -> Caller | None:
        matches = hmac.compare_digest(key.encode("utf-8", "surrogateescape"), self._key)
        return Caller(tenant="default") if matches else None

    async def of_session(self, request: Request) -> Caller | None:  # noqa: ARG002 - as above
        return None

    async def again(self, caller: Caller) -> Caller | None:
        return caller if caller.key_id is None else None


class Delegation(Protocol):
    """Lets the worker act as the owner of a job."""

    async def caller(self, request: Request) -> Caller:
        """The owner of the job that `request` names. Raises `AuthenticationError`."""
        ...


def presented_key(headers: Headers) -> str:
    """The key of a request, empty if there is none: a Bearer token, else Anthropic's `x-api-key`.
    Whatever the path, both work; a Bearer token comes first."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or headers.get("x-api-key", "").strip()


async def require_caller(request: Request) -> Caller:
    """The caller, from the key that the request presents, else from the browser's session. Raises
    `AuthenticationError`."""
    if JOB_HEADER in request.headers:
        return await cast(Delegation, request.app.state.services.delegation).caller(request)
    keys = cast(KeyRing, request.app.state.services.keys)
    key = presented_key(request.headers)
    if not key:
        signed_in = await keys.of_session(request)
        if signed_in is not None:
            return signed_in
        raise AuthenticationError(
            "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY', or as "
            "'x-api-key: YOUR_KEY'.",
            code="missing_api_key",
        )
    address = cast(Proxies, request.app.state.services.proxies).address(request)
    caller = await keys.identify(key, address=address)
    if caller is None:
        raise AuthenticationError(
            "Incorrect API key provided. Use one that you made in the console or by `osslo keys "
            "create`; without accounts, the one that the server printed when it started."
        )
    return caller


WithCaller = Annotated[Caller, Depends(require_caller)]
