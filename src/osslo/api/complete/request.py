"""A `/v1/complete` request to a neutral `ChatRequest`."""

from __future__ import annotations

from osslo.api.complete.prompt import HUMAN, read_prompt
from osslo.api.complete.schema import CompleteRequest
from osslo.api.parameters import Spelling, given_or, output_limit, stop_strings
from osslo.chat.request import ChatRequest
from osslo.harmony.effort import parse_effort
from osslo.settings import LimitSettings
from osslo.types import SamplingParams


def to_chat_request(
    body: CompleteRequest, *, request_id: str, tenant: str, limits: LimitSettings
) -> ChatRequest:
    """The neutral request. `max_tokens_to_sample` is a ceiling: where the context leaves less, the
    completion may end there. Raises `RequestError` naming the parameter."""
    turns = read_prompt(body.prompt)
    limit = output_limit(Spelling("max_tokens_to_sample", body.max_tokens_to_sample), limits)
    stops = stop_strings(Spelling("stop_sequences", body.stop_sequences or []))
    if turns.in_turns and HUMAN not in stops:
        stops = (*stops, HUMAN)
    effort = body.reasoning_effort.strip().lower() if body.reasoning_effort is not None else None
    return ChatRequest(
        request_id=request_id,
        messages=turns.messages,
        sampling=SamplingParams(
            max_tokens=given_or(limit, limits.max_output_tokens),
            temperature=given_or(body.temperature, 1.0),
            top_p=given_or(body.top_p, 1.0),
            top_k=max(0, given_or(body.top_k, 0)),
        ),
        stop=stops,
        effort=None if effort is None else parse_effort(effort),
        reasoning=effort != "none",
        prefill=turns.prefill,
        tenant=tenant,
    )
