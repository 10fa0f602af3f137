"""From settings to a model that answers: which one, its packed file, its memory, its engine.

What `serve` puts behind HTTP and `local` into this process; nothing here knows of either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from osslo.chat.models import PromptProfile, ServedModel
from osslo.engine.adapters import AdapterPool
from osslo.engine.constraint import ConstraintCompiler
from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.engine.prefix_disk import PrefixDisk
from osslo.harmony.vocabulary import Markers
from osslo.model.adapters.catalogue import FOLDER, AdapterCatalogue
from osslo.model.available import available_memory
from osslo.model.checkpoints import open_checkpoint
from osslo.model.discovery import ModelRoots, find_local, resolve
from osslo.model.forward import PageKind
from osslo.model.memory import MemoryPlan, MemoryRequest, Weights, check, plan
from osslo.model.model import Model
from osslo.model.pack import Precision, ensure_packed
from osslo.model.packed_file import SUFFIX
from osslo.model.standin import STANDIN_NAME, ensure_standin, speaks_harmony
from osslo.settings import Settings

STAND_IN_NOTE = (
    "A small stand-in, SmolLM2-135M-Instruct in gpt-oss's architecture: it shows that everything "
    "works, with the answers of a very small model. 'osslo pull gpt-oss-20b' gets the real one."
)

DEFAULT_MODEL = "gpt-oss-20b"
STAND_IN_NAMES = frozenset({STANDIN_NAME, "stand-in", "standin"})
DEFAULT_CONTEXT_TOKENS = 32_768
"""The context where none is asked for, if the model has it and memory allows."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many."""


@dataclass(frozen=True, slots=True)
class Located:
    """Which model is to be served: its id, its checkpoint or packed file, and what it is."""

    id: str
    path: Path
    note: str
    stand_in: bool = False


def locate(settings: Settings, progress: Progress | None = None) -> Located:
    """Which model the settings mean: the one they name, else gpt-oss-20b if its weights are on
    this machine, else the stand-in, which is fetched and built if it is not there."""
    roots = ModelRoots.of(settings.folders, settings.paths.model_roots)
    name = settings.model.model
    if name is None:
        found = find_local(roots, DEFAULT_MODEL)
        if found:
            return Located(DEFAULT_MODEL, found[0].path, f"From {found[0].source}.")
    if name is None or name in STAND_IN_NAMES:
        path = ensure_standin(settings.folders.cache, progress=progress)
        return Located(STANDIN_NAME, path, STAND_IN_NOTE, stand_in=True)
    path = resolve(name, roots)
    return Located(_id_of(name, path), path, "")


def _id_of(name: str, path: Path) -> str:
    """What callers call the model: its name as it was given, or its file's if that was a path."""
    if not Path(name).expanduser().exists():
        return name
    return path.stem if path.is_file() else path.resolve().name


def open_native(settings: Settings, located: Located, progress: Progress | None = None) -> Model:
    """The native model of a checkpoint or of a packed file; a checkpoint is packed if need be."""
    path = located.path
    if path.suffix != SUFFIX:
        path = ensure_packed(
            open_checkpoint(path),
            settings.folders.cache / "packed",
            precision=_precision(settings.model.precision),
            name=located.id,
            progress=None if progress is None else partial(progress, "packing"),
        )
    return Model.load(path, threads=settings.model.threads)


def find_adapters(settings: Settings, native: Model) -> AdapterCatalogue:
    """The adapters in home that are for this model."""
    catalogue = AdapterCatalogue(
        settings.folders.home / FOLDER,
        native.config,
        fingerprint=native.header.fingerprint,
        max_rank=settings.model.max_adapter_rank,
    )
    if settings.model.max_adapters:
        catalogue.refresh()
    return catalogue


def adapter_bytes(settings: Settings, adapters: AdapterCatalogue) -> int:
    """What the memory plan keeps for adapters: what was set, else room for the largest of those
    that lie there, as many as may be loaded."""
    if settings.model.adapter_memory_bytes is not None:
        return settings.model.adapter_memory_bytes if settings.model.max_adapters else 0
    sizes = sorted(known.files.resident_bytes for known in adapters.all() if known.files)
    return sum(sizes[max(0, len(sizes) - settings.model.max_adapters) :])


