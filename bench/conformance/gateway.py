"""What LiteLLM's proxy adds to a first text, measured as `added_ttft_p50_ms` measures Osslo.

The proxy stands before an upstream that paces like the row's engine and says in its first text how
long it took; the rest of what a client waits for is the proxy's, its connection to the upstream
included. LiteLLM's pins cannot be met beside ours: its program lives in an environment of its own,
and `--litellm` names it. It checks one master key and has no database, metrics or money.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from bench.conformance.peer_process import peer_server
from bench.conformance.server import EACH_S, FIRST_S, Running
from bench.conformance.stage import MODEL
from tests.scripted import serving


@contextmanager
def litellm(program: Path) -> Iterator[Running]:
    """LiteLLM's proxy, in a process of its own, before the paced upstream in another."""
    command = [sys.executable, "-m", "bench.conformance.gateway"]
    upstream = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with upstream, tempfile.TemporaryDirectory(prefix="osslo-litellm-") as folder:
        assert upstream.stdout is not None
        key = "sk-" + secrets.token_hex(16)
        options = ["--config", str(_config(Path(folder), upstream.stdout.readline().strip(), key))]
        try:
            with peer_server(
                program,
                options,
                key=key,
                health="/health/liveliness",
                folder=Path(folder),
                environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            ) as running:
                yield running
        finally:
            upstream.terminate()


def _config(folder: Path, upstream: str, key: str) -> Path:
    served = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": served}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": key},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


# --- the upstream -------------------------------------------------------------------------------


def upstream_app() -> FastAPI:
    """Chat completions that are streamed as the row's engine gives tokens."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> StreamingResponse:
        began = time.monotonic_ns()
        asked = await request.json()
        return StreamingResponse(_paced(began, asked["max_tokens"]), media_type="text/event-stream")

    return app


async def _paced(began: int, tokens: int) -> AsyncGenerator[bytes, None]:
    await asyncio.sleep(FIRST_S)
    yield _chunk({"role": "assistant", "content": f"{time.monotonic_ns() - began}\n"})
    for _ in range(tokens):
        await asyncio.sleep(EACH_S)
        yield _chunk({"content": "x"})
    yield _chunk({}, "stop")
    yield b"data: [DONE]\n\n"


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def main() -> None:
    with serving(upstream_app()) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
