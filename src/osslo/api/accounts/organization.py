"""Usage and costs as OpenAI's organization API tells them.

Members see their own, admins everybody's. Osslo has no projects and no tiers: grouped by them all
is in one group, which has no name, and no usage belongs to a project that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse

from osslo.accounts.ledger.buckets import (
    DAY_S,
    GROUPS,
    HOUR_S,
    MINUTE_S,
    BucketQuery,
    GroupSums,
)
from osslo.accounts.ledger.money import NANOUSD_PER_USD
from osslo.accounts.ledger.service import Ledger
from osslo.api.accounts.books import WithLedger, check_sees, sees_all
from osslo.api.body import StrictSchema
from osslo.api.openapi import operation
from osslo.api.query import read_query
from osslo.api.services import services_of
from osslo.api.sessions import MemberReading, Principal
from osslo.api.shapes import Reply
from osslo.errors import RequestError

router = APIRouter(tags=["usage"])

_LAST_MOMENT = 253_402_300_799  # the end of the year 9999
_FILTERED = 1000
_PAGE = "page_"

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "user_id": "user_id",
        "api_key_id": "key_id",
        "model": "model",
        "line_item": "model",
        "batch": "batch",
    }
)
"""What the ledger calls that by which OpenAI groups."""


@dataclass(frozen=True, slots=True)
class Width:
    """A width of buckets: how long, how many unless told, and at most."""

    seconds: int
    usual: int
    most: int


_WIDTHS: Mapping[str, Width] = MappingProxyType(
    {"1m": Width(MINUTE_S, 60, 1440), "1h": Width(HOUR_S, 24, 168), "1d": Width(DAY_S, 7, 31)}
)
_COST_WIDTH = Width(DAY_S, 7, 180)


class BucketsQuery(StrictSchema):
    """A time, what is let through, and which part of the answer."""

    start_time: int = Field(ge=0, le=_LAST_MOMENT, description="Unix seconds; its bucket counts.")
    end_time: int | None = Field(
        None, ge=1, le=_LAST_MOMENT, description="Unix seconds, exclusive; now unless told."
    )
    project_ids: list[str] | None = Field(None, max_length=_FILTERED)
    user_ids: list[str] | None = Field(None, max_length=_FILTERED)
    api_key_ids: list[str] | None = Field(None, max_length=_FILTERED)
    limit: int | None = Field(None, ge=1, description="How many buckets.")
    page: str | None = Field(None, max_length=64, description="The `next_page` of another answer.")


class UsageQuery(BucketsQuery):
    """Which usage."""

    bucket_width: Literal["1m", "1h", "1d"] = "1d"
    models: list[str] | None = Field(None, max_length=_FILTERED)
    batch: bool | None = Field(None, description="Only batches, or all but batches.")
    group_by: (
        list[
            Literal[
                "project_id",
                "user_id",
                "api_key_id",
                "model",
                "batch",
                "service_tier",
                "api_source",
            ]
        ]
        | None
    ) = None


class CostsQuery(BucketsQuery):
    """Which costs."""

    bucket_width: Literal["1d"] = "1d"
    line_items: list[str] | None = Field(None, max_length=_FILTERED)
    group_by: (
        list[Literal["project_id", "user_id", "line_item", "api_key_id", "api_source"]] | None
    ) = None


class UsageResultReply(Reply):
    """What a group used. Fields by which is not grouped are null."""

    object: Literal["organization.usage.completions.result"]
    input_tokens: int
    input_cached_tokens: int
    input_uncached_tokens: int
    output_tokens: int
    input_audio_tokens: int
    output_audio_tokens: int
    num_model_requests: int
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str | None
    batch: bool | None
    service_tier: str | None
    api_source: Literal["unlabeled"] | None


class AmountReply(Reply):
    """An amount of money."""

    value: float
    currency: Literal["usd"]


class CostResultReply(Reply):
    """What a group cost. A line item is a model."""

    object: Literal["organization.costs.result"]
    amount: AmountReply
    line_item: str | None
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    quantity: float | None
    quantity_unit: str | None
    api_source: Literal["unlabeled"] | None


class UsageBucketReply(Reply):
    """A part of the time; without results where nothing was used."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[UsageResultReply]


