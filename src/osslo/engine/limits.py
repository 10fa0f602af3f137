"""The engine's limits: how much it may hold, run and queue. Frozen; checked against a model."""

from __future__ import annotations

from dataclasses import dataclass

from osslo.engine.pages import pages_for, window_span_pages
from osslo.errors import ConfigurationError
from osslo.model.forward import PAGE_TOKENS, ForwardModel
from osslo.types import TokenId


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes of one engine.

    `context_tokens` bounds prompt and output of one request together. `full_pages` and
    `window_pages` are the page pools (`window_pages` is ignored where no layer has a window).
    A step runs at most `step_tokens` rows, and at most `mixed_prefill_tokens` of them prefill while
    anybody decodes, so that a long prompt does not hold up those who are answered already. A
    prefill gives way to the next one of its tenant after `prefill_turn_tokens`. Requests alive at
    once: `max_running` + `max_waiting`, and per tenant `max_per_tenant` (None: no such limit). With
    `draft_tokens` a step may check so many guesses, of all its sequences together (`drafts`).
    """

    context_tokens: int
    full_pages: int
    window_pages: int
    eos_token_ids: tuple[TokenId, ...] = ()
    max_running: int = 8
    max_waiting: int = 64
    max_per_tenant: int | None = None
    step_tokens: int = 512
    mixed_prefill_tokens: int = 128
    prefill_turn_tokens: int = 2048
    prefix_cache: bool = True
    draft_tokens: int = 0

    @classmethod
    def for_model(
        cls,
        model: ForwardModel,
        *,
        context_tokens: int | None = None,
        eos_token_ids: tuple[TokenId, ...] = (),
        max_running: int = 8,
        kv_tokens: int | None = None,
        resume_points: int = 32,
        step_tokens: int = 512,
    ) -> EngineLimits:
        """Page pools for `kv_tokens` positions in all (None: one full context).

        The window pool has room for `max_running` windows, one step's prefill and `resume_points`
        places at which a later prompt can go on.
        """
        context = min(context_tokens or model.max_context_tokens, model.max_context_tokens)
        full_pages = pages_for(max(kv_tokens or context, context))
        window_pages = 0
        if model.sliding_window:
            span = min(window_span_pages(model.sliding_window), pages_for(context))
            wanted = (max_running + resume_points) * span + pages_for(step_tokens) + 1
            window_pages = max(span, min(full_pages, wanted))
        return cls(
            context_tokens=context,
            full_pages=full_pages,
            window_pages=window_pages,
            eos_token_ids=eos_token_ids,
            max_running=max_running,
            step_tokens=step_tokens,
        )

    def usable_context(self, model: ForwardModel) -> int:
        """Longest sequence that model and pools can hold alone: no request may exceed it.

        Raises ConfigurationError where a limit makes no sense.
        """
        for name in ("context_tokens", "full_pages", "max_running", "mixed_prefill_tokens"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_waiting < 0:
            raise ConfigurationError(f"max_waiting is {self.max_waiting}; it cannot be negative")
        if self.step_tokens < self.max_running:
            raise ConfigurationError(
                f"step_tokens is {self.step_tokens}; each of max_running={self.max_running} "
                "sequences needs a row in a step"
            )
        context = min(self.context_tokens, model.max_context_tokens, self.full_pages * PAGE_TOKENS)
        if model.sliding_window and self.window_pages < window_span_pages(model.sliding_window):
            context = min(context, self.window_pages * PAGE_TOKENS)
        if context < 2:
            raise ConfigurationError(
                f"{self.window_pages} window pages cannot hold a prompt token and its answer; "
                "raise window_pages"
            )
        return context
