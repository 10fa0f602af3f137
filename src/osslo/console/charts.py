"""Bar charts as SVG without inline style, so that they live under the console's policy.

The libraries that draw SVG on PyPI put style attributes, style sheets or scripts into it, which a
Content-Security-Policy without `unsafe-inline` blocks. What the console needs is one stacked bar
chart: this one. Colours come from classes; a table beside it says the same in words. The axis is
at the right, beside the newest days: on a phone the oldest are scrolled out of sight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 540, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 2, 68, 10, 26
_TICKS = 4
_LABELS = 6
MAX_SERIES = 5
_ROUND = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of bar: a name and a value for each place of the chart."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars, stacked on each other or side by side. `labels` name the places along the axis."""

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    text: Callable[[float], str]
    stacked: bool = True

    @property
    def is_empty(self) -> bool:
        return not any(value for series in self.series for value in series.values)

    @property
    def svg(self) -> Markup:
        """The drawing. Titles of single bars show on hovering."""
        top = nice_ceiling(max(self._totals(), default=0.0))
        parts = [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(self.title)}">',
            *self._axis(top),
            *self._bars(top),
            *self._places(),
            "</svg>",
        ]
        return Markup("".join(parts))  # noqa: S704 - every text in it is escaped above and below

    def _totals(self) -> list[float]:
        whole = sum if self.stacked else max
        return [whole(values) for values in zip(*(s.values for s in self.series), strict=True)]

    def _axis(self, top: float) -> list[str]:
        texts = [self.text(top * tick / _TICKS) for tick in range(_TICKS + 1)]
        parts = []
        for tick, text in enumerate(texts):
            y = _y(top * tick / _TICKS, top)
            told = 0 < tick < _TICKS and text in (texts[0], texts[-1], texts[tick - 1])
            label = "" if told else escape(text)  # one request has no quarters
            parts.append(
                f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{WIDTH - _RIGHT + 6}" y="{y + 4:.1f}">{label}</text>'
            )
        return parts

    def _bars(self, top: float) -> list[str]:
        step = (WIDTH - _LEFT - _RIGHT) / max(1, len(self.labels))
        width = max(1.0, min(36.0, step * 0.7))
        parts = []
        for place, label in enumerate(self.labels):
            below = 0.0
            left = _LEFT + step * place + (step - width) / 2
            for index, series in enumerate(self.series):
                value = series.values[place]
                if value <= 0:
                    continue
                beside = 0 if self.stacked else index
                each = width if self.stacked else width / len(self.series)
                y = _y(below + value, top)
                tall = _y(below, top) - y
                words = escape(f"{label}, {series.name}: {self.text(value)}")
                parts.append(
                    f'<rect class="series-{index % MAX_SERIES}" x="{left + each * beside:.1f}" '
                    f'y="{y:.1f}" width="{each:.1f}" height="{tall:.1f}" rx="1.5">'
                    f"<title>{words}</title></rect>"
                )
                below += value if self.stacked else 0
        return parts

    def _places(self) -> list[str]:
        step = (WIDTH - _LEFT - _RIGHT) / max(1, len(self.labels))
        every = math.ceil(len(self.labels) / _LABELS) or 1
        return [
            f'<text x="{_LEFT + step * (place + 0.5):.1f}" y="{HEIGHT - 6}" '
            f'text-anchor="middle">{escape(label)}</text>'
            for place, label in enumerate(self.labels)
            if place % every == 0
        ]


def nice_ceiling(value: float) -> float:
    """The smallest round number not below `value` whose quarters are round too."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in _ROUND if m * power >= value * (1 - 1e-9))


def top_series(by_name: Mapping[str, Sequence[float]]) -> tuple[Series, ...]:
    """The largest series; what is beyond `MAX_SERIES` is added up under one name."""
    ordered = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    kept = [Series(name, tuple(values)) for name, values in ordered[: MAX_SERIES - 1]]
    rest = ordered[MAX_SERIES - 1 :]
    if len(rest) == 1:
        kept.append(Series(rest[0][0], tuple(rest[0][1])))
    elif rest:
        kept.append(
            Series("others", tuple(sum(v) for v in zip(*(r[1] for r in rest), strict=True)))
        )
    return tuple(kept)


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top
