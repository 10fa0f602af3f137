"""How well the stand-in speaks harmony, on prompts whose tools, names and wording it never saw.

Every prompt goes through our renderer and the engine that serves, greedy and without a grammar; a
second, smaller pass has the grammar. Writes rows of name, value, target and samples.

    python -m bench.stand_in_eval --model PATH --out build/stand-in-eval.json [--limit 80]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

import osslo
from bench import bfcl_data
from osslo.errors import OssloError
from osslo.harmony.events import Malformed, MessageEnded
from osslo.harmony.grammar import GrammarOptions, build_grammar
from osslo.harmony.messages import Channel, Conversation, FunctionTool, Message, Role
from osslo.harmony.parse import StreamParser, collect_messages
from osslo.harmony.render import Renderer
from osslo.local import LocalModel
from osslo.model.standin import build_standin, fetch_base
from osslo.model.standin.markers import read_fitted
from osslo.types import GenerationRequest, Grammar, SamplingParams, TokenDelta
from recipes.stand_in import tasks
from recipes.stand_in.base_answers import Answered
from recipes.stand_in.mixture import draw_setting, draw_tools
from recipes.stand_in.tasks import HIGH, LOW, MEDIUM, Setting
from recipes.stand_in.tools import ask, concepts, draw_tool, family_concept

T = TypeVar("T")
R = TypeVar("R")

MAX_TOKENS = 220
"""Of one answer: twice what the longest one that is taught needs."""
WORKERS = 16
GRAMMAR_CASES = 60
FACTS = 60
CONTEXT = 2048
BFCL_CASES = 60
SPLIT: tasks.Split = "held_out"

QUESTIONS = (
    "Could you explain osmosis?", "Please tell me what a tornado is.", "What's a compiler for?",
    "Say something about penguins.", "How long is a marathon?", "Do you like cheese?",
    "Please write a line about trains.", "Who was Isaac Newton?", "How many legs has a spider?",
    "Recommend a board game.", "Good morning!", "What happens when ice melts?",
    "Tell me about the French Revolution.", "Are there fish in the Dead Sea?",
    "Could you name a primary color?", "What's honesty?", "Please give me an idea for dinner.",
    "How do planes stay in the air?", "What should I know about mortgages?",
    "Tell me a short joke.", "What's your favorite season?", "Who wrote Hamlet?",
    "Could you describe Jupiter?", "What's the opposite of cold?", "Please explain poetry.",
    "How do I boil an egg?", "What's a good name for a parrot?", "Do birds sleep?",
    "Could you help me to relax?", "What's the largest ocean?",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result. `target` None: reported beside, without a target. Of
    `answer_perplexity` less is better, of everything else more."""

    name: str
    value: float
    target: float | None
    samples: int

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        less_is_better = self.name == "answer_perplexity"
        return self.value <= self.target if less_is_better else self.value >= self.target


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, and what is expected: a call, no call, or only good form."""

    kind: str
    conversation: Conversation
    call: tuple[str, Any] | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the model said: its messages, whether they are in form, how long it thought."""

    messages: tuple[Message, ...]
    wellformed: bool
    analysis_tokens: int

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """Names without their namespace, and parsed arguments (None where they are no JSON)."""
        return [
            (m.recipient.removeprefix("functions."), _parsed(m.content))
            for m in self.messages
            if m.recipient
        ]

    @property
    def final(self) -> str:
        return "".join(m.content for m in self.messages if m.channel is Channel.FINAL)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


# --- the held-out prompts -------------------------------------------------------------------------


def build_cases(scale: float = 1.0, seed: int = 7) -> list[Case]:
    """Every held-out prompt; `scale` 1 gives 520."""
    source = random.Random(seed)

    def many(count: int, draw: Callable[[random.Random], Case]) -> list[Case]:
        return [draw(source) for _ in range(max(4, round(count * scale)))]

    cases = many(200, _call_case) + many(100, _no_call_case)
    cases += many(40, _result_case) + many(40, _json_case)
    cases += many(30, _python_case) + many(20, _browser_case)
    for question in QUESTIONS[: max(4, round(len(QUESTIONS) * scale))]:
        for effort in (LOW, MEDIUM, HIGH):
            conversation = Setting(effort).conversation(tasks.user(question))
            cases.append(Case(f"effort_{effort}", conversation))
    return cases


