"""Prefixes that outlive the process: found again, never wrong, bounded, and nobody else's."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from osslo.engine.engine import Engine
from osslo.engine.prefix_disk import RUN_PAGES, PrefixDisk
from osslo.engine.prefix_file import NewRun
from osslo.model.forward import PAGE_TOKENS, PageKind
from osslo.model.model import Model
from osslo.types import GenerationRequest
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, expected_tokens, make_limits, make_request
from tests.engine.test_runner import prompt_of
from tests.engine.test_same_bits import (
    Outcome,
    alone,
    limits_of,
    model,
    packed,
    request_of,
    run,
)
from tests.engine.test_same_bits import prompt_of as native_prompt

__all__ = ["alone", "model", "packed"]  # fixtures

PAGE_BYTES = PAGE_TOKENS * 8


def open_disk(folder: Path, *, max_bytes: int = 1 << 30, identity: str = "one") -> PrefixDisk:
    sizes = dict.fromkeys(PageKind, PAGE_BYTES)
    return PrefixDisk(folder, max_bytes=max_bytes, identity=identity, page_bytes=sizes)


class Life:
    """A process with a disk, from its start to its end."""

    def __init__(self, folder: Path, *, window: int = 40, limits=None, **disk: object) -> None:
        self.disk = open_disk(folder, **disk)  # type: ignore[arg-type]  # as above
        fake = FakeModel(sliding_window=window)
        self.driver = Driver(fake, limits or make_limits(), disk=self.disk)

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep_all()
        self.disk.close()

    def ask(self, request: GenerationRequest) -> int:
        """Run a request, compare its answer, and return its cached tokens."""
        heard = self.driver.run(request)
        wanted = expected_tokens(self.driver.model, request, context=self.driver.context)
        assert heard.tokens == wanted
        return heard.cached

    def keep_all(self) -> None:
        spill = self.driver.runner.memory.spill
        assert spill is not None
        room = threading.Event()
        self.disk.on_room(room.set)
        while not spill.is_empty:
            if not spill.is_due:
                assert room.wait(10)
            room.clear()
            spill.copy_some()


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"))


@pytest.mark.parametrize("window", [0, 1, 33, 40, 512])
@pytest.mark.parametrize("shared", [31, 32, 63, 64, 100, 300])
def test_found_after_a_restart_with_another_suffix(
    tmp_path: Path, window: int, shared: int
) -> None:
    base = prompt_of(310)
    with Life(tmp_path, window=window) as life:
        assert life.ask(make_request("a", base, 5)) == 0
    other = [*base[:shared], (base[shared] + 1) % 50, *prompt_of(30, 1)]
    with Life(tmp_path, window=window) as life:
        assert life.ask(make_request("b", other, 5)) == shared // PAGE_TOKENS * PAGE_TOKENS
        assert life.ask(make_request("c", other, 5)) == len(other) - 1  # in memory by now
    with Life(tmp_path, window=window) as life:
        assert (
            life.ask(make_request("d", other, 5)) >= (len(other) - 1) // PAGE_TOKENS * PAGE_TOKENS
        )


def test_an_answer_is_found_too(tmp_path: Path) -> None:
    with Life(tmp_path) as life:
        answer = life.driver.run(make_request("a", prompt_of(10), 90)).tokens
    with Life(tmp_path) as life:
        follow_up = [*prompt_of(10), *answer, *prompt_of(5, 1)]
        assert life.ask(make_request("b", follow_up, 3)) == 96


def test_windows_that_were_gone_before_writing_are_not_resumed_at(tmp_path: Path) -> None:
    base = prompt_of(400)
    limits = make_limits(window_pages=8)
    with Life(tmp_path, limits=limits) as life:
        life.ask(make_request("a", base, 3))
    with Life(tmp_path, limits=limits) as life:
        assert life.ask(make_request("b", [*base[:210], *prompt_of(9, 1)], 3)) == 0
        assert life.ask(make_request("c", [*base, *prompt_of(9, 1)], 3)) == 384
        assert life.disk.counters.damaged_files == 0


def test_a_page_is_written_once(tmp_path: Path) -> None:
    base = prompt_of(RUN_PAGES * PAGE_TOKENS + 70)
    for name in "ab":
        with Life(tmp_path) as life:
            life.ask(make_request(name, base, 2))
            life.ask(make_request(name, base, 2))
    assert len(files_of(tmp_path)) == 2
    assert life.disk.counters.written_pages == 0


def test_tenants_adapters_and_models_never_share(tmp_path: Path) -> None:
    base = prompt_of(100)
    with Life(tmp_path) as life:
        life.ask(make_request("a", base, 3, tenant="red"))
        keys = [b"page"]
        chains = {life.disk.chain(scope, keys) for scope in (("", None), ("", "x"), ("x", None))}
        assert len(chains) == 3
    with Life(tmp_path) as life:
        assert life.ask(make_request("b", base, 3, tenant="blue")) == 0
        assert life.ask(make_request("c", base, 3, tenant="red")) == 96
    with Life(tmp_path, identity="two") as life:
        assert life.ask(make_request("d", base, 3, tenant="red")) == 0


def test_only_the_owner_may_read_and_no_name_or_text_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    with Life(folder) as life:
        life.ask(make_request("a", [7] * 100, 3, tenant="somebody"))
    (file,) = files_of(folder)
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == [file]
    header = file.read_bytes()[: -6 * PAGE_BYTES]
    assert b"somebody" not in header
    assert b"7, 7" not in header


def _flip(place: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[place] ^= 1
        return bytes(changed)

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "short": lambda data: data[:20],
    "longer": lambda data: data + b"x",
    "magic": _flip(0),
    "header": _flip(60),
    "first page": _flip(-6 * PAGE_BYTES),
    "last window page": _flip(-1),
    "foreign": lambda data: b"something else entirely" * 1000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("late", [False, True])
def test_a_damaged_file_is_computed_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], late: bool
) -> None:
    """Also one that changes after the index was made."""
    with Life(tmp_path) as life:
        life.ask(make_request("a", prompt_of(100), 3))
    (file,) = files_of(tmp_path)
    whole = file.read_bytes()
    if not late:
        file.write_bytes(damage(whole))
    with Life(tmp_path) as life:
        if late:
            file.write_bytes(damage(whole))
        cached = life.ask(make_request("b", prompt_of(100), 3))
        counters = life.disk.counters
    header_only = late and damage in (DAMAGE["longer"], DAMAGE["magic"], DAMAGE["header"])
    if header_only:  # the pages are whole, and the header was read before
        assert cached == 96
        return
    assert cached == 0
    assert counters.damaged_files == 1
    assert file.read_bytes() == whole  # written again
    with Life(tmp_path) as life:
        assert life.ask(make_request("c", prompt_of(100), 3)) == 96


def test_a_file_that_is_gone_is_no_damage(tmp_path: Path) -> None:
    with Life(tmp_path) as life:
        life.ask(make_request("a", prompt_of(100), 3))
    with Life(tmp_path) as life:
        files_of(tmp_path)[0].unlink()
        assert life.ask(make_request("b", prompt_of(100), 3)) == 0
        assert life.disk.counters.damaged_files == 0


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with Life(tmp_path, max_bytes=4 * 1024) as life:
        for seed in range(4):
            life.ask(make_request(str(seed), prompt_of(100, seed), 3))
    assert other.read_text() == "mine"


def test_the_folder_is_bounded_and_what_was_used_stays(tmp_path: Path) -> None:
    with Life(tmp_path) as life:
        life.ask(make_request("probe", prompt_of(100, 99), 3))
    size = files_of(tmp_path)[0].stat().st_size
    bound = 4 * size + 100
    for seed in range(8):
        with Life(tmp_path, max_bytes=bound) as life:
            life.ask(make_request("again", prompt_of(100), 3))
            life.ask(make_request("new", prompt_of(100, seed + 1), 3))
        assert sum(file.stat().st_size for file in files_of(tmp_path)) <= bound
    assert life.disk.counters.evicted_files > 0
    with Life(tmp_path, max_bytes=bound) as life:
        assert life.ask(make_request("used", prompt_of(100), 3)) == 96
        assert life.ask(make_request("unused", prompt_of(100, 2), 3)) == 0


def test_a_long_text_loses_its_end_first(tmp_path: Path) -> None:
    base = prompt_of(3 * RUN_PAGES * PAGE_TOKENS + 10)
    limits = make_limits(context_tokens=1024, full_pages=64)
    with Life(tmp_path, limits=limits) as life:
        life.driver.model.max_context_tokens = 1024
        life.ask(make_request("a", base[:480], 2))
        life.ask(make_request("b", base[:500], 2))
    files = sorted(files_of(tmp_path), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 2
    files[0].unlink()
    with Life(tmp_path, limits=limits) as life:
        cached = life.ask(make_request("c", base[:500], 2))
    assert cached == RUN_PAGES * PAGE_TOKENS


def test_a_run_that_begins_earlier_takes_the_place_of_one_with_the_same_end(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    chain = disk.chain(("tenant", None), [bytes([i]) for i in range(4)])
    pages = [np.full(PAGE_BYTES, i, np.uint8) for i in range(4)]
    disk.write(NewRun(chain, tuple(pages[2:]), (None, None)))
    disk.write(NewRun(chain, tuple(pages), (None,) * 4))
    disk.close()
    for place, page in zip(disk.find(chain), pages, strict=True):
        found = np.zeros(PAGE_BYTES, np.uint8)
        assert disk.read(PageKind.FULL, [(place, found)])
        assert np.array_equal(found, page)
    assert disk.counters.damaged_files == 0


def test_a_full_disk_is_counted_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    with Life(folder) as life:
        folder.rmdir()
        for seed in range(3):
            assert life.ask(make_request(str(seed), prompt_of(100, seed), 3)) == 0
    assert life.disk.counters.failed_writes == 3


def test_runs_that_never_fit_are_not_written(tmp_path: Path) -> None:
    with Life(tmp_path, max_bytes=100) as life:
        life.ask(make_request("a", prompt_of(100), 3))
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("seed", range(6))
def test_any_mixture_of_memory_and_disk_gives_the_same(tmp_path: Path, seed: int) -> None:
    """Small pools, so that texts are partly in memory, partly on disk, and preempted."""
    rng = random.Random(seed)
    window = rng.choice([0, 33, 40])
    limits = make_limits(full_pages=20, window_pages=rng.choice([9, 14, 20]), max_running=3)
    trunk = prompt_of(400, seed)
    hits = 0
    for life_number in range(4):
        bound = rng.choice([1 << 20, 40_000])
        with Life(tmp_path, window=window, limits=limits, max_bytes=bound) as life:
            for number in range(8):
                names = [f"{life_number}.{number}.{i}" for i in range(rng.randrange(1, 4))]
                requests = [
                    make_request(
                        name,
                        [*trunk[: rng.randrange(1, 350)], *prompt_of(rng.randrange(1, 60), number)],
                        rng.randrange(1, 60),
                        tenant=rng.choice(["", "x"]),
                    )
                    for name in names
                ]
                for request in requests:
                    life.driver.add(request)
                    if rng.random() < 0.5:
                        life.driver.step()
                    life.driver.runner.keep_some()
                life.driver.finish()
                for request in requests:
                    heard = life.driver.heard[request.request_id]
                    wanted = expected_tokens(life.driver.model, request)
                    assert heard.tokens == wanted
            hits += life.disk.counters.read_pages
    assert hits > 0


class Watched(PrefixDisk):
    """Tells when something was written."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.written = threading.Event()
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # passed on

    def touch(self, chain: Sequence[bytes]) -> None:
        super().touch(chain)
        self.written.set()


