"""Thinking as callers keep it: the signature of what was shown, the seal of what was not.

A shown block's signature vouches for its text; a block that was not shown carries the text itself,
encrypted. Both open for this server and this tenant only. Thinking that another server signed is
taken as it reads: a caller may give the model any words, and a conversation may move here.
"""

from __future__ import annotations

import hashlib

from osslo.api.messages.schema import RedactedThinkingBlock, ThinkingBlock
from osslo.api.seal import Seal
from osslo.errors import RequestError

_SHOWN = "messages.thinking.digest"
_OMITTED = "messages.thinking.text"


class ThinkingSeal:
    """Signs one tenant's thinking and reads it back."""

    def __init__(self, seal: Seal, tenant: str) -> None:
        self._seal = seal
        self._tenant = tenant

    def sign(self, thinking: str, *, shown: bool) -> str:
        """The signature of a block; if it was not `shown`, it holds the whole text."""
        if shown:
            return self._seal.seal(_digest(thinking), purpose=_SHOWN, tenant=self._tenant)
        return self._seal.seal(thinking, purpose=_OMITTED, tenant=self._tenant)

    def read(self, block: ThinkingBlock | RedactedThinkingBlock, where: str) -> str:
        """The reasoning in a block that was handed back; empty where only another server could
        read it. Raises `RequestError` for a text that is not the one this server signed."""
        if isinstance(block, RedactedThinkingBlock):
            return self._open(block.data, _OMITTED) or ""
        digest = self._open(block.signature, _SHOWN)
        omitted = self._open(block.signature, _OMITTED)
        changed = digest is not None and digest != _digest(block.thinking)
        changed = changed or (omitted is not None and block.thinking not in ("", omitted))
        if changed:
            raise RequestError(
                f"'{where}' is not the thinking that this server signed; send it back unchanged, "
                "or leave the signature out.",
                param=f"{where}.signature",
                code="invalid_signature",
            )
        return block.thinking if omitted is None else omitted

    def _open(self, sealed: str, purpose: str) -> str | None:
        return self._seal.unseal(sealed, purpose=purpose, tenant=self._tenant)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
