"""Every malformed form seen in the wild, and the call or text that must be recovered from it.

The corpus is data so that the API's own tests can replay it over every protocol.
"""

from __future__ import annotations

import pytest

from osslo.harmony.events import Anomaly, EndReason, Malformed, MessageEnded
from osslo.harmony.messages import Channel, Message, Role
from osslo.harmony.parse import StreamParser, collect_messages
from osslo.model.tokenizer import Tokenizer
from tests.harmony.malformed import CORPUS, KNOWN, Form
from tests.harmony.test_parse import run
from tests.harmony.wire import Wire


@pytest.mark.parametrize("form", CORPUS, ids=lambda form: form.name)
def test_is_recovered(form: Form, wire: Wire, vocabulary: Tokenizer) -> None:
    events = run(vocabulary, wire(form.stream), KNOWN if form.known else ())
    found = [
        (m.recipient or (m.channel and m.channel.value), m.content)
        for m in collect_messages(events)
    ]
    assert found == list(form.recovered)
    kinds = {event.kind for event in events if isinstance(event, Malformed)}
    assert kinds == set(form.anomalies)


def test_every_anomaly_has_a_form() -> None:
    assert {kind for form in CORPUS for kind in form.anomalies} == set(Anomaly) - {
        Anomaly.UNKNOWN_TOKEN
    }


def test_names_of_forms_are_unique() -> None:
    assert len({form.name for form in CORPUS}) == len(CORPUS)


def test_a_call_may_end_like_an_answer(wire: Wire, vocabulary: Tokenizer) -> None:
    events = run(vocabulary, wire("<|channel|>commentary to=functions.f<|message|>{}<|return|>"))
    assert events[-1] == MessageEnded(EndReason.RETURN)
    assert collect_messages(events) == [
        Message(Role.ASSISTANT, "{}", channel=Channel.COMMENTARY, recipient="functions.f")
    ]


def test_a_token_without_a_name_is_counted(vocabulary: Tokenizer) -> None:
    for token in (-1, 300_000):
        assert StreamParser(vocabulary).feed(token) == [Malformed(Anomaly.UNKNOWN_TOKEN)]


def test_words_set_aside_are_kept_for_the_log(wire: Wire, vocabulary: Tokenizer) -> None:
    events = run(vocabulary, wire("<|channel|>final some odd words<|message|>Hi<|return|>"))
    assert Malformed(Anomaly.HEADER_JUNK, "odd words") in events
