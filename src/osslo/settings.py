"""Settings: the only reader of the environment and of TOML. Everything else takes arguments.

One table, the dataclasses below, says every setting's name, default, unit and rule. A setting
`port` of section `server` is `OSSLO_PORT` in the environment and `port` under `[server]` in the
TOML file. Precedence: explicit arguments (flags), environment, TOML, default. Reading is strict:
an unknown `OSSLO_*` variable, an unknown TOML key or a bad value is a `ConfigurationError` that
names it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from osslo.errors import ConfigurationError

ENV_PREFIX = "OSSLO_"
CONFIG_VARIABLE = "OSSLO_CONFIG"
_SECRETS = frozenset({"api_key", "key_pepper", "seal_key", "redis_url", "database_url"})

Parser = Callable[[Any], Any]


def _rule(parse: Parser, help_text: str) -> dict[str, Any]:
    return {"parse": parse, "help": help_text}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a non-empty string")
    return value.strip()


def _optional_text(value: Any) -> str | None:
    return None if value in (None, "") else _text(value)


def _optional_path(value: Any) -> Path | None:
    text = _optional_text(value)
    return None if text is None else Path(text).expanduser()


def _paths(value: Any) -> tuple[Path, ...]:
    """A TOML list of strings, or one string separated as `PATH` is."""
    parts = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of paths")
    return tuple(Path(part).expanduser() for part in parts if part)


def _origins(value: Any) -> tuple[str, ...]:
    """A TOML list of origins, or one string with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of origins")
    origins = tuple(part.strip().rstrip("/") for part in parts if part.strip())
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            raise ValueError("must hold origins such as https://example.org, or *")
    return origins


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    if not isinstance(value, str) or value.strip().lower() not in known:
        raise ValueError("must be true or false")
    return known[value.strip().lower()]


def _integer(low: int, high: int) -> Parser:
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _seconds(low: float, high: float) -> Parser:
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return number

    return parse


def _optional(parse: Parser) -> Parser:
    return lambda value: None if value in (None, "", "auto") else parse(value)


def _choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value.strip().lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value.strip().lower()

    return parse


def _api_key(value: Any) -> str | None:
    text = _optional_text(value)
    if text is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", text):
        raise ValueError("must be 1 to 200 visible ASCII characters without spaces")
    return text


def _seal_key(value: Any) -> bytes | None:
    text = _optional_text(value)
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("must be 64 hexadecimal digits")
    return None if text is None else bytes.fromhex(text)


def _pepper(value: Any) -> str | None:
    text = _optional_text(value)
    if text is not None and len(text) < 32:
        raise ValueError("must have at least 32 characters, best made by `openssl rand -hex 32`")
    return text


