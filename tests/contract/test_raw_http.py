"""Bytes on a real connection: what a server must survive and answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest

from osslo.settings import LimitSettings
from tests.api.conftest import KEY, ask
from tests.contract.conftest import StartServer
from tests.scripted import ByteVocabulary, Gate, Script

URL = "/v1/chat/completions"
HEADERS = {"authorization": f"Bearer {KEY}"}


@contextmanager
def connection(url: str) -> Iterator[tuple[BinaryIO, Callable[[bytes], None]]]:
    """A raw connection: a readable stream, and a function that sends."""
    parts = urlsplit(url)
    with (
        socket.create_connection((str(parts.hostname), parts.port or 80), 20) as connected,
        connected.makefile("rb") as stream,
    ):
        yield stream, connected.sendall


@pytest.mark.parametrize("declared", [True, False])
def test_an_oversize_body_gets_its_413(start_server: StartServer, declared: bool) -> None:
    """The client is still sending when the server knows; it must get the answer all the same."""
    url, _ = start_server(limits=LimitSettings(max_body_bytes=1_000_000))

    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 100_000

    content = b" " * 5_000_000 if declared else pieces()
    with httpx.Client(base_url=url, headers=HEADERS, timeout=20) as client:
        response = client.post(URL, content=content)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert client.get("/health").status_code == 200


def test_a_huge_declared_length_is_refused_without_reading(start_server: StartServer) -> None:
    url, _ = start_server()
    with connection(url) as (stream, send):
        send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        send(f"Authorization: Bearer {KEY}\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert b" 413 " in stream.readline()


@pytest.mark.parametrize("body", [b"{", b'{"model": "\xff\xfe"}', b"\x00" * 64])
def test_garbage_is_a_400_and_the_connection_lives_on(
    start_server: StartServer, body: bytes
) -> None:
    url, _ = start_server()
    with httpx.Client(base_url=url, headers=HEADERS) as client:
        assert client.post(URL, content=body).status_code == 400
        assert client.post(URL, json=ask()).status_code == 200


def test_hanging_up_in_the_middle_of_a_stream_stops_the_generation(
    start_server: StartServer,
) -> None:
    gate = Gate()
    begun = ByteVocabulary().tokens("<|channel|>final<|message|>Os")
    url, stage = start_server(script=Script((begun, gate)))
    body = json.dumps(ask(stream=True)).encode()
    with connection(url) as (stream, send):
        send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        send(f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert b" 200 " in stream.readline()
        assert gate.reached.wait(10)
    assert stage.backend.abandoned.wait(10)


def test_hanging_up_before_the_body_is_whole_starts_nothing(start_server: StartServer) -> None:
    url, stage = start_server()
    with connection(url) as (_, send):
        send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        send(f"Authorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"model')
    with httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
    assert stage.backend.requests == []
