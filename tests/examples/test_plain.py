"""examples/plain: an app without a framework, every page of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from examples.running import Client, Example, serve_example


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, worker_class: str) -> Iterator[Example]:
    with serve_example("plain", tmp_path_factory.mktemp("plain")) as example:
        yield example


@pytest.fixture
def client(plain: Example) -> Iterator[Client]:
    with plain.client() as client:
        yield client


def test_index(client: Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "A plain WSGI app" in answer.text


def test_head_has_the_length_and_no_body(client: Client) -> None:
    answer = client.head("/")
    assert int(answer.headers["Content-Length"]) == len(client.get("/").content)
    assert answer.content == b""


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_echo(client: Client, size: int) -> None:
    body = random.Random(size).randbytes(size)
    answer = client.post("/echo", data=body, headers={"Content-Type": "image/x-noise"})
    assert answer.content == body
    assert answer.headers["Content-Type"] == "image/x-noise"


def test_echo_of_a_chunked_body(client: Client) -> None:
    blocks = [bytes([number]) * 10_000 for number in range(200)]
    answer = client.post("/echo", data=iter(blocks))
    assert answer.content == b"".join(blocks)


def test_stream_is_chunked(client: Client) -> None:
    with client.get("/stream", params={"lines": 5}, stream=True) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert list(answer.iter_lines()) == [b"line %d of 5" % number for number in range(1, 6)]


@pytest.mark.parametrize("lines", ["-1", "many", "1001", "²"])
def test_stream_of_no_such_length(client: Client, lines: str) -> None:
    assert client.get("/stream", params={"lines": lines}).status_code == 400


def test_environ(client: Client) -> None:
    answer = client.get("/environ?a=<b>", headers={"X-Colour": "<blue>"})
    assert "<td>REQUEST_METHOD</td><td>&#x27;GET&#x27;</td>" in answer.text
    assert "<td>HTTP_X_COLOUR</td><td>&#x27;&lt;blue&gt;&#x27;</td>" in answer.text
    assert "<td>wsgi.version</td><td>(1, 0)</td>" in answer.text


def test_no_such_page(client: Client) -> None:
    assert client.get("/nothing").status_code == 404
