"""Clients that are slow on purpose, in large numbers: others are served, memory is bounded, timeouts end them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lifecycle.crowd import Costs, Crowd, need_descriptors
from support import Server, serve

pytestmark = pytest.mark.usefixtures("worker_class")
MANY = 10_000
APP = """
import hashlib

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    if path == "/list":  # a new object for each, as of a page that is rendered
        return [bytes(range(250)) * 2000]
    if path == "/stream":
        return (bytes(range(250)) * 20 for _ in range(100))
    return [f"{len(body)}".encode()]
"""
FIVE_HUNDRED_KB = bytes(range(250)) * 2000
HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 500\r\n\r\nsome"
BLOCK = 32 * 1024  # more than the block of 24 KiB that a connection may have beside buffer_memory, and the connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def others_are_served(server: Server) -> None:
    for _ in range(20):
        response = server.request("POST", "/", data=b"12345")
        assert (response.status_code, response.text) == (200, "5")


def test_ten_thousand_half_sent_heads(folder: Path) -> None:
    """9 KB each; all are held, none is in anybody's way, and each may still be completed."""
    need_descriptors(MANY + 1000)
    limits = ("--limit-connections", f"{MANY + 100}", "--header-timeout", "300")
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        with Crowd(server, MANY, HALF_A_HEAD) as crowd:
            costs.wait_for_descriptors(MANY)
            others_are_served(server)
            assert costs.memory() / MANY < 16 * 1024
            crowd.send(b"\r\n")
            assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in crowd.ends())
        costs.check_nothing_is_left()


def test_ten_thousand_slow_bodies(folder: Path) -> None:
    """A byte now and then. The app sees none of them until one is complete."""
    need_descriptors(MANY + 1000)
    limits = ("--limit-connections", f"{MANY + 100}", "--body-timeout", "300", "--body-min-rate", "0")
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        with Crowd(server, MANY, HALF_A_BODY) as crowd:
            costs.wait_for_descriptors(MANY)
            for _ in range(2):
                crowd.send(b"x")
                others_are_served(server)
            assert costs.memory() / MANY < 24 * 1024
            crowd.send(b"y" * 494)
            assert all(answer.endswith(b"\r\n\r\n500") for answer in crowd.ends())
        costs.check_nothing_is_left()


@pytest.mark.parametrize("path", ["/list", "/stream"])
def test_two_thousand_readers_that_do_not_read(folder: Path, path: str) -> None:
    """The kernel takes less than half of each response. What waits for them is more than buffer_memory: it is in files,
    and nothing of it is lost. (A unix socket, for the kernel keeps little for it and much for TCP.)"""
    count, mine = 2000, 64 << 20
    need_descriptors(2 * count + 1000)
    socket_path = folder / "sock"
    addresses = ("--bind", "127.0.0.1:0", "--bind", f"unix:{socket_path}")
    limits = ("--write-timeout", "300", "--response-min-rate", "0", "--buffer-memory", str(mine))
    with serve("app:wsgi", "--workers", "1", *addresses, *limits, cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
        with Crowd(server, count, request, unix=socket_path) as crowd:
            costs.wait_for_descriptors(count + 1)
            others_are_served(server)  # which come after all the requests of the crowd
            assert costs.memory() < mine + count * BLOCK
            expected = hashlib.sha1(FIVE_HUNDRED_KB).digest()
            for end in crowd.ends():
                assert hashlib.sha1(end.partition(b"\r\n\r\n")[2]).digest() == expected
        costs.check_nothing_is_left()


def test_large_bodies_that_stand_still(folder: Path) -> None:
    """Each would fit into memory, and all of them would take 270 MB."""
    count, mine = 300, 8 << 20
    need_descriptors(2 * count + 1000)
    limits = ("--body-timeout", "300", "--buffer-memory", str(mine))
    data = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900001\r\n\r\n" + b"x" * 900_000
    with serve("app:wsgi", "--workers", "1", *limits, cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        with Crowd(server, count, data) as crowd:
            others_are_served(server)
            assert costs.memory() < mine + count * 2 * BLOCK
            crowd.send(b"y")
            assert all(answer.endswith(b"\r\n\r\n900001") for answer in crowd.ends())
        costs.check_nothing_is_left()


@pytest.mark.parametrize(
    ("timeout", "data"),
    [("--header-timeout", HALF_A_HEAD), ("--body-timeout", HALF_A_BODY)],
    ids=["head", "body"],
)
def test_the_timeouts_answer_with_408(folder: Path, timeout: str, data: bytes) -> None:
    with serve("app:wsgi", "--workers", "1", timeout, "1", cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        with Crowd(server, 300, data) as crowd:
            others_are_served(server)
            for end in crowd.ends():
                assert end.startswith(b"HTTP/1.1 408 ")
                assert not end.endswith(b"reset")
        costs.check_nothing_is_left()


def test_the_write_timeout_closes(folder: Path) -> None:
    socket_path = folder / "sock"
    addresses = ("--bind", "127.0.0.1:0", "--bind", f"unix:{socket_path}")
    with serve("app:wsgi", "--workers", "1", *addresses, "--write-timeout", "1", cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        with Crowd(server, 300, b"GET /stream HTTP/1.0\r\n\r\n", unix=socket_path) as crowd:
            others_are_served(server)
            costs.check_nothing_is_left()
            assert server.log.count("cut: it has not read its response in time") == 1
            assert all(len(end) < len(FIVE_HUNDRED_KB) for end in crowd.ends())
        server.stop()
        server.wait_for_log(r"  a unix socket: cut: it has not read its response in time: 299 times more in ")
