"""WebSockets through Flask-Sock, with a real client: the connection is the app's until it returns."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

from support import Server, serve
from support.processes import GENEROUS

APP = """
import threading
from flask import Flask, request
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)
everybody = set()

@app.route("/plain")
def plain():
    return str(len(everybody)) if request.query_string else "plain"

@sock.route("/echo")
def echo(ws):
    draining = request.environ["pyserve.draining"]
    while not draining.is_set():
        text = ws.receive(timeout=0.1)
        if text == "fail":
            raise ValueError("as asked for")
        if text is not None:
            ws.send(f"{app.version}: {text}")
    ws.close(1001, "going away")

@sock.route("/room")
def room(ws):
    everybody.add(ws)
    try:
        while True:
            text = ws.receive()
            for other in list(everybody):
                other.send(text)
    finally:
        everybody.discard(ws)

@sock.route("/once")
def once(ws):
    ws.send(ws.receive())

@sock.route("/waits")
def waits(ws):
    ws.send(ws.receive())
    ws.receive()

@sock.route("/deaf")
def deaf(ws):
    ws.send(ws.receive())
    threading.Event().wait()

app.version = "one"
"""


@contextmanager
def serving(folder: Path, worker_class: str, *options: str) -> Iterator[Server]:
    (folder / "sockets.py").write_text(APP)
    with serve("sockets:app", "-k", worker_class, "--workers", "1", *options, cwd=folder) as server:
        yield server


@contextmanager
def connect(server: Server, path: str) -> Iterator[Any]:
    client = websocket.create_connection(server.url.replace("http", "ws") + path, timeout=GENEROUS)
    try:
        yield client
    finally:
        client.close()
        client.shutdown()  # type: ignore[no-untyped-call]  # after a close frame close() leaves it open


def test_echo(tmp_path: Path, concurrent: str) -> None:
    access = tmp_path / "access"
    options = ("--access-logfile", str(access), "--access-logformat", "%(r)s %(s)s")
    with serving(tmp_path, concurrent, *options) as server:
        with connect(server, "/echo") as client:
            for text in ("a", "ü" * 70000, "c"):
                client.send(text)
                assert client.recv() == f"one: {text}"
            assert server.get("/plain").text == "plain"  # meanwhile
        server.wait_for(lambda: "GET /echo HTTP/1.1 101" in access.read_text())
        assert "Traceback" not in server.log
        assert "StopIteration" not in server.log


def test_broadcast(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server, "/room")) for _ in range(5)]
        server.wait_for(lambda: server.get("/plain?count").text == "5")
        for number, client in enumerate(clients):
            client.send(f"from {number}")
            for other in clients:
                assert other.recv() == f"from {number}"


def test_sockets_outlive_the_request_timeout(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent, "--timeout", "0.5") as server, connect(server, "/room") as client:
        client.settimeout(1.5)
        with pytest.raises(websocket.WebSocketTimeoutException):
            client.recv()  # three times as long as a request may take
        client.settimeout(GENEROUS)
        client.send("still here")
        assert client.recv() == "still here"
        assert "has run for" not in server.log


def test_an_app_that_fails_closes_its_socket(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent) as server, connect(server, "/echo") as client:
        client.send("fail")
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            client.recv()
        server.wait_for_log("ValueError: as asked for")
        assert server.get("/plain").status_code == 200


def test_the_app_ends_its_sockets_when_the_worker_drains(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent) as server:
        old = server.workers()
        with connect(server, "/echo") as client:
            client.send("a")
            assert client.recv() == "one: a"
            (tmp_path / "sockets.py").write_text(APP.replace('"one"', '"number two"'))
            server.signal(signal.SIGHUP)
            assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe9going away")
        server.wait_for_log("reload done")
        server.wait_for(lambda: not set(old) & set(server.workers()))
        with connect(server, "/echo") as client:
            client.send("b")
            assert client.recv() == "number two: b"
        assert "cut" not in server.log


@pytest.mark.parametrize("path", ["/waits", "/room", "/deaf"])
def test_a_socket_that_is_left_at_the_graceful_timeout_ends(tmp_path: Path, concurrent: str, path: str) -> None:
    """The app hears of it, if it listens, as of any end of the connection: nothing has failed."""
    options = ("--graceful-timeout", "1", "--access-logfile", "access", "--access-logformat", "%(U)s %(s)s")
    with serving(tmp_path, concurrent, *options) as server, connect(server, path) as client:
        client.send("hello")
        assert client.recv() == "hello"
        server.signal(signal.SIGTERM)
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            client.recv()
        assert server.wait() == 0
        assert "1 connection that the app had taken over ended" in server.log
        assert " error " not in server.log
        assert (tmp_path / "access").read_text() == ("" if path == "/deaf" else f"{path} 101\n")


def test_whoever_is_left_open_by_an_app_that_returns_stops_nobody(tmp_path: Path, concurrent: str) -> None:
    """(The worker read what the client might still send, from a socket that waits, for as long as that took.)"""
    with serving(tmp_path, concurrent, "--timeout", "0", "--threads", "8") as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(server, "/once")) for _ in range(5)]
            for client in clients:
                client.send("a")
                assert client.recv() == "a"
            assert server.get("/plain").text == "plain"
            server.signal(signal.SIGHUP)
            server.wait_for_log("reload done")
            assert server.get("/plain").text == "plain"
        assert "cut" not in server.log


def test_a_request_for_an_upgrade_that_nobody_takes_is_answered(tmp_path: Path, concurrent: str) -> None:
    """As curl sends them, which offers h2c, and goes on over the same connection."""
    with (
        serving(tmp_path, concurrent) as server,
        socket.create_connection(("127.0.0.1", server.port), GENEROUS) as client,
    ):
        for _ in range(2):
            client.sendall(
                b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                b"HTTP2-Settings: AAMAAABk\r\n\r\n"
            )
            received = b""
            while not received.endswith(b"plain"):
                received += client.recv(1000)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_sync_worker_offers_no_socket(tmp_path: Path) -> None:
    with serving(tmp_path, "sync") as server:
        with pytest.raises(websocket.WebSocketBadStatusException), connect(server, "/echo"):
            pass
        server.wait_for_log("Cannot obtain socket from WSGI environment")
