"""The worker as a real process: killed in the middle of a batch, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import openai
import psutil

from osslo.jobs.process import WorkerOrder
from osslo.jobs.supervisor import Supervisor
from osslo.settings import FileSettings, JobSettings
from osslo.types import GenerationRequest
from tests.api.batch_stage import SECRET, BatchStage, json_lines, make_batch_stage, request_line
from tests.api.conftest import ANSWER, KEY
from tests.scripted import ByteVocabulary, Gate, Script, serving

TOKENS = ByteVocabulary().tokens(ANSWER)
JOBS = JobSettings(batch_concurrency=1)


def until(reached: Callable[[], bool], within_s: float = 60.0) -> None:
    """Poll another process's doings; there is nothing to wait on."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def order_for(batches: BatchStage, url: str) -> WorkerOrder:
    assert batches.stage.services.files is not None
    return WorkerOrder(
        name="",
        base_url=url,
        secret=SECRET,
        database_url=f"sqlite:///{batches.stage.services.database.url.database}",
        file_folder=str(batches.stage.services.files.incoming().parent.parent),
        files=FileSettings(),
        jobs=JOBS,
        max_line_bytes=100_000,
    )


@contextmanager
def supervised(order: WorkerOrder) -> Iterator[Supervisor]:
    supervisor = Supervisor(order, first_delay_s=0.05)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def test_a_worker_that_is_killed_is_replaced_and_no_line_comes_twice() -> None:
    gate = Gate()
    asked = 0

    def script(_: GenerationRequest) -> Script:
        nonlocal asked
        asked += 1
        return Script((gate, TOKENS) if asked == 4 else (TOKENS,))

    batches = make_batch_stage(script=script, jobs=JOBS)
    names = [f"q{n}" for n in range(8)]
    with serving(batches.stage.app) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=20)
        with client, supervised(order_for(batches, url)) as supervisor:
            content = json_lines([request_line(name) for name in names])
            file = client.files.create(file=("in.jsonl", content), purpose="batch")
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            assert gate.reached.wait(60)
            first = supervisor.pid
            assert first is not None
            during = client.batches.retrieve(batch.id)
            os.kill(first, signal.SIGKILL)
            until(lambda: client.batches.retrieve(batch.id).status == "completed")
            done = client.batches.retrieve(batch.id)
            assert done.output_file_id is not None
            lines = client.files.content(done.output_file_id).text.splitlines()
            second = supervisor.pid
    assert during.request_counts is not None
    assert (during.status, during.request_counts.completed) == ("in_progress", 3)
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (8, 0)
    assert [json.loads(line)["custom_id"] for line in lines] == names
    assert asked == 9
    assert second not in (None, first)
    assert not psutil.pid_exists(second or 0)


def test_a_worker_ends_when_nobody_holds_its_input() -> None:
    batches = make_batch_stage(jobs=JOBS)
    order = order_for(batches, "http://127.0.0.1:9")
    worker = subprocess.Popen([sys.executable, "-m", "osslo.jobs"], stdin=subprocess.PIPE)
    assert worker.stdin is not None
    worker.stdin.write(order.to_line())
    worker.stdin.close()
    assert worker.wait(30) == 0
