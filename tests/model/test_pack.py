"""Packed files: what a damaged, stale or killed one does, and that packing twice is not needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from osslo.errors import PackedFileError
from osslo.model.checkpoints import open_checkpoint
from osslo.model.model import Model
from osslo.model.pack import PageWriter, ensure_packed, pack, packed_path
from osslo.model.packed_file import read_header, verify
from osslo.model.presets import PRESETS
from osslo.model.synth import random_checkpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return random_checkpoint(tmp_path / "tiny-model", PRESETS["tiny"], 3)


def test_progress_runs_to_the_end_and_the_file_verifies(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = pack(
        open_checkpoint(source), tmp_path / "m.osslo", progress=lambda *now: seen.append(now)
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    header = verify(path)
    assert header.config == PRESETS["tiny"]
    assert header.name == "tiny-model"
    assert {entry.name for entry in tmp_path.iterdir()} == {"tiny-model", "m.osslo"}


def test_the_tokenizer_comes_along(source: Path, tmp_path: Path) -> None:
    model = Model.load(pack(open_checkpoint(source), tmp_path / "m.osslo"))
    assert model.tokenizer.decode(model.tokenizer.encode("ABC")) == "ABC"


def test_ensure_packed_packs_once_and_again_when_the_checkpoint_changes(
    source: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = ensure_packed(open_checkpoint(source), cache)
    written = first.stat().st_mtime_ns
    assert ensure_packed(open_checkpoint(source), cache) == first
    assert first.stat().st_mtime_ns == written
    weights = next(source.glob("*.safetensors"))
    os.utime(weights, ns=(1, 1))
    assert packed_path(open_checkpoint(source), cache, "default") != first


def test_ensure_packed_replaces_a_truncated_file(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    path = ensure_packed(checkpoint, tmp_path)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(PackedFileError, match="truncated"):
        read_header(path)
    verify(ensure_packed(checkpoint, tmp_path))


def test_every_truncation_and_any_flipped_byte_is_noticed(source: Path, tmp_path: Path) -> None:
    path = pack(open_checkpoint(source), tmp_path / "m.osslo")
    whole = path.read_bytes()
    header = read_header(path)
    for size in (0, 7, 30, 47, 48, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PackedFileError):
            Model.load(path)
    for tensor in header.tensors:
        at = tensor.offset + tensor.bytes // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(PackedFileError, match=rf"tensor {tensor.name} does not match"):
            verify(path)
    path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(PackedFileError, match="header is truncated or corrupted"):
        Model.load(path)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.osslo"
    path.write_text("not a model at all, but long enough to hold a preamble of 48 bytes")
    with pytest.raises(PackedFileError, match=r"notes\.osslo: not a packed model"):
        Model.load(path)


KILLED_PACK = """
    import os, signal, sys
    from pathlib import Path
    from osslo.model.checkpoints import open_checkpoint
    from osslo.model.pack import pack

    def progress(done, total):
        if done > total // 3:
            os.kill(os.getpid(), signal.SIGKILL)

    pack(open_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_pack_leaves_nothing_that_loads(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    target = folder / "m.osslo"
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED_PACK), str(source), str(target)], check=False
    )
    assert run.returncode == -signal.SIGKILL
    (partial,) = folder.iterdir()
    assert partial.suffix == ".partial"
    with pytest.raises(PackedFileError):
        Model.load(partial)
    pack(open_checkpoint(source), target)
    assert [path.name for path in folder.iterdir()] == ["m.osslo"]


@pytest.mark.parametrize("offset", [0, 16, 23])
def test_page_writer_writes_whole_pages_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    starts: list[int] = []
    pwrite = os.pwrite

    def recorded(descriptor: int, view: memoryview, at: int) -> int:
        starts.append(at)
        return pwrite(descriptor, view[:16], at)  # a system call may write less

    monkeypatch.setattr(os, "pwrite", recorded)
    pieces = [bytes(range(start, start + size)) for start, size in enumerate((5, 0, 60, 16, 33, 1))]
    with (tmp_path / "pages").open("wb") as file:
        writer = PageWriter(file.fileno(), offset, page_bytes=16)
        for piece in pieces:
            writer.write(memoryview(piece))
        end = writer.finish()
    whole = b"".join(pieces)
    assert (tmp_path / "pages").read_bytes() == bytes(offset) + whole
    assert end == offset + len(whole)
    assert all(at % 16 == 0 for at in starts if at != offset)