def plan_memory(
    settings: Settings, native: Model, adapters: AdapterCatalogue | None = None
) -> MemoryPlan:
    """What the model will take. Without a context in the settings it is the largest that fits, up
    to `DEFAULT_CONTEXT_TOKENS`. Raises `MemoryPlanError`."""
    wanted = settings.model.context
    request = MemoryRequest(
        context_tokens=wanted or DEFAULT_CONTEXT_TOKENS,
        concurrent=settings.model.max_running,
        draft_tokens=settings.model.draft_tokens,
        threads=native.threads,
        adapter_bytes=adapter_bytes(settings, adapters) if adapters is not None else 0,
        adapter_rank=settings.model.max_adapter_rank if settings.model.max_adapters else 0,
    )
    planned = _plan(native, request)
    if wanted is None and not planned.fits and planned.largest_context_tokens:
        planned = _plan(native, replace(request, context_tokens=planned.largest_context_tokens))
    check(planned)
    return planned


def _plan(native: Model, request: MemoryRequest) -> MemoryPlan:
    return plan(
        native.config,
        request,
        precision=_precision(native.header.precision),
        weights=Weights.packed(native.header),
        available_bytes=available_memory(),
    )


def _precision(name: str) -> Precision:
    return "exact" if name == "exact" else "default"


@dataclass(frozen=True, slots=True)
class Opened:
    """A model as callers see it, and the parts of it that whoever opened it looks after."""

    served: ServedModel
    engine: Engine
    constraints: ConstraintCompiler
    adapters: AdapterPool


def adapter_pool(settings: Settings, native: Model, adapters: AdapterCatalogue) -> AdapterPool:
    """The pool that loads adapters into `native`."""
    return AdapterPool(
        adapters,
        native.load_adapter,
        max_loaded=settings.model.max_adapters,
        max_bytes=settings.model.adapter_memory_bytes,
        available=available_memory,
    )


def prefix_disk(settings: Settings, native: Model) -> PrefixDisk | None:
    """The prefixes of this model that are kept over restarts, if the settings want that."""
    if not settings.model.prefix_disk_bytes:
        return None
    return PrefixDisk(
        settings.folders.cache / "prefixes",
        max_bytes=settings.model.prefix_disk_bytes,
        identity=native.kv_identity,
        page_bytes={kind: native.page_bytes(kind) for kind in PageKind},
    )


def open_served(
    settings: Settings,
    located: Located,
    native: Model,
    memory: MemoryPlan,
    adapters: AdapterCatalogue,
) -> Opened:
    """The engine over a native model, and the model as callers see it. Its thread starts here."""
    tokenizer = native.tokenizer
    markers = Markers.of(tokenizer)
    ends = tuple(sorted({*native.config.eos_token_ids, markers.return_, markers.call}))
    limits = EngineLimits(
        context_tokens=memory.request.context_tokens,
        full_pages=memory.full_pages,
        window_pages=memory.window_pages,
        eos_token_ids=ends,
        max_running=memory.request.concurrent,
        max_waiting=settings.model.max_waiting,
        step_tokens=memory.request.step_tokens,
        draft_tokens=memory.request.draft_tokens,
    )
    constraints = ConstraintCompiler(tokenizer, ends)
    pool = adapter_pool(settings, native, adapters)
    engine = Engine(
        native, limits, constraints=constraints, adapters=pool, disk=prefix_disk(settings, native)
    )
    alias = settings.model.model_alias
    served = ServedModel(
        id=located.id,
        backend=engine,
        vocabulary=tokenizer,
        aliases=(alias,) if alias and alias != located.id else (),
        note=located.note,
        created=int(time.time()),
        reasons=not located.stand_in or speaks_harmony(),
        prompt=PromptProfile(show_date=not located.stand_in),
        adapters=adapters,
    )
    return Opened(served, engine, constraints, pool)
