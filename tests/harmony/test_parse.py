"""Well-formed streams read as OpenAI's parser reads them; any stream at all is read."""

from __future__ import annotations

from collections import Counter

import openai_harmony as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osslo.harmony.events import (
    Anomaly,
    ContentDelta,
    EndReason,
    HarmonyEvent,
    Malformed,
    MessageEnded,
    MessageStarted,
)
from osslo.harmony.messages import Channel, Message, Role
from osslo.harmony.parse import StreamParser, collect_messages, parse_messages
from osslo.harmony.render import Renderer
from osslo.model.tokenizer import Tokenizer
from tests.harmony.strategies import texts
from tests.harmony.wire import Wire


def run(
    vocabulary: Tokenizer, ids: list[int], recipients: tuple[str, ...] = ()
) -> list[HarmonyEvent]:
    parser = StreamParser(vocabulary, recipients=recipients)
    events = [event for token in ids for event in parser.feed(token)]
    return events + parser.finish()


TURN = (
    "<|channel|>analysis<|message|>Think 🤔.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>Looking.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    '{"a":1}<|call|>'
)


def test_a_turn_as_events(wire: Wire, vocabulary: Tokenizer) -> None:
    events = run(vocabulary, wire(TURN))
    kinds = [event for event in events if not isinstance(event, ContentDelta)]
    assert kinds == [
        MessageStarted(Channel.ANALYSIS),
        MessageEnded(EndReason.END),
        MessageStarted(Channel.COMMENTARY),
        MessageEnded(EndReason.END),
        MessageStarted(Channel.COMMENTARY, "functions.f", "json"),
        MessageEnded(EndReason.CALL),
    ]
    texts_seen = [message.content for message in collect_messages(events)]
    assert texts_seen == ["Think 🤔.", "Looking.", '{"a":1}']


def test_a_header_is_reported_when_it_is_complete(wire: Wire, vocabulary: Tokenizer) -> None:
    parser = StreamParser(vocabulary)
    for token in wire("<|channel|>final"):
        assert parser.feed(token) == []
        assert parser.message is None
    assert parser.feed(vocabulary.special("<|message|>")) == [MessageStarted(Channel.FINAL)]
    assert parser.message == MessageStarted(Channel.FINAL)


def test_a_split_emoji_comes_whole(wire: Wire, vocabulary: Tokenizer) -> None:
    family = "👩‍👩‍👧"
    parser = StreamParser(vocabulary)
    ids = wire(f"<|channel|>final<|message|>{family}")
    deltas = [e.text for t in ids for e in parser.feed(t) if isinstance(e, ContentDelta)]
    assert "".join(deltas) == family
    assert not any("�" in delta for delta in deltas)
    assert len(vocabulary.encode(family)) > len(deltas)


def test_a_character_cut_in_two_is_replaced(wire: Wire, vocabulary: Tokenizer) -> None:
    ids = wire("<|channel|>final<|message|>a👩")
    assert parse_messages(vocabulary, ids[:-1])[0].content == "a�"


def test_an_unfinished_character_does_not_leak(wire: Wire, vocabulary: Tokenizer) -> None:
    ids = wire("<|channel|>analysis<|message|>a👩")[:-1]
    ids += wire("<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>")
    assert [m.content for m in parse_messages(vocabulary, ids)] == ["a�", "b"]


def test_finish_is_idempotent_and_marks_a_cut(wire: Wire, vocabulary: Tokenizer) -> None:
    parser = StreamParser(vocabulary)
    for token in wire("<|channel|>final<|message|>Hal"):
        parser.feed(token)
    assert parser.finish() == [MessageEnded(EndReason.CUT)]
    assert parser.finish() == []


def test_an_empty_stream_says_nothing(vocabulary: Tokenizer) -> None:
    assert run(vocabulary, []) == []


# --- against openai-harmony -----------------------------------------------------------------------

contents = st.one_of(texts, st.sampled_from(["", '{"a": [1, 2]}', "# Title\n\n- x\n"]))
answers = st.one_of(
    st.builds(Message, st.just(Role.ASSISTANT), contents, channel=st.sampled_from(Channel)),
    st.builds(
        Message,
        st.just(Role.ASSISTANT),
        contents,
        channel=st.sampled_from([Channel.ANALYSIS, Channel.COMMENTARY]),
        recipient=st.sampled_from(["functions.get_weather", "python", "browser.open", "a-b.c"]),
        content_type=st.sampled_from(["json", None]),
    ),
)


def reference_messages(encoding: oh.HarmonyEncoding, ids: list[int]) -> list[Message]:
    parsed = encoding.parse_messages_from_completion_tokens(ids, oh.Role.ASSISTANT)
    return [
        Message(
            Role.ASSISTANT,
            "".join(getattr(part, "text", "") for part in message.content),
            channel=Channel(message.channel) if message.channel else None,
            recipient=message.recipient,
            content_type=(message.content_type or "").removeprefix("<|constrain|>") or None,
        )
        for message in parsed
    ]


@settings(max_examples=150, deadline=None)
@given(messages=st.lists(answers, min_size=1, max_size=4))
def test_what_we_render_is_read_back_as_openai_reads_it(
    renderer: Renderer,
    vocabulary: Tokenizer,
    openai_encoding: oh.HarmonyEncoding,
    messages: list[Message],
) -> None:
    opening = len(renderer.render_messages([Message(Role.ASSISTANT, "")])) - 2
    ids = renderer.render_messages(messages)[opening:]
    ours = parse_messages(vocabulary, ids)
    assert ours == messages
    assert ours == reference_messages(openai_encoding, ids)


