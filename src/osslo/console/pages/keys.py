"""API keys: list, make, change, rotate, revoke."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import Depends
from starlette.datastructures import FormData
from starlette.responses import Response

from osslo.accounts.records import (
    GuardMode,
    Key,
    KeyRules,
    KeyState,
    NewKey,
    Page,
    RateLimits,
    SpendingPeriod,
)
from osslo.console.routing import page_router
from osslo.console.samples import first_request
from osslo.console.templating import money
from osslo.console.visit import Visit, go, member, text_of
from osslo.errors import OssloError, RequestError

router = page_router()
Member = Annotated[Visit, Depends(member)]

_SHOWN = 200


@router.get("/console/keys")
async def keys_page(here: Member) -> Response:
    """The own keys, and a form for a new one or a change."""
    edited = here.request.query_params.get("edit")
    editing = await here.accounts.keys.get(here.actor, edited) if edited else None
    return await _page(here, show_new="new" in here.request.query_params, editing=editing)


@router.post("/console/keys")
async def add_key(here: Member) -> Response:
    """Make a key; its text is on the page that answers, and nowhere else."""
    form = await here.form()
    try:
        made = await here.accounts.keys.create(here.actor, here.user.id, rules_of(form))
    except OssloError as error:
        return await _page(here, show_new=True, error=error)
    return await _page(here, made=made)


@router.post("/console/keys/revoke")
async def revoke_keys(here: Member) -> Response:
    """Revoke the chosen keys."""
    form = await here.form()
    chosen = [value for value in form.getlist("key") if isinstance(value, str)]
    await here.accounts.keys.revoke(here.actor, chosen)
    return go("/console/keys", done="keys-revoked")


@router.post("/console/keys/{key_id}")
async def change_key(key_id: str, here: Member) -> Response:
    """Change what a key may do."""
    form = await here.form()
    key = await here.accounts.keys.get(here.actor, key_id)
    try:
        rules = _unless_asked_otherwise(rules_of(form), key.rules)
        await here.accounts.keys.change(here.actor, key_id, rules)
    except OssloError as error:
        return await _page(here, editing=key, error=error)
    return go("/console/keys", done="key-changed")


@router.post("/console/keys/{key_id}/rotate")
async def rotate_key(key_id: str, here: Member) -> Response:
    """Replace a key; the old one works a day longer."""
    await here.form()
    try:
        made = await here.accounts.keys.rotate(here.actor, key_id)
    except OssloError as error:
        return await _page(here, error=error)
    return await _page(here, made=made)


@router.post("/console/keys/{key_id}/revoke")
async def revoke_key(key_id: str, here: Member) -> Response:
    """Revoke one key."""
    await here.form()
    await here.accounts.keys.revoke(here.actor, [key_id])
    return go("/console/keys", done="keys-revoked")


async def _page(
    here: Visit,
    *,
    show_new: bool = False,
    editing: Key | None = None,
    made: NewKey | None = None,
    error: OssloError | None = None,
) -> Response:
    page = Page(limit=_SHOWN)
    found = await here.accounts.keys.page(here.actor, page, user_id=here.user.id)
    now = here.accounts.context.now()
    return here.page(
        "keys.html",
        status=error.status if error else 200,
        keys=[_row(key, now) for key in found[:_SHOWN]],
        show_new=show_new,
        editing=editing,
        new_key=made,
        samples=first_request(here, made.text if made else None),
        error=error.message if error else None,
    )


def _row(key: Key, now: datetime) -> dict[str, Any]:
    ends_at = key.ends_at()
    ended = ends_at is not None and ends_at <= now
    if key.state is KeyState.REVOKED:
        state, badge = "revoked", ""
    elif ended:
        state, badge = "expired", ""
    elif key.retires_at is not None:
        state, badge = "being replaced", "warn"
    else:
        state, badge = "active", "good"
    live = key.state is KeyState.ACTIVE and not ended
    return {"key": key, "state": state, "badge": badge, "live": live, "limits": _limits(key.rules)}


def _limits(rules: KeyRules) -> list[str]:
    parts = ["management"] if rules.management else []
    if rules.spending_limit_nanousd is not None:
        period = "" if rules.spending_period is SpendingPeriod.NONE else rules.spending_period.value
        parts.append(f"{money(rules.spending_limit_nanousd)} {period}".strip())
    if rules.limits.requests_per_minute is not None:
        parts.append(f"{rules.limits.requests_per_minute:,} requests/min")
    if rules.limits.tokens_per_minute is not None:
        parts.append(f"{rules.limits.tokens_per_minute:,} tokens/min")
    if rules.expires_at is not None:
        parts.append(f"until {rules.expires_at.date().isoformat()}")
    if rules.models is not None:
        parts += rules.models
    parts += rules.networks
    return parts


def _unless_asked_otherwise(asked: KeyRules, before: KeyRules) -> KeyRules:
    """What was asked for, with what the form cannot say as it was: the right to manage, and the
    moment of a day on which the key ends."""
    expires_at, ends = asked.expires_at, before.expires_at
    if expires_at is not None and ends is not None and expires_at.date() == ends.date():
        expires_at = ends
    return replace(asked, management=before.management, expires_at=expires_at)


# --- the form -----------------------------------------------------------------------------------


def rules_of(form: FormData) -> KeyRules:
    """What the form says a key may do. Raises `RequestError` for a field that cannot be read."""
    return KeyRules(
        name=text_of(form, "name"),
        expires_at=_end_of_day(text_of(form, "expires")),
        models=_list_of(text_of(form, "models")) or None,
        networks=_list_of(text_of(form, "networks")),
        guard=GuardMode(text_of(form, "guard")) if text_of(form, "guard") else None,
        management=text_of(form, "management") == "yes",
        spending_limit_nanousd=dollars_of(text_of(form, "spending"), "The spending limit"),
        spending_period=SpendingPeriod(text_of(form, "period") or "none"),
        limits=RateLimits(
            whole_of(text_of(form, "requests"), "Requests a minute"),
            whole_of(text_of(form, "tokens"), "Tokens a minute"),
        ),
    )


def dollars_of(text: str, what: str) -> int | None:
    """Dollars as nano-dollars, exactly; None for nothing. Raises `RequestError`."""
    if not text:
        return None
    try:
        nanousd = Decimal(text) * 1_000_000_000
    except InvalidOperation:
        raise RequestError(f"{what} must be an amount in dollars, such as 12.50.") from None
    if not nanousd.is_finite() or nanousd != nanousd.to_integral_value():
        raise RequestError(f"{what} has too many decimal places; nine is the most.")
    return int(nanousd)


def whole_of(text: str, what: str) -> int | None:
    """A whole number; None for nothing. Raises `RequestError`."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise RequestError(f"{what} must be a whole number.")
    return int(text)


def _list_of(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _end_of_day(text: str) -> datetime | None:
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise RequestError("The expiry must be a date, such as 2027-01-31.") from None
    return datetime.combine(day, time(23, 59, 59), UTC)
