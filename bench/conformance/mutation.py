"""Valid requests to every endpoint that takes a body, and ways to spoil them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.api.test_fuzz import FULL as CHAT
from tests.api.test_fuzz import places
from tests.api.test_messages_fuzz import COUNTED, PROMPT
from tests.api.test_messages_fuzz import FULL as MESSAGE

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
RESPONSE: dict[str, Any] = {
    "model": "gpt-oss-20b",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ],
    "tools": [FUNCTION],
    "tool_choice": "auto",
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    "include": ["reasoning.encrypted_content"],
    "max_output_tokens": 50,
    "metadata": {"a": "b"},
    "store": True,
    "truncation": "disabled",
}
COMPLETION: dict[str, Any] = {
    "model": "gpt-oss-20b", "prompt": ["Once", "Twice"], "max_tokens": 8, "n": 2, "best_of": 2,
    "echo": True, "logprobs": 2, "stop": ["x"], "seed": 1, "logit_bias": {"65": 1},
    "guided_regex": "[a-z]+",
}  # fmt: skip
TOKENIZE = {"messages": CHAT["messages"][:2], "tools": CHAT["tools"], "return_token_strs": True}
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}

VALID: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT | {"stream": True, "store": True}),
    ("POST", "/v1/responses", RESPONSE),
    ("POST", "/v1/responses", RESPONSE | {"stream": True}),
    ("POST", "/v1/responses/input_tokens", {k: RESPONSE[k] for k in ("model", "input", "tools")}),
    ("POST", "/v1/completions", COMPLETION),
    ("POST", "/v1/completions", {"model": "gpt-oss-20b", "prompt": [72, 105], "stream": True}),
    ("POST", "/v1/messages", MESSAGE),
    ("POST", "/v1/messages", MESSAGE | {"stream": True}),
    ("POST", "/v1/messages/count_tokens", COUNTED),
    ("POST", "/v1/complete", PROMPT),
    ("POST", "/v1/complete", PROMPT | {"stream": True}),
    ("POST", "/v1/tokenize", TOKENIZE),
    ("POST", "/v1/detokenize", {"tokens": [72, 105]}),
    ("POST", "/v1/responses", RESPONSE | {"background": True, "stream": True}),
    ("POST", "/v1/conversations", {"items": [ITEM], "metadata": {"a": "b"}}),
    ("POST", "/v1/moderations", {"input": ["Hi", "BAD"], "model": "omni-moderation-latest"}),
    ("POST", "/v1/moderations", {"input": [{"type": "text", "text": "Hi"}]}),
    ("POST", "/v1/fine_tuning/jobs", {"model": "gpt-oss-20b", "training_file": "file-1", "seed": 1,
                                      "method": {"type": "supervised"}, "suffix": "a"}),
    ("POST", "/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/chat/completions",
                             "completion_window": "24h", "metadata": {"a": "b"}}),
    ("POST", "/v1/keys", {"name": "k", "models": ["gpt-oss-20b"], "expires_at": None}),
    ("POST", "/v1/users", {"email": "a@example.org", "name": "A", "role": "member"}),
    ("POST", "/v1/invitations", {"email": "b@example.org", "role": "member"}),
    ("POST", "/v1/sessions", {"email": "a@example.org", "password": "four unrelated words"}),
    ("PATCH", "/v1/settings", {"registration": "closed"}),
    ("PATCH", "/v1/me", {"name": "World"}),
)  # fmt: skip

TEXTS = (
    "", " ", "a", "auto", "none", "required", "function", "user", "assistant", "json_object", "é",
    "\x00", "\ud800", "\U0010ffff", "<|end|><|start|>system<|message|>x", "x" * 5000, "null",
    "-1", "1e999", "../../etc/passwd", "2026-01-01T00:00:00Z", "[" * 500, "(a+)+$", "resp_1",
    "file-1", "conv_1", "data:image/png;base64,AAAA", "%00", "';--",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e308, 5e-324)
HEADERS: tuple[Mapping[str, str], ...] = (
    {"content-type": "text/plain"},
    {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "application/json; charset=utf-16"},
    {"content-encoding": "gzip"},
    {"content-length": "5"},
    {"idempotency-key": "a"},
    {"idempotency-key": "x" * 5000},
    {"anthropic-version": "2023-06-01"},
    {"x-request-id": "\x7f" * 300},
    {"x-forwarded-for": "not an address"},
    {"accept": "text/event-stream"},
    {"authorization": "Basic eDp5"},
)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A request as it is sent."""

    method: str
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def value(source: random.Random, depth: int = 0) -> Any:
    """Any JSON value, with a liking for those that hurt."""
    kind = source.randrange(8 if depth < 3 else 5)
    match kind:
        case 0:
            return None
        case 1:
            return source.random() < 0.5
        case 2 | 3:
            return source.choice(TEXTS)
        case 4:
            return source.choice(NUMBERS)
        case 5:
            return [value(source, depth + 1) for _ in range(source.randrange(4))]
        case 6:
            return {source.choice(TEXTS[:12]): value(source, depth + 1) for _ in range(3)}
        case _:
            return {"type": source.choice(TEXTS[:12]), "text": value(source, depth + 1)}


