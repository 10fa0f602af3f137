"""The bodies and queries of the management API, and how they become records."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from osslo.accounts.passwords import MAX_LENGTH
from osslo.accounts.records import (
    GuardMode,
    KeyRules,
    Options,
    Page,
    RateLimits,
    SignUp,
    SpendingPeriod,
)
from osslo.api.accounts.replies import RoleName
from osslo.api.body import StrictSchema
from osslo.api.query import PageQuery

BODY_BYTES = 65_536
"""No body of the management API is longer."""

_FIRST_MOMENT, _LAST_MOMENT = 0, 253_402_300_799  # the years 1970 to 9999
_ID = 200

Email = Field(max_length=400, examples=["ann@example.com"])
Password = Field(max_length=MAX_LENGTH)
Token = Field(max_length=200)
Moment = Field(None, ge=_FIRST_MOMENT, le=_LAST_MOMENT, description="Unix seconds.")


class SignInBody(StrictSchema):
    """What signs in."""

    email: str = Email
    password: str = Password


class SetupBody(StrictSchema):
    """The first owner, by the link that the server printed."""

    token: str = Token
    email: str = Email
    name: str
    password: str = Password


class SignUpBody(StrictSchema):
    """A new account."""

    email: str = Email
    name: str
    password: str = Password
    invitation: str | None = Field(None, max_length=200)


class PasswordBody(StrictSchema):
    """One's own new password."""

    old_password: str = Password
    new_password: str = Password


class PasswordResetBody(StrictSchema):
    """A new password by a reset link."""

    token: str = Token
    password: str = Password


class MeBody(StrictSchema):
    """What one may change about oneself."""

    name: str


class KeyFields(StrictSchema):
    """What a key may do. Fields that are not given keep their value, or their default."""

    name: str | None = None
    expires_at: int | None = Moment
    models: list[str] | None = Field(None, description="Names of models; null allows all.")
    networks: list[str] | None = Field(None, description="CIDR blocks; empty allows all.")
    guard: Literal["off", "input", "output", "both"] | None = None
    management: bool | None = None
    spending_limit_nanousd: int | None = None
    spending_period: Literal["none", "daily", "weekly", "monthly"] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def rules(self, before: KeyRules) -> KeyRules:
        """`before` with what was given."""
        given = self.model_fields_set
        changes: dict[str, Any] = {}
        if self.name is not None:
            changes["name"] = self.name
        if "expires_at" in given:
            changes["expires_at"] = moment(self.expires_at)
        if "models" in given:
            changes["models"] = None if self.models is None else tuple(self.models)
        if self.networks is not None:
            changes["networks"] = tuple(self.networks)
        if "guard" in given:
            changes["guard"] = None if self.guard is None else GuardMode(self.guard)
        if self.management is not None:
            changes["management"] = self.management
        if "spending_limit_nanousd" in given:
            changes["spending_limit_nanousd"] = self.spending_limit_nanousd
        if self.spending_period is not None:
            changes["spending_period"] = SpendingPeriod(self.spending_period)
        changes["limits"] = changed_limits(
            before.limits, given, self.requests_per_minute, self.tokens_per_minute
        )
        return replace(before, **changes)


class KeyBody(KeyFields):
    """A new key. `user_id` is for admins who make one for somebody else."""

    name: str
    user_id: str | None = Field(None, max_length=_ID)


class RotateBody(StrictSchema):
    """How long the old key keeps working."""

    overlap_s: int = Field(86_400, ge=0)


class KeyIdsBody(StrictSchema):
    """Which keys."""

    ids: list[str] = Field(min_length=1, max_length=1000)


class UserBody(StrictSchema):
    """A new user. Without a password, send the user a reset link."""

    email: str = Email
    name: str
    password: str | None = Field(None, max_length=MAX_LENGTH)
    role: RoleName = "member"


class UserChangeBody(StrictSchema):
    """What is changed about a user; what is not given stays."""

    name: str | None = None
    role: RoleName | None = None
    state: Literal["active", "disabled"] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class InvitationBody(StrictSchema):
    """An invitation. With `email` only that address can use it."""

    email: str | None = Field(None, max_length=400)
    role: RoleName = "member"


class PriceBody(StrictSchema):
    """A model's new list price in nano-dollars a token (100 is 0.10 US dollars a million), its
    discount in hundredths of a percent (2000 is 20%), and for how long it holds."""

    model: str = Field(description="A model's name, or * for all without a price of their own.")
    input_list_nanousd: int
    cached_input_list_nanousd: int | None = None
    output_list_nanousd: int
    discount_bp: int = 0
    valid_from: int | None = Moment
    valid_to: int | None = Moment


class SettingsBody(StrictSchema):
    """What is changed of the settings; what is not given stays."""

    sign_up: Literal["open", "invitation", "closed"] | None = None
    prices_public: bool | None = None
    welcome_credit_nanousd: int | None = None
    default_requests_per_minute: int | None = None
    default_tokens_per_minute: int | None = None

    def options(self, before: Options) -> Options:
        """`before` with what was given."""
        given = self.model_fields_set
        limits = changed_limits(
            before.default_limits,
            {name.removeprefix("default_") for name in given},
            self.default_requests_per_minute,
            self.default_tokens_per_minute,
        )
        changes: dict[str, Any] = {"default_limits": limits}
        if self.sign_up is not None:
            changes["sign_up"] = SignUp(self.sign_up)
        for name in ("prices_public", "welcome_credit_nanousd"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return replace(before, **changes)


class KeysQuery(PageQuery):
    """Whose keys. Admins see everybody's without `user_id`."""

    user_id: str | None = Field(None, max_length=_ID)


class UsersQuery(PageQuery):
    """Which users."""

    search: str | None = Field(None, max_length=200, description="Part of an address or name.")


class PricesQuery(StrictSchema):
    """Which prices."""

    all: bool = Field(False, description="Past and planned ones too.")


class AuditQuery(StrictSchema):
    """Which acts."""

    limit: int = Field(100, ge=1, le=1000)
    after: str | None = Field(
        None, pattern=r"^[0-9]{1,18}$", description="The id that the page follows."
    )
    act: str | None = Field(None, max_length=64)
    actor_id: str | None = Field(None, max_length=_ID)
    target: str | None = Field(None, max_length=254)


def page_of(query: PageQuery) -> Page:
    """The part of a list that a query asks for."""
    return Page(query.limit, query.after)


def moment(seconds: int | None) -> datetime | None:
    """Unix seconds as a moment."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def changed_limits(
    before: RateLimits, given: set[str], requests: int | None, tokens: int | None
) -> RateLimits:
    """`before` with the limits whose names were given; null takes one away."""
    return RateLimits(
        requests if "requests_per_minute" in given else before.requests_per_minute,
        tokens if "tokens_per_minute" in given else before.tokens_per_minute,
    )
