"""Finding models in the folder layouts of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osslo.errors import ConfigurationError
from osslo.model.checkpoints import open_checkpoint
from osslo.model.discovery import ModelRoots, find_local, resolve
from tests.model.random_models import Checkpoints


@pytest.fixture
def roots(tmp_path: Path) -> ModelRoots:
    return ModelRoots(
        models=tmp_path / "models",
        extra=(tmp_path / "extra",),
        hf_cache=tmp_path / "hf",
        lmstudio=(tmp_path / "lm",),
        ollama=tmp_path / "ollama",
    )


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def checkpoint(folder: Path, *, shards: tuple[str, ...] = (), kind: str = "gpt_oss") -> Path:
    write(folder / "config.json", json.dumps({"model_type": kind}))
    if shards:
        index = {"weight_map": {str(i): name for i, name in enumerate(shards)}}
        write(folder / "model.safetensors.index.json", json.dumps(index))
    for name in shards or ("model.safetensors",):
        write(folder / name, b"12345")
    return folder


def ollama(root: Path, model: str, tag: str, blob: bytes, digest: str) -> Path:
    manifest = {
        "layers": [
            {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "0" * 64},
            {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
        ]
    }
    path = root / "manifests/registry.ollama.ai/library" / model / tag
    write(path, json.dumps(manifest))
    return write(root / "blobs" / f"sha256-{digest}", blob)


def test_nothing_anywhere(roots: ModelRoots) -> None:
    assert find_local(roots) == ()
    with pytest.raises(ConfigurationError, match=r"found: none.*osslo pull gpt-oss-20b"):
        resolve("gpt-oss-20b", roots)


def test_every_place_is_searched_and_ours_comes_first(roots: ModelRoots, tmp_path: Path) -> None:
    lm = write(tmp_path / "lm/lmstudio-community/gpt-oss-20b-GGUF/gpt-oss-20b-MXFP4.gguf", b"GGUF")
    snapshots = tmp_path / "hf/models--openai--gpt-oss-20b/snapshots"
    checkpoint(snapshots / "old")
    main = checkpoint(snapshots / "new", shards=("a.safetensors", "b.safetensors"))
    write(snapshots.parent / "refs/main", "new")
    blob = ollama(tmp_path / "ollama", "gpt-oss", "20b", b"GGUF", "5" * 64)
    tuned = checkpoint(tmp_path / "models/me/gpt-oss-20b-tuned")
    own = checkpoint(tmp_path / "models/openai/gpt-oss-20b")
    found = find_local(roots, "gpt-oss-20b")
    assert {model.path for model in found} == {lm, main, blob, tuned, own}
    assert found[0].path == own
    assert found[1].path == main
    assert {model.source for model in found} == {
        "osslo",
        "Hugging Face cache",
        "LM Studio",
        "Ollama",
    }
    assert resolve("openai/gpt-oss-20b", roots) == own
    assert resolve("gpt-oss:20b", roots) == blob
    assert resolve(lm, roots) == lm


def test_incomplete_and_foreign_models_are_left_out(roots: ModelRoots, tmp_path: Path) -> None:
    partial = checkpoint(tmp_path / "models/openai/gpt-oss-120b", shards=("a.safetensors",))
    (partial / "a.safetensors").rename(partial / "a.safetensors.part")
    checkpoint(tmp_path / "models/other/llama", kind="llama")
    write(tmp_path / "lm/x/qwen/qwen.gguf", b"GGUF")
    write(tmp_path / "lm/x/gpt-oss/gpt-oss-120b-00002-of-00002.gguf", b"GGUF")
    write(tmp_path / "models/broken/config.json", b"\xff{")
    ollama(tmp_path / "ollama", "llama3", "8b", b"GGUF", "6" * 64)
    ollama(tmp_path / "ollama", "gpt-oss", "bad", b"GGUF", "../../x").unlink()
    assert find_local(roots) == ()


def test_names_do_not_match_in_the_middle(roots: ModelRoots, tmp_path: Path) -> None:
    checkpoint(tmp_path / "models/openai/gpt-oss-20b")
    assert find_local(roots, "gpt-oss-2") == ()
    assert find_local(roots, "gpt-oss-120b") == ()
    assert find_local(roots, "other/gpt-oss-20b") == ()
    assert len(find_local(roots, "GPT-OSS-20B")) == 1


def test_an_ollama_blob_opens_though_its_name_has_no_ending(
    checkpoints: Checkpoints, roots: ModelRoots, tmp_path: Path
) -> None:
    data = checkpoints.smallest("gguf").read_bytes()
    blob = ollama(tmp_path / "ollama", "gpt-oss", "latest", data, "7" * 64)
    found = find_local(roots, "gpt-oss")
    assert found[0].stored_bytes == blob.stat().st_size
    assert open_checkpoint(found[0].path).format == "gguf"
