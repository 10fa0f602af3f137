"""Shared by the engine's tests: requests, a sequential oracle, and running to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from osslo.engine.limits import EngineLimits
from osslo.engine.prefix_disk import PrefixDisk
from osslo.engine.runner import Runner
from osslo.engine.sampler import Sampler
from osslo.engine.sequence import Sequence
from osslo.types import (
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    SamplingParams,
    TokenDelta,
    TokenLogprob,
)
from tests.engine.fakes import FakeModel


def make_request(
    name: str, prompt: Iterable[int], max_tokens: int = 8, *, tenant: str = "", **sampling: object
) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, **{"temperature": 0.0, **sampling})
    return GenerationRequest(name, tuple(prompt), params, tenant=tenant)


def make_limits(**changes: object) -> EngineLimits:
    defaults: dict[str, object] = {
        "context_tokens": 512,
        "full_pages": 64,
        "window_pages": 64,
        "step_tokens": 64,
        "mixed_prefill_tokens": 32,
    }
    return EngineLimits(**{**defaults, **changes})


def expected_tokens(
    model: FakeModel, request: GenerationRequest, *, eos: Iterable[int] = (), context: int = 512
) -> list[int]:
    """What the request must generate: one token after another, no pages, no batch."""
    params = request.sampling
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))
    sampler = Sampler(params, request.prompt, params.seed or 0)
    text = list(request.prompt)
    limit = min(len(text) + params.max_tokens, context)
    while len(text) < limit:
        token = sampler.choose(model.logits_after(text), len(text)).token
        sampler.observe(token)
        text.append(token)
        if token in stops:
            break
    return text[len(request.prompt) :]


@dataclass
class Heard:
    """The events of one request, with the rules that hold for every stream checked on the way."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    progress: list[PrefillProgress] = field(default_factory=list)
    end: TokenDelta | None = None

    def hear(self, event: TokenDelta | PrefillProgress) -> None:
        assert self.end is None, "an event after the terminal one"
        if isinstance(event, PrefillProgress):
            self.progress.append(event)
            return
        self.tokens += event.tokens
        self.logprobs += event.logprobs
        if event.finish_reason is None:
            assert event.usage is None
            assert event.error is None
            return
        assert event.usage is not None
        assert event.usage.completion_tokens == len(self.tokens)
        told = {progress.cached_tokens for progress in self.progress}
        assert told <= {event.usage.cached_tokens}
        assert (event.error is not None) == (event.finish_reason is FinishReason.ERROR)
        self.end = event

    @property
    def reason(self) -> FinishReason | None:
        return None if self.end is None else self.end.finish_reason

    @property
    def cached(self) -> int:
        assert self.end is not None
        assert self.end.usage is not None
        return self.end.usage.cached_tokens


class Driver:
    """Steps a `Runner` by hand and checks the pages after every step."""

    def __init__(
        self,
        model: FakeModel,
        limits: EngineLimits,
        *,
        disk: PrefixDisk | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.model = model
        self.limits = limits
        self.context = limits.usable_context(model)
        self.runner = Runner(model, limits, clock=clock, disk=disk)
        self.heard: dict[str, Heard] = {}
        self.living: dict[str, Sequence] = {}

    def add(self, request: GenerationRequest, constraint=None) -> Sequence:
        params = request.sampling
        eos = () if params.ignore_eos else self.limits.eos_token_ids
        seq = Sequence(
            request,
            context_tokens=self.context,
            stop_ids=frozenset(eos) | frozenset(params.stop_token_ids),
            sampler=Sampler(params, request.prompt, params.seed or 0),
            constraint=constraint,
        )
        seq.append_forced()
        self.heard[request.request_id] = Heard()
        self.living[request.request_id] = seq
        self.runner.add(seq)
        return seq

    def step(self) -> None:
        self._take(self.runner.step())

    def abort(self, name: str) -> None:
        self._take([self.runner.abort(self.living[name])])

    def finish(self, max_steps: int = 2000) -> None:
        for _ in range(max_steps):
            if not self.runner.has_work:
                return
            self.step()
        raise AssertionError("the requests did not end")

    def run(self, request: GenerationRequest, constraint=None) -> Heard:
        self.add(request, constraint)
        self.finish()
        return self.heard[request.request_id]

    def _take(self, emissions) -> None:
        for seq, event in emissions:
            self.heard[seq.request_id].hear(event)
            if self.heard[seq.request_id].end is not None:
                del self.living[seq.request_id]
        self.runner.check_integrity()
        assert set(self.living.values()) == set(self.runner.scheduler.sequences())
