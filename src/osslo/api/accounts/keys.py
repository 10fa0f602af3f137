"""API keys over HTTP. Members manage their own; admins everybody's."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from osslo.accounts.records import KeyRules, Role
from osslo.api.accounts import replies
from osslo.api.accounts.replies import KeyReply, NewKeyReply
from osslo.api.accounts.requests import (
    BODY_BYTES,
    KeyBody,
    KeyFields,
    KeyIdsBody,
    KeysQuery,
    RotateBody,
    page_of,
)
from osslo.api.body import read_json
from osslo.api.openapi import operation
from osslo.api.query import read_query
from osslo.api.sessions import Member, WithAccounts
from osslo.api.shapes import Page

router = APIRouter(tags=["keys"])

_ERRORS = (400, 401, 403, 404, 409, 429, 500)
_NO_STORE = {"cache-control": "no-store"}


@router.get(
    "/v1/keys",
    summary="List keys",
    openapi_extra=operation(query=KeysQuery, reply=Page[KeyReply]),
)
async def list_keys(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """Newest first, revoked ones too."""
    query = read_query(request, KeysQuery)
    user_id = query.user_id
    if user_id is None and not who.actor.role.covers(Role.ADMIN):
        user_id = who.user.id
    keys = await accounts.keys.page(who.actor, page_of(query), user_id=user_id)
    return JSONResponse(replies.listed(keys, query.limit, replies.key))


@router.post(
    "/v1/keys",
    summary="Make a key",
    openapi_extra=operation(
        body=KeyBody, reply=NewKeyReply, status=201, errors=_ERRORS, example={"name": "laptop"}
    ),
)
async def create_key(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """The key's text is in the answer, and shown nowhere again."""
    body = await read_json(request, KeyBody, limit_bytes=BODY_BYTES)
    rules = body.rules(KeyRules(name=body.name))
    made = await accounts.keys.create(who.actor, body.user_id or who.user.id, rules)
    return JSONResponse(replies.new_key(made), 201, headers=_NO_STORE)


@router.post(
    "/v1/keys/revoke",
    summary="Revoke keys",
    openapi_extra=operation(
        body=KeyIdsBody,
        reply=Page[KeyReply],
        errors=_ERRORS,
        example={"ids": ["key_0123456789abcdef01234567"]},
    ),
)
async def revoke_keys(request: Request, who: Member, accounts: WithAccounts) -> JSONResponse:
    """All of them or, if one cannot be revoked, none."""
    body = await read_json(request, KeyIdsBody, limit_bytes=BODY_BYTES)
    keys = await accounts.keys.revoke(who.actor, list(dict.fromkeys(body.ids)))
    return JSONResponse(replies.listed(keys, len(keys), replies.key))


@router.get("/v1/keys/{key_id}", summary="One key", openapi_extra=operation(reply=KeyReply))
async def get_key(key_id: str, who: Member, accounts: WithAccounts) -> JSONResponse:
    """What it may do, and when it was last used."""
    return JSONResponse(replies.key(await accounts.keys.get(who.actor, key_id)))


@router.patch(
    "/v1/keys/{key_id}",
    summary="Change a key",
    openapi_extra=operation(
        body=KeyFields, reply=KeyReply, errors=_ERRORS, example={"requests_per_minute": 60}
    ),
)
async def change_key(
    key_id: str, request: Request, who: Member, accounts: WithAccounts
) -> JSONResponse:
    """What is not given stays; its text stays too."""
    body = await read_json(request, KeyFields, limit_bytes=BODY_BYTES)
    before = await accounts.keys.get(who.actor, key_id)
    key = await accounts.keys.change(who.actor, key_id, body.rules(before.rules))
    return JSONResponse(replies.key(key))


@router.delete("/v1/keys/{key_id}", summary="Revoke a key", openapi_extra=operation(reply=KeyReply))
async def revoke_key(key_id: str, who: Member, accounts: WithAccounts) -> JSONResponse:
    """It stops working on every server within a second, and stays listed."""
    (key,) = await accounts.keys.revoke(who.actor, [key_id])
    return JSONResponse(replies.key(key))


@router.post(
    "/v1/keys/{key_id}/rotate",
    summary="Rotate a key",
    openapi_extra=operation(
        body=RotateBody,
        reply=NewKeyReply,
        status=201,
        errors=_ERRORS,
        example={"overlap_s": 86_400},
    ),
)
async def rotate_key(
    key_id: str, request: Request, who: Member, accounts: WithAccounts
) -> JSONResponse:
    """A new key with the same rules; the old one keeps working for `overlap_s` seconds."""
    body = await read_json(request, RotateBody, limit_bytes=BODY_BYTES)
    made = await accounts.keys.rotate(who.actor, key_id, overlap_s=body.overlap_s)
    return JSONResponse(replies.new_key(made), 201, headers=_NO_STORE)
