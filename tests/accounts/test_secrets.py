"""Keys' spelling, the pepper, and what is asked of passwords."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from osslo.accounts.passwords import check_password
from osslo.accounts.secrets import (
    KEY_PREFIX,
    Pepper,
    load_pepper,
    new_key,
    shown_prefix,
    well_formed,
)
from osslo.errors import ConfigurationError, RequestError
from tests.accounts.conftest import cheap_passwords


def test_a_key_is_long_random_and_checks_itself() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(key.startswith(KEY_PREFIX) and len(key) == 47 for key in keys)
    assert all(well_formed(key) for key in keys)


def test_every_typo_is_told() -> None:
    key = new_key()
    for place in range(len(KEY_PREFIX), len(key)):
        other = "a" if key[place] != "a" else "b"
        assert not well_formed(key[:place] + other + key[place + 1 :])
    swapped = key[:20] + key[21] + key[20] + key[22:]
    assert well_formed(swapped) == (swapped == key)
    for wrong in (
        "",
        "sk-osslo-",
        key[:-1],
        key + "0",
        key.upper(),
        " " + key,
        "sk-tëst",
        "\udcff",
    ):
        assert not well_formed(wrong)


def test_what_is_shown_of_a_key_gives_little_away() -> None:
    key = new_key()
    assert key.startswith(shown_prefix(key)[:-1])
    assert len(shown_prefix(key)) - len(KEY_PREFIX) <= 7


def test_another_pepper_gives_another_hash() -> None:
    key = new_key()
    first, second = Pepper(b"1" * 32), Pepper(b"2" * 32)
    assert first.hash(key) != second.hash(key)
    assert first.fingerprint() != second.fingerprint()
    assert "1" * 8 not in repr(first)


def test_the_pepper_is_made_once_and_kept_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made: list[str] = []

    def load() -> None:
        made.append(load_pepper(home, None).fingerprint())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert len(made) == 8
    assert [path.name for path in home.iterdir()] == ["pepper"]
    assert stat.S_IMODE((home / "pepper").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "zz", "00ff"])
def test_a_damaged_pepper_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "pepper").write_text(text)
    with pytest.raises(ConfigurationError, match="pepper"):
        load_pepper(tmp_path, None)


def test_a_pepper_that_is_set_needs_no_file(tmp_path: Path) -> None:
    load_pepper(tmp_path, "x" * 40)
    assert list(tmp_path.iterdir()) == []


async def test_passwords_match_only_themselves() -> None:
    passwords = cheap_passwords()
    stored = await passwords.hash("correct horse battery")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "correct horse battery")
    assert not await passwords.verify(stored, "correct horse batterY")
    assert not await passwords.verify(None, "nobody's password")
    assert not await passwords.verify("not a hash", "x")


@pytest.mark.parametrize(
    "password", ["short", "x" * 1001, "ANN@example.com", "aaaaaaaaaaaa", "Ann of the North"]
)
def test_passwords_that_are_easy_to_guess_are_refused(password: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_password(password, email="ann@example.com", name="ann of the north")
    assert caught.value.code == "weak_password"
