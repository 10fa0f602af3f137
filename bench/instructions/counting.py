"""How many instructions the hot kernels take: exact numbers, whatever else the machine does.

Builds the kernels with a small driver and counts under valgrind's callgrind, which knows AVX2 but
not AVX-512. A count is the difference between a run with the kernel and one without.

    python -m bench.instructions.counting            # the table
    python -m bench.instructions.counting --record   # make it the new bound
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "csrc"
RECORDED = HERE / "recorded.json"
SET = "avx2"
CASES = ("mxfp4_1_token", "mxfp4_64_tokens", "q8_1_token", "q8_64_tokens", "attention_1024")

_COMMON = ("c++", "-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-I", str(SOURCES))


def compiler() -> str:
    """The compiler's name and major version: other ones give other counts."""
    command = ["c++", "-dumpfullversion", "-dumpversion"]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = subprocess.run(["c++", "--version"], check=True, capture_output=True, text=True).stdout
    return f"{'clang' if 'clang' in named else 'gcc'} {version.split('.')[0].strip()}"


def build(folder: Path) -> Path:
    """The driver, with the AVX2 and the plain kernels, compiled as CMakeLists.txt does."""
    objects = []
    flags = {
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "scalar": (),
        "dispatch": ("-DOSSLO_HAVE_AVX2",),
    }
    for name, own in flags.items():
        objects.append(folder / f"{name}.o")
        source = SOURCES / "kernels" / f"{name}.cpp"
        subprocess.run([*_COMMON, *own, "-c", str(source), "-o", str(objects[-1])], check=True)
    program = folder / "kernels"
    driver = [str(HERE / "kernels.cpp"), *map(str, objects), "-o", str(program)]
    subprocess.run([*_COMMON, *driver], check=True)
    return program


def count(program: Path, case: str) -> int:
    """Instructions of one call of the kernel in `case`."""
    return _collected(program, case, 1) - _collected(program, case, 0)


def _collected(program: Path, case: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program)]
    done = subprocess.run(
        [*command, SET, case, str(times)], check=True, capture_output=True, text=True
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit(f"valgrind said no count: {done.stderr[-300:]}")
    return int(found[1])


def count_all() -> dict[str, int]:
    """All cases, counted."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        return {case: count(program, case) for case in CASES}


def recorded() -> dict[str, dict[str, int]]:
    """The bounds, by compiler and case."""
    bounds: dict[str, dict[str, int]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return bounds


def main() -> None:
    """Count, show beside what is recorded, and record if asked to."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--record", action="store_true", help="make this the new bound")
    record = options.parse_args().record
    counts = count_all()
    bounds = recorded() if RECORDED.exists() else {}
    own = bounds.get(compiler(), {})
    for case, instructions in counts.items():
        before = f"{instructions / own[case] - 1:+8.2%}" if case in own else ""
        sys.stdout.write(f"{case:18} {instructions:12,} {before}\n")
    if record:
        text = json.dumps({**bounds, compiler(): counts}, indent=2)
        RECORDED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
