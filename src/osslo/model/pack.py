"""From a checkpoint to the packed file that the kernels map: which tensor goes where, in what kind.

Precision `default` keeps MXFP4 and Q8_0 as stored and turns everything else in the matrices into
Q8_0; `exact` keeps BF16 and float32. Router, norms, biases and sinks are never quantised; the
embedding keeps its stored precision, since a lookup reads one row of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError, ConfigurationError, ModelError, PackedFileError
from osslo.kernels import panels
from osslo.kernels.panels import PANEL_ROWS, WeightKind, in_turn, panel_bytes
from osslo.model.checkpoints import (
    Bf16Matrix,
    Checkpoint,
    F32Matrix,
    GgufVocabulary,
    Matrix,
    Mxfp4Matrix,
    Q8Matrix,
    TokenizerFile,
)
from osslo.model.packed_file import (
    ALIGNMENT,
    SUFFIX,
    TOKENIZER,
    VERSION,
    PackedHeader,
    PackedTensor,
    Progress,
    encode_header,
    partial_path,
    read_header,
    remove_abandoned,
)
from osslo.model.tokenizer import Tokenizer

_T = TypeVar("_T", bound=np.generic)

Precision = Literal["default", "exact"]

_HEAD_DIM_UNIT = 8  # lanes of the attention kernel


@dataclass(frozen=True, slots=True)
class _Item:
    """A tensor to write: its entry, and the pieces of its bytes in order."""

    entry: PackedTensor
    pieces: Callable[[], Iterator[NDArray[np.uint8]]]


def pack(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: Precision = "default",
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `checkpoint` as the packed file `out`; atomic. Returns `out`.

    Raises ConfigurationError for an unknown precision, CheckpointError for weights that cannot be
    packed and ModelError when the disk is too small.
    """
    if precision not in get_args(Precision):
        raise ConfigurationError(f"unknown precision {precision!r}; use default or exact")
    items = _place(list(_items(checkpoint, precision)), checkpoint, precision)
    header = PackedHeader(
        config=checkpoint.config,
        precision=precision,
        name=name or _display_name(checkpoint.path),
        fingerprint=checkpoint.fingerprint(),
        tensors=tuple(item.entry for item in items),
        file_bytes=_aligned(items[-1].entry.offset + items[-1].entry.bytes),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    _check_disk(out.parent, header.file_bytes)
    partial = partial_path(out)
    try:
        _write(partial, header, items, progress)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def ensure_packed(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    precision: Precision = "default",
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The packed file of `checkpoint` in the cache `folder`, made if it is not there or stale."""
    path = packed_path(checkpoint, folder, precision)
    if path.exists():
        try:
            read_header(path)
        except PackedFileError:
            path.unlink()
        else:
            return path
    return pack(checkpoint, path, precision=precision, name=name, progress=progress)


def packed_path(checkpoint: Checkpoint, folder: Path, precision: Precision) -> Path:
    """Where `ensure_packed` keeps a checkpoint: named by its content's fingerprint."""
    key = hashlib.sha256(f"{checkpoint.fingerprint()}:{precision}:{VERSION}".encode()).hexdigest()
    return folder / f"{_display_name(checkpoint.path)}-{precision}-{key[:12]}{SUFFIX}"


# --- what is written ------------------------------------------------------------------------------


def _items(checkpoint: Checkpoint, precision: Precision) -> Iterator[_Item]:
    config = checkpoint.config
    if config.head_dim % _HEAD_DIM_UNIT:
        raise CheckpointError(
            f"{checkpoint.path}: head_dim {config.head_dim} is not a multiple of {_HEAD_DIM_UNIT}"
        )
    tokenizer = _packed_tokenizer(checkpoint)
    if tokenizer is not None:
        entry = PackedTensor(TOKENIZER, None, 1, len(tokenizer), 0, len(tokenizer))
        data = np.frombuffer(tokenizer, np.uint8)
        yield _Item(entry, lambda: iter([data]))
    yield _rows("embedding", checkpoint.matrix("embedding"))
    for i in range(config.layers):
        yield from _layer(checkpoint, f"layers.{i}.", precision)
    yield _vector("final_norm", lambda: checkpoint.vector("final_norm"), config.hidden)
    yield _matrix("head", [lambda: checkpoint.matrix("head")], precision)


def _layer(checkpoint: Checkpoint, at: str, precision: Precision) -> Iterator[_Item]:
    config = checkpoint.config
    qkv_rows = config.query_size + 2 * config.kv_size
    experts = range(config.experts)
    wide = 2 * _padded(config.intermediate)
    for name, size in (
        ("attention_norm", config.hidden),
        ("sinks", config.heads),
        ("mlp_norm", config.hidden),
    ):
        yield _vector(at + name, partial(checkpoint.vector, at + name), size)
    yield _matrix(
        at + "qkv", [lambda: _stack([checkpoint.matrix(at + part) for part in "qkv"])], precision
    )
    yield _vector(
        at + "qkv_bias",
        lambda: _pad(np.concatenate([checkpoint.vector(f"{at}{part}_bias") for part in "qkv"])),
        _padded(qkv_rows),
    )
    yield _matrix(at + "o", [lambda: checkpoint.matrix(at + "o")], precision)
    yield _vector(
        at + "o_bias", lambda: _pad(checkpoint.vector(at + "o_bias")), _padded(config.hidden)
    )
    yield _matrix(at + "router", [lambda: checkpoint.matrix(at + "router")], "exact")
    yield _vector(
        at + "router_bias",
        lambda: _pad(checkpoint.vector(at + "router_bias")),
        _padded(config.experts),
    )
    yield _matrix(
        at + "gate_up",
        [partial(_gate_up, checkpoint, f"{at}experts.{e}.") for e in experts],
        precision,
    )
    yield _vector(
        at + "gate_up_bias",
        lambda: np.concatenate([_gate_up_bias(checkpoint, f"{at}experts.{e}.") for e in experts]),
        config.experts * wide,
    )
    yield _matrix(
        at + "down",
        [partial(checkpoint.matrix, f"{at}experts.{e}.down") for e in experts],
        precision,
    )
    yield _vector(
        at + "down_bias",
        lambda: np.concatenate(
            [_pad(checkpoint.vector(f"{at}experts.{e}.down_bias")) for e in experts]
        ),
        config.experts * _padded(config.hidden),
    )


def _vector(name: str, read: Callable[[], NDArray[np.float32]], size: int) -> _Item:
    entry = PackedTensor(name, WeightKind.F32, 1, size, 0, 4 * size)
    return _Item(entry, lambda: iter([_bytes_of(read().astype(np.float32, copy=False))]))


def _matrix(name: str, reads: Sequence[Callable[[], Matrix]], precision: Precision) -> _Item:
    """One matrix, or the experts' matrices of one shape and kind, as panels."""
    first = reads[0]()
    kind = _kind(first, precision)
    size = panel_bytes(kind, first.rows, first.cols)
    entry = PackedTensor(name, kind, first.rows, first.cols, 0, size * len(reads))
    return _Item(entry, lambda: (_panels(read(), kind) for read in reads))


def _rows(name: str, matrix: Matrix) -> _Item:
    """Plain rows, for lookups. Q8: all values, then all scales."""
    kind = {Q8Matrix: WeightKind.Q8, Bf16Matrix: WeightKind.BF16}.get(type(matrix), WeightKind.F32)

    def pieces() -> Iterator[NDArray[np.uint8]]:
        match matrix:
            case Q8Matrix():
                yield _bytes_of(matrix.values)
                yield _bytes_of(matrix.scales)
            case Bf16Matrix():
                yield _bytes_of(matrix.bits)
            case _:
                yield _bytes_of(matrix.to_float32())

    blocks = matrix.rows * matrix.cols // 32
    size = {
        WeightKind.Q8: blocks * 34,
        WeightKind.BF16: matrix.rows * matrix.cols * 2,
        WeightKind.F32: matrix.rows * matrix.cols * 4,
    }[kind]
    return _Item(PackedTensor(name, kind, matrix.rows, matrix.cols, 0, size), pieces)


def _kind(matrix: Matrix, precision: Precision) -> WeightKind:
    match matrix:
        case Mxfp4Matrix():
            return WeightKind.MXFP4
        case Q8Matrix():
            return WeightKind.Q8
        case Bf16Matrix() if precision == "exact":
            return WeightKind.BF16
        case _:
            return WeightKind.F32 if precision == "exact" else WeightKind.Q8


def _panels(matrix: Matrix, kind: WeightKind) -> NDArray[np.uint8]:
    match matrix:
        case Mxfp4Matrix() if kind is WeightKind.MXFP4:
            return panels.pack_mxfp4(_c(matrix.blocks), _c(matrix.scales))
        case Q8Matrix() if kind is WeightKind.Q8:
            return panels.pack_q8(_c(matrix.values), panels.float16_bits(matrix.scales))
        case Bf16Matrix() if kind is WeightKind.BF16:
            return panels.pack_bf16(_c(matrix.bits))
        case _ if kind is WeightKind.F32:
            return panels.pack_f32(_c(matrix.to_float32()))
        case _ if kind is WeightKind.Q8:
            return panels.pack_q8(*panels.quantize_q8(_c(matrix.to_float32())))
    raise CheckpointError(f"experts of one layer differ in kind: {type(matrix).__name__}, {kind}")


def _stack(parts: Sequence[Matrix]) -> Matrix:
    """Matrices of the same width one below the other, in their common kind or else float32."""
    match parts[0]:
        case Q8Matrix() if all(isinstance(part, Q8Matrix) for part in parts):
            same = [part for part in parts if isinstance(part, Q8Matrix)]
            return Q8Matrix(
                np.concatenate([part.values for part in same]),
                np.concatenate([part.scales for part in same]),
            )
        case Bf16Matrix() if all(isinstance(part, Bf16Matrix) for part in parts):
            return Bf16Matrix(
                np.concatenate([part.bits for part in parts if isinstance(part, Bf16Matrix)])
            )
        case _:
            return F32Matrix(np.concatenate([part.to_float32() for part in parts]))


def _gate_up(checkpoint: Checkpoint, at: str) -> Matrix:
    """Eight gate rows and eight up rows in turn, as the activation kernel reads them."""
    gate, up = checkpoint.matrix(at + "gate"), checkpoint.matrix(at + "up")
    match gate, up:
        case Mxfp4Matrix(), Mxfp4Matrix():
            return Mxfp4Matrix(
                in_turn(gate.blocks, up.blocks),
                in_turn(gate.scales, up.scales, fill=127),
            )
        case Q8Matrix(), Q8Matrix():
            return Q8Matrix(in_turn(gate.values, up.values), in_turn(gate.scales, up.scales))
        case Bf16Matrix(), Bf16Matrix():
            return Bf16Matrix(in_turn(gate.bits, up.bits))
        case _:
            return F32Matrix(in_turn(gate.to_float32(), up.to_float32()))


def _gate_up_bias(checkpoint: Checkpoint, at: str) -> NDArray[np.float32]:
    return in_turn(checkpoint.vector(at + "gate_bias"), checkpoint.vector(at + "up_bias"))


def _packed_tokenizer(checkpoint: Checkpoint) -> bytes | None:
    match checkpoint.tokenizer_source():
        case TokenizerFile(path):
            return Tokenizer.from_file(path).to_packed()
        case GgufVocabulary() as vocabulary:
            return Tokenizer.from_gguf(vocabulary.metadata).to_packed()
        case None:
            return None


# --- writing --------------------------------------------------------------------------------------


def _place(items: list[_Item], checkpoint: Checkpoint, precision: Precision) -> list[_Item]:
    """Give every tensor its offset: the header's length does not depend on them."""
    draft = PackedHeader(
        checkpoint.config,
        precision,
        _display_name(checkpoint.path),
        checkpoint.fingerprint(),
        tuple(replace(item.entry, offset=1 << 50) for item in items),
        1 << 50,
    )
    offset = _aligned(len(encode_header(draft)) + 1024)
    placed = []
    for item in items:
        placed.append(replace(item, entry=replace(item.entry, offset=offset)))
        offset = _aligned(offset + item.entry.bytes)
    return placed


def _write(
    path: Path, header: PackedHeader, items: Sequence[_Item], progress: Progress | None
) -> None:
    total, done = sum(item.entry.bytes for item in items), 0
    digests: dict[str, str] = {}
    with path.open("wb") as file:
        file.truncate(header.file_bytes)
        descriptor = file.fileno()
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            tasks = {pool.submit(_write_item, descriptor, item): item for item in items}
            try:
                for task in as_completed(tasks):
                    entry = tasks[task].entry
                    digests[entry.name] = task.result()
                    done += entry.bytes
                    if progress:
                        progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        tensors = tuple(replace(t, sha256=digests[t.name]) for t in header.tensors)
        os.pwrite(descriptor, encode_header(replace(header, tensors=tensors)), 0)
        os.fsync(descriptor)


def _write_item(descriptor: int, item: _Item) -> str:
    digest = hashlib.sha256()
    writer = PageWriter(descriptor, item.entry.offset)
    for piece in item.pieces():
        digest.update(piece.data)
        writer.write(piece.data)
    end = item.entry.offset + item.entry.bytes
    if (reached := writer.finish()) != end:
        raise CheckpointError(
            f"tensor {item.entry.name}: wrote up to byte {reached}, planned {end}; "
            "the checkpoint's experts differ in shape or kind"
        )
    return digest.hexdigest()


class PageWriter:
    """Writes bytes one after the other from `offset` on, in whole huge pages of the file.

    Linux caches what is written at once in pages of that size (ext4 since 6.16, XFS for longer),
    and a mapping takes them over: the first run through a model then has a fault for every 2 MiB.
    """

    def __init__(self, descriptor: int, offset: int, page_bytes: int = 1 << 21) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._page_bytes = page_bytes
        self._held = bytearray()  # the beginning of a page

    def write(self, view: memoryview) -> None:
        missing = -(self._offset + len(self._held)) % self._page_bytes
        self._held += view[:missing]
        if len(view) < missing:
            return
        self._put(memoryview(self._held))
        self._held = bytearray()
        rest = view[missing:]
        whole = len(rest) // self._page_bytes * self._page_bytes
        self._put(rest[:whole])
        self._held += rest[whole:]

    def finish(self) -> int:
        """Write what is held; gives the offset of the end."""
        self._put(memoryview(self._held))
        return self._offset

    def _put(self, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._descriptor, view, self._offset)
            self._offset, view = self._offset + written, view[written:]


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{folder}: packing needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
            "free some room or choose another cache folder with OSSLO_HOME"
        )


def _display_name(path: Path) -> str:
    return path.stem if path.suffix == ".gguf" else path.name


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _padded(rows: int) -> int:
    return -(-rows // PANEL_ROWS) * PANEL_ROWS


def _pad(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(vector, (0, _padded(len(vector)) - len(vector)))


def _c(array: NDArray[_T]) -> NDArray[_T]:
    return np.ascontiguousarray(array)


def _bytes_of(array: NDArray[_T]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
