"""The one tree of errors. Each carries what the edge needs to answer: status, code, param, message.

Whoever raises says what is wrong and what to do about it; the API and the CLI translate once,
at the edge. `assert` is for our own bugs only.
"""

from __future__ import annotations


class OssloError(Exception):
    """Root of every error that a user can meet.

    `status` is the HTTP status an API answers with, `type` and `code` are OpenAI's spellings,
    `param` names the offending parameter, and `retry_after_s` is set where trying again helps.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class ConfigurationError(OssloError):
    """A setting, flag or file given at start-up is wrong."""

    code = "configuration_error"


class DependencyMissingError(ConfigurationError):
    """An optional dependency is not installed; the message says how to install it."""

    code = "dependency_missing"


# --- files and models ---------------------------------------------------------------------------


class ModelError(OssloError):
    """A model's file cannot be used."""

    code = "model_error"


class CheckpointError(ModelError):
    """A checkpoint is truncated, corrupted, foreign or of the wrong shape.

    The message is one line that names file, tensor and mismatch.
    """

    code = "checkpoint_error"


class PackedFileError(ModelError):
    """A packed file is stale, truncated or fails its checksum; packing again mends it."""

    code = "packed_file_error"


class AdapterError(ModelError):
    """A LoRA adapter is malformed, does not fit the model, or asks for what is not served.

    The message is one line that names file, tensor or field, and the mismatch.
    """

    code = "adapter_error"


class MemoryPlanError(ModelError):
    """The plan does not fit; the message names the largest context that would."""

    code = "memory_plan_error"


class DownloadError(ModelError):
    """Weights could not be fetched; the message says why (offline, disk full, not found)."""

    code = "download_error"


# --- requests -----------------------------------------------------------------------------------


class RequestError(OssloError):
    """The caller's request is at fault."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthError(RequestError):
    """Prompt and requested output do not fit the context."""

    code = "context_length_exceeded"


class ContentPolicyError(RequestError):
    """A guard flagged what was asked."""

    code = "content_policy_violation"


class UnsupportedError(RequestError):
    """A parameter that cannot apply here; refused by name, never ignored in silence."""

    code = "unsupported_parameter"


class GrammarError(RequestError):
    """A schema or grammar that cannot be enforced; the message names the keyword."""

    code = "invalid_schema"


class AuthenticationError(RequestError):
    """No key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class PermissionDeniedError(RequestError):
    """The key may not do this."""

    status = 403
    code = "permission_denied"


class NotFoundError(RequestError):
    """No such model, response or route."""

    status = 404
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """The named model is not served here."""

    code = "model_not_found"


class ConflictError(RequestError):
    """The thing is in a state that does not allow this."""

    status = 409
    code = "conflict"


class IdempotencyError(RequestError):
    """An idempotency key came before, with another request."""

    status = 422
    code = "idempotency_key_reused"


class BodyTooLargeError(RequestError):
    """The request body exceeds the limit."""

    status = 413
    code = "body_too_large"


class RateLimitError(RequestError):
    """Too many requests, tokens, or no quota left."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QuotaError(RateLimitError):
    """No money, or a key's spending limit is reached. Trying again does not help."""

    type = "insufficient_quota"
    code = "insufficient_quota"


# --- capacity and engine ------------------------------------------------------------------------


class OverloadedError(OssloError):
    """The queue is full; try again after `retry_after_s`."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


class ShuttingDownError(OverloadedError):
    """The server drains and takes no new work."""

    code = "shutting_down"


class EngineError(OssloError):
    """The engine failed while running a request. Its terminal event carries this."""

    code = "engine_error"
