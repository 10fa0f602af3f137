"""From a row of logits to a token. Float32 rows in, one decision out; nothing depends on the batch.

Order of the edits, each skipped where it is off: repetition penalty (prompt and output), presence
and frequency penalties (output only), logit bias, constraint mask. Then temperature, top_k, top_p
over what top_k left, min_p against the best. Log-probabilities are those of the raw row, before any
edit. Chance comes from Philox, a counter-based generator (Salmon et al., SC'11): the key is the
request's seed, the counter the token's position, so that a draw depends on nothing else.

Rows are long (201,088), so nothing sorts a whole row: tokens less likely than e^-30 of the best one
are dropped first, and the head of the rest is found by partition.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from osslo.engine.constraint import Constraint
from osslo.errors import EngineError, RequestError
from osslo.types import SamplingParams, TokenId, TokenLogprob

Row = NDArray[np.float32]
Ids = NDArray[np.intp]

_NEGLIGIBLE_NATS = 30.0
"""e^-30 times 201,088 tokens is 2e-8 of the mass at most: less than float32 rounds away."""

_FIRST_HEAD = 64  # candidates tried first for top_p; then eight times as many, and so on
_BLOCK = 256  # weights summed together when a cumulative sum is searched
_KEY_MASK = (1 << 128) - 1  # Philox's key is 128 bits


class Choice(NamedTuple):
    token: TokenId
    logprob: TokenLogprob | None


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Raise RequestError naming the first parameter that makes no sense."""
    rules = (
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature < math.inf, "0 or more"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        ("top_k", params.top_k >= 0, "0 (off) or more"),
        ("min_p", 0 <= params.min_p <= 1, "between 0 and 1"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "a finite number"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "a finite number"),
        ("repetition_penalty", 0 < params.repetition_penalty < math.inf, "above 0"),
        ("logprobs", params.logprobs is None or 0 <= params.logprobs < vocab_size, "0 or more"),
    )
    for name, holds, wanted in rules:
        if not holds:
            value = getattr(params, name)
            raise RequestError(f"{name} is {value}; it must be {wanted}", param=name)
    for token, bias in params.logit_bias:
        if not 0 <= token < vocab_size or math.isnan(bias) or bias == math.inf:
            raise RequestError(
                f"logit_bias for token {token} is {bias}; tokens go from 0 to {vocab_size - 1} "
                "and a bias is a number",
                param="logit_bias",
            )


