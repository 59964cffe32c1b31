"""Many clients at once, and what a worker pays for them."""

from __future__ import annotations

import os
import resource
import select
import socket
from pathlib import Path

import pytest

from support import Server
from support.processes import wait_for

SMALL_WINDOW = 4096
ADDRESSES = 8  # of 127.0.3.x: a single one has too few ports for two crowds a minute


def need_descriptors(count: int) -> None:
    """Let this process, and the servers that it starts, have so many open; skip the test if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors, and the hard limit (ulimit -Hn) is {hard}")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Crowd:
    """``with Crowd(server, 10_000, data) as crowd:`` connects so many clients, and each sends the data."""

    def __init__(self, server: Server, count: int, data: bytes, *, unix: Path | None = None) -> None:
        self.server, self.count, self.data, self.unix = server, count, data, unix
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        try:
            for number in range(self.count):
                self.sockets.append(self.connect(number))
                self.sockets[-1].sendall(self.data)
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def connect(self, number: int) -> socket.socket:
        client = socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET)
        client.settimeout(60)
        if self.unix:
            client.connect(str(self.unix))
        else:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
            client.bind((f"127.0.3.{1 + number % ADDRESSES}", 0))
            client.connect(("127.0.0.1", self.server.port))
        return client

    def send(self, data: bytes) -> None:
        for client in self.sockets:
            client.sendall(data)

    def ends(self) -> list[bytes]:
        """What each has received when the server has closed its connection; b"reset" at the end if it was no clean end."""
        received = {client.fileno(): b"" for client in self.sockets}
        clients = {client.fileno(): client for client in self.sockets}
        waiting = select.poll()
        for fd in clients:
            waiting.register(fd, select.POLLIN)
        left = len(clients)
        while left:
            ready = waiting.poll(60_000)
            assert ready, f"{left} of {self.count} connections are still open"
            for fd, _ in ready:
                try:
                    data = clients[fd].recv(65536)
                except ConnectionResetError:
                    received[fd] += b"reset"
                    data = b""
                received[fd] += data
                if not data:
                    waiting.unregister(fd)
                    left -= 1
        return list(received.values())

    def leave(self) -> None:
        for client in self.sockets:
            client.close()


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """Bytes that a process has written and shares with nobody. (Pages of files that it shares would count for more when
    another process ends.)"""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


class Costs:
    """What the one worker holds more than when this was made: before the first request, or with the clients that stay."""

    def __init__(self, server: Server) -> None:
        (self.pid,) = server.workers()
        self.server = server
        self.descriptors_before = open_descriptors(self.pid)
        self.memory_before = memory(self.pid)

    def warm_up(self) -> None:
        """What the first requests leave in memory does not count."""
        for _ in range(3):
            self.server.get("/")
        wait_for(lambda: self.descriptors() <= 0, "the end of the first connections")
        self.memory_before = memory(self.pid)

    def memory(self) -> int:
        return memory(self.pid) - self.memory_before

    def descriptors(self) -> int:
        return open_descriptors(self.pid) - self.descriptors_before

    def wait_for_descriptors(self, count: int) -> None:
        wait_for(lambda: self.descriptors() >= count, f"{count} connections in the worker")

    def check_nothing_is_left(self) -> None:
        """The same worker, its descriptors as before, and no complaint in its log."""
        wait_for(lambda: self.descriptors() <= 0, "the end of every connection and file in the worker")
        assert self.server.workers() == [self.pid]
        assert "BUG" not in self.server.log
