"""200,000 requests of all kinds, broken ones included: memory, descriptors, objects and references stay where they were.

Each script of requests is played once by a strict reader of responses; from then on its answer has to be the same, byte
for byte but for the date. So a client costs little and the number can be large; REQUESTS in the environment changes it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wire.apps import TEXT, App
from wire.loop import Client, Server, eventually

REQUESTS = int(os.environ.get("REQUESTS", "200000"))

# ---- the app ----


def unread(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)
    return [b"unread"]


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    stream = environ["wsgi.input"]
    size = len(stream.read(3) + stream.readline() + b"".join(stream))
    start_response("200 OK", [*TEXT, ("X-Body", str(size))])
    return [b"hello"]


def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    raise ValueError(environ["wsgi.input"].read())


def write(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)(b"written")
    return ()


def replace(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)
    try:
        raise ValueError
    except ValueError:
        start_response("503 Busy", TEXT, sys.exc_info())
    return [b"busy"]


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    for _ in range(5):
        yield b"x" * 3000


def endless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)
    return (b"x" * 60_000 for _ in range(1000))


def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"begun"
    raise ValueError("late")


def large(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)
    return [b"y" * 60_000]


def headed(*fields: tuple[str, str]) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", list(fields))
        return [b"four"]

    return app


def make_app(path: Path, kept: dict[str, Any]) -> App:
    def keep(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        kept.update(environ)
        return echo(environ, start_response)

    def file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](path.open("rb"))

    apps: dict[str, App] = {
        app.__name__: app for app in (unread, echo, fail, write, replace, stream, endless, late, large, file, keep)
    }
    apps["silent"] = lambda *_: [b"x"]
    apps["bad"] = headed(("X", "\n"))
    apps["short"] = headed(("Content-Length", "9"))
    apps["long"] = headed(("Content-Length", "2"))
    return lambda environ, start_response: apps.get(environ["PATH_INFO"][1:], echo)(environ, start_response)


# ---- requests ----


def head(name: str, *fields: bytes, method: bytes = b"POST") -> bytes:
    return b"\r\n".join([method + b" /" + name.encode() + b" HTTP/1.1", b"Host: x", *fields, b"", b""])


def get(name: str, *fields: bytes) -> bytes:
    return head(name, *fields, method=b"GET")


def sized(name: str, body: bytes) -> bytes:
    return head(name, b"Content-Length: %d" % len(body)) + body


def chunked(name: str, body: bytes) -> bytes:
    return head(name, b"Transfer-Encoding: chunked") + b"%x;a=b\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body)


LINES = b"a line\n" * 20
SPOOLED = b"a line\n" * 4000  # larger than the first receive buffer, too
LONG_HEAD = [b"X-%d: " % n + b"v" * 1000 for n in range(30)]  # and so is this

# After these the connection can be used again.
SOUND = [
    *[get(name) for name in ("echo", "unread", "write", "replace", "stream", "large", "file", "long")],
    *[head(name, method=b"HEAD") for name in ("echo", "stream", "large", "file")],
    *[sized(name, LINES) for name in ("echo", "unread", "stream")],
    *[chunked(name, LINES) for name in ("echo", "unread", "write")],
    *[make(name, SPOOLED) for make in (sized, chunked) for name in ("echo", "unread")],
    *[get(f"echo?n={n}", b"User-Agent: agent %d" % n, b"X-Field-%d: v" % n, b"Cookie: a=%d" % n) for n in range(9)],
    get(
        "echo",
        b"Accept: a",
        b"Accept: b",
        b"X_Y: z",
        b"Proxy: p",
        b"Authorization: Basic YTpi",
        b"X-" + b"n" * 200 + b": v",
    ),
    get("%C3%A9" * 300),
    get("echo", *LONG_HEAD),
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://y/echo HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
FAILING = [get("fail"), sized("fail", LINES), get("silent"), get("bad")]  # the log has a traceback for each

# After these it is closed, and what is behind them is not answered.
LAST = [
    get("late"),
    get("short"),
    get("echo", b"Connection: close"),
    b"GET /stream HTTP/1.0\r\n\r\n",
    b"BAD\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"CONNECT y:1 HTTP/1.1\r\nHost: y\r\n\r\n",
    get("echo", b"X : y"),
    get("echo", *LONG_HEAD, b"X : y"),
    get("echo", *[b"X: y"] * 200),
    get("echo", b"Expect: tea"),
    get("a" * 9000),
    sized("echo", b"x" * 100_000),  # beyond limit_request_body
    head("echo", b"Transfer-Encoding: chunked") + b"5\r\nhello!\r\n0\r\n\r\n",
    head("echo", b"Transfer-Encoding: chunked") + b"0\r\nHost: y\r\n\r\n",
    head("echo", b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
]

# Whoever sends these is gone, or has half-closed, before there is an answer.
PARTS = [
    b"",
    b"GET /",
    get("echo") + b"GET",
    get("echo", *LONG_HEAD)[:-1],
    sized("echo", LINES)[:-1],
    sized("echo", SPOOLED)[:-1],
    chunked("echo", LINES)[:-1],
    get("endless"),
    get("large") * 9,
    get("file") * 9,
    head("echo", b"Content-Length: 5", b"Expect: 100-continue"),
]


# ---- clients ----


class Recording(Client):
    """Keeps all that has come."""

    received = b""

    def more(self) -> bool:
        before = len(self.buffer)
        going_on = super().more()
        self.received += self.buffer[before:]
        return going_on


def undated(data: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]+", b"", data)


class Script:
    """Requests that are sent at once on a connection that stays open."""

    def __init__(self, server: Server, requests: list[bytes]) -> None:
        self.size = len(requests)
        self.data = b"".join(requests)
        client = Recording(server.address)
        with client:
            client.send(self.data)
            for request in requests:
                client.response(request.split(b" ", 1)[0].decode())
            assert not client.buffer
            self.answer = undated(client.received)
            self.length = len(client.received)

    def play(self, client: Client) -> None:
        client.send(self.data)
        assert undated(client.take(self.length)) == self.answer


class LastScript(Script):
    """A request behind which nothing is answered."""

    def __init__(self, server: Server, request: bytes) -> None:
        self.data = request + get("unread") * 2
        with server.connect() as client:
            client.send(self.data)
            self.answer = undated(client.rest())
        assert self.answer.count(b"\r\nServer: pyserve\r\n") == 1

    def play(self, client: Client) -> None:
        client.send(self.data)
        assert undated(client.rest()) == self.answer


def close(client: Client) -> None:
    client.socket.close()


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.socket.close()


def half_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)
    client.socket.recv(1)
    client.socket.close()


class Play:
    """The scripts of one server, in an order that is the same in every run."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server, self.rng = server, rng
        self.scripts = [
            Script(server, [*rng.sample(SOUND, 25), rng.choice(FAILING), *rng.sample(SOUND, 13)]) for _ in range(60)
        ]
        self.last = [LastScript(server, request) for request in LAST]

    def go(self, requests: int) -> None:
        done = 0
        with self.server.connect() as client:
            while done < requests:
                script = self.rng.choice(self.scripts)
                script.play(client)
                with self.server.connect() as other:
                    self.rng.choice(self.last).play(other)
                leaving = self.server.connect()
                leaving.send(self.rng.choice(PARTS))
                self.rng.choice([close, reset, half_close])(leaving)
                done += script.size + 2
                self.server.log.records.clear()