class Sampler:
    """One sequence's way of choosing; remembers what was generated if a penalty asks for it."""

    def __init__(self, params: SamplingParams, prompt: tuple[TokenId, ...], seed: int) -> None:
        self._params = params
        self._key = seed & _KEY_MASK
        self._counts: Counter[TokenId] = Counter()
        self._repeats = params.repetition_penalty != 1.0
        self._counted = params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._prompt_ids = np.unique(np.array(prompt if self._repeats else (), dtype=np.intp))
        bias: dict[TokenId, float] = {}
        for token, value in params.logit_bias:
            bias[token] = bias.get(token, 0.0) + value
        self._bias_ids = np.fromiter(bias.keys(), dtype=np.intp, count=len(bias))
        self._bias = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))

    def observe(self, token: TokenId) -> None:
        """A token was appended, sampled or forced."""
        if self._repeats or self._counted:
            self._counts[token] += 1

    def choose(self, row: Row, position: int, constraint: Constraint | None = None) -> Choice:
        """The token for `position` from its logits `[V]`. `row` itself is not changed.

        Raises EngineError where the row has no finite maximum or nothing may follow.
        """
        edited = self._edit(row, constraint)
        if self._params.temperature == 0.0:
            token = int(edited.argmax())
            _require_finite(edited[token])
        else:
            token = draw(edited, self._params, uniform(self._key, position))
        wanted = self._params.logprobs
        return Choice(token, None if wanted is None else logprob(row, token, wanted))

    def _edit(self, row: Row, constraint: Constraint | None) -> Row:
        if not (self._repeats or self._counted or self._bias.size or constraint is not None):
            return row
        row = row.copy()
        seen = np.fromiter(self._counts.keys(), dtype=np.intp, count=len(self._counts))
        if self._repeats:
            ids = np.union1d(self._prompt_ids, seen)
            values, penalty = row[ids], np.float32(self._params.repetition_penalty)
            row[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._counted:
            counts = np.fromiter(self._counts.values(), dtype=np.float32, count=len(seen))
            row[seen] -= counts * np.float32(self._params.frequency_penalty)
            row[seen] -= np.float32(self._params.presence_penalty)
        row[self._bias_ids] += self._bias
        if constraint is not None:
            constraint.mask(row)
        return row


def uniform(key: int, position: int) -> float:
    """A number in [0, 1) that depends on key and position only (53 random bits)."""
    bits = int(np.random.Philox(key=key, counter=position).random_raw())
    return (bits >> 11) * 2.0**-53


def draw(row: Row, params: SamplingParams, u: float) -> TokenId:
    """The token at quantile `u` of the distribution that `params` makes of `row` (temperature > 0).

    Raises EngineError where the row has no finite maximum.
    """
    best = row.max()
    _require_finite(best)
    scale = params.temperature
    ids = np.flatnonzero(row >= best - np.float32(_NEGLIGIBLE_NATS * scale))
    weights = np.exp((row[ids] - best) / np.float32(scale))
    if params.top_k or params.top_p < 1.0:
        ids, weights = _head(ids, weights, params)
    if params.min_p > 0.0:
        kept = weights >= params.min_p
        ids, weights = ids[kept], weights[kept]
    return int(ids[_at_quantile(weights, u)])


def logprob(row: Row, token: TokenId, alternatives: int) -> TokenLogprob:
    """Log-softmax of a raw row at `token`, and its best `alternatives`, best first."""
    best = row.max()
    total = float(best) + math.log(float(np.exp(row - best).sum(dtype=np.float64)))
    ids = top_ids(row, alternatives)
    top = tuple((int(i), float(row[i]) - total) for i in ids)
    return TokenLogprob(token, float(row[token]) - total, top)


def top_ids(values: NDArray[np.float32], count: int) -> Ids:
    """Indices of the `count` largest values, largest first; of equals the lowest index first."""
    if count == 0:
        return np.empty(0, dtype=np.intp)
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    least = np.partition(values, values.size - count)[values.size - count]
    ids = np.flatnonzero(values >= least)
    return ids[np.argsort(-values[ids], kind="stable")][:count]


def _head(ids: Ids, weights: Row, params: SamplingParams) -> tuple[Ids, Row]:
    """What top_k, then top_p leave, heaviest first."""
    if params.top_k and params.top_k < ids.size:
        order = top_ids(weights, params.top_k)
        ids, weights = ids[order], weights[order]
    if params.top_p >= 1.0:
        return ids, weights
    mass = params.top_p * float(weights.sum(dtype=np.float64))
    size = _FIRST_HEAD
    while True:
        order = top_ids(weights, min(size, ids.size))
        reached = np.cumsum(weights[order], dtype=np.float64)
        if reached[-1] >= mass or order.size == ids.size:
            cut = int(np.searchsorted(reached, mass)) + 1
            return ids[order[:cut]], weights[order[:cut]]
        size *= 8


def _at_quantile(weights: Row, u: float) -> int:
    """Inverse of the cumulative weights, summed in blocks so that only one block is searched."""
    sums = np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK), dtype=np.float64)
    reached = np.cumsum(sums)
    target = u * float(reached[-1])
    block = min(int(np.searchsorted(reached, target, side="right")), sums.size - 1)
    before = float(reached[block - 1]) if block else 0.0
    found = weights[block * _BLOCK : (block + 1) * _BLOCK]
    inside = before + np.cumsum(found, dtype=np.float64)
    place = min(int(np.searchsorted(inside, target, side="right")), inside.size - 1)
    return block * _BLOCK + place


def _require_finite(best: np.float32) -> None:
    if not math.isfinite(best):
        raise EngineError(
            f"the largest logit is {best}: the model's numbers broke down, or nothing may follow"
        )
