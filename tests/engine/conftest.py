"""A byte-level tokenizer with harmony-like ends, built here: no files, no network."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """One token per byte, `ab` and `abc` merged, and three special tokens."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("a", "b"), ("ab", "c")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|return|>", "<|call|>", "<|end|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer


@pytest.fixture(scope="session")
def ends(byte_tokenizer: Tokenizer) -> tuple[int, int]:
    """Ids of `<|return|>` and `<|call|>`."""
    return byte_tokenizer.token_to_id("<|return|>"), byte_tokenizer.token_to_id("<|call|>")
