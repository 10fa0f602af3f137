"""The whole-turn grammar on the real vocabulary: what it lets through and what it refuses."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osslo.errors import GrammarError
from osslo.harmony.bodies import ChoiceBody, JsonBody, RegexBody, TextBody
from osslo.harmony.events import Malformed
from osslo.harmony.grammar import (
    CustomTool,
    GrammarOptions,
    ToolChoice,
    ToolMode,
    build_grammar,
    untuned_grammar,
)
from osslo.harmony.messages import BuiltinTools, Channel, FunctionTool
from osslo.harmony.parse import StreamParser, collect_messages
from osslo.model.tokenizer import Tokenizer
from osslo.types import Grammar
from tests.harmony.wire import Wire

WEATHER = FunctionTool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 20},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "units": {"enum": ["celsius", "kelvin"]},
        },
        "required": ["place"],
        "additionalProperties": False,
    },
)
NOW = FunctionTool("now")
NOW_UTC = FunctionTool("now_utc")  # another tool's name is its beginning
TOOLS = (WEATHER, NOW, NOW_UTC)
SHOPPING = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
    "required": ["items"],
    "additionalProperties": False,
}


class Judge:
    """Runs streams against grammars, one token at a time as the engine does."""

    def __init__(self, vocabulary: Tokenizer) -> None:
        self.vocabulary = vocabulary
        self.wire = Wire(vocabulary)
        ends = [vocabulary.special("<|return|>"), vocabulary.special("<|call|>")]
        self.tokenizer = llguidance.LLTokenizer(vocabulary.to_json(), eos_token=ends)

    def matcher(self, grammar: Grammar) -> llguidance.LLMatcher:
        source = llguidance.LLMatcher.grammar_from_lark(grammar.lark)
        matcher = llguidance.LLMatcher(self.tokenizer, source, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def refused_at(self, grammar: Grammar, stream: str) -> str | None:
        """What was read when the grammar refused; None if it takes the stream as a whole turn."""
        matcher, read = self.matcher(grammar), ""
        for token in self.wire(stream):
            # Not by the mask: where text is forced it allows the canonical tokens only.
            if matcher.is_stopped() or not matcher.consume_token(token):
                return read
            read += self.vocabulary.decode([token])
        return None if matcher.is_stopped() and not matcher.is_error() else read

    def allowed(self, matcher: llguidance.LLMatcher) -> Any:
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(mask, bitorder="little")


@pytest.fixture(scope="module")
def judge(vocabulary: Tokenizer) -> Judge:
    return Judge(vocabulary)


THINK = "<|channel|>analysis<|message|>Hm, \n\n let me <think>.<|end|><|start|>assistant"
SAY = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Minus four.\nBrr.<|return|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"place":"Oslo"}'
CALL_IN_ROLE = " to=functions.now<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
CALL_UTC = "<|channel|>commentary to=functions.now_utc<|message|>{}<|call|>"
NEXT = "<|end|><|start|>assistant"

AUTO = GrammarOptions(tools=TOOLS)
REQUIRED = GrammarOptions(tools=TOOLS, tool_choice=ToolChoice(ToolMode.REQUIRED))
NONE = GrammarOptions(tools=TOOLS, tool_choice=ToolChoice(ToolMode.NONE))
NAMED = GrammarOptions(tools=TOOLS, tool_choice=ToolChoice.named("now"))
ALLOWED = GrammarOptions(tools=TOOLS, tool_choice=ToolChoice(names=("now", "now_utc")))
PARALLEL = GrammarOptions(tools=TOOLS, parallel_tool_calls=True)
BUILTIN = GrammarOptions(builtin_tools=BuiltinTools(python=True, browser=True))
JSON_FINAL = GrammarOptions(final=JsonBody(SHOPPING))
SKIP = GrammarOptions(tools=TOOLS, analysis="skip")

ACCEPTED = [
    (GrammarOptions(), FINAL),
    (GrammarOptions(), THINK + THINK + FINAL),
    (AUTO, FINAL),
    (AUTO, THINK + FINAL),
    (AUTO, THINK + SAY + CALL + "<|call|>"),
    (AUTO, CALL_IN_ROLE),
    (AUTO, THINK + CALL_IN_ROLE),
    (AUTO, CALL_UTC),
    (AUTO, CALL.replace(" <|con", "<|con") + "<|call|>"),
    (REQUIRED, THINK + CALL + "<|call|>"),
    (REQUIRED, CALL_IN_ROLE),
    (NONE, THINK + FINAL),
    (NAMED, CALL_IN_ROLE),
    (NAMED, THINK + CALL_IN_ROLE),
    (ALLOWED, CALL_UTC),
    (ALLOWED, FINAL),
    (PARALLEL, CALL + "<|call|>"),
    (PARALLEL, THINK + SAY + CALL + NEXT + CALL + NEXT + CALL_IN_ROLE),
    (BUILTIN, "<|channel|>analysis to=python code<|message|>print(2**64)\n<|call|>"),
    (BUILTIN, ' to=browser.search<|channel|>analysis code<|message|>{"query":"Oslo"}<|call|>'),
    (BUILTIN, '<|channel|>analysis to=browser.open<|message|>{"id":3,"loc":10}<|call|>'),
    (JSON_FINAL, THINK + '<|channel|>final<|message|>{"items":["egg","soda"]}<|return|>'),
    (JSON_FINAL, '<|channel|>final <|constrain|>json<|message|>{"items":[]}<|return|>'),
    (GrammarOptions(final=RegexBody(r"[a-z]+/\d{2}")),
     "<|channel|>final<|message|>ab/07<|return|>"),
    (GrammarOptions(final=ChoiceBody(("yes", 'a "no"\n'))),
     '<|channel|>final<|message|>a "no"\n<|return|>'),
    (SKIP, FINAL),
    (SKIP, CALL_IN_ROLE),
    (GrammarOptions(analysis_max_tokens=2), "<|channel|>analysis<|message|>Hm!" + NEXT + FINAL),
    (GrammarOptions(custom_tools=(CustomTool("run", RegexBody("SELECT .*")),)),
     "<|channel|>commentary to=functions.run<|message|>SELECT 1<|call|>"),
    (GrammarOptions(custom_tools=(CustomTool("run"),)),
     " to=functions.run<|channel|>commentary<|message|>any\n text<|call|>"),
]  # fmt: skip

REFUSED = [
    (AUTO, "Minus four.<|return|>", ""),
    (AUTO, "<|message|>Hi", ""),
    (AUTO, "<|channel|>thoughts", "<|channel|>"),
    (AUTO, "<|channel|>final to=functions.now", "<|channel|>final"),
    (AUTO, "<|channel|>commentary to=functions.never", "<|channel|>commentary to=functions"),
    (AUTO, "<|channel|>analysis to=functions.now", "<|channel|>analysis"),
    (AUTO, FINAL.replace("<|return|>", "<|call|>"), FINAL.removesuffix("<|return|>")),
    (AUTO, CALL + "<|return|>", CALL),
    (AUTO, CALL + NEXT, CALL),
    (AUTO, CALL.replace('"Oslo"', "1"), CALL.partition(":")[0] + ":"),
    (AUTO, CALL.replace('{"p', '{ "p'), CALL.partition("{")[0] + "{"),
    (NONE, CALL, "<|channel|>"),
    (NONE, CALL_IN_ROLE, ""),
    (REQUIRED, FINAL, "<|channel|>"),
    (REQUIRED, SAY, "<|channel|>commentary"),
    (NAMED, CALL, "<|channel|>commentary to=functions"),
    (NAMED, CALL_UTC, "<|channel|>commentary to=functions.now"),
    (ALLOWED, CALL, "<|channel|>commentary to=functions"),
    (SKIP, THINK, "<|channel|>"),
    (JSON_FINAL, FINAL, "<|channel|>final<|message|>"),
    (GrammarOptions(analysis_max_tokens=2), "<|channel|>analysis<|message|>Hm!!! no",
     "<|channel|>analysis<|message|>Hm!!!"),
    (GrammarOptions(analysis_max_tokens=9), THINK + THINK, THINK + "<|channel|>"),
    (GrammarOptions(), THINK * 9, THINK * 8 + "<|channel|>"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "stream"), ACCEPTED)
def test_accepts(judge: Judge, options: GrammarOptions, stream: str) -> None:
    assert judge.refused_at(build_grammar(options), stream) is None


@pytest.mark.parametrize(("options", "stream", "read"), REFUSED)
def test_refuses(judge: Judge, options: GrammarOptions, stream: str, read: str) -> None:
    assert judge.refused_at(build_grammar(options), stream) == read


def test_an_untuned_model_can_only_answer(judge: Judge) -> None:
    matcher = judge.matcher(untuned_grammar())
    for text in ("<|channel|>", "final", "<|message|>"):
        [token] = judge.wire(text)
        assert judge.allowed(matcher)[token]
        assert matcher.consume_token(token)
    mask = judge.allowed(matcher)
    assert mask[judge.vocabulary.special("<|return|>")]
    assert not mask[judge.vocabulary.special("<|end|>")]
    assert mask[:199_998].sum() > 190_000


def test_the_keys_of_arguments_are_forced(judge: Judge) -> None:
    options = GrammarOptions(
        tools=(WEATHER,), tool_choice=ToolChoice.named("get_weather"), analysis="skip"
    )
    matcher = judge.matcher(build_grammar(options))
    matcher.consume_tokens(judge.wire(CALL.partition("{")[0]))
    assert judge.vocabulary.decode(matcher.compute_ff_tokens()) == '{"place'


def check_arguments(recipient: str, text: str) -> None:
    """The arguments satisfy the called tool's schema."""
    values = json.loads(text)
    if recipient != "functions.get_weather":
        assert recipient in ("functions.now", "functions.now_utc")
        assert values == {}
        return
    assert {"place"} <= values.keys() <= {"place", "days", "units"}
    assert isinstance(values["place"], str)
    assert len(values["place"]) <= 20
    assert values.get("days", 1) in range(1, 10)
    assert values.get("units", "kelvin") in ("celsius", "kelvin")


