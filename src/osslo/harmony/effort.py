"""Reasoning effort, however a caller spells it."""

from __future__ import annotations

import re

from osslo.errors import RequestError
from osslo.harmony.messages import ReasoningEffort

EFFORTS = {
    "none": ReasoningEffort.LOW,
    "minimal": ReasoningEffort.LOW,
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
    "xhigh": ReasoningEffort.HIGH,
}
"""Every spelling of the APIs. gpt-oss knows three levels; the ends map to the nearest."""

_LINE = re.compile(
    r"^[ \t]*(?:[#*_-]+[ \t]*)?reasoning(?:[ _-]?effort)?(?:[*_]*[ \t]*[:=][*_ \t]*)"
    r"(none|minimal|low|medium|high|xhigh)[*_]*[ \t]*[.;]?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


def parse_effort(value: str, *, param: str = "reasoning_effort") -> ReasoningEffort:
    """The effort a parameter names. Raises `RequestError` that lists the spellings."""
    effort = EFFORTS.get(value.strip().lower())
    if effort is None:
        raise RequestError(f"{param} {value!r} is not one of {', '.join(EFFORTS)}", param=param)
    return effort


def extract_effort(text: str) -> tuple[str, ReasoningEffort | None]:
    """Take `Reasoning: high` out of a system text: the text without such lines, and the last one's
    effort, None if there is none.

    Only a line that says nothing else counts; case, `Reasoning effort:`, `=` and list or emphasis
    marks do not matter. Blank lines that the removal would leave doubled or at an end go with it.
    """
    found = None
    kept: list[str] = []
    removed = False
    for line in text.split("\n"):
        if match := _LINE.match(line.rstrip("\r")):
            found, removed = EFFORTS[match[1].lower()], True
            continue
        if removed and not line.strip() and (not kept or not kept[-1].strip()):
            continue
        removed = False
        kept.append(line)
    if found is None:
        return text, None
    while removed and kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept), found
