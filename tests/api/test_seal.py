"""What is sealed opens for the same server, purpose and tenant, and for nobody else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osslo.api.seal import Seal
from osslo.errors import ConfigurationError
from osslo.server_key import seal_key
from osslo.settings import Settings, load_settings

TEXT = "The user wants the capital."


@given(st.text())
def test_what_is_sealed_comes_back(text: str) -> None:
    seal = Seal.ephemeral()
    sealed = seal.seal(text, purpose="thinking", tenant="a")
    assert sealed.isascii()
    assert seal.unseal(sealed, purpose="thinking", tenant="a") == text


def test_servers_that_share_a_key_read_each_others_seals() -> None:
    sealed = Seal(b"k" * 32).seal(TEXT, purpose="p", tenant="t")
    assert Seal(b"k" * 32).unseal(sealed, purpose="p", tenant="t") == TEXT
    assert Seal(b"x" * 32).unseal(sealed, purpose="p", tenant="t") is None


def test_the_same_text_never_seals_alike() -> None:
    seal = Seal.ephemeral()
    assert len({seal.seal(TEXT, purpose="p", tenant="t") for _ in range(50)}) == 50


@pytest.mark.parametrize(("purpose", "tenant"), [("q", "t"), ("p", "u"), ("pt", ""), ("", "pt")])
def test_another_purpose_or_tenant_cannot_open(purpose: str, tenant: str) -> None:
    seal = Seal.ephemeral()
    sealed = seal.seal(TEXT, purpose="p", tenant="t")
    assert seal.unseal(sealed, purpose=purpose, tenant=tenant) is None


@pytest.mark.parametrize(
    "foreign", ["", "os1.", "os1.AAAA", "os1.!!!!", "os1.æ", "EqoBCkYIAhgCKkDY", "os1." + "A" * 99]
)
def test_what_is_not_a_seal_does_not_open(foreign: str) -> None:
    assert Seal.ephemeral().unseal(foreign, purpose="p", tenant="t") is None


def test_a_changed_character_is_noticed() -> None:
    seal = Seal.ephemeral()
    sealed = seal.seal(TEXT, purpose="p", tenant="t")
    for place in range(4, len(sealed) - 2, 7):
        other = "A" if sealed[place] != "A" else "B"
        changed = sealed[:place] + other + sealed[place + 1 :]
        assert seal.unseal(changed, purpose="p", tenant="t") is None


def settings_for(tmp_path: Path, **environment: str) -> Settings:
    return load_settings(environment={"HOME": str(tmp_path), **environment})


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    key = seal_key(settings)
    assert len(key) == 32
    assert seal_key(settings) == key
    assert stat.S_IMODE((settings.folders.home / "seal-key").stat().st_mode) == 0o600
    assert seal_key(settings_for(tmp_path, OSSLO_SEAL_KEY="ab" * 32)) == b"\xab" * 32


def test_a_spoilt_key_file_and_a_bad_setting_are_named(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    settings.folders.home.mkdir(parents=True)
    (settings.folders.home / "seal-key").write_text("abcd")
    with pytest.raises(ConfigurationError, match="seal-key"):
        seal_key(settings)
    with pytest.raises(ConfigurationError, match="OSSLO_SEAL_KEY"):
        settings_for(tmp_path, OSSLO_SEAL_KEY="short")
