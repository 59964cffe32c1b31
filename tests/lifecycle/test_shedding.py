"""A worker with more clients than it can hold, or without descriptors: who is given up, and how they are told."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from lifecycle.crowd import Costs, Crowd, open_descriptors
from pyserve.system.descriptors import RESERVE, TURNED_AWAY
from support import Server, serve

pytestmark = pytest.mark.usefixtures("worker_class")
APP = """
import os

kept = []

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path == "/leak":
        while True:
            try:
                kept.append(os.dup(1))
            except OSError:
                break
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"\r\n\r\nok"
HALF_A_BODY, REST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf", b"half"
HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
LIMIT = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 60)


def ask(client: socket.socket, request: bytes = GET) -> bytes:
    """One answer with a body "ok", or whatever comes before the connection's end."""
    client.sendall(request)
    data = b""
    while not data.endswith(OK):
        more = client.recv(65536)
        if not more:
            break
        data += more
    return data


def once(server: Server, request: bytes = GET) -> bytes:
    with connect(server) as client:
        return ask(client, request)


def test_beyond_the_limit_a_client_is_told_so(folder: Path) -> None:
    """All of the allowed have something under way, so nobody can be given up for the new ones."""
    limits = ("--limit-connections", str(LIMIT), "--header-timeout", "300")
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        with Crowd(server, LIMIT, HALF_A_HEAD) as crowd:
            costs.wait_for_descriptors(LIMIT)
            for _ in range(30):
                answer = once(server)
                assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert b"\r\nRetry-After: 5\r\n" in answer
                assert b"\r\nConnection: close\r\n" in answer
                assert answer.endswith(b"Too many connections; try again later\n")
            crowd.send(b"Connection: close\r\n\r\n")
            assert all(end.endswith(OK) for end in crowd.ends())
        assert once(server).endswith(OK)
        server.wait_for_log("this is over; in .* 0 idle connections were closed, 30 new ones answered with 503")
        assert server.log.count("is reached: connections that idle are closed") == 1
        costs.check_nothing_is_left()


def test_a_client_in_the_middle_of_an_upload_can_read_the_503(folder: Path) -> None:
    """A close without reading on would reset the connection and throw the answer away."""
    limits = ("--limit-connections", str(LIMIT), "--header-timeout", "300")
    upload = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        with Crowd(server, LIMIT, HALF_A_HEAD):
            costs.wait_for_descriptors(LIMIT)
            assert once(server, upload).startswith(b"HTTP/1.1 503 ")
        costs.check_nothing_is_left()


def test_the_turned_away_have_a_bound_too(folder: Path) -> None:
    """They read their answers and never close. What they hold is bounded, and the held ones are as well served as ever."""
    limits = ("--limit-connections", str(LIMIT), "--header-timeout", "300")
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        with Crowd(server, LIMIT, HALF_A_HEAD) as crowd, Crowd(server, 600, GET) as more:
            ends = more.ends()
            assert len(ends) == 600
            assert costs.descriptors() <= LIMIT + TURNED_AWAY + 1  # the last one, for which the first has yet to go
            assert sum(end.startswith(b"HTTP/1.1 503 ") for end in ends) > 0
            crowd.send(b"Connection: close\r\n\r\n")
            assert all(end.endswith(OK) for end in crowd.ends())
        costs.check_nothing_is_left()


def test_whoever_has_idled_longest_makes_room(folder: Path) -> None:
    """The connection is half-closed: a client that has just sent a request sees that it was not answered."""
    with (
        serve("app:wsgi", "--workers", "1", "--limit-connections", str(LIMIT), cwd=folder) as server,
        ExitStack() as stack,
    ):
        costs = Costs(server)
        clients = [stack.enter_context(connect(server)) for _ in range(LIMIT)]
        for client in clients:
            assert ask(client).endswith(OK)
        assert ask(clients[0]).endswith(OK)  # so it is not the one that has idled longest

        def room_was_made() -> bool:
            """After a second of silence; until then nobody counts as idle."""
            return once(server).endswith(OK)

        server.wait_for(room_was_made)
        assert clients[1].recv(1) == b""
        assert all(ask(client).endswith(OK) for client in (clients[0], *clients[-10:]))
        assert server.log.count("is reached: connections that idle are closed") == 1
        stack.close()
        costs.check_nothing_is_left()


DESCRIPTORS = 300


def allow(worker: int, descriptors: int) -> None:
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (descriptors, 2 * DESCRIPTORS))


def shortage(folder: Path, stack: ExitStack) -> tuple[Server, Costs, socket.socket]:
    """A server without a descriptor left, and a client that has sent half of its request."""
    server = stack.enter_context(serve("app:wsgi", "--workers", "1", "--limit-connections", "100", cwd=folder))
    (worker,) = server.workers()
    client = stack.enter_context(connect(server))
    allow(worker, DESCRIPTORS)
    assert ask(client, GET.replace(b"/", b"/leak", 1)).endswith(OK)
    costs = Costs(server)
    assert open_descriptors(worker) == DESCRIPTORS
    client.sendall(HALF_A_BODY)
    return server, costs, client


def test_without_descriptors_clients_are_told_so(folder: Path) -> None:
    with ExitStack() as stack:
        server, costs, client = shortage(folder, stack)
        for _ in range(20):
            answer = once(server)
            assert answer.startswith(b"HTTP/1.1 503 ") or answer.endswith(
                OK
            )  # one that has closed lends its descriptor
        assert server.log.count("cannot accept: Too many open files") == 1
        assert ask(client, REST).endswith(OK)
        allow(costs.pid, 2 * DESCRIPTORS)
        assert once(server).endswith(OK)
        server.wait_for_log("cannot accept: Too many open files: this is over; in .* new ones answered with 503")
        costs.check_nothing_is_left()


def test_without_descriptors_nothing_spins(folder: Path) -> None:
    """Clients that stay take the whole reserve, and others wait in the queue."""

    def ticks(pid: int) -> int:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return int(user) + int(system)

    with ExitStack() as stack:
        server, costs, client = shortage(folder, stack)
        staying = [stack.enter_context(connect(server)) for _ in range(3 * RESERVE)]
        server.wait_for_log("cannot accept: Too many open files")
        before = ticks(costs.pid)
        for each in staying:  # nobody closes: each has to wait until the time of others is over
            assert each.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert ticks(costs.pid) - before < os.sysconf("SC_CLK_TCK")
        assert server.log.count("cannot accept") == 1
        assert ask(client, REST).endswith(OK)
        allow(costs.pid, 2 * DESCRIPTORS)
        assert once(server).endswith(OK)
        costs.check_nothing_is_left()
