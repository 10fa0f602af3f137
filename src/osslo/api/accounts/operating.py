"""Prices, settings and the audit log over HTTP: what operators look after."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from osslo.accounts.records import Role
from osslo.api.accounts import replies
from osslo.api.accounts.replies import AuditReply, DoneReply, PriceReply, SettingsReply
from osslo.api.accounts.requests import (
    BODY_BYTES,
    AuditQuery,
    PriceBody,
    PricesQuery,
    SettingsBody,
    moment,
)
from osslo.api.body import read_json
from osslo.api.openapi import operation
from osslo.api.query import read_query
from osslo.api.sessions import Admin, Owner, WithAccounts, anyone, requires
from osslo.api.shapes import Page

router = APIRouter(tags=["operating"])

_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_reader = requires(Role.MEMBER, any_key=True)


@router.get(
    "/v1/prices",
    summary="List prices",
    dependencies=[Depends(anyone)],
    openapi_extra=operation(query=PricesQuery, reply=Page[PriceReply], public=True),
)
async def list_prices(request: Request, accounts: WithAccounts) -> JSONResponse:
    """What holds now, by model. Public unless an owner chose otherwise; then it takes a session or
    a key."""
    query = read_query(request, PricesQuery)
    if not (await accounts.keyring.options()).prices_public:
        await _reader(request)
    prices = await (accounts.prices.every() if query.all else accounts.prices.current())
    return JSONResponse(replies.listed(prices, len(prices), replies.price))


@router.post(
    "/v1/prices",
    summary="Set a price",
    openapi_extra=operation(
        body=PriceBody,
        reply=PriceReply,
        status=201,
        errors=_ERRORS,
        example={"model": "gpt-oss-20b", "input_list_nanousd": 50, "output_list_nanousd": 200},
    ),
)
async def set_price(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """The model's price that held until then ends. Requests that run keep the price that they began
    with."""
    body = await read_json(request, PriceBody, limit_bytes=BODY_BYTES)
    price = await accounts.prices.set(
        who.actor,
        body.model,
        input_list_nanousd=body.input_list_nanousd,
        cached_input_list_nanousd=body.cached_input_list_nanousd,
        output_list_nanousd=body.output_list_nanousd,
        discount_bp=body.discount_bp,
        valid_from=moment(body.valid_from),
        valid_to=moment(body.valid_to),
    )
    return JSONResponse(replies.price(price), 201)


@router.delete(
    "/v1/prices/{model:path}",
    summary="End a model's price",
    openapi_extra=operation(reply=DoneReply, errors=_ERRORS),
)
async def end_price(model: str, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """The price of `*` then holds for the model."""
    await accounts.prices.end(who.actor, model)
    return JSONResponse({"object": "done"})


@router.get("/v1/settings", summary="The settings", openapi_extra=operation(reply=SettingsReply))
async def get_settings(who: Admin, accounts: WithAccounts) -> JSONResponse:  # noqa: ARG001 - who may
    """What owners choose while the server runs."""
    return JSONResponse(replies.options(await accounts.options.get()))


@router.patch(
    "/v1/settings",
    summary="Change the settings",
    openapi_extra=operation(
        body=SettingsBody, reply=SettingsReply, example={"sign_up": "invitation"}
    ),
)
async def change_settings(request: Request, who: Owner, accounts: WithAccounts) -> JSONResponse:
    """What is not given stays."""
    body = await read_json(request, SettingsBody, limit_bytes=BODY_BYTES)
    options = body.options(await accounts.options.get())
    return JSONResponse(replies.options(await accounts.options.change(who.actor, options)))


@router.get(
    "/v1/audit_log",
    summary="The audit log",
    openapi_extra=operation(query=AuditQuery, reply=Page[AuditReply]),
)
async def audit_log(request: Request, who: Admin, accounts: WithAccounts) -> JSONResponse:
    """Administrative acts, newest first."""
    query = read_query(request, AuditQuery)
    entries = await accounts.audit_log(
        who.actor,
        limit=query.limit,
        before=int(query.after) if query.after is not None else None,
        act=query.act,
        actor_id=query.actor_id,
        target=query.target,
    )
    return JSONResponse(replies.listed(entries, query.limit, replies.audit_entry))