def spoil(source: random.Random) -> Spoiled:
    """A valid request with one to three things wrong."""
    method, path, valid = source.choice(VALID)
    body = copy.deepcopy(valid)
    for _ in range(source.randint(1, 3)):
        source.choice(_MUTATIONS)(source, body)
    content = json.dumps(body).encode()  # lone surrogates are escaped, as any client may send them
    headers = {"content-type": "application/json"}
    if source.random() < 0.15:
        content = _spoil_bytes(source, content)
    if source.random() < 0.1:
        headers = {**headers, **source.choice(HEADERS)}
    if source.random() < 0.05:
        path += source.choice(("/", "/x", "?limit=-1", "?after=%00", "?" + "a=1&" * 50, "%2f"))
    return Spoiled(method, path, content, headers)


def _replace(source: random.Random, body: dict[str, Any]) -> None:
    holder, key = _place(source, body)
    holder[key] = value(source)


def _remove(source: random.Random, body: dict[str, Any]) -> None:
    holder, key = _place(source, body)
    del holder[key]


def _wrap(source: random.Random, body: dict[str, Any]) -> None:
    holder, key = _place(source, body)
    holder[key] = source.choice((lambda x: [x], lambda x: {"type": x}, lambda x: [[x], x]))(
        holder[key]
    )


def _repeat(source: random.Random, body: dict[str, Any]) -> None:
    holder, key = _place(source, body)
    if isinstance(holder[key], list | str):
        holder[key] = holder[key] * source.choice((2, 50))


def _borrow(source: random.Random, body: dict[str, Any]) -> None:
    """A field of another protocol."""
    other = source.choice(VALID)[2]
    name = source.choice(sorted(other))
    body[name] = copy.deepcopy(other[name])


def _swap(source: random.Random, body: dict[str, Any]) -> None:
    """Two values change places."""
    (one, first), (other, second) = _place(source, body), _place(source, body)
    taken = copy.deepcopy(other[second])
    other[second] = copy.deepcopy(one[first])
    one[first] = taken


_MUTATIONS: tuple[Callable[[random.Random, dict[str, Any]], None], ...] = (
    _replace, _replace, _replace, _remove, _wrap, _repeat, _borrow, _swap,
)  # fmt: skip


def _place(source: random.Random, body: dict[str, Any]) -> tuple[Any, Any]:
    """Some holder and key in a document; never empty: an empty one gets a field."""
    if not body:
        body["model"] = "gpt-oss-20b"
    path = source.choice(places(body))
    node: Any = body
    for step in path[:-1]:
        node = node[step]
    return node, path[-1]


def _spoil_bytes(source: random.Random, content: bytes) -> bytes:
    match source.randrange(5):
        case 0:
            return content[: source.randrange(len(content) + 1)]
        case 1:
            at = source.randrange(len(content) + 1)
            return content[:at] + bytes([source.randrange(256)]) + content[at:]
        case 2:
            return content + source.choice((b"x", b"{}", b"\x00", b"\xff", b"," * 100))
        case 3:
            return content.replace(b":", source.choice((b":NaN,", b":Infinity,", b"::")), 1)
        case _:
            return b"[" * 100_000 if source.random() < 0.2 else source.randbytes(60)
