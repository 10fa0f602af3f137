"""What every reader of a backend's stream does alike: translate its errors, close it at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from osslo.errors import EngineError, OssloError
from osslo.types import PrefillProgress, TokenDelta


def as_osslo_error(error: Exception) -> OssloError:
    """An error as one of ours. The words of others may hold anything and are not passed on."""
    if isinstance(error, OssloError):
        return error
    return EngineError("The engine failed while running the request.")


async def close_stream(stream: AsyncIterator[TokenDelta | PrefillProgress]) -> None:
    """Close the backend's stream now rather than when it is collected: that is what aborts."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
