"""A byte-level BPE vocabulary as one compact record: what every tokenizer source is turned into.

Holds the bytes of all tokens in one blob, merges as id pairs, and the named (added) tokens. It
neither encodes nor parses files.

Byte-level vocabularies write a token as text in which each character stands for one byte: the
printable bytes stand for themselves, the other 68 are shifted to U+0100 and up. `bytes_to_name`
and `names_to_blob` convert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _byte_to_codepoint() -> tuple[int, ...]:
    """The code point that stands for each byte (GPT-2's published alphabet)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(0x100, 0x200))
    return tuple(byte if byte in printable else next(shifted) for byte in range(256))


_CODEPOINTS = _byte_to_codepoint()
_BYTE_OF = {chr(point): byte for byte, point in enumerate(_CODEPOINTS)}
_NO_BYTE = 0xFFFF


def bytes_to_name(data: bytes) -> str:
    """A token's bytes as byte-level vocabularies write them: `b" a"` is `Ġa`."""
    return "".join(chr(_CODEPOINTS[byte]) for byte in data)


def is_byte_level(name: str) -> bool:
    """Whether every character of `name` stands for a byte."""
    return all(character in _BYTE_OF for character in name)


@dataclass(frozen=True, slots=True)
class AddedName:
    """A token found in text by its name rather than by merges (`<|start|>`)."""

    id: int
    text: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Everything a tokenizer is made of.

    `blob[offsets[i]:offsets[i + 1]]` are the bytes of id i (none: the id has no name); an added
    token's bytes are its text. `merges` int32 [M, 2] holds id pairs, best first. The first
    `model_size` ids belong to the BPE model, later ones are added tokens. `pipeline` is the rest
    of a `tokenizer.json` (normalizer, pre_tokenizer, decoder, ...).
    """

    blob: bytes
    offsets: NDArray[np.int64]
    merges: NDArray[np.int32]
    added: tuple[AddedName, ...]
    model_size: int
    ignore_merges: bool
    pipeline: Mapping[str, Any]

    @property
    def size(self) -> int:
        return len(self.offsets) - 1

    def token_bytes(self, token: int) -> bytes:
        """The bytes of an id; none for an id outside the vocabulary."""
        if not 0 <= token < self.size:
            return b""
        return self.blob[self._cuts[token] : self._cuts[token + 1]]

    def token_table(self) -> list[bytes]:
        """The bytes of every id, in order."""
        blob = self.blob
        return [blob[start:end] for start, end in pairwise(self._cuts)]

    def model_names(self) -> list[str]:
        """The name of every id of the BPE model, as a `tokenizer.json` writes it."""
        alphabet = np.array(_CODEPOINTS, dtype="<u2")
        points = alphabet[np.frombuffer(self.blob, np.uint8)]
        text = points.tobytes().decode("utf-16-le")
        cuts = self._cuts[: self.model_size + 1]
        names = [text[start:end] for start, end in pairwise(cuts)]
        for token in self.added:
            if token.id < self.model_size:
                names[token.id] = token.text
        for index in np.flatnonzero(np.diff(cuts) == 0).tolist():
            names[index] = unnamed(index)
        return names

    def added_in_id_order(self) -> list[AddedName]:
        """Added tokens by id, gaps past the model's ids filled with unused names.

        The `tokenizers` library numbers added tokens one after the other, so none may be missing.
        """
        by_id = {token.id: token for token in self.added}
        inside = [by_id[token] for token in sorted(by_id) if token < self.model_size]
        past = range(self.model_size, max(by_id, default=-1) + 1)
        return inside + [by_id.get(i, AddedName(i, unnamed(i))) for i in past]

    def head(self) -> dict[str, Any]:
        """All but the arrays, as JSON values; `from_head` reads it back."""
        return {
            "added": [asdict(token) for token in self.added],
            "model_size": self.model_size,
            "ignore_merges": self.ignore_merges,
            "pipeline": dict(self.pipeline),
        }

    @classmethod
    def from_head(
        cls,
        head: Mapping[str, Any],
        blob: bytes,
        offsets: NDArray[np.int64],
        merges: NDArray[np.int32],
    ) -> Vocabulary:
        return cls(
            blob,
            offsets,
            merges,
            tuple(AddedName(**token) for token in head["added"]),
            head["model_size"],
            head["ignore_merges"],
            head["pipeline"],
        )

    @cached_property
    def _cuts(self) -> list[int]:
        cuts: list[int] = self.offsets.tolist()
        return cuts


def unnamed(token: int) -> str:
    """The name that fills an id which the vocabulary leaves out."""
    return f"<|unused_{token}|>"


def build_vocabulary(
    tokens: Sequence[bytes],
    merges: Iterable[tuple[int, int]],
    added: Iterable[AddedName],
    *,
    ignore_merges: bool,
    pipeline: Mapping[str, Any],
) -> Vocabulary:
    """A vocabulary of the BPE model's `tokens` (by id, empty: unnamed) and the `added` tokens.

    An added token whose id lies within `tokens` replaces that entry's bytes by its text.
    """
    ordered = tuple(sorted(added, key=lambda token: token.id))
    size = max([len(tokens), *(token.id + 1 for token in ordered)])
    table = [*tokens, *([b""] * (size - len(tokens)))]
    for token in ordered:
        table[token.id] = token.text.encode()
    lengths = np.fromiter(map(len, table), np.int64, size)
    pairs = np.array(list(merges), dtype=np.int32).reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Vocabulary(
        b"".join(table), offsets, pairs, ordered, len(tokens), ignore_merges, pipeline
    )


def names_to_bytes(names: Sequence[str]) -> list[bytes]:
    """The bytes that byte-level `names` write. Raises `ValueError` naming the first foreign one."""
    table = np.full(0x10000, _NO_BYTE, np.uint16)
    table[list(_CODEPOINTS)] = np.arange(256)
    text = "".join(names)
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    found = table[units]
    if len(units) != len(text) or bool((found == _NO_BYTE).any()):
        index = next(i for i, name in enumerate(names) if not is_byte_level(name))
        raise ValueError(f"token {index} ({names[index]!r}) is not byte-level")
    blob = found.astype(np.uint8).tobytes()
    cuts = [0, *np.cumsum(np.fromiter(map(len, names), np.int64, len(names))).tolist()]
    return [blob[start:end] for start, end in pairwise(cuts)]