def check_shopping(text: str) -> None:
    values = json.loads(text)
    assert values.keys() == {"items"}
    assert len(values["items"]) <= 3
    assert all(isinstance(item, str) for item in values["items"])


# --- random walks ---------------------------------------------------------------------------------


def walk(judge: Judge, grammar: Grammar, seed: int, limit: int = 220) -> Iterator[int]:
    """A turn of a model without a mind: any allowed token, ends preferred as it grows."""
    rng = random.Random(seed)
    matcher = judge.matcher(grammar)
    specials = sorted(judge.vocabulary.specials.values())
    for step in range(limit):
        mask = judge.allowed(matcher)
        allowed = np.flatnonzero(mask)
        assert allowed.size, "the mask is empty"
        marks = [token for token in specials if mask[token]]
        hurry = marks and rng.random() < step / 60
        token = rng.choice(marks) if hurry else int(rng.choice(allowed))
        assert matcher.consume_token(token), matcher.get_error()
        yield token
        if matcher.is_stopped():
            return


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [AUTO, REQUIRED, PARALLEL, JSON_FINAL], ids="arpj")
def test_a_random_walk_parses_into_sound_messages(
    judge: Judge, options: GrammarOptions, seed: int
) -> None:
    tokens = list(walk(judge, build_grammar(options), seed))
    parser = StreamParser(judge.vocabulary)
    events = [event for token in tokens for event in parser.feed(token)] + parser.finish()
    ended = tokens[-1] in (
        judge.vocabulary.special("<|return|>"),
        judge.vocabulary.special("<|call|>"),
    )
    assert not ended or not any(isinstance(event, Malformed) for event in events)
    messages = collect_messages(events)
    for message in messages[: None if ended else -1]:
        if message.recipient is not None:
            check_arguments(message.recipient, message.content)
        elif message.channel is Channel.FINAL and options is JSON_FINAL:
            check_shopping(message.content)
    assert not (ended and options is REQUIRED) or messages[-1].recipient is not None


