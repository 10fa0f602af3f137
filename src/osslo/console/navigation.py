"""Which pages there are, and who sees them in the navigation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NavItem:
    """A link of the navigation."""

    label: str
    path: str
    icon: str


@dataclass(frozen=True, slots=True)
class NavGroup:
    """Links under a title; the first group has none."""

    title: str
    items: tuple[NavItem, ...]


_EVERYBODY = NavGroup(
    "",
    (
        NavItem("Overview", "/console", "overview"),
        NavItem("Playground", "/console/playground", "play"),
        NavItem("API keys", "/console/keys", "key"),
        NavItem("Usage", "/console/usage", "usage"),
        NavItem("API tester", "/console/tester", "test"),
    ),
)
_LOCAL = NavGroup(
    "",
    (
        NavItem("Playground", "/console/playground", "play"),
        NavItem("API tester", "/console/tester", "test"),
    ),
)
_PUBLIC = NavGroup("Models", (NavItem("Models and prices", "/models", "model"),))
_ADMIN = NavGroup(
    "Administration",
    (
        NavItem("Users", "/console/admin/users", "users"),
        NavItem("Models", "/console/admin/models", "model"),
        NavItem("Prices", "/console/admin/prices", "price"),
        NavItem("System", "/console/admin/system", "system"),
        NavItem("Settings", "/console/admin/settings", "settings"),
        NavItem("Audit log", "/console/admin/audit", "audit"),
    ),
)


def navigation(*, signed_in: bool, admin: bool) -> tuple[NavGroup, ...]:
    """The groups that a viewer sees; without accounts, what works on this machine."""
    if not signed_in:
        return (_LOCAL, _PUBLIC)
    return (_EVERYBODY, _PUBLIC, _ADMIN) if admin else (_EVERYBODY, _PUBLIC)
