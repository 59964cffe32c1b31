"""Several requests in the app at once: each connection answers for its own, whatever happens to it meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pyserve.ipc.scoreboard import OFFSETS, REQUEST_LINES, Slot
from pyserve_workers.native.accesslog import AccessLog
from pyserve_workers.native.connection import BUSY, CLOSED, REQUEST, RUNNING, WANT_READ, Connection
from pyserve_workers.native.context import Context
from pyserve_workers.native.crowd import overdue
from wire.loop import PATIENCE, Server

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GONE = 0
FAR_FUTURE = 1e9


class App:
    """An app whose requests wait in it until they are told what to answer."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.closed = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == "/stream":
            start_response("200 OK", [])
            return Stream(self)
        self.pause()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def pause(self) -> None:
        self.entered.release()
        assert self.go_on.acquire(timeout=PATIENCE)


class Stream:
    def __init__(self, app: App) -> None:
        self.app = app

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            yield b"part"
            self.app.pause()

    def close(self) -> None:
        self.app.closed = True


class Bench:
    """Connections over socket pairs, whose requests run in threads; the test is the worker's loop."""

    def __init__(self, access_log: AccessLog | None = None, app: Any = None, **settings: Any) -> None:
        self.app = App()
        self.server = Server(self.app, **settings)
        given = self.server.context
        self.slot = memoryview(self.server.slot)
        self.context = Context(
            app or self.app, given.settings, self.slot, given.errors, given.log, access_log, concurrent=True
        )
        self.threads = ThreadPoolExecutor(12)
        self.connections: dict[int, Connection] = {}
        self.clients: list[socket.socket] = []

    def open(self, request: bytes = b"") -> tuple[Connection, socket.socket]:
        ours, client = socket.socketpair()
        ours.setblocking(False)
        client.settimeout(PATIENCE)
        connection = Connection(self.context, ours.detach(), self.server.about, ("10.0.0.1", 5))
        self.connections[connection.fd] = connection
        self.clients.append(client)
        client.send(request)
        return connection, client

    def run(self, request: bytes = GET) -> tuple[Connection, socket.socket, Future[int]]:
        """A connection whose request waits in the app, its client, and what run() will return."""
        connection, client = self.open(request)
        assert connection.receive() == REQUEST
        future = self.threads.submit(connection.run)
        assert self.app.entered.acquire(timeout=PATIENCE)
        assert connection.state == RUNNING
        return connection, client, future

    def word(self, name: str) -> int:
        return int.from_bytes(self.slot[OFFSETS[name] : OFFSETS[name] + 8], "little")

    def end(self) -> None:
        for _ in range(100):
            self.app.go_on.release()
        self.threads.shutdown()
        for connection in self.connections.values():
            connection.close()
        for client in self.clients:
            client.close()
        with self.server:
            pass


