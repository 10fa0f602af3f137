"""The shapes that the management API answers with, and how records become them.

Lists have OpenAI's shape. Times are Unix seconds, as everywhere in OpenAI's APIs; money is integer
nano-dollars, in fields whose names say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from osslo.accounts.records import (
    AuditEntry,
    Invitation,
    IssuedLink,
    Key,
    LinkKind,
    NewKey,
    Options,
    Price,
    RateLimits,
    Session,
    SignedIn,
    User,
)
from osslo.api.shapes import Reply

R = TypeVar("R")

_LINK_PATHS = {
    LinkKind.SETUP: "/console/setup?token=",
    LinkKind.RESET: "/console/reset?token=",
    LinkKind.INVITATION: "/console/sign-up?invitation=",
}

RoleName = Literal["member", "admin", "owner"]


class LimitsReply(Reply):
    """Limits a minute; null is none."""

    requests_per_minute: int | None
    tokens_per_minute: int | None


class UserReply(Reply):
    """A user."""

    object: Literal["user"]
    id: str
    email: str
    name: str
    role: RoleName
    state: Literal["active", "disabled"]
    limits: LimitsReply
    created_at: int
    last_sign_in_at: int | None


class SessionReply(Reply):
    """A signed-in browser."""

    object: Literal["session"]
    id: str
    created_at: int
    last_seen_at: int
    expires_at: int
    user_agent: str
    address: str


class SignedInReply(Reply):
    """Who is signed in. `csrf` goes into the header `x-csrf-token` of every request that changes
    something by the session's cookie."""

    object: Literal["signed_in"]
    user: UserReply
    session: SessionReply
    csrf: str


class MeReply(Reply):
    """Who calls."""

    object: Literal["me"]
    user: UserReply
    by: Literal["session", "key"]
    key_id: str | None
    csrf: str | None


class KeyReply(Reply):
    """A key. Its text is shown once, when it is made."""

    object: Literal["key"]
    id: str
    user_id: str
    name: str
    prefix: str
    state: Literal["active", "revoked"]
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    retires_at: int | None
    rotated_from: str | None
    models: list[str] | None
    networks: list[str]
    guard: Literal["off", "input", "output", "both"] | None
    management: bool
    spending_limit_nanousd: int | None
    spending_period: Literal["none", "daily", "weekly", "monthly"]
    limits: LimitsReply


class NewKeyReply(Reply):
    """A key just made, with its text: keep it now, it is never shown again."""

    object: Literal["new_key"]
    key: KeyReply
    text: str


class InvitationReply(Reply):
    """An invitation, without its link."""

    object: Literal["invitation"]
    id: str
    email: str | None
    role: RoleName
    invited_by: str | None
    created_at: int
    expires_at: int
    used_at: int | None


class LinkReply(Reply):
    """A one-time link, shown once. Osslo sends no e-mail: hand it over yourself."""

    object: Literal["one_time_link"]
    kind: Literal["setup", "reset", "invitation"]
    token: str
    url: str
    expires_at: int
    invitation: InvitationReply | None


class PriceReply(Reply):
    """A model's price in nano-dollars a token; times a thousandth it is US dollars a million."""

    object: Literal["price"]
    id: str
    model: str
    input_nanousd: int
    cached_input_nanousd: int
    output_nanousd: int
    input_list_nanousd: int
    cached_input_list_nanousd: int
    output_list_nanousd: int
    discount_bp: int
    valid_from: int
    valid_to: int | None


class SettingsReply(Reply):
    """What owners choose while the server runs."""

    object: Literal["settings"]
    sign_up: Literal["open", "invitation", "closed"]
    prices_public: bool
    welcome_credit_nanousd: int
    default_limits: LimitsReply


class AuditReply(Reply):
    """One administrative act."""

    object: Literal["audit_entry"]
    id: str
    at: int
    actor: str
    actor_id: str | None
    act: str
    target: str | None
    details: dict[str, Any]
    address: str | None


class CountReply(Reply):
    """How many things an act concerned."""

    object: Literal["count"]
    count: int


class DoneReply(Reply):
    """It is done, and there is nothing more to say."""

    object: Literal["done"]


def link_url(base: str, issued: IssuedLink) -> str:
    """The address at which a one-time link is used, in the console of the server at `base`."""
    return base.rstrip("/") + _LINK_PATHS[issued.kind] + quote(issued.token, safe="")


def listed(
    entries: Sequence[R], limit: int, reply: Callable[[R], dict[str, Any]], name: str = "id"
) -> dict[str, Any]:
    """A page of OpenAI's lists. `entries` holds one more than `limit` if there are more."""
    data = [reply(entry) for entry in entries[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0][name] if data else None,
        "last_id": data[-1][name] if data else None,
        "has_more": len(entries) > limit,
    }


