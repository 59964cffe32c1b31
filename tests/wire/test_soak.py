"""20,000 requests of all kinds, broken ones included: memory, descriptors and objects stay where they were."""

from __future__ import annotations

import gc
import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wire.loop import Client, Server, eventually

REQUESTS = 20_000


def make_app(path: Path) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        what = environ["PATH_INFO"][1:]
        body = environ["wsgi.input"].read(3) + environ["wsgi.input"].readline()
        if what == "raise":
            raise ValueError(what)
        if what == "none":
            return [b"x"]
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Body", str(len(body)))])
        if what == "write":
            write(b"written")
            return []
        if what == "stream":
            return (b"x" * 3000 for _ in range(5))
        if what == "late":
            return late()
        if what == "file":
            return environ["wsgi.file_wrapper"](path.open("rb"))
        if what == "large":
            return [b"y" * 60_000]
        if what == "bad":
            start_response("200 OK", [("X", "\n")])
        return [b"hello"]

    return app


def late() -> Any:
    yield b"begun"
    raise ValueError("late")


KINDS = ["plain"] * 6 + ["raise", "none", "write", "stream", "late", "file", "large", "bad"]


def request(kind: str, number: int, rng: random.Random) -> bytes:
    target = b"/" + kind.encode()
    fields = b"Host: x\r\nUser-Agent: agent %d\r\nX-Field-%d: v\r\n" % (number % 5, number % 7)
    body = b"line\n" * rng.choice([1, 10, 3000])
    shape = rng.randrange(3)
    if shape == 0:
        return b"GET " + target + b"?n=%d HTTP/1.1\r\n" % number + fields + b"\r\n"
    if shape == 1:
        return b"POST " + target + b" HTTP/1.1\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return (
        b"POST "
        + target
        + b" HTTP/1.1\r\n"
        + fields
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n" % len(body)
        + body
        + b"\r\n0\r\n\r\n"
    )


BROKEN = [
    b"BAD\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
    b"GET /",
]


def play(server: Server, requests: int, rng: random.Random) -> None:
    client = server.connect()
    for number in range(requests):
        if number % 40 == 0:
            with server.connect() as broken:
                broken.send(rng.choice(BROKEN))
                if rng.random() < 0.5:
                    broken.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        kind = rng.choice(KINDS)
        client.send(request(kind, number, rng))
        if kind == "late":
            assert b"begun" in client.rest()
            client.socket.close()
            client = Client(server.address)
        else:
            assert client.response().status == (500 if kind in ("raise", "none", "bad") else 200)
    client.socket.close()


def state(server: Server) -> dict[str, int]:
    eventually(lambda: not server.connections)
    server.log.records.clear()
    gc.collect()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * 4096
    return {
        "rss": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
    }


def test_soak(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"z" * 40_000)
    rng = random.Random(7)
    with Server(make_app(path), body_buffer=8000, access_format="combined") as server:
        os.dup2(os.open(os.devnull, os.O_WRONLY), server.access_write)
        play(server, REQUESTS // 10, rng)
        before = state(server)
        play(server, REQUESTS, rng)
        after = state(server)
        assert int.from_bytes(server.slot[64:72], "little") >= REQUESTS
    assert after["descriptors"] == before["descriptors"]
    assert after["objects"] - before["objects"] < 200
    assert after["blocks"] - before["blocks"] < 2000
    assert after["rss"] - before["rss"] < 2 << 20
