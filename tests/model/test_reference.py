"""The reference forward against `transformers`, which decides, and against itself cut otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from osslo.errors import ConfigurationError, EngineError
from osslo.kernels import reference as kernels
from osslo.model.checkpoints import open_checkpoint
from osslo.model.config import ModelConfig, YarnConfig, yarn_attention_factor
from osslo.model.forward import PAGE_TOKENS, ForwardInput, ForwardModel, PageKind
from osslo.model.presets import PRESETS
from osslo.model.reference import ReferenceKv, ReferenceModel
from osslo.model.synth import Experts, random_checkpoint
from tests.model.random_models import Checkpoints

FULL, WINDOW = PageKind.FULL, PageKind.WINDOW
TINY = PRESETS["tiny"]


def yarn(factor: float, original: int, *, truncate: bool = False) -> YarnConfig:
    return YarnConfig(factor, original, yarn_attention_factor(factor), truncate=truncate)


# Every prompt is longer than its window and than YaRN's original length.
SHAPES: dict[str, tuple[ModelConfig, int]] = {
    "groups of two": (replace(TINY, sliding_window=8, yarn=yarn(16.0, 32)), 100),
    "one key head": (replace(TINY, kv_heads=1, heads=3, head_dim=64, experts=8), 70),
    "no groups": (replace(TINY, kv_heads=4, head_dim=16, experts_per_token=4), 70),
    "top 3 of 5": (replace(PRESETS["tiny-odd"], yarn=yarn(8.0, 24)), 90),
    "all experts": (replace(TINY, experts=3, experts_per_token=3, sliding_window=32), 80),
    "rounded yarn": (replace(TINY, yarn=yarn(4.0, 48, truncate=True), rope_theta=500.0), 90),
    "no yarn, tight clamp": (replace(TINY, yarn=None, swiglu_limit=0.5, swiglu_alpha=1.1), 60),
    "120b routing": (PRESETS["tiny-128-experts"], 70),
}


def prompt(config: ModelConfig, length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, length).tolist()


@torch.no_grad()
def transformers_logits(folder: Path, ids: list[int], experts: Experts) -> NDArray[np.float32]:
    from transformers import GptOssForCausalLM, Mxfp4Config

    options = {"quantization_config": Mxfp4Config(dequantize=True)} if experts == "mxfp4" else {}
    model = GptOssForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **options
    )
    logits: NDArray[np.float32] = model.eval()(torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("experts", ["mxfp4", "plain"])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str, experts: Experts) -> None:
    config, length = SHAPES[name]
    folder = random_checkpoint(tmp_path / "model", config, seed=11, experts=experts)
    ids = prompt(config, length)
    theirs = transformers_logits(folder, ids, experts)
    ours = ReferenceModel(open_checkpoint(folder)).logits(ids)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()


# --- pages and batches ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(checkpoints: Checkpoints) -> ReferenceModel:
    return ReferenceModel(open_checkpoint(checkpoints.preset("tiny", "safetensors")))


class Sequence:
    """A prompt on its way through `forward`, with page tables of its own in shared pools."""

    def __init__(self, ids: list[int], full: list[int], window: list[int]) -> None:
        self.ids = ids
        self.full = np.array(full, np.int32)
        self.window = np.array(window, np.int32)
        self.done = 0
        self.logits: list[NDArray[np.float32]] = []


def run(model: ReferenceModel, kv: ReferenceKv, chunks: list[tuple[Sequence, int]]) -> None:
    """One step: so many tokens of each sequence."""
    starts = np.cumsum([0, *(count for _, count in chunks)])
    ids = [s.ids[s.done : s.done + count] for s, count in chunks]
    positions = [np.arange(s.done, s.done + count) for s, count in chunks]
    step = ForwardInput(
        token_ids=np.concatenate(ids).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        sequence_starts=starts.astype(np.int32),
        full_pages=np.stack([s.full for s, _ in chunks]),
        window_pages=np.stack([s.window for s, _ in chunks]),
        logit_rows=np.arange(starts[-1], dtype=np.int32),
    )
    logits = model.forward(kv, step)
    for (sequence, count), start in zip(chunks, starts, strict=False):
        sequence.logits.append(logits[start : start + count])
        sequence.done += count


def test_the_reference_is_a_forward_model(model: ReferenceModel) -> None:
    checked: ForwardModel = model
    assert checked.vocab_size == 320
    assert checked.max_context_tokens == 4096
    assert checked.sliding_window == 16
    assert checked.page_bytes(FULL) == 2 * 2 * 32 * 64 * 4  # K and V, layers, tokens, size, bytes


def test_batches_chunks_and_pages_change_no_bit(model: ReferenceModel) -> None:
    first, second = prompt(model.config, 75, 1), prompt(model.config, 40, 2)
    alone = [model.logits(ids) for ids in (first, second)]
    kv = model.new_kv(8, 8)
    a = Sequence(first, [6, 0, 3], [5, 1, 7])
    b = Sequence(second, [2, 7, -1], [0, 3, -1])
    run(model, kv, [(a, 1)])
    run(model, kv, [(a, 30), (b, 7)])
    a.window[0] = 5  # still needed: row 31 sees positions 16 to 31
    run(model, kv, [(b, 1), (a, 18)])
    a.window[0] = -1  # the window has left it
    run(model, kv, [(a, 26), (b, 32)])
    for sequence, wanted in ((a, alone[0]), (b, alone[1])):
        assert (np.concatenate(sequence.logits) == wanted).all()


def test_a_prefix_hit_with_a_copied_page_changes_no_bit(model: ReferenceModel) -> None:
    """41 shared tokens: one page shared, nine positions of the next copied."""
    shared = prompt(model.config, 41, 3)
    ids = shared + prompt(model.config, 20, 4)
    kv = model.new_kv(4, 4)
    run(model, kv, [(Sequence(shared + prompt(model.config, 15, 5), [0, 1], [2, 3]), 56)])
    kv.copy_page(FULL, 1, 2, 41 - PAGE_TOKENS)
    kv.copy_page(WINDOW, 3, 0, 41 - PAGE_TOKENS)
    second = Sequence(ids, [0, 2], [2, 0])
    second.done = 41
    run(model, kv, [(second, 20)])
    assert (second.logits[0] == model.logits(ids)[41:]).all()


def test_only_wanted_rows_get_logits(model: ReferenceModel) -> None:
    ids = prompt(model.config, 10)
    pages, rows = np.zeros((1, 1), np.int32), np.arange(10, dtype=np.int32)
    starts = np.array([0, 10, 10], np.int32)  # the second sequence has no row in this step
    tables = np.concatenate([pages, pages - 1])
    token_ids = np.array(ids, np.int32)
    step = ForwardInput(token_ids, rows, starts, tables, tables, np.array([9, 2], np.int32))
    logits = model.forward(model.new_kv(1, 1), step)
    assert (logits == model.logits(ids)[[9, 2]]).all()
    none = replace_rows(step, np.zeros(0, np.int32))
    assert model.forward(model.new_kv(1, 1), none).shape == (0, 320)


def replace_rows(step: ForwardInput, rows: NDArray[np.int32]) -> ForwardInput:
    return replace(step, logit_rows=rows)


def test_what_cannot_be_run_is_an_engine_error(model: ReferenceModel) -> None:
    kv = model.new_kv(1, 1)
    with pytest.raises(EngineError, match="outside the vocabulary"):
        model.logits([320])
    with pytest.raises(EngineError, match="position 0 has no page"):
        run(model, kv, [(Sequence([1], [-1], [0]), 1)])


# --- quantised ------------------------------------------------------------------------------------


def test_quantised_products_stay_close(checkpoints: Checkpoints) -> None:
    """One position: no routing flip of an earlier one can reach it, its own router is ahead."""
    folder = checkpoints.preset("tiny-128-experts", "safetensors")
    checkpoint = open_checkpoint(folder)
    exact = ReferenceModel(checkpoint)
    int8 = ReferenceModel(checkpoint, quantized=True, kv_dtype=np.float16)
    assert int8.page_bytes(FULL) * 2 == exact.page_bytes(FULL)
    errors = []
    for token in range(40):
        a, b = exact.logits([token])[0], int8.logits([token])[0]
        errors.append(np.abs(a - b).max() / np.abs(a).max())
    assert np.median(errors) < 0.03
    assert min(errors) > 0


def test_quantised_is_refused_where_rows_have_no_blocks(tmp_path: Path) -> None:
    config = replace(TINY, hidden=48)
    folder = random_checkpoint(tmp_path / "m", config, experts="plain")
    with pytest.raises(
        ConfigurationError, match="hidden is 48; quantised products need a multiple"
    ):
        ReferenceModel(open_checkpoint(folder), quantized=True)


def test_quantised_uses_the_integer_product(checkpoints: Checkpoints) -> None:
    """The head alone, by hand."""
    opened = open_checkpoint(checkpoints.preset("tiny", "gguf"))
    model = ReferenceModel(opened, quantized=True)
    x = np.random.default_rng(1).standard_normal((2, 64), np.float32)
    head = opened.matrix("head").to_float32()
    integers, scales = kernels.quantize_activations_int16(x)
    rounded = (integers.reshape(2, 2, 32) * scales[..., None]).reshape(2, 64)
    np.testing.assert_allclose(model._matmul("head", x), rounded @ head.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_transformers_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    """Its own initial weights, its own files: nothing of ours has written them."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        num_hidden_layers=3,
        num_local_experts=6,
        vocab_size=99,
        hidden_size=48,
        intermediate_size=40,
        head_dim=16,
        num_attention_heads=6,
        num_key_value_heads=2,
        sliding_window=12,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    GptOssForCausalLM(config).to(dtype).save_pretrained(tmp_path, max_shard_size="100KB")
    ids = [token % 99 for token in prompt(TINY, 60)]
    theirs = transformers_logits(tmp_path, ids, "plain")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = ReferenceModel(open_checkpoint(tmp_path)).logits(ids)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
