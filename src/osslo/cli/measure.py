"""Measures a model through the engine that serves it: scheduler, forward, sampler and all.

What is fed is fixed: rows of given token ids. A model's own choice is replaced after the forward
pass, so that two engines, or two versions of one, compute exactly the same thing; everything that
serving does is still done and timed.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from osslo.engine.engine import Engine
from osslo.engine.limits import EngineLimits
from osslo.engine.prefix_disk import PrefixDisk
from osslo.errors import ConfigurationError
from osslo.model.forward import ForwardInput, KvCache, PageKind
from osslo.model.model import Model
from osslo.types import GenerationRequest, SamplingParams, TokenDelta

UNMEASURED_TOKENS = 4
"""The first steps of a decoding run pay for page faults and for waking threads."""


_HIGHEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement. `decode_tokens` were generated in `decode_seconds`; `python_share` is the
    part of the whole time that was not spent in the forward pass, what feeding the ids took left
    out, since serving has no such thing; `rss_gib` is the process's peak
    so far; `experts_per_step` is how many different experts a layer of a decoding step ran, on
    average."""

    job: str
    seconds: float
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    share: float = 0.0
    python_share: float = 0.0
    rss_gib: float = 0.0
    experts_per_step: float = 0.0


class FedModel:
    """A model whose likeliest next token is always the next of the given `ids`.

    `ids` is int32 `[S, N]`. A row at position p is known by its token: the stream that has it there
    says what comes at p + 1.
    """

    def __init__(self, model: Model, ids: NDArray[np.int32]) -> None:
        self._model = model
        self._ids = ids
        self.reset()

    def reset(self) -> None:
        """Count from nothing again."""
        self.forward_s = 0.0
        self.feeding_s = 0.0
        self._decoding_steps = 0
        self._experts = 0.0

    @property
    def experts_per_step(self) -> float:
        """Different experts of a layer in a decoding step, on average since `reset`."""
        return self._experts / max(1, self._decoding_steps)

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def max_context_tokens(self) -> int:
        return self._model.max_context_tokens

    @property
    def sliding_window(self) -> int:
        return self._model.sliding_window

    def page_bytes(self, kind: PageKind) -> int:
        return self._model.page_bytes(kind)

    def new_kv(self, full_pages: int, window_pages: int) -> KvCache:
        return self._model.new_kv(full_pages, window_pages)

    def forward(self, kv: KvCache, step: ForwardInput) -> NDArray[np.float32]:
        begin = time.perf_counter()
        logits = self._model.forward(kv, step)
        end = time.perf_counter()
        self.forward_s += end - begin
        self._feed(step, logits)
        self.feeding_s += time.perf_counter() - end
        return logits

    def _feed(self, step: ForwardInput, logits: NDArray[np.float32]) -> None:
        if len(step.token_ids) < len(step.sequence_starts):  # one row each: all decode
            self._decoding_steps += 1
            self._experts += self._model.experts_in_last_step
        for index, row in enumerate(step.logit_rows):
            position, token = step.positions[row], step.token_ids[row]
            stream = int(np.argmax(self._ids[:, position] == token))
            logits[index, self._ids[stream, position + 1]] = _HIGHEST


