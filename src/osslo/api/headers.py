"""Headers that every generating protocol adds to its answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from osslo.types import Timings

MODEL_HEADER = "x-osslo-model"
WARNINGS_HEADER = "x-osslo-warnings"
"""How many warnings the answer's body holds."""


def turn_headers(
    model: str, *, warnings: Sequence[str] = (), timings: Iterable[Timings | None] = ()
) -> dict[str, str]:
    """Which model answered, how much of the request is not enforced and, for a whole answer,
    where its time went (of several turns, the longest of each), as `Server-Timing` spells it."""
    headers = {MODEL_HEADER: model}
    if warnings:
        headers[WARNINGS_HEADER] = str(len(warnings))
    known = [timing for timing in timings if timing is not None]
    if known:
        spans = {
            "queued": max(timing.queued_s for timing in known),
            "prefill": max(timing.prefill_s for timing in known),
            "decode": max(timing.decode_s for timing in known),
        }
        headers["server-timing"] = ", ".join(
            f"{name};dur={seconds * 1000:.1f}" for name, seconds in spans.items()
        )
    return headers
