"""From a conversation to the token ids of a prompt.

Owns the layout of the system and developer messages and of every message's header, token for token
as `openai-harmony` renders them. All text, the caller's and ours, is encoded with special tokens
disabled; markers are added by id. Which past messages are shown is `history`'s subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from osslo.harmony.builtin import builtin_namespaces
from osslo.harmony.history import drop_past_analysis
from osslo.harmony.messages import Channel, Conversation, Message, ResponseFormat, Role
from osslo.harmony.typescript import Namespace, json_text, split_lines, tools_section
from osslo.harmony.vocabulary import Markers, Vocabulary

_CONSTRAIN = "<|constrain|>"
_CONSTRAINED_TYPES = frozenset({"json"})
_CHANNELS = f"# Valid channels: {', '.join(Channel)}. Channel must be included for every message."
_FUNCTIONS_NOTE = "Calls to these tools must go to the commentary channel: 'functions'."


class Renderer:
    """Renders conversations for one vocabulary. Stateless after construction, safe to share."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `ConfigurationError` if the vocabulary lacks harmony's special tokens."""
        self._vocabulary = vocabulary
        self._markers = Markers.of(vocabulary)

    def render(self, conversation: Conversation) -> list[int]:
        """The prompt for the next assistant message: it ends in `<|start|>assistant`."""
        ids = self.render_messages(opening_messages(conversation))
        ids += self.render_messages(drop_past_analysis(conversation.messages))
        return ids + self._opening(Role.ASSISTANT)

    def render_messages(self, messages: Iterable[Message]) -> list[int]:
        """Every message as given, whole; nothing is added or dropped."""
        return [token for message in messages for token in self._message(message)]

    def render_training(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """A whole conversation as a training example: ids, and which of them carry loss.

        Loss is on what the assistant itself generates: all that follows `<|start|>assistant` in its
        messages, the end marker included. A closing final message ends in `<|return|>`.
        """
        ids: list[int] = []
        mask: list[bool] = []
        messages = (*opening_messages(conversation), *drop_past_analysis(conversation.messages))
        for message in messages:
            rendered = self._message(message)
            given = len(rendered)
            if message.role is Role.ASSISTANT:
                given = len(self._opening(_author(message)))
            ids += rendered
            mask += [position >= given for position in range(len(rendered))]
        if messages and messages[-1].channel is Channel.FINAL:
            ids[-1] = self._markers.return_
        return ids, mask

    def _opening(self, author: str) -> list[int]:
        return [self._markers.start, *self._encode(author)]

    def _encode(self, text: str) -> list[int]:
        return self._vocabulary.encode(text) if text else []

    def _message(self, message: Message) -> list[int]:
        markers = self._markers
        ids = self._opening(_author(message))
        if message.recipient is not None and message.recipient != "all":
            ids += self._encode(f" to={message.recipient}")
        if message.channel is not None:
            ids += [markers.channel, *self._encode(message.channel)]
        if message.content_type is not None:
            ids += self._content_type(message.content_type)
        ids += [markers.message, *self._encode(message.content)]
        is_call = message.role is Role.ASSISTANT and message.recipient is not None
        return [*ids, markers.call if is_call else markers.end]

    def _content_type(self, content_type: str) -> list[int]:
        """` json` is announced by `<|constrain|>`, other types (`code`) are bare words."""
        word = content_type.removeprefix(_CONSTRAIN)
        if word == content_type and word not in _CONSTRAINED_TYPES:
            return self._encode(f" {word}")
        return [*self._encode(" "), self._markers.constrain, *self._encode(word)]


def _author(message: Message) -> str:
    """A tool is named in place of a role; others may have a name behind it."""
    if message.role is Role.TOOL:
        return message.name or Role.TOOL
    return f"{message.role}:{message.name}" if message.name is not None else message.role


# --- the messages before the first --------------------------------------------------------------


def opening_messages(conversation: Conversation) -> Sequence[Message]:
    """The system message, and the developer message if it would say anything."""
    system = Message(Role.SYSTEM, system_text(conversation))
    text = developer_text(conversation)
    return (system, Message(Role.DEVELOPER, text)) if text else (system,)


def system_text(conversation: Conversation) -> str:
    """Identity and dates, reasoning effort, built-in tools, channels."""
    head = [conversation.identity] if conversation.identity else []
    if conversation.knowledge_cutoff:
        head.append(f"Knowledge cutoff: {conversation.knowledge_cutoff}")
    if conversation.current_date is not None:
        head.append(f"Current date: {conversation.current_date}")
    sections = ["\n".join(head)] if head else []
    sections.append(f"Reasoning: {conversation.effort}")
    if namespaces := builtin_namespaces(conversation.builtin_tools):
        sections.append(tools_section(namespaces))
    sections.append(f"{_CHANNELS}\n{_FUNCTIONS_NOTE}" if conversation.tools else _CHANNELS)
    return "\n\n".join(sections)


def developer_text(conversation: Conversation) -> str:
    """Instructions, the caller's functions, response formats; empty if there are none."""
    sections = []
    if conversation.instructions:
        sections += ["# Instructions", conversation.instructions]
    if conversation.tools:
        sections.append(tools_section([Namespace("functions", conversation.tools)]))
    if conversation.response_formats:
        sections += ["# Response Formats", *map(_response_format, conversation.response_formats)]
    return "\n\n".join(sections)


def _response_format(response_format: ResponseFormat) -> str:
    remarks = [f"// {line}" for line in split_lines(response_format.description)]
    schema = json_text(response_format.schema)
    return "\n".join([f"## {response_format.name}\n", *remarks, schema])
