"""Streams written as text, for tests only: markers become special tokens, the rest stays text."""

from __future__ import annotations

import re

from osslo.model.tokenizer import Tokenizer

_MARKER = re.compile(r"(<\|\w+\|>)")


class Wire:
    def __init__(self, vocabulary: Tokenizer) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _MARKER.split(text):
            if piece in self.vocabulary.specials:
                ids.append(self.vocabulary.special(piece))
            elif piece:
                ids += self.vocabulary.encode(piece)
        return ids
