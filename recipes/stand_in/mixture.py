"""The training mixture: which conversations a step sees, in which shares.

Conversations come in groups that share their beginning (effort, instructions, tools), which a pack
computes once. Everything is drawn from the seed and the step's number.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from osslo.harmony.messages import BuiltinTools, Conversation
from osslo.harmony.vocabulary import Vocabulary
from osslo.tuning.examples import ExampleRenderer
from osslo.tuning.packing import Pack, pack
from osslo.types import TokenId
from recipes.stand_in import tasks, written_answers
from recipes.stand_in.base_answers import Answered
from recipes.stand_in.tasks import HIGH, LOW, MEDIUM, Setting
from recipes.stand_in.tools import (
    Concept,
    DrawnTool,
    ask,
    concepts,
    draw_tool,
    family_concept,
    near_family,
)
from recipes.stand_in.values import Split

INSTRUCTIONS = (
    "You are a helpful assistant.", "Answer briefly.", "Be concise and friendly.",
    "You are the assistant of a small shop.", "Use a tool if one fits.", "Answer in one sentence.",
    "You help employees with their daily work.", "Be precise.", "You are a travel assistant.",
)  # fmt: skip
HELD_OUT_INSTRUCTIONS = ("You work for a museum.", "Stay polite.", "Help the user quickly.")


@dataclass(frozen=True, slots=True)
class Shares:
    """How many of the groups are of each kind."""

    functions: float = 0.72
    plain: float = 0.12
    builtin: float = 0.08
    json: float = 0.08

    def with_plain(self, plain: float) -> Shares:
        """The same with another share of plain answers; the others keep their proportions."""
        rest = (1 - plain) / (1 - self.plain)
        return Shares(self.functions * rest, plain, self.builtin * rest, self.json * rest)


def draw_setting(source: random.Random, split: Split) -> Setting:
    """Effort and, sometimes, instructions."""
    effort = source.choices((LOW, MEDIUM, HIGH), (0.35, 0.42, 0.23))[0]
    bank = INSTRUCTIONS if split == "train" else HELD_OUT_INSTRUCTIONS
    return Setting(effort, source.choice(bank) if source.random() < 0.3 else "")


ODD_NAMES = 0.4
"""Of the tools that are trained, how many have a name that can only be copied."""


def draw_tools(
    source: random.Random, split: Split, count: int, odd: float = 0.0
) -> list[DrawnTool]:
    """`count` tools of different names, some of them easily mistaken for each other."""
    chosen: list[Concept] = []
    names: set[str] = set()
    drawn: list[DrawnTool] = []
    while len(drawn) < count:
        concept = None
        if chosen and source.random() < 0.4:
            concept = near_family(source, split, source.choice(chosen))
        if concept is None:
            written = source.random() < 0.55
            concept = source.choice(concepts(split)) if written else family_concept(source, split)
        tool = draw_tool(source, concept, odd)
        if tool.tool.name in names or any(concept.names == other.names for other in chosen):
            continue
        chosen.append(concept)
        names.add(tool.tool.name)
        drawn.append(tool)
    return drawn


class Mixture:
    """Draws groups of conversations. `pairs` are the base's own answers of the split."""

    def __init__(self, pairs: Sequence[Answered], split: Split, shares: Shares) -> None:
        self._pairs = pairs
        self._facts = tasks.facts(split)
        self._written = written_answers.read() if split == "train" else ()
        self._split: Split = split
        kinds: list[tuple[Callable[[random.Random, int], list[Conversation]], float]] = [
            (self.functions, shares.functions),
            (self.plain, shares.plain),
            (self.builtin, shares.builtin),
            (self.json, shares.json),
        ]
        self._kinds = [kind for kind, _ in kinds]
        self._weights = [weight for _, weight in kinds]

    def group(self, source: random.Random, size: int) -> list[Conversation]:
        """One group of about `size` conversations."""
        kind = source.choices(self._kinds, self._weights)[0]
        return kind(source, size)

    def functions(self, source: random.Random, size: int) -> list[Conversation]:
        """Function tools: calls, results, questions that need none, questions none serves."""
        count = source.choices(range(1, 7), (3, 4, 4, 3, 2, 2))[0]
        tools = draw_tools(source, self._split, count, ODD_NAMES)
        base = draw_setting(source, self._split)
        setting = Setting(base.effort, base.instructions, tuple(one.tool for one in tools))
        return [self._with_tools(source, setting, tools) for _ in range(size)]

    def _with_tools(
        self, source: random.Random, setting: Setting, tools: Sequence[DrawnTool]
    ) -> Conversation:
        share = source.random()
        if share < 0.69:
            asked = ask(source, self._split, source.choice(tools))
            finished = source.random() < 0.35
            return tasks.function_call(source, setting, self._split, asked, finished=finished)
        if share < 0.86:
            pair = self.answered(source)
            return tasks.declined(setting, pair.question, pair.answer, needs_tool=False)
        other = self._unserved(source, tools)
        question = ask(source, self._split, draw_tool(source, other)).question
        return tasks.declined(setting, question, source.choice(tasks.CANNOT), needs_tool=True)

    def _unserved(self, source: random.Random, tools: Sequence[DrawnTool]) -> Concept:
        """A concept that none of the tools is."""
        taken = {one.concept.names for one in tools}
        while True:
            concept = source.choice(concepts(self._split))
            if source.random() < 0.4:
                concept = family_concept(source, self._split)
            if concept.names not in taken:
                return concept

    def plain(self, source: random.Random, size: int) -> list[Conversation]:
        """No tools: short answers, facts, small sums, with and without earlier turns.

        The effort changes within the group, so that nothing but the effort tells how long to think.
        """
        instructions = draw_setting(source, self._split).instructions
        efforts = [(LOW, MEDIUM, HIGH)[place % 3] for place in range(size)]
        return [self._plain(source, Setting(effort, instructions)) for effort in efforts]

    def _plain(self, source: random.Random, setting: Setting) -> Conversation:
        if source.random() < 0.15:
            return tasks.head_sum(source, setting, self._split)
        history = [self.answered(source)] if source.random() < 0.12 else []
        return tasks.plain(setting, self.answered(source), history)

    def answered(self, source: random.Random) -> Answered:
        """One of the base's answers, one that was written for this, or a fact."""
        share = source.random()
        if share < 0.15:
            return source.choice(self._facts)
        if self._written and share < 0.4:
            return source.choice(self._written)
        return source.choice(self._pairs or self._facts)

    def builtin(self, source: random.Random, size: int) -> list[Conversation]:
        """The built-in tools: sums by python, look-ups by the browser, and what needs none."""
        base = draw_setting(source, self._split)
        which = source.choices(("python", "browser", "both"), (4, 5, 2))[0]
        tools = BuiltinTools(python=which != "browser", browser=which != "python")
        setting = Setting(base.effort, base.instructions, builtin_tools=tools)
        return [self._with_builtin(source, setting) for _ in range(size)]

    def _with_builtin(self, source: random.Random, setting: Setting) -> Conversation:
        share = source.random()
        if share < 0.25:
            return tasks.plain(setting, self.answered(source))
        if setting.builtin_tools.python and (share < 0.6 or not setting.builtin_tools.browser):
            return tasks.python_sum(source, setting, self._split)
        return tasks.look_up(source, setting, self._split)

    def json(self, source: random.Random, size: int) -> list[Conversation]:
        """Answers in a response format."""
        base = draw_setting(source, self._split)
        formats = (tasks.record_schema(source, self._split),)
        setting = Setting(base.effort, base.instructions, response_formats=formats)
        return [tasks.json_answer(source, setting, self._split) for _ in range(size)]


