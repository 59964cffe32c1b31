"""A connection that goes to another worker at any byte of what its client sends: the client gets the same answers."""

from __future__ import annotations

import errno
import io
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.ipc.scoreboard import SLOT_SIZE, Slot
from pyserve_workers.classes.loop import Listener
from pyserve_workers.native.connection import HELD, Connection, Context
from pyserve_workers.native.parcel import LostError, can_travel, receive, send, travellers
from wire.loop import PATIENCE, SETTINGS, MemoryLog

REQUESTS = (
    b"\r\n"  # which old clients send after a body
    b"GET /one?x=1 HTTP/1.1\r\nHost: a\r\nX-Long: " + b"l" * 40 + b"\r\n\r\n"
    b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /three HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    b"HEAD /four HTTP/1.1\r\nHost: a\r\n\r\n"
    b"GET /five HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)
WAYS_IN = [Listener("http", "first", 80), Listener("https", "second", 8443)]


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    names = ("REQUEST_METHOD", "RAW_URI", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")
    start_response("200 OK", [])
    return [" ".join(str(environ.get(name)) for name in names).encode(), b" " + body]


def worker(slot: Slot | None = None, **settings: Any) -> Context:
    """What the connections of one worker have in common."""
    config = SimpleNamespace(**{**SETTINGS, **settings})
    return Context(
        app, config, slot.memory if slot else memoryview(bytearray(SLOT_SIZE)), io.StringIO(), MemoryLog(), None
    )


class ClosedGate:
    """Of one worker, in place of its gatekeeper."""

    def __init__(self) -> None:
        self.slot = Slot(memoryview(bytearray(SLOT_SIZE)))
        self.context = worker(self.slot)
        self.context.gatekeeper = self
        self.slot.set("gate", 1)
        self.waited: list[float] = []

    def patience(self, _connection: Connection, _line: str, waited: float) -> float:
        self.waited.append(waited)
        return 60.0


@pytest.fixture
def queue() -> Iterator[tuple[int, int]]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    yield ends[0].fileno(), ends[1].fileno()
    for end in ends:
        end.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end, and the server's, which the first Connection gets."""
    client, server = socket.socketpair()
    client.settimeout(PATIENCE)
    server.setblocking(False)
    yield client, server
    client.close()
    server.close()


def begin(context: Context, server: socket.socket, way_in: int = 0) -> Connection:
    return Connection(context, server.detach(), WAYS_IN[way_in], ("192.0.2.7", 4321))


def arrive(queue: tuple[int, int], context: Context) -> Connection:
    arrived = receive(queue[1], context, WAYS_IN)
    assert arrived is not None
    connection, wanted = arrived
    if connection.pending:
        connection.serve()
    else:
        assert wanted == 1
    return connection


def answers(client: socket.socket, connection: Connection | None = None) -> bytes:
    """What the client gets, to its end, without the Date; ``connection`` is still at it."""
    data = b""
    while part := client.recv(65536):
        data += part
        if connection is not None:
            connection.serve()
    lines = data.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"Date:"))


def test_at_any_byte(queue: tuple[int, int]) -> None:
    first, second = worker(), worker()
    expected = None
    travelled = 0
    for at in range(len(REQUESTS)):
        client, server = socket.socketpair()
        server.setblocking(False)
        client.settimeout(PATIENCE)
        connection = begin(first, server, at % 2)
        client.sendall(REQUESTS[:at])
        connection.serve()
        if can_travel(connection):
            travelled += 1
            assert travellers({connection.fd: connection}) == [connection]
            assert send(queue[0], connection, WAYS_IN) == 0
            assert connection.serve() == 0, "it is closed here"
            connection = arrive(queue, second)
        client.sendall(REQUESTS[at:])
        connection.serve()
        client.shutdown(socket.SHUT_WR)
        connection.serve()
        found = answers(client).replace(b"second 8443 https", b"first 80 http")
        client.close()
        expected = expected or found
        assert found.count(b"HTTP/1.1 200 OK") == 5
        assert b"GET /one?x=1 192.0.2.7 4321 first 80 http " in found
        assert len(found) in (len(expected), len(expected) - 2), at  # the longer names are two bytes more of a length
    in_bodies = len(b"hello") + len(b"3\r\nabc\r\n0\r\n\r\n") + 2
    assert len(REQUESTS) - in_bodies <= travelled < len(REQUESTS)


