"""The short names of published models, and the repositories they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"}
)