class CostBucketReply(Reply):
    """The same of costs."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[CostResultReply]


class UsagePageReply(Reply):
    """Some of the buckets, oldest first."""

    object: Literal["page"]
    data: list[UsageBucketReply]
    has_more: bool
    next_page: str | None


class CostPageReply(Reply):
    """The same of costs."""

    object: Literal["page"]
    data: list[CostBucketReply]
    has_more: bool
    next_page: str | None


@router.get(
    "/v1/organization/usage/completions",
    summary="Usage by time",
    openapi_extra=operation(query=UsageQuery, reply=UsagePageReply),
)
async def usage(request: Request, who: MemberReading, ledger: WithLedger) -> JSONResponse:
    """Buckets are whole minutes, hours or days in UTC. Minutes are known as long as requests' own
    rows are kept (`OSSLO_USAGE_DAYS`)."""
    query = read_query(request, UsageQuery)
    asked = _Asked.of(query, _WIDTHS[query.bucket_width], query.group_by, _now(request))
    wanted = asked.wanted(query, who, models=query.models, batch=query.batch)
    return JSONResponse(await asked.page(ledger, wanted, _usage_result))


@router.get(
    "/v1/organization/costs",
    summary="Costs by day",
    openapi_extra=operation(query=CostsQuery, reply=CostPageReply),
)
async def costs(request: Request, who: MemberReading, ledger: WithLedger) -> JSONResponse:
    """Days are in UTC. Line items are models."""
    query = read_query(request, CostsQuery)
    asked = _Asked.of(query, _COST_WIDTH, query.group_by, _now(request))
    wanted = asked.wanted(query, who, models=query.line_items)
    return JSONResponse(await asked.page(ledger, wanted, _cost_result))


def _now(request: Request) -> int:
    return int(services_of(request).clock())


@dataclass(frozen=True, slots=True)
class _Asked:
    """Buckets that begin at `first`, `first` + width, … before `end`, grouped by OpenAI's names."""

    width_s: int
    first: int
    last: int
    end: int
    group_by: tuple[str, ...]

    @classmethod
    def of(
        cls, query: BucketsQuery, width: Width, group_by: Sequence[str] | None, now: int
    ) -> _Asked:
        if query.limit is not None and query.limit > width.most:
            raise RequestError(f"limit may be at most {width.most} here.", param="limit")
        end = query.end_time if query.end_time is not None else now + 1
        if end <= query.start_time:
            raise RequestError("end_time must lie after start_time.", param="end_time")
        first = query.start_time // width.seconds * width.seconds
        if query.page is not None:
            first = _page_start(query.page, width.seconds, first, end)
        last = first + (query.limit or width.usual) * width.seconds
        return cls(width.seconds, first, min(last, end), end, tuple(dict.fromkeys(group_by or ())))

    def wanted(
        self,
        query: BucketsQuery,
        who: Principal,
        *,
        models: Sequence[str] | None,
        batch: bool | None = None,
    ) -> BucketQuery:
        """What the ledger is asked. Raises `PermissionDeniedError` for somebody else's."""
        for user_id in query.user_ids or ():
            check_sees(who, user_id)
        users = query.user_ids if sees_all(who) else [who.user.id]
        if query.project_ids:
            users = []
        known = dict.fromkeys(_NAMES[name] for name in self.group_by if name in _NAMES)
        return BucketQuery(
            since=datetime.fromtimestamp(self.first, UTC),
            until=datetime.fromtimestamp(min(_LAST_MOMENT, self._whole_end()), UTC),
            width_s=self.width_s,
            group_by=tuple(name for name in GROUPS if name in known),
            user_ids=None if users is None else tuple(users),
            key_ids=None if query.api_key_ids is None else tuple(query.api_key_ids),
            models=None if models is None else tuple(models),
            batch=batch,
        )

    async def page(self, ledger: Ledger, wanted: BucketQuery, result: Any) -> dict[str, Any]:
        """The page, each group as `result` makes it."""
        found = await ledger.reader.buckets(wanted)
        after = self._whole_end()
        more = after < self.end
        return {
            "object": "page",
            "data": [
                {
                    "object": "bucket",
                    "start_time": begins,
                    "end_time": begins + self.width_s,
                    "results": [result(each, set(self.group_by)) for each in found.get(begins, ())],
                }
                for begins in self._starts()
            ],
            "has_more": more,
            "next_page": f"{_PAGE}{after:x}" if more else None,
        }

    def _starts(self) -> Iterator[int]:
        return iter(range(self.first, self.last, self.width_s))

    def _whole_end(self) -> int:
        """Where the last bucket ends."""
        return self.first + -(-(self.last - self.first) // self.width_s) * self.width_s


def _page_start(page: str, width_s: int, first: int, end: int) -> int:
    try:
        start = int(page.removeprefix(_PAGE), 16) if page.startswith(_PAGE) else -1
    except ValueError:
        start = -1
    if start % width_s or not first <= start < end:
        raise RequestError(
            "This page is not one of these; send the next_page of an answer to the same query.",
            param="page",
        )
    return start


def _labels(group: Mapping[str, Any], group_by: set[str]) -> dict[str, Any]:
    """What results of both kinds are labelled with."""
    return {
        "project_id": None,
        "user_id": group.get("user_id"),
        "api_key_id": group["key_id"] or None if "api_key_id" in group_by else None,
        "api_source": "unlabeled" if "api_source" in group_by else None,
    }


def _usage_result(each: GroupSums, group_by: set[str]) -> dict[str, Any]:
    sums = each.sums
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": sums.prompt_tokens,
        "input_cached_tokens": sums.cached_tokens,
        "input_uncached_tokens": sums.prompt_tokens - sums.cached_tokens,
        "output_tokens": sums.completion_tokens,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "num_model_requests": sums.requests,
        **_labels(each.group, group_by),
        "model": each.group.get("model"),
        "batch": each.group.get("batch"),
        "service_tier": "default" if "service_tier" in group_by else None,
    }


def _cost_result(each: GroupSums, group_by: set[str]) -> dict[str, Any]:
    return {
        "object": "organization.costs.result",
        "amount": {"value": each.sums.cost_nanousd / NANOUSD_PER_USD, "currency": "usd"},
        "line_item": each.group.get("model"),
        **_labels(each.group, group_by),
        "quantity": None,
        "quantity_unit": None,
    }
