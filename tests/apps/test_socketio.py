"""Flask-SocketIO and its client: acknowledgements, broadcasts, large and binary messages; over polling, WebSockets, and
from the first to the second.

A session is known to one process, so there is one worker, and a reload ends it: the client comes back by itself, and
asks again what was not acknowledged. A client that listens all the time holds a worker that is sync: such a worker can
do no more than answer one request after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from apps.deploying import during_reloads, serving
from examples.running import Client
from support.processes import GENEROUS, wait_for

APP = """
import os

from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask(__name__)
mode = "gevent" if os.environ["PYSERVE_WORKER_CLASS"] == "gevent" else "threading"
io = SocketIO(app, async_mode=mode, ping_interval=0.5, ping_timeout=1)

@io.on("double")
def double(value):
    return value * 2

@io.on("tell everybody")
def tell(text):
    emit("told", text, broadcast=True)
"""
TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


@contextlib.contextmanager
def visit(url: str, transports: list[str]) -> Iterator[socketio.SimpleClient]:
    """A client that is connected, and connects again whenever it is not."""
    with socketio.SimpleClient(reconnection_delay=0.1, randomization_factor=0) as client:

        def connected() -> bool:
            try:
                client.connect(url, transports=transports, wait_timeout=GENEROUS)
            except socketio.exceptions.ConnectionError:
                if transports == ["websocket"]:
                    raise
            return bool(client.connected)

        wait_for(connected)
        yield client


def ask(client: socketio.SimpleClient, value: Any) -> Any:
    """``value`` doubled. What was lost with a connection is asked for again."""
    answers = []

    def answered() -> bool:
        with contextlib.suppress(socketio.exceptions.TimeoutError):
            answers.append(client.call("double", value, timeout=3))
        return bool(answers)

    wait_for(answered)
    return answers[0]


@pytest.mark.parametrize("way", TRANSPORTS)
def test_messages(tmp_path: Path, worker_class: str, way: str) -> None:
    if worker_class == "sync":
        pytest.skip("a long poll or a WebSocket would hold the only worker")
    (tmp_path / "app.py").write_text(APP)
    transports = TRANSPORTS[way]
    with serving("app", "--graceful-timeout", "2", cwd=tmp_path, workers=1) as server:
        with visit(server.url, transports) as regular:

            def flow(number: int) -> None:
                with visit(server.url, transports) as visitor:
                    for message in ("a", "ü" * 70_000, os.urandom(200_000)):
                        assert ask(visitor, message) == message * 2
                assert ask(regular, number) == number * 2

            during_reloads(server, flow)


class Session:
    """One of the polling transport, which listens only when something is to be heard."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.query = {"EIO": "4", "transport": "polling"}
        self.query["sid"] = json.loads(self.ask("GET").removeprefix("0"))["sid"]

    def ask(self, method: str, packet: str | None = None) -> str:
        """LookupError if the session is another worker's."""
        response = self.client.request(method, "/socket.io/", params=self.query, data=packet)
        if response.status_code == 400 and "Invalid session" in response.text:
            raise LookupError
        assert response.status_code == 200, response.text
        return response.text

    def tell(self, packet: str) -> str:
        """The packets that come back."""
        assert self.ask("POST", packet) == "OK"
        return self.ask("GET")


def test_in_turn(tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serving("app", cwd=tmp_path, workers=1) as server:

        def flow(number: int) -> None:
            with contextlib.suppress(LookupError), Client(server.url) as client:
                session = Session(client)
                assert "40{" in session.tell("40")
                for packet_id in range(10):
                    assert f"43{packet_id}[{number * 2}]" in session.tell(f'42{packet_id}["double",{number}]')
                finished.append(number)

        finished: list[int] = []
        during_reloads(server, flow)
        assert finished
