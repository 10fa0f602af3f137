"""Where a request really comes from: through which address, and whether by https.

`X-Forwarded-For` and `X-Forwarded-Proto` are believed only of proxies that the operator named;
anybody else could write what they like into them.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import HTTPConnection

_MAX_HOPS = 50


class Proxies:
    """The proxies in front of this server, by their networks. None by default."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(map(ip_network, networks))

    def address(self, connection: HTTPConnection) -> str | None:
        """The caller's address: the last one on the way that is not a trusted proxy's. None where
        there is none, as on a Unix socket."""
        peer = connection.client.host if connection.client else None
        if peer is None or not self._trusts(peer):
            return peer
        forwarded = ",".join(connection.headers.getlist("x-forwarded-for"))
        hops = [hop.strip() for hop in forwarded.split(",")[-_MAX_HOPS:] if hop.strip()]
        for hop in reversed(hops):
            if not _is_address(hop):
                return peer  # nonsense: the trusted proxy itself is all that is known
            if not self._trusts(hop):
                return hop
        return hops[0] if hops else peer

    def is_https(self, connection: HTTPConnection) -> bool:
        """Whether the browser speaks https, to us or to a trusted proxy."""
        peer = connection.client.host if connection.client else None
        if peer is not None and self._trusts(peer):
            said = connection.headers.get("x-forwarded-proto", "").split(",")[-1].strip()
            if said:
                return said.lower() == "https"
        return connection.url.scheme == "https"

    def _trusts(self, address: str) -> bool:
        if not self._networks or not _is_address(address):
            return False
        where = ip_address(address.partition("%")[0])
        mapped = getattr(where, "ipv4_mapped", None)
        return any((mapped or where) in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