def _tool_setting(source: random.Random) -> tuple[Setting, list[Any]]:
    tools = draw_tools(source, SPLIT, source.randint(1, 6))
    base = draw_setting(source, SPLIT)
    return Setting(base.effort, base.instructions, tuple(one.tool for one in tools)), tools


def _call_case(source: random.Random) -> Case:
    setting, tools = _tool_setting(source)
    asked = ask(source, SPLIT, source.choice(tools))
    conversation = setting.conversation(tasks.user(asked.question))
    return Case("call", conversation, call=(asked.name, asked.arguments))


def _no_call_case(source: random.Random) -> Case:
    setting, tools = _tool_setting(source)
    if source.random() < 0.5:
        question = source.choice(QUESTIONS)
    else:
        taken = {one.concept.names for one in tools}
        pool = [c for c in concepts(SPLIT) if c.names not in taken]
        pool += [c for c in [family_concept(source, SPLIT)] if c.names not in taken]
        question = ask(source, SPLIT, draw_tool(source, source.choice(pool))).question
    return Case("no_call", setting.conversation(tasks.user(question)))


def _result_case(source: random.Random) -> Case:
    setting, tools = _tool_setting(source)
    asked = ask(source, SPLIT, source.choice(tools))
    content, _ = tasks.tool_result(source, SPLIT)
    conversation = setting.conversation(
        tasks.user(asked.question),
        tasks.call(asked.name, asked.arguments),
        tasks.result(asked.name, content),
    )
    return Case("result", conversation, answer=content)


def _json_case(source: random.Random) -> Case:
    formats = (tasks.record_schema(source, SPLIT),)
    setting = Setting(draw_setting(source, SPLIT).effort, response_formats=formats)
    whole = tasks.json_answer(source, setting, SPLIT)
    conversation = replace(whole, messages=whole.messages[:1])
    return Case("json", conversation, answer=whole.messages[-1].content)


def _python_case(source: random.Random) -> Case:
    setting = Setting(
        draw_setting(source, SPLIT).effort, builtin_tools=tasks.BuiltinTools(python=True)
    )
    whole = tasks.python_sum(source, setting, SPLIT)
    return Case("python", replace(whole, messages=whole.messages[:1]))


def _browser_case(source: random.Random) -> Case:
    setting = Setting(
        draw_setting(source, SPLIT).effort, builtin_tools=tasks.BuiltinTools(browser=True)
    )
    whole = tasks.look_up(source, setting, SPLIT)
    return Case("browser", replace(whole, messages=whole.messages[:1]))


# --- running --------------------------------------------------------------------------------------


