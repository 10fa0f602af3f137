"""The command line as a user meets it: help, errors in one line, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from osslo import __version__
from osslo.cli.main import COMMANDS, run
from osslo.errors import PackedFileError
from osslo.model.packed_file import read_header

WITHOUT_EXAMPLES = {"version"}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"osslo {name}" in shown
    assert name in WITHOUT_EXAMPLES or "Example" in shown


def test_help_and_version_load_no_engine() -> None:
    code = "import sys; from osslo.cli.main import run; run(['--help']); run(['version']); "
    code += "print('numpy' in sys.modules or 'fastapi' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "False"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out == f"osslo {__version__}\n"


def test_no_such_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dance"]) == 2
    assert "dance" in capsys.readouterr().err


def test_a_broken_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.osslo"
    path.write_bytes(b"nothing of ours")
    assert run(["verify", str(path)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if "error" in line] == [
        f"error: {path}: not a packed model; make one with `osslo pack`"
    ]
    assert "Traceback" not in shown.err


def test_debug_raises_instead(tmp_path: Path) -> None:
    path = tmp_path / "x.osslo"
    path.write_bytes(b"nothing of ours")
    with pytest.raises(PackedFileError):
        run(["--debug", "verify", str(path)])


def test_a_wrong_preset_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["synth", str(tmp_path / "x"), "--preset", "huge"]) == 2
    assert "gpt-oss-20b" in capsys.readouterr().err


def test_synth_pack_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, packed = tmp_path / "tiny.gguf", tmp_path / "tiny.osslo"
    assert run(["synth", str(made), "--preset", "tiny", "--format", "gguf"]) == 0
    assert made.is_file()
    assert run(["pack", str(made), "--out", str(packed)]) == 0
    capsys.readouterr()
    assert run(["verify", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    damaged = bytearray(packed.read_bytes())
    damaged[read_header(packed).tensors[-1].offset] ^= 1
    packed.write_bytes(damaged)
    assert run(["verify", str(packed)]) == 1
    assert "does not match its checksum" in capsys.readouterr().err
