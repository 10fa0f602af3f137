"""`osslo users`, `keys` and `prices` on a database of their own."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from osslo.cli.main import run


class Shell:
    """Runs commands and gives back what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        assert run(arguments) == code
        printed = self._capsys.readouterr()
        return printed.err if code else printed.out

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OSSLO_HOME", str(tmp_path))
    monkeypatch.setenv("OSSLO_PUBLIC_URL", "https://osslo.example.com/")
    return Shell(capsys)


def test_the_first_user_is_the_owner_and_gets_a_link(shell: Shell) -> None:
    first = shell.json("users", "create", "Ann@example.com")
    second = shell.json("users", "create", "bob@example.com", "--name", "Bob <b>")
    assert first["user"]["role"] == "owner"
    assert (second["user"]["role"], second["user"]["name"]) == ("member", "Bob <b>")
    url = first["link"]["url"]
    assert url == f"https://osslo.example.com/console/reset?token={first['link']['token']}"
    assert [user["email"] for user in shell.json("users", "list", "--search", "bob")] == [
        "bob@example.com"
    ]
    assert "ann@example.com" in shell("users", "list")


def test_a_user_made_here_gets_the_welcome_credit(shell: Shell, tmp_path: Path) -> None:
    user = shell.json("users", "create", "ann@example.com")["user"]
    with closing(sqlite3.connect(tmp_path / "osslo.db")) as connection:
        entries = connection.execute("SELECT user_id, amount_nanousd FROM ledger_entries")
        assert entries.fetchall() == [(user["id"], 1_000_000_000)]


def test_a_password_comes_by_stdin(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("four unrelated words\n"))
    assert shell.json("users", "create", "ann@example.com", "--password-stdin")["link"] is None
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert "10" in shell("users", "create", "b@example.com", "--password-stdin", code=2)


def test_users_are_changed(shell: Shell) -> None:
    shell("users", "create", "own@example.com")
    shell("users", "create", "ann@example.com")
    assert "admin" in shell("users", "role", "ann@example.com", "admin")
    assert "disabled" in shell("users", "disable", "ann@example.com")
    assert "active" in shell("users", "enable", "ann@example.com")
    assert "60" in shell("users", "limits", "ann@example.com", "--requests", "60")
    assert "no limit" in shell("users", "limits", "ann@example.com", "--requests", "0")
    assert "0 sessions" in shell("users", "sign-out", "ann@example.com")
    assert "reset?token=" in shell("users", "reset", "ann@example.com")
    assert shell.json("users", "invite", "--role", "admin")["invitation"]["role"] == "admin"
    assert "last owner" in shell("users", "disable", "own@example.com", code=2)
    assert "no user" in shell("users", "role", "nobody@example.com", "admin", code=2)
    assert "--requests" in shell("users", "limits", "ann@example.com", code=2)


def test_keys_are_made_rotated_and_revoked(shell: Shell) -> None:
    shell("users", "create", "ann@example.com")
    text = shell("keys", "create", "ann@example.com", "--name", "laptop").strip()
    assert text.startswith("sk-osslo-")
    limited = shell.json(
        *("keys", "create", "ann@example.com", "--days", "90", "--limit", "2.50"),
        *("--period", "monthly", "--network", "10.0.0.0/8", "--model", "gpt-oss-20b"),
    )["key"]
    assert limited["spending_limit_nanousd"] == 2_500_000_000
    assert limited["networks"] == ["10.0.0.0/8"]
    rotated = shell.json("keys", "rotate", limited["id"], "--overlap-hours", "0.5")
    assert rotated["key"]["rotated_from"] == limited["id"]
    listed = shell.json("keys", "list", "ann@example.com")
    assert len(listed) == 3
    assert text not in str(listed)
    shell("keys", "revoke", limited["id"], rotated["key"]["id"])
    assert [key["name"] for key in shell.json("keys", "list")] == ["laptop"]
    assert "$2.50 monthly" in shell("keys", "list", "--revoked")
    assert "no key" in shell("keys", "revoke", "key_none", code=2)
    assert "US dollars" in shell("keys", "create", "ann@example.com", "--limit", "x", code=2)


def test_a_key_is_changed_and_a_users_keys_are_revoked(shell: Shell) -> None:
    shell("users", "create", "ann@example.com")
    key = shell.json("keys", "create", "ann@example.com", "--requests", "5")["key"]
    given = ("--limit", "20", "--period", "monthly", "--network", "10.0.0.0/8", "--days", "3")
    after = shell.json("keys", "change", key["id"], "--name", "ci", *given)
    assert (after["name"], after["spending_limit_nanousd"]) == ("ci", 20_000_000_000)
    assert (after["spending_period"], after["networks"]) == ("monthly", ["10.0.0.0/8"])
    assert after["limits"]["requests_per_minute"] == 5
    assert after["expires_at"] is not None
    back = ("--limit", "none", "--network", "all", "--days", "0", "--requests", "0")
    again = shell.json("keys", "change", key["id"], *back)
    assert again == after | {
        "spending_limit_nanousd": None,
        "networks": [],
        "expires_at": None,
        "limits": {"requests_per_minute": None, "tokens_per_minute": None},
    }
    assert "2" in shell("keys", "change", key["id"], "--limit", "2")
    shell("keys", "create", "ann@example.com")
    assert "name keys" in shell("keys", "revoke", code=2)
    assert "2 keys revoked" in shell("keys", "revoke", "--user", "ann@example.com")


def test_balances_and_usage(shell: Shell) -> None:
    shell("users", "create", "ann@example.com")
    assert "$13.50" in shell("users", "top-up", "ann@example.com", "12.50", "--once", "a")
    assert "before" in shell("users", "top-up", "ann@example.com", "12.50", "--once", "a")
    assert "$13.00" in shell("users", "top-up", "ann@example.com", "--", "-0.50")
    assert "cannot be taken" in shell("users", "top-up", "ann@example.com", "--", "-99", code=2)
    assert "tokens" not in shell("usage", "ann@example.com")
    assert shell("usage", "--format", "csv").startswith("at,id,request_id,user_id,key_id,model,")
    assert json.loads(shell("usage", "--format", "json", "--since", "2026-01-01")) == []
    assert "2026-03-01" in shell("usage", "--since", "March", code=2)


def test_prices_are_whole_nano_dollars(shell: Shell) -> None:
    shipped = shell("prices", "list")
    assert "$0.08" in shipped
    assert "$0.32" in shipped
    assert "20%" in shipped
    made = shell.json(
        *("prices", "set", "gpt-oss-20b", "--input", "0.12", "--cached", "$0.06"),
        *("--output", "0.45", "--discount", "12.5%"),
    )
    assert (made["input_nanousd"], made["cached_input_nanousd"], made["output_nanousd"]) == (
        105,
        52,
        393,
    )
    assert "$0.393" in shell("prices", "list")
    for wrong in ("0.0001", "x", "-1", "nan", "inf"):
        assert "price like" in shell(
            *("prices", "set", "m", f"--input={wrong}", "--output", "1"), code=2
        )
    assert "no price" in shell("prices", "end", "gpt-oss-20b")
    shell("prices", "end", "gpt-oss-20b", code=2)
    assert len(shell.json("prices", "list", "--all")) == 3


def test_another_pepper_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("users", "create", "ann@example.com")
    monkeypatch.setenv("OSSLO_KEY_PEPPER", "x" * 40)
    assert "pepper" in shell("users", "list", code=2)
    monkeypatch.setenv("OSSLO_KEY_PEPPER", "short")
    printed = shell("users", "list", code=2)
    assert "OSSLO_KEY_PEPPER" in printed
    assert "short" not in printed
