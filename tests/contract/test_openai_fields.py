"""Field by field: what the official client can send is known here, and what it reads is sent."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from openai.types import Completion as ClientCompletion
from openai.types import completion_create_params
from openai.types.chat import ChatCompletion as ClientChatCompletion
from openai.types.chat import (
    ChatCompletionChunk as ClientChunk,
)
from openai.types.chat import (
    ChatCompletionMessage,
    completion_list_params,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.chat.completions import message_list_params
from pydantic import BaseModel

from osslo.api.chat_completions.reply_schema import (
    ChatCompletion,
    ChatCompletionChunk,
    MessageReply,
)
from osslo.api.chat_completions.schema import ChatCompletionRequest
from osslo.api.chat_completions.stored import OrderedPageQuery, StoredCompletionQuery
from osslo.api.completions.schema import Completion, CompletionRequest

NEVER_SENT = {
    "audio",  # text only
    "annotations",  # no search
    "function_call",  # OpenAI's old spelling of tool_calls
    "moderation",  # there is none
}


@pytest.mark.parametrize(
    ("params", "schema"),
    [
        (chat_create_params.CompletionCreateParamsStreaming, ChatCompletionRequest),
        (completion_create_params.CompletionCreateParamsStreaming, CompletionRequest),
        (completion_list_params.CompletionListParams, StoredCompletionQuery),
        (message_list_params.MessageListParams, OrderedPageQuery),
    ],
)
def test_every_parameter_of_the_client_is_known(params: Any, schema: type[BaseModel]) -> None:
    """Known: applied, or refused by name with a reason; never an unknown parameter."""
    assert set(get_type_hints(params)) - set(schema.model_fields) == set()


@pytest.mark.parametrize(
    ("read", "sent"),
    [
        (ClientChatCompletion, ChatCompletion),
        (ClientChunk, ChatCompletionChunk),
        (ChatCompletionMessage, MessageReply),
        (ClientCompletion, Completion),
    ],
)
def test_every_field_that_the_client_reads_is_sent(
    read: type[BaseModel], sent: type[BaseModel]
) -> None:
    assert set(read.model_fields) - set(sent.model_fields) - NEVER_SENT == set()
