"""Builds llama.cpp, the peer, from the source package of `llama-cpp-python` on PyPI.

Everything lands under one folder: the sources, the tools (`llama-bench`, `llama-server`,
`llama-quantize`) and our driver, which feeds given token ids. What is there already is kept.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
DRIVER = Path(__file__).parent / "peer" / "driver.cpp"
TARGETS = ("llama-bench", "llama-server", "llama-quantize")
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)


@dataclass(frozen=True, slots=True)
class PeerBuild:
    """Where the peer's programs are, and which sources they come from."""

    driver: Path
    bench: Path
    server: Path
    quantize: Path
    version: str


def build(folder: Path) -> PeerBuild:
    """Download, unpack and build into `folder`; returns at once if all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    source = _sources(folder)
    output = folder / "llama.cpp"
    programs = output / "bin"
    if not all((programs / name).is_file() for name in TARGETS):
        _run(_tool("cmake"), "-S", source, "-B", output, *_generator(), *OPTIONS)
        _run(_tool("cmake"), "--build", output, "-j", "2", "--target", *TARGETS)
    driver = folder / "driver"
    if not driver.is_file() or driver.stat().st_mtime < DRIVER.stat().st_mtime:
        _link_driver(source, output, driver)
    return PeerBuild(
        driver=driver,
        bench=programs / "llama-bench",
        server=programs / "llama-server",
        quantize=programs / "llama-quantize",
        version=f"{PACKAGE} {VERSION}, llama.cpp {_commit(source)}",
    )


def _sources(folder: Path) -> Path:
    root = folder / f"{PACKAGE.replace('-', '_')}-{VERSION}"
    if not root.is_dir():
        download = ["download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        wanted = [f"{PACKAGE}=={VERSION}", "-d", str(folder)]
        if not (archive := folder / f"{root.name}.tar.gz").is_file():
            _run(sys.executable, "-m", "pip", *download, *wanted)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return root / "vendor" / "llama.cpp"


def _generator() -> tuple[str, ...]:
    ninja = Path(sys.executable).parent / "ninja"
    return ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja.exists() else ()


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _link_driver(source: Path, output: Path, driver: Path) -> None:
    libraries = ["src/libllama.a", *(f"ggml/src/libggml{part}.a" for part in ("", "-cpu", "-base"))]
    _run(
        *("c++", "-O2", "-std=c++17", "-I", source / "include", "-I", source / "ggml" / "include"),
        DRIVER,
        *(output / library for library in libraries),
        *("-fopenmp", "-lpthread", "-ldl", "-o", driver),
    )


def _commit(source: Path) -> str:
    command = ["git", "-C", str(source), "rev-parse", "--show-toplevel", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = found.stdout.split()
    return (
        lines[1][:12] if found.returncode == 0 and Path(lines[0]) == source.resolve() else "unknown"
    )


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
