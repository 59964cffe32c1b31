"""A gigabyte for a client that reads slowly costs a worker less than 2 MB of memory, whether an app makes it or a file has it."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.crowd import Costs
from support import serve

pytestmark = pytest.mark.usefixtures("worker_class")
GIGABYTE = 1 << 30
BURST = 16 << 20
ENOUGH = 256 << 20  # read by a client that then goes away: four times what response_spool keeps for it
APP = """
GIGABYTE = 1 << 30

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Length", str(GIGABYTE))])
        return (n.to_bytes(8, "big") * 8192 for n in range(GIGABYTE // 65536))
    if path == "/file":
        start_response("200 OK", [("Content-Length", str(GIGABYTE))])
        return environ["wsgi.file_wrapper"](open("gigabyte", "rb"))
    start_response("200 OK", [])
    return [b"ok"]
"""
LIMIT = 2 << 20


def made() -> Iterator[bytes]:
    """The blocks that the app makes."""
    for n in range(GIGABYTE // 65536):
        yield n.to_bytes(8, "big") * 8192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("downloads")
    (folder / "app.py").write_text(APP)
    with (folder / "gigabyte").open("wb") as file:
        file.write(b"\0")  # one without any block would be read, as those of /proc are
        file.truncate(GIGABYTE)  # it takes no more space
    yield folder
    (folder / "gigabyte").unlink()


class Download:
    """Reads a response in bursts: between two, the kernel's buffers are full and the worker has to keep the rest."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 200 ")
        self.digest = hashlib.sha1()
        self.received = 0
        self.ended = False

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def burst(self, size: int) -> None:
        buffer = bytearray(1 << 20)
        until = self.received + size
        while self.received < until and not self.ended:
            n = self.socket.recv_into(buffer)
            self.digest.update(memoryview(buffer)[:n])
            self.received += n
            self.ended = n == 0


@pytest.mark.parametrize("path", ["/stream", "/file"])
def test_a_client_that_reads_in_bursts_and_goes_away(folder: Path, path: str) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        most = 0
        with Download(server.port, path) as download:
            while download.received < ENOUGH:
                download.burst(BURST)
                if path == "/file":  # nothing waits for this client, so others are answered between
                    assert server.get("/").text == "ok"
                most = max(most, costs.memory())
        assert most < LIMIT
        costs.check_nothing_is_left()
        assert costs.memory() < LIMIT


@pytest.mark.parametrize("path", ["/stream", "/file"])
def test_all_of_it_arrives(folder: Path, path: str) -> None:
    with serve("app:wsgi", "--workers", "1", "--response-spool", "4MiB", cwd=folder) as server:
        costs = Costs(server)
        costs.warm_up()
        most = 0
        with Download(server.port, path) as download:
            while not download.ended:
                download.burst(4 * BURST)
                most = max(most, costs.memory())
        assert most < LIMIT
        assert download.received == GIGABYTE
        wanted = hashlib.sha1()
        for block in made() if path == "/stream" else (bytes(1 << 20) for _ in range(1024)):
            wanted.update(block)
        assert download.digest.digest() == wanted.digest()
        costs.check_nothing_is_left()
