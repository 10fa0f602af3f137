"""The console's drawings and figures."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from osslo.console.charts import BarChart, Series, nice_ceiling, top_series
from osslo.console.templating import money, per_million, short_number


def chart(*series: Series, labels: tuple[str, ...] = ("Mon", "Tue")) -> BarChart:
    return BarChart("Tokens a day", labels, series, short_number)


def test_bars_stack_to_the_total() -> None:
    drawn = chart(Series("a", (1.0, 2.0)), Series("b", (3.0, 0.0)))
    root = ET.fromstring(str(drawn.svg))
    bars = [node.attrib for node in root.iter() if node.tag.endswith("rect")]
    assert len(bars) == 3  # a bar of nothing is not drawn
    monday = [b for b in bars if b["x"] == bars[0]["x"]]
    lower, upper = sorted(monday, key=lambda b: -float(b["y"]))
    assert float(upper["y"]) + float(upper["height"]) == pytest.approx(float(lower["y"]), abs=0.11)
    assert float(upper["height"]) == pytest.approx(3 * float(lower["height"]), rel=0.01)


def test_names_cannot_become_markup() -> None:
    drawn = chart(Series("<script>alert(1)</script>", (1.0, 1.0)), labels=('"><b>', "x"))
    assert "<script>" not in drawn.svg
    assert "<b>" not in drawn.svg
    ET.fromstring(str(drawn.svg))


def test_has_no_inline_style() -> None:
    assert not re.search(r"style\s*=|<style|<script", chart(Series("a", (5.0, 6.0))).svg)


def test_says_when_there_is_nothing() -> None:
    assert chart(Series("a", (0.0, 0.0))).is_empty
    assert not chart(Series("a", (0.0, 1.0))).is_empty
    assert "<svg" in chart(labels=()).svg


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (3, 3.2), (4.5, 6), (7, 8), (1234, 1600)]
)
def test_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert nice_ceiling(value) == top


def test_what_is_beyond_the_palette_is_added_up() -> None:
    shown = top_series({str(n): (float(n),) for n in range(1, 9)})
    assert [series.name for series in shown] == ["8", "7", "6", "5", "others"]
    assert shown[-1].values == (1.0 + 2 + 3 + 4,)


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (0, "$0.00"),
        (1_500_000_000, "$1.50"),
        (80, "$0.000000"),
        (25_600, "$0.000026"),
        (-2_000_000_000, "−$2.00"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)
def test_money(nanousd: int, text: str) -> None:
    assert money(nanousd) == text


@pytest.mark.parametrize(
    ("nano", "text"), [(80, "$0.08"), (320, "$0.32"), (1250, "$1.25"), (12, "$0.012")]
)
def test_prices_for_a_million(nano: int, text: str) -> None:
    assert per_million(nano) == text
