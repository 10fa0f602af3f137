"""`/v1/files`: uploads of every shape, lists, contents, deletion."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from osslo.api.app import create_app, swept
from osslo.api.files.schema import FileReply
from osslo.settings import FileSettings
from osslo.store.files import FileStore, NewFile
from tests.api.conftest import Stage

URL = "/v1/files"
LINES = b'{"a": 1}\n{"a": 2}\n'


async def upload(
    client: httpx.AsyncClient, content: bytes = LINES, name: str = "in.jsonl", **fields: str
) -> httpx.Response:
    data = {"purpose": "batch"} | fields
    return await client.post(URL, data=data, files={"file": (name, content)})


def small(stage: Stage, limit: int) -> Stage:
    """The same application, but files may have `limit` bytes only."""
    assert stage.services.files is not None
    folder = stage.services.files.incoming().parent.parent
    settings = FileSettings(max_file_bytes=limit)
    files = FileStore(stage.services.database, folder, settings)
    services = replace(stage.services, files=files)
    return Stage(create_app(services), services, stage.backend)


def leftovers(stage: Stage) -> list[str]:
    assert stage.services.files is not None
    return [path.name for path in stage.services.files.incoming().parent.iterdir()]


def code_of(response: httpx.Response) -> str:
    code: str = response.json()["error"]["code"]
    return code


async def test_a_file_comes_back_as_it_was(stage: Stage) -> None:
    content = bytes(range(256)) * 10_000
    async with stage.client() as client:
        made = await upload(client, content, "päth/to/ Übung.bin", purpose="user_data")
        file = FileReply.model_validate_json(made.text)
        got = await client.get(f"{URL}/{file.id}/content")
        shown = await client.get(f"{URL}/{file.id}")
    assert (file.bytes, file.filename, file.purpose) == (len(content), "Übung.bin", "user_data")
    assert file.expires_at - file.created_at == 30 * 86400
    assert got.content == content
    assert got.headers["content-disposition"].startswith("attachment")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert shown.json() == made.json()
    assert leftovers(stage) == []


async def test_a_file_expires_when_its_owner_says(stage: Stage) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    async with stage.client() as client:
        file = (await upload(client, **fields)).json()
    assert file["expires_at"] - file["created_at"] == 3600


async def test_what_is_deleted_is_gone(stage: Stage) -> None:
    async with stage.client() as client:
        file = (await upload(client)).json()
        deleted = await client.delete(f"{URL}/{file['id']}")
        again = await client.delete(f"{URL}/{file['id']}")
        content = await client.get(f"{URL}/{file['id']}/content")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    assert [again.status_code, content.status_code] == [404, 404]
    assert code_of(again) == "file_not_found"


async def test_lists_have_pages(stage: Stage) -> None:
    async with stage.client() as client:
        made = [(await upload(client)).json()["id"] for _ in range(3)]
        other = (await upload(client, b"x", purpose="user_data")).json()["id"]
        first = (await client.get(URL, params={"limit": 2, "order": "asc"})).json()
        rest = (await client.get(URL, params={"order": "asc", "after": first["last_id"]})).json()
        batch = (await client.get(URL, params={"purpose": "batch"})).json()
        wrong = [
            await client.get(URL, params=params)
            for params in ({"limit": "0"}, {"order": "up"}, {"purpose": "x"}, {"after": "no"})
        ]
    assert [file["id"] for file in first["data"]] == made[:2]
    assert first["has_more"]
    assert [file["id"] for file in rest["data"]] == [made[2], other]
    assert [file["id"] for file in batch["data"]] == made[::-1]
    assert [response.status_code for response in wrong] == [400, 400, 400, 404]


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b'{"a": 1}\n[2]\n', "invalid_jsonl", "line 2"),
        (b'{"a": 1}\n\n{"a": \n', "invalid_jsonl", "line 3"),
        (b'{"a": "\xff"}\n', "invalid_jsonl", "line 1"),
        (b"[" * 100_000, "invalid_jsonl", "line 1"),
        (b"", "empty_file", "empty"),
        (b"\n \n", "empty_file", "empty"),
    ],
)
async def test_batches_are_checked_when_they_come(
    stage: Stage, content: bytes, code: str, says: str
) -> None:
    async with stage.client() as client:
        refused = await upload(client, content)
        listed = await client.get(URL)
    assert (refused.status_code, code_of(refused)) == (400, code)
    assert says in refused.json()["error"]["message"]
    assert listed.json()["data"] == []
    assert leftovers(stage) == []


async def test_blank_lines_and_a_missing_last_newline_are_fine(stage: Stage) -> None:
    async with stage.client() as client:
        assert (await upload(client, b'{"a": 1}\r\n\r\n{"a": 2}')).status_code == 200


@pytest.mark.parametrize("size", [1001, 5000])
async def test_no_more_than_the_limit_is_kept(stage: Stage, size: int) -> None:
    stage = small(stage, 1000)
    async with stage.client() as client:
        good = await upload(client, b"x" * 1000, purpose="user_data")
        refused = await upload(client, b"x" * size, purpose="user_data")
        huge = await upload(client, b"x" * 400_000, purpose="user_data")
    assert good.status_code == 200
    assert [refused.status_code, huge.status_code] == [413, 413]
    assert leftovers(stage) == []


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nabc\r\n'
PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
END = b"--b--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        ("application/json", b"{}", None),
        ("multipart/form-data", PART + END, None),
        (FORM, b"", None),
        (FORM, b"garbage", None),
        (FORM, PURPOSE + PART, None),
        (FORM, PART + END, "purpose"),
        (FORM, PURPOSE + END, "file"),
        (FORM, PURPOSE + PART + PART + END, "file"),
        (FORM, PURPOSE.replace(b"user_data", b"vision") + PART + END, "purpose"),
        (FORM, PURPOSE.replace(b"user_data", b"x" * 5000) + PART + END, "purpose"),
        (FORM, PURPOSE.replace(b"purpose", b"banana") + PURPOSE + PART + END, "banana"),
        (FORM, b"".join(PURPOSE.replace(b"pu", b"%d" % n) for n in range(20)) + END, None),
        (FORM, PURPOSE + b"--b\r\n" + b"x" * 10_000 + b": y\r\n\r\nz\r\n" + END, None),
        (FORM, PURPOSE + b"--b\r\nx\r\n\r\nz\r\n" + END, None),
    ],
)
async def test_what_is_no_good_form_is_refused(
    stage: Stage, kind: str, body: bytes, named: str | None
) -> None:
    async with stage.client() as client:
        refused = await client.post(URL, content=body, headers={"content-type": kind})
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == named
    assert leftovers(stage) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_after[seconds]": "3600"},
        {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        {"expires_after": "3600"},
    ],
)
async def test_a_wrong_expiry_is_named(stage: Stage, fields: dict[str, str]) -> None:
    async with stage.client() as client:
        refused = await upload(client, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith("expires_after")


async def test_every_cut_of_a_form_is_read_alike(stage: Stage) -> None:
    form = PURPOSE + PART + END

    async def pieces(at: int) -> Any:
        yield form[:at]
        yield form[at:]

    async with stage.client() as client:
        for at in range(1, len(form), 3):
            headers = {"content-type": FORM}
            made = await client.post(URL, content=pieces(at), headers=headers)
            assert (made.status_code, made.json()["bytes"]) == (200, 3)


async def test_files_need_a_key(stage: Stage) -> None:
    async with stage.client(None) as client:
        assert (await upload(client)).status_code == 401
        assert (await client.get(URL)).status_code == 401
    assert leftovers(stage) == []


async def test_the_server_deletes_what_expired(stage: Stage) -> None:
    files = stage.services.files
    assert files is not None
    path = files.incoming()
    path.write_bytes(b"old")
    old = await files.add(NewFile("default", "x", "user_data", 3, path, ttl_s=-1))
    assert files.path(old).exists()
    async with swept(stage.services):
        for _ in range(500):
            if not files.path(old).exists():
                break
            await asyncio.sleep(0.01)
    assert not files.path(old).exists()
    await stage.services.database.close()
