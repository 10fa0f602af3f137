"""`python -m osslo.tuning`: one run, ordered by a line of JSON on standard input.

The worker starts it for a fine-tuning job. It tells what it does on standard output, one JSON
object a line, and when its input closes it saves after the step that runs and ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from osslo.errors import OssloError
from osslo.tuning.dataset import DataOptions
from osslo.tuning.events import EventLines
from osslo.tuning.plan import TuneOptions, make_plan
from osslo.tuning.run import execute

_SAMPLES = 2


def options_of(order: dict[str, Any]) -> TuneOptions:
    """The run that `order` describes."""
    validation = order["validation"]
    return TuneOptions(
        model=Path(order["model"]),
        base=order["base"],
        data=(Path(order["data"]),),
        validation=() if validation is None else (Path(validation),),
        folder=Path(order["folder"]),
        out=Path(order["out"]),
        reading=DataOptions(date=order["date"], seed=order["seed"]),
        epochs=order["epochs"],
        rate=order["rate"],
        seed=order["seed"],
        samples=_SAMPLES,
    )


def main() -> None:
    """Read the order, train, tell."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    stop = threading.Event()
    threading.Thread(target=_watch_input, args=(stop,), daemon=True).start()
    events = EventLines(partial(_tell, stop))
    try:
        plan = make_plan(options_of(json.loads(line)))
        events.plan(plan)
        events.result(execute(plan, events, stop=stop.is_set))
    except OssloError as error:
        failed = {"code": error.code, "message": error.message, "param": error.param}
        _tell(stop, json.dumps({"event": "failed", **failed}))


def _tell(stop: threading.Event, line: str) -> None:
    """Tell the worker; one that died takes nothing, and then the run is to be saved."""
    try:
        os.write(1, line.encode() + b"\n")
    except BrokenPipeError:
        stop.set()


def _watch_input(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


main()