def user(record: User) -> dict[str, Any]:
    """A user as `UserReply`."""
    return {
        "object": "user",
        "id": record.id,
        "email": record.email,
        "name": record.name,
        "role": record.role.value,
        "state": record.state.value,
        "limits": _limits(record.limits),
        "created_at": _unix(record.created_at),
        "last_sign_in_at": _unix_or_none(record.last_sign_in_at),
    }


def session(record: Session) -> dict[str, Any]:
    """A session as `SessionReply`."""
    return {
        "object": "session",
        "id": record.id,
        "created_at": _unix(record.created_at),
        "last_seen_at": _unix(record.last_seen_at),
        "expires_at": _unix(record.expires_at),
        "user_agent": record.user_agent,
        "address": record.address,
    }


def signed_in(record: SignedIn) -> dict[str, Any]:
    """A new session as `SignedInReply`; its token goes into the cookie only."""
    return {
        "object": "signed_in",
        "user": user(record.user),
        "session": session(record.session),
        "csrf": record.csrf,
    }


def key(record: Key) -> dict[str, Any]:
    """A key as `KeyReply`."""
    rules = record.rules
    return {
        "object": "key",
        "id": record.id,
        "user_id": record.user_id,
        "name": rules.name,
        "prefix": record.prefix,
        "state": record.state.value,
        "created_at": _unix(record.created_at),
        "last_used_at": _unix_or_none(record.last_used_at),
        "expires_at": _unix_or_none(rules.expires_at),
        "retires_at": _unix_or_none(record.retires_at),
        "rotated_from": record.rotated_from,
        "models": None if rules.models is None else list(rules.models),
        "networks": list(rules.networks),
        "guard": None if rules.guard is None else rules.guard.value,
        "management": rules.management,
        "spending_limit_nanousd": rules.spending_limit_nanousd,
        "spending_period": rules.spending_period.value,
        "limits": _limits(rules.limits),
    }


def new_key(record: NewKey) -> dict[str, Any]:
    """A new key as `NewKeyReply`."""
    return {"object": "new_key", "key": key(record.key), "text": record.text}


def invitation(record: Invitation) -> dict[str, Any]:
    """An invitation as `InvitationReply`."""
    return {
        "object": "invitation",
        "id": record.id,
        "email": record.email,
        "role": record.role.value,
        "invited_by": record.invited_by,
        "created_at": _unix(record.created_at),
        "expires_at": _unix(record.expires_at),
        "used_at": _unix_or_none(record.used_at),
    }


def link(record: IssuedLink, base: str) -> dict[str, Any]:
    """A link as `LinkReply`, for the server at `base`."""
    return {
        "object": "one_time_link",
        "kind": record.kind.value,
        "token": record.token,
        "url": link_url(base, record),
        "expires_at": _unix(record.expires_at),
        "invitation": invitation(record.invitation) if record.invitation else None,
    }


def price(record: Price) -> dict[str, Any]:
    """A price as `PriceReply`."""
    return {
        "object": "price",
        "id": record.id,
        "model": record.model,
        "input_nanousd": record.input_nanousd,
        "cached_input_nanousd": record.cached_input_nanousd,
        "output_nanousd": record.output_nanousd,
        "input_list_nanousd": record.input_list_nanousd,
        "cached_input_list_nanousd": record.cached_input_list_nanousd,
        "output_list_nanousd": record.output_list_nanousd,
        "discount_bp": record.discount_bp,
        "valid_from": _unix(record.valid_from),
        "valid_to": _unix_or_none(record.valid_to),
    }


def options(record: Options) -> dict[str, Any]:
    """The options as `SettingsReply`."""
    return {
        "object": "settings",
        "sign_up": record.sign_up.value,
        "prices_public": record.prices_public,
        "welcome_credit_nanousd": record.welcome_credit_nanousd,
        "default_limits": _limits(record.default_limits),
    }


def audit_entry(record: AuditEntry) -> dict[str, Any]:
    """An act as `AuditReply`."""
    return {
        "object": "audit_entry",
        "id": str(record.id),
        "at": _unix(record.at),
        "actor": record.actor,
        "actor_id": record.actor_id,
        "act": record.act,
        "target": record.target,
        "details": dict(record.details),
        "address": record.address,
    }


def _limits(limits: RateLimits) -> dict[str, int | None]:
    return {
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
    }


def _unix(moment: datetime) -> int:
    return int(moment.timestamp())


def _unix_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _unix(moment)
