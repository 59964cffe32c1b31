"""Flask-SocketIO with its own client, over WebSockets only: echo, broadcast, and a reload."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import socketio

from support import Server, serve
from support.processes import GENEROUS

APP = """
import os
import pyserve
from flask import Flask, request
from flask_socketio import SocketIO, emit

app = Flask(__name__)
mode = "gevent" if os.environ["CLASS"] == "gevent" else "threading"
io = SocketIO(app, async_mode=mode, transports=["websocket"])
connected = set()
RELEASE = "one"

@app.route("/connected")
def count():
    return str(len(connected))

@io.on("connect")
def connect(auth):
    connected.add(request.sid)

@io.on("disconnect")
def disconnect(reason):
    connected.discard(request.sid)

@io.on("echo")
def echo(text):
    emit("answer", f"{RELEASE}: {text!r}")

@io.on("ask")
def ask(number):
    return request.environ["wsgi.multithread"], number + 1  # an acknowledgement, with values

@io.on("tell everybody")
def tell(text):
    emit("told", text, broadcast=True)

@pyserve.on_destroy
def let_go(signal):
    for sid in list(connected):
        io.server.disconnect(sid)
"""


class Visitor:
    """A client that notes what it hears."""

    def __init__(self, server: Server) -> None:
        self.heard: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.client = socketio.Client(reconnection=False)
        for event in ("connect", "disconnect", "answer", "told"):
            self.client.on(event, lambda *values, event=event: self.heard.put((event, *values[:1])))
        self.client.connect(server.url, transports=["websocket"], wait_timeout=GENEROUS)
        assert self.hears() == ("connect",)
        assert self.client.transport() == "websocket"

    def hears(self) -> tuple[Any, ...]:
        return self.heard.get(timeout=GENEROUS)


@contextmanager
def serving(folder: Path, worker_class: str) -> Iterator[Server]:
    (folder / "chat.py").write_text(APP)
    env = {"CLASS": worker_class}
    with serve("chat:app", "-k", worker_class, "--workers", "1", cwd=folder, env=env) as server:
        yield server
        assert "Traceback" not in server.log
        assert "cut" not in server.log


@contextmanager
def visit(server: Server) -> Iterator[Visitor]:
    visitor = Visitor(server)
    try:
        yield visitor
    finally:
        visitor.client.disconnect()
        visitor.client.shutdown()


def test_echo_and_acknowledgements(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent) as server, visit(server) as visitor:
        for text in ("a", "ü" * 70_000, {"nested": [1, None]}, b"\0binary\xff"):
            visitor.client.emit("echo", text)
            assert visitor.hears() == ("answer", f"one: {text!r}")
        assert visitor.client.call("ask", 41, timeout=GENEROUS) == (True, 42)
        assert server.get("/connected").text == "1"  # meanwhile


def test_a_broadcast_reaches_everybody(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent) as server, ExitStack() as stack:
        visitors = [stack.enter_context(visit(server)) for _ in range(5)]
        assert server.get("/connected").text == "5"
        for number, visitor in enumerate(visitors):
            visitor.client.emit("tell everybody", f"from {number}")
            assert [other.hears() for other in visitors] == [("told", f"from {number}")] * 5


def test_clients_that_are_let_go_come_back_to_the_new_release(tmp_path: Path, concurrent: str) -> None:
    """A hook lets the old worker's clients go when it is told to leave; whoever comes back meets the new one."""
    with serving(tmp_path, concurrent) as server, visit(server) as visitor:
        old = server.workers()
        visitor.client.emit("echo", "a")
        assert visitor.hears() == ("answer", "one: 'a'")
        (tmp_path / "chat.py").write_text(APP.replace('"one"', '"number two"'))
        server.signal(signal.SIGHUP)
        assert visitor.hears() == ("disconnect", "server disconnect")
        server.wait_for(lambda: not set(old) & set(server.workers()))
        visitor.client.connect(server.url, transports=["websocket"], wait_timeout=GENEROUS)
        assert visitor.hears() == ("connect",)
        visitor.client.emit("echo", "b")
        assert visitor.hears() == ("answer", "number two: 'b'")
