"""Neutral chat messages to a harmony conversation.

Leading system and developer messages become the developer instructions; a `Reasoning:` line of a
system message becomes the effort. Calls and results are tied by call id. Past analysis is dropped
by harmony's rule.
"""

from __future__ import annotations

from itertools import takewhile

from osslo.chat.events import Phase
from osslo.chat.models import PromptProfile
from osslo.chat.request import (
    AssistantTurn,
    ChatMessage,
    ChatRequest,
    DeveloperText,
    JsonSchema,
    SystemText,
    ToolOutput,
    UserText,
)
from osslo.errors import RequestError
from osslo.harmony.bodies import LarkBody, RegexBody
from osslo.harmony.effort import extract_effort
from osslo.harmony.grammar import CustomTool
from osslo.harmony.history import drop_past_analysis
from osslo.harmony.messages import (
    Channel,
    Conversation,
    FunctionTool,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
)

FUNCTIONS = "functions."


def build_conversation(request: ChatRequest, profile: PromptProfile, today: str) -> Conversation:
    """The conversation that `request` asks for, in the words of the model's prompt `profile`.

    `today` is an ISO date. The effort is the request's own, else the last `Reasoning:` line's,
    else medium. Raises `RequestError` for a tool result that answers no call.
    """
    head = tuple(takewhile(lambda m: isinstance(m, SystemText | DeveloperText), request.messages))
    line_effort: ReasoningEffort | None = None
    instructions: list[str] = []
    messages: list[Message] = []
    names: dict[str, str] = {}
    for index, message in enumerate(request.messages):
        if isinstance(message, SystemText | DeveloperText):
            text, effort = _instructions(message)
            line_effort = effort or line_effort
            if index < len(head):
                instructions.append(text)
            elif text:
                messages.append(Message(Role.DEVELOPER, f"# Instructions\n\n{text}"))
        else:
            messages += _messages(message, index, names)
    return Conversation(
        messages=tuple(drop_past_analysis(messages)),
        effort=request.effort or line_effort or ReasoningEffort.MEDIUM,
        identity=profile.identity,
        knowledge_cutoff=profile.knowledge_cutoff,
        current_date=today if profile.show_date else None,
        instructions="\n\n".join(text for text in instructions if text),
        tools=(*request.tools, *map(_shown, request.custom_tools)),
        response_formats=_response_formats(request),
    )


def _shown(tool: CustomTool) -> FunctionTool:
    """A custom tool as the model reads it: a function of one string, its syntax in the remarks."""
    syntax = ""
    match tool.body:
        case RegexBody(pattern):
            syntax = f"The input matches this regular expression:\n{pattern}"
        case LarkBody(grammar):
            syntax = f"The input follows this Lark grammar:\n{grammar}"
        case _:
            pass
    description = "\n".join(text for text in (tool.description, syntax) if text)
    return FunctionTool(tool.name, description, {"type": "string"})


def _instructions(message: SystemText | DeveloperText) -> tuple[str, ReasoningEffort | None]:
    if isinstance(message, DeveloperText):
        return message.text, None
    return extract_effort(message.text)


def _messages(message: ChatMessage, index: int, names: dict[str, str]) -> list[Message]:
    """The harmony messages of one chat message; `names` collects call ids and their functions."""
    match message:
        case UserText(text):
            return [Message(Role.USER, text)]
        case AssistantTurn():
            return _assistant(message, names)
        case ToolOutput():
            return [_tool_output(message, index, names)]
        case _:
            return []


def _assistant(turn: AssistantTurn, names: dict[str, str]) -> list[Message]:
    messages: list[Message] = []
    if turn.reasoning:
        messages.append(Message(Role.ASSISTANT, turn.reasoning, channel=Channel.ANALYSIS))
    if turn.text or not (turn.calls or turn.reasoning):
        preamble = turn.phase is Phase.COMMENTARY or (turn.phase is None and bool(turn.calls))
        channel = Channel.COMMENTARY if preamble else Channel.FINAL
        messages.append(Message(Role.ASSISTANT, turn.text, channel=channel))
    for call in turn.calls:
        names[call.call_id] = call.name
        messages.append(
            Message(
                Role.ASSISTANT,
                call.arguments,
                channel=Channel.COMMENTARY,
                recipient=FUNCTIONS + call.name,
                content_type=None if call.custom else "json",
            )
        )
    return messages


def _tool_output(output: ToolOutput, index: int, names: dict[str, str]) -> Message:
    name = names.get(output.call_id) or output.name
    if name is None:
        raise RequestError(
            f"messages[{index}] answers the tool call {output.call_id!r}, but no assistant "
            "message before it made that call. Send the assistant's tool_calls back first.",
            param=f"messages[{index}].tool_call_id",
        )
    return Message(
        Role.TOOL,
        output.content,
        name=FUNCTIONS + name,
        channel=Channel.COMMENTARY,
        recipient="assistant",
    )


def _response_formats(request: ChatRequest) -> tuple[ResponseFormat, ...]:
    match request.output_format:
        case JsonSchema(name, schema, description):
            return (ResponseFormat(name, schema, description),)
        case _:
            return ()
