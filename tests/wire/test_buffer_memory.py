"""What waits for all clients of a worker has a bound in memory, buffer_memory; here nothing may wait there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyserve_workers.native.connection import FLUSH
from wire.loop import Client, Server, eventually, small_window

pytestmark = pytest.mark.usefixtures("way")

SIZE = 9_000_000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
KEPT = os.urandom(SIZE)


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/kept":
        return [KEPT]
    return [environ["wsgi.input"].read() or os.urandom(4) * (SIZE // 4)]


def spool_files() -> int:
    """How many files without a name this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)")
        except OSError:  # it was for the listing
            continue
    return count


def whole(client: Client) -> bool:
    """Is the response that client.take() has begun to read what the app gave?"""
    client.take_until(b"\r\n\r\n")
    body = bytearray(client.buffer)  # take() would copy all of it with each small piece
    while len(body) < SIZE:
        body += client.socket.recv(65536)
    return body == body[:4] * (SIZE // 4)


def test_below_the_bound_a_large_response_waits_in_memory() -> None:
    with Server(echo) as server:
        files = spool_files()
        with small_window(server) as client:
            client.send(GET)
            eventually(lambda: server.context.held >= SIZE)
            assert spool_files() == files
            assert whole(client)
        eventually(lambda: server.context.held == 0)


def test_above_it_a_large_response_goes_to_a_file(tmp_path: Path) -> None:
    with Server(echo, buffer_memory=0, spool_dir=str(tmp_path)) as server:
        files = spool_files()
        with small_window(server) as client:
            client.send(GET)
            eventually(lambda: spool_files() == files + 1)
            eventually(lambda: server.context.held == 0)
            assert whole(client)
            eventually(lambda: spool_files() == files)


def test_what_the_app_keeps_anyway_does_not_count() -> None:
    with Server(echo, buffer_memory=0) as server:
        files = spool_files()
        with small_window(server) as client:
            client.send(GET.replace(b"/", b"/kept", 1))
            eventually(lambda: any(connection.state == FLUSH for connection in server.connections.values()))
            assert server.context.held == 0
            assert spool_files() == files
            client.take_until(b"\r\n\r\n")
            assert client.take(100_000) == KEPT[:100_000]


@pytest.mark.parametrize(
    "settings", [{"spool_dir": "/nowhere"}, {"response_spool": 1 << 20}], ids=["no disk", "too large"]
)
def test_if_there_is_no_file_for_it_it_stays(settings: dict[str, Any]) -> None:
    with Server(echo, buffer_memory=0, **settings) as server, small_window(server) as client:
        client.send(GET)
        eventually(lambda: server.context.held >= SIZE)
        assert whole(client)
        eventually(lambda: server.context.held == 0)


def test_a_body_goes_to_a_file_though_it_is_less_than_body_buffer(tmp_path: Path) -> None:
    body = os.urandom(60_000)
    with Server(echo, buffer_memory=0, spool_dir=str(tmp_path)) as server, server.connect() as client:
        files = spool_files()
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + body[:50_000])
        eventually(lambda: spool_files() == files + 1)
        client.send(body[50_000:])
        assert client.response().body == body
        eventually(lambda: spool_files() == files)
        assert server.context.held == 0


def test_a_small_body_never_does() -> None:
    with Server(echo, buffer_memory=0, spool_dir="/nowhere") as server, server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 5000)
        eventually(lambda: server.context.held > 0)
        client.send(b"x" * 5000)
        assert client.response().body == b"x" * 10_000
        assert server.context.held == 0


def test_a_long_head_is_refused() -> None:
    """What fits into the block that every connection may have is served as ever."""
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 4000) for number in range(10))
    head = b"GET /kept HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n"
    with Server(echo, buffer_memory=0) as server, server.connect() as client:
        client.send(head)
        response = client.response()
        assert response.status == 503
        assert client.closed()
        assert server.get("/kept", "X: " + "y" * 8000 + "\r\n").status == 200
    with Server(echo, buffer_memory=1) as server, server.connect() as client:
        client.send(head[:30_000])
        eventually(lambda: server.context.held >= 30_000)
        client.socket.shutdown(socket.SHUT_WR)
        eventually(lambda: server.context.held == 0)
