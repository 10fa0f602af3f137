"""Fault injection in small: real servers killed under load, and an auditor that finds wrongs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.faults.audit import Books, Row, audit
from bench.faults.blackbox import Witnessed, read_box

ROOT = Path(__file__).parent.parent.parent
COST = 60 * 80 + 40 * 40 + 10 * 320
SEEN = {"r": Witnessed(100, 50, handed_tokens=10, cached_tokens=40, counted_tokens=10)}


def test_servers_killed_under_load_leave_an_exact_ledger(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "bench.faults", "--database", "sqlite", "--out", str(out)]
    command += ["--requests", "300", "--kills", "6", "--kills-in-each-phase", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["kills"]["value"] >= 6
    assert rows["least_live_streams_at_a_kill"]["value"] >= 8
    assert rows["crashed_requests"]["value"] >= 8
    assert rows["overcharges"]["samples"] >= 200


def entry(kind: str, amount: int, balance: int, request: str | None = None) -> Any:
    return SimpleNamespace(
        user_id="ann",
        kind=kind,
        amount_nanousd=amount,
        balance_nanousd=balance,
        request_id=request,
    )


def usage(**changes: object) -> Any:
    counts = {"prompt_tokens": 100, "cached_tokens": 40, "completion_tokens": 10}
    row = {"request_id": "r", "user_id": "ann", "status": "completed", "cost_nanousd": COST}
    return SimpleNamespace(**(row | counts | changes))


RIGHT = Books(
    balances={"ann": 100_000 - COST},
    entries=(
        entry("topup", 100_000, 100_000),
        entry("reserve", -24_000, 76_000, "r"),
        entry("end", 24_000 - COST, 100_000 - COST, "r"),
    ),
    usage=(usage(),),
    daily={"ann": COST},
    reservations=0,
)


def found(books: Books, seen: dict[str, Witnessed] = SEEN, **told: object) -> set[str]:
    answer = {"id": "r", "end": "whole", "completion_tokens": 10} | told
    rows: list[Row] = audit(books, seen, [answer], 64)
    return {row.name for row in rows if not row.is_met}


def test_right_books_pass() -> None:
    assert found(RIGHT) == set()


@pytest.mark.parametrize(
    ("books", "seen", "wrong"),
    [
        (replace(RIGHT, balances={"ann": 1}), SEEN, {"balance_differences"}),
        (replace(RIGHT, daily={}), SEEN, {"balance_differences"}),
        (replace(RIGHT, reservations=1), SEEN, {"reservations_left"}),
        (replace(RIGHT, usage=(usage(), usage())), SEEN, {"double_charges", "balance_differences"}),
        (
            replace(RIGHT, entries=(*RIGHT.entries, entry("end", -COST, 100_000 - 2 * COST, "r"))),
            SEEN,
            {"double_charges", "balance_differences", "overcharges"},
        ),
        (
            replace(RIGHT, entries=(entry("adjustment", -5, -5), *RIGHT.entries)),
            SEEN,
            {"negative_balances", "balance_differences"},
        ),
        (RIGHT, {"r": replace(SEEN["r"], handed_tokens=9)}, {"overcharges"}),
        (RIGHT, {"r": replace(SEEN["r"], cached_tokens=41)}, {"overcharges"}),
        (RIGHT, {}, {"overcharges"}),
        (RIGHT, {"r": replace(SEEN["r"], handed_tokens=74)}, set()),
        (RIGHT, {"r": replace(SEEN["r"], handed_tokens=75)}, {"largest_undercharge_tokens"}),
        (RIGHT, SEEN | {"s": Witnessed(9, 99, 65)}, {"largest_undercharge_tokens"}),
        (replace(RIGHT, usage=(usage(cached_tokens=41),)), SEEN, {"price_differences"}),
    ],
)
def test_each_wrong_is_found(books: Books, seen: dict[str, Witnessed], wrong: set[str]) -> None:
    assert found(books, seen) == wrong


def test_a_client_that_was_told_another_count_is_found() -> None:
    assert found(RIGHT, completion_tokens=11) == {"usage_differences"}
    crashed = replace(RIGHT, usage=(usage(status="crashed"),))
    assert found(crashed, completion_tokens=11) == set()
    assert found(crashed, completion_tokens=9) == {"usage_differences"}


def test_a_black_box_is_read_up_to_the_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.box"
    path.write_text("up http://x:1\na r 100 50\np r 40\nt r 1\n> 3\n<\n> 4\nt r 2\na s 7 5\nt s 1")
    box = read_box(path)
    assert box.requests["r"] == Witnessed(100, 50, 2, 40)
    assert (box.live, box.open_kinds, box.url) == (1, 4, "http://x:1")
