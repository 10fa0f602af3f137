"""Places for background responses: as many as there are, to owners in turn, none lost."""

from __future__ import annotations

import asyncio
import random

from osslo.api.responses.places import FairPlaces


async def test_one_owners_many_do_not_hold_up_another() -> None:
    places, began = FairPlaces(1), list[str]()

    async def run(owner: str) -> None:
        await places.take(owner)
        began.append(owner)
        await asyncio.sleep(0)
        places.give_back()

    await asyncio.gather(*(run(owner) for owner in "aaaabbc"))
    assert "".join(began) == "aabcaba"


async def test_cancelled_waits_neither_take_nor_lose_a_place() -> None:
    source = random.Random(1)
    places, running, most = FairPlaces(3), 0, 0

    async def run(owner: str) -> None:
        nonlocal running, most
        await places.take(owner)
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(source.random() / 1000)
        finally:
            running -= 1
            places.give_back()

    tasks = [asyncio.create_task(run(source.choice("abc"))) for _ in range(300)]
    for task in source.sample(tasks, 150):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait(tasks)
    assert (running, most) == (0, 3)
    await asyncio.wait_for(asyncio.gather(*(places.take("d") for _ in range(3))), 5)


async def test_a_place_given_to_a_wait_that_is_cancelled_goes_on_to_the_next() -> None:
    places = FairPlaces(1)
    await places.take("a")
    cancelled, next_one = (asyncio.create_task(places.take(owner)) for owner in "bc")
    await asyncio.sleep(0)
    places.give_back()
    cancelled.cancel()
    await asyncio.wait_for(next_one, 5)
    assert cancelled.cancelled()
