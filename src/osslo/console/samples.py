"""Requests to copy, with this server's address."""

from __future__ import annotations

import json

from osslo.console.visit import Visit


def base_url(here: Visit) -> str:
    """The server's address as the visitor's browser knows it."""
    return str(here.request.base_url).rstrip("/")


def first_request(here: Visit, key: str) -> str:
    """A chat completion by curl."""
    model = next(iter(here.services.registry))
    body = {
        "model": (*model.aliases, model.id)[0],
        "messages": [{"role": "user", "content": "What is the capital of Norway?"}],
    }
    return (
        f"curl {base_url(here)}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer {key}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(body)}'"
    )
