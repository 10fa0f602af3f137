"""Query strings, as OpenAI's clients write them."""

from __future__ import annotations

import pytest
from pydantic import Field
from starlette.requests import Request

from osslo.api.body import StrictSchema
from osslo.api.query import read_query
from osslo.errors import RequestError


class Query(StrictSchema):
    limit: int = Field(20, ge=1, le=100)
    stream: bool = False
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    name: str | None = None


def read(query: str) -> Query:
    scope = {"type": "http", "query_string": query.encode(), "headers": []}
    return read_query(Request(scope), Query)


@pytest.mark.parametrize(
    ("query", "read_as"),
    [
        ("", Query()),
        ("limit=7&stream=true", Query(limit=7, stream=True)),
        ("include=a&include=b", Query(include=["a", "b"])),
        ("include[]=a&include[]=b", Query(include=["a", "b"])),
        ("metadata[a]=1&metadata[b%20c]=2", Query(metadata={"a": "1", "b c": "2"})),
        ("name=123", Query(name="123")),
        ("name=%F0%9F%98%80", Query(name="😀")),
    ],
)
def test_every_form(query: str, read_as: Query) -> None:
    assert read(query) == read_as


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("stream=perhaps", "stream"),
        ("banana=1", "banana"),
        ("metadata=1", "metadata"),
        ("metadata=1&metadata[a]=2", "metadata"),
        ("metadata[a]=1&metadata[b]=2&metadata=3", "metadata"),
        ("name[a]=1", "name"),
    ],
)
def test_what_is_wrong_is_named(query: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(query)
    assert caught.value.param == param
