"""Who may act on whom. Routes say the least role; these say the rest."""

from __future__ import annotations

from osslo.accounts.records import Actor, Role, User
from osslo.errors import NotFoundError, PermissionDeniedError


def manages(actor: Actor, user: User) -> bool:
    """Whether `actor` may change `user`: owners everybody, admins the members."""
    if actor.role is Role.OWNER:
        return True
    return actor.role is Role.ADMIN and user.role is Role.MEMBER


def check_manages(actor: Actor, user: User) -> None:
    """Raise `PermissionDeniedError` unless `actor` may change `user`; to a member, who may not even
    know who else is here, it is a `NotFoundError`."""
    if manages(actor, user):
        return
    if not actor.role.covers(Role.ADMIN):
        raise no_such_user(user.id)
    raise PermissionDeniedError("Only an owner may change an admin or an owner.")


def check_gives(actor: Actor, role: Role) -> None:
    """Raise `PermissionDeniedError` unless `actor` may make somebody a `role`."""
    if actor.role is not Role.OWNER and not (actor.role is Role.ADMIN and role is Role.MEMBER):
        raise PermissionDeniedError("Only an owner may make admins and owners.", param="role")


def check_least(actor: Actor, least: Role) -> None:
    """Raise `PermissionDeniedError` unless `actor` has at least this role."""
    if not actor.role.covers(least):
        raise PermissionDeniedError(f"This takes the role {least.value}.")


def no_such_user(user_id: str) -> NotFoundError:
    """The error for a user who is not there, or not there for this caller."""
    return NotFoundError(f"There is no user {user_id[:80]!r}.", code="user_not_found")
