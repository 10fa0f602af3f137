"""All routes of the management API."""

from __future__ import annotations

from osslo.api.accounts import keys, ledger, operating, organization, sign_in, users

routers = (
    sign_in.router,
    keys.router,
    users.router,
    ledger.router,
    organization.router,
    operating.router,
)
