"""`/v1/batches` and the worker, in one process: results, errors, cancelling, expiry, crashes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from osslo.api.batches.schema import BatchReply
from osslo.errors import OverloadedError, RateLimitError
from osslo.jobs.lines import ENDPOINTS
from osslo.jobs.worker import MAX_ATTEMPTS
from osslo.settings import JobSettings
from osslo.store.jobs import JOB_HEADER
from osslo.types import GenerationRequest
from tests.api.batch_stage import (
    CHAT,
    SECRET,
    make_batch_stage,
    read_file,
    request_line,
    start_batch,
)
from tests.api.conftest import ANSWER
from tests.scripted import ByteVocabulary, Gate, Script

URL = "/v1/batches"
TOKENS = ByteVocabulary().tokens(ANSWER)


async def shown(client: httpx.AsyncClient, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it is now, its shape checked."""
    got = await client.get(f"{URL}/{batch['id']}")
    BatchReply.model_validate_json(got.text)
    now: dict[str, Any] = got.json()
    return now


class Lines:
    """A script for every request of a batch, by the text of its question."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {}
        self.asked: list[str] = []

    def __call__(self, request: GenerationRequest) -> Script:
        prompt = ByteVocabulary().text(request.prompt)
        name = prompt.rsplit("question ", 1)[-1].split("<|", 1)[0]
        self.asked.append(name)
        waiting = self.scripts.get(name)
        return waiting.pop(0) if waiting else Script((TOKENS,))


def question(name: str, **fields: object) -> dict[str, Any]:
    return request_line(name, messages=[{"role": "user", "content": f"question {name}"}], **fields)


# --- from file to file --------------------------------------------------------------------------


async def test_every_line_is_answered_in_order() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        lines = [question(f"q{n}", metadata={"n": str(n)}) for n in range(7)]
        made = await start_batch(client, lines, metadata={"for": "me"})
        assert made["status"] == "validating"
        await batches.work()
        done = await shown(client, made)
        results = await read_file(client, done["output_file_id"])
        kept = (await client.get(f"/v1/files/{done['output_file_id']}")).json()
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 7, "completed": 7, "failed": 0}
    assert done["error_file_id"] is None
    assert done["model"] == "gpt-oss-20b"
    assert done["metadata"] == {"for": "me"}
    assert done["created_at"] <= done["in_progress_at"] <= done["completed_at"]
    assert [result["custom_id"] for result in results] == [f"q{n}" for n in range(7)]
    first = results[0]["response"]
    assert (first["status_code"], results[0]["error"]) == (200, None)
    assert first["body"]["choices"][0]["message"]["content"] == "Oslo."
    assert first["body"]["metadata"] == {"n": "0"}
    assert first["request_id"].startswith("req_")
    used = [result["response"]["body"]["usage"] for result in results]
    assert done["usage"]["input_tokens"] == sum(usage["prompt_tokens"] for usage in used)
    assert done["usage"]["output_tokens"] == sum(usage["completion_tokens"] for usage in used)
    assert done["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert kept["purpose"] == "batch_output"
    assert kept["filename"] == f"{made['id']}_output.jsonl"


async def test_what_the_api_refuses_is_in_the_error_file() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        lines = [question("good"), question("odd", banana=1), question("lost", model="nonesuch")]
        made = await start_batch(client, lines)
        await batches.work()
        done = await shown(client, made)
        errors = await read_file(client, done["error_file_id"])
        good = await read_file(client, done["output_file_id"])
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert done["model"] is None
    assert [line["custom_id"] for line in good] == ["good"]
    statuses = [(line["custom_id"], line["response"]["status_code"]) for line in errors]
    assert statuses == [("odd", 400), ("lost", 404)]
    assert errors[0]["response"]["body"]["error"]["param"] == "banana"


async def test_the_files_live_as_long_as_was_asked() -> None:
    batches = make_batch_stage()
    expiry = {"anchor": "created_at", "seconds": 7200}
    async with batches.stage.client() as client:
        made = await start_batch(client, [question("q")], output_expires_after=expiry)
        await batches.work()
        done = await shown(client, made)
        kept = (await client.get(f"/v1/files/{done['output_file_id']}")).json()
    assert kept["expires_at"] - kept["created_at"] == 7200


# --- input that cannot run ----------------------------------------------------------------------

GOOD = question("good")


@pytest.mark.parametrize(
    ("lines", "code", "line", "param"),
    [
        ([GOOD, {**GOOD, "custom_id": "b", "method": "GET"}], "invalid_method", 2, "method"),
        ([{**GOOD, "url": "/v1/responses"}], "mismatched_endpoint", 1, "url"),
        ([GOOD, GOOD], "duplicate_custom_id", 2, "custom_id"),
        ([{**GOOD, "custom_id": ""}], "invalid_custom_id", 1, "custom_id"),
        ([{**GOOD, "custom_id": 5}], "invalid_custom_id", 1, "custom_id"),
        ([{**GOOD, "body": []}], "invalid_body", 1, "body"),
        ([{**GOOD, "extra": 1}], "unknown_parameter", 1, "extra"),
        ([{"custom_id": "x"}], "missing_required_parameter", 1, "method"),
        ([question("s", stream=True)], "unsupported_parameter", 1, "body.stream"),
        ([question("s", background=True)], "unsupported_parameter", 1, "body.background"),
        ([question("long", user="x" * 20_000)], "line_too_long", 1, None),
        ([question(f"q{n}") for n in range(5)], "too_many_requests", None, None),
    ],
)
async def test_a_wrong_line_fails_the_batch_and_is_named(
    lines: list[Any], code: str, line: int | None, param: str | None
) -> None:
    batches = make_batch_stage(jobs=JobSettings(batch_max_lines=4))
    async with batches.stage.client() as client:
        made = await start_batch(client, lines)
        await batches.work()
        done = await shown(client, made)
    assert done["status"] == "failed"
    assert done["failed_at"] is not None
    [error] = done["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == (code, line, param)
    assert batches.stage.backend.requests == []


async def test_no_end_of_wrong_lines_is_listed() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        made = await start_batch(client, [{"n": n} for n in range(1000)])
        await batches.work()
        assert len((await shown(client, made))["errors"]["data"]) == 50


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_file_id": "file-nonesuch"}, 404, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "1d"}, 400, "completion_window"),
        ({"completion_window": "999h"}, 400, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, 400, None),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, 400, "metadata"),
        ({"banana": 1}, 400, "banana"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, None),
    ],
)
async def test_what_cannot_be_a_batch_is_refused(
    fields: dict[str, Any], status: int, param: str | None
) -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        asked = {
            "input_file_id": made["input_file_id"],
            "endpoint": CHAT,
            "completion_window": "24h",
        }
        refused = await client.post(URL, json=asked | fields)
    assert refused.status_code == status
    if param is not None:
        assert refused.json()["error"]["param"] == param


async def test_only_a_file_for_batches_is_one() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        data, files = {"purpose": "user_data"}, {"file": ("x", b"{}")}
        file = (await client.post("/v1/files", data=data, files=files)).json()
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        refused = await client.post(URL, json=asked)
    assert refused.json()["error"]["code"] == "invalid_purpose"


async def test_an_owner_may_not_queue_without_end() -> None:
    batches = make_batch_stage(jobs=JobSettings(batch_max_active=1))
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        asked = {
            "input_file_id": made["input_file_id"],
            "endpoint": CHAT,
            "completion_window": "24h",
        }
        refused = await client.post(URL, json=asked)
        await batches.work()
        taken = await client.post(URL, json=asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_batches")
    assert int(refused.headers["retry-after"]) > 0
    assert taken.status_code == 200


async def test_lists_have_pages_the_newest_first() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        made = [(await start_batch(client, [GOOD]))["id"] for _ in range(3)]
        first = (await client.get(URL, params={"limit": 2})).json()
        rest = (await client.get(URL, params={"after": first["last_id"]})).json()
    assert [batch["id"] for batch in first["data"]] == [made[2], made[1]]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [batch["id"] for batch in rest["data"]] == [made[0]]


# --- the way through ----------------------------------------------------------------------------


async def test_progress_shows_and_cancelling_keeps_what_was_done() -> None:
    gate, lines = Gate(), Lines()
    lines.scripts["q2"] = [Script((gate, TOKENS))]
    batches = make_batch_stage(script=lines, jobs=JobSettings(batch_concurrency=1))
    async with batches.stage.client() as client:
        made = await start_batch(client, [question(f"q{n}") for n in range(5)])
        working = asyncio.create_task(batches.work())
        assert await asyncio.to_thread(gate.reached.wait, 10)
        during = await shown(client, made)
        cancelled = (await client.post(f"{URL}/{made['id']}/cancel")).json()
        await asyncio.wait_for(working, 10)
        done = await shown(client, made)
        good = await read_file(client, done["output_file_id"])
        left = await read_file(client, done["error_file_id"])
        again = await client.post(f"{URL}/{made['id']}/cancel")
    assert during["status"] == "in_progress"
    assert during["request_counts"] == {"total": 5, "completed": 2, "failed": 0}
    assert cancelled["status"] == "cancelling"
    assert done["status"] == "cancelled"
    assert done["request_counts"] == {"total": 5, "completed": 2, "failed": 3}
    assert [line["custom_id"] for line in good] == ["q0", "q1"]
    assert [line["custom_id"] for line in left] == ["q2", "q3", "q4"]
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    assert (again.status_code, again.json()["error"]["code"]) == (409, "batch_ended")
    assert lines.asked == ["q0", "q1", "q2"]
    assert batches.stage.backend.running == 0


async def test_cancelling_before_anything_ran() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        await client.post(f"{URL}/{made['id']}/cancel")
        await batches.work()
        done = await shown(client, made)
    assert (done["status"], done["output_file_id"]) == ("cancelled", None)
    assert batches.stage.backend.requests == []


async def test_after_its_window_a_batch_ends_with_what_it_has() -> None:
    now = datetime.now(UTC)
    moments = [now]
    gate, lines = Gate(), Lines()
    lines.scripts["q1"] = [Script((gate, TOKENS))]
    batches = make_batch_stage(
        script=lines, clock=lambda: moments[-1], jobs=JobSettings(batch_concurrency=1)
    )
    async with batches.stage.client() as client:
        made = await start_batch(client, [question("q0"), question("q1")], completion_window="1h")
        working = asyncio.create_task(batches.work())
        assert await asyncio.to_thread(gate.reached.wait, 10)
        moments.append(now + timedelta(hours=2))
        await asyncio.wait_for(working, 10)
        done = await shown(client, made)
        left = await read_file(client, done["error_file_id"])
    assert done["status"] == "expired"
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert [line["error"]["code"] for line in left] == ["batch_expired"]


async def test_no_more_requests_run_at_once_than_allowed() -> None:
    most = 0

    def script(_: GenerationRequest) -> Script:
        nonlocal most
        most = max(most, batches.stage.backend.running + 1)
        return Script((TOKENS,))

    batches = make_batch_stage(script=script, jobs=JobSettings(batch_concurrency=3))
    async with batches.stage.client() as client:
        for _ in range(3):
            await start_batch(client, [question(f"q{n}") for n in range(6)])
        await batches.work()
    assert len(batches.stage.backend.requests) == 18
    assert most <= 3


async def test_a_full_server_is_waited_for_and_an_empty_purse_is_not() -> None:
    lines = Lines()
    full = Script(refusal=OverloadedError("Full.", retry_after_s=0))
    broke = RateLimitError("No money.", code="insufficient_quota")
    lines.scripts["full"] = [full]
    lines.scripts["broke"] = [Script(refusal=broke)] * 50
    batches = make_batch_stage(script=lines)
    async with batches.stage.client() as client:
        made = await start_batch(client, [question("full")])
        await asyncio.wait_for(batches.work(), 20)
        done = await shown(client, made)
    assert done["request_counts"]["completed"] == 1
    assert lines.asked == ["full", "full"]


async def test_a_batch_gives_way_to_whoever_waits_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = make_batch_stage()
    backend = batches.stage.backend
    busy = replace(backend.stats(), waiting=1)
    loads = [busy, busy]
    monkeypatch.setattr(
        type(backend), "stats", lambda _: loads.pop() if loads else replace(busy, waiting=0)
    )
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        await batches.work()
        done = await shown(client, made)
    assert done["request_counts"]["completed"] == 1
    assert loads == []
    assert len(backend.requests) == 1


async def test_a_server_that_fails_is_asked_again_but_not_for_ever() -> None:
    batches = make_batch_stage(script=Script(error=OverloadedError("x"), steps=((),)))
    broken = Script((TOKENS,), vanishes=True)
    lines = Lines()
    lines.scripts = {"once": [broken], "always": [broken] * 9}
    batches = make_batch_stage(script=lines)
    async with batches.stage.client() as client:
        made = await start_batch(client, [question("once"), question("always")])
        await batches.work()
        done = await shown(client, made)
        errors = await read_file(client, done["error_file_id"])
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert [line["custom_id"] for line in errors] == ["always"]
    assert errors[0]["response"]["status_code"] == 500
    assert lines.asked.count("always") == 3


# --- crashes ------------------------------------------------------------------------------------


async def test_a_stopped_worker_puts_its_job_back_and_another_goes_on() -> None:
    gate, lines = Gate(), Lines()
    lines.scripts["q3"] = [Script((gate, TOKENS))]
    batches = make_batch_stage(script=lines, jobs=JobSettings(batch_concurrency=1))
    stop = asyncio.Event()
    async with batches.stage.client() as client, batches.inside() as inside:
        made = await start_batch(client, [question(f"q{n}") for n in range(6)])
        working = asyncio.create_task(batches.worker(inside).run(stop))
        assert await asyncio.to_thread(gate.reached.wait, 10)
        stop.set()
        await asyncio.wait_for(working, 10)
        assert (await shown(client, made))["status"] == "in_progress"
        await batches.work(name="w2")
        done = await shown(client, made)
        results = await read_file(client, done["output_file_id"])
    assert done["status"] == "completed"
    assert [line["custom_id"] for line in results] == [f"q{n}" for n in range(6)]
    assert lines.asked == ["q0", "q1", "q2", "q3", "q3", "q4", "q5"]


async def test_a_worker_that_was_taken_for_dead_adds_nothing() -> None:
    gate, lines = Gate(), Lines()
    lines.scripts["q1"] = [Script((gate, TOKENS))]
    batches = make_batch_stage(script=lines, jobs=JobSettings(batch_concurrency=1))
    async with batches.stage.client() as client, batches.inside() as inside:
        made = await start_batch(client, [question(f"q{n}") for n in range(3)])
        late = asyncio.create_task(batches.worker(inside, name="w1").run(asyncio.Event()))
        assert await asyncio.to_thread(gate.reached.wait, 10)
        await batches.store.queue.release_worker("w1")
        gate.open()
        done = await shown(client, made)
        while done["status"] not in (
            "completed",
            "failed",
        ):  # w1 may claim the job again before w2 does
            await batches.work(name="w2")
            done = await shown(client, made)
        results = await read_file(client, done["output_file_id"])
        late.cancel()
        await asyncio.wait({late})
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert [line["custom_id"] for line in results] == ["q0", "q1", "q2"]


async def test_a_job_that_always_fails_is_given_up() -> None:
    batches = make_batch_stage()

    class Broken:
        tries = 0

        async def run(self, job: object) -> None:
            self.tries += 1
            raise ZeroDivisionError

        async def give_up(self, job: Any) -> None:
            async with batches.inside() as client:
                await batches.handler(client).give_up(job)

    broken = Broken()
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        for _ in range(MAX_ATTEMPTS):
            await batches.work(handler=broken)
            await batches.store.queue.release_worker("w1")
            await _make_available(batches)
        done = await shown(client, made)
    assert broken.tries == MAX_ATTEMPTS
    assert done["status"] == "failed"
    assert done["errors"]["data"][0]["code"] == "batch_failed"


async def _make_available(batches: Any) -> None:
    """Let the pause before the next try be over."""
    from sqlalchemy import update

    from osslo.store.job_tables import JobRow

    async with batches.store.files.database.write() as session:
        await session.execute(update(JobRow).values(available_at=datetime(2020, 1, 1, tzinfo=UTC)))


async def test_a_batch_whose_input_is_gone_says_so() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client:
        made = await start_batch(client, [GOOD])
        held = await client.delete(f"/v1/files/{made['input_file_id']}")
        kept = await batches.store.files.get("default", made["input_file_id"])
        async with batches.store.files.database.write() as session:
            from sqlalchemy import delete

            from osslo.store.job_tables import FileRow

            await session.execute(delete(FileRow).where(FileRow.id == kept.id))
        await batches.work()
        done = await shown(client, made)
    assert (held.status_code, held.json()["error"]["code"]) == (409, "file_in_use")
    assert done["errors"]["data"][0]["code"] == "input_file_not_found"


# --- acting for the owner -----------------------------------------------------------------------


async def test_the_workers_secret_works_for_running_batches_only() -> None:
    batches = make_batch_stage()
    async with batches.stage.client() as client, batches.inside() as inside:
        made = await start_batch(client, [GOOD])

        async def status(value: str, **headers: str) -> int:
            sent = {JOB_HEADER: value} | headers
            return (await inside.get("/v1/models", headers=sent)).status_code

        assert await status(f"{SECRET} {made['id']}") == 200
        assert await status(f"wrong {made['id']}") == 401
        assert await status(SECRET) == 401
        assert await status(f"{SECRET} batch_other") == 401
        assert await status(f" {made['id']}") == 401
        for passed_on in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
            assert await status(f"{SECRET} {made['id']}", **{passed_on: "1.2.3.4"}) == 401
        far = httpx.ASGITransport(batches.stage.app, client=("10.1.2.3", 5))
        async with httpx.AsyncClient(transport=far, base_url="http://osslo") as stranger:
            headers = {JOB_HEADER: f"{SECRET} {made['id']}"}
            assert (await stranger.get("/v1/models", headers=headers)).status_code == 401
        await batches.work()
        assert await status(f"{SECRET} {made['id']}") == 401


async def test_without_a_worker_nobody_may_act() -> None:
    batches = make_batch_stage()
    from tests.api.conftest import make_stage

    plain = make_stage()
    async with batches.stage.client() as client, plain.client() as other:
        made = await start_batch(client, [GOOD])
        headers = {JOB_HEADER: f"{SECRET} {made['id']}"}
        assert (await other.get("/v1/models", headers=headers)).status_code == 401


def test_the_endpoints_are_the_ones_that_are_documented() -> None:
    from typing import get_args

    from osslo.api.batches.schema import Endpoint

    assert get_args(Endpoint) == ENDPOINTS
