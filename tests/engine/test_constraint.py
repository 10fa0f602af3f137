"""Constraints: masks, forced tokens, ends and errors, alone and through the runner."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from osslo.engine.constraint import CACHED_GRAMMARS, Constraint, ConstraintCompiler
from osslo.errors import EngineError, GrammarError
from osslo.model.tokenizer import Tokenizer as OssloTokenizer
from osslo.model.tokenizer_sources import from_json
from osslo.types import FinishReason, Grammar
from tests.engine.fakes import FakeModel
from tests.engine.helpers import Driver, make_limits, make_request

VOCAB = 300  # larger than the tokenizer's, as padded heads are


@pytest.fixture(scope="module")
def compiler(byte_tokenizer: Tokenizer, ends: tuple[int, int]) -> ConstraintCompiler:
    return ConstraintCompiler(OssloTokenizer.from_json(byte_tokenizer.to_str()), ends)


def allowed(constraint: Constraint) -> list[int]:
    row = np.zeros(VOCAB, dtype=np.float32)
    constraint.mask(row)
    return np.flatnonzero(row == 0).tolist()


def text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=False)


def test_a_mask_allows_what_may_follow_and_nothing_else(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer
) -> None:
    constraint = compiler.compile(Grammar('start: /[a-c]+/ "!"'))
    letters = [byte_tokenizer.token_to_id(t) for t in ("a", "b", "c", "ab", "abc")]
    assert allowed(constraint) == sorted(letters)
    constraint.advance(letters[0])
    assert allowed(constraint) == sorted([*letters, byte_tokenizer.token_to_id("!")])


def test_forced_tokens_are_told_but_not_consumed(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer
) -> None:
    constraint = compiler.compile(Grammar('start: "hello" /[a-c]/'))
    forced = constraint.forced()
    assert text_of(byte_tokenizer, forced) == "hello"
    assert constraint.forced() == forced
    for token in forced:
        constraint.advance(token)
    assert constraint.forced() == []
    assert not constraint.finished


def test_forced_text_that_spells_a_special_token_stays_text(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    constraint = compiler.compile(Grammar('start: "é<|return|>" /[a-c]/'))
    forced = constraint.forced()
    assert text_of(byte_tokenizer, forced) == "é<|return|>"
    assert len(forced) == len("é<|return|>".encode())
    assert not set(forced) & set(ends)


def test_a_warmed_up_compiler_has_built_its_trie(
    byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    vocabulary = CountingVocabulary(byte_tokenizer.to_str())
    compiler = ConstraintCompiler(vocabulary, ends)
    assert vocabulary.tables == 0
    compiler.warm_up()
    assert allowed(compiler.compile(Grammar('start: "x"'))) == [byte_tokenizer.token_to_id("x")]
    compiler.warm_up()
    assert vocabulary.tables == 1


class CountingVocabulary(OssloTokenizer):
    """Counts how often its table is asked for."""

    def __init__(self, json_text: str) -> None:
        super().__init__(from_json(json_text, origin="test"))
        self.tables = 0

    def token_table(self) -> list[bytes]:
        self.tables += 1
        return super().token_table()


def test_both_ends_are_reachable(compiler: ConstraintCompiler, ends: tuple[int, int]) -> None:
    for end in ends:
        constraint = compiler.compile(Grammar('start: "x" (<|return|> | <|call|>)'))
        constraint.advance(constraint.forced()[0])
        assert allowed(constraint) == sorted(ends)
        constraint.advance(end)
        assert constraint.finished


def test_special_tokens_in_text_do_not_match_their_names(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer
) -> None:
    constraint = compiler.compile(Grammar("start: /(.|\\n)*/ <|end|>"))
    for token in byte_tokenizer.encode("<|").ids[:2]:
        constraint.advance(token)
    assert not constraint.finished
    constraint.advance(byte_tokenizer.token_to_id("<|end|>"))
    assert constraint.finished


def test_constraints_of_one_grammar_do_not_share_state(compiler: ConstraintCompiler) -> None:
    grammar = Grammar('start: "xy" /[a-c]/ "!"')
    first, second = compiler.compile(grammar), compiler.compile(grammar)
    for token in first.forced():
        first.advance(token)
    assert first.forced() == []
    assert second.forced() != []


def test_a_wrong_token_is_an_error(compiler: ConstraintCompiler) -> None:
    constraint = compiler.compile(Grammar('start: "abc"'))
    with pytest.raises(EngineError, match="grammar"):
        constraint.advance(0)


@pytest.mark.parametrize(
    ("lark", "word"),
    [
        ("start: (", "Expected"),
        ('start: %json {"type": "object", "not": {}}', "not"),
        ("start: <|unknown|>", "unknown"),
    ],
)
def test_bad_grammars_are_refused_in_one_line(
    compiler: ConstraintCompiler, lark: str, word: str
) -> None:
    with pytest.raises(GrammarError, match=word) as refused:
        compiler.compile(Grammar(lark))
    assert "\n" not in refused.value.message


def test_the_cache_of_grammars_is_bounded(compiler: ConstraintCompiler) -> None:
    for index in range(CACHED_GRAMMARS + 5):
        compiler.compile(Grammar(f'start: "{index}"'))
    assert len(compiler._compiled) == CACHED_GRAMMARS


# --- through the runner ---------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "days": {"type": "boolean"}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
CALL = Grammar(f'start: "to=weather<" %json {json.dumps(SCHEMA)} <|call|>')


def constrained_driver(ends: tuple[int, int], **limits: object) -> Driver:
    return Driver(FakeModel(vocab_size=VOCAB), make_limits(eos_token_ids=ends, **limits))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_output_follows_the_grammar_and_forced_tokens_are_not_sampled(
    compiler: ConstraintCompiler,
    byte_tokenizer: Tokenizer,
    ends: tuple[int, int],
    temperature: float,
) -> None:
    driver = constrained_driver(ends)
    request = make_request("a", range(40), 200, temperature=temperature, seed=1)
    heard = driver.run(request, compiler.compile(CALL))
    text = text_of(byte_tokenizer, heard.tokens)
    assert heard.reason is FinishReason.STOP
    assert text.startswith("to=weather<")
    assert text.endswith("<|call|>")
    call = json.loads(text.removeprefix("to=weather<").removesuffix("<|call|>"))
    assert call["city"] in SCHEMA["properties"]["city"]["enum"]
    sampled = sum(len(step.logit_rows) for step in driver.model.steps)
    assert sampled < len(heard.tokens) / 2


def test_with_logprobs_every_token_is_sampled(
    compiler: ConstraintCompiler, ends: tuple[int, int]
) -> None:
    driver = constrained_driver(ends)
    heard = driver.run(make_request("a", [1, 2], 200, logprobs=0), compiler.compile(CALL))
    assert [entry.token for entry in heard.logprobs] == heard.tokens
    assert sum(len(step.logit_rows) for step in driver.model.steps) == len(heard.tokens)


def test_forced_tokens_may_go_unscored(compiler: ConstraintCompiler, ends: tuple[int, int]) -> None:
    """The same tokens with the same log-probabilities where there was a choice, in fewer steps."""
    heard, steps = [], []
    for score_forced in (True, False):
        driver = constrained_driver(ends)
        request = make_request(
            "a", [1, 2], 200, logprobs=2, temperature=0.0, score_forced=score_forced
        )
        heard.append(driver.run(request, compiler.compile(CALL)))
        steps.append(sum(len(step.logit_rows) for step in driver.model.steps))
    full, brief = heard
    assert [entry.token for entry in brief.logprobs] == brief.tokens == full.tokens
    chosen = [(a, b) for a, b in zip(full.logprobs, brief.logprobs, strict=True) if b.top]
    assert len(chosen) == steps[1] < steps[0]
    assert all(b.logprob == pytest.approx(a.logprob, abs=1e-4) for a, b in chosen)
    assert all(entry.logprob == 0.0 for entry in brief.logprobs if not entry.top)


def test_logprobs_do_not_change_the_forced_part(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    texts = set()
    for logprobs in (None, 0):
        driver = constrained_driver(ends)
        request = make_request("a", [1, 2], 200, logprobs=logprobs)
        heard = driver.run(request, compiler.compile(CALL))
        texts.add(text_of(byte_tokenizer, heard.tokens))
    assert len(texts) == 1


def test_a_grammar_without_choice_ends_by_itself(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    driver = constrained_driver(ends)
    heard = driver.run(make_request("a", [1, 2], 200), compiler.compile(Grammar('start: "hello"')))
    assert heard.reason is FinishReason.STOP
    assert text_of(byte_tokenizer, heard.tokens) == "hello"


def test_max_tokens_cuts_forced_tokens_too(
    compiler: ConstraintCompiler, ends: tuple[int, int]
) -> None:
    driver = constrained_driver(ends)
    heard = driver.run(make_request("a", [1, 2], 4), compiler.compile(CALL))
    assert heard.reason is FinishReason.LENGTH
    assert len(heard.tokens) == 4


def test_a_stop_token_ends_a_forced_run_in_its_middle(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    stop = byte_tokenizer.token_to_id("=")
    driver = constrained_driver(ends)
    heard = driver.run(
        make_request("a", [1, 2], 200, stop_token_ids=(stop,)), compiler.compile(CALL)
    )
    assert heard.reason is FinishReason.STOP
    assert text_of(byte_tokenizer, heard.tokens) == "to="


def test_forced_tokens_are_counted_as_generated_and_by_themselves(
    compiler: ConstraintCompiler, ends: tuple[int, int]
) -> None:
    for logprobs in (None, 0):
        driver = constrained_driver(ends)
        heard = driver.run(
            make_request("a", [1, 2], 200, logprobs=logprobs), compiler.compile(CALL)
        )
        sampled = sum(len(step.logit_rows) for step in driver.model.steps)
        counters = driver.runner.counters
        assert heard.end is not None
        assert heard.end.usage is not None
        assert heard.end.usage.completion_tokens == counters.generated_tokens == len(heard.tokens)
        assert counters.forced_tokens == len(heard.tokens) - sampled
        assert (counters.forced_tokens > 0) is (logprobs is None)


def test_a_prompt_may_hold_the_beginning_of_the_grammar(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    constraint = compiler.compile(CALL)
    constraint.read(byte_tokenizer.encode('to=weather<{"city":"Ber').ids)
    driver = constrained_driver(ends)
    heard = driver.run(make_request("a", [1, 2], 200), constraint)
    assert text_of(byte_tokenizer, heard.tokens).startswith('gen","days":')
    with pytest.raises(GrammarError, match="beginning"):
        compiler.compile(CALL).read(byte_tokenizer.encode("to=nobody").ids)


@pytest.mark.parametrize(
    ("rest", "words"),
    [("rest rest", "nothing at all"), ('"a" rest', "too complex")],
)
def test_a_grammar_that_fails_while_running_is_the_callers_error(
    ends: tuple[int, int], compiler: ConstraintCompiler, rest: str, words: str
) -> None:
    driver = constrained_driver(ends)
    running = compiler.compile(Grammar(f'start: "x" /[ab]/ then\nthen: /[cd]/ rest\nrest: {rest}'))
    heard = driver.run(make_request("a", [1, 2], 400), running)
    assert heard.reason is FinishReason.ERROR
    assert heard.end is not None
    assert isinstance(heard.end.error, GrammarError)
    assert words in heard.end.error.message
    assert heard.end.error.status == 400


def test_constrained_requests_survive_preemption_and_share_steps(
    compiler: ConstraintCompiler, byte_tokenizer: Tokenizer, ends: tuple[int, int]
) -> None:
    grammar = Grammar("start: /[a-z]{150}/ <|return|>")
    alone = constrained_driver(ends).run(
        make_request("a", range(40), 200), compiler.compile(grammar)
    )
    driver = constrained_driver(ends, full_pages=9, window_pages=16)
    for index in range(4):
        prompt = range(index, 40 + index)
        driver.add(make_request(f"r{index}", prompt, 200), compiler.compile(grammar))
    driver.finish()
    assert driver.runner.scheduler.preemptions > 0
    assert driver.heard["r0"].tokens == alone.tokens
    assert {driver.heard[f"r{i}"].reason for i in range(4)} == {FinishReason.STOP}
