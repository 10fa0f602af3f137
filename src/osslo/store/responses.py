"""Responses that callers asked to keep, with the items they were given and gave.

Every query is limited to an owner. A response holds its own items only; what came before is found
by `previous_id`. It lives for the time to live after its last use: going on from a response renews
those before it too. Of each owner the oldest go when there are too many, or too much text.

A background response belongs to the process that runs it for as long as that renews its lease. One
whose lease ran out was left behind by a process that ended; it fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from osslo.db.database import Database
from osslo.errors import NotFoundError, RateLimitError, RequestError
from osslo.settings import StoreSettings
from osslo.store.conversations import append_turn, conversation_row
from osslo.store.items import Item, ItemPage, Order, dump, is_id, moment
from osslo.store.paging import page_of
from osslo.store.tables import ConversationItemRow, ConversationRow, ResponseItemRow, ResponseRow

LEASE_S = 30.0
"""A background response whose process has not been heard of for so long has failed."""

UNFINISHED = ("queued", "in_progress")
_SWEEP_ROWS = 500
_LEFT_BEHIND = {
    "code": "server_error",
    "message": "The server ended before this response was done. Send the request again.",
}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response. `body` is the Response object as it is shown, its output included; `inputs` are
    the items that it was given. `log` belongs to a background response that is done."""

    id: str
    tenant: str
    status: str
    body: Mapping[str, Any]
    inputs: tuple[Item, ...] = ()
    background: bool = False
    previous_id: str | None = None
    conversation_id: str | None = None
    log: str | None = None

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


