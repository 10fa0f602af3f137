"""Text to ids by byte-level BPE, twice: one encoder that is there at once, one for long texts.

Both give the same ids for any text. The `tokenizers` library's encoder takes a second or more to
build from 200,000 names and as many merges or more, all of it with the interpreter held.
`QuickEncoder` needs a fifth of that, and is as fast on ordinary text, most of whose pieces are
whole tokens; where nothing merges into whole tokens (noise, long runs of one character) it is up
to ten times slower. `Tokenizer` decides which one is used.

Neither ever gives an added special token for text that spells its name.
"""

from __future__ import annotations

import json
from heapq import heapify, heappop, heappush
from itertools import count, groupby
from typing import Any

import numpy as np
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HuggingFaceTokenizer

from osslo.errors import CheckpointError
from osslo.model.vocabulary import AddedName, Vocabulary

_GONE = -1


class QuickEncoder:
    """BPE over id pairs, in Python, on pieces that the library's pre-tokenizer cuts.

    Only for vocabularies that `is_quick` accepts. Safe to share between threads.
    """

    def __init__(self, spec: Vocabulary) -> None:
        self._pre_tokenizer = _skeleton(spec).pre_tokenizer
        self._names = spec.model_names()
        self._ids = dict(zip(self._names, count()))
        for token in spec.added:  # text is never an added token
            self._ids.pop(token.text, None)
        self._whole = self._ids if spec.ignore_merges else {}
        pairs = spec.merges.astype(np.int64)
        self._ranks = dict(zip((pairs[:, 0] << 32 | pairs[:, 1]).tolist(), count()))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises what the library raises for text with lone surrogates."""
        ids: list[int] = []
        whole = self._whole
        for piece, _ in self._pre_tokenizer.pre_tokenize_str(text):
            token = whole.get(piece)
            if token is None:
                ids += self._merge(piece)
            else:
                ids.append(token)
        return ids

    def _merge(self, piece: str) -> list[int]:
        """Merge neighbours, the best rank first and of equals the leftmost.

        Symbols form a list linked by `after` and `before`; the one at a merge's right is `_GONE`.
        The heap holds candidates as they were found; those that have changed since are passed over.
        """
        symbols = [self._ids[byte] for byte in piece if byte in self._ids]
        size = len(symbols)
        after, before = [*range(1, size), _GONE], list(range(-1, size - 1))
        rank_of, names = self._ranks.get, self._names
        heap: list[tuple[int, int, int, int]] = []
        for at in range(size - 1):
            left, right = symbols[at], symbols[at + 1]
            rank = rank_of(left << 32 | right)
            if rank is not None:
                heap.append((rank, at, left, right))
        heapify(heap)
        while heap:
            _, at, left, right = heappop(heap)
            next_at = after[at]
            if symbols[at] != left or next_at == _GONE or symbols[next_at] != right:
                continue
            merged = self._ids.get(names[left] + names[right])
            if merged is None:
                continue
            symbols[at], symbols[next_at] = merged, _GONE
            following, previous = after[next_at], before[at]
            after[at] = following
            if following != _GONE:
                before[following] = at
                rank = rank_of(merged << 32 | symbols[following])
                if rank is not None:
                    heappush(heap, (rank, at, merged, symbols[following]))
            if previous != _GONE:
                rank = rank_of(symbols[previous] << 32 | merged)
                if rank is not None:
                    heappush(heap, (rank, previous, symbols[previous], merged))
        return [symbol for symbol in symbols if symbol != _GONE]


def is_quick(spec: Vocabulary) -> bool:
    """Whether `QuickEncoder` can encode for this vocabulary: nothing changes the text before it is
    cut, and no added token is looked for in it, as gpt-oss's tokenizer has it."""
    return spec.pipeline.get("normalizer") is None and all(token.special for token in spec.added)


def build_library_encoder(spec: Vocabulary) -> HuggingFaceTokenizer:
    """The library's tokenizer over the same ids, built from lists: half the time of its JSON.

    Raises `CheckpointError` for a vocabulary that names an id twice or merges what it lacks.
    """
    names = spec.model_names()
    left, right = (map(names.__getitem__, column.tolist()) for column in spec.merges.T)
    encoder = _skeleton(spec)
    encoder.model = models.BPE(
        {name: token for token, name in enumerate(names)},
        list(zip(left, right, strict=True)),
        ignore_merges=spec.ignore_merges,
    )
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


def _skeleton(spec: Vocabulary) -> HuggingFaceTokenizer:
    """The library's tokenizer without a vocabulary."""
    document: dict[str, Any] = {
        **spec.pipeline,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
        "added_tokens": [],
    }
    # A checkpoint's truncation, padding or template must not touch prompts.
    for part in ("truncation", "padding", "post_processor"):
        document[part] = None
    return HuggingFaceTokenizer.from_str(json.dumps(document))


def _library_token(token: AddedName) -> AddedToken:
    return AddedToken(
        token.text,
        normalized=token.normalized,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
    )