class Meter:
    """Runs measurements on one engine over `model`, with room for `context_tokens`.

    `ids` int32 `[S, N]` are what is fed; N is at least the context. With a `disk`, prefixes outlive
    the process. Close it after use.
    """

    def __init__(
        self,
        model: Model,
        ids: NDArray[np.int32],
        *,
        context_tokens: int,
        streams: int = 8,
        disk: PrefixDisk | None = None,
    ) -> None:
        if ids.shape[0] < max(streams, 3) or ids.shape[1] <= context_tokens:
            raise ConfigurationError(
                f"{ids.shape} ids are too few for {streams} streams of {context_tokens} tokens"
            )
        self._ids = ids
        self._fed = FedModel(model, ids)
        limits = EngineLimits.for_model(
            self._fed, context_tokens=context_tokens, max_running=streams
        )
        self._engine = Engine(self._fed, limits, disk=disk)
        self._numbers = count()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close_blocking()

    def prefill(self, tokens: int) -> Measured:
        """Read a prompt that nobody has sent before, up to its first output token."""
        number = next(self._numbers)
        return self._timed(
            f"prefill:{tokens}",
            lambda: (self._arrivals(self._ids[0, :tokens], 1, f"cold-{number}"), 0),
        )

    def decode(self, depth: int, tokens: int) -> Measured:
        """Generate `tokens` after `depth` others, which stay cached between measurements."""
        prompt = self._ids[0, : max(depth, 1)]

        def run() -> tuple[list[float], int]:
            arrivals = self._arrivals(prompt, UNMEASURED_TOKENS + tokens, f"depth-{depth}")
            return arrivals, UNMEASURED_TOKENS - 1

        return self._timed(f"decode:{depth}:{tokens}", run)

    def streams(self, streams: int, prompt: int, tokens: int) -> Measured:
        """`streams` requests that arrive together; decoding counts from the last one's first."""
        number = next(self._numbers)

        def run() -> tuple[list[float], int]:
            all_arrivals = asyncio.run(self._together(streams, prompt, tokens, f"many-{number}"))
            last_first = max(arrivals[0] for arrivals in all_arrivals)
            merged = sorted(moment for arrivals in all_arrivals for moment in arrivals)
            return merged, merged.index(last_first)

        return self._timed(f"streams:{streams}:{prompt}:{tokens}", run)

    def prefix(self, shared: int) -> Measured:
        """Two requests with the same first tokens and different ends, one after the other; `share`
        is the second's time to its first token as a part of the first's."""
        tenant = f"prefix-{next(self._numbers)}"
        cold, warm = (self._first_token_s(stream, shared, tenant) for stream in (1, 2))
        return Measured(f"prefix:{shared}", cold, share=warm / cold, rss_gib=peak_rss_gib())

    def first_token(self, stream: int, shared: int) -> Measured:
        """The time to the first token behind the first tokens of all such prompts and an end of its
        own, `stream`'s."""
        seconds = self._first_token_s(stream, shared, "shared")
        return Measured(f"first:{stream}:{shared}", seconds, rss_gib=peak_rss_gib())

    def _first_token_s(self, stream: int, shared: int, tenant: str) -> float:
        cut = shared + 5  # not a page's edge
        prompt = np.concatenate([self._ids[0, :cut], self._ids[stream, cut : cut + 40]])
        begin = time.perf_counter()
        return self._arrivals(prompt, 1, tenant)[0] - begin

    def run(self, job: str) -> Measured:
        """A job by its name, as `prefill:512`, `decode:0:64`, `streams:8:128:64`, `prefix:2048`.

        Raises ConfigurationError for a name that is none.
        """
        kind, *numbers = job.split(":")
        known: dict[str, tuple[Callable[..., Measured], int]] = {
            "prefill": (self.prefill, 1),
            "decode": (self.decode, 2),
            "streams": (self.streams, 3),
            "prefix": (self.prefix, 1),
            "first": (self.first_token, 2),
        }
        if kind not in known or len(numbers) != known[kind][1] or not "".join(numbers).isdigit():
            raise ConfigurationError(f"{job!r} is no measurement; try prefill:512 or decode:0:64")
        return known[kind][0](*(int(number) for number in numbers))

    # --- one run ----------------------------------------------------------------------------------

    def _timed(self, job: str, run: Callable[[], tuple[list[float], int]]) -> Measured:
        """`run` gives the moments of all tokens and the index of the one decoding counts from."""
        self._fed.reset()
        begin = time.perf_counter()
        arrivals, first = run()
        seconds = time.perf_counter() - begin
        served = seconds - self._fed.feeding_s
        return Measured(
            job,
            seconds,
            decode_seconds=arrivals[-1] - arrivals[first],
            decode_tokens=len(arrivals) - 1 - first,
            python_share=max(0.0, 1 - self._fed.forward_s / served),
            rss_gib=peak_rss_gib(),
            experts_per_step=self._fed.experts_per_step,
        )

    def _request(self, prompt: NDArray[np.int32], tokens: int, tenant: str) -> GenerationRequest:
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        name = f"bench-{next(self._numbers)}"
        return GenerationRequest(name, tuple(prompt.tolist()), sampling, tenant=tenant)

    def _arrivals(self, prompt: NDArray[np.int32], tokens: int, tenant: str) -> list[float]:
        moments: list[float] = []
        for event in self._engine.generate_blocking(self._request(prompt, tokens, tenant)):
            if isinstance(event, TokenDelta):
                if event.error is not None:
                    raise event.error
                moments += [time.perf_counter()] * len(event.tokens)
        return moments

    async def _together(
        self, streams: int, prompt: int, tokens: int, tenant: str
    ) -> list[list[float]]:
        async def one(stream: int) -> list[float]:
            moments: list[float] = []
            request = self._request(self._ids[stream, :prompt], tokens, f"{tenant}-{stream}")
            async for event in self._engine.generate(request):
                if isinstance(event, TokenDelta):
                    if event.error is not None:
                        raise event.error
                    moments += [time.perf_counter()] * len(event.tokens)
            return moments

        return list(await asyncio.gather(*(one(stream) for stream in range(streams))))


def random_ids(vocab_size: int, streams: int, tokens: int, *, seed: int = 0) -> NDArray[np.int32]:
    """Seeded ids int32 `[streams, tokens]`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, vocab_size, (streams, tokens), dtype=np.int32)


def peak_rss_gib() -> float:
    """The process's largest resident memory so far (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
