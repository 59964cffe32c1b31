"""Clients that are never silent and never done: bodies that trickle, readers that sip. Honest slow ones are served.

The first ten seconds of each are free, so that these tests take a little longer than that. What each client does is
done in a thread of its own, until it is answered.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyserve_workers.native.crowd import put_off
from wire.loop import Client, Server, eventually, small_window

pytestmark = pytest.mark.usefixtures("way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
FREE = 10.0  # seconds without a rate: RATE_FIRST of rate.h
RATE = 100_000


def count(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"%d" % len(environ["wsgi.input"].read())]


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


# Bodies.


def post(client: Client, pieces: Iterator[bytes]) -> int:
    """Send pieces until they end or an answer comes; its status."""
    with client:
        for piece in pieces:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(piece)
            if select.select([client.socket], [], [], 0)[0]:
                break
        return client.response().status


def trickle() -> Iterator[bytes]:
    yield POST % 1_000_000
    while True:
        yield b"x"
        pause(0.1)


def chunks_that_trickle() -> Iterator[bytes]:
    yield CHUNKED
    while True:
        yield b"1\r\nx\r\n"
        pause(0.1)


def fast_at_first() -> Iterator[bytes]:
    yield POST % 10_000_000 + b"x" * 3_000_000
    while True:
        yield b"x"
        pause(0.1)


def steady(size: int) -> Iterator[bytes]:
    began = time.monotonic()
    yield CHUNKED
    while time.monotonic() < began + FREE + 2:
        yield b"%x\r\n%b\r\n" % (size, b"x" * size)
        pause(0.1)
    yield b"0\r\n\r\n"


def slow_but_steady() -> Iterator[bytes]:
    return steady(3000)


def very_slow() -> Iterator[bytes]:
    return steady(1)


def silent_at_first() -> Iterator[bytes]:
    yield POST % 5
    pause(FREE + 2)
    yield b"12345"


BODIES = {trickle: 408, chunks_that_trickle: 408, fast_at_first: 408, slow_but_steady: 200}


def test_bodies_that_trickle_are_refused_and_slow_ones_are_taken() -> None:
    with (
        Server(count, body_timeout=5) as server,
        Server(count, body_timeout=60) as patient,
        Server(count, body_timeout=5, body_min_rate=0) as without,
        ThreadPoolExecutor(8) as pool,
    ):
        found = [pool.submit(post, server.connect(), kind()) for kind in BODIES]
        silent = pool.submit(post, patient.connect(), silent_at_first())
        trickling = pool.submit(post, without.connect(), very_slow())
        assert [future.result() for future in found] == list(BODIES.values())
        assert silent.result() == 200
        assert trickling.result() == 200


def test_what_a_body_earns() -> None:
    """The first ten seconds, then the time that its bytes take at the least rate, and no more than body_timeout."""
    with Server(count, body_timeout=60) as server, server.connect() as client:

        def left() -> float:
            return next(iter(server.connections.values())).deadline - time.monotonic()

        client.send(POST % 1_000_000)
        eventually(lambda: any(c.unfinished for c in server.connections.values()))
        eventually(lambda: 40 < left() <= 60)
        client.send(b"x" * 2500)
        eventually(lambda: left() <= 15)
        assert left() > 5
        client.send(b"x" * 5000)
        eventually(lambda: left() > 15)
        assert left() <= 25
        client.send(b"x" * 500_000)
        eventually(lambda: left() > 40)
        assert left() <= 60


def test_clients_that_nobody_could_hear_have_more_time() -> None:
    with Server(count) as server, server.connect() as head, server.connect() as body, small_window(server) as reader:
        head.send(GET[:5])
        body.send(POST % 1000 + b"x" * 10)
        reader.send(POST % 10_000_000)
        eventually(lambda: sum(c.unfinished for c in server.connections.values()) == 3)
        before = {fd: connection.deadline for fd, connection in server.connections.items()}
        put_off(server.connections, 100.0)
        assert all(99 < c.deadline - before[fd] < 101 for fd, c in server.connections.items())


# Readers.


def large(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    size = int(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Length", str(size))])
    if environ["PATH_INFO"] == "/list":
        return [b"x" * size]
    return (b"x" * 50_000 for _ in range(size // 50_000))


def get(path: str) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode()


def read(client: Client, path: str, rate: int) -> int:
    """Read a response with so many bytes a second; how many bytes of its body came before the end or a reset."""
    with client:
        client.send(get(path))
        client.take_until(b"\r\n\r\n")
        received, client.buffer = len(client.buffer), b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.socket.recv(rate // 20):
                received += len(data)
                pause(len(data) / rate)
    return received


SIZE = 12_000_000
LOOP: dict[str, Any] = {}
WRITER = {"response_buffer": 50_000, "response_spool": 200_000}  # the app waits for its client


def sips(path: str, **limits: Any) -> None:
    with Server(large, write_timeout=60, response_min_rate=RATE, **limits) as server:
        assert read(small_window(server), f"{path}?{SIZE}", RATE // 5) < SIZE
        eventually(lambda: "cut: it has not read its response in time" in server.log.texts("info"))
        assert server.get("/list?5").body == b"xxxxx"


def is_slow(**limits: Any) -> None:
    with Server(large, write_timeout=60, response_min_rate=RATE, **limits) as server:
        assert read(small_window(server), f"/stream?{SIZE}", 10 * RATE) == SIZE


def reads_what_the_kernel_keeps(**limits: Any) -> None:
    """That takes megabytes, and asks for more only when a third of them is gone. Its client reads all the time."""
    with Server(large, write_timeout=2, **limits) as server:
        assert read(small_window(server, 65536), f"/stream?{SIZE // 3}", 3 * RATE) == SIZE // 3


def has_nothing_to_read() -> None:
    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        began = time.monotonic()
        while time.monotonic() < began + FREE + 2:
            yield b"tick"
            pause(0.5)
        yield b"end"

    with Server(app, response_min_rate=1 << 20, write_timeout=60) as server, server.connect() as client:
        client.send(GET)
        assert client.response().body.endswith(b"end")


def test_readers_that_sip_are_cut_and_slow_ones_are_served() -> None:
    with ThreadPoolExecutor(9) as pool:
        readers = [pool.submit(has_nothing_to_read), pool.submit(sips, "/list")]
        for limits in (LOOP, WRITER):
            readers.append(pool.submit(sips, "/stream", **limits))
            readers.append(pool.submit(is_slow, **limits))
            readers.append(pool.submit(reads_what_the_kernel_keeps, **limits))
        for reader in readers:
            reader.result()
