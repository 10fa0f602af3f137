"""The playground and the API tester: pages whose scripts call the server's own API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.responses import Response

from osslo.console.routing import page_router
from osslo.console.templating import per_million
from osslo.console.visit import SignInNeeded, Visit, visit

router = page_router()
Anybody = Annotated[Visit, Depends(visit)]

_STARTERS = (
    "Why is the sky blue?",
    "Write a haiku about patience",
    "Explain what a mixture of experts is",
)


@router.get("/console/playground")
async def playground(here: Anybody) -> Response:
    """Talk to a model. Without accounts the page asks for the server's key."""
    await _check_open(here)
    return here.page(
        "playground.html",
        models=[{"id": name} for name in _names(here)],
        starters=_STARTERS,
        price=await _price(here),
    )


@router.get("/console/tester")
async def tester(here: Anybody) -> Response:
    """Call any endpoint."""
    await _check_open(here)
    return here.page("tester.html")


async def _check_open(here: Visit) -> None:
    """Strangers may use these pages only while nobody has an account; they need the key then."""
    if here.viewer.user is None and await here.accounts.users.any_exist():
        raise SignInNeeded


def _names(here: Visit) -> list[str]:
    """The names a person is to choose from: aliases first, for they are what programs use."""
    names = list(here.services.registry.names())
    ids = {model.id for model in here.services.registry}
    return sorted(names, key=lambda name: name in ids)


async def _price(here: Visit) -> dict[str, Any] | None:
    if here.viewer.user is None:
        return None
    model = next(iter(here.services.registry))
    price = await here.accounts.prices.of(model.id, *model.aliases)
    if price is None:
        return None
    return {
        "input_nanousd": price.input_nanousd,
        "cached_nanousd": price.cached_input_nanousd,
        "output_nanousd": price.output_nanousd,
        "text": (
            f"{per_million(price.input_nanousd)} in, {per_million(price.output_nanousd)} out "
            "a million tokens."
        ),
    }
