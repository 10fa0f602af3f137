"""Adapters in the forward pass: against the NumPy reference, against the merged model, and with
equal bits beside others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from osslo.errors import EngineError
from osslo.kernels import _native
from osslo.model.adapters.factors import Adapter, Target
from osslo.model.adapters.peft import open_adapter
from osslo.model.checkpoints import open_checkpoint
from osslo.model.forward import PAGE_TOKENS, ForwardInput, LoadedAdapter
from osslo.model.model import Model
from osslo.model.pack import pack
from osslo.model.presets import PRESETS
from osslo.model.reference import ReferenceModel
from osslo.model.synth import random_checkpoint
from tests.model.random_adapters import ALL, ATTENTION, Merged, write_adapter

TOKENS = 75
NAMES = ("tiny-odd", "tiny-128-experts")


@pytest.fixture(scope="module", params=NAMES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return random_checkpoint(folder, PRESETS[request.param], 3, experts="plain")


def ids_of(model: Model, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.vocab_size, count).tolist()


def run(
    model: Model, texts: list[list[int]], adapters: list[LoadedAdapter | None], chunk: int = 1000
) -> list[NDArray[np.float32]]:
    """Logits of every token of several texts, run together in chunks."""
    pages = -(-max(map(len, texts)) // PAGE_TOKENS)
    kv = model.new_kv(pages * len(texts), pages * len(texts))
    table = np.arange(pages * len(texts), dtype=np.int32).reshape(len(texts), pages)
    out: list[list[NDArray[np.float32]]] = [[] for _ in texts]
    for start in range(0, max(map(len, texts)), chunk):
        living = [i for i, text in enumerate(texts) if len(text) > start]
        parts = [texts[i][start : start + chunk] for i in living]
        starts = np.cumsum([0, *map(len, parts)]).astype(np.int32)
        step = ForwardInput(
            token_ids=np.concatenate([np.array(part, np.int32) for part in parts]),
            positions=np.concatenate(
                [np.arange(start, start + len(part), dtype=np.int32) for part in parts]
            ),
            sequence_starts=starts,
            full_pages=table[living],
            window_pages=table[living],
            logit_rows=np.arange(starts[-1], dtype=np.int32),
            adapters=tuple(adapters[i] for i in living),
        )
        logits = model.forward(kv, step)
        for place, i in enumerate(living):
            out[i].append(logits[starts[place] : starts[place + 1]])
    return [np.concatenate(pieces) for pieces in out]


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def read(folder: Path, model: Model) -> Adapter:
    return open_adapter(folder, model.config).load()


@pytest.mark.parametrize("targets", [ALL, ATTENTION, (Target.DOWN,), (Target.GATE_UP,)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_exact_precision_is_the_reference_and_the_merged_model(
    tmp_path: Path, source: Path, targets: tuple[Target, ...], dtype: str
) -> None:
    checkpoint = open_checkpoint(source)
    model = Model.load(pack(checkpoint, tmp_path / "base.osslo", precision="exact"))
    folder = write_adapter(tmp_path / "a", model.config, targets=targets, dtype=dtype, rank=5)
    adapter = read(folder, model)
    loaded = model.load_adapter(adapter)
    assert loaded.resident_bytes == open_adapter(folder, model.config).resident_bytes
    ids = ids_of(model, TOKENS)
    with_adapter = run(model, [ids], [loaded])[0]
    without = run(model, [ids], [None])[0]
    assert relative_error(with_adapter, without) > 0.02  # it does something

    reference = ReferenceModel(checkpoint).logits(ids, adapter)
    assert relative_error(with_adapter, reference) < 1e-4  # as without adapters: test_native_model

    merged = pack(Merged(checkpoint, adapter), tmp_path / "merged.osslo", precision="exact")
    # The same sums in another order, in float32, through all layers.
    assert relative_error(with_adapter, run(Model.load(merged), [ids], [None])[0]) < 1e-4


@pytest.mark.parametrize("isa", _native.available_kernels())
def test_default_precision_is_near_the_exact_one(tmp_path: Path, source: Path, isa: str) -> None:
    path = pack(open_checkpoint(source), tmp_path / "base.osslo", precision="default")
    model = Model.load(path, kernels=isa)
    loaded = model.load_adapter(read(write_adapter(tmp_path / "a", model.config), model))
    ids = ids_of(model, TOKENS)
    found = run(model, [ids], [loaded])[0]
    exact = Model.load(pack(open_checkpoint(source), tmp_path / "exact.osslo", precision="exact"))
    again = exact.load_adapter(read(tmp_path / "a", exact))
    expected = run(exact, [ids], [again])[0]
    errors = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    # Rows are compared one by one and the median counts: the router of a random model is near
    # ties, and rounding weights to Q8_0 and K and V to float16 flips a few. Without the deltas
    # the same rows are several times farther away.
    assert np.median(errors) < 0.02
    without = run(model, [ids], [None])[0]
    assert np.median(np.abs(without - expected).max(axis=1) / np.abs(expected).max(axis=1)) > 0.05


def test_bits_depend_on_nothing_beside(tmp_path: Path, source: Path) -> None:
    path = pack(open_checkpoint(source), tmp_path / "base.osslo", precision="default")
    model = Model.load(path, threads=1)
    folders = [
        write_adapter(tmp_path / "a", model.config, seed=1, rank=3),
        write_adapter(tmp_path / "b", model.config, seed=2, rank=17, dtype="BF16"),
        write_adapter(tmp_path / "c", model.config, seed=3, rank=8, targets=ATTENTION),
    ]
    one, two, three = (model.load_adapter(read(folder, model)) for folder in folders)
    texts = [ids_of(model, 40 + 7 * i, seed=i % 2) for i in range(6)]
    used = [one, None, two, three, one, None]
    alone = [run(model, [text], [a])[0] for text, a in zip(texts, used, strict=True)]
    for threads, chunk in ((1, 1000), (2, 1000), (2, 13), (1, 1)):
        other = Model.load(path, threads=threads)
        a, b, c = (other.load_adapter(read(folder, other)) for folder in folders)
        together = run(other, texts, [a, None, b, c, a, None], chunk)
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_sequences_without_an_adapter_keep_their_bits(tmp_path: Path, source: Path) -> None:
    path = pack(open_checkpoint(source), tmp_path / "base.osslo", precision="default")
    model = Model.load(path)
    loaded = model.load_adapter(read(write_adapter(tmp_path / "a", model.config), model))
    ids = ids_of(model, 50)
    plain = run(model, [ids], [None])[0]
    beside = run(model, [ids, ids], [None, loaded])
    np.testing.assert_array_equal(beside[0], plain)
    assert not np.array_equal(beside[1], plain)


def test_instruction_sets_agree(tmp_path: Path, source: Path) -> None:
    path = pack(open_checkpoint(source), tmp_path / "base.osslo", precision="default")
    results = []
    for isa in _native.available_kernels():
        model = Model.load(path, kernels=isa)
        folder = tmp_path / f"a-{isa}"
        loaded = model.load_adapter(read(write_adapter(folder, model.config), model))
        results.append(run(model, [ids_of(model, 40)], [loaded])[0])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_foreign_adapters_are_refused(tmp_path: Path, source: Path) -> None:
    model = Model.load(pack(open_checkpoint(source), tmp_path / "base.osslo"))
    adapter = read(write_adapter(tmp_path / "a", model.config), model)
    with pytest.raises(EngineError, match="loaded itself"):
        run(model, [[1, 2]], [adapter])
