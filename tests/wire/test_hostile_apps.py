"""Apps that do what no app should: threads that read or write at once, objects whose methods run when the server only
looks at them, calls after the end. Each gets an error of its own; other clients, and the memory, are untouched."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wire.apps import TEXT, serving
from wire.loop import PATIENCE, Server, eventually

pytestmark = pytest.mark.usefixtures("way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

# Threads that read one wsgi.input at once.

LINES = [b"%07d %s\n" % (n, b"x" * (n * 7919 % 700)) for n in range(4000)]
BODY = b"".join(LINES)
READERS = 6
ONE_AT_A_TIME = "wsgi.input is being read by another thread"


def into(stream: Any, random: random.Random) -> bytes:
    buffer = bytearray(random.randrange(1, 9000))
    return bytes(buffer[: stream.readinto(buffer)])


WAYS_TO_READ: list[Callable[[Any, random.Random], bytes]] = [
    lambda stream, _: stream.readline(),
    lambda stream, random: stream.readline(random.randrange(1, 300)),
    lambda stream, random: stream.read(random.randrange(1, 90_000)),
    lambda stream, _: next(stream, b""),
    lambda stream, random: b"".join(stream.readlines(random.randrange(1, 3000))),
    into,
]


def post(server: Server, body: bytes) -> Any:
    client = server.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client


def census(data: bytes) -> dict[int, int]:
    return {byte: data.count(byte) for byte in set(data)}


def read_all(stream: Any, seed: int, pieces: list[bytes], refused: list[str]) -> None:
    chance = random.Random(seed)
    while True:
        try:
            piece = chance.choice(WAYS_TO_READ)(stream, chance)
        except RuntimeError as error:
            refused.append(str(error))
            continue
        if not piece:
            return
        pieces.append(piece)


def in_threads(do: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=do, args=(number,), daemon=True) for number in range(READERS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("limit", [1 << 30, 10], ids=["in memory", "spooled"])
def test_readers_at_once_get_each_byte_once_or_an_error(limit: int) -> None:
    pieces: list[bytes] = []
    refused: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        stream = environ["wsgi.input"]
        for thread in in_threads(lambda number: read_all(stream, number, pieces, refused)):
            thread.join(PATIENCE)
        start_response("200 OK", TEXT)
        return [stream.read()]

    with serving(app, body_buffer=limit) as server, post(server, BODY * 10) as client:
        response = client.response()
        assert (response.status, response.body) == (200, b"")
    assert census(b"".join(pieces)) == census(BODY * 10)
    assert all(ONE_AT_A_TIME in text for text in refused)


def test_readers_that_go_on_after_the_end() -> None:
    """Each gets whole pieces or an error, and the spool file is closed when the last of them has left it."""
    threads: list[threading.Thread] = []
    ends: list[str] = []
    at_work = threading.Barrier(READERS + 1)

    def read(stream: Any, number: int) -> None:
        at_work.wait(PATIENCE)
        while True:
            try:
                if stream.readline() == b"":
                    ends.append("read to its end")
                    return
            except RuntimeError:
                continue
            except ValueError as error:
                ends.append(str(error))
                return

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            stream = environ["wsgi.input"]
            threads.extend(in_threads(lambda number: read(stream, number)))
            at_work.wait(PATIENCE)
        start_response("200 OK", TEXT)
        return [b"ok"]

    with serving(app, body_buffer=10) as server:
        server.get()
        before = descriptors()
        for _ in range(5):
            with post(server, BODY * 5) as client:
                assert client.response().body == b"ok"
                assert server.get().body == b"ok"
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        eventually(lambda: descriptors() <= before)
    assert set(ends) <= {"wsgi.input was read after its request had ended", "read to its end"}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
