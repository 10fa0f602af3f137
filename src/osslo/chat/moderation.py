"""What a judge goes by: the policy, a text that operators may replace, and what a guard looks at.

The judge itself is `judge`.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from osslo.errors import ConfigurationError

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The names of OpenAI's omni-moderation models."""

_SHIPPED = "moderation_policy.toml"
_PLACE = "{categories}"


class GuardMode(StrEnum):
    """What of a request the judge looks at."""

    OFF = "off"
    INPUT = "input"
    OUTPUT = "output"
    BOTH = "both"

    @property
    def judges_input(self) -> bool:
        return self in (GuardMode.INPUT, GuardMode.BOTH)

    @property
    def judges_output(self) -> bool:
        return self in (GuardMode.OUTPUT, GuardMode.BOTH)

    def with_(self, other: GuardMode | None) -> GuardMode:
        """What both together look at."""
        if other is None or other in (self, GuardMode.OFF):
            return self
        return other if self is GuardMode.OFF else GuardMode.BOTH


@dataclass(frozen=True, slots=True)
class Policy:
    """What the judge is told, and from which likelihood on a category is flagged. `thresholds` has
    the categories that are judged, in the order in which they are."""

    instructions: str
    thresholds: Mapping[str, float]

    @property
    def digest(self) -> bytes:
        """Tells this policy from others."""
        text = self.instructions + repr(sorted(self.thresholds.items()))
        return hashlib.sha256(text.encode()).digest()


def load_policy(path: Path | None) -> Policy:
    """The policy in the TOML file `path`, or Osslo's own. Raises `ConfigurationError`."""
    try:
        if path is None:
            text = files(__package__).joinpath(_SHIPPED).read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"the moderation policy {path} cannot be read: {error}", param="moderation_policy"
        ) from error
    return _policy(given)


def _policy(given: Mapping[str, Any]) -> Policy:
    unknown = set(given) - {"threshold", "instructions", "thresholds", "categories"}
    if unknown:
        raise _wrong(f"holds {sorted(unknown)[0]!r}, which it does not know")
    instructions, categories = given.get("instructions"), given.get("categories")
    if not isinstance(instructions, str) or _PLACE not in instructions:
        raise _wrong(f"needs 'instructions', a text that holds {_PLACE}")
    if not isinstance(categories, dict) or not categories:
        raise _wrong("needs [categories]: names, and what each means")
    own = given.get("thresholds", {})
    if not isinstance(own, dict):
        raise _wrong("needs [thresholds] to be a table of numbers")
    for name in (*categories, *own):
        if name not in CATEGORIES:
            raise _wrong(f"names the category {name!r}; there are: {', '.join(CATEGORIES)}")
        if not isinstance(categories.get(name), str):
            raise _wrong(f"does not say what {name!r} means")
    fallback = _threshold(given.get("threshold", 0.5), "threshold")
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in categories.items())
    return Policy(
        instructions.strip().replace(_PLACE, listed),
        {name: _threshold(own.get(name, fallback), f"thresholds.{name}") for name in categories},
    )


def _threshold(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise _wrong(f"has {value!r} as {name}; it must be above 0 and at most 1")
    return float(value)


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(f"the moderation policy {problem}", param="moderation_policy")