def post(body: bytes, chunked: bool) -> bytes:
    if not chunked:
        return b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:]) if part)
    return b"POST /two HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100, 20_000, 300_000], ids="{} bytes".format)
def test_a_complete_request_goes_along_with_its_body(
    queue: tuple[int, int], pair: tuple[socket.socket, socket.socket], tmp_path: Path, size: int, chunked: bool
) -> None:
    """Whether it is in memory or in a file, and with what is behind it."""
    body = bytes(index * index % 251 for index in range(size))
    settings: dict[str, Any] = {"body_buffer": 100_000, "spool_dir": str(tmp_path)}
    here, there = worker(**settings), worker(**settings)
    connection = begin(here, pair[1])
    sender = threading.Thread(target=pair[0].sendall, args=(post(body, chunked) + REQUESTS[2:],))
    sender.start()
    while not connection.pending:
        connection.receive()
    assert can_travel(connection)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert here.spooled == (size if size > 100_000 else 0)
    assert send(queue[0], connection, WAYS_IN) == 0
    moved = arrive(queue, there)
    assert here.spooled == 0
    sender.join()
    pair[0].shutdown(socket.SHUT_WR)
    moved.serve()
    answer = answers(pair[0], moved)
    assert answer.count(b"HTTP/1.1 200 OK") == 6
    assert answer.index(b"POST /two 192.0.2.7 4321 first 80 http " + body) < answer.index(b"GET /one?x=1 ")
    assert there.spooled == 0
    assert len(os.listdir("/proc/self/fd")) < descriptors, "the connection is closed, and so is any file"


def test_a_request_that_is_held_at_the_gate_goes_on_waiting(
    queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]
) -> None:
    """And what it has waited for so far counts."""
    gates = [ClosedGate(), ClosedGate()]
    connection = begin(gates[0].context, pair[1])
    pair[0].sendall(post(b"hello", chunked=True))
    connection.serve()
    assert connection.state == HELD
    assert can_travel(connection)
    time.sleep(0.05)
    assert send(queue[0], connection, WAYS_IN) == 0
    moved = arrive(queue, gates[1].context)
    assert moved.state == HELD
    assert [gate.context.spooled for gate in gates] == [0, 5]
    assert gates[0].waited == [0.0]
    assert gates[1].waited[0] >= 0.05
    gates[1].slot.set("gate", 0)
    moved.resume()
    moved.serve()
    pair[0].shutdown(socket.SHUT_WR)
    moved.serve()
    assert answers(pair[0]).endswith(b" hello")


