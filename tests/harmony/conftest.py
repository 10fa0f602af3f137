"""The real o200k_harmony vocabulary, and OpenAI's own implementation of the format beside it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import openai_harmony
import pytest

from osslo.errors import PackedFileError
from osslo.harmony.render import Renderer
from osslo.model.tokenizer import Tokenizer, harmony_tokenizer_from_ranks
from osslo.model.tokenizer_sources import o200k_ranks_path
from tests.harmony.wire import Wire


@pytest.fixture(scope="session")
def vocabulary(build_cache: Path) -> Tokenizer:
    packed = build_cache / "o200k_harmony-1.tokenizer"
    try:
        return Tokenizer.from_packed(packed.read_bytes())
    except (OSError, PackedFileError):
        tokenizer = harmony_tokenizer_from_ranks()
        scratch = packed.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(tokenizer.to_packed())
        scratch.replace(packed)
        return tokenizer


@pytest.fixture(scope="session")
def wire(vocabulary: Tokenizer) -> Wire:
    return Wire(vocabulary)


@pytest.fixture(scope="session")
def renderer(vocabulary: Tokenizer) -> Renderer:
    return Renderer(vocabulary)


@pytest.fixture(scope="session")
def openai_encoding(
    tmp_path_factory: pytest.TempPathFactory,
) -> openai_harmony.HarmonyEncoding:
    """OpenAI's implementation, loaded offline from the same ranks."""
    folder = tmp_path_factory.mktemp("tiktoken")
    ranks = gzip.decompress(o200k_ranks_path().read_bytes())
    (folder / "o200k_base.tiktoken").write_bytes(ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(folder))
        return openai_harmony.load_harmony_encoding(
            openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS
        )
