"""The settings that owners change while the server runs, kept in the database as one row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osslo.accounts.context import Context
from osslo.accounts.fields import amount_of, limits_of
from osslo.accounts.permissions import check_least
from osslo.accounts.records import Actor, Options, RateLimits, Role, SignUp
from osslo.accounts.repository import settings
from osslo.errors import ConfigurationError

_PEPPER = "pepper_fingerprint"


class OptionsService:
    """Reads and changes the options."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self) -> Options:
        """The options as they are now."""
        async with self._context.database.read() as session:
            return options_from(await settings.every(session))

    async def change(self, actor: Actor, options: Options) -> Options:
        """Set the options. Only owners may."""
        check_least(actor, Role.OWNER)
        limits_of(options.default_limits)
        amount_of(options.welcome_credit_nanousd, param="welcome_credit_nanousd")
        values = _plain(options)
        async with self._context.change() as session:
            before = _plain(options_from(await settings.every(session)))
            changed = {key: value for key, value in values.items() if value != before[key]}
            for key, value in changed.items():
                await settings.put(session, key, value)
            if changed:
                await self._context.note(session, actor, "settings.change", None, **changed)
        return options

    async def check_pepper(self) -> None:
        """Raise `ConfigurationError` if this database's keys were made with another pepper, which
        would make every key wrong without a word."""
        ours = self._context.pepper.fingerprint()
        async with self._context.database.write() as session:
            known = (await settings.every(session)).get(_PEPPER)
            if known is None:
                await settings.put(session, _PEPPER, ours)
        if known not in (None, ours):
            raise ConfigurationError(
                "the keys in this database were made with another pepper; every server on it needs "
                "the same OSSLO_KEY_PEPPER, or the same pepper file in its home folder",
                param="key_pepper",
            )


def options_from(stored: Mapping[str, Any]) -> Options:
    """Options from stored rows; what was never set has its default."""
    values = _plain(Options()) | dict(stored)
    return Options(
        sign_up=SignUp(values["sign_up"]),
        prices_public=values["prices_public"],
        welcome_credit_nanousd=values["welcome_credit_nanousd"],
        default_limits=RateLimits(
            values["default_requests_per_minute"], values["default_tokens_per_minute"]
        ),
    )


def _plain(options: Options) -> dict[str, Any]:
    return {
        "sign_up": options.sign_up.value,
        "prices_public": options.prices_public,
        "welcome_credit_nanousd": options.welcome_credit_nanousd,
        "default_requests_per_minute": options.default_limits.requests_per_minute,
        "default_tokens_per_minute": options.default_limits.tokens_per_minute,
    }
