"""`fuzz_5xx`: whatever is sent to whichever route, the answer is never a 5xx.

Two ways: schemathesis makes requests from the OpenAPI document, right and wrong ones, for every
operation; and our own mutations of valid requests, which get deeper. Whoever asks is the owner of
the server, by key or in a session. What is refused must have its protocol's error shape, and a
stream that began must not end in a failure of ours.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.errors import Unsatisfiable
from pydantic import ValidationError

from bench.conformance.mutation import Spoiled, spoil
from bench.conformance.rows import Failures, Row, progressing
from bench.conformance.stage import World, world
from osslo.accounts.sessions import Browser
from osslo.api.errors import INTERNAL_MESSAGE
from osslo.api.messages.errors import MessagesErrorReply
from osslo.api.sessions import CSRF_HEADER
from osslo.api.shapes import ErrorReply
from tests.api.conftest import ANSWER
from tests.api.test_moderations import judging
from tests.scripted import ByteVocabulary, ScriptedBackend

VOCABULARY = ByteVocabulary()
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


@dataclass(frozen=True, slots=True)
class Target:
    """The application, called from a thread without a loop."""

    portal: BlockingPortal
    world: World
    client: httpx.AsyncClient

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            return await self.client.request(method, path, **options)

        return self.portal.call(call)

    def session(self) -> dict[str, str]:
        """Headers of a new session of the server's owner."""

        async def begin() -> dict[str, str]:
            holder = await self.world.accounts.keyring.identify(self.world.key, address=None)
            if holder is None:
                raise RuntimeError("a fuzzed request took the key of the run away")
            begun = await self.world.accounts.sessions.begin(holder.user, Browser("192.0.2.1"))
            cookie = f"osslo_session={begun.token}"
            return {"cookie": cookie, CSRF_HEADER: begun.signed_in.csrf, "authorization": ""}

        return self.portal.call(begin)


@contextmanager
def target() -> Iterator[Target]:
    """The whole application over a script that fills in the judge's form where it is asked to,
    with its background tasks."""
    backend = ScriptedBackend(judging(ANSWER), max_context_tokens=100_000)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(world(backend, VOCABULARY)) as made,
        portal.wrap_async_context_manager(made.client()) as client,
    ):
        yield Target(portal, made, client)


@dataclass(frozen=True, slots=True)
class _Fuzzing:
    """One run: what is called, and where findings go."""

    made: Target
    seed: int
    failures: Failures
    counted: Counter[str]


def run(mutations: int, examples: int, seed: int, failures: Failures, *, every: int = 1) -> Row:
    """`examples` of each operation (of one in `every`) and mode by schemathesis, then `mutations`
    of ours."""
    counted: Counter[str] = Counter()
    with target() as made:
        fuzzing = _Fuzzing(made, seed, failures, counted)
        _by_document(fuzzing, examples, every)
        _by_mutation(fuzzing, mutations)
    sent = counted["schemathesis"] + counted["mutations"]
    return Row("fuzz_5xx", failures.count, 0, sent, remarks=dict(sorted(counted.items())))


# --- from the document --------------------------------------------------------------------------


def _by_document(run: _Fuzzing, examples: int, every: int) -> None:
    schema = schemathesis.openapi.from_dict(run.made.world.app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()][run.seed % every :: every]
    for operation in progressing("fuzz: document", operations, len(operations), run.failures):
        run.counted["operations"] += 1
        session = run.made.session()
        for mode in MODES:
            _fuzz_operation(run, operation.as_strategy(generation_mode=mode), examples, session)


def _fuzz_operation(run: _Fuzzing, cases: Any, examples: int, session: dict[str, str]) -> None:
    source = random.Random(run.seed)

    @hypothesis_seed(run.seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def once(case: schemathesis.Case) -> None:
        request = httpx_options(case.as_transport_kwargs(base_url="http://osslo"))
        request["headers"] |= session if source.random() < 0.5 else {}
        try:
            reply = run.made.send(**request)
        except (httpx.InvalidURL, UnicodeEncodeError, httpx.LocalProtocolError):
            run.counted["not_sendable"] += 1
            return
        run.counted["schemathesis"] += 1
        judge(reply, run.failures, run.counted, request=repr(request))

    try:
        once()
    except (Unsatisfiable, schemathesis.errors.SchemathesisError):
        run.counted["nothing_to_send"] += 1  # an operation without a wrong request


def httpx_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `requests` as httpx takes them."""
    made: dict[str, Any] = {
        "method": options["method"],
        "path": options["url"],
        "headers": {
            str(name): str(text).encode("utf-8", "surrogatepass")
            for name, text in (options.get("headers") or {}).items()
        },
    }
    if options.get("params"):
        made["params"] = options["params"]
    if "json" in options:
        made["content"] = json.dumps(options["json"]).encode()
        made["headers"].setdefault("content-type", b"application/json")
    elif options.get("files"):
        made["files"] = [(name, _as_part(part)) for name, part in options["files"]]
    elif options.get("data") is not None:
        data = options["data"]
        made["content"] = data if isinstance(data, bytes) else str(data).encode()
    if options.get("cookies"):
        pairs = "; ".join(f"{name}={text}" for name, text in options["cookies"].items())
        made["headers"]["cookie"] = pairs.encode("utf-8", "surrogatepass")
    return made


def _as_part(part: Any) -> Any:
    """A part of a form whose content is text: schemathesis leaves numbers as they are."""
    if isinstance(part, tuple):
        name, content, *rest = part
        return (name, content if isinstance(content, bytes | str) else str(content), *rest)
    return part if isinstance(part, bytes | str) else str(part)


# --- by mutation --------------------------------------------------------------------------------


def _by_mutation(run: _Fuzzing, mutations: int) -> None:
    source = random.Random(run.seed)
    session = run.made.session()
    drawn: Iterator[Spoiled] = (spoil(source) for _ in range(mutations))
    shown = progressing("fuzz: mutations", drawn, mutations, run.failures)
    for number, spoiled in enumerate(shown, start=1):
        if number % 500 == 0:
            session = run.made.session()
        headers = dict(spoiled.headers) | (session if source.random() < 0.3 else {})
        options = {"content": spoiled.content, "headers": headers}
        try:
            reply = run.made.send(spoiled.method, spoiled.path, **options)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            run.counted["not_sendable"] += 1
            continue
        run.counted["mutations"] += 1
        judge(reply, run.failures, run.counted, request=repr(spoiled))


# --- judging ------------------------------------------------------------------------------------


def judge(
    reply: httpx.Response, failures: Failures, counted: Counter[str], *, request: str
) -> None:
    """Note what is wrong with an answer."""
    counted[f"status_{reply.status_code // 100}xx"] += 1
    wrong = problem_of(reply)
    if wrong is not None:
        failures.add(wrong, request=request[:20_000], answer=reply.text[:2000])


def problem_of(reply: httpx.Response) -> str | None:
    """What is wrong with an answer, if anything."""
    if reply.status_code >= 500 or INTERNAL_MESSAGE in reply.text:
        return f"status {reply.status_code}, or a failure in the stream"
    if reply.status_code < 400 or reply.request.method == "HEAD":
        return None
    if reply.status_code == 503:
        return None
    for shape in (ErrorReply, MessagesErrorReply):
        try:
            shape.model_validate_json(reply.text)
        except ValidationError:
            continue
        return None
    return f"status {reply.status_code} without an error's shape"