def _networks(value: Any) -> tuple[str, ...]:
    """A TOML list of CIDR blocks, or one string with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of networks")
    try:
        return tuple(str(ip_network(part.strip())) for part in parts if part.strip())
    except ValueError as error:
        raise ValueError("must name networks like 10.0.0.0/8 or single addresses") from error


def _public_url(value: Any) -> str | None:
    text = _optional_text(value)
    if text is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError("must look like https://osslo.example.com")
    return text.rstrip("/") if text else None


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server listens, who may call it, and how it ends."""

    host: str = field(default="127.0.0.1", metadata=_rule(_text, "address to listen on"))
    port: int = field(
        default=8000, metadata=_rule(_integer(0, 65535), "TCP port; 0 picks a free one")
    )
    api_key: str | None = field(
        default=None, metadata=_rule(_api_key, "the Bearer key; made and kept when unset")
    )
    seal_key: bytes | None = field(
        default=None,
        metadata=_rule(_seal_key, "seals reasoning; one for all replicas; made when unset"),
    )
    heartbeat_s: float = field(
        default=10.0, metadata=_rule(_seconds(0.05, 300), "silence before an SSE comment")
    )
    drain_s: float = field(
        default=30.0, metadata=_rule(_seconds(0, 3600), "time for running requests at shutdown")
    )
    cors_origins: tuple[str, ...] = field(
        default=(),
        metadata=_rule(_origins, "origins whose pages may call the API; * for all, none if empty"),
    )
    idempotency_ttl_s: float = field(
        default=600.0,
        metadata=_rule(_seconds(0, 86_400), "how long an Idempotency-Key's answer is kept"),
    )
    idempotency_max_bytes: int = field(
        default=67_108_864,
        metadata=_rule(_integer(0, 1 << 40), "memory for such answers; 0 keeps none"),
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is served and with which resources. None means: decided from the machine."""

    model: str | None = field(
        default=None, metadata=_rule(_optional_text, "name, repository or path of the model")
    )
    model_alias: str | None = field(
        default="gpt-oss-20b",
        metadata=_rule(_optional_text, "a further name that callers may use; empty for none"),
    )
    precision: str = field(
        default="default", metadata=_rule(_choice("default", "exact"), "numeric precision")
    )
    threads: int | None = field(
        default=None, metadata=_rule(_optional(_integer(1, 1024)), "compute threads")
    )
    context: int | None = field(
        default=None, metadata=_rule(_optional(_integer(64, 1 << 24)), "context in tokens")
    )
    max_running: int = field(
        default=8, metadata=_rule(_integer(1, 4096), "sequences decoded together")
    )
    max_waiting: int = field(
        default=64, metadata=_rule(_integer(0, 100_000), "queue length before 503")
    )
    max_adapters: int = field(
        default=4, metadata=_rule(_integer(0, 1024), "LoRA adapters in memory together; 0 for none")
    )
    max_adapter_rank: int = field(
        default=64, metadata=_rule(_integer(1, 4096), "largest rank of an adapter")
    )
    adapter_memory_bytes: int | None = field(
        default=None,
        metadata=_rule(
            _optional(_integer(0, 1 << 50)),
            "memory for adapters, counted in the plan; unset: of those there at the start",
        ),
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one request may ask for."""

    max_body_bytes: int = field(
        default=10_000_000, metadata=_rule(_integer(1024, 1 << 34), "request body")
    )
    max_messages: int = field(
        default=2048, metadata=_rule(_integer(1, 1_000_000), "messages of a request")
    )
    max_tools: int = field(default=128, metadata=_rule(_integer(0, 10_000), "tools of a request"))
    max_schema_bytes: int = field(
        default=262_144, metadata=_rule(_integer(64, 1 << 30), "one JSON schema")
    )
    max_choices: int = field(default=8, metadata=_rule(_integer(1, 128), "the parameter n"))
    max_output_tokens: int = field(
        default=32_768, metadata=_rule(_integer(1, 1 << 24), "output tokens of a request")
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged. Prompts and answers never are."""

    log_level: str = field(
        default="info", metadata=_rule(_choice("debug", "info", "warning", "error"), "threshold")
    )
    log_format: str = field(
        default="text", metadata=_rule(_choice("text", "json"), "one line of text or of JSON")
    )


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Folders. The unset ones follow the XDG base directories (see `Folders`)."""

    home: Path | None = field(
        default=None, metadata=_rule(_optional_path, "what must be kept: keys, models")
    )
    cache: Path | None = field(
        default=None, metadata=_rule(_optional_path, "what can be made again: packed files")
    )
    hub_endpoint: str | None = field(
        default=None, metadata=_rule(_optional_text, "another Hugging Face endpoint")
    )
    model_roots: tuple[Path, ...] = field(
        default=(), metadata=_rule(_paths, "more folders that hold models")
    )
    offline: bool = field(default=False, metadata=_rule(_flag, "never use a network"))


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where accounts, the ledger and what callers asked to keep are stored."""

    database_url: str | None = field(
        default=None,
        metadata=_rule(
            _optional_text, "sqlite:///… or postgresql://…; osslo.db in home when unset"
        ),
    )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What callers ask to keep: responses and conversations."""

    store_ttl_s: float = field(
        default=2_592_000.0,
        metadata=_rule(
            _seconds(60, 315_360_000), "time to live of what is kept, after its last use"
        ),
    )
    store_max_responses: int = field(
        default=10_000,
        metadata=_rule(_integer(1, 1 << 31), "responses kept of one owner; the oldest go first"),
    )
    store_max_conversations: int = field(
        default=10_000, metadata=_rule(_integer(1, 1 << 31), "conversations kept of one owner")
    )
    store_max_bytes: int = field(
        default=1_073_741_824,
        metadata=_rule(_integer(1024, 1 << 50), "kept text of one owner, of each of the two"),
    )
    store_sweep_s: float = field(
        default=300.0, metadata=_rule(_seconds(0.05, 86_400), "how often what expired is deleted")
    )
    max_background: int = field(
        default=32,
        metadata=_rule(_integer(0, 100_000), "unfinished background responses of one owner"),
    )
    max_background_all: int = field(
        default=256,
        metadata=_rule(_integer(0, 100_000), "the same of everybody together, in one process"),
    )
    background_running: int = field(
        default=8,
        metadata=_rule(_integer(1, 10_000), "background responses that run together"),
    )


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Files that callers upload and that batches produce, in the folder `files` of home."""

    file_ttl_s: float = field(
        default=2_592_000.0,
        metadata=_rule(_seconds(60, 31_536_000), "age at which a file is deleted"),
    )
    max_file_bytes: int = field(
        default=209_715_200, metadata=_rule(_integer(1024, 1 << 40), "one uploaded file")
    )
    max_owner_file_bytes: int = field(
        default=2_147_483_648, metadata=_rule(_integer(1024, 1 << 50), "all files of one owner")
    )


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The worker process, and the batches that it runs."""

    worker: bool = field(default=True, metadata=_rule(_flag, "start a worker process for batches"))
    job_lease_s: float = field(
        default=30.0,
        metadata=_rule(_seconds(1, 3600), "silence after which a job's worker is dead"),
    )
    batch_concurrency: int = field(
        default=2, metadata=_rule(_integer(1, 1024), "requests of batches run together")
    )
    batch_max_lines: int = field(
        default=50_000, metadata=_rule(_integer(1, 10_000_000), "requests of a batch")
    )
    batch_max_active: int = field(
        default=16, metadata=_rule(_integer(1, 100_000), "unfinished batches of one owner")
    )
    tuning_max_active: int = field(
        default=2, metadata=_rule(_integer(0, 1000), "unfinished fine-tuning jobs of one owner")
    )


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """The judge of `/v1/moderations` and of the guard."""

    moderation_policy: Path | None = field(
        default=None,
        metadata=_rule(_optional_path, "a TOML file with the judge's policy; Osslo's when unset"),
    )
    guard: str = field(
        default="off",
        metadata=_rule(
            _choice("off", "input", "output", "both"), "what is judged of every request"
        ),
    )


@dataclass(frozen=True, slots=True)
class AccountsSettings:
    """Users, keys and limits. What owners change while the server runs is in the database."""

    key_pepper: str | None = field(
        default=None,
        metadata=_rule(_pepper, "secret that keys are hashed under; a file in home when unset"),
    )
    redis_url: str | None = field(
        default=None,
        metadata=_rule(_optional_text, "redis://…: rate limits shared by several servers"),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=_rule(_networks, "networks of proxies whose X-Forwarded-* headers are believed"),
    )
    usage_days: int = field(
        default=400,
        metadata=_rule(
            _integer(1, 36_500), "days that a request's own usage row is kept; sums stay"
        ),
    )
    public_url: str | None = field(
        default=None,
        metadata=_rule(_public_url, "the server's address as users see it, for links"),
    )


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders in use, resolved from `PathSettings` and the environment."""

    home: Path
    cache: Path
    models: Path
    hf_cache: Path
    lmstudio: tuple[Path, ...]
    ollama: Path


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
    return Settings(folders=_folders(sections["paths"], variables), **sections)


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


def _parsers() -> dict[str, Parser]:
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
    named = explicit or _optional_path(variables.get(CONFIG_VARIABLE))
    if named is not None:
        if not named.is_file():
            raise ConfigurationError(f"the settings file {named} does not exist", param="config")
        return named
    default = _xdg(variables, "XDG_CONFIG_HOME", ".config") / "osslo" / "osslo.toml"
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


def _xdg(variables: Mapping[str, str], variable: str, fallback: str) -> Path:
    """An XDG folder; the specification says that relative values are to be ignored."""
    named = Path(variables.get(variable, ""))
    return named if named.is_absolute() else _user_home(variables) / fallback


def _user_home(variables: Mapping[str, str]) -> Path:
    named = variables.get("HOME")
    return Path(named) if named else Path.home()


def _folders(paths: Any, variables: Mapping[str, str]) -> Folders:
    user = _user_home(variables)
    home = paths.home or _xdg(variables, "XDG_DATA_HOME", ".local/share") / "osslo"
    beside = paths.home / "cache" if paths.home else None
    cache = paths.cache or beside or _xdg(variables, "XDG_CACHE_HOME", ".cache") / "osslo"
    hf_home = variables.get("HF_HOME")
    hf_root = (
        Path(hf_home) if hf_home else _xdg(variables, "XDG_CACHE_HOME", ".cache") / ("huggingface")
    )
    hf_cache = variables.get("HF_HUB_CACHE")
    ollama = variables.get("OLLAMA_MODELS")
    return Folders(
        home=home,
        cache=cache,
        models=home / "models",
        hf_cache=Path(hf_cache) if hf_cache else hf_root / "hub",
        lmstudio=(user / ".lmstudio" / "models", user / ".cache" / "lm-studio" / "models"),
        ollama=Path(ollama) if ollama else user / ".ollama" / "models",
    )
