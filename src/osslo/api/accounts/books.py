"""What the routes of the ledger share: the ledger itself, and whose money and usage one may see."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from osslo.accounts.ledger.service import Ledger
from osslo.accounts.records import Role
from osslo.api.services import services_of
from osslo.api.sessions import Principal
from osslo.errors import NotFoundError, PermissionDeniedError


def ledger_of(request: Request) -> Ledger:
    """The ledger. Raises `NotFoundError` where the server runs without."""
    ledger = services_of(request).ledger
    if ledger is None:
        raise NotFoundError("This server runs without accounts.", code="no_accounts")
    return ledger


WithLedger = Annotated[Ledger, Depends(ledger_of)]


def sees_all(who: Principal) -> bool:
    """Whether one sees everybody's: admins and owners do, in a session or by a management key."""
    return who.actor.role.covers(Role.ADMIN)


def check_sees(who: Principal, user_id: str) -> None:
    """Raise `PermissionDeniedError` unless one may see this user's."""
    if user_id != who.user.id and not sees_all(who):
        raise PermissionDeniedError(
            "This takes the role admin: members see their own usage and balance only.",
            param="user_id",
        )
