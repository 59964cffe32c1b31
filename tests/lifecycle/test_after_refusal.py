"""Behind the last answer of a connection nothing is run: in whole servers, whoever gives it and wherever the connection
comes from. The ways to it, and the rows of requests behind, are those of wire/refusals.py.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import pytest

from lifecycle.crowd import need_descriptors
from support import Server, serve
from wire.loop import Client
from wire.refusals import GET, LAST, LENGTH, LIMIT_BODY, REFUSED, SHIFTS, End, check_end, head, row, send

APP = """
import os, time
import pyserve

evil = os.open("evil", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@pyserve.on_init
def boot():
    if os.path.exists("broken"):
        raise RuntimeError("broken by this test")

def stream(path):
    yield b"part"
    if path == "/cut":
        raise RuntimeError("meant to fail")
    yield b"part"

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/evil":
        os.write(evil, b"evil ")
    if path == "/stuck":
        environ["wsgi.errors"].write("asleep\\n")
        time.sleep(600)
    start_response("200 OK", {"/close": [("Connection", "close")], "/short": [("Content-Length", "9")]}.get(path, []))
    if path == "/large":
        return [bytes(300_000)]
    if path in ("/stream", "/cut"):
        return stream(path)
    return [b"good"]
"""
ENDS = {**REFUSED, **LAST}
HALF_A_HEAD = GET[:-2]


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server. When it has ended, and so everything that it was sent has been looked at, nothing evil was run."""
    (folder / "app.py").write_text(APP)
    with serve("app:wsgi", "--workers", "1", *arguments, cwd=folder) as server:
        yield server
    evil = (folder / "evil").read_text().split()
    assert not evil, f"{len(evil)} requests that no client had asked for"


def connect(server: Server, stack: ExitStack) -> Client:
    return stack.enter_context(Client(("127.0.0.1", server.port)))


def connect_and_ask(server: Server, stack: ExitStack) -> Client:
    client = connect(server, stack)
    client.send(GET)
    assert client.response().body == b"good"
    return client


@pytest.mark.usefixtures("worker_class")
def test_in_connections_that_are_new_and_in_those_that_came_from_another_worker(tmp_path: Path) -> None:
    """Of each way half the connections take the first bytes of the request with them."""
    need_descriptors(2 * len(ENDS) * len(SHIFTS))
    with (
        serving(tmp_path, "--limit-request-body", str(LIMIT_BODY), "--keepalive-linger", "0") as server,
        ExitStack() as stack,
    ):
        given = [(connect_and_ask(server, stack), end, shift) for end in ENDS.values() for shift in SHIFTS]
        ahead = [3 * (shift % 16 == 8 and end.sent[:3].isalpha()) for _, end, shift in given]
        for (client, end, _), size in zip(given, ahead, strict=True):
            client.send(end.sent[:size])
        connect_and_ask(server, stack)  # then the worker has seen them
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves")
        server.wait_for_log("has left")
        for (client, end, shift), size in zip(given, ahead, strict=True):
            began = time.monotonic()
            send(client, end.sent[size:] + row(shift))
            check_end(client, end, began)
            client.socket.close()
        for end, shift in product(ENDS.values(), SHIFTS):
            with Client(("127.0.0.1", server.port)) as client:
                began = time.monotonic()
                send(client, end.sent + row(shift))
                check_end(client, end, began)


@pytest.mark.usefixtures("worker_class")
def test_of_one_that_is_turned_away(tmp_path: Path) -> None:
    """At limit_connections. The client sends before it reads, or reads before it sends."""
    with serving(tmp_path, "--limit-connections", "1", "--header-timeout", "300") as server, ExitStack() as stack:
        connect(server, stack).send(HALF_A_HEAD)
        for request, shift in product((b"", GET, GET[:20]), SHIFTS):
            with Client(("127.0.0.1", server.port)) as client:
                began = time.monotonic()
                send(client, request + row(shift))
                check_end(client, TURNED_AWAY, began)
            with Client(("127.0.0.1", server.port)) as client:
                check_end(client, TURNED_AWAY, time.monotonic())
                send(client, request + row(shift))


TURNED_AWAY = End(b"", 503)


@pytest.mark.usefixtures("worker_class")
def test_of_one_for_which_there_is_no_descriptor(tmp_path: Path) -> None:
    """Or, when one that has closed has left its own, of one that is refused."""
    limits = ("--limit-request-body", str(LIMIT_BODY))
    with serving(tmp_path, *limits) as server, ExitStack() as stack:
        (worker,) = server.workers()
        connect_and_ask(server, stack)
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{worker}/fd")), hard))
        statuses = set()
        for shift in SHIFTS:
            with Client(("127.0.0.1", server.port)) as client:
                send(client, LENGTH + row(shift))
                statuses.add(client.response().status)
        assert {503} <= statuses <= {503, 413}
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("worker_class")
def test_of_one_that_idles_and_makes_room(tmp_path: Path) -> None:
    count = len(SHIFTS)
    with serving(tmp_path, "--limit-connections", str(count)) as server, ExitStack() as stack:
        idle = {shift: connect_and_ask(server, stack) for shift in SHIFTS}
        left = dict(idle)
        while left:
            server.wait_for(lambda: asked(server))  # for a second nobody counts as idle
            for shift, client in list(left.items()):
                if ended(client):
                    send(client, row(shift))
                    del left[shift]
                    client.socket.close()
                    connect(server, stack).send(HALF_A_HEAD)  # so that the next one finds no room


def asked(server: Server) -> bool:
    return server.get("/good").status_code == 200


def ended(client: Client) -> bool:
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        client.socket.settimeout(20)


@pytest.mark.usefixtures("worker_class")
def test_of_one_whose_server_stops(tmp_path: Path) -> None:
    """Within keepalive_linger its next request is answered and is its last; then it is half-closed."""
    with serving(tmp_path, "--keepalive-linger", "1") as server, ExitStack() as stack:
        clients = {shift: [connect_and_ask(server, stack) for _ in range(2)] for shift in SHIFTS}
        server.signal(signal.SIGTERM)
        for shift, (asking, _) in clients.items():
            ask_until_the_end(asking)
            send(asking, row(shift))
        for shift, (_, idle) in clients.items():
            assert idle.closed()
            send(idle, row(shift))
        stack.close()
        assert server.wait() == 0


def ask_until_the_end(client: Client) -> None:
    """There is none if the client's turn comes late."""
    closed = False
    while not closed:
        send(client, GET)
        closed = not client.more() or client.response().headers.get("connection") == "close"


def test_of_one_that_is_answered_for_an_app_that_does_not_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, "--worker-class", "threads", "--threads", str(len(SHIFTS)), "--timeout", "1") as server:
        with ExitStack() as stack:
            clients = {shift: connect(server, stack) for shift in SHIFTS}
            for shift, client in clients.items():
                send(client, head(start=b"GET /stuck HTTP/1.1") + row(shift))
            for client in clients.values():
                assert client.response().status == 504
        server.wait_for_log("this worker is replaced; its client is answered with 504")


@pytest.mark.usefixtures("worker_class")
def test_of_one_that_the_responder_has_answered(tmp_path: Path) -> None:
    """A worker takes over what idles there, but no connection that has had its last answer."""
    with serving(tmp_path) as server, ExitStack() as stack:
        broken = tmp_path / "broken"
        broken.touch()
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for(lambda: server.get("/good").status_code == 503)
        clients = {shift: connect(server, stack) for shift in SHIFTS}
        began = time.monotonic()
        for shift, client in clients.items():
            send(client, GET + row(shift))
        for client in clients.values():
            check_end(client, End(b"", 503), began)
        broken.unlink()
        server.wait_for(lambda: server.get("/good").status_code == 200)
        for shift, client in clients.items():
            send(client, row(shift))
