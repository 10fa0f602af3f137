"""What callers may write into accounts, checked and made uniform in one place.

Text is kept as it was written, apart from white space at its ends; whoever shows it escapes it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from osslo.accounts.records import RateLimits
from osslo.errors import RequestError

Network = IPv4Network | IPv6Network

MAX_NAME = 100
MAX_MODELS = 100
MAX_NETWORKS = 100
_MAX_EMAIL = 254
_EMAIL = re.compile(
    r"[^\s@<>\"'(),:;\\\[\]]{1,64}@[^\s@<>\"'(),:;\\\[\]]+\.[^\s@<>\"'(),:;\\\[\]]+"
)
LARGEST_AMOUNT = (1 << 63) - 1
LARGEST_RATE = (1 << 31) - 1


def email_of(text: str) -> str:
    """An e-mail address, lower-cased. Raises `RequestError` if it cannot be one."""
    email = unicodedata.normalize("NFC", text.strip()).lower()
    if len(email) > _MAX_EMAIL or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise RequestError(
            "This is not an e-mail address; it looks like name@example.com.",
            param="email",
            code="invalid_email",
        )
    return email


def name_of(text: str, *, param: str = "name", required: bool = True) -> str:
    """A name of one line. Raises `RequestError` if it is too long or holds control characters."""
    name = unicodedata.normalize("NFC", text.strip())
    if len(name) > MAX_NAME or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise RequestError(f"A name is one line of at most {MAX_NAME} characters.", param=param)
    if required and not name:
        raise RequestError("A name may not be empty.", param=param)
    return name


def networks_of(blocks: Iterable[str], *, param: str = "networks") -> tuple[str, ...]:
    """CIDR blocks in their usual spelling; an address alone is a block of one."""
    networks = []
    for block in blocks:
        try:
            networks.append(str(ip_network(block.strip())))
        except ValueError as error:
            raise RequestError(
                f"{block[:50]!r} is not a network; write 192.0.2.0/24 or 2001:db8::/32.",
                param=param,
            ) from error
    if len(networks) > MAX_NETWORKS:
        raise RequestError(f"At most {MAX_NETWORKS} networks can be named.", param=param)
    return tuple(networks)


def models_of(names: Iterable[str] | None) -> tuple[str, ...] | None:
    """Names of models; None is all of them."""
    if names is None:
        return None
    models = tuple(dict.fromkeys(name_of(name, param="models") for name in names))
    if not 1 <= len(models) <= MAX_MODELS:
        raise RequestError(
            f"Name 1 to {MAX_MODELS} models, or null for all of them.", param="models"
        )
    return models


def amount_of(
    value: int | None, *, param: str, least: int = 0, most: int = LARGEST_AMOUNT
) -> int | None:
    """A whole number that the database can hold, or None."""
    if value is not None and not least <= value <= most:
        raise RequestError(f"{param} must be a whole number from {least} to {most}.", param=param)
    return value


def limits_of(limits: RateLimits) -> RateLimits:
    """Limits a minute, at least 1 where there is one."""
    amount_of(limits.requests_per_minute, param="requests_per_minute", least=1, most=LARGEST_RATE)
    amount_of(limits.tokens_per_minute, param="tokens_per_minute", least=1, most=LARGEST_RATE)
    return limits


def in_networks(address: str | None, networks: Iterable[Network]) -> bool:
    """Whether `address` lies in one of `networks`; an unknown address lies in none."""
    try:
        where = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(where, "ipv4_mapped", None)
    where = mapped or where
    return any(where in block for block in networks)
