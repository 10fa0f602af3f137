"""Pages from templates: one Jinja environment, what every page knows, and the headers it is sent
with.

Everything is escaped; a name that a template uses and nobody gave is an error. The
Content-Security-Policy allows this server's own files only: no inline script or style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from osslo.accounts.ledger.money import show_usd

STATIC_PATH = "/console/static"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def static_folder() -> Path:
    """The folder of style sheets and scripts."""
    return Path(str(files("osslo.console") / "static"))


@lru_cache(maxsize=256)
def _version(path: str) -> str:
    return hashlib.sha256((static_folder() / path).read_bytes()).hexdigest()[:12]


def static_url(path: str) -> str:
    """The address of a static file, with its version, so that browsers may keep it for ever."""
    return f"{STATIC_PATH}/{path}?v={_version(path)}"


def money(nanousd: int | None, *, places: int = 2) -> str:
    """Nano-dollars as dollars; more places where two would hide what there is."""
    if nanousd is None:
        return "–"
    sign, nano = ("−" if nanousd < 0 else ""), abs(nanousd)
    if 0 < nano < 10_000_000:
        places = 6
    unit = 10 ** (9 - places)
    rounded = (nano + unit // 2) // unit
    whole, rest = divmod(rounded, 10**places)
    return f"{sign}${whole:,}.{rest:0{places}d}"


def per_million(nanousd_per_token: int) -> str:
    """A price for one token as dollars for a million: exact, at least two decimal places."""
    dollars, thousandths = divmod(nanousd_per_token, 1000)
    text = f"{dollars}.{thousandths:03d}"
    return "$" + (text[:-1] if text.endswith("0") else text)


def number(value: float | None) -> str:
    """A count with separators, or a dash."""
    return "–" if value is None else f"{value:,.0f}"


def short_number(value: float) -> str:
    """A count in few characters: 1,234 → 1.2k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}".removesuffix(".0") + letter
    return f"{value:.0f}"


def moment(value: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return "–" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def isoformat(value: datetime) -> str:
    """A moment as `<time datetime>` wants it."""
    return value.astimezone(UTC).isoformat(timespec="seconds")


def dollars(nanousd: int) -> str:
    """An exact amount as number fields take it: `0.00`, `12.345`."""
    return show_usd(nanousd).replace("$", "").replace(",", "")


def build_environment() -> Environment:
    """The environment of all templates."""
    environment = Environment(
        loader=PackageLoader("osslo.console", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static_url
    environment.filters |= {
        "dollars": dollars,
        "money": money,
        "per_million": per_million,
        "number": number,
        "short_number": short_number,
        "moment": moment,
        "isoformat": isoformat,
    }
    return environment


class Pages:
    """Renders pages."""

    def __init__(self) -> None:
        self._environment = build_environment()

    def render(
        self, template: str, context: Mapping[str, Any], *, status: int = 200
    ) -> HTMLResponse:
        """`template` as a response with the headers of every page."""
        text = self._environment.get_template(template).render(context)
        return HTMLResponse(text, status_code=status, headers=dict(PAGE_HEADERS))
