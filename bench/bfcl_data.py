"""BFCL's simple, multiple and irrelevance sets: read from the wheel of `bfcl-eval`, and scored.

The wheel (Apache-2.0) is downloaded without its dependencies into a folder under build/ and never
installed. Scoring follows the idea of BFCL's checker: the name must be right, every argument must
be one of its accepted values, and nothing required may be missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PACKAGE = "bfcl-eval"
VERSION = "2026.3.23"
FOLDER = Path("build/bfcl")

Category = Literal["simple", "multiple", "irrelevance"]
_FILES: Mapping[Category, str] = {
    "simple": "simple_python",
    "multiple": "multiple",
    "irrelevance": "irrelevance",
}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


@dataclass(frozen=True, slots=True)
class BfclFunction:
    """A declared function, its parameters as a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BfclCase:
    """One question. `answers` maps the right function's name to the values accepted for each of
    its arguments (`""` among them: it may be left out); empty where nothing may be called."""

    id: str
    question: str
    functions: tuple[BfclFunction, ...]
    answers: Mapping[str, Mapping[str, Sequence[Any]]]


def fetch_wheel(folder: Path = FOLDER) -> Path:
    """The wheel in `folder`, downloaded by pip if it is not there."""
    found = sorted(folder.glob("bfcl_eval-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], check=True)
        found = sorted(folder.glob("bfcl_eval-*.whl"))
    return found[-1]


def load(category: Category, wheel: Path) -> list[BfclCase]:
    """All cases of a category, in the order of the file."""
    name = f"BFCL_v4_{_FILES[category]}.json"
    with zipfile.ZipFile(wheel) as archive:
        cases = _lines(archive, f"bfcl_eval/data/{name}")
        answers: dict[str, Any] = {}
        if category != "irrelevance":
            rows = _lines(archive, f"bfcl_eval/data/possible_answer/{name}")
            answers = {row["id"]: row["ground_truth"][0] for row in rows}
    return [_case(case, answers.get(case["id"], {})) for case in cases]


def _lines(archive: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    text = archive.read(name).decode("utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _case(case: Mapping[str, Any], answers: Mapping[str, Any]) -> BfclCase:
    turns = case["question"][0]
    question = "\n\n".join(turn["content"] for turn in turns)
    functions = tuple(
        BfclFunction(f["name"], f.get("description", ""), json_schema(f["parameters"]))
        for f in case["function"]
    )
    return BfclCase(case["id"], question, functions, answers)


def json_schema(schema: Any) -> Any:
    """BFCL's dialect (`dict`, `float`, `tuple`, `any`) as JSON schema."""
    if isinstance(schema, list):
        return [json_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: json_schema(value) for key, value in schema.items()}
    kind = made.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        made["type"] = _TYPES[kind]
        if made["type"] is None:
            del made["type"]
    return made


def is_right(case: BfclCase, calls: Sequence[tuple[str, Any]]) -> bool:
    """Whether `calls` (names and parsed arguments) are what the case asks for."""
    if not case.answers:
        return not calls
    if len(calls) != 1:
        return False
    name, arguments = calls[0]
    accepted = case.answers.get(name)
    if accepted is None or not isinstance(arguments, Mapping):
        return False
    if any(key not in accepted for key in arguments):
        return False
    for key, values in accepted.items():
        if key not in arguments:
            if "" not in values:
                return False
        elif not any(_same(arguments[key], value) for value in values):
            return False
    return True


def _same(given: Any, accepted: Any) -> bool:
    if isinstance(given, str) and isinstance(accepted, str):
        return _plain(given) == _plain(accepted)
    if isinstance(given, bool) or isinstance(accepted, bool):
        return given is accepted
    if isinstance(given, int | float) and isinstance(accepted, int | float):
        return float(given) == float(accepted)
    if isinstance(given, list) and isinstance(accepted, list):
        return len(given) == len(accepted) and all(map(_same, given, accepted))
    if isinstance(given, Mapping) and isinstance(accepted, Mapping):
        return given.keys() <= accepted.keys() and all(
            (key in given and any(_same(given[key], value) for value in _listed(values)))
            or (key not in given and "" in _listed(values))
            for key, values in accepted.items()
        )
    return bool(given == accepted)


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _plain(text: str) -> str:
    """Case, blanks and punctuation between words do not matter."""
    return "".join(char for char in text.lower() if char not in " ,./-_*^'\"")
