"""The judge: a served model reads a text under the policy and fills in a form, yes or no.

A grammar fixes the form, so that only the verdicts are the model's. The score of a category is the
model's own probability of "yes" against "no" at that verdict, from the log-probabilities of the
token that was chosen there and of its alternatives, before the grammar. A long text is judged in
windows; the highest score of any window counts. A judge is as good as its model, no better.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from osslo.chat.events import ContentLogprob, TextDelta, TurnEnd, TurnEnded, TurnEvent
from osslo.chat.models import ServedModel
from osslo.chat.moderation import Policy
from osslo.chat.request import ChatRequest, DeveloperText, JsonSchema, UserText
from osslo.chat.turn import PreparedTurn, prepare
from osslo.errors import EngineError
from osslo.harmony.messages import ReasoningEffort
from osslo.types import SamplingParams, Usage

ALTERNATIVES = 100
"""How many tokens are looked at where a verdict stands."""

WINDOW_TOKENS = 1024
"""How much text is judged at a time, if the context has room for it."""

_OVERLAP_TOKENS = 64
_FORM_TOKENS = 24
"""More than a line of the form takes."""

_VERDICT = re.compile(r':\s*"[yn]')

RunTurn = Callable[[PreparedTurn], AsyncGenerator[TurnEvent, None]]
"""Runs a prepared turn: metered, counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge holds of a text: `scores` in [0, 1] by category, and those `flagged`."""

    scores: Mapping[str, float]
    flagged: tuple[str, ...]
    usage: Usage


class Judge:
    """Judges texts under one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._form = _form(tuple(policy.thresholds))

    async def windows(self, model: ServedModel, text: str) -> tuple[str, ...]:
        """`text` in the pieces that are judged one by one. They are cut from the beginning, so that
        a text that grows at its end keeps its earlier pieces."""
        return await asyncio.to_thread(_windows, model, text)

    async def judge(
        self, model: ServedModel, text: str, run: RunTurn, *, request_id: str, tenant: str
    ) -> Verdict:
        """The verdict on one window of text. `run` runs the turn that makes it.

        Raises what refuses the turn, and `EngineError` if the model did not fill the form in.
        """
        asked = ChatRequest(
            request_id=request_id,
            messages=(
                DeveloperText(self.policy.instructions),
                UserText(f"<text>\n{text}\n</text>"),
            ),
            sampling=SamplingParams(
                max_tokens=_FORM_TOKENS * len(self.policy.thresholds),
                temperature=0.0,
                logprobs=ALTERNATIVES,
                score_forced=False,
            ),
            output_format=self._form,
            effort=ReasoningEffort.LOW,
            reasoning=False,
            tenant=tenant,
        )
        prepared = await asyncio.to_thread(prepare, model, asked, today="2025-01-01")
        records: list[ContentLogprob] = []
        ended: TurnEnded | None = None
        events = run(prepared)
        try:
            async for event in events:
                if isinstance(event, TextDelta):
                    records += event.logprobs
                elif isinstance(event, TurnEnded):
                    ended = event
        finally:
            await events.aclose()
        return self._verdict(records, ended)

    def merged(self, verdicts: Sequence[Verdict]) -> Verdict:
        """One verdict on a text from those on its windows."""
        scores = {
            name: max((verdict.scores[name] for verdict in verdicts), default=0.0)
            for name in self.policy.thresholds
        }
        usages = [verdict.usage for verdict in verdicts]
        usage = Usage(
            sum(usage.prompt_tokens for usage in usages),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in usages),
        )
        return Verdict(scores, self._flagged(scores), usage)

    def _verdict(self, records: Iterable[ContentLogprob], ended: TurnEnded | None) -> Verdict:
        if ended is not None and ended.error is not None:
            raise ended.error
        found = verdict_scores(records)
        names = tuple(self.policy.thresholds)
        if ended is None or ended.reason is not TurnEnd.STOP or len(found) != len(names):
            raise EngineError("The judge did not come to a verdict.", code="no_verdict")
        scores = dict(zip(names, found, strict=True))
        return Verdict(scores, self._flagged(scores), ended.usage)

    def _flagged(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        return tuple(
            name for name, least in self.policy.thresholds.items() if scores[name] >= least
        )


def verdict_scores(records: Iterable[ContentLogprob]) -> list[float]:
    """The probability of "yes" at each verdict of a form, from its tokens in their order."""
    scores: list[float] = []
    text = ""
    for record in records:
        text += record.text
        if len(_VERDICT.findall(text)) > len(scores):
            scores.append(yes_probability(record))
    return scores


def yes_probability(record: ContentLogprob) -> float:
    """The probability of "yes" against "no", where one of them begins. One that is not among the
    alternatives is at most as likely as the last of them, and counts as that."""
    seen = {other.raw: other for other in (*reversed(record.top), record)}
    masses = {"yes": 0.0, "no": 0.0}
    for token in seen.values():
        word = token.text.strip(' \n:"').lower()
        for answer in masses:
            if word and answer.startswith(word):
                masses[answer] += math.exp(token.logprob)
    least = math.exp(min(token.logprob for token in (record, *record.top)))
    yes, no = (mass or least for mass in masses.values())
    return yes / (yes + no)


def _form(names: Sequence[str]) -> JsonSchema:
    """The form that the judge fills in. All but the verdicts is forced by its grammar."""
    schema = {
        "type": "object",
        "properties": {name: {"enum": ["yes", "no"]} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    return JsonSchema("verdicts", schema, strict=True)


def _windows(model: ServedModel, text: str) -> tuple[str, ...]:
    tokens = model.vocabulary.encode(text)
    size = max(2 * _OVERLAP_TOKENS, min(WINDOW_TOKENS, model.context_tokens // 4))
    if len(tokens) <= size:
        return (text,)
    starts = range(0, len(tokens) - _OVERLAP_TOKENS, size - _OVERLAP_TOKENS)
    raw = [model.vocabulary.token_bytes(token) for token in tokens]
    return tuple(b"".join(raw[start : start + size]).decode("utf-8", "replace") for start in starts)
