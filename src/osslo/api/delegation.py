"""How the worker acts for the owner of a batch: a secret that lives as long as this process.

The worker sends `x-osslo-job: SECRET JOB`. The secret goes to it through a pipe, never through
arguments, the environment or a file. Whose job it is comes from the database, not from the request,
and the key ring says what that owner may do now. A request that did not start on this machine is
refused even with the secret, and so is every request where no worker was started.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import replace

from fastapi import Request

from osslo.api.auth import Caller, KeyRing
from osslo.errors import AuthenticationError
from osslo.store.batches import BatchStore
from osslo.store.jobs import JOB_HEADER

OwnerOf = Callable[[str], Awaitable[Caller | None]]
"""The owner of an unfinished job, by the id that the worker names; None if there is none."""


def batch_owners(store: BatchStore) -> OwnerOf:
    """Finds the owners of batches that have not ended."""

    async def owner_of(batch_id: str) -> Caller | None:
        batch = await store.find(batch_id)
        if batch is None or batch.ended:
            return None
        return Caller(tenant=batch.tenant, user_id=batch.user_id, key_id=batch.key_id)

    return owner_of


_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class NoDelegation:
    """Nobody acts for anybody."""

    async def caller(self, request: Request) -> Caller:  # noqa: ARG002 - the interface's
        raise _refused()


class WorkerDelegation:
    """Accepts the worker that holds `secret`."""

    def __init__(self, secret: str, owner_of: OwnerOf, keys: KeyRing) -> None:
        self._secret = secret.encode()
        self._owner_of = owner_of
        self._keys = keys

    async def caller(self, request: Request) -> Caller:
        presented, _, job = request.headers[JOB_HEADER].partition(" ")
        known = hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._secret)
        if not (known and job and _is_local(request)):
            raise _refused()
        owner = await self._owner_of(job)
        caller = None if owner is None else await self._keys.again(owner)
        if caller is None:
            raise AuthenticationError(
                "The key that this batch was made with is no longer valid.", code="key_revoked"
            )
        return replace(caller, background=True)


def _refused() -> AuthenticationError:
    return AuthenticationError(
        f"The header {JOB_HEADER} is for this server's own worker; send your key as "
        "'Authorization: Bearer YOUR_KEY'."
    )


def _is_local(request: Request) -> bool:
    """The connection was made on this machine: from a loopback address, or from the very address
    that it was made to, and no proxy says that it passed it on."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    server = request.scope.get("server")
    if server is not None and request.client.host == server[0]:
        return True
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
