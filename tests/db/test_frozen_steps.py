"""A process that stands still in the middle of a step, with PostgreSQL's locks in its hands."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from sqlalchemy import Connection, text

from osslo.db.database import Database
from osslo.db.steps import steps_of
from tests.databases import PostgresServer

FREEZE = """
import asyncio, os, signal, sys
from sqlalchemy import text
from osslo.db.database import Database
from osslo.db.steps import is_transient, steps_of

def freeze(connection):
    connection.execute(text("UPDATE counted SET value = value + 1"))
    os.kill(os.getpid(), signal.SIGSTOP)

async def main():
    steps = steps_of(Database(sys.argv[1]), frozen_s=0.5)
    try:
        await steps.run(freeze)
    except Exception as error:
        print(is_transient(error))

asyncio.run(main())
"""


async def test_others_go_on_and_the_frozen_step_may_be_tried_again(
    postgres: PostgresServer,
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    steps = steps_of(Database(url))

    def make(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE counted (value int)"))
        connection.execute(text("INSERT INTO counted VALUES (0)"))

    def count(connection: Connection) -> int:
        query = text("UPDATE counted SET value = value + 10 RETURNING value")
        return int(connection.execute(query).scalar_one())

    await steps.run(make)
    command = [sys.executable, "-c", FREEZE, url]
    frozen = await asyncio.to_thread(
        lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    )
    try:
        _, status = await asyncio.to_thread(os.waitpid, frozen.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert await asyncio.wait_for(steps.run(count), 30) == 10
        frozen.send_signal(signal.SIGCONT)
        told, _ = await asyncio.to_thread(frozen.communicate)
    finally:
        frozen.kill()
        await steps.close()
    assert told.strip() == "True"