class ResponseStore:
    """The responses of every owner."""

    def __init__(
        self, database: Database, settings: StoreSettings, clock: Callable[[], float]
    ) -> None:
        """`clock` gives Unix time in seconds."""
        self._database = database
        self._settings = settings
        self._clock = clock

    @property
    def _now(self) -> datetime:
        return moment(self._clock())

    @property
    def _expiry(self) -> datetime:
        return self._now + timedelta(seconds=self._settings.store_ttl_s)

    # --- writing --------------------------------------------------------------------------------

    async def save(self, response: StoredResponse, *, keep: bool = True) -> None:
        """Keep a response that is done, and add its items to its conversation, both or none.
        With `keep` False only the conversation gets them."""
        async with self._database.write() as session:
            if keep:
                session.add(self._row(response, lease=None))
                await session.flush()
                _add_items(session, response)
                await self._make_room(session, response.tenant)
            await self._append_to_conversation(session, response)

    async def queue(self, response: StoredResponse) -> None:
        """Keep a background response that is about to run here. Raises `RateLimitError` if its
        owner has as many unfinished ones as the server runs."""
        most = self._settings.max_background
        async with self._database.write() as session:
            running = select(func.count()).where(
                ResponseRow.tenant == response.tenant,
                ResponseRow.status.in_(UNFINISHED),
                ResponseRow.lease_until > self._now,
            )
            count = await session.scalar(running) or 0
            if count >= most:
                raise RateLimitError(
                    f"You have {count} unfinished background responses, the most that this server "
                    "runs of one owner; wait for one or cancel it.",
                    code="too_many_background_responses",
                    retry_after_s=5,
                )
            session.add(self._row(response, lease=self._lease))
            await session.flush()
            _add_items(session, response)
            await self._make_room(session, response.tenant)

    async def finish(self, response: StoredResponse) -> bool:
        """Put the end of a background response in the place of what is kept of it. False if it was
        ended or deleted meanwhile; then nothing is changed."""
        async with self._database.write() as session:
            row = await session.get(ResponseRow, response.id, with_for_update=True)
            if row is None or row.status not in UNFINISHED:
                return False
            outputs = response.body["output"]
            row.status, row.log, row.lease_until = response.status, response.log, None
            row.body = _body(response.body)
            row.size_bytes = _size(response)
            row.expires_at = self._expiry
            _add_items(session, response, inputs=False)
            if outputs:
                await self._append_to_conversation(session, response)
        return True

    async def mark_running(self, response_id: str, body: Mapping[str, Any]) -> None:
        """A queued response has begun."""
        async with self._database.write() as session:
            await session.execute(
                update(ResponseRow)
                .where(ResponseRow.id == response_id, ResponseRow.status == "queued")
                .values(status="in_progress", body=_body(body))
            )

    async def renew(self, ids: Iterable[str]) -> set[str]:
        """Renew the leases of what this process runs; the ids that are still to be run."""
        wanted = list(ids)
        running = (ResponseRow.id.in_(wanted), ResponseRow.status.in_(UNFINISHED))
        async with self._database.write() as session:
            await session.execute(
                update(ResponseRow).where(*running).values(lease_until=self._lease)
            )
            return set((await session.scalars(select(ResponseRow.id).where(*running))).all())

    async def cancel(self, tenant: str, response_id: str) -> StoredResponse:
        """End a response that runs in another process, or none: it notices at its next renewal.
        Raises `NotFoundError`."""
        async with self._database.write() as session:
            row = await self._find(session, tenant, response_id, lock=True)
            if row.status in UNFINISHED:
                row.body = _body({**json.loads(row.body), "status": "cancelled"})
                row.status, row.lease_until = "cancelled", None
            return await _record(session, row)

    async def delete(self, tenant: str, response_id: str) -> None:
        """Delete a response and its items. Raises `NotFoundError`."""
        async with self._database.write() as session:
            await session.delete(await self._find(session, tenant, response_id, lock=True))

    # --- reading --------------------------------------------------------------------------------

    async def get(self, tenant: str, response_id: str) -> StoredResponse:
        """A response without its inputs. Raises `NotFoundError`."""
        async with self._database.read() as session:
            row = await self._find(session, tenant, response_id)
            if row.lease_until is None or row.lease_until > self._now:
                return await _record(session, row)
        await fail_left_behind(self._database, self._now)
        async with self._database.read() as session:
            return await _record(session, await self._find(session, tenant, response_id))

    async def input_items(
        self,
        tenant: str,
        response_id: str,
        *,
        after: str | None = None,
        limit: int,
        order: Order = "desc",
    ) -> ItemPage:
        """A part of what a response was given, from what follows the item `after`. Raises
        `NotFoundError` for an unknown response or `after`."""
        async with self._database.read() as session:
            row = await self._find(session, tenant, response_id)
            inputs = select(ResponseItemRow).where(
                ResponseItemRow.response_id == row.id, ResponseItemRow.is_output.is_(False)
            )
            place = None
            if after is not None:
                found = inputs.where(ResponseItemRow.item_id == after)
                place = (await session.scalars(found)).first() if is_id(after) else None
                if place is None:
                    raise NotFoundError(
                        f"There is no input item with id {after[:128]!r}.", param="after"
                    )
            page = await page_of(
                session,
                inputs,
                (ResponseItemRow.position,),
                after=None if place is None else (place.position,),
                limit=limit,
                descending=order == "desc",
            )
        return ItemPage(tuple(json.loads(item.body) for item in page.items), page.has_more)

    async def history(self, tenant: str, response_id: str, *, most: int) -> tuple[Item, ...]:
        """Everything that was said up to and with a response, oldest first; renews the time to
        live of all of it.

        Raises `NotFoundError` where a response of the chain is gone, `RequestError` where it is not
        done, belongs to a conversation, or the chain holds more than `most` items.
        """
        async with self._database.write() as session:
            last = await self._find(session, tenant, response_id, "previous_response_id")
            _check_continuable(last)
            ids = await self._chain(session, tenant, last.id, most)
            await session.execute(
                update(ResponseRow).where(ResponseRow.id.in_(ids)).values(expires_at=self._expiry)
            )
            items: list[Item] = []
            for found in ids:
                bodies = select(ResponseItemRow.body).where(ResponseItemRow.response_id == found)
                rows = await session.scalars(bodies.order_by(ResponseItemRow.position))
                items += [json.loads(body) for body in rows]
                if len(items) > most:
                    raise _too_long(most)
        return tuple(items)

    async def find_items(self, tenant: str, ids: Sequence[str]) -> dict[str, Item]:
        """Items of responses and conversations by their ids, as far as their owner keeps them."""
        wanted = [item_id for item_id in ids if is_id(item_id)]
        if not wanted:
            return {}
        of_responses = (
            select(ResponseItemRow.item_id, ResponseItemRow.body)
            .join(ResponseRow, ResponseRow.id == ResponseItemRow.response_id)
            .where(ResponseItemRow.item_id.in_(wanted))
            .where(ResponseRow.tenant == tenant, ResponseRow.expires_at > self._now)
        )
        of_conversations = (
            select(ConversationItemRow.item_id, ConversationItemRow.body)
            .join(ConversationRow, ConversationRow.id == ConversationItemRow.conversation_id)
            .where(ConversationItemRow.item_id.in_(wanted))
            .where(ConversationRow.tenant == tenant, ConversationRow.expires_at > self._now)
        )
        async with self._database.read() as session:
            rows = [*await session.execute(of_conversations), *await session.execute(of_responses)]
        return {item_id: json.loads(body) for item_id, body in rows}

    # --- within a session -----------------------------------------------------------------------

    @property
    def _lease(self) -> datetime:
        return self._now + timedelta(seconds=LEASE_S)

    def _row(self, response: StoredResponse, *, lease: datetime | None) -> ResponseRow:
        return ResponseRow(
            id=response.id,
            tenant=response.tenant,
            created_at=self._now,
            expires_at=self._expiry,
            status=response.status,
            background=response.background,
            previous_id=response.previous_id,
            conversation_id=response.conversation_id,
            lease_until=lease,
            size_bytes=_size(response),
            body=_body(response.body),
            log=response.log,
        )

    async def _find(
        self,
        session: AsyncSession,
        tenant: str,
        response_id: str,
        param: str = "response_id",
        *,
        lock: bool = False,
    ) -> ResponseRow:
        row = None
        if is_id(response_id):
            wanted = select(ResponseRow).where(
                ResponseRow.id == response_id,
                ResponseRow.tenant == tenant,
                ResponseRow.expires_at > self._now,
            )
            row = await session.scalar(wanted.with_for_update() if lock else wanted)
        if row is None:
            raise NotFoundError(
                f"There is no response with id {response_id[:128]!r}: it was not stored, was "
                "deleted or has expired.",
                param=param,
                code="previous_response_not_found" if param != "response_id" else None,
            )
        return row

    async def _chain(
        self, session: AsyncSession, tenant: str, last_id: str, most: int
    ) -> list[str]:
        """The ids from the first response of a chain to `last_id`."""
        first = select(
            ResponseRow.id.label("id"),
            ResponseRow.previous_id.label("previous_id"),
            literal(0).label("depth"),
        ).where(ResponseRow.id == last_id, ResponseRow.tenant == tenant)
        chain = first.cte("chain", recursive=True)
        chain = chain.union_all(
            select(ResponseRow.id, ResponseRow.previous_id, chain.c.depth + 1)
            .join(chain, ResponseRow.id == chain.c.previous_id)
            .where(ResponseRow.tenant == tenant, chain.c.depth <= most)
        )
        found = (await session.execute(select(chain).order_by(chain.c.depth.desc()))).all()
        if len(found) > most:
            raise _too_long(most)
        if found[0].previous_id is not None:
            raise NotFoundError(
                f"The response {found[0].previous_id}, which {last_id} goes back to, was deleted "
                "or has expired; send the messages yourself.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return [row.id for row in found]

    async def _append_to_conversation(
        self, session: AsyncSession, response: StoredResponse
    ) -> None:
        """A conversation that was deleted meanwhile stays deleted."""
        if response.conversation_id is None or response.status not in ("completed", "incomplete"):
            return
        conversation = await conversation_row(
            session, response.tenant, response.conversation_id, self._now, lock=True
        )
        if conversation is not None:
            conversation.expires_at = self._expiry
            items = (*response.inputs, *response.body["output"])
            await append_turn(session, conversation, items)

    async def _make_room(self, session: AsyncSession, tenant: str) -> None:
        """Delete an owner's oldest finished responses while there are too many."""
        await session.flush()
        own = ResponseRow.tenant == tenant
        totals = select(func.count(), func.coalesce(func.sum(ResponseRow.size_bytes), 0))
        count, size = (await session.execute(totals.where(own))).one()
        settings = self._settings
        if count <= settings.store_max_responses and size <= settings.store_max_bytes:
            return
        oldest = select(ResponseRow.id, ResponseRow.size_bytes).where(
            own, ResponseRow.status.not_in(UNFINISHED)
        )
        gone: list[str] = []
        for row in await session.execute(
            oldest.order_by(ResponseRow.created_at, ResponseRow.id).limit(_SWEEP_ROWS)
        ):
            if count <= settings.store_max_responses and size <= settings.store_max_bytes:
                break
            gone.append(row.id)
            count, size = count - 1, size - row.size_bytes
        await session.execute(delete(ResponseRow).where(ResponseRow.id.in_(gone)))


async def fail_left_behind(database: Database, now: datetime) -> int:
    """End the background responses whose process is gone; how many."""
    lapsed = select(ResponseRow).where(
        ResponseRow.lease_until <= now, ResponseRow.status.in_(UNFINISHED)
    )
    async with database.write() as session:
        rows = (await session.scalars(lapsed.limit(_SWEEP_ROWS).with_for_update())).all()
        for row in rows:
            body = json.loads(row.body) | {"status": "failed", "error": _LEFT_BEHIND}
            row.status, row.lease_until, row.body = "failed", None, _body(body)
    return len(rows)


async def sweep_responses(database: Database, now: datetime) -> int:
    """Delete what expired before `now`, and end what was left behind; how many were deleted."""
    await fail_left_behind(database, now)
    old = select(ResponseRow.id).where(ResponseRow.expires_at <= now).limit(_SWEEP_ROWS)
    async with database.write() as session:
        ids = (await session.scalars(old)).all()
        if ids:
            await session.execute(delete(ResponseRow).where(ResponseRow.id.in_(ids)))
    return len(ids)


def _check_continuable(row: ResponseRow) -> None:
    problem = None
    if row.status in UNFINISHED:
        problem = "is not done yet; wait for it"
    elif row.status == "failed":
        problem = "failed; go on from the one before it"
    elif row.conversation_id is not None:
        problem = f"belongs to the conversation {row.conversation_id}; send 'conversation' instead"
    if problem is not None:
        raise RequestError(f"The response {row.id} {problem}.", param="previous_response_id")


def _too_long(most: int) -> RequestError:
    return RequestError(
        f"The responses before this one hold more than {most} items, the most that this server "
        "reads; start again with the messages that matter.",
        param="previous_response_id",
    )


def _add_items(session: AsyncSession, response: StoredResponse, *, inputs: bool = True) -> None:
    outputs = response.body["output"]
    given = [(False, item) for item in response.inputs] if inputs else []
    first = 0 if inputs else len(response.inputs)
    for position, (is_output, item) in enumerate([*given, *((True, i) for i in outputs)], first):
        session.add(
            ResponseItemRow(
                response_id=response.id,
                position=position,
                is_output=is_output,
                item_id=item["id"],
                body=dump(item),
            )
        )


def _body(body: Mapping[str, Any]) -> str:
    """The output is kept as items, once."""
    return dump({**body, "output": []})


def _size(response: StoredResponse) -> int:
    texts = (dump(response.body), dump(response.inputs), response.log or "")
    return sum(len(text) for text in texts)


async def _record(session: AsyncSession, row: ResponseRow) -> StoredResponse:
    outputs = select(ResponseItemRow.body).where(
        ResponseItemRow.response_id == row.id, ResponseItemRow.is_output.is_(True)
    )
    bodies = await session.scalars(outputs.order_by(ResponseItemRow.position))
    body = json.loads(row.body) | {"output": [json.loads(body) for body in bodies]}
    return StoredResponse(
        id=row.id,
        tenant=row.tenant,
        status=row.status,
        body=body,
        background=row.background,
        previous_id=row.previous_id,
        conversation_id=row.conversation_id,
        log=row.log,
    )
