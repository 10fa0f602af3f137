"""Logs and request ids."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from osslo.telemetry import REQUEST_ID, accept_request_id, configure_logging


@pytest.fixture
def loggers() -> Iterator[None]:
    """Gives the loggers back as they were."""
    known = [logging.getLogger(name) for name in ("osslo", "uvicorn", "uvicorn.error")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in known]
    yield
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def emit(style: str) -> str:
    stream = io.StringIO()
    configure_logging("info", style, stream)
    token = REQUEST_ID.set("req_1")
    logging.getLogger("osslo.test").info("hello", extra={"status": 200})
    logging.getLogger("osslo.test").debug("hidden")
    REQUEST_ID.reset(token)
    return stream.getvalue()


def test_a_json_line_holds_the_extras_and_the_request_id(loggers: None) -> None:
    line = json.loads(emit("json"))
    assert (line["message"], line["status"], line["request_id"]) == ("hello", 200, "req_1")
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


def test_a_text_line_holds_them_too(loggers: None) -> None:
    text = emit("text")
    assert "[req_1] hello status=200" in text
    assert text.count("\n") == 1


def test_an_exception_is_within_the_line(loggers: None) -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("osslo.test").exception("failed")
    assert "ValueError: oops" in json.loads(stream.getvalue())["exception"]


@pytest.mark.parametrize("presented", [None, "", "a b", "x" * 129, "line\nbreak", "ünïcode"])
def test_strange_request_ids_are_replaced(presented: str | None) -> None:
    made = accept_request_id(presented)
    assert made.startswith("req_")
    assert made != accept_request_id(presented)
