"""Responses that are made in one turn of the loop may be sent together; none waits for a slow neighbour."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from lifecycle.project import Project
from support import serve
from support.processes import wait_for

pytestmark = pytest.mark.usefixtures("worker_class")
APP = """
import time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    until = time.perf_counter() + 0.0001
    while time.perf_counter() < until:  # as dear as a small app: it is then worth while to send answers together
        pass
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def sleeps_in_epoll(pid: int) -> bool:
    """Whichever of its threads polls."""
    return any("ep" in wchan.read_text() for wchan in Path(f"/proc/{pid}/task").glob("*/wchan"))


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_fast_answers_before_a_slow_one_are_not_held_back_for_it(project: Project, bind: str) -> None:
    project.app.write_text(APP)
    with serve("app:wsgi", "--workers", "1", "--bind", bind, cwd=project.folder) as server:
        host = bind.rpartition(":")[0].strip("[]")
        clients = [socket.create_connection((host, server.port), timeout=60) for _ in range(6)]
        for _ in range(500):  # until the app passes for a fast one
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            for client in clients:
                assert client.recv(4096).endswith(b"ok")
        (worker,) = server.workers()
        # Only where it sleeps in epoll_wait() are connections ready in the order in which they are written to.
        wait_for(lambda: sleeps_in_epoll(worker), "the worker to have nothing to do")
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: stopped(worker), "the worker to stop")
        *fast, slow = clients
        for client in fast:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.sendall(b"GET /slow?20 HTTP/1.1\r\nHost: x\r\n\r\n")
        os.kill(worker, signal.SIGCONT)
        for client in fast:
            assert client.recv(4096).endswith(b"ok")
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):
            slow.recv(1)  # it still sleeps
        server.signal(signal.SIGQUIT)
        assert server.process.wait(60) in (0, 70)
        for client in clients:
            client.close()