def late(connections: dict[int, Connection], entered: float) -> list[Connection]:
    """Those that have been in the app since before ``entered``."""
    return [connection for connection, _ in overdue(connections, entered + 1, 1, 0)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.end()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_the_lines_of_the_requests_inside_are_on_the_scoreboard(bench: Bench) -> None:
    """Of those that are there, whichever began last; of the last ones, if they are many."""
    slot = Slot(bench.slot)
    _, _, first = bench.run(get("/0"))
    bench.app.go_on.release()
    first.result(PATIENCE)
    assert slot.inside == []
    waiting = [bench.run(get("/stream"))[2]]
    assert slot.inside == ["GET /stream"]
    _, _, last = bench.run(get("/last"))
    assert slot.inside == ["GET /stream", "GET /last"]
    for connection in list(bench.connections.values())[:-1]:
        connection.gone()  # of the stream, which ends when it goes on
    bench.app.go_on.release(2)
    assert [*(step.result(PATIENCE) for step in waiting), last.result(PATIENCE)] == [GONE, WANT_READ]
    assert slot.inside == []
    assert not any(slot.get("request_since", place) for place in range(REQUEST_LINES))

    steps = [bench.run(get(f"/{number}"))[2] for number in range(REQUEST_LINES + 3)]
    lines = [f"GET /{number}" for number in range(REQUEST_LINES + 3)]
    assert slot.inside == lines[3:]
    bench.app.go_on.release(len(steps))
    assert [step.result(PATIENCE) for step in steps] == [WANT_READ] * len(steps)
    assert slot.inside == []
    assert not any(slot.get("request_since", place) for place in range(REQUEST_LINES))


def test_two_requests_at_once(bench: Bench) -> None:
    first, _, first_step = bench.run()
    second, _, second_step = bench.run()
    assert bench.word("active") == 2
    assert bench.word("request_start") == 0
    assert [first.running, second.running] == [True, True]
    assert not first.streaming
    assert late(bench.connections, FAR_FUTURE) == [first, second]
    assert late(bench.connections, second.started) == [first]
    assert late(bench.connections, first.started) == []
    assert late(bench.connections, -1) == []
    bench.app.go_on.release(2)
    assert first_step.result(PATIENCE) == WANT_READ
    assert second_step.result(PATIENCE) == WANT_READ
    assert bench.word("active") == 0
    assert [first.running, second.running] == [False, False]
    assert late(bench.connections, FAR_FUTURE) == []


def test_nothing_disturbs_a_request_in_the_app(bench: Bench) -> None:
    connection, client, step = bench.run()
    client.send(GET[:9])
    for disturb in (connection.receive, connection.serve, connection.run, connection.flush, connection.expire):
        assert disturb() == BUSY
    assert connection.retire() == BUSY
    assert connection.unfinished
    assert not connection.idle
    assert not connection.pending
    assert connection.deadline == float("inf")
    bench.app.go_on.release()
    assert step.result(PATIENCE) == WANT_READ
    assert client.recv(1000).endswith(b"ok")
    client.send(GET[9:])
    assert connection.receive() == REQUEST  # what came meanwhile was kept by the kernel
    bench.app.go_on.release()
    assert connection.run() == WANT_READ


def test_close_cuts_the_client_off_at_once_and_the_connection_when_the_app_is_done(bench: Bench) -> None:
    connection, client, step = bench.run()
    connection.close()
    connection.close()
    assert client.recv(1000) == b""
    assert connection.state == RUNNING
    bench.app.go_on.release()
    assert step.result(PATIENCE) == GONE
    assert connection.state == CLOSED
    assert bench.word("cut") == 1


def test_a_response_for_a_client_that_is_gone_is_not_sent(bench: Bench) -> None:
    connection, client, step = bench.run()
    client.shutdown(socket.SHUT_WR)
    connection.gone()
    bench.app.go_on.release()
    assert step.result(PATIENCE) == GONE
    assert client.recv(1000) == b""
    assert bench.word("cut") == 1
    connection.gone()  # of a closed connection, nothing


def test_a_stream_to_a_client_that_is_gone_ends_with_the_next_part(bench: Bench) -> None:
    connection, client, step = bench.run(GET.replace(b"/", b"/stream", 1))
    assert connection.streaming
    assert client.recv(1000).endswith(b"4\r\npart\r\n")
    connection.gone()
    bench.app.go_on.release()
    assert step.result(PATIENCE) == GONE
    assert bench.app.closed
    assert client.recv(1000) == b""


def test_a_drain_ends_the_connection_after_its_response(bench: Bench) -> None:
    _, client, step = bench.run()
    bench.context.draining = True
    bench.app.go_on.release()
    assert step.result(PATIENCE) == WANT_READ  # until the client has closed too
    assert b"Connection: close\r\n" in client.recv(1000)


def test_a_wait_for_the_client_does_not_count_as_time_in_the_app() -> None:
    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * (1 << 20)] * 3

    seen: list[tuple[bool, list[Connection]]] = []

    def wait(_fd: int, patience: float | None) -> bool:
        assert patience == 30
        seen.append((connection.running, late(bench.connections, FAR_FUTURE)))
        before = time.monotonic()
        client.setblocking(False)
        while time.monotonic() < before + 0.01:
            with contextlib.suppress(BlockingIOError):
                client.recv(1 << 20)
        return True

    bench = Bench(app=app, response_buffer=65536, response_spool=0, response_min_rate=0)
    bench.context.wait_writable = wait
    connection, client = bench.open(GET)
    assert connection.receive() == REQUEST
    before = time.monotonic()
    connection.run()
    assert set(map(repr, seen)) == {"(False, [])"}
    assert connection.started >= before + 0.01 * len(seen)
    bench.end()


def test_access_log_lines_stay_whole_when_one_is_begun_within_another() -> None:
    read, write = os.pipe()
    log = AccessLog(write, "%(m)s %({app.user}e)s %(U)s")

    class User:
        def __str__(self) -> str:
            if connections:
                connections.pop().serve()
            log.flush()
            return "user"

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["app.user"] = User()
        start_response("200 OK", [])
        return []

    bench = Bench(log, app)
    connections = [bench.open(GET.replace(b"/", b"/%d" % number, 1))[0] for number in range(4)]
    connections.pop().serve()
    log.flush()
    lines = os.read(read, 1000).decode().splitlines()
    assert sorted(lines) == [f"GET user /{number}" for number in range(4)]
    assert log.dropped == 0
    bench.end()
    os.close(read)
    os.close(write)
