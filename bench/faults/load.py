"""Requests over HTTP, as many at once as there are workers, from a process of its own.

Each worker belongs to one server's seat and waits while it is down. What the client was told of a
request, its usage above all, goes into a file of JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from pathlib import Path
from typing import Any, TextIO

import httpx

from bench.faults.people import Means, Person

_CANCELLED_SHARE = 0.08
_TIMEOUT_S = 180.0
_WORDS = [
    "who",
    "what",
    "when",
    "why",
    "how",
    "far",
    "near",
    "cold",
    "warm",
    "sea",
    "ship",
    "fjord",
]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """`workers` of each seat call for `people`; what they were told goes into `told`."""

    people: tuple[Person, ...]
    workers: int
    told: Path
    seed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to send. `leave_after` is the number of bytes after which the client goes."""

    path: str
    body: dict[str, Any]
    leave_after: int | None


def run(
    plan: LoadPlan,
    ports: SynchronizedArray[int],
    accepted: Synchronized[int],
    stop: Synchronized[bool],
) -> None:
    """Send until `stop`, and let what runs end. The main function of a process of its own."""
    asyncio.run(_run(plan, ports, accepted, stop))


async def _run(plan: LoadPlan, ports: Any, accepted: Any, stop: Any) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:
        with plan.told.open("w", encoding="utf-8") as told:
            common = _Common(plan, client, ports, accepted, stop, told)
            places = [(seat, place) for seat in range(len(ports)) for place in range(plan.workers)]
            await asyncio.gather(*(_work(common, seat, place) for seat, place in places))


@dataclass(frozen=True, slots=True)
class _Common:
    """What all workers share."""

    plan: LoadPlan
    client: httpx.AsyncClient
    ports: Any
    accepted: Any
    stop: Any
    told: TextIO


async def _work(common: _Common, seat: int, place: int) -> None:
    dice = random.Random(f"{common.plan.seed}-{seat}-{place}")
    while not common.stop.value:
        port = common.ports[seat]
        if not port:
            await asyncio.sleep(0.05)
            continue
        person, asked = _someone(common.plan.people, dice), _request(dice)
        outcome = await _ask(common.client, f"http://127.0.0.1:{port}", person.key, asked)
        line = {"path": asked.path, "means": person.means} | outcome
        common.told.write(json.dumps(line) + "\n")
        if outcome["status"] == 200:
            with common.accepted.get_lock():
                common.accepted.value += 1
        else:
            await asyncio.sleep(dice.uniform(0.02, 0.2))


def _someone(people: tuple[Person, ...], dice: random.Random) -> Person:
    """Those who are short of money call less often: most of what they ask for is refused."""
    weights = [1.0 if person.means is Means.RICH else 0.3 for person in people]
    return dice.choices(people, weights)[0]


def _request(dice: random.Random) -> Asked:
    """One of the protocols, with a prompt and a limit of any size; some name no limit."""
    few, some, many = dice.randint(1, 24), dice.randint(24, 100), dice.randint(100, 320)
    most = dice.choices((few, some, many), (74, 15, 11))[0]
    text = " ".join(dice.choices(_WORDS, k=dice.randint(1, 40)))
    message = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": text}]}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    free = {"ignore_eos": dice.random() < 0.5, "seed": dice.getrandbits(40)}
    leaves = dice.random() < _CANCELLED_SHARE
    leave_after = dice.randint(200, 20_000) if leaves else None
    kind = dice.choices(("chat", "unlimited", "whole", "two", "raw", "anthropic"),
                        (50, 4, 10, 4, 16, 16))[0]  # fmt: skip
    match kind:
        case "chat":
            body = message | stream | free | {"max_tokens": most}
        case "unlimited":
            body = message | stream
        case "two":
            body = message | stream | free | {"max_tokens": most, "n": 2}
        case "whole":
            return Asked("/v1/chat/completions", message | free | {"max_tokens": most}, None)
        case "raw":
            body = {"model": "gpt-oss-20b", "prompt": text, "max_tokens": most} | stream | free
            return Asked("/v1/completions", body, leave_after)
        case _:
            body = message | {"stream": True, "max_tokens": most}
            return Asked("/v1/messages", body, leave_after)
    return Asked("/v1/chat/completions", body, leave_after)


async def _ask(client: httpx.AsyncClient, base: str, key: str, asked: Asked) -> dict[str, Any]:
    """Send it, read it, and say what the client knows then: status, id, usage, and whether it was
    `lost` (the connection broke) or `left` (by the client)."""
    headers = {"authorization": f"Bearer {key}"}
    content, status, end = bytearray(), 0, "whole"
    try:
        async with client.stream("POST", base + asked.path, json=asked.body, headers=headers) as r:
            status = r.status_code
            async for piece in r.aiter_raw():
                content += piece
                if asked.leave_after is not None and len(content) > asked.leave_after:
                    end = "left"
                    break
    except httpx.HTTPError as error:
        end = f"lost: {type(error).__name__}"
    return {"status": status, "end": end} | _told(bytes(content), asked)


def _told(content: bytes, asked: Asked) -> dict[str, Any]:
    """The id and, where it came and is about one turn, the usage."""
    lines = content.decode(errors="replace").splitlines()
    texts = [line.removeprefix("data: ") for line in lines if "{" in line]
    found: dict[str, Any] = {}
    for text in (*texts[:2], *texts[-3:]):
        try:
            event = json.loads(text)
        except ValueError:
            continue
        message = event.get("message")
        name = event.get("id") or (message.get("id") if isinstance(message, dict) else None)
        if isinstance(name, str):
            found["id"] = name
        usage = event.get("usage")
        if isinstance(usage, dict) and asked.body.get("n", 1) == 1:
            count = usage.get("completion_tokens", usage.get("output_tokens"))
            found["completion_tokens"] = count
        if isinstance(event.get("error"), dict):
            found["error"] = event["error"].get("code") or event["error"].get("type")
    return found
