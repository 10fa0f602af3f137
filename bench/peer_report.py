"""What `bench/peers.py` reports: one record a row, what each is to reach, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

BYTES_PER_TOKEN_GB = 2.57
"""What decoding one token of gpt-oss-20b reads: 4 of 32 experts, attention and head."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds of a row: of the ratio to the peer, or of Osslo's own number (`own`)."""

    at_least: float | None = None
    at_most: float | None = None
    own: bool = False

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


GOALS: Mapping[str, Goal] = MappingProxyType(
    {
        "prefill_128": Goal(at_least=2.0),
        "prefill_512": Goal(at_least=2.5),
        "prefill_2048": Goal(at_least=2.5),
        "decode_0": Goal(at_least=1.15),
        "bandwidth_share": Goal(at_least=0.90, own=True),
        "decode_4096": Goal(at_least=1.4),
        "decode_16384": Goal(at_least=1.4),
        "decode_32768": Goal(at_least=1.4),
        "streams_8": Goal(at_least=2.0),
        "streams_8_decode": Goal(at_least=2.0),
        "rss_gib": Goal(at_most=12.6, own=True),
        "warm_start_s": Goal(at_most=1.0, own=True),
        "prefix_ttft_share": Goal(at_most=0.05, own=True),
        "prefix_disk_ttft_share": Goal(at_most=0.15, own=True),
        "standin_decode": Goal(at_least=1.2),
        "standin_prefill": Goal(at_least=2.0),
        "python_share": Goal(at_most=0.01, own=True),
        "standin_python_share": Goal(at_most=0.05, own=True),
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: medians of the raw samples. `ratio` is above 1 where Osslo is better; without a
    peer, `peer` and `ratio` are None. `met` is None for a row that has no goal."""

    name: str
    osslo: float
    peer: float | None
    ratio: float | None
    at_least: float | None
    at_most: float | None
    met: bool | None
    raw: Mapping[str, Sequence[float]]


def judge(name: str, osslo: Sequence[float], peer: Sequence[float] = ()) -> Row:
    """The row of these samples. Names in _s and _gib are better where they are small."""
    mine = statistics.median(osslo)
    theirs = statistics.median(peer) if peer else None
    ratio = None
    if theirs is not None:
        ratio = theirs / mine if name.endswith(("_s", "_gib")) else mine / theirs
    goal = GOALS.get(name, Goal())
    judged = mine if goal.own else ratio
    has_goal = name in GOALS and judged is not None
    return Row(
        name,
        mine,
        theirs,
        ratio,
        goal.at_least,
        goal.at_most,
        goal.met(judged) if has_goal and judged is not None else None,
        {"osslo": list(osslo), "peer": list(peer)},
    )


def bandwidth_share(decode: Sequence[float], read_gb_s: float) -> Row:
    """The part of the run's read bandwidth that decoding at depth 0, tokens a second, uses."""
    return judge("bandwidth_share", [rate * BYTES_PER_TOKEN_GB / read_gb_s for rate in decode])


def records(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as JSON has them, numbers to four digits."""

    def short(value: object) -> object:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return [{key: short(value) for key, value in asdict(entry).items()} for entry in rows]


def lines(rows: Sequence[Row]) -> list[str]:
    """The table, for people."""
    shown = [f"{'row':22} {'osslo':>9} {'llama.cpp':>9} {'ratio':>7} {'goal':>8}  met"]
    for entry in rows:
        goal = ""
        if entry.at_least is not None:
            goal = f">= {entry.at_least:g}"
        if entry.at_most is not None:
            goal = f"<= {entry.at_most:g}"
        numbers = (
            f"{entry.osslo:9.3f}",
            " " * 9 if entry.peer is None else f"{entry.peer:9.3f}",
            " " * 7 if entry.ratio is None else f"{entry.ratio:7.2f}",
        )
        met = {True: "yes", False: "NO", None: ""}[entry.met]
        shown.append(f"{entry.name:22} {' '.join(numbers)} {goal:>8}  {met}")
    return shown
