"""Shapes of `/v1/fine_tuning`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from osslo.api.body import StrictSchema
from osslo.api.shapes import Metadata, Reply

Auto = Literal["auto"]
Epochs = Annotated[int, Field(ge=1, le=50)]
Factor = Annotated[float, Field(gt=0, le=100)]
Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]


class Hyperparameters(StrictSchema):
    """`auto` leaves the choice to the server. How much a step learns from is always the server's
    choice."""

    n_epochs: Auto | Epochs | None = None
    learning_rate_multiplier: Auto | Factor | None = Field(
        None, description="Of the server's own rate, 5e-4."
    )
    batch_size: Auto | None = None


class Supervised(StrictSchema):
    hyperparameters: Hyperparameters | None = None


class TuningMethod(StrictSchema):
    """Supervised fine-tuning is the one method there is: a LoRA adapter."""

    type: Literal["supervised"]
    supervised: Supervised | None = None


class FineTuningCreateRequest(StrictSchema):
    """A fine-tuning job to run."""

    model: str = Field(max_length=256, description="A model of this server.")
    training_file: str = Field(max_length=64, description="A file of purpose `fine-tune`.")
    validation_file: str | None = Field(None, max_length=64)
    suffix: str | None = Field(
        None, min_length=1, max_length=48, description="Becomes a part of the adapter's name."
    )
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    hyperparameters: Hyperparameters | None = Field(
        None, description="The old place; `method` is the new one."
    )
    method: TuningMethod | None = None
    metadata: Metadata | None = None
    integrations: list[Any] | None = Field(None, max_length=0)


class HyperparametersReply(Reply):
    n_epochs: Auto | int
    batch_size: Auto
    learning_rate_multiplier: Auto | float


class SupervisedReply(Reply):
    hyperparameters: HyperparametersReply


class TuningMethodReply(Reply):
    type: Literal["supervised"]
    supervised: SupervisedReply


class TuningErrorReply(Reply):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningReply(Reply):
    """A job as it is now. `paused` is ours."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    training_file: str
    validation_file: str | None
    hyperparameters: HyperparametersReply
    method: TuningMethodReply
    seed: int
    trained_tokens: int | None
    result_files: list[str]
    error: TuningErrorReply | None
    integrations: list[Any]
    metadata: dict[str, str] | None


class TuningEventReply(Reply):
    """What happened to a job; `data` are a step's metrics."""

    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] | None


class CheckpointMetricsReply(Reply):
    step: int
    valid_loss: float | None


class TuningCheckpointReply(Reply):
    """The one checkpoint that is kept: the result."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetricsReply
    step_number: int
