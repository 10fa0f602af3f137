"""Models that are on this machine already: our own folder, and what other programs have fetched.

Knows the folder layouts of the Hugging Face cache, LM Studio and Ollama. Only looks: nothing is
opened beyond small JSON files, copied or moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from osslo.errors import ConfigurationError
from osslo.folders import Folders
from osslo.model.repositories import REPOSITORIES

_MEDIA_TYPE = "application/vnd.ollama.image.model"
_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model on this machine. `path` is what `open_checkpoint` takes, `source` whose it is."""

    name: str
    path: Path
    source: str
    format: str
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class ModelRoots:
    """The folders that are searched, in this order."""

    models: Path
    extra: tuple[Path, ...] = ()
    hf_cache: Path | None = None
    lmstudio: tuple[Path, ...] = ()
    ollama: Path | None = None

    @classmethod
    def of(cls, folders: Folders, extra: Iterable[Path] = ()) -> Self:
        return cls(folders.models, tuple(extra), folders.hf_cache, folders.lmstudio, folders.ollama)


def find_local(roots: ModelRoots, name: str | None = None) -> tuple[FoundModel, ...]:
    """Every gpt-oss model found, or those that `name` means, best first."""
    found = (
        *_folders(roots.models, "osslo"),
        *(model for root in roots.extra for model in _folders(root, "folder")),
        *_huggingface(roots.hf_cache),
        *(model for root in roots.lmstudio for model in _folders(root, "LM Studio")),
        *_ollama(roots.ollama),
    )
    if name is None:
        return found
    named = [model for model in found if _means(name, model.name)]
    repository = _plain(REPOSITORIES.get(name, name))
    return tuple(sorted(named, key=lambda model: _plain(model.name) != repository))


def resolve(name_or_path: str | Path, roots: ModelRoots) -> Path:
    """The path of a model: the path itself if there is one, or a model found by its name.

    Raises `ConfigurationError` that says how to get it.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    found = find_local(roots, name)
    if found:
        return found[0].path
    known = ", ".join(dict.fromkeys(model.name for model in find_local(roots)))
    raise ConfigurationError(
        f"there is no model {name!r} on this machine (found: {known or 'none'}); "
        f"give a path, or fetch it with 'osslo pull {name}'"
    )


def _means(wanted: str, name: str) -> bool:
    """Whether `wanted` is a model's name, the last part of it, or how that begins."""
    wanted, name = _plain(REPOSITORIES.get(wanted, wanted)), _plain(name)
    if wanted == name:
        return True
    # A short name finds other publishers' copies too: lmstudio-community/gpt-oss-20b-GGUF.
    last = re.escape(wanted.removeprefix("openai/"))
    parts = name.split("/")[1:] or [name]
    return any(re.match(rf"{last}(?![a-z0-9])", part) for part in parts)


def _plain(name: str) -> str:
    return name.lower().replace(":", "-").replace("_", "-")


# --- checkpoint folders ---------------------------------------------------------------------------


def _folders(root: Path, source: str) -> Iterator[FoundModel]:
    """Models below `root`: `name`, or `publisher/name` as LM Studio and `osslo pull` keep them."""
    for folder in _subfolders(root):
        found = list(_in_folder(folder, folder.name, source))
        for inner in () if found else _subfolders(folder):
            found += _in_folder(inner, f"{folder.name}/{inner.name}", source)
        yield from found


def _in_folder(folder: Path, name: str, source: str) -> Iterator[FoundModel]:
    """The safetensors checkpoint in `folder`, if it is one of gpt-oss and whole, or its GGUFs."""
    if _is_complete(folder):
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        yield FoundModel(name, folder, source, "safetensors", size)
        return
    for path in sorted(folder.glob("*.gguf")):
        # The first of several GGUF files stands for them all.
        if "gpt-oss" in _plain(f"{name}/{path.name}") and not _LATER_SHARD.search(path.name):
            yield FoundModel(f"{name}/{path.stem}", path, source, "gguf", path.stat().st_size)


def _is_complete(folder: Path) -> bool:
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "gpt_oss":
        return False
    index = _read_json(folder / "model.safetensors.index.json").get("weight_map")
    names = set(index.values()) if isinstance(index, dict) else {"model.safetensors"}
    return all((folder / str(name)).is_file() for name in names)


def _huggingface(cache: Path | None) -> Iterator[FoundModel]:
    """`models--OWNER--NAME/snapshots/COMMIT`, the commit that `refs/main` names first."""
    for folder in _subfolders(cache):
        kind, *parts = folder.name.split("--")
        if kind != "models" or len(parts) < 2:
            continue
        name = f"{parts[0]}/{'--'.join(parts[1:])}"
        for snapshot in _snapshots(folder):
            found = list(_in_folder(snapshot, name, "Hugging Face cache"))
            yield from found
            if found:
                break


def _snapshots(folder: Path) -> list[Path]:
    """The snapshots of a cached repository: `main`'s first, then the newest."""
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    snapshots = _subfolders(folder / "snapshots")
    return sorted(snapshots, key=lambda path: (path.name != main, -path.stat().st_mtime))


# --- Ollama ---------------------------------------------------------------------------------------


def _ollama(root: Path | None) -> Iterator[FoundModel]:
    """`manifests/REGISTRY/NAMESPACE/MODEL/TAG` names the blob that is the GGUF file."""
    if root is None:
        return
    for manifest in sorted((root / "manifests").glob("*/*/*/*")):
        namespace, model, tag = manifest.parts[-3:]
        if "gpt-oss" not in _plain(model):
            continue
        blob = _model_blob(root, _read_json(manifest))
        if blob is not None:
            name = model if namespace == "library" else f"{namespace}/{model}"
            yield FoundModel(f"{name}:{tag}", blob, "Ollama", "gguf", blob.stat().st_size)


def _model_blob(root: Path, manifest: dict[str, Any]) -> Path | None:
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("mediaType") == _MEDIA_TYPE:
            digest = str(layer.get("digest", ""))
            path = root / "blobs" / digest.replace(":", "-")
            if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) and path.is_file():
                return path
    return None


# --- reading --------------------------------------------------------------------------------------


def _subfolders(folder: Path | None) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder else []
    except OSError:
        return []


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
