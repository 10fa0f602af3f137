"""`schema_violations`: what a model of noise writes under a schema is valid under that schema.

Schemas are real ones. Each request goes the whole way, HTTP, grammar, engine and parser, half of
them as a response format, half as a tool's parameters. A schema that cannot be enforced in full is
refused when strict (counted), and then asked for leniently: what comes with a warning is only
parsed, what comes without one has to be valid. Outputs that met the token limit are not counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from bench.conformance import corpus
from bench.conformance.corpus import RealSchema
from bench.conformance.random_model import CONCURRENT, random_engine, real_tokenizer
from bench.conformance.rows import Failures, Row, progressing
from bench.conformance.stage import MODEL, world

URL = "/v1/chat/completions"
MAX_TOKENS = 600
CACHE = Path("build/test-cache")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output to ask for."""

    real: RealSchema
    as_tool: bool
    seed: int

    def body(self, *, strict: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Anything."}],
            "reasoning_effort": "none",
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        if self.as_tool:
            function = {"name": "f", "parameters": self.real.schema, "strict": strict}
            tool = {"type": "function", "function": function}
            return body | {"tools": [tool], "tool_choice": "required"}
        named = {"name": "f", "schema": self.real.schema, "strict": strict}
        return body | {"response_format": {"type": "json_schema", "json_schema": named}}


def wanted(schemas: list[RealSchema], seed: int) -> Iterator[Wanted]:
    """Without end: every schema once, in random order, then again."""
    source = random.Random(seed)
    while True:
        source.shuffle(schemas)
        for real in schemas:
            yield Wanted(real, source.random() < 0.5, source.randrange(1 << 30))


async def run(samples: int, seed: int, failures: Failures) -> Row:
    """Until `samples` outputs were complete and judged."""
    counted: Counter[str] = Counter()
    judge = _Judge(failures, counted)
    schemas = corpus.load()
    asks = wanted(schemas, seed)
    budget = 20 * samples + 200  # of requests: most give an output
    async with _client(seed) as client:

        async def work(_: int) -> None:
            while counted["judged"] < samples and counted["requests"] < budget:
                counted["requests"] += 1
                await judge.one(client, next(asks))

        tasks = [asyncio.create_task(work(number)) for number in range(CONCURRENT)]
        shown = progressing("schema_violations", iter(int, 1), samples, failures)
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=0.5)
            next(shown)
        for task in tasks:
            task.result()
    remarks = dict(sorted(counted.items())) | {"schemas": len(schemas)}
    return Row("schema_violations", failures.count, 0, counted["judged"], remarks=remarks)


@asynccontextmanager
async def _client(seed: int) -> AsyncIterator[httpx.AsyncClient]:
    tokenizer = real_tokenizer(CACHE)
    engine = random_engine(tokenizer, seed)
    try:
        async with world(engine, tokenizer) as made, made.client() as client:
            yield client
    finally:
        await engine.close()


class _Judge:
    """Asks for one output and validates it by the library that others trust."""

    def __init__(self, failures: Failures, counted: Counter[str]) -> None:
        self._failures = failures
        self._counted = counted

    async def one(self, client: httpx.AsyncClient, want: Wanted) -> None:
        reply = await client.post(URL, json=want.body(strict=True))
        if reply.status_code == 400:
            self._counted["refused_when_strict"] += 1
            reply = await client.post(URL, json=want.body(strict=False))
        if reply.status_code == 400:
            self._counted["refused"] += 1
            return
        if reply.status_code == 503:  # a machine that stood still: no output, so none to judge
            self._counted["unavailable"] += 1
            return
        if reply.status_code != 200:
            self._fail(f"status {reply.status_code}", want, reply.text)
            return
        self._read(want, reply.json())

    def _read(self, want: Wanted, body: dict[str, Any]) -> None:
        choice = body["choices"][0]
        message = choice["message"]
        if choice["finish_reason"] == "length":
            self._counted["cut_off"] += 1
            return
        calls = message.get("tool_calls") or []
        if want.as_tool and [call["function"]["name"] for call in calls] != ["f"]:
            self._fail("not one call", want, json.dumps(message))
            return
        text = calls[0]["function"]["arguments"] if want.as_tool else message["content"]
        self._judge(want, text, warned=bool(body.get("osslo")))

    def _judge(self, want: Wanted, text: str, *, warned: bool) -> None:
        self._counted["judged"] += 1
        self._counted["characters"] += len(text)
        try:
            value = json.loads(text)
        except ValueError as error:
            self._fail(f"no JSON: {error}", want, text)
            return
        if warned:
            self._counted["only_parsed"] += 1
            return
        validator = validator_for(want.real.schema, default=Draft202012Validator)
        try:
            problem = next(iter(validator(want.real.schema).iter_errors(value)), None)
        except (SchemaError, Unresolvable, RecursionError, re.error) as error:  # ECMA's patterns
            self._counted["not_validated"] += 1
            self._counted[f"not_validated: {type(error).__name__}"] += 1
            return
        if problem is not None:
            self._fail(f"invalid at {problem.json_path}: {problem.message[:300]}", want, text)

    def _fail(self, what: str, want: Wanted, output: str) -> None:
        self._failures.add(
            what,
            schema_name=want.real.name,
            schema=want.real.schema,
            as_tool=want.as_tool,
            output=output,
        )
