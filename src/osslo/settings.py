"""Settings: the only reader of the environment and of TOML. Everything else takes arguments.

One table, the dataclasses below, says every setting's name, default, unit and rule. A setting
`port` of section `server` is `OSSLO_PORT` in the environment and `port` under `[server]` in the
TOML file. Precedence: explicit arguments (flags), environment, TOML, default. Reading is strict:
an unknown `OSSLO_*` variable, an unknown TOML key or a bad value is a `ConfigurationError` that
names it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from osslo import setting_rules as rules
from osslo.errors import ConfigurationError
from osslo.folders import Folders, find_folders, xdg_folder

ENV_PREFIX = "OSSLO_"
CONFIG_VARIABLE = "OSSLO_CONFIG"
_SECRETS = frozenset({"api_key", "key_pepper", "seal_key", "redis_url", "database_url"})


def _rule(parse: rules.Parser, help_text: str) -> dict[str, Any]:
    return {"parse": parse, "help": help_text}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server listens, who may call it, and how it ends."""

    host: str = field(default="127.0.0.1", metadata=_rule(rules.text, "address to listen on"))
    port: int = field(
        default=8000, metadata=_rule(rules.integer(0, 65535), "TCP port; 0 picks a free one")
    )
    api_key: str | None = field(
        default=None, metadata=_rule(rules.api_key, "the Bearer key; made and kept when unset")
    )
    seal_key: bytes | None = field(
        default=None,
        metadata=_rule(rules.seal_key, "seals reasoning; one for all replicas; made when unset"),
    )
    heartbeat_s: float = field(
        default=10.0, metadata=_rule(rules.seconds(0.05, 300), "silence before an SSE comment")
    )
    drain_s: float = field(
        default=30.0,
        metadata=_rule(rules.seconds(0, 3600), "time for running requests at shutdown"),
    )
    cors_origins: tuple[str, ...] = field(
        default=(),
        metadata=_rule(
            rules.origins, "origins whose pages may call the API; * for all, none if empty"
        ),
    )
    idempotency_ttl_s: float = field(
        default=600.0,
        metadata=_rule(rules.seconds(0, 86_400), "how long an Idempotency-Key's answer is kept"),
    )
    idempotency_max_bytes: int = field(
        default=67_108_864,
        metadata=_rule(rules.integer(0, 1 << 40), "memory for such answers; 0 keeps none"),
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is served and with which resources. None means: decided from the machine."""

    model: str | None = field(
        default=None, metadata=_rule(rules.optional_text, "name, repository or path of the model")
    )
    model_alias: str | None = field(
        default="gpt-oss-20b",
        metadata=_rule(rules.optional_text, "a further name that callers may use; empty for none"),
    )
    precision: str = field(
        default="default", metadata=_rule(rules.choice("default", "exact"), "numeric precision")
    )
    threads: int | None = field(
        default=None, metadata=_rule(rules.optional(rules.integer(1, 1024)), "compute threads")
    )
    context: int | None = field(
        default=None,
        metadata=_rule(rules.optional(rules.integer(64, 1 << 24)), "context in tokens"),
    )
    max_running: int = field(
        default=8, metadata=_rule(rules.integer(1, 4096), "sequences decoded together")
    )
    max_waiting: int = field(
        default=64, metadata=_rule(rules.integer(0, 100_000), "queue length before 503")
    )
    draft_tokens: int = field(
        default=8,
        metadata=_rule(
            rules.integer(0, 256),
            "most tokens guessed and checked in one step, while that pays; 0 guesses none",
        ),
    )
    prefix_disk_bytes: int = field(
        default=0,
        metadata=_rule(
            rules.integer(0, 1 << 50),
            "prefixes of prompts kept in cache, over restarts; 0 writes none",
        ),
    )
    max_adapters: int = field(
        default=4,
        metadata=_rule(rules.integer(0, 1024), "LoRA adapters in memory together; 0 for none"),
    )
    max_adapter_rank: int = field(
        default=64, metadata=_rule(rules.integer(1, 4096), "largest rank of an adapter")
    )
    adapter_memory_bytes: int | None = field(
        default=None,
        metadata=_rule(
            rules.optional(rules.integer(0, 1 << 50)),
            "memory for adapters, counted in the plan; unset: of those there at the start",
        ),
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one request may ask for."""

    max_body_bytes: int = field(
        default=10_000_000, metadata=_rule(rules.integer(1024, 1 << 34), "request body")
    )
    max_messages: int = field(
        default=2048, metadata=_rule(rules.integer(1, 1_000_000), "messages of a request")
    )
    max_tools: int = field(
        default=128, metadata=_rule(rules.integer(0, 10_000), "tools of a request")
    )
    max_schema_bytes: int = field(
        default=262_144, metadata=_rule(rules.integer(64, 1 << 30), "one JSON schema")
    )
    max_choices: int = field(default=8, metadata=_rule(rules.integer(1, 128), "the parameter n"))
    max_output_tokens: int = field(
        default=32_768, metadata=_rule(rules.integer(1, 1 << 24), "output tokens of a request")
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged. Prompts and answers never are."""

    log_level: str = field(
        default="info",
        metadata=_rule(rules.choice("debug", "info", "warning", "error"), "threshold"),
    )
    log_format: str = field(
        default="text", metadata=_rule(rules.choice("text", "json"), "one line of text or of JSON")
    )


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Folders. The unset ones follow the XDG base directories (see `Folders`)."""

    home: Path | None = field(
        default=None, metadata=_rule(rules.optional_path, "what must be kept: keys, models")
    )
    cache: Path | None = field(
        default=None, metadata=_rule(rules.optional_path, "what can be made again: packed files")
    )
    hub_endpoint: str | None = field(
        default=None, metadata=_rule(rules.optional_text, "another Hugging Face endpoint")
    )
    model_roots: tuple[Path, ...] = field(
        default=(), metadata=_rule(rules.paths, "more folders that hold models")
    )
    offline: bool = field(default=False, metadata=_rule(rules.flag, "never use a network"))


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where accounts, the ledger and what callers asked to keep are stored."""

    database_url: str | None = field(
        default=None,
        metadata=_rule(
            rules.optional_text, "sqlite:///… or postgresql://…; osslo.db in home when unset"
        ),
    )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What callers ask to keep: responses and conversations."""

    store_ttl_s: float = field(
        default=2_592_000.0,
        metadata=_rule(
            rules.seconds(60, 315_360_000), "time to live of what is kept, after its last use"
        ),
    )
    store_max_responses: int = field(
        default=10_000,
        metadata=_rule(
            rules.integer(1, 1 << 31), "responses kept of one owner; the oldest go first"
        ),
    )
    store_max_conversations: int = field(
        default=10_000, metadata=_rule(rules.integer(1, 1 << 31), "conversations kept of one owner")
    )
    store_max_bytes: int = field(
        default=1_073_741_824,
        metadata=_rule(rules.integer(1024, 1 << 50), "kept text of one owner, of each of the two"),
    )
    store_sweep_s: float = field(
        default=300.0,
        metadata=_rule(rules.seconds(0.05, 86_400), "how often what expired is deleted"),
    )
    max_background: int = field(
        default=32,
        metadata=_rule(rules.integer(0, 100_000), "unfinished background responses of one owner"),
    )
    max_background_all: int = field(
        default=256,
        metadata=_rule(rules.integer(0, 100_000), "the same of everybody together, in one process"),
    )
    background_running: int = field(
        default=8,
        metadata=_rule(rules.integer(1, 10_000), "background responses that run together"),
    )


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Files that callers upload and that batches produce, in the folder `files` of home."""

    file_ttl_s: float = field(
        default=2_592_000.0,
        metadata=_rule(rules.seconds(60, 31_536_000), "age at which a file is deleted"),
    )
    max_file_bytes: int = field(
        default=209_715_200, metadata=_rule(rules.integer(1024, 1 << 40), "one uploaded file")
    )
    max_owner_file_bytes: int = field(
        default=2_147_483_648,
        metadata=_rule(rules.integer(1024, 1 << 50), "all files of one owner"),
    )


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The worker process, and the batches that it runs."""

    worker: bool = field(
        default=True, metadata=_rule(rules.flag, "start a worker process for batches")
    )
    job_lease_s: float = field(
        default=30.0,
        metadata=_rule(rules.seconds(1, 3600), "silence after which a job's worker is dead"),
    )
    batch_concurrency: int = field(
        default=2, metadata=_rule(rules.integer(1, 1024), "requests of batches run together")
    )
    batch_max_lines: int = field(
        default=50_000, metadata=_rule(rules.integer(1, 10_000_000), "requests of a batch")
    )
    batch_max_active: int = field(
        default=16, metadata=_rule(rules.integer(1, 100_000), "unfinished batches of one owner")
    )
    tuning_max_active: int = field(
        default=2,
        metadata=_rule(rules.integer(0, 1000), "unfinished fine-tuning jobs of one owner"),
    )


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """The judge of `/v1/moderations` and of the guard."""

    moderation_policy: Path | None = field(
        default=None,
        metadata=_rule(
            rules.optional_path, "a TOML file with the judge's policy; Osslo's when unset"
        ),
    )
    guard: str = field(
        default="off",
        metadata=_rule(
            rules.choice("off", "input", "output", "both"), "what is judged of every request"
        ),
    )


@dataclass(frozen=True, slots=True)
class AccountsSettings:
    """Users, keys and limits. What owners change while the server runs is in the database."""

    key_pepper: str | None = field(
        default=None,
        metadata=_rule(
            rules.pepper, "secret that keys are hashed under; a file in home when unset"
        ),
    )
    redis_url: str | None = field(
        default=None,
        metadata=_rule(rules.optional_text, "redis://…: rate limits shared by several servers"),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=_rule(
            rules.networks, "networks of proxies whose X-Forwarded-* headers are believed"
        ),
    )
    usage_days: int = field(
        default=400,
        metadata=_rule(
            rules.integer(1, 36_500), "days that a request's own usage row is kept; sums stay"
        ),
    )
    public_url: str | None = field(
        default=None,
        metadata=_rule(rules.public_url, "the server's address as users see it, for links"),
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, frozen. Built by `load_settings`."""

    folders: Folders
    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    paths: PathSettings = PathSettings()
    database: DatabaseSettings = DatabaseSettings()
    store: StoreSettings = StoreSettings()
    files: FileSettings = FileSettings()
    jobs: JobSettings = JobSettings()
    moderation: ModerationSettings = ModerationSettings()
    accounts: AccountsSettings = AccountsSettings()


_SECTIONS: Mapping[str, type] = {
    "server": ServerSettings,
    "model": ModelSettings,
    "limits": LimitSettings,
    "log": LogSettings,
    "paths": PathSettings,
    "database": DatabaseSettings,
    "store": StoreSettings,
    "files": FileSettings,
    "jobs": JobSettings,
    "moderation": ModerationSettings,
    "accounts": AccountsSettings,
}


def load_settings(
    *,
    environment: Mapping[str, str] | None = None,
    config_path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read every setting.

    `environment` defaults to the process's. `config_path` defaults to `OSSLO_CONFIG`, else to
    `osslo/osslo.toml` in the XDG config folder if that file exists. `overrides` maps setting
    names (`port`) to values that win over everything; None values count as not given.

    Raises `ConfigurationError` naming the variable, key or flag that is wrong.
    """
    variables = os.environ if environment is None else environment
    values = _from_toml(_config_file(variables, config_path))
    values |= _from_environment(variables)
    values |= _from_overrides(overrides or {})
    sections = {
        name: section(**{f.name: values[f.name] for f in fields(section) if f.name in values})
        for name, section in _SECTIONS.items()
    }
    paths = sections["paths"]
    return Settings(folders=find_folders(paths.home, paths.cache, variables), **sections)


def setting_names() -> tuple[tuple[str, str, str, Any], ...]:
    """Every setting as (environment variable, TOML key, help, default), for documentation."""
    return tuple(
        (ENV_PREFIX + f.name.upper(), f"{name}.{f.name}", f.metadata["help"], f.default)
        for name, section in _SECTIONS.items()
        for f in fields(section)
    )


def setting_values(settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """Every setting as (environment variable, value as text, help). Of secrets only whether they
    are set is told; what is decided from the machine is empty."""
    shown: list[tuple[str, str, str]] = []
    for name, section in _SECTIONS.items():
        for f in fields(section):
            value = getattr(getattr(settings, name), f.name)
            if f.name in _SECRETS:
                value = None if value is None else "(set)"
            elif isinstance(value, tuple):
                value = ", ".join(map(str, value))
            text = "" if value is None else str(value)
            shown.append((ENV_PREFIX + f.name.upper(), text, f.metadata["help"]))
    return tuple(shown)


def _parsers() -> dict[str, rules.Parser]:
    return {f.name: f.metadata["parse"] for s in _SECTIONS.values() for f in fields(s)}


def _parse(name: str, value: Any, source: str) -> Any:
    try:
        return _parsers()[name](value)
    except ValueError as error:
        shown = "" if name in _SECRETS else f" (got {value!r})"
        raise ConfigurationError(f"{source} {error}{shown}", param=name) from error


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    known = {ENV_PREFIX + name.upper(): name for name in _parsers()}
    values: dict[str, Any] = {}
    for variable, text in variables.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise ConfigurationError(
                f"{variable} is not a setting of Osslo; the known ones are {', '.join(known)}",
                param=variable,
            )
        values[known[variable]] = _parse(known[variable], text, variable)
    return values


def _from_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in _parsers():
            raise ConfigurationError(f"{name} is not a setting of Osslo", param=name)
        if value is not None:
            plain = str(value) if isinstance(value, Path) else value
            values[name] = _parse(name, plain, "--" + name.replace("_", "-"))
    return values


def _config_file(variables: Mapping[str, str], explicit: Path | None) -> Path | None:
    named = explicit or rules.optional_path(variables.get(CONFIG_VARIABLE))
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"the settings file {named} does not exist", param="config")
        return named
    default = xdg_folder(variables, "XDG_CONFIG_HOME", ".config") / "osslo" / "osslo.toml"
    return default if default.is_file() else None


def _from_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {error}") from error
    values: dict[str, Any] = {}
    for name, table in document.items():
        if name not in _SECTIONS or not isinstance(table, dict):
            raise ConfigurationError(
                f"{path}: [{name}] is not a section; there are {', '.join(_SECTIONS)}", param=name
            )
        allowed = {f.name for f in fields(_SECTIONS[name])}
        for key, value in table.items():
            if key not in allowed:
                raise ConfigurationError(f"{path}: [{name}] has no key {key}", param=key)
            values[key] = _parse(key, value, f"{path}: {name}.{key}")
    return values
