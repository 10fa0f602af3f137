"""What harmony needs of a tokenizer, and the ids of the format's own special tokens.

Special tokens are looked up by name, once; nothing here or above knows a fixed id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from osslo.errors import ConfigurationError


class Vocabulary(Protocol):
    """The part of `osslo.model.tokenizer.Tokenizer` that rendering and parsing use."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the special tokens by their text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens are never among them."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes of a token; a special token gives its text, a nameless id nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Markers:
    """Ids of the special tokens that structure a harmony message."""

    start: int
    end: int
    message: int
    channel: int
    constrain: int
    return_: int
    call: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Markers:
        """Look every marker up by name. Raises `ConfigurationError` naming those that lack."""
        names = {field: f"<|{field.rstrip('_')}|>" for field in cls.__dataclass_fields__}
        specials = vocabulary.specials
        missing = [name for name in names.values() if name not in specials]
        if missing:
            raise ConfigurationError(
                f"this vocabulary has no {', '.join(missing)}: it cannot speak harmony; "
                "use a gpt-oss tokenizer, or add harmony's special tokens to this one"
            )
        return cls(**{field: specials[name] for field, name in names.items()})
