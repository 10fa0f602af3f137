"""Background responses: admitted, queued, run, cancelled, drained; each with exactly one end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from osslo.api.app import create_app
from osslo.api.responses import log
from osslo.api.responses.background import BackgroundResponses
from osslo.api.services import Services
from osslo.chat.events import TurnEnd
from osslo.db.database import Database
from osslo.errors import OverloadedError, QuotaError, RateLimitError
from osslo.settings import StoreSettings
from osslo.store.responses import LEASE_S
from osslo.types import GenerationRequest
from tests.api.conftest import ANSWER, KEY, Stage, make_stage
from tests.api.test_responses import GET, PREAMBLE_AND_CALL, ask, events_of
from tests.databases import migrated_sqlite
from tests.metering import NotingMeter
from tests.scripted import ByteVocabulary, Gate, Script, serving

TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}
BEGINNING = ByteVocabulary().tokens("<|channel|>final<|message|>Os")
REST = ByteVocabulary().tokens("lo.<|return|>")


def held(gate: Gate) -> Script:
    """Two letters, then a gate, then the rest."""
    return Script((BEGINNING, gate, REST))


@asynccontextmanager
async def background(
    script: Script | Callable[[GenerationRequest], Script] | None = None,
    *,
    markup: str = ANSWER,
    stage: Stage | None = None,
    runner: BackgroundResponses | None = None,
    **changes: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, Services]]:
    """A client of an application whose background responses `runner` runs."""
    stage = stage or make_stage(markup, script=script)  # type: ignore[arg-type]  # a function too
    runner = runner or BackgroundResponses(renew_s=0.01)
    services = replace(stage.services, background=runner, **changes)
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://osslo", headers=headers
    ) as client:
        try:
            yield client, services
        finally:
            await runner.drain(0)
            await services.database.close()


async def begin(client: httpx.AsyncClient, **fields: Any) -> str:
    reply = await client.post("/v1/responses", json=ask(background=True, **fields))
    assert reply.status_code == 200, reply.text
    assert reply.json()["background"] is True
    return str(reply.json()["id"])


async def events(client: httpx.AsyncClient, name: str, **query: Any) -> list[dict[str, Any]]:
    """The events of a response's stream, to its end."""
    reply = await client.get(f"/v1/responses/{name}", params={"stream": True} | query)
    assert reply.status_code == 200, reply.text
    return events_of(reply.text)


