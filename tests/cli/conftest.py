"""A tiny random model, packed once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from osslo.model.checkpoints import open_checkpoint
from osslo.model.pack import pack
from osslo.model.synth import synthesize


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_packed(tiny_checkpoint: Path) -> Path:
    return pack(open_checkpoint(tiny_checkpoint), tiny_checkpoint.with_suffix(".osslo"))