def test_a_slow_head_gets_no_second_timeout(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    began = time.monotonic()
    connection = begin(worker(header_timeout=10), pair[1])
    pair[0].sendall(b"GET / HT")
    connection.serve()
    before = connection.deadline
    assert send(queue[0], connection, WAYS_IN) == 0
    moved = arrive(queue, worker(header_timeout=25))
    assert moved.deadline == pytest.approx(before + 15, abs=0.001), "its own timeout, since then"
    assert moved.deadline - 25 >= began
    moved.close()


def test_an_idle_connection_goes_on_idling(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    connection = begin(worker(keep_alive=75), pair[1])
    pair[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.serve()
    before = connection.deadline
    assert send(queue[0], connection, WAYS_IN) == 0
    moved = arrive(queue, worker(keep_alive=75))
    assert moved.idle
    assert moved.deadline == pytest.approx(before, abs=0.001)
    assert moved.peer == ("192.0.2.7", 4321)
    moved.close()


def test_one_of_a_unix_socket_has_no_address(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    connection = Connection(worker(), pair[1].detach(), WAYS_IN[0])
    assert send(queue[0], connection, WAYS_IN) == 0
    moved = arrive(queue, worker())
    assert moved.peer is None
    moved.close()


def test_what_a_stricter_generation_refuses(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    """A head that was allowed when it began, and is not any more where it goes on."""
    connection = begin(worker(), pair[1])
    pair[0].sendall(b"GET /" + b"x" * 200)
    connection.serve()
    assert send(queue[0], connection, WAYS_IN) == 0
    arrived = receive(queue[1], worker(limit_request_line=64), WAYS_IN)
    assert arrived is not None
    pair[0].shutdown(socket.SHUT_WR)
    arrived[0].serve()
    assert answers(pair[0]).startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize("size, travels", [(16384, True), (16385, False)])
def test_so_much_goes_along(
    queue: tuple[int, int], pair: tuple[socket.socket, socket.socket], size: int, travels: bool
) -> None:
    context = worker(limit_request_field_size=65536)
    connection = begin(context, pair[1])
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
    pair[0].sendall(head + b"y" * (size - len(head)))
    connection.serve()
    assert can_travel(connection) is travels
    if travels:
        assert send(queue[0], connection, WAYS_IN) == 0
        connection = arrive(queue, context)
    pair[0].sendall(b"\r\n\r\n")
    connection.serve()
    pair[0].shutdown(socket.SHUT_WR)
    connection.serve()
    assert answers(pair[0]).startswith(b"HTTP/1.1 200 OK")


def test_what_is_not_sent_yet_keeps_a_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    def large(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(4 << 20)]

    context = Context(
        large, SimpleNamespace(**SETTINGS), memoryview(bytearray(SLOT_SIZE)), io.StringIO(), MemoryLog(), None
    )
    connection = begin(context, pair[1])
    pair[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.serve() == 4
    assert not can_travel(connection)
    left = 4 << 20
    while left > 0:
        left -= len(pair[0].recv(1 << 20))
        connection.serve()
    connection.serve()
    assert can_travel(connection)
    connection.close()


def test_a_full_queue_changes_nothing(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    try:
        while True:
            os.write(queue[0], bytes(1000))
    except BlockingIOError:
        pass
    connection = begin(worker(), pair[1])
    assert send(queue[0], connection, WAYS_IN) == errno.EAGAIN
    pair[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    connection.serve()
    assert answers(pair[0]).startswith(b"HTTP/1.1 200 OK")


def test_what_cannot_be_had_is_said(queue: tuple[int, int]) -> None:
    assert receive(queue[1], worker(), WAYS_IN) is None
    os.write(queue[0], b"nothing beside it")
    with pytest.raises(LostError, match="no descriptor"):
        receive(queue[1], worker(), WAYS_IN)


def test_a_body_that_cannot_be_had_is_said(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    """The message and the connection have come, its request's body has not."""
    connection = begin(worker(), pair[1])
    pair[0].sendall(post(b"hello", chunked=False))
    connection.receive()
    assert send(queue[0], connection, WAYS_IN) == 0
    with socket.socket(fileno=os.dup(queue[1])) as inlet, socket.socket(fileno=os.dup(queue[0])) as outlet:
        message, fds, _, _ = socket.recv_fds(inlet, 65536, 2)
        socket.send_fds(outlet, [message], fds[:1])
    for fd in fds:
        os.close(fd)
    assert len(fds) == 2
    with pytest.raises(LostError, match="no descriptor for its request's body"):
        receive(queue[1], worker(), WAYS_IN)
    assert pair[0].recv(1) == b""


def test_a_body_that_can_have_no_file_stays(queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]) -> None:
    connection = begin(worker(), pair[1])
    pair[0].sendall(post(b"hello", chunked=False))
    connection.receive()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert send(queue[0], connection, WAYS_IN) == errno.ENOBUFS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    connection.serve()
    pair[0].shutdown(socket.SHUT_WR)
    connection.serve()
    assert answers(pair[0]).endswith(b" hello")


def test_another_format_is_refused_and_closed(
    queue: tuple[int, int], pair: tuple[socket.socket, socket.socket]
) -> None:
    with socket.socket(fileno=os.dup(queue[0])) as end:
        socket.send_fds(end, [b"?" * 100], [pair[1].fileno()])
    pair[1].close()
    with pytest.raises(LostError, match="another version"):
        receive(queue[1], worker(), WAYS_IN)
    assert pair[0].recv(1) == b""
