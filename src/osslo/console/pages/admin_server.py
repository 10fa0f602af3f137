"""Administration of the server: load, models, prices, settings."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import Depends
from starlette.datastructures import FormData
from starlette.responses import JSONResponse, Response

from osslo.accounts.records import Options, RateLimits, SignUp
from osslo.chat.models import ServedModel
from osslo.console.pages.keys import dollars_of, whole_of
from osslo.console.routing import page_router
from osslo.console.visit import Visit, admin, go, text_of
from osslo.errors import OssloError, RequestError

router = page_router()
Admin = Annotated[Visit, Depends(admin)]


# --- load -----------------------------------------------------------------------------------------


@router.get("/console/admin/system")
async def system_page(here: Admin) -> Response:
    """What the engine does."""
    return here.page("admin/system.html", models=_loads(here))


@router.get("/console/admin/system.json")
async def system_json(here: Admin) -> Response:
    """The same for the page's script."""
    return JSONResponse({"models": _loads(here)}, headers={"cache-control": "no-store"})


def _loads(here: Visit) -> list[dict[str, Any]]:
    return [_load(model) for model in here.services.registry]


def _load(model: ServedModel) -> dict[str, Any]:
    load = model.backend.stats()
    stats = asdict(load)
    stats.pop("extra")
    return {
        "id": model.id,
        "note": model.note,
        "ready": model.backend.ready,
        "stats": stats,
        "hit_percent": _percent(load.prefix_hits_tokens, load.prompt_tokens),
    }


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


# --- prices ---------------------------------------------------------------------------------------


@router.get("/console/admin/prices")
async def prices_page(here: Admin) -> Response:
    """Every price, past and to come."""
    return await _prices(here)


@router.post("/console/admin/prices")
async def set_price(here: Admin) -> Response:
    """Set a price from a day on."""
    form = await here.form()
    try:
        await here.accounts.prices.set(
            here.actor,
            text_of(form, "model"),
            input_list_nanousd=_per_token(form, "input", "Input"),
            cached_input_list_nanousd=_per_token(form, "cached", "Cached input"),
            output_list_nanousd=_per_token(form, "output", "Output"),
            discount_bp=_basis_points(text_of(form, "discount")),
            valid_from=_day(text_of(form, "from")),
        )
    except OssloError as error:
        return await _prices(here, error=error)
    return go("/console/admin/prices", done="price")


async def _prices(here: Visit, *, error: OssloError | None = None) -> Response:
    return here.page(
        "admin/prices.html",
        status=error.status if error else 200,
        prices=await here.accounts.prices.every(),
        error=error.message if error else None,
    )


def _per_token(form: FormData, name: str, what: str) -> int:
    """Dollars a million tokens as nano-dollars a token, exactly."""
    text = text_of(form, name)
    try:
        nanousd = Decimal(text) * 1000
    except InvalidOperation:
        raise RequestError(f"{what} must be dollars a million tokens, such as 0.10.") from None
    if not nanousd.is_finite() or nanousd != nanousd.to_integral_value():
        raise RequestError(f"{what} can have three decimal places at most.")
    return int(nanousd)


def _basis_points(text: str) -> int:
    try:
        points = Decimal(text or "0") * 100
    except InvalidOperation:
        raise RequestError("The discount must be a number of percent.") from None
    if not points.is_finite() or points != points.to_integral_value():
        raise RequestError("The discount can have two decimal places at most.")
    return int(points)


def _day(text: str) -> datetime | None:
    if not text:
        return None
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise RequestError("The day must be a date, such as 2027-01-31.") from None
    return datetime.combine(day, time(), UTC)


# --- settings -------------------------------------------------------------------------------------


@router.get("/console/admin/settings")
async def settings_page(here: Admin) -> Response:
    """What can be changed while the server runs, and what was set at its start."""
    return await _settings(here)


@router.post("/console/admin/settings")
async def change_settings(here: Admin) -> Response:
    """Change the options. Only owners may."""
    form = await here.form()
    try:
        options = Options(
            sign_up=SignUp(text_of(form, "sign_up")),
            prices_public=text_of(form, "prices_public") == "yes",
            welcome_credit_nanousd=dollars_of(text_of(form, "welcome"), "The credit") or 0,
            default_limits=RateLimits(
                whole_of(text_of(form, "requests"), "Requests a minute"),
                whole_of(text_of(form, "tokens"), "Tokens a minute"),
            ),
        )
        await here.accounts.options.change(here.actor, options)
    except OssloError as error:
        return await _settings(here, error=error)
    return go("/console/admin/settings", done="saved")


async def _settings(here: Visit, *, error: OssloError | None = None) -> Response:
    return here.page(
        "admin/settings.html",
        status=error.status if error else 200,
        options=await here.accounts.options.get(),
        fixed=here.console.fixed_settings,
        error=error.message if error else None,
    )