def test_an_idle_engine_writes_without_being_asked(tmp_path: Path) -> None:
    sizes = dict.fromkeys(PageKind, PAGE_BYTES)
    disk = Watched(tmp_path, max_bytes=1 << 20, identity="one", page_bytes=sizes)
    with Engine(FakeModel(), make_limits(), disk=disk) as engine:
        list(engine.generate_blocking(make_request("a", prompt_of(100), 3)))
        assert disk.written.wait(10)
        assert engine.stats().extra["disk_pages_written"] == 3


def native_disk(folder: Path, model: Model) -> PrefixDisk:
    sizes = {kind: model.page_bytes(kind) for kind in PageKind}
    return PrefixDisk(folder, max_bytes=1 << 30, identity=model.kv_identity, page_bytes=sizes)


@pytest.mark.parametrize("shared", [77, 149])
def test_the_same_bits_as_computing_again(
    tmp_path: Path,
    model: Model,
    alone: Outcome,
    shared: int,
) -> None:
    prompt = native_prompt(model, 150)
    with Engine(model, limits_of(model), disk=native_disk(tmp_path, model)) as engine:
        run(engine, request_of("other", prompt[:shared] + native_prompt(model, 60, 9)))
    with Engine(model, limits_of(model), disk=native_disk(tmp_path, model)) as engine:
        outcome = run(engine, request_of("a", prompt))["a"]
        assert engine.stats().extra["disk_pages_read"] > 0
    assert outcome[2] == shared // PAGE_TOKENS * PAGE_TOKENS
    assert outcome[:2] == alone[:2]
