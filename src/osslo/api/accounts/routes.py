"""All routes of the management API but usage and balances, which are the ledger's."""

from __future__ import annotations

from osslo.api.accounts import keys, operating, sign_in, users

routers = (sign_in.router, keys.router, users.router, operating.router)
