"""A chat completion request to a neutral `ChatRequest`: spellings, limits and refusals by name."""

from __future__ import annotations

from osslo.api.chat_completions.messages import chat_messages
from osslo.api.chat_completions.schema import ChatCompletionRequest
from osslo.api.chat_completions.tools import declared_tools, output_format, tool_choice
from osslo.api.parameters import Spelling, given_or, output_limit, same, stop_strings
from osslo.api.parameters import logit_bias as checked_bias
from osslo.chat.models import ServedModel
from osslo.chat.request import ChatRequest
from osslo.errors import RequestError, UnsupportedError
from osslo.harmony.effort import parse_effort
from osslo.harmony.messages import ReasoningEffort
from osslo.settings import LimitSettings
from osslo.types import SamplingParams

_CANNOT_APPLY = {
    "audio": "this model writes text only",
    "function_call": "it is OpenAI's old spelling; use tool_choice",
    "functions": "it is OpenAI's old spelling; use tools",
    "moderation": "ask /v1/moderations, or give the key a guard",
    "prediction": "predicted outputs are not supported",
    "prompt_cache_options": "prefixes are cached without it",
    "prompt_cache_retention": "prefixes are cached without it",
    "web_search_options": "this endpoint has no web search; declare a tool of your own",
}


def to_chat_request(
    body: ChatCompletionRequest,
    model: ServedModel,
    *,
    request_id: str,
    tenant: str,
    limits: LimitSettings,
) -> ChatRequest:
    """The neutral request; with n choices each gets a copy with an id and a seed of its own.

    Raises `RequestError` or `UnsupportedError` naming the parameter.
    """
    _refuse_inapplicable(body)
    tools = declared_tools(body, limits)
    effort, reasoning = _effort(body)
    return ChatRequest(
        request_id=request_id,
        messages=chat_messages(body, limits),
        sampling=_sampling(body, model, limits),
        max_tokens=_max_tokens(body, limits),
        stop=_stops(body),
        tools=tools.functions,
        custom_tools=tools.customs,
        tool_choice=tool_choice(body, tools),
        parallel_tool_calls=bool(body.parallel_tool_calls),
        output_format=output_format(body, limits),
        effort=effort,
        reasoning=reasoning,
        tenant=tenant,
    )


def _refuse_inapplicable(body: ChatCompletionRequest) -> None:
    """Raise `UnsupportedError` for what cannot apply here."""
    if body.stream_options is not None and not body.stream:
        raise RequestError("'stream_options' needs 'stream': true.", param="stream_options")
    for name, why in _CANNOT_APPLY.items():
        if getattr(body, name) is not None:
            raise UnsupportedError(f"'{name}' is not supported: {why}.", param=name)
    if body.modalities is not None and body.modalities != ["text"]:
        raise UnsupportedError("'modalities' can only be ['text'].", param="modalities")
    if body.service_tier not in (None, "auto", "default"):
        raise UnsupportedError(
            "'service_tier' can only be 'auto' or 'default'.", param="service_tier"
        )
    if body.verbosity not in (None, "medium"):
        raise UnsupportedError(
            "'verbosity' is not supported: gpt-oss has no such control; ask in the messages.",
            param="verbosity",
        )


def _max_tokens(body: ChatCompletionRequest, limits: LimitSettings) -> int | None:
    given = same(
        Spelling("max_completion_tokens", body.max_completion_tokens),
        Spelling("max_tokens", body.max_tokens),
        Spelling("max_tokens_to_sample", body.max_tokens_to_sample),
    )
    return output_limit(given, limits)


def _stops(body: ChatCompletionRequest) -> tuple[str, ...]:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    return stop_strings(
        same(Spelling("stop", stop), Spelling("stop_sequences", body.stop_sequences))
    )


def _effort(body: ChatCompletionRequest) -> tuple[ReasoningEffort | None, bool]:
    """The effort, and whether the model is to reason at all."""
    nested = body.reasoning.effort if body.reasoning is not None else None
    given = same(
        Spelling("reasoning_effort", body.reasoning_effort), Spelling("reasoning.effort", nested)
    )
    if given is None:
        return None, True
    text = str(given.value).strip().lower()
    return parse_effort(text), text != "none"


def _sampling(
    body: ChatCompletionRequest, model: ServedModel, limits: LimitSettings
) -> SamplingParams:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    choices = given_or(body.n, 1)
    if choices > limits.max_choices:
        raise RequestError(f"'n' is {choices}; the most is {limits.max_choices}.", param="n")
    return SamplingParams(
        max_tokens=limits.max_output_tokens,
        temperature=given_or(body.temperature, 1.0),
        top_p=given_or(body.top_p, 1.0),
        top_k=max(0, given_or(body.top_k, 0)),
        min_p=given_or(body.min_p, 0.0),
        presence_penalty=given_or(body.presence_penalty, 0.0),
        frequency_penalty=given_or(body.frequency_penalty, 0.0),
        repetition_penalty=given_or(body.repetition_penalty, 1.0),
        logit_bias=checked_bias(body.logit_bias, model.vocabulary.vocab_size),
        seed=body.seed,
        logprobs=given_or(body.top_logprobs, 0) if body.logprobs else None,
        ignore_eos=bool(body.ignore_eos),
    )
