"""`replay_differences`: random tokens give the same answer whole and streamed, on every protocol.

The tokens are cut into random pieces; half of the sequences are made of harmony's parts and known
malformed forms, so that they get deep into the parser, half are noise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import httpx

from bench.conformance.protocols import PROTOCOLS, Protocol, Said, Wish, read_events
from bench.conformance.rows import Failures, Row, progressing
from osslo.errors import EngineError
from osslo.types import FinishReason
from tests.api.conftest import make_stage
from tests.harmony.malformed import CORPUS
from tests.scripted import SPECIALS, ByteVocabulary, Script

VOCABULARY = ByteVocabulary()
FUNCTIONS = ("f", "get_weather", "python")
PARTS = (
    *SPECIALS, "assistant", "analysis", "commentary", "final", " to=functions.f", " to=python",
    " to=functions.get_weather", " to=user", "json", " ", "\n", '{"a":1}', '{"city":"Os', "}",
    "[1,2]", "Hm, let me think.", "It is 4.", "é", "東京", "🇳🇴", "STOP", "ST", "functions.",
    "<|channel|>final<|message|>", "<|channel|>analysis<|message|>", "<|end|><|start|>assistant",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One output of a model, how it is cut, and what the request asked for."""

    tokens: tuple[int, ...]
    chunk: int
    wish: Wish
    fails: bool


def draw(source: random.Random) -> Sample:
    """A random sample."""
    kind = source.random()
    if kind < 0.4:
        parts = source.choices(PARTS, k=source.randint(0, 20))
        tokens = list(VOCABULARY.tokens("".join(parts)))
    elif kind < 0.7:
        forms = source.choices(CORPUS, k=source.randint(1, 2))
        tokens = list(VOCABULARY.tokens("".join(form.stream for form in forms)))
        for _ in range(source.randint(0, 3)):
            tokens.insert(source.randint(0, len(tokens)), source.randrange(VOCABULARY.vocab_size))
    else:
        tokens = source.choices(range(VOCABULARY.vocab_size), k=source.randint(0, 120))
    if source.random() < 0.2 and tokens:  # cut anywhere, inside a character too
        tokens = tokens[: source.randrange(len(tokens))]
    wish = Wish(
        functions=FUNCTIONS if source.random() < 0.7 else (),
        stop=("STOP", "é!") if source.random() < 0.4 else (),
        max_tokens=source.choice((2000, 2000, 2000, 16, 40)),
        logprobs=source.random() < 0.3,
    )
    return Sample(tuple(tokens), source.choice((1, 1, 2, 7, 50)), wish, source.random() < 0.05)


def script_of(sample: Sample) -> Script:
    if not sample.fails:
        return Script((sample.tokens,), chunk=sample.chunk)
    error = EngineError("The engine broke.")
    return Script((sample.tokens,), chunk=sample.chunk, finish=FinishReason.ERROR, error=error)


async def run(samples: int, seed: int, failures: Failures) -> Row:
    """Every sample on every protocol, whole and streamed."""
    source = random.Random(seed)
    stage = make_stage(context=100_000)
    seen: dict[str, int] = {protocol.name: 0 for protocol in PROTOCOLS}
    seen |= {"with_calls": 0, "with_text": 0, "with_reasoning": 0, "with_errors": 0}
    async with stage.client() as client:
        drawn: Iterator[Sample] = (draw(source) for _ in range(samples))
        for sample in progressing("replay_differences", drawn, samples, failures):
            stage.backend.script = script_of(sample)
            stage.backend.requests.clear()
            stage.backend.aborts.clear()
            for protocol in PROTOCOLS:
                whole, streamed = await ask_twice(client, protocol, sample.wish)
                seen[protocol.name] += 1
                seen["with_calls"] += bool(whole.calls)
                seen["with_text"] += bool(whole.text)
                seen["with_reasoning"] += bool(whole.reasoning)
                seen["with_errors"] += whole.error is not None
                if whole != streamed:
                    failures.add(
                        f"{protocol.name}: streamed is not whole",
                        sample=asdict(sample),
                        whole=asdict(whole),
                        streamed=asdict(streamed),
                    )
    return Row("replay_differences", failures.count, 0, samples, remarks=seen)


async def ask_twice(client: httpx.AsyncClient, protocol: Protocol, wish: Wish) -> tuple[Said, Said]:
    """The answer whole, and the answer streamed."""
    body = protocol.ask(wish)
    whole = await client.post(protocol.path, json=body)
    options = {"stream": True}
    if protocol.name in ("chat", "completions"):
        options["stream_options"] = {"include_usage": True}  # type: ignore[assignment]  # JSON
    streamed = await client.post(protocol.path, json=body | options)
    said = protocol.streamed(read_events(streamed.text))
    if streamed.status_code != 200:  # nothing was sent before it failed: an answer with a status
        said = protocol.whole(json.loads(streamed.text))
    return protocol.whole(whole.json()), said
