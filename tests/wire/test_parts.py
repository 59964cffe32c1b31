"""Connection driven by hand, as worker classes do that run the app elsewhere: receive(), run(), flush()."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyserve_workers.native.response import PHRASES  # type: ignore[import-not-found]

from pyserve.ipc.scoreboard import Slot
from pyserve_workers.native.accepting import accept
from pyserve_workers.native.connection import (
    CLOSED,
    FLUSH,
    IDLE,
    LINGER,
    READY,
    REQUEST,
    WANT_READ,
    WANT_WRITE,
    Connection,
)
from pyserve_workers.native.crowd import expired, idle_longest
from wire.apps import simple
from wire.loop import Server

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GONE = 0


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"x" * int(environ["QUERY_STRING"] or 2)]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Connection, socket.socket]]:
    """A server whose loop does not run, one connection of it, and the client's end."""
    server = Server(app)
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.settimeout(20)
    connection = Connection(server.context, ours.detach(), server.about, ("10.0.0.1", 5))
    yield server, connection, client
    connection.close()
    client.close()
    with server:
        pass


Pair = tuple[Server, Connection, socket.socket]


def test_one_request(pair: Pair) -> None:
    _, connection, client = pair
    assert connection.receive() == WANT_READ
    client.send(GET[:9])
    assert connection.receive() == WANT_READ
    assert connection.unfinished
    client.send(GET[9:])
    assert connection.receive() == REQUEST
    assert connection.state == READY
    assert connection.receive() == REQUEST  # nothing is read, and nothing lost, before it has run
    assert connection.run() == WANT_READ
    assert connection.state == IDLE
    assert connection.idle
    assert client.recv(1000).endswith(b"\r\n\r\nxx")


def test_a_pipelined_request_follows(pair: Pair) -> None:
    _, connection, client = pair
    client.send(GET * 2)
    assert connection.receive() == REQUEST
    assert connection.run() == REQUEST
    assert connection.run() == WANT_READ
    assert client.recv(1000).count(b"200 OK") == 2


def test_a_response_that_does_not_fit(pair: Pair) -> None:
    _, connection, client = pair
    client.send(b"GET /?5000000 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.receive() == REQUEST
    assert connection.run() == WANT_WRITE
    assert connection.state == FLUSH
    assert connection.flush() == WANT_WRITE
    received = 0
    step = WANT_WRITE
    while step == WANT_WRITE:
        received += len(client.recv(1 << 20))
        step = connection.flush()
    assert step == WANT_READ
    client.setblocking(False)
    while received < 5_000_000:
        received += len(client.recv(1 << 20))


def test_the_client_closes(pair: Pair) -> None:
    _, connection, client = pair
    fd = connection.fd
    client.close()
    assert connection.receive() == GONE
    assert connection.state == CLOSED
    with pytest.raises(OSError):
        os.fstat(fd)
    assert [connection.receive(), connection.run(), connection.flush(), connection.serve(), connection.expire()] == [
        GONE
    ] * 5
    assert connection.fd == fd  # by which the loop knows what to forget
    connection.close()


def test_run_without_a_request_is_no_request(pair: Pair) -> None:
    server, connection, _ = pair
    assert connection.run() == WANT_READ
    assert int.from_bytes(server.slot[64:72], "little") == 0


def test_a_refusal(pair: Pair) -> None:
    _, connection, client = pair
    client.send(b"BAD\r\n\r\n")
    assert connection.receive() == WANT_READ
    assert connection.state == LINGER
    assert not connection.unfinished
    assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert client.recv(1000) == b""
    client.send(b"more that nobody reads" * 1000)
    assert connection.receive() == WANT_READ
    client.close()
    assert connection.receive() == GONE


def test_expired(pair: Pair) -> None:
    _, connection, _ = pair
    connections = {connection.fd: connection}
    assert expired(connections, connection.deadline - 0.001) == []
    assert expired(connections, connection.deadline + 0.001) == [connection]
    assert connection.expire() == GONE
    assert expired(connections, float(1 << 32)) == []
    assert connection.deadline == float("inf")


def test_a_connection_that_is_dropped_closes_its_descriptor() -> None:
    server = Server(app)
    with server:
        ours, client = socket.socketpair()
        with client:
            connection = Connection(server.context, ours.detach(), server.about, None)
            del connection
            assert client.recv(1) == b""


def test_a_fault_of_ours_costs_one_connection(pair: Pair) -> None:
    """A log that raises stands for whatever nobody has thought of."""
    server, connection, client = pair

    def failing(text: str) -> None:
        raise ValueError("no log today")

    server.log.info = failing  # type: ignore[method-assign]
    client.send(b"BAD\r\n\r\n")
    assert connection.serve(1) == GONE
    assert "BUG: 10.0.0.1:5: closed in state" in server.log.texts("error")
    assert "no log today" in server.log.texts("error")
    assert client.recv(1000) == b""


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_accept(family: socket.AddressFamily, tmp_path: Path) -> None:
    address: Any = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "s"))
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
        with Server(simple()) as server:
            assert accept(server.context, listener.fileno(), server.about) is None
            client.connect(listener.getsockname())
            accepted = accept(server.context, listener.fileno(), server.about)
            assert accepted is not None
            assert not os.get_inheritable(accepted.fd)
            assert not os.get_blocking(accepted.fd)
            assert accepted.peer == (None if family == socket.AF_UNIX else client.getsockname()[:2])
            accepted.close()


