"""Requests that come before their predecessors are answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from wire.loop import Server, small_window

pytestmark = pytest.mark.usefixtures("way")

PIECE = b"x" * 65536


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    body = environ["wsgi.input"].read() + environ["PATH_INFO"].encode()
    start_response("200 OK", [])
    if environ["PATH_INFO"].startswith("/stream"):
        return iter([body, b"."])
    if environ["PATH_INFO"].startswith("/large"):
        return [PIECE * 50]
    return [body]


def request(n: int) -> bytes:
    if n % 3 == 0:
        return b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n
    if n % 3 == 1:
        return b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" % n
    return b"POST /stream%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" % n


def expected(n: int) -> bytes:
    return [b"/%d", b"hello/%d", b"abc/stream%d."][n % 3] % n


def test_answers_come_in_order() -> None:
    with Server(app) as server, server.connect() as client:
        client.send(b"".join(request(n) for n in range(1000)))
        for n in range(1000):
            assert client.response().body == expected(n)


def test_answers_to_waiting_requests_are_sent_together() -> None:
    with Server(app) as server, server.connect() as client:
        client.send(request(0) * 10)
        client.response()
        assert client.buffer.count(b"HTTP/1.1 200 OK") == 9


def test_a_client_that_does_not_wait_leaves_turns_to_others() -> None:
    """It has more requests in the server's buffer than one turn of the loop runs."""
    order: list[str] = []

    def noting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        order.append(environ["PATH_INFO"])
        if len(order) == 1:
            arrived.wait(10)
        return app(environ, start_response)

    arrived = threading.Event()
    with Server(noting) as server, server.connect() as greedy, server.connect() as other:
        greedy.send(b"GET /greedy HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        other.send(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        arrived.set()
        assert other.response().status == 200
        for _ in range(400):
            assert greedy.response().status == 200
    assert order.index("/other") < 200


def test_nothing_is_read_while_a_response_waits_for_its_client() -> None:
    """Back-pressure: else a client could fill our memory with requests whose answers it does not read."""
    with Server(app) as server, small_window(server) as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert server.get("/0").body == b"/0"
        bytes_in = int.from_bytes(server.slot[72:80], "little")
        client.send(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert server.get("/0").body == b"/0"
        assert int.from_bytes(server.slot[72:80], "little") - bytes_in < 100
        for _ in range(3):
            assert client.response().body == PIECE * 50
        for _ in range(2):
            assert client.response().body == b"/0"


def test_an_unread_body_is_not_the_next_request() -> None:
    def careless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with Server(careless) as server, server.connect() as client:
        client.send(b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
        client.send(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [client.response().body, client.response().body] == [b"/first", b"/second"]


def test_requests_behind_connection_close_are_not_run() -> None:
    seen: list[str] = []

    def noting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        seen.append(environ["PATH_INFO"])
        return app(environ, start_response)

    with Server(noting) as server, server.connect() as client:
        client.send(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + request(0))
        assert client.response().body == b"/last"
        assert client.closed()
    assert seen == ["/last"]