HEADERS = [
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.f<|constrain|>json<|message|>",
    "<|channel|>commentary to=functions.f<|message|>",
    " to=functions.f<|channel|>commentary <|constrain|>json<|message|>",
    " to=functions.f<|channel|>commentary<|constrain|>json<|message|>",
    " to=functions.f<|channel|>commentary json<|message|>",
    " to=python<|channel|>analysis code<|message|>",
    "<|channel|>analysis to=browser.search code<|message|>",
    "<|channel|>commentary <|message|>",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("end", ["<|call|>", "<|end|>", "<|return|>", ""])
def test_every_usual_header_reads_as_openais(
    header: str,
    end: str,
    wire: Wire,
    vocabulary: Tokenizer,
    openai_encoding: oh.HarmonyEncoding,
) -> None:
    ids = wire(f'{header}{{"a":"æ"}}{end}')
    events = run(vocabulary, ids)
    assert collect_messages(events) == reference_messages(openai_encoding, ids)
    assert not any(isinstance(event, Malformed) for event in events)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_content_deltas_equal_openais(
    vocabulary: Tokenizer, wire: Wire, openai_encoding: oh.HarmonyEncoding, data: st.DataObject
) -> None:
    tokens = data.draw(st.lists(st.integers(0, 199_000), max_size=12))
    theirs = oh.StreamableParser(openai_encoding, oh.Role.ASSISTANT)
    ours = StreamParser(vocabulary)
    for token in wire("<|channel|>final<|message|>") + tokens:
        theirs.process(token)
        deltas = [e.text for e in ours.feed(token) if isinstance(e, ContentDelta)]
        if "�" in "".join(deltas) or "�" in (theirs.last_content_delta or ""):
            return  # both replace broken bytes, but may report them at another token
        assert "".join(deltas) == (theirs.last_content_delta or "")


# --- any stream -----------------------------------------------------------------------------------

MARKERS = [
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",
]  # fmt: skip
WORDS = [
    "assistant", "analysis", "commentary", "final", " to=", "to", "=", "functions", ".f", " json",
    "json", "user", " ", "\n", "code", "python", ":x",
]  # fmt: skip
TEXT = ["{", "}", '"', "0", "1", "42", "東", "京", "世界", " 7", "999", "δ", "é"]


@pytest.fixture(scope="session")
def pieces(wire: Wire) -> dict[int, str]:
    """Tokens that are likely to confuse a parser."""
    return {ids[0]: word for word in MARKERS + WORDS + TEXT if len(ids := wire(word)) == 1}


def all_text(events: list[HarmonyEvent]) -> str:
    """Every text that the events carry, wherever they carry it."""
    out = ""
    for event in events:
        match event:
            case MessageStarted(_, recipient, content_type):
                out += (recipient or "") + (content_type or "")
            case ContentDelta(text) | Malformed(_, text):
                out += text
            case MessageEnded():
                pass
    return out


def assert_sound(events: list[HarmonyEvent]) -> None:
    """Messages open and close in turn, deltas are whole and inside, text has a channel."""
    is_open = False
    for event in events:
        match event:
            case MessageStarted(channel, recipient):
                assert not is_open
                assert channel is not None or recipient is not None
                is_open = True
            case ContentDelta(text):
                assert is_open
                assert text
            case MessageEnded():
                assert is_open
                is_open = False
            case Malformed():
                pass
    assert not is_open


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_any_stream_of_confusing_tokens_is_read_and_loses_no_text(
    vocabulary: Tokenizer, pieces: dict[int, str], data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.sampled_from(sorted(pieces)), max_size=25))
    known = data.draw(st.sampled_from([(), ("functions.f", "python")]))
    events = run(vocabulary, ids, known)
    assert_sound(events)
    wanted = Counter("".join(pieces[token] for token in ids if pieces[token] in TEXT))
    del wanted[" "]
    kept = Counter(all_text(events))
    assert wanted <= kept, (wanted - kept, "".join(pieces[token] for token in ids))
    assert collect_messages(events) == parse_messages(vocabulary, ids, recipients=known)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.one_of(st.integers(199_990, 200_020), st.integers(-3, 300_000)), max_size=30)
)
def test_any_token_sequence_is_read(vocabulary: Tokenizer, ids: list[int]) -> None:
    events = run(vocabulary, ids)
    assert_sound(events)
    assert collect_messages(events) == parse_messages(vocabulary, ids)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 60))
def test_a_stream_cut_anywhere_keeps_what_came(vocabulary: Tokenizer, wire: Wire, cut: int) -> None:
    ids = wire(TURN)
    whole = parse_messages(vocabulary, ids)
    events = run(vocabulary, ids[:cut])
    assert_sound(events)
    for part, full in zip(collect_messages(events), whole, strict=False):
        assert full.content.startswith(part.content.rstrip("�"))
        assert (part.channel, part.recipient) == (full.channel, full.recipient)


def test_a_long_header_does_not_hold_text_back(wire: Wire, vocabulary: Tokenizer) -> None:
    parser = StreamParser(vocabulary)
    story = "and then there was another word " * 40
    ids = wire(f"<|channel|>final {story}")
    events = [event for token in ids for event in parser.feed(token)]
    assert Malformed(Anomaly.MISSING_MESSAGE) in events
    assert len(collect_messages([*events, *parser.finish()])[0].content) == len(story) + 1
