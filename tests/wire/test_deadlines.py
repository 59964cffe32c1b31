"""Slow and silent clients: 408 or a close, in time, while others are served. No test measures how long it took."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyserve_workers.native.connection import Connection
from wire.loop import PATIENCE, Client, Server, eventually

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"ok"]


def served(server: Server) -> bool:
    return server.get().body == b"ok"


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", GET[:-1]])
@pytest.mark.parametrize("before", [b"", GET])
def test_a_head_that_is_not_completed(sent: bytes, before: bytes) -> None:
    with Server(app, header_timeout=0.2) as server, server.connect() as client:
        client.send(before + sent)
        if before:
            assert client.response().status == 200
        assert client.response().status == 408
        assert client.closed()
        assert "refused with 408: the request head did not arrive in time" in server.log.texts("info")
        assert served(server)


def test_bytes_that_trickle_do_not_extend_the_deadline() -> None:
    with Server(app, header_timeout=0.5) as server, server.connect() as client:
        client.socket.settimeout(0.02)
        client.send(b"GET / HTTP/1.1\r\n")
        for i in range(10_000):
            try:
                client.send(b"X-%d: 1\r\n" % i)
                client.buffer += client.socket.recv(1000)
                break
            except TimeoutError:
                continue
        assert client.buffer.startswith(b"HTTP/1.1 408 ")


def test_a_new_connection_that_says_nothing_is_closed_without_a_word() -> None:
    """A browser opens connections in advance; a 408 would be its answer to the request that it sends later."""
    with Server(app, header_timeout=0.2) as server, server.connect() as client:
        assert client.closed()
        assert server.log.records == []


def test_an_idle_connection_is_closed_without_a_word() -> None:
    with Server(app, keep_alive=0.2) as server, server.connect() as client:
        client.send(GET)
        assert client.response().status == 200
        assert client.closed()
        assert server.log.records == []


def test_an_empty_line_behind_a_request_begins_no_other() -> None:
    """Old clients end a body with one CRLF too many, and wait: a 408 would be the answer to their next request."""
    with Server(app, header_timeout=0.5) as server, server.connect() as client:
        client.send(GET + b"\r\n")
        assert client.response().status == 200
        eventually(lambda: all(c.idle and not c.unfinished for c in server.connections.values()))
        assert client.closed()
        assert server.log.texts("info") == ""


def test_keep_alive_is_not_the_header_timeout() -> None:
    with Server(app, header_timeout=0.1, keep_alive=60) as server, server.connect() as client:
        for _ in range(3):
            client.send(GET)
            assert client.response().status == 200
            connection = next(iter(server.connections.values()))
            eventually(lambda connection=connection: connection.idle)  # type: ignore[misc]
            assert connection.deadline > 30
            threading.Event().wait(0.3)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n",
    ],
)
def test_a_body_that_is_not_completed(sent: bytes) -> None:
    with Server(app, body_timeout=0.2) as server, server.connect() as client:
        client.send(sent)
        assert client.response().status == 408
        assert client.closed()
        assert "refused with 408: the body did not arrive in time" in server.log.texts("info")
        assert served(server)


def test_each_byte_extends_the_body_timeout() -> None:
    with Server(app, body_timeout=0.5) as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            threading.Event().wait(0.05)
            client.send(b"x")
        assert client.response().status == 200


def test_timeouts_of_0_are_none() -> None:
    with Server(app, header_timeout=0, body_timeout=0, write_timeout=0) as server, server.connect() as client:
        client.send(GET[:5])
        eventually(lambda: any(c.unfinished for c in server.connections.values()))
        assert [c.deadline for c in server.connections.values()] == [float("inf")]
        client.send(GET[5:])
        assert client.response().status == 200


def test_a_refused_client_that_never_closes_is_closed() -> None:
    with Server(app) as server, server.connect() as client:
        client.send(b"BAD\r\n\r\n")
        assert client.response().status == 400
        assert client.closed()
        assert len(server.connections) == 1  # half-closed, for some seconds
        connection = next(iter(server.connections.values()))
        assert 0 < connection.deadline < float("inf")
        eventually(lambda: not server.connections)


def test_a_client_that_never_stops_sending_is_closed() -> None:
    """The draining of what nobody wants has an end."""
    with Server(app) as server, server.connect() as client:
        client.send(b"BAD\r\n\r\n")
        assert client.response().status == 400
        try:
            for _ in range(4000):
                client.send(b"x" * 16384)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("64 MB were taken")


def test_an_idle_connection_retires() -> None:
    with Server(app) as server, server.connect() as client, server.connect() as silent:
        client.send(GET)
        client.response()
        eventually(lambda: len(server.connections) == 2 and all(c.idle for c in server.connections.values()))
        for connection in list(server.connections.values()):
            assert not connection.unfinished
            connection.retire()
        assert client.closed()
        assert silent.closed()
        client.socket.close()
        silent.socket.close()
        eventually(lambda: not server.connections)


def test_a_busy_connection_does_not_retire() -> None:
    with Server(app) as server, server.connect() as client:
        client.send(GET[:5])
        eventually(lambda: any(c.unfinished for c in server.connections.values()))
        for connection in list(server.connections.values()):
            assert not connection.idle
            assert connection.retire() == 1
        client.send(GET[5:])
        assert client.response().status == 200


def test_many_half_sent_heads_leave_the_loop_free() -> None:
    with Server(app) as server:
        clients = [server.connect() for _ in range(300)]
        for client in clients:
            client.send(GET[:-2])
        assert all(served(server) for _ in range(20))
        for client in clients:
            client.send(GET[-2:])
        assert all(client.response().status == 200 for client in clients)
        for client in clients:
            client.socket.close()


def test_resets_at_any_point_harm_nobody() -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    with Server(app) as server:
        for size in range(len(request) + 1):
            client = Client(server.address)
            client.send(request[:size])
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.socket.close()
        assert served(server)
        eventually(lambda: not server.connections)
        assert server.log.texts("error") == ""


@pytest.mark.parametrize(
    ("before", "begun", "rest", "settings"),
    [
        (b"", GET[:5], GET[5:], {"header_timeout": 2}),
        (b"", POST + b"ab", b"cde", {"body_timeout": 2}),
        (GET, b"", GET, {"keep_alive": 2}),
    ],
    ids=["a head", "a body", "a request on an idle connection"],
)
def test_what_came_in_time_is_heard_though_the_worker_was_busy(
    before: bytes, begun: bytes, rest: bytes, settings: dict[str, Any]
) -> None:
    """The app keeps the loop beyond everybody's deadline. What has come meanwhile counts before it is said to be late."""
    entered, told = threading.Event(), threading.Event()

    def busy(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/busy":
            entered.set()
            told.wait()
        return app(environ, start_response)

    with Server(busy, **settings) as server, server.connect() as client, server.connect() as other:
        if before:
            client.send(before)
            assert client.response().body == b"ok"
        client.send(begun)
        eventually(lambda: len(server.connections) == 2 and (not begun or any(c.unfinished for c in all_of(server))))
        other.send(GET.replace(b"/", b"/busy", 1))
        assert entered.wait(PATIENCE)
        client.send(rest)
        deadline = min(c.deadline for c in all_of(server))
        eventually(lambda: time.monotonic() > deadline)
        told.set()
        assert client.response().body == b"ok"
        assert other.response().body == b"ok"


def all_of(server: Server) -> list[Connection]:
    return list(server.connections.values())
