"""Stop strings: never shown, never missed, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.engine.stop_strings import StopMatcher


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        emitted, hit = matcher.feed(piece)
        shown += emitted
        if hit:
            break
    return shown + matcher.finish(), matcher.hit


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "hit"),
    [
        ([], ["a", "b"], "ab", None),
        ([""], ["a", "b"], "ab", None),
        (["STOP"], ["go ST", "OP on"], "go ", "STOP"),
        (["STOP"], ["go ST", "AY"], "go STAY", None),
        (["STOP"], ["S", "ST", "STOP"], "SST", "STOP"),
        (["aab"], ["a", "a", "a", "b"], "a", "aab"),
        (["\n\n"], ["one\n", "two\n", "\nthree"], "one\ntwo", "\n\n"),
        (["ab", "b"], ["ab"], "", "ab"),
        (["abc", "b"], ["abc"], "a", "b"),
        (["x"], ["end"], "end", None),
    ],
)
def test_cases(stops: list[str], pieces: list[str], shown: str, hit: str | None) -> None:
    assert run(stops, pieces) == (shown, hit)


def test_text_is_shown_as_soon_as_it_is_safe() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("abcE") == ("abc", False)
    assert matcher.feed("N") == ("", False)
    assert matcher.feed("x") == ("ENx", False)
    assert matcher.feed("END") == ("", True)
    assert matcher.feed("more") == ("", True)


words = st.text(alphabet="ab", max_size=12)


@given(
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(words, max_size=6),
)
def test_cuts_do_not_matter_and_stops_never_show(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    shown, hit = run(stops, pieces)
    assert (shown, hit) == run(stops, list(text))
    assert (shown, hit) == run(stops, [text])
    assert not any(stop in shown for stop in stops)
    assert (hit is None) == (not any(stop in text for stop in stops))
    assert text.startswith(shown + (hit or ""))
