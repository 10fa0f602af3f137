"""What callers are told while the accounts' database is away."""

from __future__ import annotations

from osslo.db.steps import is_transient
from osslo.errors import OssloError, OverloadedError


class Reachable:
    """`async with Reachable(): ...` turns a database that is away, starts or stops into the error
    that callers can act on."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, OssloError) or not is_transient(error):
            return
        raise OverloadedError(
            "The accounts' database is out of reach; try again soon.",
            code="database_unavailable",
            retry_after_s=2,
        ) from error
