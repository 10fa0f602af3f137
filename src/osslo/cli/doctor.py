"""`osslo doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from osslo import __version__
from osslo.cli.loading import known_models
from osslo.cli.output import Output, gib
from osslo.kernels import _native
from osslo.model.available import available_memory
from osslo.model.memory import MemoryPlan, MemoryRequest, context_table
from osslo.model.presets import preset
from osslo.settings import Settings, load_settings

PLANNED_MODEL = "gpt-oss-20b"
SHOWN_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
)
"""Processor features that kernels use or could use, as Linux calls them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine offers to a model."""

    processor: str
    features: tuple[str, ...]
    kernels: tuple[str, ...]
    cores: int
    threads: int
    memory_bytes: int
    available_bytes: int
    cache_free_bytes: int


def command(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show what this machine offers, and which models are found.

    Processor features and the kernels chosen for them, memory and its limits, folders, models, and
    which context gpt-oss-20b could have here. Paste it into a bug report.

    Example:

        osslo doctor
    """
    output = Output()
    settings = load_settings()
    machine = examine(settings)
    models = known_models(settings)
    plans = context_table(
        preset(PLANNED_MODEL),
        MemoryRequest(context_tokens=8192, threads=machine.threads),
        available_bytes=machine.available_bytes,
    )
    if as_json:
        output.json(
            {
                "osslo": __version__,
                "python": platform.python_version(),
                "system": platform.platform(),
                "machine": asdict(machine),
                "folders": asdict(settings.folders),
                "models": [asdict(model) for model in models],
                "plans": [asdict(plan) | {"fits": plan.fits} for plan in plans],
            }
        )
        return
    output.rows(_system_rows(machine))
    output.rows(_folder_rows(settings), title="\nFolders")
    found = [(m.name, f"{m.path} ({m.source}, {gib(m.stored_bytes)})") for m in models]
    output.rows(found or [("none", "osslo pull gpt-oss-20b")], title="\nModels on this machine")
    output.rows(_plan_rows(plans), title=f"\nMemory for {PLANNED_MODEL}")


def examine(settings: Settings) -> Machine:
    """Look at processor, memory and disk."""
    features, processor = cpu_features()
    return Machine(
        processor=processor,
        features=features,
        kernels=tuple(_native.available_kernels()),
        cores=os.cpu_count() or 1,
        threads=_native.usable_threads(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        available_bytes=available_memory(),
        cache_free_bytes=shutil.disk_usage(_existing(settings.folders.cache)).free,
    )


def cpu_features(info: Path = Path("/proc/cpuinfo")) -> tuple[tuple[str, ...], str]:
    """The features of `SHOWN_FLAGS` that the processor has, and its name."""
    try:
        lines = info.read_text(encoding="utf-8").splitlines()
    except OSError:
        return (), platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    named = fields.get("model name") or platform.machine()
    return tuple(flag for flag in SHOWN_FLAGS if flag in flags), named


def _system_rows(machine: Machine) -> list[tuple[str, str]]:
    limited = machine.threads < machine.cores
    limit = " (affinity or cgroup quota)" if limited else ""
    return [
        ("osslo", f"{__version__}, Python {platform.python_version()} at {sys.executable}"),
        ("system", platform.platform()),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("features", " ".join(machine.features) or "none that kernels use"),
        ("kernels", f"{machine.kernels[0]} (of {', '.join(machine.kernels)})"),
        ("threads", f"{machine.threads}{limit}"),
        ("memory", f"{gib(machine.memory_bytes)}, {gib(machine.available_bytes)} available"),
        ("cache disk", f"{gib(machine.cache_free_bytes)} free"),
    ]


def _folder_rows(settings: Settings) -> list[tuple[str, str]]:
    folders = settings.folders
    return [
        ("home", str(folders.home)),
        ("cache", str(folders.cache)),
        ("models", str(folders.models)),
        ("Hugging Face", str(folders.hf_cache)),
        ("LM Studio", ", ".join(map(str, folders.lmstudio))),
        ("Ollama", str(folders.ollama)),
    ]


def _plan_rows(plans: tuple[MemoryPlan, ...]) -> list[tuple[str, str]]:
    return [
        (
            f"{plan.request.context_tokens:,} tokens",
            f"{gib(plan.total_bytes)}, {'fits' if plan.fits else 'does not fit'}",
        )
        for plan in plans
    ]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
