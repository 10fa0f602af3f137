"""Pulling from a hub on loopback, with the real client: what is fetched, resumed, refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from osslo.errors import ConfigurationError, DownloadError
from osslo.model.download import FileSum, fetch_file
from osslo.model.hub import LOCK_NAME, Hub, pull, read_lock
from tests.model.hub_server import COMMIT, FakeHub, serving

REPOSITORY = "openai/gpt-oss-20b"
WEIGHTS = bytes(range(256)) * 9000
FILES = {
    "config.json": b'{"model_type": "gpt_oss"}',
    "model-00001-of-00001.safetensors": WEIGHTS,
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}",
    "LICENSE": b"Apache",
    ".gitattributes": b"*",
    "original/model.safetensors": b"twice",
    "metal/model.bin": b"thrice",
    "chat_template.jinja": b"{{ messages }}",
}
GGUFS = {"a-MXFP4.gguf": b"GGUF" + WEIGHTS, "a-Q8_0.gguf": b"GGUF8", "README.md": b"#"}


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(FakeHub({REPOSITORY: dict(FILES), "some/ggufs": dict(GGUFS)})) as hub:
        yield hub


def at(server: FakeHub, **changes: bool) -> Hub:
    return Hub(server.endpoint, token=False, **changes)


def test_pull_fetches_what_is_needed_and_nothing_else(server: FakeHub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = pull("gpt-oss-20b", tmp_path, hub=at(server), progress=lambda *step: seen.append(step))
    assert folder == tmp_path / REPOSITORY
    wanted = {n for n in FILES if "/" not in n and n != ".gitattributes"}
    assert {path.name for path in folder.iterdir()} == wanted | {LOCK_NAME}
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    weights = [step for step in seen if step[0].endswith("model-00001-of-00001.safetensors")]
    assert weights[-1][1:] == (len(WEIGHTS), len(WEIGHTS))


def test_the_lock_pins_the_commit_and_later_pulls_need_no_network(
    server: FakeHub, tmp_path: Path
) -> None:
    folder = pull("gpt-oss-20b", tmp_path, hub=at(server))
    lock = read_lock(folder)
    assert lock is not None
    assert lock.commit == COMMIT
    asked = len(server.requests)
    assert pull("gpt-oss-20b", tmp_path, hub=at(server, offline=True)) == folder
    assert len(server.requests) == asked


def test_a_damaged_file_is_fetched_again_at_the_locked_commit(
    server: FakeHub, tmp_path: Path
) -> None:
    folder = pull("gpt-oss-20b", tmp_path, hub=at(server))
    weights = folder / "model-00001-of-00001.safetensors"
    weights.write_bytes(bytes(len(WEIGHTS)))
    server.requests.clear()
    pull("gpt-oss-20b", tmp_path, hub=at(server))
    assert weights.read_bytes() == WEIGHTS
    resolved = [path for path in server.requests if "/resolve/" in path]
    assert resolved == [f"/{REPOSITORY}/resolve/{COMMIT}/model-00001-of-00001.safetensors"]


def test_a_revision_moves_the_model_and_its_lock(server: FakeHub, tmp_path: Path) -> None:
    folder = pull("gpt-oss-20b", tmp_path, hub=at(server))
    server.commit = "b" * 40
    server.files[REPOSITORY]["config.json"] = b'{"model_type": "gpt_oss", "v": 2}'
    pull("gpt-oss-20b", tmp_path, hub=at(server))
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    pull("gpt-oss-20b", tmp_path, revision="main", hub=at(server))
    assert b'"v": 2' in (folder / "config.json").read_bytes()
    lock = read_lock(folder)
    assert lock is not None
    assert lock.commit == "b" * 40


def test_one_gguf_by_name_and_a_choice_when_there_are_several(
    server: FakeHub, tmp_path: Path
) -> None:
    folder = pull("some/ggufs:a-MXFP4.gguf", tmp_path, hub=at(server))
    assert {path.name for path in folder.iterdir()} == {"a-MXFP4.gguf", "README.md", LOCK_NAME}
    with pytest.raises(DownloadError, match=r"a-Q8_0\.gguf"):
        pull("some/ggufs", tmp_path / "new", hub=at(server))
    pull("some/ggufs:a-Q8_0.gguf", tmp_path, hub=at(server))
    assert (folder / "a-Q8_0.gguf").exists()


# --- interruptions --------------------------------------------------------------------------------


def no_pause(_: float) -> None:
    """Retries need not wait for a server that is there."""


def fetch(server: FakeHub, target: Path) -> None:
    expected = FileSum(len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
    url = f"{server.endpoint}/{REPOSITORY}/resolve/{COMMIT}/model-00001-of-00001.safetensors"
    with httpx.Client(follow_redirects=True) as client:
        fetch_file(client, url, target, expected, pause=no_pause)


def test_a_cut_connection_goes_on_where_it_stopped(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [1_000_000, 500_000]
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert [int(asked[6:-1]) for asked in server.ranges] == [1_000_000, 1_500_000]


def test_a_failed_download_keeps_its_part_for_the_next_run(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [1_000_000] + [0] * 6
    with pytest.raises(DownloadError, match="kept"):
        fetch(server, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert (tmp_path / "w.part").stat().st_size == 1_000_000
    server.cut_after = []
    fetch(server, tmp_path / "w")
    assert server.ranges[-1] == "bytes=1000000-"
    assert (tmp_path / "w").read_bytes() == WEIGHTS


def test_a_server_without_ranges_sends_everything_again(server: FakeHub, tmp_path: Path) -> None:
    server.ignore_ranges = True
    server.cut_after = [1_000_000]
    fetch(server, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == WEIGHTS


def test_damaged_content_is_refused_and_thrown_away(server: FakeHub, tmp_path: Path) -> None:
    server.corrupt = "model-00001-of-00001.safetensors"
    with pytest.raises(DownloadError, match="checksum"):
        fetch(server, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_small_files_are_checked_by_gits_sum(server: FakeHub, tmp_path: Path) -> None:
    server.corrupt = "config.json"
    with pytest.raises(DownloadError, match=r"config\.json"):
        pull("gpt-oss-20b", tmp_path, hub=at(server))


# --- refusals -------------------------------------------------------------------------------------


def test_offline_says_what_to_do(tmp_path: Path) -> None:
    with serving(FakeHub({})) as gone:
        pass
    for hub in (at(gone), at(gone, offline=True)):
        with pytest.raises(DownloadError, match="Without a network") as caught:
            pull("gpt-oss-20b", tmp_path, hub=hub)
        assert "\n" not in caught.value.message


def test_unknown_repository_and_revision_and_consent(server: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no repository no/model"):
        pull("no/model", tmp_path, hub=at(server))
    with pytest.raises(DownloadError, match="no revision v9"):
        pull("gpt-oss-20b", tmp_path, revision="v9", hub=at(server))
    server.gated = True
    with pytest.raises(DownloadError, match="consent"):
        pull("gpt-oss-20b", tmp_path, hub=at(server))
    assert not (tmp_path / REPOSITORY).exists()


@pytest.mark.parametrize("name", ["gpt-5", "a/b/c", "../x", "a/..", "a/b:c.bin", ""])
def test_names_that_mean_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="known names are gpt-oss-20b"):
        pull(name, tmp_path)


def test_a_file_that_would_leave_the_folder_is_not_chosen(server: FakeHub, tmp_path: Path) -> None:
    server.files["some/evil"] = {"../evil.gguf": b"GGUF"}
    with pytest.raises(DownloadError, match="neither"):
        pull("some/evil", tmp_path, hub=at(server))


def test_full_disk_is_seen_before_the_start(server: FakeHub, tmp_path: Path) -> None:
    listing = server.listing
    huge = shutil.disk_usage(tmp_path).free

    def larger(repository: str) -> dict[str, object]:
        answer = json.loads(json.dumps(listing(repository)))
        answer["siblings"][1]["lfs"]["size"] = huge
        return dict(answer)

    server.listing = larger  # type: ignore[method-assign]  # this instance answers otherwise
    with pytest.raises(DownloadError, match="GB are free"):
        pull("gpt-oss-20b", tmp_path, hub=at(server))
    assert not any("/resolve/" in path for path in server.requests)
