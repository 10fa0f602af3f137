"""Requests to copy, with this server's address, in three languages."""

from __future__ import annotations

import json
from dataclasses import dataclass

from osslo.console.visit import Visit

_VARIABLE = "OSSLO_API_KEY"
_QUESTION = "What is the capital of Norway?"


@dataclass(frozen=True, slots=True)
class Sample:
    """A program that asks one question. `name` is used in ids."""

    name: str
    title: str
    text: str


def base_url(here: Visit) -> str:
    """The server's address as the visitor's browser knows it."""
    return str(here.request.base_url).rstrip("/")


def first_request(here: Visit, key: str | None, model: str | None = None) -> tuple[Sample, ...]:
    """A chat completion by curl, Python and JavaScript. Without a `key` it is read from the
    environment; without a `model` it is the first one served."""
    if model is None:
        first = next(iter(here.services.registry))
        model = (*first.aliases, first.id)[0]
    base = base_url(here)
    return (
        Sample("curl", "curl", _curl(base, model, key)),
        Sample("python", "Python", _python(base, model, key)),
        Sample("javascript", "JavaScript", _javascript(base, model, key)),
    )


def _curl(base: str, model: str, key: str | None) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": _QUESTION}]}
    return (
        f"curl {base}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer {key or "$" + _VARIABLE}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(body)}'"
    )


def _python(base: str, model: str, key: str | None) -> str:
    return (
        f"{'' if key else 'import os' + chr(10) * 2}"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base}/v1", '
        f"api_key={json.dumps(key) if key else f'os.environ[{json.dumps(_VARIABLE)}]'})\n"
        "reply = client.chat.completions.create(\n"
        f"    model={json.dumps(model)},\n"
        f'    messages=[{{"role": "user", "content": {json.dumps(_QUESTION)}}}],\n'
        ")\n"
        "print(reply.choices[0].message.content)"
    )


def _javascript(base: str, model: str, key: str | None) -> str:
    secret = json.dumps(key) if key else f"process.env.{_VARIABLE}"
    return (
        'import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{base}/v1", apiKey: {secret} }});\n'
        "const reply = await client.chat.completions.create({\n"
        f"  model: {json.dumps(model)},\n"
        f'  messages: [{{ role: "user", content: {json.dumps(_QUESTION)} }}],\n'
        "});\n"
        "console.log(reply.choices[0].message.content);"
    )
