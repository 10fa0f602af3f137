"""What training sees: token ids, and which of them the model is to learn to say.

Owns how a harmony conversation becomes an example, so that a training prompt is token for token
the prompt that serving would send. Reading files is `dataset`'s subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from osslo.errors import RequestError
from osslo.harmony.messages import Channel, Conversation, Message, Role
from osslo.harmony.render import Renderer
from osslo.harmony.vocabulary import Markers, Vocabulary
from osslo.types import TokenId


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one training text; `learned[i]` says whether the loss counts token i."""

    ids: tuple[TokenId, ...]
    learned: tuple[bool, ...]

    @property
    def learned_tokens(self) -> int:
        return sum(self.learned)


class ExampleRenderer:
    """Conversations and texts as examples, for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `ConfigurationError` if the vocabulary lacks harmony's special tokens."""
        self._vocabulary = vocabulary
        self._renderer = Renderer(vocabulary)
        self._markers = Markers.of(vocabulary)

    def turns(
        self, conversation: Conversation, silent: frozenset[int] = frozenset()
    ) -> tuple[Example, ...]:
        """One example for each turn of the assistant, as serving would have asked for it.

        A turn is everything from a user's message to the final answer, tool results included; the
        loss counts all that the assistant has to say itself. That is what comes after the
        `<|start|>assistant` with which serving asks, and where one of its messages follows another
        (a call after the reasoning), that opening too. What comes before is rendered as serving
        renders it: without the reasoning of past turns.
        Messages at the places `silent` are not learned, nor are turns of nothing else.
        """
        bounds = _turn_bounds(conversation.messages)
        made = (self._turn(conversation, first, end, silent) for first, end in bounds)
        return tuple(example for example in made if example.learned_tokens)

    def last_turn(self, conversation: Conversation) -> Example:
        """The example of the last turn. Raises `RequestError` if the assistant never speaks."""
        bounds = _turn_bounds(conversation.messages)
        if not bounds:
            raise RequestError("a training conversation needs a message of the assistant")
        return self._turn(conversation, *bounds[-1])

    def text(self, text: str, *, end: TokenId | None) -> Example:
        """Plain text, all of it learned, closed by the token `end` if there is one."""
        ids = self._vocabulary.encode(text) + ([] if end is None else [end])
        return Example(tuple(ids), (False,) + (True,) * (len(ids) - 1))

    def _turn(
        self,
        conversation: Conversation,
        first: int,
        end: int,
        silent: frozenset[int] = frozenset(),
    ) -> Example:
        before = replace(conversation, messages=conversation.messages[:first])
        opening = 1 + len(self._vocabulary.encode(Role.ASSISTANT))  # `<|start|>assistant`
        ids = self._renderer.render(before)[:-opening]
        learned = [False] * len(ids)
        asked = True  # by serving, which then writes the opening
        for place, message in enumerate(conversation.messages[first:end], start=first):
            rendered = self._renderer.render_messages([message])
            speaks = message.role is Role.ASSISTANT and place not in silent
            given = len(rendered) if not speaks else opening if asked else 0
            ids += rendered
            learned += [position >= given for position in range(len(rendered))]
            asked = message.role is not Role.ASSISTANT
        if conversation.messages[end - 1].channel is Channel.FINAL:
            ids[-1] = self._markers.return_
        return Example(tuple(ids), tuple(learned))


def _turn_bounds(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """First and end (exclusive) of each turn: from the assistant's first word after somebody else's
    to its final answer, or to a call that nothing answers."""
    bounds: list[tuple[int, int]] = []
    first: int | None = None
    for index, message in enumerate(messages):
        if message.role is Role.ASSISTANT:
            first = index if first is None else first
            if message.recipient is None and message.channel in (Channel.FINAL, None):
                bounds.append((first, index + 1))
                first = None
        elif message.role is not Role.TOOL and first is not None:
            bounds.append((first, index))
            first = None
    if first is not None:
        last = max(i for i, m in enumerate(messages) if m.role is Role.ASSISTANT)
        bounds.append((first, last + 1))
    return bounds
