"""BFCL's rules as our checker applies them, and that a run goes on where it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.bfcl import Answer, Case, pick, read, run, summary
from bench.bfcl_checker import Accepted, Declared, Fault, fault_of
from bench.stand_in_eval import Spoken
from osslo.harmony.messages import Channel, Message, Role

TRIP = Declared(
    "trip",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "price": {"type": "number"},
            "stops": {"type": "array"},
            "room": {"type": "object"},
            "pets": {"type": "boolean"},
        },
        "required": ["city"],
    },
)
WANTED: Accepted = {
    "trip": {
        "city": ["New York, NY", "NYC"],
        "days": [3, ""],
        "price": [10.0, ""],
        "stops": [["a", "b"], ""],
        "room": [{"beds": [1, 2], "view": ["sea", ""]}, ""],
        "pets": [False, ""],
    }
}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"city": "NYC"}, None),
        ({"city": "new york ny", "days": 3}, None),
        ({"city": "NYC", "price": 10}, None),
        ({"city": "NYC", "days": 3.0}, Fault.TYPE),
        ({"city": "NYC", "days": "3"}, Fault.TYPE),
        ({"city": "NYC", "days": True}, Fault.TYPE),
        ({"city": "NYC", "days": 4}, Fault.VALUE),
        ({"city": "Oslo"}, Fault.VALUE),
        ({"days": 3}, Fault.MISSING),
        ({"city": "NYC", "ship": "x"}, Fault.UNKNOWN),
        ({"city": "NYC", "stops": ["A", "b"]}, None),
        ({"city": "NYC", "stops": ["b", "a"]}, Fault.VALUE),
        ({"city": "NYC", "room": {"beds": 2}}, None),
        ({"city": "NYC", "room": {"view": "sea"}}, Fault.VALUE),
        ({"city": "NYC", "room": {"beds": 2, "x": 1}}, Fault.VALUE),
        ({"city": "NYC", "pets": 0}, Fault.TYPE),
        (None, Fault.NO_JSON),
    ],
)
def test_arguments(arguments: Any, fault: Fault | None) -> None:
    assert fault_of([TRIP], [WANTED], [("trip", arguments)]) is fault


def test_which_and_how_many_calls() -> None:
    good = ("trip", {"city": "NYC"})
    assert fault_of([TRIP], [WANTED], []) is Fault.COUNT
    assert fault_of([TRIP], [WANTED], [good, good]) is Fault.COUNT
    assert fault_of([TRIP], [WANTED], [("tour", {"city": "NYC"})]) is Fault.NAME
    assert fault_of([TRIP], [], [good]) is Fault.CALLED
    assert fault_of([TRIP], [], []) is None


def test_several_calls_come_in_any_order() -> None:
    two: list[Accepted] = [{"trip": {"city": ["Oslo"]}}, {"trip": {"city": ["Rome"]}}]
    calls = [("trip", {"city": "Rome"}), ("trip", {"city": "Oslo"})]
    assert fault_of([TRIP], two, calls) is None
    assert fault_of([TRIP], two, [calls[0], calls[0]]) is not None


class Parrot:
    """Says the same to every question, and counts them."""

    def __init__(self) -> None:
        self.asked = 0

    def say(self, conversation: object, grammar: object = None) -> Spoken:
        self.asked += 1
        call = Message(
            Role.ASSISTANT,
            '{"city":"NYC"}',
            channel=Channel.COMMENTARY,
            recipient="functions.trip",
        )
        return Spoken((call,), wellformed=True, analysis_tokens=0)


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    cases = [Case(str(n), "simple", "?", (TRIP,), ("",), (WANTED,)) for n in range(4)]
    kept, parrot = tmp_path / "kept.jsonl", Parrot()
    run(parrot, cases[:3], kept, grammar=False)  # type: ignore[arg-type]  # it only says
    answers = run(parrot, cases, kept, grammar=True)  # type: ignore[arg-type]  # as above
    assert parrot.asked == 4
    assert read(kept).keys() == answers.keys() == {"0", "1", "2", "3"}
    assert summary(answers, "grammar")[0]["value"] == 1.0


def test_what_was_wrong_is_counted() -> None:
    answers = {
        "1": Answer("1", "simple", None, []),
        "2": Answer("2", "simple", Fault.NAME.value, []),
        "3": Answer("3", "simple", "refused: too long", []),
    }
    (row,) = summary(answers, "free")
    assert row["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert row["faults"] == {Fault.NAME.value: 1, "refused": 1}


def test_more_questions_later_hold_those_of_now() -> None:
    cases = [Case(str(n), "simple", "?", (TRIP,), ("",), (WANTED,)) for n in range(30)]
    assert pick(cases, 5) == pick(cases, 9)[:5]
