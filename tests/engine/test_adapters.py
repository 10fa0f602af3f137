"""Adapters through the serving path: which are loaded and when they go, equal bits in any company,
and a prefix cache that never crosses from one to another."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from osslo.engine.adapters import SPARE_BYTES, AdapterPool
from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.engine import Engine
from osslo.errors import (
    AdapterError,
    ConfigurationError,
    ConflictError,
    ModelNotFoundError,
    NotFoundError,
    OverloadedError,
    UnsupportedError,
)
from osslo.model.adapters.catalogue import AdapterCatalogue, add_adapter, remove_adapter
from osslo.model.adapters.factors import Adapter
from osslo.model.adapters.peft import CONFIG_FILE, WEIGHTS_FILE
from osslo.model.checkpoints import open_checkpoint
from osslo.model.model import Model, NativeAdapter
from osslo.model.pack import pack
from osslo.model.presets import PRESETS
from osslo.model.synth import random_checkpoint, synthesize
from osslo.types import FinishReason, GenerationRequest, Grammar, TokenDelta
from tests.engine.test_same_bits import limits_of, prompt_of, request_of, run
from tests.model.random_adapters import ATTENTION, Tensors, write_adapter
from tests.model.test_adapter_files import Q

PLENTY = 1 << 40


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    random_checkpoint(folder / "model", PRESETS["tiny-odd"], 3, experts="mxfp4")
    return pack(open_checkpoint(folder / "model"), folder / "model.osslo", precision="default")


@pytest.fixture(scope="module")
def model(packed: Path) -> Model:
    return Model.load(packed, threads=1)


@pytest.fixture
def root(tmp_path: Path, model: Model) -> Path:
    root = tmp_path / "adapters"
    write_adapter(root / "a", model.config, seed=1, rank=3)
    write_adapter(root / "b", model.config, seed=2, rank=8, dtype="BF16")
    write_adapter(root / "c", model.config, seed=3, rank=5, targets=ATTENTION)
    return root


def pool_of(
    root: Path, model: Model, *, loaded: int = 4, most: int | None = PLENTY, free: int = PLENTY
) -> AdapterPool:
    catalogue = AdapterCatalogue(root, model.config, fingerprint=None, max_rank=64)
    catalogue.refresh()
    return AdapterPool(
        catalogue, model.load_adapter, max_loaded=loaded, max_bytes=most, available=lambda: free
    )


@pytest.fixture
def pool(root: Path, model: Model) -> AdapterPool:
    return pool_of(root, model)


def with_adapter(request: GenerationRequest, adapter: str | None) -> GenerationRequest:
    return replace(request, adapter=adapter)


# --- the pool -------------------------------------------------------------------------------------


def test_one_is_loaded_once_and_shared(pool: AdapterPool) -> None:
    first, second = pool.acquire("a"), pool.acquire("a")
    assert first.adapter is second.adapter
    assert pool.is_loaded("a")
    assert not pool.is_loaded("b")
    status = {s.name: s for s in pool.status()}
    assert (status["a"].users, status["a"].loaded, status["b"].loaded) == (2, True, False)
    assert pool.totals() == (1, first.adapter.resident_bytes)


def test_the_one_used_longest_ago_goes_first(root: Path, model: Model) -> None:
    pool = pool_of(root, model, loaded=2)
    for name in ("a", "b", "a", "c"):
        pool.release(pool.acquire(name))
    assert [s.name for s in pool.status() if s.loaded] == ["a", "c"]


def test_what_is_used_stays(root: Path, model: Model) -> None:
    pool = pool_of(root, model, loaded=1)
    held = pool.acquire("a")
    with pytest.raises(OverloadedError, match="no room for the adapter 'b' while 1 others"):
        pool.acquire("b")
    pool.release(held)
    assert pool.acquire("b").name == "b"


def test_memory_is_a_limit(root: Path, model: Model) -> None:
    sizes = {s.name: s.resident_bytes for s in pool_of(root, model).status()}
    pool = pool_of(root, model, most=sizes["a"] + sizes["c"])
    held = pool.acquire("a")
    pool.release(pool.acquire("c"))
    assert pool.totals() == (2, sizes["a"] + sizes["c"])
    with pytest.raises(ConflictError, match="OSSLO_ADAPTER_MEMORY_BYTES"):
        pool_of(root, model, most=sizes["a"] - 1).acquire("a")
    with pytest.raises(OverloadedError, match="too little is free"):
        pool_of(root, model, most=None, free=sizes["a"] + SPARE_BYTES - 1).acquire("a")
    with pytest.raises(ConflictError, match="OSSLO_MAX_ADAPTERS is 0"):
        pool_of(root, model, loaded=0).acquire("a")
    pool.release(held)


def test_several_threads_load_one_adapter_once(root: Path, model: Model) -> None:
    calls: list[str] = []
    entered, go = threading.Event(), threading.Event()

    def load(adapter: Adapter) -> NativeAdapter:
        calls.append(adapter.identity)
        entered.set()
        assert go.wait(20)
        return model.load_adapter(adapter)

    catalogue = AdapterCatalogue(root, model.config, fingerprint=None, max_rank=64)
    catalogue.refresh()
    pool = AdapterPool(catalogue, load, max_loaded=4, max_bytes=PLENTY, available=lambda: PLENTY)
    leases = []
    threads = [threading.Thread(target=lambda: leases.append(pool.acquire("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    assert not pool.is_loaded("a")
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1
    assert len({id(lease.adapter) for lease in leases}) == 1
    for lease in leases:
        pool.release(lease)
    assert pool.status()[0].users == 0


def test_a_broken_one_is_known_but_not_served(root: Path, model: Model) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[Q + "A.weight"][0, 0] = np.nan

    write_adapter(root / "nan", model.config, change=spoil)
    write_adapter(root / "dora", model.config, settings={"use_dora": True})
    write_adapter(root / "big", model.config, rank=65)
    pool = pool_of(root, model)
    problems = {s.name: s.error for s in pool.status()}
    assert "use_dora" in problems["dora"]
    assert "rank is 65" in problems["big"]
    assert str(root) not in "".join(problems.values())
    with pytest.raises(
        ConflictError, match=r"'dora' cannot be served: adapter_config\.json: use_dora"
    ):
        pool.acquire("dora")
    with pytest.raises(ConflictError, match="holds NaN") as caught:
        pool.acquire("nan")
    assert str(root) not in caught.value.message
    assert [name for name, _ in pool.catalogue.offered()] == ["a", "b", "c", "nan"]
    with pytest.raises(ModelNotFoundError):
        pool.acquire("nothing")
    assert pool.totals() == (0, 0)


def test_adding_and_removing(root: Path, model: Model, tmp_path: Path) -> None:
    pool = pool_of(root, model)
    source = write_adapter(tmp_path / "new", model.config, seed=9)
    add_adapter(source, root, "new", pool.catalogue.check)
    with pytest.raises(ConflictError, match="already"):
        add_adapter(source, root, "new", pool.catalogue.check)
    with pytest.raises(ConfigurationError, match="cannot be called"):
        add_adapter(source, root, "../new", pool.catalogue.check)
    (source / CONFIG_FILE).write_text("{}")
    with pytest.raises(AdapterError, match=r"new: adapter_config\.json: peft_type is None"):
        add_adapter(source, root, "bad", pool.catalogue.check)
    assert not [path.name for path in root.iterdir() if path.name.startswith(".")]
    pool.catalogue.refresh()
    lease = pool.acquire("new")
    remove_adapter(root, "new")
    pool.catalogue.refresh()
    assert not pool.wait_unused("new", 0.01)
    with pytest.raises(ModelNotFoundError):
        pool.acquire("new")
    pool.release(lease)
    assert pool.wait_unused("new", 20)
    assert pool.totals() == (0, 0)
    with pytest.raises(NotFoundError):
        remove_adapter(root, "new")


def test_a_half_copied_folder_is_found_once_it_is_whole(root: Path, model: Model) -> None:
    pool = pool_of(root, model)
    write_adapter(root / "later", model.config)
    (root / "later" / WEIGHTS_FILE).rename(root / "weights")
    pool.catalogue.refresh()
    known = pool.catalogue.get("later")
    assert known is not None
    assert known.error.startswith(WEIGHTS_FILE)
    (root / "weights").rename(root / "later" / WEIGHTS_FILE)
    pool.catalogue.refresh()
    assert pool.acquire("later").name == "later"


# --- the engine -----------------------------------------------------------------------------------


def test_in_one_batch_each_is_as_alone(packed: Path, root: Path, model: Model) -> None:
    """Adapters and none, prefills and decodes, cut into chunks, on one thread and on two."""
    used = ["a", None, "b", "a", "c", None]
    requests = [
        with_adapter(request_of(f"r{i}", prompt_of(model, 30 + 35 * i, i % 3)), name)
        for i, name in enumerate(used)
    ]
    with Engine(
        model, limits_of(model, prefix_cache=False), adapters=pool_of(root, model)
    ) as engine:
        alone = {r.request_id: run(engine, r)[r.request_id][:2] for r in requests}
    assert len({tuple(tokens) for tokens, _ in alone.values()}) == len(requests)
    for threads, changes in ((1, {}), (2, {"step_tokens": 37}), (2, {"full_pages": 20})):
        other = Model.load(packed, threads=threads)
        limits = limits_of(other, **changes)
        with Engine(other, limits, adapters=pool_of(root, other)) as engine:
            together = run(engine, *requests)
        assert {name: outcome[:2] for name, outcome in together.items()} == alone


def test_after_preemptions(root: Path, model: Model) -> None:
    requests = [
        with_adapter(request_of(f"r{i}", prompt_of(model, 40, i), 90), name)
        for i, name in enumerate(["a", "b", None, "a"])
    ]
    with Engine(
        model, limits_of(model, prefix_cache=False), adapters=pool_of(root, model)
    ) as engine:
        calm = {r.request_id: run(engine, r)[r.request_id] for r in requests}
    pool = pool_of(root, model)
    with Engine(model, limits_of(model, full_pages=9, prefix_cache=False), adapters=pool) as engine:
        crowded = run(engine, *requests)
        assert engine.stats().extra["preemptions"] > 0
        assert engine.stats().extra["adapters_loaded"] == 2
    assert crowded == calm
    assert all(s.users == 0 for s in pool.status())


def test_prefixes_are_never_shared_between_adapters(pool: AdapterPool, model: Model) -> None:
    prompt = prompt_of(model, 150)
    names = [None, "a", "b"]
    with Engine(model, limits_of(model), adapters=pool) as engine:
        first = [run(engine, with_adapter(request_of("x", prompt), n))["x"] for n in names]
        again = [run(engine, with_adapter(request_of("x", prompt), n))["x"] for n in names]
    assert [cached for _, _, cached in first] == [0, 0, 0]
    assert [cached for _, _, cached in again] == [149, 149, 149]
    assert [outcome[:2] for outcome in again] == [outcome[:2] for outcome in first]


def test_waiting_behind_the_same_prompt_of_another_adapter(pool: AdapterPool, model: Model) -> None:
    prompt = prompt_of(model, 200)
    requests = [with_adapter(request_of(n, prompt), n) for n in ("a", "b")]
    with Engine(model, limits_of(model, step_tokens=16), adapters=pool) as engine:
        outcomes = run(engine, *requests)
    assert [outcome[2] for outcome in outcomes.values()] == [0, 0]


def test_another_adapter_of_the_same_name_finds_nothing(
    root: Path, pool: AdapterPool, model: Model
) -> None:
    prompt = prompt_of(model, 150)
    request = with_adapter(request_of("x", prompt), "a")
    with Engine(model, limits_of(model), adapters=pool) as engine:
        first = run(engine, request)["x"]
        shutil.rmtree(root / "a")
        write_adapter(root / "a", model.config, seed=77, rank=3)
        pool.catalogue.refresh()
        replaced = run(engine, request)["x"]
        shutil.rmtree(root / "a")
        write_adapter(root / "a", model.config, seed=1, rank=3)
        pool.catalogue.refresh()
        back = run(engine, request)["x"]
    assert replaced[2] == 0
    assert replaced[0] != first[0]
    assert back[2] == 149  # the same contents as at first, so the same pages
    assert back[:2] == first[:2]


def test_a_removed_adapter_finishes_what_runs(root: Path, pool: AdapterPool, model: Model) -> None:
    request = with_adapter(request_of("x", prompt_of(model, 60), 80), "a")
    with Engine(model, limits_of(model, prefix_cache=False), adapters=pool) as engine:
        calm = run(engine, request)["x"]
        stream = engine.generate_blocking(request)
        events = [next(stream)]
        remove_adapter(root, "a")
        pool.catalogue.refresh()
        with pytest.raises(ModelNotFoundError):
            next(engine.generate_blocking(replace(request, request_id="late")))
        write_adapter(root / "new", model.config, seed=5)
        pool.catalogue.refresh()
        run(engine, with_adapter(request_of("y", prompt_of(model, 20)), "new"))
        events += stream
        tokens = [t for e in events if isinstance(e, TokenDelta) for t in e.tokens]
        assert tokens == calm[0]
        assert pool.wait_unused("a", 20)
        assert pool.totals()[0] == 1


def test_refused_requests_hold_nothing(pool: AdapterPool, model: Model) -> None:
    with Engine(model, limits_of(model, max_waiting=0, max_running=1), adapters=pool) as engine:
        running = engine.generate_blocking(
            with_adapter(request_of("long", prompt_of(model, 20), 200), "a")
        )
        next(running)
        for name in ("a", "b"):
            with pytest.raises(OverloadedError):
                next(engine.generate_blocking(with_adapter(request_of("x", (1, 2)), name)))
        assert not pool.is_loaded("b")
        assert [s.users for s in pool.status()] == [1, 0, 0]
        running.close()
    assert [s.users for s in pool.status()] == [0, 0, 0]


async def test_loading_keeps_nobody_waiting(root: Path, model: Model) -> None:
    """While one request's adapter is read, the loop turns and others are answered; and when that
    caller goes away meanwhile, the adapter is given back."""
    entered, go = threading.Event(), threading.Event()

    def load(adapter: Adapter) -> NativeAdapter:
        entered.set()
        assert go.wait(20)
        return model.load_adapter(adapter)

    catalogue = AdapterCatalogue(root, model.config, fingerprint=None, max_rank=64)
    catalogue.refresh()
    pool = AdapterPool(catalogue, load, max_loaded=4, max_bytes=PLENTY, available=lambda: PLENTY)
    engine = Engine(model, limits_of(model), adapters=pool)

    async def all_of(request: GenerationRequest) -> list[object]:
        return [event async for event in engine.generate(request)]

    slow = asyncio.create_task(all_of(with_adapter(request_of("slow", (1, 2, 3)), "a")))
    gone = asyncio.create_task(all_of(with_adapter(request_of("gone", (1, 2, 3)), "a")))
    assert await asyncio.to_thread(entered.wait, 20)
    events = await all_of(request_of("plain", (1, 2, 3)))
    assert isinstance(events[-1], TokenDelta)
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert not slow.done()
    gone.cancel()
    go.set()
    await slow
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await asyncio.to_thread(pool.wait_unused, "a", 20)
    await engine.close()
    assert pool.status()[0].users == 0


def test_without_a_pool_adapters_are_refused(model: Model) -> None:
    with (
        Engine(model, limits_of(model)) as engine,
        pytest.raises(UnsupportedError, match="serves no adapters"),
    ):
        next(engine.generate_blocking(with_adapter(request_of("x", (1, 2)), "a")))


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model with a tokenizer, for grammars."""
    folder = tmp_path_factory.mktemp("speaking")
    source = synthesize("tiny", folder / "tiny")
    return Model.load(pack(open_checkpoint(source), folder / "tiny.osslo"), threads=1)


def test_forced_tokens(speaking: Model, tmp_path: Path) -> None:
    """A grammar's forced tokens run through the adapter as sampled ones do."""
    root = tmp_path / "adapters"
    write_adapter(root / "a", speaking.config, seed=1)
    compiler = ConstraintCompiler(speaking.tokenizer, speaking.config.eos_token_ids)
    grammar = Grammar('start: "forced beginning " /[a-z]{6}/ " and a forced end"')
    request = GenerationRequest(
        "x", (5, 6, 7), replace(request_of("x", ()).sampling, logprobs=None), grammar, adapter="a"
    )
    plain = replace(request, adapter=None)
    outcomes = []
    for cache in (False, True):
        pool = pool_of(root, speaking)
        limits = limits_of(speaking, prefix_cache=cache, context_tokens=256)
        with Engine(speaking, limits, constraints=compiler, adapters=pool) as engine:
            outcomes.append(run(engine, request)["x"][0])
            assert engine.stats().forced_tokens > 5
            other = run(engine, plain)["x"][0]
    text = speaking.tokenizer.decode(outcomes[0])
    assert text.startswith("forced beginning ")
    assert outcomes[0] == outcomes[1]
    assert len(other) >= 5