class Speaker:
    """The model under test: prompts in, messages out."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._renderer = Renderer(model.tokenizer)
        specials = model.tokenizer.specials
        self._enders = (specials["<|return|>"], specials["<|call|>"])

    def say(self, conversation: Conversation, grammar: Grammar | None = None) -> Spoken:
        prompt = tuple(self._renderer.render(conversation))
        sampling = SamplingParams(MAX_TOKENS, temperature=0.0, stop_token_ids=self._enders)
        ids: list[int] = []
        request = GenerationRequest(f"eval-{uuid4().hex}", prompt, sampling, grammar=grammar)
        for event in self._model._engine.generate_blocking(request):
            if isinstance(event, TokenDelta):
                if event.error is not None:
                    raise event.error
                ids += event.tokens
        return self._read(conversation, ids)

    def _read(self, conversation: Conversation, ids: Sequence[int]) -> Spoken:
        known = {f"functions.{tool.name}" for tool in conversation.tools}
        known |= {"python"} if conversation.builtin_tools.python else set()
        if conversation.builtin_tools.browser:
            known |= {"browser.search", "browser.open", "browser.find"}
        parser = StreamParser(self._model.tokenizer)
        events = []
        thinking = 0
        for token in ids:
            events += parser.feed(token)
            now = parser.message
            if now is not None and now.channel is Channel.ANALYSIS and now.recipient is None:
                thinking += 1
        closed = bool(ids) and ids[-1] in self._enders
        events += parser.finish()
        messages = tuple(collect_messages(events))
        clean = not any(isinstance(event, Malformed) for event in events)
        ends = sum(isinstance(event, MessageEnded) for event in events)
        named = all(m.recipient is None or m.recipient in known for m in messages)
        last = messages[-1] if messages else None
        complete = last is not None and (
            (last.recipient is not None and ids[-1] == self._enders[1])
            or (
                last.recipient is None
                and last.channel is Channel.FINAL
                and ids[-1] == self._enders[0]
            )
        )
        good = closed and clean and named and complete and ends == len(messages)
        return Spoken(messages, bool(good), thinking)


def run_cases(speaker: Speaker, cases: Sequence[Case], *, grammar: bool) -> list[Spoken]:
    """All cases, several at a time."""

    def one(case: Case) -> Spoken:
        return speaker.say(case.conversation, _grammar(case.conversation) if grammar else None)

    return side_by_side("with the grammar" if grammar else "without a grammar", one, cases)


def side_by_side(what: str, work: Callable[[T], R], given: Sequence[T]) -> list[R]:
    """`work` on all of `given`, several at a time, with progress."""
    done: list[R] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for made in pool.map(work, given):
            done.append(made)
            print(f"\r{what}: {len(done)} of {len(given)}", end="", flush=True)
    print(flush=True)
    return done


def _grammar(conversation: Conversation) -> Grammar:
    return build_grammar(
        GrammarOptions(
            tools=conversation.tools,
            builtin_tools=conversation.builtin_tools,
            analysis_max_tokens=MAX_TOKENS // 2,
        )
    )


# --- scoring --------------------------------------------------------------------------------------


def score(cases: Sequence[Case], spoken: Sequence[Spoken]) -> list[Row]:
    """The rows that need one pass without a grammar."""
    by_kind: dict[str, list[tuple[Case, Spoken]]] = {}
    for case, said in zip(cases, spoken, strict=True):
        by_kind.setdefault(case.kind, []).append((case, said))
    calls, quiet = by_kind["call"], by_kind["no_call"]
    rows = [_rate("wellformed", [said.wellformed for said in spoken], 0.99)]
    chosen = [[name for name, _ in said.calls] == [case.call[0]] for case, said in calls]
    rows.append(_rate("tool_choice", chosen, 0.80))
    exact = [said.calls == [case.call] for case, said in calls]
    rows.append(_rate("tool_arguments", exact, 0.60))
    rows.append(_rate("no_call", [not said.calls and bool(said.final) for _, said in quiet], 0.85))
    means = [
        float(np.mean([said.analysis_tokens for _, said in by_kind[f"effort_{effort}"]]))
        for effort in (LOW, MEDIUM, HIGH)
    ]
    ordered = means[0] < means[1] < means[2]
    rows.append(Row("effort_order", float(ordered), 1.0, len(by_kind["effort_low"]) * 3))
    for name, mean in zip(("low", "medium", "high"), means, strict=True):
        rows.append(Row(f"analysis_tokens_{name}", mean, None, len(by_kind["effort_low"])))
    told = [_tells(case.answer or "", said.final) for case, said in by_kind["result"]]
    rows.append(_rate("uses_result", told, None))
    rows.append(
        _rate("json_answer", [_same_json(c.answer, s.final) for c, s in by_kind["json"]], None)
    )
    rows.append(_rate("python_call", [_calls(s, "python") for _, s in by_kind["python"]], None))
    rows.append(
        _rate("browser_call", [_calls(s, "browser.search") for _, s in by_kind["browser"]], None)
    )
    return rows


def _rate(name: str, hits: Sequence[bool], target: float | None) -> Row:
    return Row(name, sum(hits) / max(1, len(hits)), target, len(hits))


def _calls(said: Spoken, name: str) -> bool:
    return [call for call, _ in said.calls] == [name]


def _tells(content: str, final: str) -> bool:
    """Every value of a tool's result stands in the answer."""
    return all(str(value) in final for value in json.loads(content).values())


def _same_json(wanted: str | None, final: str) -> bool:
    return _parsed(final) == json.loads(wanted or "null")


# --- against the base -----------------------------------------------------------------------------


