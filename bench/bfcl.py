"""BFCL's AST-checked categories: how often a model calls the right function, with and without our
grammar.

    python -m bench.bfcl [--model PATH] [--count 50] [--categories simple,multiple] [--fresh]

Answers are kept in `build/bfcl/MODEL-MODE.jsonl` as they come, and a run goes on where the last one
ended. The table is written to `build/bfcl.json`. The questions, Apache-2.0, are read from the wheel
of `bfcl-eval`; the checker is `bench/bfcl_checker.py`. As BFCL does for models with OpenAI's tools,
dots in functions' names read `_`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import osslo
from bench import bfcl_data, machine
from bench.bfcl_checker import Accepted, Declared, Fault, fault_of
from bench.conformance.__main__ import commit
from bench.stand_in_eval import MAX_TOKENS, WORKERS, Speaker
from osslo.errors import OssloError
from osslo.harmony.grammar import GrammarOptions, build_grammar
from osslo.harmony.messages import Conversation, FunctionTool, Message, ReasoningEffort, Role
from osslo.types import Grammar

CATEGORIES: Mapping[str, str] = {
    "simple": "simple_python",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel_multiple",
    "irrelevance": "irrelevance",
    "live_simple": "live_simple",
    "live_multiple": "live_multiple",
    "live_irrelevance": "live_irrelevance",
}
DEFAULT = ("simple", "multiple", "irrelevance")
MODES = ("free", "grammar")
SEED = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One question: the functions that are declared, and the calls that are right."""

    id: str
    category: str
    question: str
    declared: tuple[Declared, ...]
    descriptions: tuple[str, ...]
    wanted: tuple[Accepted, ...]

    def conversation(self) -> Conversation:
        tools = tuple(
            FunctionTool(function.name, description, function.parameters)
            for function, description in zip(self.declared, self.descriptions, strict=True)
        )
        return Conversation(
            messages=(Message(Role.USER, self.question),),
            effort=ReasoningEffort.LOW,
            tools=tools,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question. `fault` None: right."""

    id: str
    category: str
    fault: str | None
    calls: Sequence[Any]


def load(category: str, wheel: Path) -> list[Case]:
    """All questions of a category."""
    name = f"BFCL_v4_{CATEGORIES[category]}.json"
    with zipfile.ZipFile(wheel) as archive:
        rows = list(_lines(archive, f"bfcl_eval/data/{name}"))
        truth: dict[str, Any] = {}
        if not category.endswith("irrelevance"):
            kept = _lines(archive, f"bfcl_eval/data/possible_answer/{name}")
            truth = {row["id"]: row["ground_truth"] for row in kept}
    return [_case(row, category, truth.get(row["id"], [])) for row in rows]


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
    for line in archive.read(name).decode().splitlines():
        if line.strip():
            yield json.loads(line)


def _case(row: Mapping[str, Any], category: str, truth: Sequence[Mapping[str, Any]]) -> Case:
    question = "\n\n".join(turn["content"] for turn in row["question"][0])
    declared = tuple(
        Declared(_plain(f["name"]), bfcl_data.json_schema(f["parameters"])) for f in row["function"]
    )
    return Case(
        id=row["id"],
        category=category,
        question=question,
        declared=declared,
        descriptions=tuple(f.get("description", "") for f in row["function"]),
        wanted=tuple({_plain(name): values for name, values in one.items()} for one in truth),
    )


def _plain(name: str) -> str:
    return name.replace(".", "_")


def pick(cases: Sequence[Case], count: int | None) -> list[Case]:
    """The first `count` in a fixed random order: more later go on from fewer now."""
    order = random.Random(SEED).sample(list(cases), len(cases))
    return order if count is None else order[:count]


def answer(speaker: Speaker, case: Case, *, grammar: bool) -> Answer:
    """Ask one question and judge what comes."""
    try:
        said = speaker.say(case.conversation(), _grammar(case) if grammar else None)
    except OssloError as error:  # a schema that cannot be enforced, a prompt that is too long
        return Answer(case.id, case.category, f"refused: {error.message[:200]}", [])
    fault = fault_of(case.declared, case.wanted, said.calls)
    return Answer(case.id, case.category, None if fault is None else fault.value, said.calls)


def _grammar(case: Case) -> Grammar:
    return build_grammar(
        GrammarOptions(
            tools=case.conversation().tools,
            parallel_tool_calls="parallel" in case.category,
            analysis_max_tokens=MAX_TOKENS // 2,
            lenient_schemas=True,
        )
    )


def run(speaker: Speaker, cases: Sequence[Case], kept: Path, *, grammar: bool) -> dict[str, Answer]:
    """Answers to all of `cases`, those that are kept already among them."""
    answers = read(kept)
    left = [case for case in cases if case.id not in answers]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool, kept.open("a", encoding="utf-8") as file:
        made = pool.map(lambda case: answer(speaker, case, grammar=grammar), left)
        for number, one in enumerate(made, start=1):
            answers[one.id] = one
            record = {"id": one.id, "category": one.category, "fault": one.fault}
            file.write(json.dumps(record | {"calls": one.calls}) + "\n")
            file.flush()
            _progress(f"{kept.stem}: {number}/{len(left)}")
    _progress("")
    return {case.id: answers[case.id] for case in cases}


def read(kept: Path) -> dict[str, Answer]:
    """What an earlier run answered."""
    if not kept.exists():
        return {}
    records = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    return {r["id"]: Answer(r["id"], r["category"], r["fault"], r["calls"]) for r in records}


def summary(answers: Mapping[str, Answer], mode: str) -> list[dict[str, Any]]:
    """A row for each category: the share that is right, and what was wrong with the rest."""
    rows = []
    for category in dict.fromkeys(one.category for one in answers.values()):
        own = [one for one in answers.values() if one.category == category]
        faults = Counter(_kind(one.fault) for one in own if one.fault is not None)
        rows.append(
            {
                "name": f"bfcl_{category}_{mode}",
                "value": round(1 - faults.total() / len(own), 4),
                "samples": len(own),
                "faults": dict(faults.most_common()),
            }
        )
    return rows


def _kind(fault: str) -> str:
    return fault if fault in list(Fault) else fault.partition(":")[0]


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m bench.bfcl", description=__doc__)
    options.add_argument("--model", default="stand-in")
    options.add_argument("--count", type=int, help="questions of each category; all if left out")
    options.add_argument("--categories", default=",".join(DEFAULT))
    options.add_argument("--modes", default=",".join(MODES))
    options.add_argument("--fresh", action="store_true", help="forget earlier answers")
    options.add_argument("--out", type=Path, default=Path("build/bfcl.json"))
    given = options.parse_args()
    categories = given.categories.split(",")
    if unknown := set(categories) - set(CATEGORIES):
        options.error(f"no such category: {', '.join(sorted(unknown))}; {', '.join(CATEGORIES)}")
    wheel = bfcl_data.fetch_wheel()
    cases = [one for name in categories for one in pick(load(name, wheel), given.count)]
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with osslo.load(given.model, context=4096) as model:
        for mode in given.modes.split(","):
            kept = bfcl_data.FOLDER / f"{Path(given.model).stem}-{mode}.jsonl"
            if given.fresh:
                kept.unlink(missing_ok=True)
            answers = run(Speaker(model), cases, kept, grammar=mode == "grammar")
            rows += summary(answers, mode)
    report = {"machine": machine.describe(), "model": given.model, "commit": commit(), "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(f"{row['name']:28} {row['value']:.3f}  ({row['samples']})  {row['faults']}")
    print(f"{time.monotonic() - began:.0f} s, seed {SEED}")


if __name__ == "__main__":
    main()