# --- what cannot be enforced ----------------------------------------------------------------------


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"not": {"type": "string"}}}}, "uses 'not'"),
        ({"properties": {"a": {"if": {}, "then": {}}}}, "uses 'if', 'then'"),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "uses 'uniqueItems'"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}, "'pattern'.*look-around"),
        ({"properties": {"a": {"type": "string", "format": "zip"}}}, "'format'.*zip"),
        ({"properties": {"a": {"$ref": "http://example.com/a"}}}, r"'\$ref'"),
        ({"properties": {"a": {"$ref": "#/$defs/nowhere"}}}, r"'\$ref'.*nowhere"),
        ({"properties": {"a": {"type": "text"}}}, "'type'.*text"),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"minLength": 1}]}}}, "'oneOf'"),
        ({"properties": {"a": False}, "required": ["a"]}, "Unsatisfiable"),
        ({"properties": {"a": {"default": float("nan")}}}, "not JSON"),
        ({"properties": {"a": {"enum": [object]}}}, "not JSON"),
        (deep(33), "nested deeper than 64"),
        (deep(100_000), "nested deeper than 64"),
        ({"description": "x" * 300_000}, "larger than 256 KiB"),
        ({"allOf": [
            {"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)
        ]}, "too large|cannot be enforced"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_enforced_is_refused_by_keyword(
    schema: dict[str, Any], words: str
) -> None:
    with pytest.raises(GrammarError, match=f"(?s)^parameters of tool f .*({words})") as caught:
        build_grammar(GrammarOptions(tools=(FunctionTool("f", "", schema),)))
    assert "\n" not in caught.value.message
    assert caught.value.param == "parameters of tool f"


def test_a_lenient_grammar_leaves_keywords_out(judge: Judge) -> None:
    schema = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    options = GrammarOptions(tools=(FunctionTool("f", "", schema),), lenient_schemas=True)
    stream = '<|channel|>commentary to=functions.f<|message|>{"a":[1,1]}<|call|>'
    assert judge.refused_at(build_grammar(options), stream) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (GrammarOptions(final=RegexBody("(?=a)b")), "response_format is not a pattern"),
        (GrammarOptions(final=RegexBody("(")), "response_format is not a pattern"),
        (GrammarOptions(final=RegexBody("a" * 20_000)), "longer than"),
        (GrammarOptions(final=ChoiceBody(())), "between 1 and"),
        (GrammarOptions(final=JsonBody(schema=False)), "allows nothing"),
        (GrammarOptions(tools=(FunctionTool("f g"),)), "tool name 'f g' must be"),
        (GrammarOptions(tools=(FunctionTool("f<|end|>"),)), "must be"),
        (GrammarOptions(tool_choice=ToolChoice(ToolMode.REQUIRED)), "no tool to call"),
        (GrammarOptions(tools=TOOLS, tool_choice=ToolChoice.named("g")), "names g, which"),
        (GrammarOptions(tools=tuple(FunctionTool(f"f{i}") for i in range(300))), "more than 256"),
    ],
)
def test_other_requests_that_make_no_sense_are_refused(options: GrammarOptions, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        build_grammar(options)


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_any_choice_is_matched_exactly(judge: Judge, choices: list[str]) -> None:
    matcher = judge.matcher(build_grammar(GrammarOptions(final=ChoiceBody(tuple(choices)))))
    ids = judge.wire("<|channel|>final<|message|>") + judge.vocabulary.encode(choices[-1])
    assert matcher.consume_tokens([*ids, judge.vocabulary.special("<|return|>")])


@pytest.mark.parametrize("text", ["//", "# x", "%json {", "}", '"', "\\", "/", "\n", "é", "'", "|"])
def test_no_text_of_a_schema_escapes_into_the_grammar(judge: Judge, text: str) -> None:
    schema = {"properties": {text: {"const": text}}, "required": [text], "description": text}
    options = GrammarOptions(tools=(FunctionTool("f", "", schema),))
    arguments = json.dumps({text: text}, separators=(",", ":"), ensure_ascii=False)
    stream = f"<|channel|>commentary to=functions.f<|message|>{arguments}<|call|>"
    assert judge.refused_at(build_grammar(options), stream) is None


def test_a_lark_pattern_keeps_its_slashes(judge: Judge) -> None:
    options = GrammarOptions(final=RegexBody('a/b"\n#c'))
    stream = '<|channel|>final<|message|>a/b"\n#c<|return|>'
    assert judge.refused_at(build_grammar(options), stream) is None


def test_text_may_be_bounded() -> None:
    assert "{0,7}" in build_grammar(GrammarOptions(final=TextBody(7))).lark
