"""Settings are strict, and each source beats the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from osslo.errors import ConfigurationError
from osslo.settings import Settings, load_settings, setting_names


def load(
    tmp_path: Path, environment: dict[str, str] | None = None, **overrides: object
) -> Settings:
    return load_settings(
        environment={"HOME": str(tmp_path)} | (environment or {}), overrides=overrides
    )


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / ".config" / "osslo" / "osslo.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.server.api_key is None
    assert settings.limits.max_output_tokens == 32_768
    assert settings.folders.home == tmp_path / ".local/share/osslo"
    assert settings.folders.cache == tmp_path / ".cache/osslo"


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path: Path) -> None:
    write_config(tmp_path, "[server]\nport = 1\nhost = '0.0.0.0'\n[model]\nthreads = 3\n")
    settings = load(tmp_path, {"OSSLO_PORT": "2", "OSSLO_HOST": "::1"}, host="localhost", port=None)
    assert (settings.server.host, settings.server.port) == ("localhost", 2)
    assert settings.model.threads == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OSSLO_PORT", "http"),
        ("OSSLO_PORT", "70000"),
        ("OSSLO_THREADS", "0"),
        ("OSSLO_PRECISION", "fast"),
        ("OSSLO_API_KEY", "with space"),
        ("OSSLO_HEARTBEAT_S", "nan"),
        ("OSSLO_OFFLINE", "maybe"),
        ("OSSLO_CORS_ORIGINS", "example.org"),
        ("OSSLO_CORS_ORIGINS", "https://example.org/path"),
        ("OSSLO_NONESUCH", "1"),
    ],
)
def test_a_bad_variable_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load(tmp_path, {name: value})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1\n", "prot"),
        ("[sever]\nport = 1\n", "sever"),
        ("port = 1\n", "port"),
        ("[server]\nport = '1x'\n", "server.port"),
        ("[server]\nport = true\n", "server.port"),
        ("[server\n", "TOML"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str, named: str) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load(tmp_path)
    assert str(path) in caught.value.message


def test_an_unknown_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="banana"):
        load(tmp_path, banana=1)


def test_a_bad_key_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, {"OSSLO_API_KEY": "my secret"})
    assert "secret" not in caught.value.message


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml"):
        load(tmp_path, {"OSSLO_CONFIG": str(tmp_path / "missing.toml")})


def test_folders_follow_xdg_and_the_other_tools_variables(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        {
            "XDG_DATA_HOME": "/data",
            "XDG_CACHE_HOME": "relative",
            "HF_HOME": "/hf",
            "OLLAMA_MODELS": "/o",
        },
    )
    assert settings.folders.home == Path("/data/osslo")
    assert settings.folders.cache == tmp_path / ".cache/osslo"
    assert settings.folders.hf_cache == Path("/hf/hub")
    assert settings.folders.ollama == Path("/o")


def test_one_home_holds_everything(tmp_path: Path) -> None:
    folders = load(tmp_path, {"OSSLO_HOME": str(tmp_path / "all")}).folders
    assert (folders.home, folders.cache) == (tmp_path / "all", tmp_path / "all" / "cache")


def test_every_setting_is_documented() -> None:
    names = [name for name, *_ in setting_names()]
    assert "OSSLO_PORT" in names
    assert len(names) == len(set(names))
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    for variable, key, help_text, default in setting_names():
        shown = "" if default in (None, ()) else f"`{default}`"
        assert f"| `{variable}` | `{key}` | {shown} | {help_text} |" in page


def test_origins_are_a_list_or_a_line_with_commas(tmp_path: Path) -> None:
    origins = ("https://a.example", "http://localhost:3000")
    line = {"OSSLO_CORS_ORIGINS": "https://a.example/, http://localhost:3000"}
    assert load(tmp_path, line).server.cors_origins == origins
    write_config(tmp_path, f"[server]\ncors_origins = {list(origins)}\n")
    assert load(tmp_path).server.cors_origins == origins
    assert load(tmp_path, {"OSSLO_CORS_ORIGINS": "*"}).server.cors_origins == ("*",)
