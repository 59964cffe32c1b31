"""What all clients of a worker have in files has a bound, spool_limit; and there may be no place for files at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyserve.ipc.scoreboard import Slot
from wire.loop import PATIENCE, Client, Server, eventually, small_window
from wire.test_buffer_memory import spool_files

pytestmark = pytest.mark.usefixtures("way")

BODY_BUFFER = 50_000
LIMIT = 1_000_000
HEAD = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n"
EXPECT = b"Expect: 100-continue\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_PLACE = "refused with 503: there is no room for so large a body now"


def count(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"%d" % len(environ["wsgi.input"].read())]


def limited(app: Any = count, **settings: Any) -> Server:
    return Server(app, **{"body_buffer": BODY_BUFFER, "spool_limit": LIMIT, **settings})


def spooled(server: Server) -> int:
    """As the master reads it."""
    return Slot(memoryview(server.slot)).get("spooled")


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size)


def post(server: Server, size: int) -> int:
    with server.connect() as client:
        client.send(HEAD % (b"", size, b"Connection: close\r\n") + b"x" * size)
        response = client.response()
        assert response.status != 200 or response.body == b"%d" % size
        return response.status


def test_who_asks_first_is_refused_before_it_sends_a_body() -> None:
    with limited() as server:
        for size in (LIMIT + 1, 10 * LIMIT):
            with server.connect() as client:
                client.send(HEAD % (b"", size, EXPECT))
                response = client.response()
                assert (response.status, response.headers["connection"]) == (503, "close")
                assert client.closed()
        assert server.log.texts("info").count(NO_PLACE) == 1
        with server.connect() as client:
            client.send(HEAD % (b"", LIMIT, EXPECT))
            assert client.response().status == 100
            client.send(b"x" * LIMIT)
            assert client.response().body == b"%d" % LIMIT
        assert server.log.texts("error") == ""


def test_a_chunked_body_is_refused_when_it_is_too_large() -> None:
    with limited() as server, server.connect() as client:
        client.send(CHUNKED + chunk(LIMIT // 2))
        eventually(lambda: spooled(server) > 0)
        client.send(chunk(LIMIT // 2) + chunk(1))
        assert client.response().status == 503
        assert client.closed()
        eventually(lambda: spooled(server) == 0)


def test_what_others_have_in_files_counts(tmp_path: Path) -> None:
    with limited(spool_dir=str(tmp_path)) as server, server.connect() as other:
        files = spool_files()
        other.send(HEAD % (b"", LIMIT, b"") + b"x" * (LIMIT - 100_000))
        eventually(lambda: spooled(server) == LIMIT - 100_000)
        assert post(server, 99_999) == 200
        assert post(server, 200_000) == 503
        assert post(server, BODY_BUFFER) == 200, "what is small is in memory"
        other.send(b"x" * 100_000)
        assert other.response().body == b"%d" % LIMIT
        eventually(lambda: spooled(server) == 0 and spool_files() == files)
        assert post(server, 200_000) == 200


def test_of_two_that_are_too_large_together_one_is_served() -> None:
    """Each was told to go on, for there was room. Who needs more than there is goes, and leaves its room to the other."""
    with limited() as server, server.connect() as one, server.connect() as two:
        for client in (one, two):
            client.send(HEAD % (b"", LIMIT - 1, EXPECT))
            assert client.response().status == 100
        for client in (one, two):
            client.send(b"x" * (LIMIT // 2 - 1))
        eventually(lambda: spooled(server) == LIMIT - 2)
        one.send(b"x" * 10)
        assert one.response().status == 503
        eventually(lambda: spooled(server) == LIMIT // 2 - 1)
        two.send(b"x" * (LIMIT // 2))
        assert two.response().body == b"%d" % (LIMIT - 1)


@pytest.mark.parametrize("end", ["close", "half-close"])
def test_a_client_that_goes_away_leaves_its_room(end: str) -> None:
    with limited() as server:
        client = server.connect()
        client.send(HEAD % (b"", LIMIT, b"") + b"x" * 500_000)
        eventually(lambda: spooled(server) == 500_000)
        if end == "half-close":
            client.socket.shutdown(1)
            assert client.response().status == 400
        client.socket.close()
        eventually(lambda: spooled(server) == 0)


def test_a_body_in_the_app_counts_and_one_that_the_app_keeps_does_not() -> None:
    kept: list[Any] = []
    seen: list[int] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(spooled(server))
        kept.append(environ["wsgi.input"])
        return count(environ, start_response)

    with limited(app) as server:
        assert post(server, 600_000) == 200
        assert post(server, 700_000) == 200
        eventually(lambda: spooled(server) == 0)
    assert seen == [600_000, 700_000]
    assert len(kept) == 2


# Responses.

PIECE = bytes(range(256)) * 256  # 64 KiB
PIECES = 200


class Stream:
    """A body that counts what was taken from it."""

    def __init__(self) -> None:
        self.given = 0
        self.closed = threading.Event()

    def __call__(self, _environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("Content-Length", str(PIECES * len(PIECE)))])
        return self

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(PIECES):
            self.given += 1
            yield PIECE

    def close(self) -> None:
        self.closed.set()


def read_all(client: Client) -> bytes:
    client.take_until(b"\r\n\r\n")
    parts, left = [client.buffer], PIECES * len(PIECE) - len(client.buffer)
    while left:
        parts.append(client.socket.recv(1 << 16))
        left -= len(parts[-1])
    return b"".join(parts)


def test_an_app_waits_for_its_client_where_no_more_may_be_spooled() -> None:
    """As it does beyond response_spool. The room is used again, and what came through is whole."""
    stream = Stream()
    with limited(stream, response_buffer=0, write_timeout=60) as server, small_window(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: spooled(server) == LIMIT)
        eventually(lambda: "its response cannot be spooled: spool_limit is reached" in server.log.texts("warning"))
        assert not stream.closed.is_set()
        assert read_all(client) == PIECE * PIECES
        assert stream.closed.wait(PATIENCE)
        eventually(lambda: spooled(server) == 0)
        assert server.log.texts("warning").count("spool_limit is reached") == 1


def test_a_body_has_no_room_where_responses_have_it_all(way: str) -> None:
    if way == "sync":
        pytest.skip("its loop waits for the client")
    stream = Stream()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return (count if environ["REQUEST_METHOD"] == "POST" else stream)(environ, start_response)

    with limited(app, response_buffer=0, write_timeout=60) as server, small_window(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: spooled(server) == LIMIT)
        assert post(server, 100_000) == 503
        assert read_all(client) == PIECE * PIECES
        eventually(lambda: spooled(server) == 0)
        assert post(server, 100_000) == 200


def test_a_response_that_fits_is_spooled_and_the_app_goes_on() -> None:
    stream = Stream()
    size = PIECES * len(PIECE)
    with limited(stream, response_buffer=0, spool_limit=size) as server, small_window(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.closed.wait(PATIENCE)
        assert 0 < spooled(server) <= size
        assert read_all(client) == PIECE * PIECES
        eventually(lambda: spooled(server) == 0)
        assert server.log.texts("warning") == ""


# Without a place for files.


def test_without_a_place_bodies_are_in_memory_as_far_as_buffer_memory_goes() -> None:
    with limited(spool_dir=None, buffer_memory=LIMIT) as server:
        files = spool_files()
        assert post(server, 800_000) == 200
        with server.connect() as client:
            client.send(HEAD % (b"", LIMIT + 1, EXPECT))
            assert client.response().status == 503
            assert client.closed()
        with server.connect() as client, server.connect() as other:
            client.send(CHUNKED + chunk(600_000))
            eventually(lambda: server.context.held >= 600_000)
            other.send(HEAD % (b"", 600_000, EXPECT))
            assert other.response().status == 503
            assert post(server, 10_000) == 200, "what is small always has a place"
            client.send(chunk(600_000))
            assert client.response().status == 503
        eventually(lambda: server.context.held == 0)
        assert post(server, 800_000) == 200
        assert spool_files() == files
        assert (server.log.texts("warning"), server.log.texts("error")) == ("", "")


@pytest.mark.parametrize("limits", [{}, {"buffer_memory": 0}], ids=["", "no memory"])
def test_without_a_place_an_app_waits_for_its_client(limits: dict[str, Any]) -> None:
    stream = Stream()
    with limited(stream, spool_dir=None, response_buffer=0, **limits) as server, small_window(server) as client:
        files = spool_files()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(client) == PIECE * PIECES
        assert spool_files() == files
        assert (server.log.texts("warning"), server.log.texts("error")) == ("", "")
