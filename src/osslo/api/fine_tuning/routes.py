"""The routes of `/v1/fine_tuning/jobs`. They check and take down what is wanted; the worker trains
in a process of its own, and torch is never imported here."""

from __future__ import annotations

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from osslo.api.auth import Caller, WithCaller
from osslo.api.body import read_json
from osslo.api.files.routes import files_of
from osslo.api.fine_tuning.schema import (
    FineTuningCreateRequest,
    FineTuningReply,
    Hyperparameters,
    TuningCheckpointReply,
    TuningEventReply,
)
from osslo.api.openai_replies import page_fields
from osslo.api.openapi import operation
from osslo.api.query import PageQuery, read_query
from osslo.api.services import Services, WithServices
from osslo.api.shapes import Page
from osslo.errors import DependencyMissingError, NotFoundError, RequestError, UnsupportedError
from osslo.harmony.training import check_training_lines
from osslo.model.extras import require_torch
from osslo.store.fine_tuning import FineTuning, FineTuningStore, NewFineTuning, TuningEvent

router = APIRouter(tags=["fine-tuning"])

_ERRORS = (400, 401, 404, 429, 500)
_MOST_PROBLEMS = 10
_PATH = "/v1/fine_tuning/jobs"
_EXAMPLE = {
    "model": "gpt-oss-20b",
    "training_file": "file-0123456789abcdef01234567",
    "suffix": "support",
}


def jobs_of(services: Services) -> FineTuningStore:
    """The server's jobs. Raises `UnsupportedError` where it keeps no files."""
    return FineTuningStore(files_of(services))


