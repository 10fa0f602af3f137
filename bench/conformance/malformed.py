"""`malformed_calls_lost`: every known malformed call comes out of the HTTP API as the call it is.

The forms are those of the parser's own corpus, and those of other servers' bug reports, told with
where they were seen. Each runs on every protocol that has calls, whole and streamed, and in two
cuts of its tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bench.conformance.protocols import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Protocol,
    Said,
    Wish,
    parsed_input,
)
from bench.conformance.replay import ask_twice
from bench.conformance.rows import Failures, Row, progressing
from tests.api.conftest import make_stage
from tests.harmony.malformed import ARGS, CALL, CORPUS, KNOWN, Form
from tests.scripted import ByteVocabulary, Script

VOCABULARY = ByteVocabulary()
PROTOCOLS = (CHAT, RESPONSES, MESSAGES)
WISH = Wish(functions=tuple(name.removeprefix("functions.") for name in KNOWN))

# --- as reported: server, number, and the text before the stream where that says more ------------
REPORTED = (
    # vllm#23567, #51977 and harmony#38: strict parsers answer 500 to a recipient in the header
    Form("vllm-23567", f" to=functions.f<|channel|>commentary <|constrain|>json{ARGS}", (CALL,)),
    Form("vllm-51977", f"<|channel|>commentary to=functions.f <|constrain|>json{ARGS}", (CALL,)),
    # openvino PR3786, omlx#2216, vllm-mlx PR562: calls on the analysis channel
    Form("omlx-2216", f"<|channel|>analysis to=functions.f <|constrain|>json{ARGS}", (CALL,)),
    Form("vllm-mlx-562", f"<|channel|>analysis to=functions.f code{ARGS}", (CALL,)),
    # sglang PR10576: a call that ends like an answer
    Form("sglang-10576",
         '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|return|>',
         (CALL,)),
    # harmony#60, and what follows reasoning that was not closed
    Form("harmony-60",
         f"<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>commentary"
         f" to=functions.f <|constrain|>json{ARGS}", (CALL,)),
    # a preamble, then the call: vllm#24076 and #26083 lost its first tokens in streams
    Form("vllm-24076",
         "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary"
         f" to=functions.f <|constrain|>json{ARGS}", (CALL,)),
    # two calls in one turn
    Form("two-calls",
         f"<|channel|>commentary to=functions.f{ARGS}<|start|>assistant<|channel|>commentary"
         f" to=functions.f{ARGS}", (CALL, CALL)),
)  # fmt: skip


def forms() -> list[Form]:
    """All forms with a call to recover."""
    return [form for form in (*CORPUS, *REPORTED) if form.calls]


def wanted(form: Form, protocol: Protocol) -> list[tuple[str, Any]]:
    """The calls of a form, as `protocol` writes them."""
    named = [(name.removeprefix("functions."), arguments) for name, arguments in form.calls]
    if protocol is not MESSAGES:
        return list(named)
    return [(name, _input(arguments)) for name, arguments in named]


def _input(arguments: str) -> Any:
    """Anthropic's inputs are objects: what is none stands in one."""
    parsed = parsed_input(arguments)
    return parsed if isinstance(parsed, dict) else {"INVALID_JSON": arguments}


async def run(samples: int, failures: Failures) -> Row:
    """The first `samples` forms, everywhere."""
    stage = make_stage(context=100_000)
    picked = forms()[:samples]
    checks = 0
    async with stage.client() as client:
        for form in progressing("malformed", picked, len(picked), failures):
            for protocol in PROTOCOLS:
                for chunk in (1, 1000):
                    stage.backend.script = Script((VOCABULARY.tokens(form.stream),), chunk=chunk)
                    stage.backend.requests.clear()
                    for said in await ask_twice(client, protocol, WISH):
                        checks += 1
                        _check(form, protocol, said, failures)
    remarks = {"checks": checks, "forms": len(picked)}
    return Row("malformed_calls_lost", failures.count, 0, len(picked), remarks=remarks)


def _check(form: Form, protocol: Protocol, said: Said, failures: Failures) -> None:
    expected = wanted(form, protocol)
    if said.error is not None or json.dumps(said.calls) != json.dumps(expected):
        failures.add(
            f"{protocol.name}: {form.name}",
            stream=form.stream,
            wanted=expected,
            said=asdict(said),
        )