async def test_it_runs_to_its_end_and_its_stream_is_played_again() -> None:
    async with background(markup=PREAMBLE_AND_CALL) as (client, _):
        fields = {"tools": [GET], "include": ["reasoning.encrypted_content"]}
        reply = await client.post("/v1/responses", json=ask(background=True, stream=True, **fields))
        live = events_of(reply.text)
        name = live[0]["response"]["id"]
        stored = (await client.get(f"/v1/responses/{name}")).json()
        assert await events(client, name) == live
        assert await events(client, name, starting_after=4) == live[5:]
        assert await events(client, name, starting_after=len(live)) == []
    assert [event["type"] for event in live[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert [event["sequence_number"] for event in live] == list(range(len(live)))
    assert [event["type"] in TERMINAL for event in live] == [False] * (len(live) - 1) + [True]
    assert live[-1]["response"] == stored
    assert stored["status"] == "completed"
    assert stored["output"][0]["encrypted_content"]


async def test_log_probabilities_are_played_again() -> None:
    async with background() as (client, _):
        fields = {"background": True, "stream": True, "top_logprobs": 2}
        live = events_of((await client.post("/v1/responses", json=ask(**fields))).text)
        assert await events(client, live[0]["response"]["id"]) == live
    assert live[-1]["response"]["output"][-1]["content"][0]["logprobs"]


async def test_the_stream_of_one_that_runs_is_joined_in_the_middle() -> None:
    gate = Gate()
    async with background(held(gate)) as (client, _):
        name = await begin(client)
        await asyncio.to_thread(gate.reached.wait, 10)
        shown = (await client.get(f"/v1/responses/{name}")).json()
        assert shown["status"] == "in_progress"
        assert shown["output"][0]["content"][0]["text"] == "Os"
        following = asyncio.create_task(events(client, name, starting_after=5))
        gate.open()
        late = await following
        assert late == (await events(client, name))[6:]
        assert late[-1]["response"]["output"][0]["content"][0]["text"] == "Oslo."


async def test_cancelling_ends_it_once_and_charges_what_was_made() -> None:
    gate, meter = Gate(), NotingMeter()
    async with background(held(gate), meter=meter) as (client, services):
        name = await begin(client)
        following = asyncio.create_task(events(client, name))
        await asyncio.to_thread(gate.reached.wait, 10)
        first = (await client.post(f"/v1/responses/{name}/cancel")).json()
        again = (await client.post(f"/v1/responses/{name}/cancel")).json()
        assert first == again == (await client.get(f"/v1/responses/{name}")).json()
        assert first["status"] == "cancelled"
        assert first["output"][0]["status"] == "incomplete"
        live = await following
        assert live == await events(client, name)
        assert services.background.find("default", name) is None
    assert [event["type"] in TERMINAL for event in live] == [False] * (len(live) - 1) + [True]
    (charge,) = meter.charges
    (ended,) = charge.settled
    assert ended.reason is TurnEnd.ABORT
    assert ended.usage.completion_tokens == first["usage"]["output_tokens"] > 0
    assert charge.released == []


async def test_one_waits_for_a_place_with_its_charge_open() -> None:
    gate, meter = Gate(), NotingMeter()
    runner = BackgroundResponses(running=1, renew_s=60)
    async with background(held(gate), runner=runner, meter=meter) as (client, _):
        first, second, third = [await begin(client) for _ in range(3)]
        waiting = (await client.get(f"/v1/responses/{second}")).json()
        assert (waiting["status"], waiting["output"], len(meter.charges)) == ("queued", [], 3)
        cancelled = (await client.post(f"/v1/responses/{second}/cancel")).json()
        assert (cancelled["status"], cancelled["usage"]) == ("cancelled", None)
        assert len(meter.charges[1].released) == 1
        gate.open()
        for name in (first, third):
            assert (await events(client, name))[-1]["type"] == "response.completed"
    assert [len(charge.settled) for charge in meter.charges] == [1, 0, 1]


@pytest.mark.parametrize(
    "refusal", [RateLimitError("Slow down."), QuotaError("No money."), OverloadedError("Away.")]
)
async def test_what_may_not_run_is_refused_at_once_and_not_kept(
    refusal: RateLimitError | OverloadedError,
) -> None:
    async with background(meter=NotingMeter(refusal)) as (client, services):
        reply = await client.post("/v1/responses", json=ask(background=True))
        assert (reply.status_code, reply.json()["error"]["code"]) == (refusal.status, refusal.code)
        async with services.database.read() as session:
            rows = await (await session.connection()).exec_driver_sql("SELECT * FROM responses")
            assert rows.all() == []


async def test_each_owner_and_the_server_have_bounds() -> None:
    async with background(held(Gate()), store=StoreSettings(max_background=1)) as (client, _):
        await begin(client)
        reply = await client.post("/v1/responses", json=ask(background=True))
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "too_many_background_responses"
    runner = BackgroundResponses(unfinished=1)
    async with background(held(Gate()), runner=runner) as (client, _):
        await begin(client)
        reply = await client.post("/v1/responses", json=ask(background=True))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")


async def test_a_full_engine_is_asked_again_under_one_charge() -> None:
    tries: list[str] = []

    def script(request: GenerationRequest) -> Script:
        tries.append(request.request_id)
        if len(tries) == 1:
            return Script(refusal=OverloadedError("The queue is full."))
        return Script((BEGINNING, REST))

    meter = NotingMeter()
    async with background(script, meter=meter) as (client, _):
        live = await events(client, await begin(client))
    assert live[-1]["type"] == "response.completed"
    (charge,) = meter.charges
    assert (len(tries), len(charge.settled), len(charge.released)) == (2, 1, 0)


async def test_deleting_one_that_runs_stops_it() -> None:
    stage = make_stage(script=held(Gate()))
    async with background(stage=stage) as (client, _):
        name = await begin(client)
        assert (await client.delete(f"/v1/responses/{name}")).json()["deleted"]
        assert stage.backend.abandoned.is_set()
        assert (await client.get(f"/v1/responses/{name}")).status_code == 404


async def test_one_that_runs_elsewhere_is_cancelled_and_followed() -> None:
    stage = make_stage(script=held(Gate()))
    async with background(stage=stage) as (here, _):
        name = await begin(here)
        ours = asyncio.create_task(events(here, name))
        async with background(stage=make_stage(), database=stage.services.database) as (there, _):
            assert (await there.get(f"/v1/responses/{name}")).status_code == 200
            cancelled = (await there.post(f"/v1/responses/{name}/cancel")).json()
            assert cancelled["status"] == "cancelled"
            (last,) = await events(there, name, starting_after=3)
            assert (last["type"], last["sequence_number"]) == ("response.incomplete", 4)
            assert (await ours)[-1]["response"]["status"] == "cancelled"
        assert stage.backend.abandoned.is_set()


def begun_and_killed(database: Database) -> str:
    """The id of a response that a process had begun to tell when it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.api.endless_server", str(database.url)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    headers = {"authorization": f"Bearer {KEY}"}
    body = ask(background=True, stream=True)
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip() + "/v1/responses"
            with httpx.stream("POST", url, json=body, headers=headers) as reply:
                lines = (line for line in reply.iter_lines() if line.startswith("data: "))
                name = json.loads(next(lines).removeprefix("data: "))["response"]["id"]
                assert any("output_text.delta" in line for line in lines)
                process.kill()  # while the stream is open
        finally:
            process.kill()
    return str(name)


async def test_what_a_killed_process_left_has_failed() -> None:
    database = migrated_sqlite()
    name = await asyncio.to_thread(begun_and_killed, database)
    stage = make_stage()
    began = stage.services.clock()
    for later, status in ((began + 1, "in_progress"), (began + LEASE_S + 1, "failed")):
        clock = partial(float, later)
        async with background(stage=stage, database=database, clock=clock) as (restarted, _):
            found = (await restarted.get(f"/v1/responses/{name}")).json()
            assert found["status"] == status
    async with background(stage=stage, database=database, clock=clock) as (restarted, _):
        assert "Send the request again" in found["error"]["message"]
        assert [event["type"] for event in await events(restarted, name)] == ["response.failed"]
        assert (await restarted.post(f"/v1/responses/{name}/cancel")).json() == found


def test_a_background_stream_that_was_left_is_joined_and_not_begun_again() -> None:
    gate = Gate()
    stage = make_stage(script=held(gate))
    headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "one"}
    body = ask(background=True, stream=True)
    post = ("POST", "/v1/responses")
    with (
        serving(create_app(stage.services)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=20) as client,
    ):
        with client.stream(*post, json=body) as left:
            first = next(line for line in left.iter_lines() if line.startswith("data: "))
        with client.stream(*post, json=body) as joined:
            gate.open()
            events = events_of(joined.read().decode())
            assert joined.headers["idempotency-replayed"] == "true"
        kept = client.post("/v1/responses", json=body)
    assert events[0] == json.loads(first.removeprefix("data: "))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Oslo."
    assert events_of(kept.text) == events
    assert len(stage.backend.requests) == 1


async def test_a_shutdown_waits_for_what_runs_and_fails_the_rest() -> None:
    gate = Gate()
    runner = BackgroundResponses(running=1, renew_s=60)
    async with background(held(gate), runner=runner) as (client, _):
        runs, waits = await begin(client), await begin(client)
        await asyncio.to_thread(gate.reached.wait, 10)
        draining = asyncio.create_task(runner.drain(20))
        assert (await events(client, waits))[-1]["type"] == "response.failed"
        gate.open()
        await draining
        assert (await client.get(f"/v1/responses/{runs}")).json()["status"] == "completed"
    gate, meter = Gate(), NotingMeter()
    async with background(held(gate), meter=meter) as (client, services):
        name = await begin(client)
        await asyncio.to_thread(gate.reached.wait, 10)
        await services.background.drain(0)
        found = (await client.get(f"/v1/responses/{name}")).json()
        assert found["status"] == "failed"
        assert "shut down" in found["error"]["message"]
        assert found["usage"]["output_tokens"] > 0
    assert len(meter.charges[0].settled) == 1


async def test_a_log_that_is_too_long_leaves_the_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "MOST_LOG_BYTES", 20)
    async with background() as (client, _):
        name = await begin(client)
        await events(client, name)
        (last,) = await events(client, name)
        assert last["type"] == "response.completed"
        assert last["response"] == (await client.get(f"/v1/responses/{name}")).json()


async def test_only_background_responses_are_followed_and_cancelled() -> None:
    async with background() as (client, _):
        name = (await client.post("/v1/responses", json=ask())).json()["id"]
        for reply in (
            await client.get(f"/v1/responses/{name}", params={"stream": True}),
            await client.post(f"/v1/responses/{name}/cancel"),
        ):
            assert reply.status_code == 400
            assert "'background': true" in reply.json()["error"]["message"]
        wrong = await client.get(f"/v1/responses/{name}", params={"starting_after": 1})
        assert wrong.json()["error"]["param"] == "starting_after"
        assert (await client.post("/v1/responses/resp_x/cancel")).status_code == 404


async def test_a_failure_and_a_cut_answer_end_in_their_own_states() -> None:
    async with background(Script((BEGINNING,), vanishes=True)) as (client, _):
        last = (await events(client, await begin(client)))[-1]
        assert (last["type"], last["response"]["error"]["code"]) == (
            "response.failed",
            "server_error",
        )
    async with background() as (client, _):
        last = (await events(client, await begin(client, max_output_tokens=20)))[-1]
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