def test_an_ipv4_peer_of_an_ipv6_listener_has_its_ipv4_address() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client:
            with Server(simple()) as server:
                accepted = accept(server.context, listener.fileno(), server.about)
                assert accepted is not None
                assert accepted.peer == client.getsockname()
                accepted.close()


def test_accept_says_what_the_system_refuses() -> None:
    with Server(simple()) as server, pytest.raises(OSError, match="Bad file descriptor"):
        accept(server.context, 1 << 20, server.about)


def test_every_refusal_has_a_phrase() -> None:
    header = (Path(__file__).parents[2] / "workers" / "pyserve_workers" / "http1" / "http1.h").read_text()
    statuses = {int(status) for status in re.findall(r"X\(\d+, \w+, (\d+),", header)}
    assert statuses <= set(PHRASES)


def failing(text: str) -> None:
    raise ValueError("no log today")


def test_a_fault_of_ours_in_any_part(pair: Pair) -> None:
    """Workers that call the parts themselves are as safe as those that call serve()."""
    server, _, _ = pair
    for level in ("info", "debug"):
        setattr(server.log, level, failing)

    def connection_after(request: bytes) -> tuple[Connection, socket.socket]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.sendall(request)
        return Connection(server.context, ours.detach(), server.about, ("10.0.0.1", 5)), theirs

    def check(connection: Connection, theirs: socket.socket, wanted: int) -> None:
        assert wanted == GONE
        assert connection.state == CLOSED
        assert server.log.texts("error").count("BUG: 10.0.0.1:5: closed in state") == 1
        server.log.records.clear()
        theirs.close()

    connection, theirs = connection_after(b"BAD\r\n\r\n")
    check(connection, theirs, connection.receive())

    connection, theirs = connection_after(GET + b"GET / HTTP/1.1\r\n\r\n")  # another kind: it is said, too
    assert connection.receive() == REQUEST
    check(connection, theirs, connection.run())

    connection, theirs = connection_after(GET.replace(b"/", b"/?9000000", 1))
    assert connection.receive() == REQUEST
    assert connection.run() == WANT_WRITE
    theirs.close()
    check(connection, theirs, connection.flush())

    connection, theirs = connection_after(GET[:9])
    assert connection.receive() == WANT_READ
    check(connection, theirs, connection.expire())


def test_turning_a_client_away(pair: Pair) -> None:
    """Its request is not read; it reads a whole answer, then the end, and may still be sending."""
    server, connection, client = pair
    client.send(GET)
    assert connection.turn_away(b"HTTP/1.1 503 x\r\n\r\n") == WANT_READ
    assert connection.state == LINGER
    assert not connection.idle
    assert not connection.unfinished
    assert client.recv(1000) == b"HTTP/1.1 503 x\r\n\r\n"
    assert client.recv(1000) == b""
    client.send(b"more")
    assert connection.serve() == WANT_READ
    client.close()
    assert connection.serve() == GONE
    assert Slot(memoryview(server.slot)).get("status", 4) == 1


def test_who_has_idled_longest(pair: Pair) -> None:
    server, _, _ = pair
    connections: dict[int, Connection] = {}
    clients = []
    for _ in range(5):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection = Connection(server.context, ours.detach(), server.about, ("10.0.0.1", 5))
        connections[connection.fd] = connection
        clients.append(theirs)
    silent, busy, third, second, first = connections.values()
    for connection, theirs in zip((first, second, third), reversed(clients), strict=False):
        theirs.send(GET)
        assert connection.serve() == WANT_READ
    clients[1].send(GET[:9])
    assert busy.serve() == WANT_READ
    now = time.monotonic()
    assert idle_longest(connections, now, 60.0, 9) == []
    assert idle_longest(connections, now + 61, 60.0, 9) == [silent, first, second, third]
    assert idle_longest(connections, now + 61, 60.0, 2) == [silent, first]
    for connection, theirs in zip(connections.values(), clients, strict=True):
        connection.close()
        theirs.close()


def test_no_native_class_hides_what_it_has_inherited() -> None:
    """Cython takes an attribute that is declared again for another one, without a word: what code of the base reads is then
    never what code of the subclass has written."""
    declared: dict[str, tuple[str, set[str]]] = {}
    for source in sorted((Path(__file__).parents[2] / "workers").glob("pyserve_workers/**/*.pxd")):
        name = ""
        for line in source.read_text().splitlines():
            if begun := re.match(r"cdef class (\w+)(?:\((\w+)\))?:", line):
                name = begun[1]
                declared[name] = (begun[2] or "", set())
            elif name and (
                attribute := re.match(r"    cdef (?:public |readonly )?[\w ]+? \*?([\w, *]+?)\s*(?:#.*)?$", line)
            ):
                declared[name][1].update(each.strip(" *") for each in attribute[1].split(","))
    assert {"fd", "given"} <= declared["Client"][1]
    for name, (base, attributes) in declared.items():
        while base in declared:
            assert not attributes & declared[base][1], f"{name} and {base}"
            base = declared[base][0]
