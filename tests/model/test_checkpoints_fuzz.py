"""Damaged files: cut short or changed anywhere, they give a CheckpointError or a readable model."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from osslo.errors import CheckpointError
from osslo.model.checkpoints import open_checkpoint
from osslo.model.synth import Format
from tests.model.random_models import Checkpoints

ROUNDS = 1500


def read_everything(path: Path) -> str:
    """Open and decode every tensor: the one-line message of the CheckpointError, or nothing."""
    try:
        opened = open_checkpoint(path)
        opened.describe()
        opened.fingerprint()
        opened.tokenizer_source()
        for name in opened.names():
            if name.endswith(("_bias", "_norm", "sinks")):
                opened.vector(name)
            else:
                opened.matrix(name).to_float32()
    except CheckpointError as error:
        return error.message
    return ""


def assert_harmless(path: Path) -> None:
    message = read_everything(path)
    assert "\n" not in message
    assert not message or str(path) in message


def damage(content: bytes, draw: random.Random) -> bytes:
    """Cut, flip, overwrite, delete or insert; mostly near the front, where the headers are."""
    near = min(len(content), draw.choice([64, 1024, 8192, len(content)]))
    at = draw.randrange(near)
    changed = bytearray(content)
    match draw.randrange(6):
        case 0:
            del changed[at:]
        case 1:
            for _ in range(draw.randrange(1, 9)):
                changed[draw.randrange(near)] ^= 1 << draw.randrange(8)
        case 2:
            changed[at : at + 8] = draw.choice([b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x80"])
        case 3:
            del changed[at : at + draw.randrange(1, 40)]
        case 4:
            changed[at:at] = draw.randbytes(draw.randrange(1, 40))
        case _:
            digits = [i for i in range(near) if 48 <= changed[i] < 58]
            if digits:
                changed[draw.choice(digits)] = draw.randrange(45, 58)
    return bytes(changed)


@pytest.mark.parametrize("form", ["safetensors", "original", "gguf"])
def test_damaged_weights(tmp_path: Path, checkpoints: Checkpoints, form: Format) -> None:
    draw = random.Random(form)
    source = checkpoints.smallest(form)
    model = tmp_path / "model.gguf"
    target = model
    if form != "gguf":
        model = tmp_path / "model"
        shutil.copytree(source, model)
        target = model / "model.safetensors"
    content = (source if form == "gguf" else source / "model.safetensors").read_bytes()
    for _ in range(ROUNDS):
        target.unlink(missing_ok=True)  # a mapped file is replaced, never changed
        target.write_bytes(damage(content, draw))
        assert_harmless(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json(tmp_path: Path, checkpoints: Checkpoints, name: str) -> None:
    draw = random.Random(name)
    model = tmp_path / "model"
    shutil.copytree(checkpoints.smallest("safetensors"), model)
    index = b'{"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}'
    content = index if "index" in name else (model / name).read_bytes()
    for _ in range(ROUNDS):
        (model / name).write_bytes(damage(content, draw))
        assert_harmless(model)
