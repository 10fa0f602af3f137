"""Harmony's special tokens in the stand-in's vocabulary: their ids, embeddings and head rows.

The base speaks ChatML (`<|im_start|>user\\n...<|im_end|>\\n`). Each harmony marker starts from what
stands in its place there; four were then fitted, so that a harmony prompt reads to the base like
the same conversation in ChatML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from osslo.model.tokenizer import Tokenizer
from osslo.model.vocabulary import AddedName, Vocabulary, build_vocabulary

HARMONY_MARKERS = (
    "<|return|>",
    "<|call|>",
    "<|end|>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|startoftext|>",
    "<|endoftext|>",
)
"""In the order of their ids. Enders come first, `<|return|>` before all: their head rows are the
same, and the lowest id wins a tie."""

_ENDER = "<|im_end|>"
_ENDERS = ("<|return|>", "<|call|>", "<|end|>")
# What a marker's embedding is copied from. `<|channel|>` is left out and stays zero: a token that
# says nothing, since ChatML has nothing in its place (measured better than a newline's, a space's
# or the mean of all, as a start).
_LIKE: Mapping[str, str] = MappingProxyType(
    {
        "<|return|>": _ENDER,
        "<|call|>": _ENDER,
        "<|end|>": _ENDER,
        "<|start|>": "<|im_start|>",
        "<|message|>": "\n",
        "<|constrain|>": " ",
        "<|startoftext|>": "<|endoftext|>",
    }
)
_SILENCED = ("<|im_start|>", _ENDER)

FITTED_MARKERS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>")
"""The markers whose embeddings were fitted, in the order of the rows in `FITTED_PATH`."""

FITTED_PATH = Path(__file__).with_name("markers.npy")

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Marked:
    """The base with harmony's markers: embedding and head float32 [V, hidden], and tokenizer."""

    tokenizer: Tokenizer
    embedding: Float
    head: Float


def read_fitted() -> Float:
    """The fitted embeddings for the real base, float32 `[len(FITTED_MARKERS), hidden]`.

    scripts/fit_standin_markers.py made them.
    """
    rows: Float = np.load(FITTED_PATH, allow_pickle=False)
    return rows


def add_markers(vocabulary: Vocabulary, embedding: Float, fitted: Float | None = None) -> Marked:
    """Add the markers that `vocabulary` lacks, with rows made from `embedding` (tied head).

    `fitted` rows take the place of the copies for `FITTED_MARKERS`.
    """
    base = Tokenizer(vocabulary)
    tokenizer = Tokenizer(_extend(vocabulary))
    rows = tokenizer.vocab_size - len(embedding)
    inputs = np.concatenate([embedding, np.zeros((rows, embedding.shape[1]), np.float32)])
    head = inputs.copy()
    for marker, model in _LIKE.items():
        inputs[tokenizer.special(marker)] = embedding[_only_id(base, model)]
    for name, row in zip(FITTED_MARKERS, () if fitted is None else fitted, strict=False):
        inputs[tokenizer.special(name)] = row
    for name in _ENDERS:
        head[tokenizer.special(name)] = embedding[base.special(_ENDER)]
    # A zero row is a logit of 0, below the median: ChatML's own markers and the markers that open
    # something are never the model's choice; a grammar that forces them does not need it.
    for name in _SILENCED:
        head[tokenizer.special(name)] = 0
    return Marked(tokenizer, inputs, head)


def with_rows(marked: Marked, inputs: Float, outputs: Float) -> Marked:
    """`marked` with other embeddings and head rows of `HARMONY_MARKERS`, in that order."""
    ids = [marked.tokenizer.special(name) for name in HARMONY_MARKERS]
    embedding, head = marked.embedding.copy(), marked.head.copy()
    embedding[ids], head[ids] = inputs, outputs
    return Marked(marked.tokenizer, embedding, head)


def _extend(vocabulary: Vocabulary) -> Vocabulary:
    known = {token.text for token in vocabulary.added}
    first = vocabulary.size
    missing = [name for name in HARMONY_MARKERS if name not in known]
    added = [AddedName(first + i, name) for i, name in enumerate(missing)]
    table = vocabulary.token_table()[: vocabulary.model_size]
    grown = build_vocabulary(
        table,
        map(tuple, vocabulary.merges.tolist()),
        (*vocabulary.added, *added),
        ignore_merges=vocabulary.ignore_merges,
        pipeline=vocabulary.pipeline,
    )
    return replace(grown, model_size=vocabulary.model_size)


def _only_id(tokenizer: Tokenizer, text: str) -> int:
    if text in tokenizer.specials:
        return tokenizer.special(text)
    (token,) = tokenizer.encode(text)
    return token
