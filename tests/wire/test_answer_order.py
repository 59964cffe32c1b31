"""Answers come one after the other, each whole: behind a large one too, however it is made, sent and read.

Behind the request for it stands what makes the server speak at once. Every byte of a connection is accounted for.
"""

from __future__ import annotations

import io
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyserve_workers.native.connection import FLUSH, RUNNING
from support import WORKER_CLASSES
from wire import ways
from wire.loop import Client, Server, eventually

LARGE = 300_000
LARGER = 900_000  # more than the kernel takes for a client of a unix socket that does not read


@cache
def content(path: str, size: int) -> bytes:
    """No two paths have the same, and no part of it looks like another."""
    line = "".join(f"{path} {number:06}\n" for number in range(size // (len(path) + 8) + 1))
    return line.encode()[:size]


class Large:
    """An app with an answer of that size, in all ways of making one, and small ones."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self.file = folder / "file"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read()
        if path == "/cut":
            start_response("200 OK", [])
            return fail_behind(parts(content(path, self.size), 17_000))
        make = getattr(self, f"as_{path[1:]}", None)
        if make is None:
            start_response("200 OK", [])
            return [f"{path} {len(body)}".encode()]
        return make(content(path, self.size), environ["wsgi.file_wrapper"], start_response)

    def as_item(self, data: bytes, _: Any, start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(memoryview(data))]  # an object that nobody else keeps

    def as_list(self, data: bytes, _: Any, start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return parts(data, 70_000)

    def as_generator(self, data: bytes, _: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from parts(data, 17_000)

    def as_counted(self, data: bytes, _: Any, start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(len(data)))])
        yield from parts(data, 90_000)

    def as_written(self, data: bytes, _: Any, start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [])
        write(data[:1000])
        write(data[1000:-2000])
        return parts(data[-2000:], 1000)

    def as_file(self, data: bytes, wrapper: Any, start_response: Callable[..., Any]) -> Any:
        self.file.write_bytes(data)
        start_response("200 OK", [])
        return wrapper(self.file.open("rb"))

    def as_buffer(self, data: bytes, wrapper: Any, start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return wrapper(io.BytesIO(data))


def fail_behind(chunks: list[bytes]) -> Iterator[bytes]:
    yield from chunks
    raise RuntimeError("meant to fail")


def parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


PATHS = [f"/{name.removeprefix('as_')}" for name in vars(Large) if name.startswith("as_")]


def head(start: str, *lines: str) -> bytes:
    return "\r\n".join([f"{start} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


Answer = tuple[int, bytes]  # status, body; the body of a refusal is whatever it says


class Behind(NamedTuple):
    """``sent``, and ``later`` when the server has said 100; its answers, the last of which may end the connection."""

    sent: bytes
    answers: list[Answer]
    closes: bool = False
    later: bytes = b""


def refused(sent: bytes, status: int, *before: Answer) -> Behind:
    return Behind(sent, [*before, (status, b"")], closes=True)


EXPECT = head("POST /five", "Content-Length: 5", "Expect: 100-continue")
POST = head("POST /five", "Content-Length: 5") + b"hello"
FIVE: Answer = (200, b"/five 5")
CHUNKED = head("POST /five", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"

BEHIND: dict[str, Behind] = {
    "nothing": Behind(b"", []),
    "a bad request": refused(b"BAD\r\n\r\n", 400),
    "no Host": refused(b"GET / HTTP/1.1\r\n\r\n", 400),
    "a long cookie": refused(head("GET /", "Cookie: " + "a" * 9000), 431),
    "a long cookie without end": refused(head("GET /")[:-2] + b"Cookie: " + b"a" * 60_000, 431),
    "a large body": refused(head("POST /five", "Content-Length: 512000") + POST * 100, 413),
    "an expectation": refused(head("POST /five", "Content-Length: 5", "Expect: tea"), 417),
    "100-continue": Behind(EXPECT, [FIVE], later=b"hello"),
    "100-continue, not waited for": Behind(EXPECT + b"hello", [FIVE]),
    "100-continue behind a POST": Behind(POST + EXPECT, [FIVE, FIVE], later=b"hello"),
    "a POST and two empty lines": refused(POST + b"\r\n\r\n", 400, FIVE),
    "a POST and an empty line": Behind(POST + b"\r\n", [FIVE]),
    "chunks": Behind(CHUNKED, [FIVE]),
    "chunks that are none": refused(CHUNKED[:-5] + b"zz\r\n", 400),
    "a GET": Behind(head("GET /small"), [(200, b"/small 0")]),
    "many GETs": Behind(head("GET /small") * 100, [(200, b"/small 0")] * 100),
    "the last GET": Behind(head("GET /small", "Connection: close") + b"BAD\r\n\r\n", [(200, b"/small 0")], closes=True),
    "an old GET": Behind(b"GET /small HTTP/1.0\r\n\r\n" + POST, [(200, b"/small 0")], closes=True),
    "a GET and a bad request": refused(head("GET /small") + b"BAD\r\n\r\n", 400, (200, b"/small 0")),
}
MOMENTS = ("at once", "meanwhile")  # when the client sends it


@pytest.fixture(scope="module", params=WORKER_CLASSES)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with ways.choose(request.param):
        yield request.param


def check(client: Client, behind: Behind) -> None:
    """All that comes behind the large answer."""
    if behind.later:
        for status, body in behind.answers[:-1]:
            check_answer(client, status, body)
        assert client.response().status == 100
        client.send(behind.later)
        check_answer(client, *behind.answers[-1])
    else:
        for status, body in behind.answers:
            check_answer(client, status, body)
    if not behind.closes:
        client.send(head("GET /after", "Connection: close"))
        check_answer(client, 200, b"/after 0")
    assert client.closed()


def check_answer(client: Client, status: int, body: bytes) -> None:
    answer = client.response()
    assert (answer.status, answer.body) == (status, body or answer.body)


def check_large(client: Client, method: str, path: str, size: int) -> None:
    answer = client.response(method)
    assert answer.status == 200
    if method == "GET":
        assert answer.body == content(path, size)


@pytest.fixture(scope="module")
def server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    app = Large(LARGE, tmp_path_factory.mktemp("order"))
    with Server(app, limit_request_body=1000) as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
def test_behind_a_large_answer(server: Server, path: str, method: str) -> None:
    request = head(f"{method} {path}")
    for behind, moment in itertools.product(BEHIND.values(), MOMENTS):
        with server.connect() as client:
            if moment == "at once":
                client.send(request + behind.sent)
            else:
                client.send(request)
                client.more()
                client.send(behind.sent)
            check_large(client, method, path, LARGE)
            check(client, behind)


def test_behind_several(server: Server) -> None:
    for behind in BEHIND.values():
        with server.connect() as client:
            client.send(b"".join(head(f"GET {path}") for path in PATHS) + behind.sent)
            for path in PATHS:
                check_large(client, "GET", path, LARGE)
            check(client, behind)


SLOW: dict[str, dict[str, Any]] = {  # where what the kernel does not take waits
    "in memory": {},
    "in a file": {"buffer_memory": 0, "response_buffer": 20_000},
    "in memory and in a file": {"response_buffer": 50_000},
}


@pytest.mark.parametrize("where", SLOW)
def test_behind_one_that_is_read_slowly(kind: str, tmp_path: Path, where: str) -> None:
    """Nothing is read before the server can send no more, and it has looked at what came behind."""
    app = Large(LARGER, tmp_path)
    settings = {"limit_request_body": 1000, "spool_dir": str(tmp_path), **SLOW[where]}
    with Server(app, unix=str(tmp_path / "socket"), **settings) as server:
        for path, behind, moment in itertools.product(PATHS, BEHIND.values(), MOMENTS):
            with server.connect() as client:
                client.send(head(f"GET {path}") + (behind.sent if moment == "at once" else b""))
                eventually(lambda: any(connection.state == FLUSH for connection in server.connections.values()))
                if moment == "meanwhile":
                    send_what_fits(client, behind.sent)
                assert server.get("/other").status == 200
                check_large(client, "GET", path, LARGER)
                check(client, behind)
            eventually(lambda: not server.connections)


def send_what_fits(client: Client, data: bytes) -> None:
    """A socket's buffer takes all of it; nobody reads it yet."""
    client.socket.setblocking(False)
    assert client.socket.send(data) == len(data)
    client.socket.settimeout(20)


@pytest.mark.parametrize("path", ["/generator", "/counted", "/written"])
def test_behind_one_whose_app_waits_for_its_client(kind: str, tmp_path: Path, path: str) -> None:
    app = Large(LARGER, tmp_path)
    settings: dict[str, Any] = {"limit_request_body": 1000, "response_buffer": 20_000, "response_spool": 30_000}
    with Server(app, unix=str(tmp_path / "socket"), **settings) as server:
        for behind in BEHIND.values():
            with server.connect() as client:
                client.send(head(f"GET {path}") + behind.sent)
                eventually(lambda: any(c.state == RUNNING and not c.running for c in server.connections.values()))
                check_large(client, "GET", path, LARGER)
                check(client, behind)
            eventually(lambda: not server.connections)


def test_behind_one_that_is_cut(server: Server) -> None:
    """Nothing is answered any more, and what has come of it is all that comes."""
    for behind, moment in itertools.product(BEHIND.values(), MOMENTS):
        with server.connect() as client:
            client.send(head("GET /cut") + (behind.sent if moment == "at once" else b""))
            assert client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
            if moment == "meanwhile":
                client.send(behind.sent)
            assert client.rest() == b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in CUT)


CUT = parts(content("/cut", LARGE), 17_000)


def test_a_head_that_comes_too_late_behind_one_that_is_read_slowly(kind: str, tmp_path: Path) -> None:
    """Its time begins when it can be heard."""
    app = Large(LARGER, tmp_path)
    with Server(app, unix=str(tmp_path / "socket"), header_timeout=0.1) as server, ExitStack() as stack:
        clients = {path: stack.enter_context(server.connect()) for path in PATHS}
        for path, client in clients.items():
            client.send(head(f"GET {path}") + b"GET /small HTTP/1.1\r\n")
        threading.Event().wait(0.3)
        for path, client in clients.items():
            check_large(client, "GET", path, LARGER)
            check_answer(client, 408, b"")
            assert client.closed()


def test_a_client_that_says_no_more_gets_all(server: Server) -> None:
    for path, moment in itertools.product(PATHS, MOMENTS):
        with server.connect() as client:
            client.send(head(f"GET {path}") + head("GET /small"))
            if moment == "meanwhile":
                client.more()
            client.socket.shutdown(socket.SHUT_WR)
            check_large(client, "GET", path, LARGE)
            check_answer(client, 200, b"/small 0")
            assert client.closed()
