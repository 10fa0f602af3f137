"""The conformance rows in small, as CI runs them; `make conformance` runs them whole.

Each row is also shown what it has to find, so that none can pass by not looking.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bench.conformance import fuzz, malformed, overload, replay, schemas
from bench.conformance.protocols import CHAT, MESSAGES, PROTOCOLS, Said
from bench.conformance.rows import Failures, Row
from tests.harmony.malformed import Form

SEED = 20


@pytest.fixture
def failures(tmp_path: Path) -> Failures:
    return Failures("row", tmp_path)


def told(failures: Failures) -> str:
    return failures.path.read_text() if failures.count else ""


async def test_streamed_is_whole(failures: Failures) -> None:
    row = await replay.run(25, SEED, failures)
    assert row.met, told(failures)
    assert min(row.remarks[name] for name in ("with_calls", "with_text", "with_reasoning")) > 0


async def test_a_difference_would_be_seen(
    failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = replace(CHAT, streamed=lambda _: Said(text="something else"))
    monkeypatch.setattr(replay, "PROTOCOLS", (deaf, *PROTOCOLS[1:]))
    assert not (await replay.run(1, SEED, failures)).met
    assert "streamed is not whole" in told(failures)


async def test_malformed_calls_are_recovered(failures: Failures) -> None:
    row = await malformed.run(8, failures)
    assert row.met, told(failures)
    assert row.remarks["checks"] == 8 * 3 * 2 * 2


async def test_a_lost_call_would_be_seen(
    failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Form("x", "<|channel|>final<|message|>Hi<|return|>", (("functions.f", "{}"),))
    monkeypatch.setattr(malformed, "forms", lambda: [answer])
    assert (await malformed.run(1, failures)).value == 12


def test_nothing_makes_a_5xx(failures: Failures) -> None:
    row = fuzz.run(150, 1, SEED, failures, every=6)
    assert row.met, told(failures)
    assert row.remarks["operations"] > 10
    assert row.remarks["status_2xx"] > 5


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, "{}"),
        (503 - 1, "{}"),
        (400, "not the shape"),
        (200, 'data: {"error": {"message": "' + fuzz.INTERNAL_MESSAGE + '"}}'),
    ],
)
def test_a_bad_answer_would_be_seen(failures: Failures, status: int, text: str) -> None:
    reply = httpx.Response(status, text=text, request=httpx.Request("POST", "http://osslo/"))
    fuzz.judge(reply, failures, Counter(), request="x")
    assert failures.count == 1


async def test_real_schemas_are_followed(
    failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas.corpus, "load", lambda: list(schemas.corpus.EXAMPLES))
    row = await schemas.run(24, SEED, failures)
    assert row.met, told(failures)
    assert row.samples >= 24


def test_a_violation_would_be_seen(failures: Failures) -> None:
    want = schemas.Wanted(schemas.corpus.EXAMPLES[0], as_tool=False, seed=1)
    judge = schemas._Judge(failures, Counter())
    judge._judge(want, "{}", warned=False)
    judge._judge(want, "{", warned=True)
    assert failures.count == 2


def test_overload_is_refused_in_order(failures: Failures) -> None:
    row = overload.run(3.0, SEED, failures, times=10)
    assert row.met, told(failures)
    assert row.remarks["status_200"] > 0
    assert row.remarks["status_503"] > 0
    assert row.remarks["status_529"] > 0


@pytest.mark.parametrize(
    ("status", "headers", "wrong"),
    [
        (503, {"retry-after": "1"}, "status 503"),
        (529, {}, "without Retry-After"),
        (500, {}, "status 500"),
        (529, {"retry-after": "1"}, None),
    ],
)
def test_a_disorderly_refusal_would_be_seen(
    status: int, headers: dict[str, str], wrong: str | None
) -> None:
    found = overload.problem_of(httpx.Response(status, headers=headers), MESSAGES, streamed=False)
    assert (wrong is None and found is None) or (wrong is not None and wrong in (found or ""))


def test_a_row_without_samples_is_not_met() -> None:
    assert not Row("x", 0, 0, 0).met
    assert not Row("x", 1, 2, 5, "higher").met
    assert json.loads(json.dumps(Row("x", 0, 0, 1).as_json()))["met"]
