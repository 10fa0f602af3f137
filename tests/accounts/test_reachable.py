"""What callers are told while PostgreSQL starts, stops or is gone."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from osslo.accounts.reachable import Reachable
from osslo.errors import OverloadedError, QuotaError


class ToldError(Exception):
    """A driver's error with PostgreSQL's code."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    "error",
    [
        DBAPIError("SELECT 1", {}, ToldError("57P03")),  # starting up, or shutting down
        DBAPIError("SELECT 1", {}, ToldError("57P01"), connection_invalidated=True),
        FileNotFoundError("no socket"),
        ConnectionRefusedError(),
    ],
)
async def test_a_database_that_is_away_is_a_503(error: Exception) -> None:
    with pytest.raises(OverloadedError) as refused:
        async with Reachable():
            raise error
    assert refused.value.retry_after_s


@pytest.mark.parametrize("error", [QuotaError("no money"), ValueError("a bug")])
async def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)):
        async with Reachable():
            raise error
