"""Prices in whole nano-dollars, with dates."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.accounts.prices import price_for
from osslo.accounts.records import COMMAND_LINE, Price, Role
from osslo.accounts.service import Accounts
from osslo.errors import NotFoundError, PermissionDeniedError, RequestError
from tests.accounts.conftest import Clock, actor, make_user

MILLION = 1_000_000
NANO = 1_000_000_000


async def test_what_is_shipped(accounts: Accounts) -> None:
    price = await accounts.prices.of("gpt-oss-20b")
    assert price is not None
    assert price.input_list_nanousd * MILLION == NANO // 10
    assert price.output_list_nanousd * MILLION == 4 * NANO // 10
    assert (price.input_nanousd, price.cached_input_nanousd, price.output_nanousd) == (80, 40, 320)
    cost = price.cost_nanousd(
        prompt_tokens=MILLION, cached_tokens=MILLION // 2, completion_tokens=MILLION
    )
    assert cost == (40 + 20 + 320) * MILLION
    other = await accounts.prices.of("something-else")
    assert other is not None
    assert other.model == "*"


async def test_a_new_price_ends_the_old_one(accounts: Accounts, clock: Clock) -> None:
    before = clock.now()
    clock.advance(days=1)
    new = await accounts.prices.set(
        COMMAND_LINE,
        "gpt-oss-20b",
        input_list_nanousd=75,
        output_list_nanousd=300,
        discount_bp=1500,
    )
    assert (new.input_nanousd, new.output_nanousd) == (63, 255)  # rounded down: 63.75
    assert new.cached_input_list_nanousd == 75
    assert await accounts.prices.of("gpt-oss-20b") == new
    old = [p for p in await accounts.prices.every() if p.id == "price_gpt_oss_20b"]
    assert old[0].valid_to == clock.now()
    assert old[0].valid_from < before


async def test_prices_can_be_planned_and_ended(accounts: Accounts, clock: Clock) -> None:
    start = clock.now() + timedelta(days=1)
    planned = await accounts.prices.set(
        COMMAND_LINE,
        "m",
        input_list_nanousd=1,
        output_list_nanousd=2,
        valid_from=start,
        valid_to=start + timedelta(days=1),
    )
    for_any = await accounts.prices.of("m")
    assert for_any is not None
    assert for_any.model == "*"
    clock.advance(days=1)
    assert await accounts.prices.of("alias", "m") == planned
    clock.advance(days=1)
    assert await accounts.prices.of("m") == for_any
    with pytest.raises(NotFoundError):
        await accounts.prices.end(COMMAND_LINE, "m")
    await accounts.prices.end(COMMAND_LINE, "*")
    assert await accounts.prices.of("m") is None


async def test_replacing_a_plan_leaves_no_overlap(sqlite: Accounts, clock: Clock) -> None:
    for days in (5, 3, 1):
        await sqlite.prices.set(
            COMMAND_LINE,
            "m",
            input_list_nanousd=days,
            output_list_nanousd=days,
            valid_from=clock.now() + timedelta(days=days),
        )
    assert [p.input_list_nanousd for p in await sqlite.prices.every() if p.model == "m"] == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_list_nanousd": -1},
        {"output_list_nanousd": 10**9 + 1},
        {"discount_bp": 10_001},
        {"cached_input_list_nanousd": 11},
        {"model": ""},
    ],
)
async def test_numbers_out_of_range_are_refused(sqlite: Accounts, wrong: dict[str, object]) -> None:
    given_ = {"model": "m", "input_list_nanousd": 10, "output_list_nanousd": 10} | wrong
    with pytest.raises(RequestError):
        await sqlite.prices.set(COMMAND_LINE, **given_)  # type: ignore[arg-type]  # wrong on purpose


async def test_times_that_cannot_be_are_refused(sqlite: Accounts, clock: Clock) -> None:
    for times in (
        {"valid_from": clock.now() - timedelta(hours=1)},
        {"valid_to": clock.now() - timedelta(hours=1)},
    ):
        with pytest.raises(RequestError):
            await sqlite.prices.set(
                COMMAND_LINE, "m", input_list_nanousd=1, output_list_nanousd=1, **times
            )


async def test_members_set_no_prices(sqlite: Accounts) -> None:
    member = actor(await make_user(sqlite))
    with pytest.raises(PermissionDeniedError):
        await sqlite.prices.set(member, "m", input_list_nanousd=0, output_list_nanousd=0)
    with pytest.raises(PermissionDeniedError):
        await sqlite.prices.end(member, "gpt-oss-20b")
    admin = actor(await make_user(sqlite, "adm", Role.ADMIN))
    await sqlite.prices.set(admin, "m", input_list_nanousd=0, output_list_nanousd=0)


@given(
    listed=st.integers(0, 10**9),
    discount=st.integers(0, 10_000),
    prompt=st.integers(0, 1 << 20),
    share=st.integers(0, 100),
    completion=st.integers(0, 1 << 20),
)
def test_costs_are_whole_and_never_above_the_list(
    listed: int, discount: int, prompt: int, share: int, completion: int
) -> None:
    cached = prompt * share // 100
    moment = Clock().now()
    price = Price("p", "m", listed, listed // 2, listed, discount, moment, None)
    cost = price.cost_nanousd(
        prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion
    )
    assert isinstance(cost, int)
    assert 0 <= cost <= listed * (prompt + completion)
    more = price.cost_nanousd(prompt_tokens=prompt, cached_tokens=0, completion_tokens=completion)
    assert cost <= more


def test_no_price_is_none() -> None:
    assert price_for((), "m") is None


def test_an_adapter_costs_what_its_base_does_unless_it_has_a_price() -> None:
    moment = Clock().now()
    base, own, any_ = (
        Price(model, model, 1, 1, 1, 0, moment, None) for model in ("m:f", "m:f:one", "*")
    )
    assert price_for((base, own, any_), "m:f:one") is own
    assert price_for((base, any_), "m:f:two") is base
    assert price_for((base, any_), "alias:two", "m:f:two") is base
    assert price_for((any_,), "m:f:two") is any_