def stress(pack: Pack, places: Sequence[int], times: int) -> Pack:
    """The pack with the targets at `places` learned `times` over."""
    again = list(places) * (times - 1)
    return replace(
        pack,
        rows=pack.rows + tuple(pack.rows[place] for place in again),
        targets=pack.targets + tuple(pack.targets[place] for place in again),
    )


def places_of_tokens(pack: Pack, tokens: Collection[TokenId]) -> list[int]:
    """Where a target is one of the `tokens`."""
    return [place for place, target in enumerate(pack.targets) if target in tokens]


def places_of_words(pack: Pack, words: Collection[str], vocabulary: Vocabulary) -> list[int]:
    """Where a target is a part of one of the `words`, each looked for as a whole word."""
    if not words:
        return []
    pieces = [vocabulary.token_bytes(target) for target in pack.targets]
    ends = list(accumulate(len(piece) for piece in pieces))
    listed = b"|".join(re.escape(word.encode()) for word in sorted(words, key=len, reverse=True))
    found = re.finditer(rb"(?<!\w)(?:" + listed + rb")(?!\w)", b"".join(pieces))
    return [
        place
        for one in found
        for place in range(bisect_right(ends, one.start()), bisect_left(ends, one.end()) + 1)
    ]


CLOSING_TIMES = 4
"""How often a closing marker is learned: it is one token, and a wrong one spoils the answer."""

NAME_TIMES = 4
"""How often a token of a tool's name is learned, for the same reason."""


class MixtureSource:
    """Packs for the training loop: `step_tokens` a step, in packs of at most `pack_tokens`.

    The tokens `closing`, which end messages, are learned `CLOSING_TIMES` over, and the tools' names
    `NAME_TIMES`, but for validation.
    """

    def __init__(
        self,
        train: Mixture,
        validation: Mixture,
        vocabulary: Vocabulary,
        *,
        closing: Collection[TokenId],
        seed: int,
        step_tokens: int,
        pack_tokens: int,
        validation_packs: int,
        group_size: int,
    ) -> None:
        self._train = train
        self._group_size = group_size
        self._vocabulary = vocabulary
        self._renderer = ExampleRenderer(vocabulary)
        self._closing = closing
        self._seed = seed
        self._step_tokens = step_tokens
        self._pack_tokens = pack_tokens
        source = random.Random(f"validation {seed}")
        self._validation = [
            one
            for _ in range(validation_packs)
            for one in self._packs(self._draw(validation, source))[:1]
        ]

    def step(self, index: int) -> Sequence[Pack]:
        source = random.Random(f"{self._seed} {index}")
        packs: list[Pack] = []
        while sum(one.tokens for one in packs) < self._step_tokens:
            group = self._draw(self._train, source)
            names = {tool.name for tool in group[0].tools}
            packs += [self._stressed(one, names) for one in self._packs(group)]
        return sorted(packs, key=lambda one: -one.tokens)  # the longest first: workers end together

    def validation(self) -> Sequence[Pack]:
        return self._validation

    def _stressed(self, drawn: Pack, names: Collection[str]) -> Pack:
        closing = places_of_tokens(drawn, self._closing)
        named = places_of_words(drawn, names, self._vocabulary)
        return stress(stress(drawn, closing, CLOSING_TIMES), named, NAME_TIMES)

    def _draw(self, mixture: Mixture, source: random.Random) -> list[Conversation]:
        return mixture.group(source, self._group_size)

    def _packs(self, group: Sequence[Conversation]) -> list[Pack]:
        """One group in packs: one, unless its conversations are long."""
        examples = [self._renderer.last_turn(one) for one in group]
        return pack(examples, self._pack_tokens, seed=0)
