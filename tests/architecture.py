"""The house rules that a syntax tree can show, as a checker that works on any folder.

It owns the table of layers. `check(root)` reads every module under `root` (a folder laid out as
`src/osslo`) and returns one line for each breach; `test_architecture.py` runs it on the real tree
and, to show that it can fail, on small made-up ones.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

LAYERS: Mapping[str, int] = MappingProxyType(
    {
        "errors": 0,
        "types": 0,
        "folders": 1,
        "setting_rules": 1,
        "settings": 1,
        "telemetry": 1,
        "kernels": 1,
        "model": 2,
        "db": 2,
        "engine": 3,
        "harmony": 3,
        "tools": 3,
        "accounts": 3,
        "store": 3,
        "chat": 4,
        "backends": 4,
        "tuning": 4,
        "evals": 4,
        "jobs": 4,
        "api": 5,
        "console": 6,
        "backup": 7,
        "opening": 7,
        "server_key": 7,
        "serve": 7,
        "local": 7,
        "cli": 8,
    }
)
"""Imports point to lower numbers, or stay within one folder."""

TOP_FILES = frozenset(
    {
        "errors",
        "types",
        "folders",
        "setting_rules",
        "settings",
        "telemetry",
        "backup",
        "opening",
        "server_key",
        "serve",
        "local",
    }
)
"""Modules of the package's own folder: those of one number may import each other."""

SERVING_NEVER_IMPORTS = frozenset({"tuning", "evals"})
SERVING = frozenset({"api", "chat", "engine", "serve", "console"})

OPTIONAL_DEPENDENCIES = frozenset(
    {"torch", "transformers", "peft", "ray", "vllm", "inspect_ai", "asyncpg", "mcp", "matplotlib"}
)
"""What a function may import: packages of extras, loaded where they are first needed."""

ENVIRONMENT_READERS = frozenset({"environ", "environb", "getenv", "getenvb", "putenv"})
MUTABLE_CALLS = frozenset(
    {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque"}
)
FORBIDDEN_COMMENTS = re.compile(
    r"\b(TODO|FIXME|XXX)\b|noqa(?!: ?[A-Z]+\d)|type: ?ignore(?!\[[a-z-]+\])"
)


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed file: its dotted name below the package, and its layer's name."""

    path: Path
    name: str
    layer: str
    tree: ast.Module
    source: str


def check(root: Path) -> list[str]:
    """Every breach under `root`, as `file:line: what`, in order."""
    return [line for path in sorted(root.rglob("*.py")) for line in _check_module(root, path)]


def _check_module(root: Path, path: Path) -> Iterator[str]:
    module = _parse(root, path)
    shown = path.relative_to(root)
    rules = (_imports, _function_imports, _environment, _prints, _module_state, _promises)
    for rule in rules:
        for line, message in rule(module, root.name):
            yield f"{shown}:{line}: {message}"


def _parse(root: Path, path: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    dotted = parts[:-1] if parts[-1] == "__init__" else parts
    source = path.read_text(encoding="utf-8")
    layer = dotted[0] if dotted else ""
    return Module(path, ".".join(dotted), layer, ast.parse(source), source)


# --- imports ------------------------------------------------------------------------------------


def _imported_layers(node: ast.Import | ast.ImportFrom, module: Module, package: str) -> list[str]:
    """The layers that an import statement names; the package's root itself counts as ''."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return [n[1] if len(n) > 1 else "" for n in names if n[0] == package]
    if node.level:
        here = module.name.split(".") if module.path.name == "__init__.py" else []
        here = here or module.name.split(".")[:-1]
        base = here[: len(here) - node.level + 1] + (node.module or "").split(".")
        return [base[0]] if base and base[0] else [alias.name for alias in node.names]
    parts = (node.module or "").split(".")
    if parts[0] != package:
        return []
    return [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def _imports(module: Module, package: str) -> Iterator[tuple[int, str]]:
    if module.layer and module.layer not in LAYERS:
        yield 1, f"{module.layer} has no place among the layers"
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for target in _imported_layers(node, module, package):
            if target in ("", "__version__", module.layer) or not module.layer:
                continue
            if target not in LAYERS:
                yield node.lineno, f"imports {target}, which has no place among the layers"
            elif not _points_down(module.layer, target):
                yield (
                    node.lineno,
                    f"{module.layer} (layer {LAYERS[module.layer]}) imports "
                    f"{target} (layer {LAYERS[target]})",
                )
            elif module.layer in SERVING and target in SERVING_NEVER_IMPORTS:
                yield node.lineno, f"{module.layer} imports {target}, which serving never does"


def _points_down(layer: str, target: str) -> bool:
    same_folder = layer in TOP_FILES and target in TOP_FILES
    return LAYERS[target] < LAYERS[layer] + int(same_folder)


def _function_imports(module: Module, package: str) -> Iterator[tuple[int, str]]:
    if not module.name:
        return  # the package's root loads its conveniences when they are first asked for
    for function in _functions(module.tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or package]
            else:
                continue
            for name in names:
                if name.split(".")[0] not in OPTIONAL_DEPENDENCIES:
                    yield node.lineno, f"imports {name} inside {function.name}()"


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that are not inside another function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from _functions(node)


# --- where things may happen --------------------------------------------------------------------


def _environment(module: Module, _package: str) -> Iterator[tuple[int, str]]:
    if module.name == "settings":
        return
    for node in ast.walk(module.tree):
        reads = (
            isinstance(node, ast.Attribute)
            and node.attr in ENVIRONMENT_READERS
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ) or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(alias.name in ENVIRONMENT_READERS for alias in node.names)
        )
        if reads:
            yield node.lineno, "reads the environment; only settings.py does"


def _prints(module: Module, _package: str) -> Iterator[tuple[int, str]]:
    if module.layer == "cli":
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            yield node.lineno, "prints; only the command line does"


def _module_state(module: Module, _package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}: state belongs to an object"
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and _is_mutable(value) and _is_variable(target.id):
                yield node.lineno, f"{target.id} is mutable state of the module"


def _is_variable(name: str) -> bool:
    return not name.isupper() and not (name.startswith("__") and name.endswith("__"))


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        function = value.func
        name = function.attr if isinstance(function, ast.Attribute) else ""
        name = function.id if isinstance(function, ast.Name) else name
        return name in MUTABLE_CALLS
    literals = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    return isinstance(value, literals)


# --- promises -----------------------------------------------------------------------------------


def _promises(module: Module, _package: str) -> Iterator[tuple[int, str]]:
    """A module says what it owns; nothing is left for later; exceptions to a rule name the rule."""
    if ast.get_docstring(module.tree) is None and module.tree.body:
        yield 1, "has no docstring that says what it owns"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, "NotImplementedError: a Protocol says what is to be implemented"
    with module.path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT and FORBIDDEN_COMMENTS.search(token.string):
                yield token.start[0], f"{token.string.strip()}: settle it, or name the rule"
