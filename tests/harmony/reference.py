"""Our records as `openai-harmony`'s, to render the same conversation by both."""

from __future__ import annotations

import openai_harmony as oh

from osslo.harmony.history import drop_past_analysis
from osslo.harmony.messages import Conversation, Message


def reference_render(encoding: oh.HarmonyEncoding, conversation: Conversation) -> list[int]:
    """OpenAI's rendering of the conversation after our own rule for past reasoning."""
    messages = [_system(conversation), *_developer(conversation)]
    messages += [reference_message(m) for m in drop_past_analysis(conversation.messages)]
    return encoding.render_conversation_for_completion(
        oh.Conversation.from_messages(messages),
        oh.Role.ASSISTANT,
        oh.RenderConversationConfig(auto_drop_analysis=False),
    )


def reference_message(message: Message) -> oh.Message:
    author = oh.Author(role=oh.Role(message.role.value), name=message.name)
    made = oh.Message.from_author_and_content(author, message.content)
    if message.channel is not None:
        made = made.with_channel(message.channel.value)
    if message.recipient is not None:
        made = made.with_recipient(message.recipient)
    if message.content_type is not None:
        kind = message.content_type
        made = made.with_content_type(f"<|constrain|>{kind}" if kind == "json" else kind)
    return made


def _system(conversation: Conversation) -> oh.Message:
    content = oh.SystemContent(
        model_identity=conversation.identity or None,
        knowledge_cutoff=conversation.knowledge_cutoff or None,
        conversation_start_date=conversation.current_date,
        reasoning_effort=oh.ReasoningEffort(conversation.effort.value.capitalize()),
    )
    if conversation.builtin_tools.python:
        content = content.with_python_tool()
    if conversation.builtin_tools.browser:
        content = content.with_browser_tool()
    return oh.Message.from_role_and_content(oh.Role.SYSTEM, content)


def _developer(conversation: Conversation) -> list[oh.Message]:
    content = oh.DeveloperContent()
    if conversation.instructions:
        content = content.with_instructions(conversation.instructions)
    if conversation.tools:
        tools = [
            oh.ToolDescription.new(
                tool.name,
                tool.description,
                dict(tool.parameters) if tool.parameters is not None else None,
            )
            for tool in conversation.tools
        ]
        content = content.with_function_tools(tools)
    if content == oh.DeveloperContent():
        return []
    return [oh.Message.from_role_and_content(oh.Role.DEVELOPER, content)]
