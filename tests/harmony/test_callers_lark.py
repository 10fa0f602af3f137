"""A caller's grammar stays inside its message, whatever it says."""

from __future__ import annotations

import pytest

from osslo.engine.constraint import Constraint, ConstraintCompiler
from osslo.errors import GrammarError
from osslo.harmony.bodies import LarkBody
from osslo.harmony.grammar import (
    CustomTool,
    GrammarOptions,
    ToolChoice,
    ToolMode,
    build_grammar,
)
from tests.harmony.hostile import byte_compiler
from tests.scripted import ByteVocabulary

VOCABULARY = ByteVocabulary()

GREETING = """
start: greeting "," WS? name "!"   // a comment with a brace }
greeting: "Hi" | "Yo{"
name: /[A-Z][a-z]{1,9}/
WS: / /
"""

OURS = """
start: think final "thought" answer
think: "a"
final: "b"
answer: sep
sep: "c"
call_0: "d"
"""
"""A grammar with the names of our own rules."""


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    return byte_compiler()


def takes(constraint: Constraint, markup: str) -> bool:
    """Whether the constraint reads `markup` to its end and is then complete."""
    try:
        for token in VOCABULARY.tokens(markup):
            constraint.advance(token)
    except Exception:
        return False
    return constraint.finished


def final(grammar: str) -> GrammarOptions:
    return GrammarOptions(final=LarkBody(grammar), analysis="skip")


@pytest.mark.parametrize(
    ("grammar", "text", "fits"),
    [
        (GREETING, "Hi, Bob!", True),
        (GREETING, "Yo{,Ada!", True),
        (GREETING, "Hi, bob!", False),
        (GREETING, "Hi, Bob", False),
        (OURS, "abthoughtc", True),
        (OURS, "abthoughtd", False),
        ('start: "<|return|>" /x/', "", False),
        ('start: %json {"const": "}"}', '"}"', True),
        ('start: "a" # a comment', "a", True),
        ("%import common.INT\nstart: INT", "42", True),
        ('%ignore / /\nstart: "a" "b"', "a  b", True),
    ],
)
def test_a_final_message_follows_it(
    compiler: ConstraintCompiler, grammar: str, text: str, fits: bool
) -> None:
    constraint = compiler.compile(build_grammar(final(grammar)))
    assert takes(constraint, f"<|channel|>final<|message|>{text}<|return|>") is fits


def test_a_custom_tools_input_follows_it(compiler: ConstraintCompiler) -> None:
    options = GrammarOptions(
        custom_tools=(CustomTool("greet", LarkBody(GREETING)), CustomTool("say")),
        tool_choice=ToolChoice(ToolMode.REQUIRED),
    )
    grammar = build_grammar(options)
    call = "<|channel|>commentary to=functions.{}<|message|>{}<|call|>"
    assert takes(compiler.compile(grammar), call.format("greet", "Hi, Bob!"))
    assert takes(compiler.compile(grammar), call.format("say", "what\never"))
    assert not takes(compiler.compile(grammar), call.format("greet", "whatever"))


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("start: <|call|>", "token"),
        ('start: "a" | <|return|>', "token"),
        ("start: <[200002]>", "token"),
        ("start: <[*]>", "token"),
        ('start: s\ns[suffix=<|end|>]: "a"', "token"),
        ("start: @other", "another grammar"),
        ('%llguidance {"no_forcing": false}\nstart: "a"', "llguidance"),
        ("start: %lark { start: <|call|> }", "%lark"),
        ('start: %lark { start: "a" }', "%lark"),
        ('start: "a"\n}\nfoo: "x"\nbar: /[}]/ "{"', "enforced"),
        ('start: "a" }', "enforced"),
        ('rule: "a"', "enforced"),
        ("start: (", "enforced"),
        ("start: '<|return|>'", "token"),
        ("x" * 100_000, "longer"),
        ("", "enforced"),
    ],
)
def test_what_reaches_out_of_its_message_is_refused(grammar: str, words: str) -> None:
    with pytest.raises(GrammarError, match=words) as refused:
        build_grammar(final(grammar))
    assert refused.value.param == "response_format"
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 500
