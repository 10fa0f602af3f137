"""From a row of logits to a token. Float32 rows in, one decision out; nothing depends on the batch.

Order of the edits, each skipped where it is off: repetition penalty (prompt and output), presence
and frequency penalties (output only), logit bias, constraint mask. Then temperature, top_k, top_p
over what top_k left, min_p against the best. Log-probabilities are those of the raw row, before any
edit. Chance comes from Philox, a counter-based generator (Salmon et al., SC'11): the key is the
request's seed, the counter the token's position, so that a draw depends on nothing else.

Rows are long (201,088 tokens), so nothing sorts one: the largest values of its blocks bound the
head, or a histogram the nucleus, and only what stands above or near the bound is sorted. Long
arrays live in a `Scratch` that is used again, because fresh memory of that size costs more (page
faults) than the arithmetic.
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

_FIRST_HEAD = 64  # candidates tried first for top_p
_STEP_BITS = 16  # of a float32, which leave 128 steps to each power of two
_BLOCK = 256  # neighbours summed, or compared, together
_KEY_MASK = (1 << 128) - 1  # Philox's key is 128 bits


class Choice(NamedTuple):
    token: TokenId
    logprob: TokenLogprob | None


class Scratch:
    """Long-lived buffers for rows, made anew when the size changes. One thread's samplers share
    one."""

    def __init__(self) -> None:
        self._edited = np.empty(0, dtype=np.float32)
        self._weights = np.empty(0, dtype=np.float32)

    def copy(self, row: Row) -> Row:
        """A copy of `row` that may be changed; good until the next call."""
        if self._edited.size != row.size:
            self._edited = np.empty_like(row)
        np.copyto(self._edited, row)
        return self._edited

    def weights(self, row: Row, best: np.float32, temperature: float) -> tuple[Row, Row]:
        """exp((row - best) / temperature), and the same sums of blocks; good until the next call.

        The buffer is padded with zeros to whole blocks; the first array leaves the padding out.
        """
        blocks = -(-row.size // _BLOCK)
        if self._weights.size != blocks * _BLOCK:
            self._weights = np.empty(blocks * _BLOCK, dtype=np.float32)
        self._weights[row.size :] = 0.0
        weights = self._weights[: row.size]
        with np.errstate(over="ignore", under="ignore"):  # far below the best: zero
            np.subtract(row, best, out=weights)
            np.divide(weights, np.float32(temperature), out=weights)
            np.exp(weights, out=weights)
        return weights, self._weights.reshape(blocks, _BLOCK).sum(axis=1)


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Raise RequestError naming the first parameter that makes no sense."""
    rules = (
        ("max_tokens", params.max_tokens >= 0, "0 or more"),
        ("temperature", 0 <= params.temperature < math.inf, "0 or more"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        ("top_k", params.top_k >= 0, "0 (off) or more"),
        ("min_p", 0 <= params.min_p <= 1, "between 0 and 1"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "a finite number"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "a finite number"),
        ("repetition_penalty", 0 < params.repetition_penalty < math.inf, "above 0"),
        ("logprobs", _is_count(params.logprobs, vocab_size), "0 or more"),
        ("prompt_logprobs", _is_count(params.prompt_logprobs, vocab_size), "0 or more"),
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


def _is_count(alternatives: int | None, vocab_size: int) -> bool:
    return alternatives is None or 0 <= alternatives < vocab_size


class Sampler:
    """One sequence's way of choosing; remembers what was generated if a penalty asks for it."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: tuple[TokenId, ...],
        seed: int,
        scratch: Scratch | None = None,
    ) -> None:
        self._params = params
        self._key = seed & _KEY_MASK
        self._scratch = scratch or Scratch()
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
            token = draw(edited, self._params, uniform(self._key, position), self._scratch)
        wanted = self._params.logprobs
        if wanted is None:
            return Choice(token, None)
        return Choice(token, logprob(row, token, wanted, self._scratch))

    def prompt_logprob(self, row: Row, token: TokenId) -> TokenLogprob:
        """The log-probability of a token of the prompt, from the logits `[V]` before it."""
        return logprob(row, token, self._params.prompt_logprobs or 0, self._scratch)

    def _edit(self, row: Row, constraint: Constraint | None) -> Row:
        if not (self._repeats or self._counted or self._bias.size or constraint is not None):
            return row
        row = self._scratch.copy(row)
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


def draw(row: Row, params: SamplingParams, u: float, scratch: Scratch) -> TokenId:
    """The token at quantile `u` of the distribution that `params` makes of `row` (temperature > 0).

    Raises EngineError where the row has no finite maximum.
    """
    best = row.max()
    _require_finite(best)
    weights, sums = scratch.weights(row, best, params.temperature)
    if not params.top_k and params.top_p == 1.0 and params.min_p == 0.0:
        return _at_quantile(weights, sums, u)
    ids = _head(weights, float(sums.sum(dtype=np.float64)), params)
    reached = np.cumsum(weights[ids], dtype=np.float64)
    place = int(np.searchsorted(reached, u * float(reached[-1]), side="right"))
    return int(ids[min(place, ids.size - 1)])


def logprob(row: Row, token: TokenId, alternatives: int, scratch: Scratch) -> TokenLogprob:
    """Log-softmax of a raw row at `token`, and its best `alternatives`, best first."""
    best = row.max()
    sums = scratch.weights(row, best, 1.0)[1]
    total = float(best) + math.log(float(sums.sum(dtype=np.float64)))
    top = tuple((int(i), float(row[i]) - total) for i in top_ids(row, alternatives))
    return TokenLogprob(token, float(row[token]) - total, top)


def top_ids(values: Row, count: int) -> Ids:
    """Indices of the `count` largest values, largest first; of equals the lowest index first."""
    return _at_least(values, count)[:count] if count else np.empty(0, dtype=np.intp)


def _at_least(values: Row, count: int) -> Ids:
    """`top_ids` of `count` or more values: none that is left out equals one that is in."""
    if count >= values.size:
        ids = np.arange(values.size)
    else:
        maxima = np.maximum.reduceat(values, np.arange(0, values.size, _BLOCK))
        sizes = maxima if count <= maxima.size else values
        bound = np.partition(sizes, sizes.size - count)[sizes.size - count]
        ids = np.flatnonzero(values >= bound)
    return ids[np.argsort(-values[ids], kind="stable")]


def _head(weights: Row, total: float, params: SamplingParams) -> Ids:
    """The tokens that top_k, then top_p, then min_p leave; their weights are relative to the best.

    `total` is the weight of the whole row.
    """
    if params.top_k:
        ids = top_ids(weights, params.top_k)
        if params.top_p < 1.0:
            ids = _shortest(weights, ids, params.top_p * float(weights[ids].sum(dtype=np.float64)))
    elif params.top_p < 1.0:
        ids = nucleus(weights, params.top_p * total)
    else:
        return np.flatnonzero(weights >= params.min_p)
    return ids[weights[ids] >= params.min_p] if params.min_p else ids


def nucleus(weights: Row, mass: float) -> Ids:
    """The fewest tokens that weigh `mass` together: mostly few, that are found as the head; of flat
    rows most, of which only those near the bound are sorted."""
    head = _at_least(weights, _FIRST_HEAD)
    if head.size == weights.size or float(weights[head].sum(dtype=np.float64)) >= mass:
        return _shortest(weights, head, mass)
    steps = weights.view(np.uint32) >> _STEP_BITS  # order as the weights do, none being negative
    masses = np.bincount(steps, weights)
    reached = np.cumsum(masses[::-1])[::-1]  # of this step and all above
    enough = np.flatnonzero(reached >= mass)
    edge = int(enough[-1]) if enough.size else 0
    above = float(reached[edge + 1]) if edge + 1 < reached.size else 0.0
    near = np.flatnonzero(steps == edge)
    near = near[np.argsort(-weights[near], kind="stable")]
    return np.concatenate([np.flatnonzero(steps > edge), _shortest(weights, near, mass - above)])


def _shortest(weights: Row, ids: Ids, mass: float) -> Ids:
    """The shortest beginning of `ids` that weighs at least `mass`; all if none does."""
    reached = np.cumsum(weights[ids], dtype=np.float64)
    return ids[: int(np.searchsorted(reached, mass)) + 1]


def _at_quantile(weights: Row, sums: Row, u: float) -> TokenId:
    """Inverse of the cumulative weights: first the block by its sum, then the place in it."""
    reached = np.cumsum(sums, dtype=np.float64)
    target = u * float(reached[-1])
    block = int(np.searchsorted(reached, target, side="right"))
    before = float(reached[block - 1]) if block else 0.0
    inside = before + np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    place = int(np.searchsorted(inside, target, side="right"))
    if place < inside.size:
        return block * _BLOCK + place
    # The target lies in what rounding added to a sum: the last token before it that has weight.
    return int(np.flatnonzero(weights[: (block + 1) * _BLOCK])[-1])


def _require_finite(best: np.float32) -> None:
    if not math.isfinite(best):
        raise EngineError(
            f"the largest logit is {best}: the model's numbers broke down, or nothing may follow"
        )
