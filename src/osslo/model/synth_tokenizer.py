"""Tokenizers for random checkpoints: one token a byte, and any tokenizer as GGUF metadata."""

from __future__ import annotations

from osslo.model import tokenizer_sources
from osslo.model.checkpoints.gguf import MetadataValue
from osslo.model.presets import BYTE_SPECIALS, BYTE_TOKENS
from osslo.model.vocabulary import bytes_to_name, unnamed

_NORMAL, _CONTROL = 1, 3  # GGUF's token types
_PRE = "gpt-4o"


def byte_tokenizer_json(vocab_size: int) -> str | None:
    """A `tokenizer.json` whose first 256 ids are the bytes, followed by harmony's special tokens
    and by reserved ones up to `vocab_size`; None if so few ids do not hold them."""
    reserved = range(BYTE_TOKENS + len(BYTE_SPECIALS), vocab_size)
    if vocab_size < BYTE_TOKENS + len(BYTE_SPECIALS):
        return None
    names: list[MetadataValue] = [bytes_to_name(bytes([byte])) for byte in range(BYTE_TOKENS)]
    names += [*BYTE_SPECIALS, *(f"<|reserved_{token}|>" for token in reserved)]
    types: list[MetadataValue] = [_NORMAL] * BYTE_TOKENS
    types += [_CONTROL] * (vocab_size - BYTE_TOKENS)
    vocabulary = tokenizer_sources.from_gguf(_metadata(names, types, []))
    return tokenizer_sources.to_json(vocabulary)


def gguf_tokenizer(tokenizer_json: str | None, vocab_size: int) -> dict[str, MetadataValue]:
    """The `tokenizer.*` metadata for a byte-level `tokenizer.json`, ids beyond it filled up;
    without one, metadata that says so. Raises CheckpointError if the text is no such tokenizer."""
    if tokenizer_json is None:
        return {"tokenizer.ggml.model": "none"}
    vocabulary = tokenizer_sources.from_json(tokenizer_json, origin="tokenizer.json")
    names = vocabulary.model_names()
    names += [unnamed(token) for token in range(len(names), max(vocab_size, vocabulary.size))]
    types = [_NORMAL] * vocabulary.model_size + [_CONTROL] * (len(names) - vocabulary.model_size)
    for token in vocabulary.added:
        names[token.id], types[token.id] = token.text, _CONTROL
    merges = [f"{names[left]} {names[right]}" for left, right in vocabulary.merges.tolist()]
    values = _metadata([*names], [*types], [*merges])
    specials = {token.text: token.id for token in vocabulary.added}
    if "<|return|>" in specials:
        values["tokenizer.ggml.eos_token_id"] = specials["<|return|>"]
    return values


def _metadata(
    names: list[MetadataValue], types: list[MetadataValue], merges: list[MetadataValue]
) -> dict[str, MetadataValue]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _PRE,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }
