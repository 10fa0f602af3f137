"""Checkpoints in safetensors files: Hugging Face's layout and OpenAI's `original/` one.

Owns finding the files and the configuration, checking every tensor against it, and giving
matrices as views of the mapped files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osslo.errors import CheckpointError
from osslo.kernels import formats
from osslo.model.checkpoints.base import NamedTensors, files_fingerprint, mismatch, missing
from osslo.model.checkpoints.layouts import HUGGINGFACE, ORIGINAL, Expected, Layout
from osslo.model.checkpoints.safetensors import DTYPES, SafeTensor, SafetensorsFiles
from osslo.model.checkpoints.tensors import (
    Bf16Matrix,
    F16Matrix,
    F32Matrix,
    Matrix,
    Mxfp4Matrix,
    StoredTensor,
    TokenizerFile,
    check_scales,
)
from osslo.model.config import ModelConfig
from osslo.model.fields import read_json_object

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_NAME = "tokenizer.json"

_FLOATS = ("F32", "F16", "BF16")


def open_safetensors(folder: Path) -> SafetensorsCheckpoint:
    """Open a folder with `config.json` and safetensors files, in either layout.

    Raises CheckpointError, one line that names file, tensor and mismatch.
    """
    source = folder / CONFIG_NAME
    values = read_json_object(source)
    if "model_type" in values:
        config = ModelConfig.from_huggingface(values, source=str(source))
        files = SafetensorsFiles(_huggingface_files(folder))
        tied = values.get("tie_word_embeddings") is True
        return SafetensorsCheckpoint(folder, config, files, HUGGINGFACE, tied=tied)
    config = ModelConfig.from_original(values, source=str(source))
    files = SafetensorsFiles(sorted(folder.glob("*.safetensors")))
    return SafetensorsCheckpoint(folder, config, files, ORIGINAL, tied=False)


class SafetensorsCheckpoint:
    """An opened folder of safetensors; implements `Checkpoint`.

    With `tied`, a missing output head is the embedding.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        files: SafetensorsFiles,
        layout: Layout,
        *,
        tied: bool,
    ) -> None:
        self.path = path
        self.config = config
        self.format = layout.format
        self._files = files
        self._layout = layout
        tied = tied and layout.templates["head"] not in files.tensors
        self._named = NamedTensors(path, config, layout, tied=tied)
        self._experts: set[str] = set()
        for expected in layout.expected(config):
            if not (tied and expected.stored == layout.templates["head"]):
                self._check(expected)

    def names(self) -> tuple[str, ...]:
        return self._named.names()

    def matrix(self, name: str) -> Matrix:
        place = self._named.place(name, is_matrix=True)
        if place.stored + self._layout.blocks in self._files.tensors:
            blocks = self._files.tensors[place.stored + self._layout.blocks]
            scales = self._files.tensors[place.stored + self._layout.scales].array()[place.index]
            check_scales(blocks.file.path, name, scales)
            return Mxfp4Matrix(blocks.array()[place.index], scales)
        tensor = self._files.tensors[place.stored]
        values = tensor.array()
        if place.stored in self._experts and self._layout.transposed_experts:
            values = values.swapaxes(1, 2)
        return _float_matrix(tensor.dtype, values[place.index])

    def vector(self, name: str) -> NDArray[np.float32]:
        place = self._named.place(name, is_matrix=False)
        tensor = self._files.tensors[place.stored]
        values = tensor.array()[place.index]
        if tensor.dtype == "BF16":
            return formats.bf16_decode(values)
        return np.ascontiguousarray(values, np.float32)

    def tokenizer_source(self) -> TokenizerFile | None:
        path = self._tokenizer_path()
        return None if path is None else TokenizerFile(path)

    def fingerprint(self) -> str:
        paths = [self.path / CONFIG_NAME, *(file.path for file, _ in self._files.headers)]
        tokenizer = self._tokenizer_path()
        if tokenizer is not None:
            paths.append(tokenizer)
        return files_fingerprint(paths, (header for _, header in self._files.headers))

    def stored_bytes(self) -> int:
        return sum(tensor.stored_bytes for tensor in self._files.tensors.values())

    def describe(self) -> tuple[StoredTensor, ...]:
        return tuple(
            StoredTensor(t.name, t.dtype, t.shape, t.stored_bytes)
            for t in self._files.tensors.values()
        )

    def _tokenizer_path(self) -> Path | None:
        """Beside the weights, or one folder up from `original/`."""
        folders = [self.path]
        if self._layout is ORIGINAL:
            folders.append(self.path.parent)
        found = (folder / TOKENIZER_NAME for folder in folders)
        return next((path for path in found if path.is_file()), None)

    def _check(self, expected: Expected) -> None:
        if not (expected.is_expert and expected.is_matrix):
            self._check_tensor(expected.stored, _FLOATS, expected.shape)
            return
        experts, rows, cols = expected.shape
        if expected.stored + self._layout.blocks not in self._files.tensors:
            self._experts.add(expected.stored)
            plain = (experts, cols, rows) if self._layout.transposed_experts else expected.shape
            self._check_tensor(expected.stored, _FLOATS, plain)
            return
        blocks = expected.stored + self._layout.blocks
        if cols % formats.BLOCK:
            needed = f"plain, since rows of {cols} values do not divide into blocks"
            raise mismatch(self.path, blocks, "MXFP4", needed)
        groups = (experts, rows, cols // formats.BLOCK)
        self._check_tensor(blocks, ("U8",), (*groups, formats.BLOCK // 2))
        self._check_tensor(expected.stored + self._layout.scales, ("U8",), groups)

    def _check_tensor(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        tensor: SafeTensor | None = self._files.tensors.get(name)
        if tensor is None:
            raise missing(self.path, name)
        if tensor.dtype not in dtypes or tensor.shape != shape:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise mismatch(tensor.file.path, name, found, f"{' or '.join(dtypes)} {list(shape)}")


def _float_matrix(dtype: str, values: NDArray[Any]) -> Matrix:
    match dtype:
        case "BF16":
            return Bf16Matrix(values)
        case "F16":
            return F16Matrix(values)
        case "F32":
            return F32Matrix(values)
    raise AssertionError(f"{dtype} passed the check against {_FLOATS} of {list(DTYPES)}")


def _huggingface_files(folder: Path) -> list[Path]:
    """The files an index names, or else every safetensors file of the folder."""
    index = folder / INDEX_NAME
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(f"{folder}: there is no safetensors file beside {CONFIG_NAME}")
        return found
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise CheckpointError(f"{index}: weight_map is not an object of file names")
    files = sorted(set(names.values()))
    for name in files:
        if not name or Path(name).name != name or "\0" in name:
            raise CheckpointError(f"{index}: weight_map names {name!r}, which is no file name")
    return [folder / name for name in files]
