"""Tools as they are declared, and questions that call for them.

A tool is drawn with names, parameter names and a description of its own each time, so that nothing
but reading the declaration tells what to call.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from osslo.harmony.messages import FunctionTool
from recipes.stand_in import tool_banks
from recipes.stand_in.values import KINDS, Split, Value

_FRAMES = (
    "{head} {article} {noun}",
    "Please {low} the {noun}",
    "Can you {low} {article} {noun}",
    "I want to {low} {article} {noun}",
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter under all its names; `kind` is a key of `KINDS`."""

    names: tuple[str, ...]
    kind: str
    required: bool


@dataclass(frozen=True, slots=True)
class Concept:
    """What a tool does, under all its names, and how people ask for it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DrawnTool:
    """One declaration of a concept: the tool, and the name each parameter has in it."""

    concept: Concept
    tool: FunctionTool
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that calls for a tool, and the call; `said` are the values' words by name."""

    question: str
    name: str
    arguments: Mapping[str, Any]
    said: Mapping[str, str]


@cache
def concepts(split: Split) -> tuple[Concept, ...]:
    """The hand-written tools of a split."""
    bank = tool_banks.TRAIN if split == "train" else tool_banks.HELD_OUT
    return tuple(_concept(line) for line in bank.strip().splitlines())


def _concept(line: str) -> Concept:
    names, descriptions, parameters, questions = (part.strip() for part in line.split(" ; "))
    return Concept(
        tuple(names.split("|")),
        tuple(descriptions.split("|")),
        tuple(_parameter(text) for text in parameters.split(", ")),
        tuple(questions.split("|")),
    )


def _parameter(text: str) -> Parameter:
    names, kind = text.split(":")
    required = "?" not in names
    return Parameter(tuple(names.replace("?", "").split("/")), kind, required)


def family_concept(source: random.Random, split: Split) -> Concept:
    """A tool made of a verb, a noun and one to three attributes."""
    verb, heads = source.choice(list(tool_banks.VERBS[split].items()))
    noun = source.choice(tool_banks.NOUNS[split])
    return _family(source, split, verb, heads, noun)


def _family(source: random.Random, split: Split, verb: str, heads: str, noun: str) -> Concept:
    attributes = source.sample(
        list(tool_banks.ATTRIBUTES[split].items()), source.choice((1, 2, 2, 3))
    )
    parameters = []
    questions = []
    for index, (name, (kind, _)) in enumerate(attributes):
        parameters.append(
            Parameter((name, f"{noun}_{name}"), kind, index == 0 or source.random() < 0.5)
        )
    words = noun.replace("_", " ")
    for head in heads.split("|"):
        for frame in _FRAMES:
            text = frame.format(head=head, low=head.lower(), article=_article(words), noun=words)
            for place, (_, (_, phrases)) in enumerate(attributes):
                if parameters[place].required or source.random() < 0.6:
                    text += " " + source.choice(phrases.split("|")).replace("{}", f"{{{place}}}")
            questions.append(f"{text}?" if frame.startswith("Can") else f"{text}.")
    names = (f"{verb}_{noun}", f"{noun}_{verb}", f"{noun}.{verb}")
    described = (
        f"{verb.capitalize()} {_article(words)} {words}.",
        f"{verb.capitalize()}s {words}s.",
    )
    return Concept(names, described, tuple(parameters), tuple(questions))


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def near_family(source: random.Random, split: Split, concept: Concept) -> Concept | None:
    """A tool that is easily mistaken for a family's: the same noun with another verb, or the same
    verb with another noun. None for a hand-written tool."""
    verb, _, noun = concept.names[0].partition("_")
    if noun not in tool_banks.NOUNS[split] or verb not in tool_banks.VERBS[split]:
        return None
    other_verb, heads = source.choice(list(tool_banks.VERBS[split].items()))
    if source.random() < 0.5:
        other_verb, heads = verb, tool_banks.VERBS[split][verb]
        noun = source.choice([n for n in tool_banks.NOUNS[split] if n != noun])
    elif other_verb == verb:
        return None
    return _family(source, split, other_verb, heads, noun)


def draw_tool(source: random.Random, concept: Concept, odd: float = 0.0) -> DrawnTool:
    """A declaration of a concept, in a style of names of its own. A share `odd` of the tools has a
    name that its purpose does not tell, so that it has to be read."""
    camel = source.random() < 0.15
    name = source.choice(concept.names)
    if odd and source.random() < odd:  # without a draw where none is odd: held-out prompts stay
        name = _odd(source, name)
    if camel and "." not in name:
        name = _camel(name)
    names: list[str] = []
    properties: dict[str, Any] = {}
    required: list[str] = []
    described = source.random() < 0.35
    for parameter in concept.parameters:
        chosen = source.choice(parameter.names)
        chosen = _camel(chosen) if camel else chosen
        if chosen in properties:
            chosen = f"{chosen}_{len(properties)}"
        schema = dict(KINDS[parameter.kind].schema)
        if described or parameter.kind in ("date", "time"):
            schema = {**schema, "description": _remark(source, parameter, chosen)}
        names.append(chosen)
        properties[chosen] = schema
        if parameter.required:
            required.append(chosen)
    schema = {"type": "object", "properties": properties, "required": required}
    description = source.choice(concept.descriptions) if source.random() < 0.92 else ""
    return DrawnTool(concept, FunctionTool(name, description, schema), tuple(names))


def _remark(source: random.Random, parameter: Parameter, name: str) -> str:
    if parameter.kind == "date":
        return source.choice(("YYYY-MM-DD", "Date as YYYY-MM-DD."))
    if parameter.kind == "time":
        return source.choice(("HH:MM, 24 hours", "Time as HH:MM."))
    words = re.sub(r"([A-Z])", r" \1", name).replace("_", " ").lower()
    return source.choice((f"The {words}.", f"{words.capitalize()}."))


AFFIXES = (
    "v2", "svc", "api", "do", "run", "my", "x", "new", "job", "op", "fn", "ext", "q7", "main",
)  # fmt: skip


def _odd(source: random.Random, name: str) -> str:
    """A name with a word cut off and another put before or behind it."""
    words = re.split(r"[_.]", name)
    place = source.randrange(len(words))
    words[place] = words[place][: source.randint(3, 6)]
    words.insert(source.choice((0, len(words))), source.choice(AFFIXES))
    return source.choice(("_", "_", ".")).join(words)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def ask(source: random.Random, split: Split, drawn: DrawnTool) -> Asked:
    """A question for the tool, and the arguments it gives."""
    template = source.choice(drawn.concept.questions)
    used = sorted({int(index) for index in re.findall(r"{(\d)}", template)})
    values: dict[int, Value] = {}
    for index in used:
        values[index] = _fresh(source, split, drawn.concept.parameters[index].kind, values)
    question = re.sub(r"{(\d)}", lambda found: values[int(found[1])].said, template)
    if source.random() < 0.12:
        question = question[0].lower() + question[1:]
    arguments = {drawn.names[i]: value.json for i, value in values.items()}
    said = {drawn.names[i]: value.said for i, value in values.items()}
    return Asked(question, drawn.tool.name, arguments, said)


def _fresh(source: random.Random, split: Split, kind: str, taken: Mapping[int, Value]) -> Value:
    """A value that no other argument of the question has."""
    for _ in range(20):
        value = KINDS[kind].draw(source, split)
        if all(value.said != other.said for other in taken.values()):
            return value
    return value
