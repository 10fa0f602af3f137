"""Headers in plain words: found wherever the text is cut, and never at the cost of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.harmony.leaks import LeakScanner, leaked_opening
from osslo.harmony.messages import Channel

PIECES = st.lists(
    st.sampled_from(
        ["assistant", "final", "commentary", " to=functions.", "f", "a", ".", " ", "\n", "'", "é"]
    ),
    max_size=12,
)


def scan(pieces: list[str]) -> tuple[str, str | None]:
    scanner, shown = LeakScanner(), ""
    for number, piece in enumerate(pieces):
        text, rest = scanner.feed(piece)
        shown += text
        if rest is not None:
            return shown, rest + "".join(pieces[number + 1 :])
    return shown + scanner.finish(), None


@given(PIECES)
def test_the_cuts_do_not_matter_and_nothing_is_lost(pieces: list[str]) -> None:
    whole = "".join(pieces)
    found = scan([whole])
    assert scan(pieces) == scan(list(whole)) == found
    assert found[0] + (found[1] or "") == whole


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("So 4.assistantfinal4", "So 4."),
        ("So 4\nassistantfinal\n4", "So 4\n"),
        ("assistantfinal4", None),  # nothing stands before: the parser's opening rule decides
        ("the assistantfinal4", None),
        ("'assistantfinal'", None),
        ("x assistant finally", None),
        ("Go.assistant to=functions.f", "Go."),
        ("Go.assistantcommentaryLet", "Go."),
    ],
)
def test_only_glued_headers_count(text: str, shown: str | None) -> None:
    assert scan([text]) == ((text, None) if shown is None else (shown, text.removeprefix(shown)))


@pytest.mark.parametrize(
    ("raw", "opening"),
    [
        (b"analysisWe need", (Channel.ANALYSIS, b"We need")),
        (b"assistantfinal42", (Channel.FINAL, b"42")),
        ("final日本".encode(), (Channel.FINAL, "日本".encode())),
        (b"commentaryI will", (Channel.COMMENTARY, b"I will")),
        (b"analysis of", None),
        (b"finally", None),
        (b"final: 4", None),
        (b"Analysis", None),
    ],
)
def test_openings(raw: bytes, opening: tuple[Channel, bytes] | None) -> None:
    assert leaked_opening(raw) == opening