def tire(server: Server, rounds: int) -> None:
    """Clients that are too slow for this server's timeouts, until it has closed."""
    for _ in range(rounds):
        clients = [server.connect() for _ in PARTS]
        for client, part in zip(clients, PARTS, strict=True):
            client.send(part)
        for client in clients:
            drain(client)


def drain(client: Client) -> None:
    with client:
        try:
            client.rest()
        except AssertionError:
            return  # reset


# ---- what must not grow ----


class MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def allocated() -> int:
    """Bytes from malloc() that are in use."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = MallInfo
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def measure(servers: list[Server]) -> dict[str, int]:
    eventually(lambda: not any(server.connections for server in servers))
    for server in servers:
        server.log.records.clear()
    gc.collect()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * 4096
    return {
        "resident": resident,
        "malloc": allocated(),
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


REMEMBERED = 2 * 8  # environs that two contexts keep for requests with the same field lines (H1_MEMORY_PLACES)
MARGINS = {"resident": 6 << 20, "malloc": 100_000, "blocks": 500, "objects": 50, "descriptors": 0}


def references(server: Server, kept: dict[str, Any]) -> dict[str, int]:
    """Of what all requests share: the keys of environ, and the values that come from its template."""
    shared = {"app": server.context.app, "context": server.context, "listener": server.about, "log": server.log}
    shared |= {f"key {key}": key for key in kept}
    shared |= {f"value of {key}": kept[key] for key in kept if key.startswith(("wsgi.", "SERVER_", "pyserve."))}
    return {name: sys.getrefcount(value) for name, value in shared.items()}


def test_soak(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"z" * 40_000)
    kept: dict[str, Any] = {}
    app = make_app(path, kept)
    limits: dict[str, Any] = {"body_buffer": 8000, "limit_request_body": 50_000}
    limits |= {"response_buffer": 100_000, "response_spool": 1 << 20}
    slow = {f"{name}_timeout": 0.1 for name in ("header", "body", "write")} | {"keep_alive": 0.1}
    with (
        Server(app, access_format="combined", **limits) as server,
        Server(app, access_format="json", **{**limits, **slow}) as hasty,
    ):
        for each in (server, hasty):
            os.dup2(null := os.open(os.devnull, os.O_WRONLY), each.access_write)
            os.close(null)
        server.get("/keep")
        play = Play(server, random.Random(7))
        play.go(REQUESTS // 10)
        tire(hasty, 2)
        before, shared = measure([server, hasty]), references(server, kept)
        play.go(REQUESTS)
        tire(hasty, 5)
        after = measure([server, hasty])
        grown = {name: after[name] - before[name] for name in before}
        print(f"{REQUESTS:,} requests: before {before}, grown by {grown}")
        assert {name: by for name, by in grown.items() if by > MARGINS[name]} == {}
        now = references(server, kept)
        assert {name: now[name] - shared[name] for name in now if abs(now[name] - shared[name]) > REMEMBERED} == {}
        assert sum(int.from_bytes(each.slot[64:72], "little") for each in (server, hasty)) >= REQUESTS * 0.95
