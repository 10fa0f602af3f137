"""GGUF files byte by byte, written here by hand from the format's description."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from osslo.errors import CheckpointError
from osslo.model.checkpoints import open_checkpoint
from osslo.model.checkpoints.gguf import GgmlType, GgufFile, halves_to_pairs, pairs_to_halves
from osslo.model.checkpoints.writing import GgufSpec, gguf_writer
from tests.model.random_models import Checkpoints

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def tensor(name: str, dimensions: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return (
        text(name) + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)
    )


def gguf(entries: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    header += b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


def half(value: float) -> bytes:
    return struct.pack("<e", value)


NIBBLES = bytes(low | (15 - low) << 4 for low in range(16))  # elements 0..15, then 15..0
CODES = [*range(16), *range(15, -1, -1)]
PAIRS = bytes(low | high << 4 for low, high in zip(CODES[::2], CODES[1::2], strict=True))
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
BLOCKS = {
    GgmlType.Q4_0: (half(0.5) + NIBBLES, [0.5 * (code - 8) for code in CODES]),
    GgmlType.Q4_1: (half(0.5) + half(-3) + NIBBLES, [0.5 * code - 3 for code in CODES]),
    GgmlType.Q8_0: (
        half(0.25) + bytes(range(240, 256)) + bytes(range(16)),
        [0.25 * value for value in range(-16, 16)],
    ),
    GgmlType.MXFP4: (bytes([128]) + NIBBLES, [2.0 * E2M1[code] for code in CODES]),
    GgmlType.MXFP4_PAIRS: (bytes([126]) + PAIRS, [0.5 * E2M1[code] for code in CODES]),
    GgmlType.F32: (struct.pack("<32f", *range(32)), [*map(float, range(32))]),
    GgmlType.F16: (struct.pack("<32e", *range(32)), [*map(float, range(32))]),
    GgmlType.BF16: (
        b"".join(struct.pack("<f", value)[2:] for value in range(32)),
        [*map(float, range(32))],
    ),
}


@pytest.mark.parametrize("kind", GgmlType)
def test_each_block_layout(tmp_path: Path, kind: GgmlType) -> None:
    block, wanted = BLOCKS[kind]
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf([], [tensor("t", (64, 3), kind, 0)], block * 6))
    file = GgufFile(path)
    assert file.tensors["t"].shape == (3, 64)
    assert file.tensors["t"].stored_bytes == len(block) * 6
    values = file.float32("t")
    assert values.dtype == np.float32
    assert values.tolist() == [wanted * 2] * 3


def test_metadata_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    scalars = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q"}
    entries = [entry(f"k{kind}", kind, struct.pack(form, 7)) for kind, form in scalars.items()]
    entries += [
        entry("k12", 12, struct.pack("<d", 0.1)),
        entry("bool", BOOL, b"\x01"),
        entry("text", STRING, text("Ġü")),
        entry("texts", ARRAY, struct.pack("<IQ", STRING, 2) + text("") + text("b")),
        entry("ints", ARRAY, struct.pack("<IQ3i", 5, 3, -1, 0, 1)),
        entry("nested", ARRAY, struct.pack("<IQIQB", ARRAY, 1, 0, 1, 9)),
    ]
    for version in (2, 3):
        path.write_bytes(gguf(entries, [], version=version))
        metadata = dict(GgufFile(path).metadata)
        assert all(metadata.pop(f"k{kind}") == 7 for kind in scalars)
        assert metadata == {
            "k12": 0.1,
            "bool": True,
            "text": "Ġü",
            "texts": ["", "b"],
            "ints": [-1, 0, 1],
            "nested": [[9]],
        }


def test_alignment_is_the_file_s_own(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    entries = [entry("general.alignment", U32, struct.pack("<I", 128))]
    header = gguf(entries, [tensor("t", (2,), 0, 128)])
    padded = header + bytes(-len(header) % 128) + bytes(128) + struct.pack("<2f", 3, 4)
    path.write_bytes(padded)
    assert GgufFile(path).float32("t").tolist() == [3, 4]


HUGE = 2**62


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GG", "not a GGUF file"),
        (b"GGML" + bytes(40), "not a GGUF file"),
        (b"GGUF\x01" + bytes(40), "GGUF version 1 "),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "GGUF version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "truncated"),
        (gguf([entry("k", 77, b"")], []), "metadata k has the unknown type 77"),
        (gguf([entry("k", STRING, struct.pack("<Q", HUGE))], []), "truncated: .* metadata k"),
        (gguf([entry("k", STRING, struct.pack("<Q", 1) + b"\xff")], []), "metadata k is not UTF-8"),
        (gguf([entry("k", ARRAY, struct.pack("<IQ", U64, HUGE))], []), "truncated: .* metadata k"),
        (gguf([entry("k", ARRAY, struct.pack("<IQ", STRING, HUGE))], []), "truncated"),
        (
            gguf([entry("k", ARRAY, struct.pack("<IQQ", STRING, 1, 1) + b"\xff")], []),
            "string 0, is not UTF-8",
        ),
        (
            gguf([entry("k", ARRAY, struct.pack("<IQIQIQ", ARRAY, 1, ARRAY, 1, ARRAY, 1))], []),
            "too deeply",
        ),
        (gguf([entry("k", BOOL, b"\x01")] * 2, []), "metadata k appears twice"),
        (
            gguf([entry("general.alignment", U32, struct.pack("<I", 12))], []),
            "general.alignment 12",
        ),
        (gguf([], [tensor("t", (1,), 0, 0)] * 2, bytes(4)), "tensor t appears twice"),
        (gguf([], [tensor("t", (1,), 12, 0)], bytes(4)), "tensor t has GGML type 12"),
        (gguf([], [tensor("t", (1, 1, 1, 1, 1), 0, 0)], bytes(4)), "tensor t has 5 dimensions"),
        (gguf([], [tensor("t", (0, HUGE), 0, 0)]), "tensor t has a dimension of 0"),
        (gguf([], [tensor("t", (33,), 8, 0)], bytes(68)), "tensor t: rows of 33 values"),
        (gguf([], [tensor("t", (1,), 0, 8)], bytes(64)), "tensor t is not aligned to 32"),
        (gguf([], [tensor("t", (HUGE, HUGE), 0, 0)], bytes(64)), "truncated: tensor t ends"),
        (gguf([], [tensor("t", (8,), 0, 32)], bytes(63)), "truncated: tensor t ends"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        GgufFile(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf([], []))
    with pytest.raises(CheckpointError, match="tensor t is missing"):
        GgufFile(tmp_path / "a.gguf").float32("t")


def test_nibble_orders_are_inverse() -> None:
    nibbles = np.random.default_rng(0).integers(0, 256, (5, 7, 16), np.uint8)
    assert (halves_to_pairs(pairs_to_halves(nibbles)) == nibbles).all()
    pairs = halves_to_pairs(np.frombuffer(NIBBLES, np.uint8))
    assert [code for byte in pairs.tolist() for code in (byte & 15, byte >> 4)] == CODES


def test_what_we_write_is_read_back(tmp_path: Path) -> None:
    metadata = {"a": 1, "b": 2**40, "c": -5, "d": 0.5, "e": True, "f": "é", "g": [1, -2], "h": [""]}
    specs = [GgufSpec("x", GgmlType.F32, (3,)), GgufSpec("y", GgmlType.F16, (2, 2))]
    with gguf_writer(tmp_path / "a.gguf", metadata, specs) as writer:
        writer.write("x", np.array([1, 2], np.float32))
        assert not (tmp_path / "a.gguf").exists()
        writer.write("x", np.array([3], np.float32))
        writer.write("y", np.eye(2, dtype=np.float16))
    file = GgufFile(tmp_path / "a.gguf")
    assert dict(file.metadata) == metadata
    assert file.float32("x").tolist() == [1, 2, 3]
    assert file.float32("y").tolist() == [[1, 0], [0, 1]]


def test_an_empty_list_is_written_as_one_of_strings(tmp_path: Path) -> None:
    # llama.cpp reads a tokenizer's merges as strings, and refuses the file for any other type
    path = tmp_path / "a.gguf"
    with gguf_writer(path, {"merges": []}, []):
        pass
    assert GgufFile(path).metadata["merges"] == []
    value = path.read_bytes().partition(b"merges")[2]
    assert struct.unpack_from("<IIQ", value) == (ARRAY, STRING, 0)


def write_x(path: Path, pieces: list[tuple[str, int]]) -> None:
    with gguf_writer(path, {}, [GgufSpec("x", GgmlType.F32, (3,))]) as writer:
        for name, count in pieces:
            writer.write(name, np.zeros(count, np.float32))


@pytest.mark.parametrize("pieces", [[], [("x", 2)], [("x", 4)], [("y", 3)]])
def test_an_unfinished_or_wrong_write_leaves_nothing(
    tmp_path: Path, pieces: list[tuple[str, int]]
) -> None:
    with pytest.raises(AssertionError):
        write_x(tmp_path / "a.gguf", pieces)
    assert list(tmp_path.iterdir()) == []


# --- models ---------------------------------------------------------------------------------------


def split(path: Path, folder: Path) -> list[Path]:
    """Copy a model as two files, as llama.cpp splits them: metadata in the first."""
    file = GgufFile(path)
    names = list(file.tensors)
    parts = [folder / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for part, kept, metadata in (
        (parts[0], names[:5], dict(file.metadata)),
        (parts[1], names[5:], {"split.no": 1}),
    ):
        specs = [GgufSpec(n, file.tensors[n].type, file.tensors[n].shape) for n in kept]
        with gguf_writer(part, metadata, specs) as writer:
            for name in kept:
                writer.write(name, file.blocks(name))
    return parts


def test_a_split_model_is_read_as_one(tmp_path: Path, checkpoints: Checkpoints) -> None:
    whole = open_checkpoint(checkpoints.smallest("gguf"))
    parts = split(checkpoints.smallest("gguf"), tmp_path)
    for path in (parts[0], tmp_path):
        found = open_checkpoint(path)
        assert found.stored_bytes() == whole.stored_bytes()
        for name in ("embedding", "head", "layers.1.experts.1.down"):
            assert (found.matrix(name).to_float32() == whole.matrix(name).to_float32()).all()
    with pytest.raises(CheckpointError, match="give the first part"):
        open_checkpoint(parts[1])
    parts[1].unlink()
    with pytest.raises(CheckpointError, match="this part of the split model is missing"):
        open_checkpoint(parts[0])


def rewritten(source: Path, path: Path, drop: str, **metadata: object) -> Path:
    """A copy without the tensor `drop` and with other metadata."""
    file = GgufFile(source)
    kept = [n for n in file.tensors if n != drop]
    specs = [GgufSpec(n, file.tensors[n].type, file.tensors[n].shape) for n in kept]
    changed = {**file.metadata, **{k.replace("__", "."): v for k, v in metadata.items()}}
    with gguf_writer(path, changed, specs) as writer:  # type: ignore[arg-type]  # junk on purpose
        for name in kept:
            writer.write(name, file.blocks(name))
    return path


def test_a_missing_head_is_the_embedding(tmp_path: Path, checkpoints: Checkpoints) -> None:
    path = rewritten(checkpoints.smallest("gguf"), tmp_path / "a.gguf", "output.weight")
    opened = open_checkpoint(path)
    assert (opened.matrix("head").to_float32() == opened.matrix("embedding").to_float32()).all()


def test_a_foreign_or_incomplete_model_is_one_clear_line(
    tmp_path: Path, checkpoints: Checkpoints
) -> None:
    source = checkpoints.smallest("gguf")
    for changes, message in (
        ({"drop": "blk.1.attn_sinks.weight"}, "tensor blk.1.attn_sinks.weight is missing"),
        ({"drop": "", "general__architecture": "llama"}, "general.architecture is 'llama'"),
        (
            {"drop": "", "gpt-oss__expert_count": 3},
            r"ffn_gate_inp.weight is F32 \[2, 32\], but must be .* \[3, 32\]",
        ),
    ):
        path = rewritten(source, tmp_path / "a.gguf", **changes)  # type: ignore[arg-type]  # strings
        with pytest.raises(CheckpointError, match=message) as caught:
            open_checkpoint(path)
        assert str(path) in caught.value.message
