"""Nothing of ours waits while it holds the GIL, which would stop every other request of the worker."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import websocket

from support import Server, serve
from support.processes import GENEROUS

SHIM = Path(__file__).parents[1] / "support" / "blocking.c"
APP = """
import ctypes, time
from flask import Flask, request, send_file
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)

@app.route("/", methods=["GET", "POST"])
def index():
    return str(len(request.get_data()))

@app.route("/file")
def file():
    return send_file(__file__.replace("app.py", "large"))

@app.route("/parts")
def parts():
    return (b"x" * 100_000 for _ in range(100))

@app.route("/slow")
def slow():
    time.sleep(1)
    return "slow"

@app.route("/blocks")
def blocks():
    ctypes.PyDLL(None).poll(None, 0, 1)  # unlike CDLL, it keeps the GIL
    return "blocked"

@sock.route("/once")
def once(ws):
    ws.send(ws.receive())
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "blocking.so"
    subprocess.run(["gcc", "-std=gnu17", "-shared", "-fPIC", "-O1", "-o", library, SHIM], check=True)
    return library


def environment(shim: Path, report: Path, **more: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(shim), "BLOCKING_REPORT": str(report), **more}


def ask(server: Server, head: str, body: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), GENEROUS)
    client.sendall(f"{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return client


def taken_over(server: Server) -> socket.socket:
    """A connection that the app has had and given back, and that its client leaves open."""
    client = websocket.create_connection(server.url.replace("http", "ws") + "/once", timeout=GENEROUS)
    client.send("a")
    assert client.recv() == "a"
    assert client.sock is not None
    return client.sock


def read_late(server: Server, path: str, size: int) -> None:
    """As a client that is busy with something else: the response waits for it."""
    with ask(server, f"GET {path}") as client:
        got = len(client.recv(1000))
        time.sleep(0.5)
        while got < size:
            part = client.recv(1 << 20)
            assert part
            got += len(part)


@pytest.mark.usefixtures("worker_class")
def test_whatever_is_served(tmp_path: Path, shim: Path, worker_class: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "large").write_bytes(bytes(5_000_000))
    report = tmp_path / "report"
    options = (
        "--workers",
        "2",
        "--response-spool",
        "1m",
        "--response-buffer",
        "64k",
        "--limit-request-body",
        "1000000",
        "--keepalive-linger",
        "1",
    )
    with serve("app:app", *options, cwd=tmp_path, env=environment(shim, report)) as server:
        kept = [ask(server, "GET /") for _ in range(10)]
        for client in kept:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.get("/file").content == bytes(5_000_000)
        read_late(server, "/file", 5_000_000)
        read_late(server, "/parts", 10_000_000)
        with ask(server, "POST /", b"x" * 300_000) as client:
            assert client.recv(1000).endswith(b"300000")
        with ask(server, "POST /", b"x" * 2_000_000) as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 413")
        left = [] if worker_class == "sync" else [taken_over(server)]
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        for client in kept:  # handed to the new generation
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        slow = ask(server, "GET /slow")
        server.signal(signal.SIGTERM)
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.wait() == 0
        for client in [*kept, slow, *left]:
            client.close()
    assert not report.exists(), report.read_text()


def test_that_this_would_be_seen(tmp_path: Path, shim: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    report = tmp_path / "report"
    with serve("app:app", cwd=tmp_path, env=environment(shim, report, BLOCKING_OWNER="ffi")) as server:
        assert server.get("/blocks").text == "blocked"
    assert report.read_text().startswith("poll in ")
