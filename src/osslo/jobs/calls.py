"""Requests to this server's own API, on behalf of a batch's owner.

What is over soon (a full queue, a server that restarts) is waited for; what is not is an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from osslo.store.jobs import JOB_HEADER
from osslo.types import Usage

READ_TIMEOUT_S = 3600.0
_FULL = (429, 503, 529)
_MAX_WAIT_S = 60.0
_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gave. `body` is its JSON, whatever the status."""

    status: int
    request_id: str
    body: Any

    @property
    def good(self) -> bool:
        return self.status < 400

    def usage(self) -> Usage:
        """The tokens that the answer counts, in either of OpenAI's spellings."""
        counted = self.body.get("usage") if isinstance(self.body, dict) else None
        if not isinstance(counted, dict):
            return Usage(0, 0)
        return Usage(
            prompt_tokens=_count(counted, "prompt_tokens", "input_tokens"),
            completion_tokens=_count(counted, "completion_tokens", "output_tokens"),
            cached_tokens=_count(
                _details(counted, "prompt_tokens_details", "input_tokens_details"),
                "cached_tokens",
            ),
            reasoning_tokens=_count(
                _details(counted, "completion_tokens_details", "output_tokens_details"),
                "reasoning_tokens",
            ),
        )


class Api:
    """The server that started this worker. `secret` proves it."""

    def __init__(self, client: httpx.AsyncClient, secret: str, *, wait_s: float = 1.0) -> None:
        """`wait_s` is the shortest time to wait before a request is tried again."""
        self._client = client
        self._secret = secret
        self._wait_s = wait_s

    async def post(self, path: str, body: Mapping[str, Any], *, on_behalf_of: str) -> Answer:
        """Send `body` as the owner of the batch `on_behalf_of`, until there is an answer.

        A full or absent server is waited for without end: the caller sets the time limit.
        """
        failures = waits = 0
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        headers = {
            JOB_HEADER: f"{self._secret} {on_behalf_of}",
            "content-type": "application/json",
        }
        while True:
            try:
                response = await self._client.post(path, content=content, headers=headers)
            except httpx.ReadTimeout:
                failures += 1
                if failures >= _MAX_FAILURES:
                    return _gave_up("The request took too long.")
                continue
            except httpx.TransportError:
                waits += 1
                await asyncio.sleep(self._delay(waits))
                continue
            if _is_full(response):
                waits += 1
                await asyncio.sleep(max(_retry_after_s(response), self._delay(min(waits, 3))))
                continue
            if response.status_code >= 500:
                failures += 1
                if failures < _MAX_FAILURES:
                    await asyncio.sleep(self._delay(failures))
                    continue
            return _answer(response)

    def _delay(self, tries: int) -> float:
        return float(min(_MAX_WAIT_S, self._wait_s * 2 ** min(tries - 1, 6)))


def _is_full(response: httpx.Response) -> bool:
    """The server asks to come back; one that says that it is of no use does not."""
    return response.status_code in _FULL and response.headers.get("x-should-retry") != "false"


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(_MAX_WAIT_S, float(text)) if text.isdigit() else 0.0


def _answer(response: httpx.Response) -> Answer:
    try:
        body = response.json()
    except ValueError:
        return _gave_up("The answer was not JSON.")
    return Answer(response.status_code, response.headers.get("x-request-id", ""), body)


def _gave_up(message: str) -> Answer:
    error = {"message": message, "type": "server_error", "param": None, "code": "batch_failed"}
    return Answer(500, "", {"error": error})


def _details(counted: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = counted.get(name)
        if isinstance(found, dict):
            return found
    return {}


def _count(counted: Mapping[str, Any], *names: str) -> int:
    for name in names:
        found = counted.get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return 0
