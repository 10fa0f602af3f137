"""Shapes of `/v1/completions`: what comes in, and what goes out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osslo.api.body import refused
from osslo.api.guided import GuidedFields
from osslo.api.shapes import Reply, StreamOptions, UsageReply

MAX_LOGPROBS = 20


class CompletionRequest(GuidedFields):
    """A raw completion: the prompt goes to the model as it is, without any chat format."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str | list[str] | list[int] | list[list[int]] | None = Field(
        None, description="Text, token ids, or several of one kind. Required."
    )
    suffix: str | None = refused("this model does not fill gaps")
    max_tokens: int | None = Field(None, ge=0, description="16 if left out; 0 reads the prompt.")
    n: int | None = Field(None, ge=1)
    best_of: int | None = Field(None, ge=1, description="Run so many, give the n likeliest.")
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 24)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, float] | None = Field(None, max_length=1024)
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = Field(
        None, description="False writes the special tokens of the output out; default true."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class CompletionLogprobs(Reply):
    """Parallel lists over the tokens of the text. A token that is not whole characters reads
    `bytes:\\x…`."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class CompletionChunkChoice(Reply):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class CompletionRemarks(Reply):
    """What Osslo has to say about the answer: which keywords of schemas are not enforced."""

    warnings: list[str]


class Completion(Reply):
    """All choices: of several prompts, the first prompt's come first."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageReply
    osslo: CompletionRemarks | None = None


class CompletionChunk(Reply):
    """One event of a stream; with `stream_options.include_usage` the last one has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: UsageReply | None = None
    osslo: CompletionRemarks | None = None
    obfuscation: str | None = None
