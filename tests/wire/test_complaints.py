"""What a client can have logged: one line of each kind, however often it does the same, and nothing that it sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyserve.ipc.scoreboard import Slot
from wire.loop import Client, Server, eventually, small_window

pytestmark = pytest.mark.usefixtures("way")

TIMES = 20
SECRET = b"s3cr3t"
POST = b"POST /s3cr3t HTTP/1.1\r\nHost: x\r\n"


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"x" * 8_000_000]


def long(times: int) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % (1000 + times) + SECRET


REFUSED: dict[str, tuple[Callable[[int], bytes], dict[str, Any]]] = {
    "400: the request line": (lambda n: b"s3cr3t%d\r\n\r\n" % n, {}),
    "400: a name": (lambda n: b"GET / HTTP/1.1\r\nHost: x\r\ns3cr3t%d : x\r\n\r\n" % n, {}),
    "400: a chunk": (lambda n: POST + b"Transfer-Encoding: chunked\r\n\r\ns3cr3t%d\r\n" % n, {}),
    "408: the head": (lambda n: b"GET /s3cr3t%d" % n, {"header_timeout": 1}),
    "408: the body": (lambda n: POST + b"Content-Length: 500\r\n\r\ns3cr3t%d" % n, {"body_timeout": 0.2}),
    "413": (long, {"limit_request_body": 100}),
    "414": (lambda n: b"GET /s3cr3t%d" % n + b"x" * 200, {"limit_request_line": 100}),
    "417": (lambda n: POST + b"Expect: s3cr3t%d\r\n\r\n" % n, {}),
    "500": (lambda n: POST + b"Content-Length: 100\r\n\r\ns3cr3t%d" % n, {"spool_dir": "/nowhere", "body_buffer": 0}),
    "501": (lambda n: POST + b"Transfer-Encoding: s3cr3t%d, chunked\r\n\r\n" % n, {}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_is_told_once(kind: str) -> None:
    sent, settings = REFUSED[kind]
    with Server(app, **settings) as server:
        clients = [server.connect() for _ in range(TIMES)]
        for number, client in enumerate(clients):
            client.send(sent(number))
        for client in clients:
            assert client.response().status == int(kind[:3])
            client.socket.close()
        records = [text for level, text in server.log.records if level != "debug"]
        assert len(records) == 1
        assert f": refused with {kind[:3]}: " in records[0]
        server.context.complaints.tell(server.context.complaints.counted)
        records = [text for level, text in server.log.records if level != "debug"]
        client_and_kind = "127.0.0.1: " + records[0].partition(": ")[2]
        assert records[1:] == [f"{client_and_kind}: {TIMES - 1} times more in 0 s"]
        assert SECRET.decode() not in "".join(records)


def test_each_refusal_has_its_line_in_the_access_log() -> None:
    with Server(app, access_format="%(s)s") as server:
        for _ in range(TIMES):
            with server.connect() as client:
                client.send(b"bad\r\n\r\n")
                assert client.response().status == 400
        assert [server.access_line() for _ in range(TIMES)] == ["400\n"] * TIMES


def test_two_kinds_have_two_lines() -> None:
    with Server(app) as server:
        for data in (b"bad\r\n\r\n", POST + b"Expect: x\r\n\r\n") * 5:
            with server.connect() as client:
                client.send(data)
                client.rest()
        assert server.log.texts("info").count("refused with 400") == 1
        assert server.log.texts("info").count("refused with 417") == 1


def test_readers_that_never_read_are_told_once() -> None:
    with Server(app, write_timeout=0.2) as server:
        clients = [small_window(server) for _ in range(TIMES)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: Slot(memoryview(server.slot)).get("requests") == TIMES and not server.connections)
        server.context.complaints.tell(server.context.complaints.counted)
        told = server.log.texts("info").splitlines()
        assert len(told) == 2
        assert told[0].endswith(": cut: it has not read its response in time")
        assert told[1] == f"127.0.0.1: cut: it has not read its response in time: {TIMES - 1} times more in 0 s"
        for client in clients:
            client.socket.close()


def test_slow_clients_whose_responses_cannot_be_spooled_are_told_once() -> None:
    def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return (b"x" * 65536 for _ in range(60))

    with Server(stream, response_buffer=0, spool_dir="/nowhere") as server:
        for _ in range(3):
            with small_window(server) as client:
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                client.rest()
        assert server.log.texts("warning").count("its response cannot be spooled: /nowhere: No such file") == 1


def test_clients_of_a_unix_socket_are_one(tmp_path: Path) -> None:
    with Server(app, unix=os.fspath(tmp_path / "sock")) as server:
        for _ in range(TIMES):
            with Client(server.address) as client:
                client.send(b"bad\r\n\r\n")
                client.rest()
        server.context.complaints.tell(server.context.complaints.counted)
        told = server.log.texts("info").splitlines()
        assert [line.partition(": ")[0] for line in told] == ["a unix socket"] * 2
