"""The native forward against the NumPy one, over paged KV, and its promise of equal bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from osslo.errors import EngineError
from osslo.kernels import _native
from osslo.model.checkpoints import open_checkpoint
from osslo.model.config import ModelConfig
from osslo.model.forward import PAGE_TOKENS, ForwardInput, PageKind
from osslo.model.model import Model, NativeKvCache
from osslo.model.pack import Precision, pack
from osslo.model.presets import PRESETS
from osslo.model.reference import ReferenceModel
from osslo.model.synth import random_checkpoint

TOKENS = 150
SMALL = tuple(name for name in PRESETS if not name.startswith("gpt-oss"))


def packed(folder: Path, config: ModelConfig, precision: Precision, *, experts: str) -> Path:
    source = folder / "model"
    if not source.exists():
        random_checkpoint(source, config, 1, experts="mxfp4" if experts == "mxfp4" else "plain")
    return pack(open_checkpoint(source), folder / f"{precision}.osslo", precision=precision)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("tiny"), PRESETS["tiny"], "default", experts="mxfp4")


def token_ids(config: ModelConfig, count: int = TOKENS, seed: int = 0) -> NDArray[np.int32]:
    random = np.random.default_rng(seed)
    return random.integers(0, config.vocab_size, count).astype(np.int32)


class Sequence:
    """One sequence with pages in a scattered order, advanced in chunks."""

    def __init__(self, model: Model, kv: NativeKvCache, ids: NDArray[np.int32], offset: int):
        pages = -(-len(ids) // PAGE_TOKENS)
        self.ids, self.position = ids, 0
        self.full = np.arange(offset, offset + pages, dtype=np.int32)
        self.window = self.full[::-1].copy()

    def rows(self, count: int) -> NDArray[np.int32]:
        return np.arange(self.position, min(self.position + count, len(self.ids)), dtype=np.int32)


def step(parts: list[tuple[Sequence, NDArray[np.int32]]]) -> ForwardInput:
    width = max(len(sequence.full) for sequence, _ in parts)
    starts = np.cumsum([0] + [len(rows) for _, rows in parts]).astype(np.int32)

    def table(pages: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        return np.stack([np.pad(p, (0, width - len(p)), constant_values=-1) for p in pages])

    return ForwardInput(
        token_ids=np.concatenate([s.ids[rows] for s, rows in parts]),
        positions=np.concatenate([rows for _, rows in parts]),
        sequence_starts=starts,
        full_pages=table([s.full for s, _ in parts]),
        window_pages=table([s.window for s, _ in parts]),
        logit_rows=np.arange(starts[-1], dtype=np.int32),
    )


def logits(model: Model, ids: NDArray[np.int32], chunk: int) -> NDArray[np.float32]:
    kv = model.new_kv(8, 8)
    sequence = Sequence(model, kv, ids, 1)
    out = []
    while sequence.position < len(ids):
        rows = sequence.rows(chunk)
        out.append(model.forward(kv, step([(sequence, rows)])))
        sequence.position += len(rows)
    return np.concatenate(out)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("experts", ["mxfp4", "plain"])
def test_exact_precision_is_the_reference(tmp_path: Path, name: str, experts: str) -> None:
    config = PRESETS[name]
    model = Model.load(packed(tmp_path, config, "exact", experts=experts))
    ids = token_ids(config, min(TOKENS, config.max_context))
    expected = ReferenceModel(open_checkpoint(tmp_path / "model")).logits(ids.tolist())
    found = logits(model, ids, len(ids))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_default_precision_stays_close(tiny: Path) -> None:
    model = Model.load(tiny)
    ids = token_ids(model.config)
    expected = ReferenceModel(open_checkpoint(tiny.parent / "model")).logits(ids.tolist())
    found = logits(model, ids, len(ids))
    agreement = (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
    # A random model: its logits are nearly flat and its router near ties, unlike a trained one's.
    assert agreement > 0.8
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("precision", ["default", "exact"])
def test_bits_do_not_depend_on_chunks_threads_or_kernels(tmp_path: Path, precision: str) -> None:
    config = PRESETS["tiny"]
    path = packed(tmp_path, config, "exact" if precision == "exact" else "default", experts="mxfp4")
    ids = token_ids(config)
    whole = logits(Model.load(path, threads=2), ids, len(ids))
    for chunk in (1, 7, 32, 33):
        np.testing.assert_array_equal(logits(Model.load(path, threads=1), ids, chunk), whole)
    for kernels in _native.available_kernels():
        np.testing.assert_array_equal(logits(Model.load(path, kernels=kernels), ids, 50), whole)


def test_bits_do_not_depend_on_the_batch(tiny: Path) -> None:
    model = Model.load(tiny)
    prompts = [token_ids(model.config, n, n) for n in (5, 64, 100)]
    alone = [logits(model, ids, len(ids)) for ids in prompts]
    kv = model.new_kv(16, 16)
    sequences = [Sequence(model, kv, ids, 5 * i) for i, ids in enumerate(prompts)]
    found: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
    while live := [s for s in sequences if s.position < len(s.ids)]:
        # Uneven shares: one sequence decodes while another prefills.
        parts = [(s, s.rows(1 + 13 * (i % 3))) for i, s in enumerate(live)]
        out = model.forward(kv, step(parts))
        begin = 0
        for sequence, rows in parts:
            found[sequences.index(sequence)].append(out[begin : begin + len(rows)])
            begin += len(rows)
            sequence.position += len(rows)
    for one, many in zip(alone, found, strict=True):
        np.testing.assert_array_equal(np.concatenate(many), one)


def test_a_window_layer_never_reads_what_has_left_the_window(tiny: Path) -> None:
    model = Model.load(tiny)
    ids = token_ids(model.config)
    expected = logits(model, ids, 16)
    kv = model.new_kv(8, 8)
    sequence = Sequence(model, kv, ids, 0)
    for begin in range(0, len(ids), 16):
        first = max(0, begin - model.sliding_window + 1) // PAGE_TOKENS
        sequence.window[:first] = -1
        rows = sequence.rows(16)
        found = model.forward(kv, step([(sequence, rows)]))
        np.testing.assert_array_equal(found, expected[begin : begin + len(rows)])
        sequence.position += len(rows)


def test_a_copied_page_continues_like_the_original(tiny: Path) -> None:
    model = Model.load(tiny)
    ids = token_ids(model.config, 64)
    expected = logits(model, ids, 64)
    kv = model.new_kv(8, 8)
    first = Sequence(model, kv, ids, 0)
    model.forward(kv, step([(first, first.rows(41))]))
    second = Sequence(model, kv, ids, 4)
    for kind, pages in ((PageKind.FULL, "full"), (PageKind.WINDOW, "window")):
        for i, tokens in enumerate((32, 9)):
            kv.copy_page(
                kind, int(getattr(first, pages)[i]), int(getattr(second, pages)[i]), tokens
            )
    second.position = 41
    found = model.forward(kv, step([(second, second.rows(23))]))
    np.testing.assert_array_equal(found, expected[41:])


def test_an_inconsistent_step_is_refused(tiny: Path) -> None:
    model = Model.load(tiny)
    kv = model.new_kv(2, 2)
    ids = token_ids(model.config, 8)
    good = step([(Sequence(model, kv, ids, 0), np.arange(8, dtype=np.int32))])
    bad = {
        "outside the vocabulary": replace(good, token_ids=np.full(8, 320, np.int32)),
        "must be consecutive": replace(good, positions=np.zeros(8, np.int32)),
        "full page table": replace(good, full_pages=np.array([[2]], np.int32)),
        "window page table": replace(good, window_pages=np.array([[-1]], np.int32)),
        "too narrow": replace(good, positions=good.positions + 30),
        "logit_rows": replace(good, logit_rows=np.array([8], np.int32)),
    }
    for message, wrong in bad.items():
        with pytest.raises(EngineError, match=message):
            model.forward(kv, wrong)
    assert model.forward(kv, good).shape == (8, 320)
