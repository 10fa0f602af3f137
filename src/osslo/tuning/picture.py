"""The loss curve as an SVG: small, readable in light and dark, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 40
_TICKS = 5

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps steps and losses to places in the picture."""

    last: int
    low: float
    high: float

    def x(self, step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, self.last)

    def y(self, loss: float) -> float:
        share = (loss - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def loss_curve(training: Points, validation: Points) -> str:
    """The picture of losses by step: a line for training, one with dots for validation."""
    losses = [loss for _, loss in (*training, *validation)]
    low, high = min(losses, default=0.0), max(losses, default=1.0)
    frame = _Frame(
        max((step for step, _ in training), default=1), min(low, 0.0), max(high, low + 1e-9)
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *_grid(frame),
        _line(frame, training, "#2b6cb0"),
        _line(frame, validation, "#c05621"),
        *(
            f'<circle cx="{frame.x(s):.1f}" cy="{frame.y(v):.1f}" r="3" fill="#c05621"/>'
            for s, v in validation
        ),
        f'<text x="{_LEFT}" y="18" fill="#2b6cb0">training loss</text>',
        f'<text x="{_LEFT + 110}" y="18" fill="#c05621">validation loss</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end" fill="#444">step</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(frame: _Frame) -> list[str]:
    parts = []
    step = _round_step((frame.high - frame.low) / _TICKS)
    for index in range(math.ceil(frame.low / step), math.floor(frame.high / step) + 1):
        y = frame.y(index * step)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">'
            f"{index * step:g}</text>"
        )
    across = max(1, round(_round_step(frame.last / _TICKS)))
    for tick in range(0, frame.last + 1, across):
        parts.append(
            f'<text x="{frame.x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle" '
            f'fill="#444">{tick}</text>'
        )
    return parts


def _round_step(wanted: float) -> float:
    """1, 2 or 5 times a power of ten, near `wanted`."""
    power = 10.0 ** math.floor(math.log10(max(wanted, 1e-12)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * 0.999)


def _line(frame: _Frame, points: Points, colour: str) -> str:
    places = " ".join(f"{frame.x(step):.1f},{frame.y(loss):.1f}" for step, loss in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
