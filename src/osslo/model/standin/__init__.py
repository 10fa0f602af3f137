"""The stand-in model: a small real language model in exactly the gpt-oss architecture."""

from osslo.model.standin.base import fetch_base
from osslo.model.standin.checkpoint import (
    STANDIN_NAME,
    build_standin,
    ensure_standin,
    speaks_harmony,
    standin_path,
)

__all__ = [
    "STANDIN_NAME",
    "build_standin",
    "ensure_standin",
    "fetch_base",
    "speaks_harmony",
    "standin_path",
]