@router.post(
    _PATH,
    summary="Create a fine-tuning job",
    openapi_extra=operation(
        body=FineTuningCreateRequest,
        reply=FineTuningReply,
        errors=(*_ERRORS, 413, 503),
        description="The job, to be polled.",
        example=_EXAMPLE,
    ),
)
async def create_fine_tuning_job(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Teach a model the conversations of a file: the result is an adapter, `MODEL:NAME`."""
    services.lifecycle.check()
    body = await read_json(
        request, FineTuningCreateRequest, limit_bytes=services.limits.max_body_bytes
    )
    _check_installed()
    model = services.registry.get(body.model).id
    if model not in services.tunable:
        raise UnsupportedError(
            f"The model {model!r} cannot be fine-tuned here: the server needs its checkpoint (a "
            "packed file is not enough), and its worker.",
            param="model",
        )
    store = jobs_of(services)
    chosen = _hyperparameters(body)
    for param in ("training_file", "validation_file"):
        file_id: str | None = getattr(body, param)
        if file_id is not None:
            await _check_file(store, caller, file_id, param)
    job = await store.create(
        NewFineTuning(
            tenant=caller.tenant,
            model=model,
            adapter=_adapter_name(body.suffix),
            training_file=body.training_file,
            validation_file=body.validation_file,
            epochs=None if chosen.n_epochs in (None, "auto") else int(chosen.n_epochs),
            rate_factor=_number(chosen.learning_rate_multiplier),
            seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
            metadata=body.metadata,
        ),
        most_active=services.jobs.tuning_max_active,
    )
    return JSONResponse(job_fields(job))


@router.get(
    _PATH,
    summary="List fine-tuning jobs",
    openapi_extra=operation(
        query=PageQuery,
        reply=Page[FineTuningReply],
        errors=_ERRORS,
        description="A page of your jobs, the newest first.",
    ),
)
async def list_fine_tuning_jobs(
    request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """Your fine-tuning jobs."""
    query = read_query(request, PageQuery)
    page = await jobs_of(services).page(caller.tenant, after=query.after, limit=query.limit)
    items = [job_fields(job) for job in page.items]
    return JSONResponse(page_fields(items, has_more=page.has_more))


@router.get(
    _PATH + "/{job_id}",
    summary="One fine-tuning job",
    openapi_extra=operation(reply=FineTuningReply, errors=_ERRORS, description="How far it is."),
)
async def get_fine_tuning_job(job_id: str, services: WithServices, caller: WithCaller) -> Response:
    """A job as it is now."""
    return JSONResponse(job_fields(await jobs_of(services).get(caller.tenant, job_id)))


@router.post(
    _PATH + "/{job_id}/cancel",
    summary="Cancel a fine-tuning job",
    openapi_extra=operation(
        reply=FineTuningReply, errors=(*_ERRORS, 409), description="The job, ended."
    ),
)
async def cancel_fine_tuning_job(
    job_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """End a job for good; what it learned is thrown away."""
    return JSONResponse(job_fields(await jobs_of(services).cancel(caller.tenant, job_id)))


@router.post(
    _PATH + "/{job_id}/pause",
    summary="Pause a fine-tuning job",
    openapi_extra=operation(
        reply=FineTuningReply, errors=(*_ERRORS, 409), description="The job, paused."
    ),
)
async def pause_fine_tuning_job(
    job_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """Stop a job until it is resumed, saved as far as it is."""
    return JSONResponse(job_fields(await jobs_of(services).pause(caller.tenant, job_id)))


@router.post(
    _PATH + "/{job_id}/resume",
    summary="Resume a fine-tuning job",
    openapi_extra=operation(
        reply=FineTuningReply, errors=(*_ERRORS, 409), description="The job, queued again."
    ),
)
async def resume_fine_tuning_job(
    job_id: str, services: WithServices, caller: WithCaller
) -> Response:
    """Let a paused job go on where it was."""
    return JSONResponse(job_fields(await jobs_of(services).resume(caller.tenant, job_id)))


@router.get(
    _PATH + "/{job_id}/events",
    summary="A fine-tuning job's events",
    openapi_extra=operation(
        query=PageQuery,
        reply=Page[TuningEventReply],
        errors=_ERRORS,
        description="A page of what happened, the newest first.",
    ),
)
async def list_fine_tuning_events(
    job_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """What happened, with the losses of every step."""
    query = read_query(request, PageQuery)
    page = await jobs_of(services).events(
        caller.tenant, job_id, after=query.after, limit=query.limit
    )
    items = [_event_fields(event) for event in page.items]
    return JSONResponse(page_fields(items, has_more=page.has_more))


@router.get(
    _PATH + "/{job_id}/checkpoints",
    summary="A fine-tuning job's checkpoints",
    openapi_extra=operation(
        query=PageQuery,
        reply=Page[TuningCheckpointReply],
        errors=_ERRORS,
        description="The result, once the job has succeeded.",
    ),
)
async def list_fine_tuning_checkpoints(
    job_id: str, request: Request, services: WithServices, caller: WithCaller
) -> Response:
    """The one checkpoint that is kept: the parameters of the best validation."""
    read_query(request, PageQuery)
    job = await jobs_of(services).get(caller.tenant, job_id)
    return JSONResponse(page_fields(_checkpoints(job), has_more=False))


# --- checks ---------------------------------------------------------------------------------------


def _check_installed() -> None:
    try:
        require_torch()
    except DependencyMissingError as error:
        raise UnsupportedError(
            f"This server cannot fine-tune: {error.message}", code="fine_tuning_not_installed"
        ) from None


async def _check_file(store: FineTuningStore, caller: Caller, file_id: str, param: str) -> None:
    """Raises `NotFoundError`, or `RequestError` that names the lines at fault."""
    try:
        file = await store.files.get(caller.tenant, file_id)
    except NotFoundError as error:
        raise NotFoundError(error.message, param=param, code=error.code) from None
    if file.purpose != "fine-tune":
        raise RequestError(
            f"The file {file_id} is of purpose {file.purpose!r}; upload it with purpose "
            "'fine-tune'.",
            param=param,
            code="invalid_purpose",
        )
    problems = await asyncio.to_thread(_problems, store.files.path(file))
    if problems:
        raise RequestError(
            f"The file {file_id} cannot be trained on: " + "; ".join(problems),
            param=param,
            code="invalid_training_file",
        )


def _problems(path: Path) -> list[str]:
    with path.open("r", encoding="utf-8") as file:
        try:
            problems, right = check_training_lines(enumerate(file, 1), most=_MOST_PROBLEMS)
        except UnicodeDecodeError as error:
            return [f"it is not UTF-8 ({error.reason})"]
    return problems if problems or right else ["there is no example in it"]


def _hyperparameters(body: FineTuningCreateRequest) -> Hyperparameters:
    method = body.method.supervised if body.method is not None else None
    named = method.hyperparameters if method is not None else None
    if named is not None and body.hyperparameters is not None:
        raise RequestError(
            "'hyperparameters' and 'method' both say how to train; send 'method' alone.",
            param="hyperparameters",
        )
    return named or body.hyperparameters or Hyperparameters.model_validate({})


def _adapter_name(suffix: str | None) -> str:
    """A name for the result: the suffix in the letters that adapters' names have, made unique."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", (suffix or "ft").lower()).strip("-._") or "ft"
    return f"{plain}-{secrets.token_hex(3)}"


def _number(value: str | float | None) -> float | None:
    return None if value is None or isinstance(value, str) else float(value)


# --- replies --------------------------------------------------------------------------------------


def job_fields(job: FineTuning) -> dict[str, Any]:
    """A job as OpenAI's clients read it."""
    hyperparameters = {
        "n_epochs": job.epochs or "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": job.rate_factor or "auto",
    }
    succeeded = job.status == "succeeded"
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at.timestamp()),
        "finished_at": None if job.finished_at is None else int(job.finished_at.timestamp()),
        "estimated_finish": None
        if job.estimated_finish is None
        else int(job.estimated_finish.timestamp()),
        "model": job.model,
        "fine_tuned_model": _result_name(job) if succeeded else None,
        "organization_id": "osslo",
        "status": job.status,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": job.seed,
        "trained_tokens": job.trained_tokens if job.ended else None,
        "result_files": list(job.result_files),
        "error": None if job.error is None else dict(job.error),
        "integrations": [],
        "metadata": None if job.labels is None else dict(job.labels),
    }


def _result_name(job: FineTuning) -> str:
    return f"{job.model}:{job.adapter}"


def _event_fields(event: TuningEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.created_at.timestamp()),
        "level": event.level,
        "type": "message" if event.data is None else "metrics",
        "message": event.message,
        "data": None if event.data is None else dict(event.data),
    }


def _checkpoints(job: FineTuning) -> list[dict[str, Any]]:
    if job.status != "succeeded" or job.metrics is None or job.finished_at is None:
        return []
    return [
        {
            "id": "ftckpt-" + job.id.removeprefix("ftjob-"),
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(job.finished_at.timestamp()),
            "fine_tuned_model_checkpoint": _result_name(job),
            "fine_tuning_job_id": job.id,
            "metrics": {"step": job.metrics["step"], "valid_loss": job.metrics["valid_loss"]},
            "step_number": job.metrics["step"],
        }
    ]
