"""Where a request comes from: headers count only from proxies that the operator named."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from osslo.api.client_address import Proxies

TRUSTED = ("10.0.0.0/8", "::1/128")


def request(peer: str | None, *forwarded: str, proto: str | None = None) -> Request:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    client = None if peer is None else (peer, 1)
    scope = {"type": "http", "headers": headers, "client": client, "scheme": "http", "path": "/"}
    return Request(scope | {"server": ("osslo", 80), "query_string": b""})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ("198.51.100.1",), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("203.0.113.9, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("203.0.113.9, 198.51.100.1, 10.0.0.2",), "198.51.100.1"),
        ("10.0.0.1", ("203.0.113.9", "198.51.100.1"), "198.51.100.1"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        ("10.0.0.1", ("198.51.100.1, nonsense",), "10.0.0.1"),
        ("::ffff:10.0.0.1", ("2001:db8::1",), "2001:db8::1"),
        ("::1", ("198.51.100.1",), "198.51.100.1"),
        (None, ("198.51.100.1",), None),
    ],
)
def test_addresses(peer: str | None, forwarded: tuple[str, ...], address: str | None) -> None:
    assert Proxies(TRUSTED).address(request(peer, *forwarded)) == address


@pytest.mark.parametrize(
    ("peer", "proto", "https"),
    [
        ("10.0.0.1", "https", True),
        ("10.0.0.1", "HTTPS", True),
        ("10.0.0.1", "https, http", False),
        ("10.0.0.1", None, False),
        ("192.0.2.1", "https", False),
    ],
)
def test_https(peer: str, proto: str | None, *, https: bool) -> None:
    assert Proxies(TRUSTED).is_https(request(peer, proto=proto)) is https


def test_by_default_nobody_is_believed() -> None:
    assert Proxies().address(request("127.0.0.1", "198.51.100.1")) == "127.0.0.1"
