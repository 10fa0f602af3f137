"""`osslo prices …`: what models cost, without a running server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from osslo.accounts.ledger.money import show_usd
from osslo.accounts.records import COMMAND_LINE, Price
from osslo.accounts.service import Accounts
from osslo.api.accounts import replies
from osslo.cli.accounts import (
    ConfigOption,
    JsonOption,
    discount_bp,
    moment_text,
    per_token_nanousd,
    with_accounts,
)
from osslo.cli.output import Output

_HELP = """Show and set what models cost.

Example:

    osslo prices set gpt-oss-20b --input 0.10 --output 0.40 --discount 20
"""
group = typer.Typer(no_args_is_help=True, help=_HELP)

_MILLION = 1_000_000
_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
ModelArgument = Annotated[
    str,
    typer.Argument(help="A model; * is all without a price of their own.", show_default=False),
]


@group.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Past and planned ones too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show prices in US dollars a million tokens, after the discount.

    Example:

        osslo prices list --all
    """

    async def work(accounts: Accounts) -> list[Price]:
        prices = accounts.prices
        return list(await (prices.every() if every else prices.current()))

    found = with_accounts(config, work)
    output = Output()
    if as_json:
        output.json([replies.price(price) for price in found])
        return
    output.table(
        ("model", "input", "cached input", "output", "discount", "from (UTC)", "to"),
        [_row(price) for price in found],
    )


@group.command("set")
def set_(
    model: ModelArgument,
    *,
    input_price: Annotated[
        str, typer.Option("--input", help="US dollars a million tokens, before the discount.")
    ],
    output_price: Annotated[str, typer.Option("--output", help="The same for output.")],
    cached_price: Annotated[
        str | None, typer.Option("--cached", help="The same for cached input; else as input.")
    ] = None,
    discount: Annotated[str, typer.Option(help="Percent off.")] = "0",
    begins: Annotated[
        datetime | None, typer.Option("--from", formats=_DATES, help="UTC; now when not given.")
    ] = None,
    ends: Annotated[
        datetime | None, typer.Option("--to", formats=_DATES, help="UTC; open when not given.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set a model's price. What held until then ends.

    Examples:

        osslo prices set gpt-oss-20b --input 0.10 --cached 0.05 --output 0.40 --discount 20

        osslo prices set gpt-oss-20b --input 0.12 --output 0.45 --from 2027-01-01
    """
    price = with_accounts(
        config,
        lambda accounts: accounts.prices.set(
            COMMAND_LINE,
            model,
            input_list_nanousd=per_token_nanousd(input_price, "input"),
            cached_input_list_nanousd=(
                None if cached_price is None else per_token_nanousd(cached_price, "cached")
            ),
            output_list_nanousd=per_token_nanousd(output_price, "output"),
            discount_bp=discount_bp(discount),
            valid_from=_utc(begins),
            valid_to=_utc(ends),
        ),
    )
    output = Output()
    if as_json:
        output.json(replies.price(price))
        return
    output.text(
        f"{price.model}: input {_dollars(price.input_nanousd)}, cached input "
        f"{_dollars(price.cached_input_nanousd)}, output {_dollars(price.output_nanousd)} "
        f"a million tokens from {moment_text(price.valid_from)} UTC"
    )


@group.command("end")
def end(model: ModelArgument, *, config: ConfigOption = None) -> None:
    """End a model's price; the price of * then holds.

    Example:

        osslo prices end gpt-oss-20b
    """
    with_accounts(config, lambda accounts: accounts.prices.end(COMMAND_LINE, model))
    Output().text(f"{model} has no price of its own any more")


def _row(price: Price) -> tuple[str, ...]:
    return (
        price.model,
        _dollars(price.input_nanousd),
        _dollars(price.cached_input_nanousd),
        _dollars(price.output_nanousd),
        f"{price.discount_bp / 100:g}%",
        moment_text(price.valid_from),
        moment_text(price.valid_to),
    )


def _dollars(nanousd: int) -> str:
    """Nano-dollars a token as US dollars a million."""
    return show_usd(nanousd * _MILLION)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