class Base:
    """The base as it was: ChatML, the weights before training."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        tokenizer = model.tokenizer
        self._start = tokenizer.specials["<|im_start|>"]
        self._end = tokenizer.specials["<|im_end|>"]
        self._enders = [tokenizer.specials[n] for n in ("<|return|>", "<|end|>", "<|call|>")]

    def prompt(self, question: str) -> list[int]:
        encode = self._model.tokenizer.encode
        ids = [self._start, *encode(f"user\n{question}"), self._end, *encode("\n")]
        return [*ids, self._start, *encode("assistant\n")]

    def answer(self, question: str) -> str:
        made = self._model.generate(
            self.prompt(question), max_tokens=60, temperature=0.0, stop_token_ids=self._enders
        )
        return made.text


def facts_rate(answer: Callable[[str], str], facts: Sequence[Answered]) -> float:
    """How many answers name the fact."""
    answers = side_by_side("facts", answer, [fact.question for fact in facts])
    hits = [fact.answer.lower() in said.lower() for fact, said in zip(facts, answers, strict=True)]
    return sum(hits) / len(hits)


def perplexity(model: LocalModel, prompts: Sequence[tuple[list[int], list[int]]]) -> float:
    """Of the answers' tokens after their prompts: `exp` of the mean loss."""
    total, count = 0.0, 0
    for prompt, answer in prompts:
        logits = model.logits(prompt + answer)[len(prompt) - 1 : -1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        total += float((log_sum - logits[np.arange(len(answer)), answer]).sum())
        count += len(answer)
    return float(np.exp(total / count))


REFERENCE = (
    ("Could you explain osmosis?", "Osmosis is the movement of water through a membrane from a "
     "weak solution to a strong one. It goes on until both sides are equally strong."),
    ("Please tell me what a tornado is.", "A tornado is a column of air that spins very fast and "
     "reaches from a storm cloud down to the ground. It can destroy houses and lift cars."),
    ("What's a compiler for?", "A compiler translates a program that people can read into code "
     "that a computer can run. It also points out mistakes in the program."),
    ("Say something about penguins.", "Penguins are birds that cannot fly but swim very well. Most "
     "of them live in the southern half of the world, and they eat fish."),
    ("How do planes stay in the air?", "The wings of a plane push air down as it moves forward, "
     "and the air pushes the plane up. The engines keep it moving fast enough."),
    ("What happens when ice melts?", "When ice gets warmer than zero degrees Celsius, it turns "
     "into water. The molecules leave their fixed places and begin to flow."),
    ("How do I boil an egg?", "Put the egg into boiling water and wait for about eight minutes. "
     "Then cool it in cold water, so that it is easier to peel."),
    ("What should I know about mortgages?", "A mortgage is a loan for buying a house. The house "
     "is the security: if you stop paying, the bank can sell it."),
    ("Could you describe Jupiter?", "Jupiter is the largest planet of our solar system. It is made "
     "mostly of hydrogen and helium, and it has a storm called the Great Red Spot."),
    ("Tell me about the French Revolution.", "The French Revolution began in 1789, when the people "
     "of France rose against their king. It ended the monarchy and changed Europe."),
)  # fmt: skip
"""Questions of the held-out wording with answers that people wrote for this file."""


def against_base(model: LocalModel, base: LocalModel, speaker: Speaker, scale: float) -> list[Row]:
    """`answer_facts` and `answer_perplexity`: the value is ours, the target the base's own."""
    facts = tasks.facts(SPLIT)[: max(8, round(FACTS * scale))]
    old = Base(base)
    medium = Setting(MEDIUM)

    def ours(question: str) -> str:
        return speaker.say(medium.conversation(tasks.user(question))).final

    rows = [Row("answer_facts", facts_rate(ours, facts), facts_rate(old.answer, facts), len(facts))]
    renderer, encode = Renderer(model.tokenizer), model.tokenizer.encode
    specials = model.tokenizer.specials
    new_pairs, old_pairs = [], []
    for question, answer in REFERENCE:
        start = renderer.render(Setting(LOW).conversation(tasks.user(question)))
        thought = Message(Role.ASSISTANT, "Simple.", channel=Channel.ANALYSIS)
        start += renderer.render_messages([thought])[2:] + start[-2:]
        start += [specials["<|channel|>"], *encode("final"), specials["<|message|>"]]
        new_pairs.append((start, encode(answer)))
        old_pairs.append((old.prompt(question), encode(answer)))
    new, before = perplexity(model, new_pairs), perplexity(base, old_pairs)
    rows.append(Row("answer_perplexity", new, before, len(REFERENCE)))
    return rows


# --- BFCL -----------------------------------------------------------------------------------------


def bfcl_rows(speaker: Speaker, scale: float) -> list[Row]:
    """BFCL beside ours: unseen in training, no grammar."""
    wheel = bfcl_data.fetch_wheel()
    rows = []
    for category in ("simple", "multiple", "irrelevance"):
        cases = bfcl_data.load(category, wheel)
        picked = random.Random(3).sample(cases, max(4, round(BFCL_CASES * scale)))

        def one(case: bfcl_data.BfclCase) -> bool:
            tools = tuple(FunctionTool(f.name, f.description, f.parameters) for f in case.functions)
            conversation = Setting(MEDIUM, tools=tools).conversation(tasks.user(case.question))
            try:
                return bfcl_data.is_right(case, speaker.say(conversation).calls)
            except OssloError:
                return False

        rows.append(_rate(f"bfcl_{category}", side_by_side(f"BFCL {category}", one, picked), None))
    return rows


def base_model(given: Path | None) -> Path:
    """The untrained stand-in: `given`, or built under build/."""
    folder = given or Path("build/tuning/base-model")
    if not folder.exists():
        base = fetch_base(Path("build/test-cache"))
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        build_standin(base, partial, fitted=read_fitted())
        partial.rename(folder)
    return folder


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="stand-in")
    options.add_argument("--base", type=Path, help="the untrained stand-in, if it is built already")
    options.add_argument("--out", type=Path, default=Path("build/stand-in-eval.json"))
    options.add_argument("--limit", type=int, help="about so many held-out prompts, not all 520")
    options.add_argument("--alone", action="store_true", help="neither the base nor BFCL beside it")
    options.add_argument("--threads", type=int)
    options.add_argument("--show", type=int, default=0, help="print so many answers of each kind")
    given = options.parse_args()
    began = time.monotonic()
    scale = 1.0 if given.limit is None else min(1.0, given.limit / len(build_cases()))
    cases = build_cases(scale)
    rows: list[Row] = []

    def add(more: Sequence[Row]) -> None:
        rows.extend(more)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        _print(more)

    with osslo.load(given.model, context=CONTEXT, threads=given.threads) as model:
        speaker = Speaker(model)
        spoken = run_cases(speaker, cases, grammar=False)
        add(score(cases, spoken))
        _show(cases, spoken, given.show)
        some = cases[:: max(1, len(cases) // max(8, round(GRAMMAR_CASES * scale)))]
        kept = run_cases(speaker, some, grammar=True)
        add([_rate("wellformed_grammar", [said.wellformed for said in kept], 1.0)])
        if not given.alone:
            built = base_model(given.base)
            with osslo.load(built, context=CONTEXT, threads=given.threads) as base:
                add(against_base(model, base, speaker, scale))
            add(bfcl_rows(speaker, scale))
    print(f"{len(cases)} prompts, {time.monotonic() - began:.0f} s")


def _print(rows: Sequence[Row]) -> None:
    for row in rows:
        target = "" if row.target is None else f"  target {row.target:.3f}"
        print(f"{row.name:22} {row.value:8.3f}{target}  ({row.samples})", flush=True)


def _show(cases: Sequence[Case], spoken: Sequence[Spoken], count: int) -> None:
    seen: dict[str, int] = {}
    for case, said in zip(cases, spoken, strict=True):
        seen[case.kind] = seen.get(case.kind, 0) + 1
        if seen[case.kind] <= count:
            last = case.conversation.messages[-1].content
            print(f"\n[{case.kind}] {last}\n  wanted: {case.call or case.answer}")
            for message in said.messages:
                print(f"  {message.channel} to={message.recipient}: {message.content}")


if __name__ == "__main__":
    main()
