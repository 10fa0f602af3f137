"""Balances, payments and the usage log over HTTP.

`POST /v1/users/{user_id}/payments` is where payment systems come in: whoever receives their
notifications calls it with a management key of an admin, and the notification's id as
`idempotency_key`, so that one that arrives twice counts once.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from osslo.accounts.ledger.reading import UsageFilter
from osslo.accounts.permissions import check_manages
from osslo.accounts.records import Role
from osslo.api.accounts import replies
from osslo.api.accounts.books import WithLedger, check_sees, sees_all
from osslo.api.accounts.requests import BODY_BYTES, Moment, moment
from osslo.api.accounts.usage_export import download, usage_row
from osslo.api.body import StrictSchema, read_json
from osslo.api.openapi import operation
from osslo.api.query import PageQuery, read_query
from osslo.api.sessions import Admin, MemberReading, Principal, WithAccounts
from osslo.api.shapes import Page, Reply

router = APIRouter(tags=["usage"])

_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_ID = 200


class BalanceQuery(StrictSchema):
    """Whose balance; one's own unless told."""

    user_id: str | None = Field(None, max_length=_ID)


class BalanceReply(Reply):
    """What can be spent, and what running requests have put aside besides."""

    object: Literal["balance"]
    user_id: str
    balance_nanousd: int
    reserved_nanousd: int


class PaymentBody(StrictSchema):
    """Money that comes in or, where it is negative, goes back. `idempotency_key` is the payment's
    own name, such as the id of the notification that told of it."""

    amount_nanousd: int = Field(description="1000000000 is one US dollar.")
    idempotency_key: str = Field(min_length=1, max_length=120)
    note: str | None = Field(None, max_length=500)


class PaymentReply(Reply):
    """What a payment did. `new` is false if it had been told before, and counted then."""

    object: Literal["payment"]
    user_id: str
    amount_nanousd: int
    balance_nanousd: int
    new: bool


class FilterQuery(StrictSchema):
    """Which requests. Admins see everybody's without `user_id`."""

    user_id: str | None = Field(None, max_length=_ID)
    key_id: str | None = Field(None, max_length=_ID)
    model: str | None = Field(None, max_length=_ID)
    since: int | None = Moment
    until: int | None = Moment
    failed: bool | None = Field(None, description="Only what failed, or only what did not.")

    def wanted(self, who: Principal) -> UsageFilter:
        """The same for the ledger. Raises `PermissionDeniedError` for somebody else's."""
        if self.user_id is not None:
            check_sees(who, self.user_id)
        return UsageFilter(
            user_id=self.user_id or (None if sees_all(who) else who.user.id),
            since=moment(self.since),
            until=moment(self.until),
            key_id=self.key_id,
            model=self.model,
            failed=self.failed,
        )


class UsageLogQuery(FilterQuery, PageQuery):
    """Which requests, and which part of the list."""


class UsageExportQuery(FilterQuery):
    """Which requests, and in which form."""

    format: Literal["csv", "json"] = "csv"


class UsageRowReply(Reply):
    """One request that has ended: what it used, what it cost, how long it took. Of its text nothing
    is kept."""

    at: str
    id: str
    request_id: str
    user_id: str
    key_id: str
    model: str
    protocol: str
    batch: bool
    status: Literal["completed", "length", "failed", "cancelled", "refused", "crashed"]
    error: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nanousd: int
    first_token_ms: float | None
    duration_ms: float | None
    tokens_per_second: float | None


@router.get(
    "/v1/balance",
    summary="A balance",
    openapi_extra=operation(query=BalanceQuery, reply=BalanceReply),
)
async def balance(request: Request, who: MemberReading, ledger: WithLedger) -> JSONResponse:
    """One's own; admins may ask for anybody's."""
    user_id = read_query(request, BalanceQuery).user_id or who.user.id
    check_sees(who, user_id)
    account = (await ledger.reader.accounts([user_id])).get(user_id)
    reply = {
        "object": "balance",
        "user_id": user_id,
        "balance_nanousd": account.balance_nanousd if account else 0,
        "reserved_nanousd": account.reserved_nanousd if account else 0,
    }
    return JSONResponse(reply)


@router.post(
    "/v1/users/{user_id}/payments",
    summary="Record a payment",
    openapi_extra=operation(
        body=PaymentBody,
        reply=PaymentReply,
        errors=_ERRORS,
        example={"amount_nanousd": 5_000_000_000, "idempotency_key": "evt_1", "note": "card"},
    ),
)
async def pay(
    user_id: str, request: Request, who: Admin, accounts: WithAccounts, ledger: WithLedger
) -> JSONResponse:
    """Adds to a user's balance, once for each `idempotency_key`: the hook for payment systems."""
    body = await read_json(request, PaymentBody, limit_bytes=BODY_BYTES)
    user = await accounts.users.get(who.actor, user_id)
    if who.actor.role is not Role.OWNER and user.id != who.user.id:
        check_manages(who.actor, user)
    posted = await ledger.top_up(
        who.actor,
        user.id,
        body.amount_nanousd,
        note=body.note,
        idempotency_key=body.idempotency_key,
    )
    reply = {
        "object": "payment",
        "user_id": user.id,
        "amount_nanousd": body.amount_nanousd,
        "balance_nanousd": posted.balance_nanousd,
        "new": posted.new,
    }
    return JSONResponse(reply)


@router.get(
    "/v1/usage",
    summary="The usage log",
    openapi_extra=operation(query=UsageLogQuery, reply=Page[UsageRowReply]),
)
async def usage_log(request: Request, who: MemberReading, ledger: WithLedger) -> JSONResponse:
    """Requests that have ended, newest first."""
    query = read_query(request, UsageLogQuery)
    found = await ledger.reader.usage(query.wanted(who), limit=query.limit, after=query.after)
    return JSONResponse(replies.listed(found, query.limit, usage_row))


@router.get(
    "/v1/usage/export",
    summary="The usage log, whole",
    openapi_extra=operation(
        query=UsageExportQuery, media={"text/csv": None, "application/json": None}
    ),
)
async def export_usage(request: Request, who: MemberReading, ledger: WithLedger) -> Response:
    """All requests that the filters let through, as CSV or as one JSON array."""
    query = read_query(request, UsageExportQuery)
    return download(ledger.reader, query.wanted(who), query.format)
