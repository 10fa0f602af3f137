"""What accounts hand to other layers: frozen records, and the few words that states are told in.

No record holds a password, a key or a token, nor a hash of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Any


class Role(Enum):
    """What a user may do. Each role may do all that the ones before it may."""

    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"

    def covers(self, least: Role) -> bool:
        """Whether this role is `least` or above."""
        order = tuple(Role)
        return order.index(self) >= order.index(least)


class UserState(Enum):
    """A disabled user can neither sign in nor use a key."""

    ACTIVE = "active"
    DISABLED = "disabled"


class KeyState(Enum):
    """A revoked key never works again."""

    ACTIVE = "active"
    REVOKED = "revoked"


class SpendingPeriod(Enum):
    """After which a key's spending limit begins anew, in UTC: midnight, Monday, the first of the
    month; with NONE it never does."""

    NONE = "none"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class GuardMode(Enum):
    """Which texts of a key's requests are judged by the moderation policy."""

    OFF = "off"
    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"


class LinkKind(Enum):
    """What a one-time link is for."""

    SETUP = "setup"
    RESET = "reset"
    INVITATION = "invitation"


class SignUp(Enum):
    """Who may make an account: everybody, whoever has an invitation, nobody."""

    OPEN = "open"
    INVITATION = "invitation"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests and tokens (prompt and output together) a minute. None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A person who signs in, owns keys and pays. `email` is lower-cased and unique."""

    id: str
    email: str
    name: str
    role: Role
    state: UserState
    limits: RateLimits
    created_at: datetime
    last_sign_in_at: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """One browser's signed-in session."""

    id: str
    user_id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    user_agent: str
    address: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session, whose it is, and the secret that its forms carry against CSRF."""

    user: User
    session: Session
    csrf: str


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What a key may do; everything about it that its owner chooses.

    `models` None allows every model. `networks` are CIDR blocks, none allows every address.
    `guard` None leaves it to the server's setting. A `management` key may call the management API
    with its user's role; any other key only generates, and reads its own account.
    """

    name: str
    expires_at: datetime | None = None
    models: tuple[str, ...] | None = None
    networks: tuple[str, ...] = ()
    guard: GuardMode | None = None
    management: bool = False
    spending_limit_nanousd: int | None = None
    spending_period: SpendingPeriod = SpendingPeriod.NONE
    limits: RateLimits = RateLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it can be shown: `prefix` is the beginning of its text.

    A key that was rotated works until `retires_at`; `rotated_from` is the key that a new one
    replaces.
    """

    id: str
    user_id: str
    prefix: str
    state: KeyState
    rules: KeyRules
    created_at: datetime
    last_used_at: datetime | None
    retires_at: datetime | None
    rotated_from: str | None

    def ends_at(self) -> datetime | None:
        """The moment from which the key no longer works by itself, or None."""
        ends = [moment for moment in (self.rules.expires_at, self.retires_at) if moment]
        return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with its text, which is shown once and kept nowhere."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Who presented a valid key."""

    key: Key
    user: User


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price, in nano-dollars a token, from `valid_from` until `valid_to`.

    The list prices are what is published (1 nano-dollar a token is 0.001 US dollars a million);
    `discount_bp` is in hundredths of a percent. What is charged is rounded down to the nano-dollar.
    The model `*` stands for every model without a price of its own.
    """

    id: str
    model: str
    input_list_nanousd: int
    cached_input_list_nanousd: int
    output_list_nanousd: int
    discount_bp: int
    valid_from: datetime
    valid_to: datetime | None

    @property
    def input_nanousd(self) -> int:
        """What an input token costs."""
        return self._discounted(self.input_list_nanousd)

    @property
    def cached_input_nanousd(self) -> int:
        """What an input token that was found in the prefix cache costs."""
        return self._discounted(self.cached_input_list_nanousd)

    @property
    def output_nanousd(self) -> int:
        """What an output token costs, reasoning included."""
        return self._discounted(self.output_list_nanousd)

    def cost_nanousd(
        self, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int
    ) -> int:
        """The exact cost. `cached_tokens` of the `prompt_tokens` came from the cache;
        `completion_tokens` count reasoning too."""
        fresh = prompt_tokens - cached_tokens
        inputs = fresh * self.input_nanousd + cached_tokens * self.cached_input_nanousd
        return inputs + completion_tokens * self.output_nanousd

    def _discounted(self, list_nanousd: int) -> int:
        return list_nanousd * (10_000 - self.discount_bp) // 10_000


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation to make an account. `email` limits it to one address."""

    id: str
    email: str | None
    role: Role
    invited_by: str | None
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedLink:
    """A one-time secret just made; it is shown once. Osslo sends no e-mail: whoever made the link
    hands it over."""

    kind: LinkKind
    token: str
    expires_at: datetime
    invitation: Invitation | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What owners choose while the server runs; kept in the database.

    `welcome_credit_nanousd` is given to every new user.
    """

    sign_up: SignUp = SignUp.INVITATION
    prices_public: bool = True
    welcome_credit_nanousd: int = 1_000_000_000
    default_limits: RateLimits = RateLimits()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: a user in a session, a user by a management key, the command line on the
    server's own machine, or the server itself."""

    kind: str
    role: Role
    user_id: str | None = None
    key_id: str | None = None
    address: str | None = None


COMMAND_LINE = Actor(kind="cli", role=Role.OWNER)
"""Whoever can run commands on the server's machine owns it."""

SYSTEM = Actor(kind="system", role=Role.OWNER)
"""The server, where nobody asked."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One administrative act. `details` holds no secrets."""

    id: int
    at: datetime
    actor: str
    actor_id: str | None
    act: str
    target: str | None
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: at most `limit` entries after the one called `after`."""

    limit: int = 50
    after: str | None = None
