"""US dollars as people write them, and nano-dollars as the ledger counts them. No floats."""

from __future__ import annotations

import re
from decimal import Decimal

from osslo.errors import RequestError

NANOUSD_PER_USD = 1_000_000_000
LARGEST_NANOUSD = 10**15
"""The largest single movement: a million dollars. Sums of such stay far below 64 bits."""


def parse_usd(text: str) -> int:
    """Nano-dollars of an amount such as `5`, `$12.50` or `-0.000000001`.

    Raises `RequestError` for anything else, for more than nine decimals and beyond a million.
    """
    match = re.fullmatch(r"(-?)\$?(\d{1,12}(?:\.\d{1,9})?)", text.strip())
    amount = int(Decimal(match[2]) * NANOUSD_PER_USD) if match else LARGEST_NANOUSD + 1
    if match is None or amount > LARGEST_NANOUSD:
        raise RequestError(
            f"{text!r} is not an amount in US dollars; write it like 5 or 12.50, at most a million "
            "and with at most nine decimals.",
            param="amount",
        )
    return -amount if match[1] else amount


def show_usd(amount_nanousd: int) -> str:
    """An exact amount in dollars with at least two decimals: `$0.00`, `$12.345`, `-$0.0000004`."""
    sign = "-" if amount_nanousd < 0 else ""
    whole, rest = divmod(abs(amount_nanousd), NANOUSD_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"
