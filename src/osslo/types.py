"""The shared nouns: frozen records that cross layers. No behaviour beyond what they derive."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from osslo.errors import OssloError

TokenId = int


class FinishReason(StrEnum):
    """Why a sequence ended. Every accepted request ends with exactly one of these."""

    STOP = "stop"  # a stop token, or the caller's stop string
    LENGTH = "length"  # max_tokens or the end of the context
    ABORT = "abort"  # the caller went away or cancelled
    ERROR = "error"  # the engine failed; the terminal record carries the error


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from a row of logits.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 and `min_p` 0 are off. `logprobs` is the
    number of alternatives reported beside the sampled token (0: the sampled token's only;
    None: no logprobs); `prompt_logprobs` the same for the prompt's tokens. Where logprobs are
    wanted every token is sampled, also one that the grammar forces; without `score_forced` those
    are skipped over all the same, and count as certain (logprob 0). With a `seed`, the same prompt
    gives the same tokens in any batch. `max_tokens` 0 only reads the prompt.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[TokenId, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    score_forced: bool = True
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Grammar:
    """A context-free grammar over tokens, in llguidance's Lark dialect, that output must follow.

    `read` are tokens of the grammar that the prompt already holds, at its end: output goes on
    after them.
    """

    lark: str
    read: tuple[TokenId, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a `Backend` runs: token ids in, sampling, constraint, and whose request it is.

    `tenant` is the unit of fairness and of prefix-cache isolation. `adapter` names a LoRA.
    """

    request_id: str
    prompt: tuple[TokenId, ...]
    sampling: SamplingParams
    grammar: Grammar | None = None
    tenant: str = ""
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (nats) of one token and, best first, of its alternatives at that place."""

    token: TokenId
    logprob: float
    top: tuple[tuple[TokenId, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request; `cached_tokens` is the part of the prompt found in the prefix
    cache, `reasoning_tokens` the part of the output outside the final answer and its calls."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one request went, in seconds, measured by the engine."""

    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done_tokens` of `total_tokens` of the prompt are in the cache; `cached_tokens` of them had
    been there before the request (None: the backend tells only at the end)."""

    request_id: str
    done_tokens: int
    total_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New tokens of one sequence. The last delta, and only it, has `finish_reason` and `usage`
    (and `error` when the reason is ERROR); it may carry no tokens. A stop token that ended the
    sequence is among `tokens`. `prompt_logprobs` are those of the prompt's next tokens, in order
    from its second one; all of them come before the first token."""

    request_id: str
    tokens: tuple[TokenId, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: OssloError | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asked for; `arguments` is the text as generated: JSON for functions, any
    text for a `custom` tool."""

    call_id: str
    name: str
    arguments: str
    custom: bool = False


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave back for `call_id`."""

    call_id: str
    name: str
    content: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class BackendStats:
    """A backend's load at this moment, for `/metrics`, `/ready` and admission.

    `forced_tokens` are those of the `generated_tokens` that a grammar left no choice about and that
    were appended without being sampled. `full_for_s` is set while there is no place for another
    request: seconds after which one should be free.
    """

    running: int
    waiting: int
    max_waiting: int
    pages_used: int
    pages_total: int
    prefix_hits_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    full_for_s: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
