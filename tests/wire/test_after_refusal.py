"""Behind the last answer of a connection nothing is understood: what it may still send is read and dropped.

Each way in which a connection comes to its last answer, with 200 KB of complete requests behind it: see refusals.py.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import WORKER_CLASSES
from wire import ways
from wire.loop import Client, Server, eventually
from wire.refusals import GET, LAST, LATE, LENGTH, LIMIT_BODY, REFUSED, SHIFTS, End, check_end, head, row, send

BEFORE = ("nothing", "an answer", "a request")  # what the connection has had before the one that ends it
LARGE = b"x" * 300_000


class App:
    """Counts the requests that must not run."""

    def __init__(self) -> None:
        self.evil = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if path == "/evil":
            self.evil += 1
        fields = {"/close": [("Connection", "close")], "/short": [("Content-Length", "9")]}
        start_response("200 OK", fields.get(path, []))
        if path == "/large":
            return [LARGE]
        if path in ("/stream", "/cut"):
            return stream(path)
        if path == "/upgrade":
            environ["gunicorn.socket"].sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            environ["gunicorn.socket"].close()
            return []
        return [b"good"]


def stream(path: str) -> Iterator[bytes]:
    yield b"part"
    if path == "/cut":
        raise RuntimeError("meant to fail")
    yield b"part"


@pytest.fixture(scope="module", params=WORKER_CLASSES)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with ways.choose(request.param):
        yield request.param


@pytest.fixture(scope="module")
def server(kind: str) -> Iterator[Server]:
    with Server(App(), limit_request_body=LIMIT_BODY) as server:
        yield server


def connect(server: Server, before: str) -> Client:
    client = server.connect()
    if before == "an answer":
        client.send(GET)
        assert client.response().body == b"good"
    return client


def attack(server: Server, end: End) -> None:
    """All combinations of what came before, where the row's requests begin, and how it is sent."""
    for shift in SHIFTS:
        for before, pause in itertools.product(BEFORE, (None, server.get)):
            play(server, end, before, row(shift), pause)
        play(server, end, "nothing", row(shift, 512_000))
    check(server)


def play(server: Server, end: End, before: str, behind: bytes, pause: Callable[[], object] | None = None) -> None:
    with connect(server, before) as client:
        began = time.monotonic()
        ahead = GET if before == "a request" else b""
        send(client, ahead + end.sent + behind, pause)
        if ahead:
            assert client.response().body == b"good"
        check_end(client, end, began)


def check(server: Server) -> None:
    """Everything that was sent has been looked at, and nothing of it was run."""
    eventually(lambda: not server.connections)
    evil, server.context.app.evil = server.context.app.evil, 0
    assert not evil, f"{evil} requests that no client had asked for"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server: Server, name: str) -> None:
    attack(server, REFUSED[name])


@pytest.mark.parametrize("name", LAST)
def test_the_last_answer(server: Server, name: str) -> None:
    attack(server, LAST[name])


ANSWERED = End(GET, 200)
SETTINGS: dict[str, tuple[dict[str, Any], End]] = {
    "no keep-alive": ({"keep_alive": 0}, ANSWERED),
    "503 no memory for a long head": ({"buffer_memory": 0}, End(head(*[b"X: " + b"a" * 8000] * 5), 503)),
    "500 nowhere to spool": ({"spool_dir": "/nowhere", "body_buffer": 100_000}, End(LENGTH, 500)),
    "500 nowhere to spool chunks": (
        {"spool_dir": "/nowhere", "body_buffer": 100_000},
        End(head(b"Transfer-Encoding: chunked") + b"7d000\r\n", 500),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_with_other_settings(kind: str, name: str) -> None:
    settings, end = SETTINGS[name]
    with Server(App(), **settings) as server:
        for shift in SHIFTS:
            for pause in (None, server.get):
                play(server, end, "nothing", row(shift), pause)
        check(server)


def test_draining(kind: str) -> None:
    """The worker leaves: each answer is its connection's last."""
    for shift in SHIFTS:
        with Server(App()) as server:
            with connect(server, "an answer") as client:
                server.context.draining = True
                began = time.monotonic()
                send(client, GET + row(shift))
                check_end(client, ANSWERED, began)
            check(server)


def test_507_a_full_spool(kind: str, tmp_path: Path) -> None:
    with tmpfs(tmp_path), Server(App(), spool_dir=str(tmp_path), body_buffer=1000) as server:
        for shift in SHIFTS:
            for pause in (None, server.get):
                play(server, End(LENGTH, 507), "an answer", row(shift), pause)
        check(server)


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """It takes 32 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is full")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("name", LATE)
def test_too_late(kind: str, name: str) -> None:
    """The row comes behind the 408."""
    with Server(App(), header_timeout=0.3, body_timeout=0.3) as server, ExitStack() as stack:
        clients = []
        for before, shift in itertools.product(BEFORE[:2], SHIFTS):
            began = time.monotonic()
            client = stack.enter_context(connect(server, before))
            client.send(LATE[name].sent)
            if before == "an answer" or time.monotonic() - began < 0.2:  # else it may be closed before it says anything
                clients.append((client, shift))
        for client, shift in clients:
            assert client.response().status == 408
            send(client, row(shift))
        stack.close()
        check(server)


def test_retired(kind: str) -> None:
    """A connection that idles is half-closed when its worker leaves, or others need its place."""
    with Server(App()) as server:
        for shift in SHIFTS:
            with connect(server, "an answer") as client:
                (connection,) = server.connections.values()
                eventually(lambda connection=connection: connection.idle)  # type: ignore[misc]
                server.after(connection, connection.retire())
                assert client.closed()
                send(client, row(shift))
            check(server)


def test_an_app_that_took_the_connection(kind: str) -> None:
    """What it has not read is not HTTP."""
    if kind == "sync":
        pytest.skip("sync workers do not give their connections to the app")
    upgrade = head(b"Connection: Upgrade", b"Upgrade: x", start=b"GET /upgrade HTTP/1.1")
    with Server(App()) as server:
        for shift in SHIFTS:
            with connect(server, "an answer") as client:
                send(client, upgrade + row(shift))
                assert client.take_until(b"\r\n\r\n") == b"HTTP/1.1 101 Switching Protocols"
            check(server)


@pytest.mark.parametrize("version", [b"1.0\r\n", b"1.1\r\nHost: x\r\nConnection: close\r\n"])
def test_an_empty_line_behind_the_last_body_costs_no_answer(kind: str, version: bytes) -> None:
    """Old clients send it. A close while it is unread would reset the connection."""

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        in_app.set()
        sent.wait(20)
        start_response("200 OK", [])
        return [b"good"]

    in_app, sent = threading.Event(), threading.Event()
    with Server(slow) as server, server.connect() as client:
        client.send(b"POST / HTTP/" + version + b"Content-Length: 5\r\n\r\nhello")
        assert in_app.wait(20)
        client.send(b"\r\n")
        sent.set()
        assert client.response().body == b"good"
        assert client.closed()
