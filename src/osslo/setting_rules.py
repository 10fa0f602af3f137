"""What a setting's value may be: parsers of text from the environment or a value from TOML.

Each takes the raw value and returns the setting's; a bad one is a `ValueError` whose message goes
on after the setting's name ("OSSLO_PORT must be …").
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

Parser = Callable[[Any], Any]


def text(value: Any) -> str:
    """Text that is not empty, without white space around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-empty string")
    return value.strip()


def optional_text(value: Any) -> str | None:
    """Text; the empty one unsets."""
    return None if value in (None, "") else text(value)


def optional_path(value: Any) -> Path | None:
    """A path, `~` expanded; the empty one unsets."""
    found = optional_text(value)
    return None if found is None else Path(found).expanduser()


def paths(value: Any) -> tuple[Path, ...]:
    """A TOML list of paths, or one string separated as `PATH` is."""
    parts = _parts(value, os.pathsep, "paths")
    return tuple(Path(part).expanduser() for part in parts)


def origins(value: Any) -> tuple[str, ...]:
    """A TOML list of origins, or one string with commas."""
    found = tuple(part.rstrip("/") for part in _parts(value, ",", "origins"))
    for origin in found:
        if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            raise ValueError("must hold origins such as https://example.org, or *")
    return found


def networks(value: Any) -> tuple[str, ...]:
    """A TOML list of CIDR blocks, or one string with commas between them."""
    parts = _parts(value, ",", "networks")
    try:
        return tuple(str(ip_network(part)) for part in parts)
    except ValueError as error:
        raise ValueError("must name networks like 10.0.0.0/8 or single addresses") from error


def flag(value: Any) -> bool:
    """true or false, also as 1, yes, on and 0, no, off."""
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    if not isinstance(value, str) or value.strip().lower() not in known:
        raise ValueError("must be true or false")
    return known[value.strip().lower()]


def integer(low: int, high: int) -> Parser:
    """A whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def seconds(low: float, high: float) -> Parser:
    """A number of seconds from `low` to `high`."""

    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return number

    return parse


def optional(parse: Parser) -> Parser:
    """What `parse` takes; the empty text and `auto` unset."""
    return lambda value: None if value in (None, "", "auto") else parse(value)


def choice(*allowed: str) -> Parser:
    """One of `allowed`, in any case."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value.strip().lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value.strip().lower()

    return parse


def api_key(value: Any) -> str | None:
    """A Bearer key."""
    wanted = "must be 1 to 200 visible ASCII characters without spaces"
    return _matching(value, r"[\x21-\x7e]{1,200}", wanted)


def seal_key(value: Any) -> bytes | None:
    """32 bytes in hexadecimal."""
    found = _matching(value, r"[0-9a-fA-F]{64}", "must be 64 hexadecimal digits")
    return None if found is None else bytes.fromhex(found)


def pepper(value: Any) -> str | None:
    """A secret of at least 32 characters."""
    wanted = "must have at least 32 characters, best made by `openssl rand -hex 32`"
    return _matching(value, r"(?s).{32,}", wanted)


def public_url(value: Any) -> str | None:
    """An http or https address without query; a slash at its end is dropped."""
    wanted = "must look like https://osslo.example.com"
    found = _matching(value, r"https?://[^\s/?#@]+(/[^\s?#]*)?", wanted)
    return found.rstrip("/") if found else None


def _matching(value: Any, pattern: str, wanted: str) -> str | None:
    found = optional_text(value)
    if found is not None and not re.fullmatch(pattern, found):
        raise ValueError(wanted)
    return found


def _parts(value: Any, separator: str, kind: str) -> tuple[str, ...]:
    """The parts that are not empty of a TOML list of strings, or of one string."""
    parts = value.split(separator) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"must be a list of {kind}")
    return tuple(part.strip() for part in parts if part.strip())
