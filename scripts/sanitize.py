"""Builds the kernels with the address and undefined-behaviour sanitizers and runs their tests.

The sanitized library lives under build/asan, with a copy of the Python sources beside it, so that
the installed one is left alone. Python itself is not instrumented: its runtime library is loaded
first, and leaks, which the interpreter has at exit by design, are not counted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "asan"
SITE = BUILD / "site"
DEFAULT_TESTS = ("tests/kernels/test_native.py", "tests/model/test_native_model.py")

# The editable install finds `osslo` by a hook of its own, which comes before PYTHONPATH.
RUN_TESTS = """
import sys
sys.meta_path = [f for f in sys.meta_path if "scikit" not in type(f).__name__.lower()]
import osslo
assert osslo.__file__.startswith(sys.argv[1]), osslo.__file__
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def build() -> None:
    """Configure, build and install the sanitized library into SITE."""
    tools = Path(sys.executable).parent
    cmake = str(tools / "cmake") if (tools / "cmake").exists() else "cmake"
    configure = [cmake, "-S", str(ROOT), "-B", str(BUILD / "cmake"), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DOSSLO_SANITIZE=ON"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(configure, check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(BUILD / "cmake")], check=True, env=environment)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "src", SITE, ignore=shutil.ignore_patterns("__pycache__"))
    install = [cmake, "--install", str(BUILD / "cmake"), "--prefix", str(SITE)]
    subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)


def runtime_libraries() -> str:
    """What is to be loaded before Python: the address sanitizer, and the C++ library, whose `throw`
    the sanitizer looks up when it starts (Python itself is C and would load it too late)."""
    compiler = os.environ.get("CXX", "c++")
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = [compiler, f"-print-file-name={name}"]
        path = Path(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        )
        if not path.is_absolute():
            raise SystemExit(f"the compiler has no {name}: on Debian, apt-get install g++")
        found.append(str(path.resolve()))
    return " ".join(found)


def test(arguments: list[str]) -> int:
    """Run pytest on the sanitized library; returns its exit code."""
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime_libraries(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(SITE),
        "PYTHONMALLOC": "malloc",
    }
    # -s: a sanitizer's report goes to stderr as the process ends, when captured text is lost.
    command = [sys.executable, "-c", RUN_TESTS, str(SITE), "-s", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *arguments], env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    build()
    sys.exit(test(sys.argv[1:] or [*DEFAULT_TESTS]))
