"""A completion request to raw requests: prompts, candidates, limits and refusals by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from osslo.api.completions.schema import CompletionRequest
from osslo.api.guided import blaming_guided, guided_format
from osslo.api.parameters import Spelling, given_or, missing, output_limit, same, stop_strings
from osslo.api.parameters import logit_bias as checked_bias
from osslo.chat.form import text_form
from osslo.chat.models import ServedModel
from osslo.chat.raw import RawRequest
from osslo.chat.request import PlainText
from osslo.errors import RequestError, UnsupportedError
from osslo.settings import LimitSettings
from osslo.types import SamplingParams

DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for this endpoint."""

MAX_RUNS = 128
"""Prompts times candidates of one request."""

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """The raw requests of one completion request, `candidates` for each prompt in turn, of which
    the likeliest `choices` are given. `show_logprobs` is false where only `best_of` needs them."""

    requests: tuple[RawRequest, ...]
    prompts: int
    candidates: int
    choices: int
    show_logprobs: bool
    warnings: tuple[str, ...] = ()


def to_runs(
    body: CompletionRequest,
    model: ServedModel,
    *,
    request_id: str,
    tenant: str,
    limits: LimitSettings,
) -> Runs:
    """What to run. Raises `RequestError` or `UnsupportedError` naming the parameter. May compile a
    grammar: run it off the event loop."""
    _refuse_inapplicable(body)
    prompts = _prompts(body)
    choices, candidates = _counts(body, len(prompts), limits)
    with blaming_guided(body):
        form = text_form(guided_format(body, limits) or PlainText())
    base = RawRequest(
        request_id=request_id,
        prompt="",
        sampling=_sampling(body, model, limits, scored=candidates > choices),
        max_tokens=_max_tokens(body, limits),
        stop=stop_strings(
            same(Spelling("stop", [body.stop] if isinstance(body.stop, str) else body.stop))
        ),
        echo=bool(body.echo),
        special_tokens=body.skip_special_tokens is False,
        grammar=None if form is None else form.grammar,
        tenant=tenant,
    )
    return Runs(
        requests=_runs(base, prompts, candidates),
        prompts=len(prompts),
        candidates=candidates,
        choices=choices,
        show_logprobs=body.logprobs is not None,
        warnings=() if form is None else form.warnings,
    )


def _runs(base: RawRequest, prompts: list[Prompt], candidates: int) -> tuple[RawRequest, ...]:
    """One request for each candidate of each prompt, with ids and seeds of their own."""
    if len(prompts) * candidates == 1:
        return (replace(base, prompt=prompts[0]),)
    seed = base.sampling.seed
    return tuple(
        replace(
            base,
            request_id=f"{base.request_id}-{place * candidates + candidate}",
            prompt=prompt,
            sampling=replace(base.sampling, seed=None if seed is None else seed + candidate),
        )
        for place, prompt in enumerate(prompts)
        for candidate in range(candidates)
    )


def _refuse_inapplicable(body: CompletionRequest) -> None:
    if body.suffix:
        raise UnsupportedError(
            "'suffix' is not supported: this model was not trained to fill gaps.", param="suffix"
        )
    if body.stream_options is not None and not body.stream:
        raise RequestError("'stream_options' needs 'stream': true.", param="stream_options")


def _prompts(body: CompletionRequest) -> list[Prompt]:
    given = body.prompt
    if given is None:
        raise missing("prompt")
    if isinstance(given, str):
        return [given]
    if not given:
        raise RequestError("'prompt' is an empty list; send at least one token.", param="prompt")
    if isinstance(given[0], int):
        return [_token_ids(given)]
    return [prompt if isinstance(prompt, str) else _token_ids(prompt) for prompt in given]


def _token_ids(ids: object) -> tuple[int, ...]:
    """A list that the schema has checked to hold integers only."""
    return tuple(ids) if isinstance(ids, list) else ()


def _counts(body: CompletionRequest, prompts: int, limits: LimitSettings) -> tuple[int, int]:
    """Choices and candidates of one prompt."""
    choices = given_or(body.n, 1)
    candidates = given_or(body.best_of, choices)
    for name, count in (("n", choices), ("best_of", candidates)):
        if count > limits.max_choices:
            raise RequestError(
                f"'{name}' is {count}; the most is {limits.max_choices}.", param=name
            )
    if candidates < choices:
        raise RequestError(
            f"'best_of' is {candidates}, less than 'n', which is {choices}.", param="best_of"
        )
    if candidates > choices and body.stream:
        raise RequestError(
            "'best_of' above 'n' cannot be streamed: which are best is known at the end.",
            param="best_of",
        )
    if prompts * candidates > MAX_RUNS:
        raise RequestError(
            f"{prompts} prompts with {candidates} candidates each are more than the {MAX_RUNS} "
            "completions that one request may run.",
            param="prompt",
        )
    return choices, candidates


def _max_tokens(body: CompletionRequest, limits: LimitSettings) -> int | None:
    if body.max_tokens is None:
        return DEFAULT_MAX_TOKENS
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("'max_tokens' 0 gives nothing without 'echo'.", param="max_tokens")
    return output_limit(Spelling("max_tokens", body.max_tokens), limits)


def _sampling(
    body: CompletionRequest, model: ServedModel, limits: LimitSettings, *, scored: bool
) -> SamplingParams:
    """`scored`: log-probabilities are needed also where the caller asked for none."""
    logprobs = body.logprobs
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
        logprobs=0 if logprobs is None and scored else logprobs,
        ignore_eos=bool(body.ignore_eos),
    )
