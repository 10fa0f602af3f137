"""Attention over a pack: every branch sees its prefix and itself, nothing else.

One function for `transformers`' attention interface, for dense models and for gpt-oss (sinks,
sliding windows). Scores are computed segment by segment, so that a pack costs what its examples
need and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from osslo.tuning.packing import Pack

NAME = "osslo_packed"
"""The `attn_implementation` under which `register` makes it known."""


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """A pack's segments, and for each the mask that its scores are filled with.

    `blocked[window][segment]` is bool `[l, n]`, True where a query may not look: n is the length of
    the prefix and the segment together, `window` None or the number of positions seen.
    """

    spans: tuple[tuple[int, int, tuple[int, int] | None], ...]
    blocked: dict[int | None, tuple[torch.Tensor, ...]]


def layout_of(pack: Pack, windows: frozenset[int | None], device: torch.device) -> PackedLayout:
    """The layout of a pack for layers with these windows."""
    spans = []
    blocked: dict[int | None, list[torch.Tensor]] = {window: [] for window in windows}
    for segment in pack.segments:
        prefix = None if segment.prefix is None else pack.segments[segment.prefix]
        span = None if prefix is None else (prefix.start, prefix.end)
        spans.append((segment.start, segment.end, span))
        length = segment.end - segment.start
        before = 0 if prefix is None else prefix.end - prefix.start
        queries = torch.arange(before, before + length, device=device)[:, None]
        keys = torch.arange(before + length, device=device)[None]
        for window in windows:
            hidden = keys > queries
            if window is not None:
                hidden = hidden | (queries - keys >= window)
            blocked[window].append(hidden)
    return PackedLayout(tuple(spans), {w: tuple(masks) for w, masks in blocked.items()})


def register() -> None:
    """Make `NAME` known to `transformers`."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_given: Any, **_options: Any) -> None:
    """The layout says who sees whom; no mask is made."""


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float,
    *,
    layout: PackedLayout,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **_ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `[1, H, T, D]` queries to `[1, K, T, D]` keys and values: `[1, T, H, D]`.

    Queries and keys are rotated already. `s_aux` are gpt-oss's sinks, one logit a head.
    """
    lengths = [end - start for start, end, _ in layout.spans]
    places = {(start, end): index for index, (start, end, _) in enumerate(layout.spans)}
    # Split, not sliced: the gradient of a slice is a whole row of zeros for every segment.
    # Rotation may have widened queries and keys: products are computed in the values' type.
    queries, keys, values = (
        torch.split(whole[0].to(value.dtype), lengths, dim=1)
        for whole in (query * scaling, key, value)
    )
    parts = []
    for index, ((_, _, prefix), hidden) in enumerate(
        zip(layout.spans, layout.blocked[sliding_window], strict=True)
    ):
        seen_keys, seen_values = keys[index], values[index]
        if prefix is not None:
            before = places[prefix]
            seen_keys = torch.cat([keys[before], seen_keys], dim=1)
            seen_values = torch.cat([values[before], seen_values], dim=1)
        parts.append(_attend(queries[index], seen_keys, seen_values, hidden, s_aux))
    return torch.cat(parts, dim=1).transpose(0, 1)[None], None


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """`[H, l, D]` queries, `[K, n, D]` keys and values, bool `[l, n]`: `[H, l, D]`."""
    heads, length, width = query.shape
    kv_heads, seen, _ = keys.shape
    grouped = query.reshape(kv_heads, heads // kv_heads * length, width)
    scores = torch.bmm(grouped, keys.transpose(1, 2)).view(heads, length, seen)
    scores = scores.masked_fill_(hidden, float("-inf"))
    if sinks is None:
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    else:
        sink = sinks.to(scores.dtype).view(heads, 1, 1).expand(heads, length, 1)
        weights = torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]
    mixed = torch.bmm(weights.to(values.dtype).reshape(kv_heads, -1, seen), values)
    return mixed.view(heads, length, width)
