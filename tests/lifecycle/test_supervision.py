"""Deaths of workers and what the log tells of them; a master that was suspended kills nobody on waking."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

import support.server
from lifecycle.load import Load
from lifecycle.project import Project, in_app
from pyserve.control.controlclient import ask, connect
from pyserve.ipc.scoreboard import REQUEST_LINES
from pyserve.system import cgroups
from support import Server, serve
from support.processes import wait_for

DYING = """
import signal
import subprocess

WAYS = {
    # Not os.kill: the main thread would take it, and meanwhile this one might answer.
    "segv": lambda: signal.raise_signal(signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
}

def dies(environ, start_response):
    way = WAYS.get(environ["QUERY_STRING"])
    if way:
        way()
    return wsgi(environ, start_response)
"""

DEATHS = {
    "segv": r"was killed by SIGSEGV; 1 request cut: GET /now\?segv$",
    "exit": r"exited with code 3; 1 request cut: GET /now\?exit$",
    "kill": r"was killed by SIGKILL; not by pyserve.*; 1 request cut: GET /now\?kill$",
    "abort": r"was killed by SIGABRT; 1 request cut: GET /now\?abort$",
}


def replaced(server: Server, pid: int) -> bool:
    """Is its one worker another one now, and does it serve?"""
    return len(server.workers()) == 1 and server.workers() != [pid] and server.get("/").status_code == 200


@pytest.mark.usefixtures("worker_class")
def test_every_death_is_explained_with_the_request_that_it_was_in(project: Project) -> None:
    """How it ended, in which request, and how many were lost: that one, and no other."""
    project.append(DYING)
    with serve("app:dies", "--workers", "1", "--max-crashes", "100", cwd=project.folder) as server:
        for way, pattern in DEATHS.items():
            pid = server.workers()[0]
            with pytest.raises(requests.ConnectionError):
                server.get(f"/now?{way}")
            server.wait_for_log(rf"worker 0 gen 1 pid {pid} {pattern}")
            server.wait_for(partial(replaced, server, pid))


SLEEPY = """
def sleepy(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    return wsgi({**environ, "PATH_INFO": "/"}, start_response)
"""


@contextlib.contextmanager
def sleeping(server: Server, *paths: str) -> Iterator[None]:
    """Clients whose requests are in the app of the only worker, one after another."""
    path = f"/proc/{server.pid}/cwd/ctl"
    with contextlib.ExitStack() as clients:
        for number, each in enumerate(paths, 1):
            client = http.client.HTTPConnection("127.0.0.1", server.port)
            clients.callback(client.close)
            client.request("GET", each)
            wait_for(lambda count=number: only_worker(path)["active"] == count, f"{each} in the app")  # type: ignore[misc]
        yield


def only_worker(control: str) -> dict[str, Any]:
    (worker,) = next(iter(ask(connect(control), control, "status")))["workers"]
    return dict(worker)


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        (3, r"GET /sleep/0\?99, GET /sleep/1\?99, GET /sleep/2\?99"),
        (11, "".join(rf"GET /sleep/{number}\?99(?:, | and 3 more)" for number in range(3, 11))),
    ],
)
def test_the_requests_inside_a_worker_that_dies_are_named(
    project: Project, worker_class: str, number: int, lines: str
) -> None:
    """And not the one that was the last to begin, if it has ended. Of many, those that began last."""
    project.append(SLEEPY)
    if worker_class == "sync":
        number, lines = 1, r"GET /sleep/0\?99"
    pool = {"threads": ("--threads", "12")}.get(worker_class, ())
    options = ("--workers", "1", *pool, "--control-socket", "ctl")
    with serve("app:sleepy", *options, cwd=project.folder) as server:
        pid = server.workers()[0]
        with sleeping(server, *(f"/sleep/{each}?99" for each in range(number))):
            if worker_class != "sync" and number < REQUEST_LINES:  # else it takes the place of the first
                assert server.get("/quick").status_code == 200
            os.kill(pid, signal.SIGKILL)
            server.wait_for_log(rf"pid {pid} was killed .*; {number} requests? cut: {lines}$")


def test_requests_that_are_there_when_workers_end_are_named_with_the_one_that_ends_them(
    project: Project, concurrent: str
) -> None:
    project.append(
        SLEEPY + DYING + "\ndef either(e, s):\n    return (sleepy if e['PATH_INFO'] == '/sleep' else dies)(e, s)\n"
    )
    options = ("--workers", "1", "-k", concurrent, "--max-crashes", "100", "--control-socket", "ctl")
    both = r"GET /sleep \(2 times\), GET /now \(2 times\); one of them is the likely cause$"
    with serve("app:either", *options, cwd=project.folder) as server:
        for _ in range(2):
            (pid,) = server.workers()
            with sleeping(server, "/sleep?99"), pytest.raises(requests.ConnectionError):
                server.get("/now?segv")
            server.wait_for(partial(replaced, server, pid))
        server.wait_for_log(both)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers that are started now, and only they, are in a control group with 128 MB of memory."""
    own = next(
        (
            (is_v2, Path(folder))
            for is_v2, folder in cgroups.folders(cgroups.membership(), "memory")
            if Path(folder, "memory.events" if is_v2 else "memory.oom_control").exists()
        ),
        None,
    )
    if os.geteuid() != 0 or own is None:
        pytest.skip("a control group for memory can be made here only by root, and where there is one already")
    is_v2, folder = own
    group = folder / f"pyserve-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(128 << 20))
        enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs")]
        subprocess.run([*enter, "true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made here: {error}")
    monkeypatch.setattr(support.server, "PYSERVE", (*enter, *support.server.PYSERVE))
    yield
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.usefixtures("little_memory", "worker_class")
def test_a_kill_by_the_kernel_for_lack_of_memory_is_told_from_others(project: Project) -> None:
    project.append(
        "\ndef grows(environ, start_response):\n"
        "    if environ['QUERY_STRING'] == 'grow':\n"
        "        kept = [bytearray(1 << 20) for _ in range(512)]\n"
        "    return wsgi(environ, start_response)\n"
    )
    with serve("app:grows", "--workers", "1", cwd=project.folder) as server:
        pid = server.workers()[0]
        with pytest.raises(requests.ConnectionError):
            server.get("/?grow")
        server.wait_for_log(
            rf"pid {pid} was killed by SIGKILL by the kernel, for lack of memory .*; 1 request cut: GET /\?grow$"
        )
        server.wait_for(partial(replaced, server, pid))
        pid = server.workers()[0]
        os.kill(pid, signal.SIGKILL)
        server.wait_for_log(rf"pid {pid} was killed by SIGKILL; not by pyserve, nor for lack of memory")


SUSPENDED = 3.5  # seconds: more than the timeouts below, and more than a busy machine is given


def suspend(pid: int, seconds: float = SUSPENDED) -> None:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until)
    os.kill(pid, signal.SIGCONT)


def all_but_not(server: Server, number: int, before: list[int]) -> bool:
    """Are there so many workers, and not the same as before?"""
    return len(server.workers()) == number and server.workers() != before


POISON = 30  # requests, each of which ends a worker


@pytest.mark.usefixtures("worker_class")
def test_a_request_that_ends_workers_keeps_nobody_else_from_being_served(project: Project) -> None:
    """One client sends it again and again. Each worker is replaced at once, and the log names the request."""
    project.append(DYING)
    with serve("app:dies", "--workers", "4", cwd=project.folder) as server:
        with Load(server.url, threads=2, pause=0.01) as load:
            for _ in range(POISON):
                before = server.workers()
                with contextlib.suppress(requests.ConnectionError):
                    server.get("/now?segv")
                server.wait_for(partial(all_but_not, server, 4, before))
            good = len(load.answers)
            server.wait_for(lambda: len(load.answers) > good + 10)
        assert {status for status, _ in load.answers} == {200}
        assert len(load.failures) <= POISON, "who was in the same worker"
        assert re.search(r"GET /now was in the app when 2 workers ended in the last 60 s: it is the likely", server.log)
        assert "the responder" not in server.log
        assert "degraded: " in server.log
        assert "workers are started again at once" in server.log


def test_after_a_suspension_nobody_is_late(project: Project, worker_class: str) -> None:
    """As when a virtual machine is paused: every request and every heartbeat looks too old to who only sees the clock.

    The master goes on first, and looks at a worker that had no chance yet to show that it lives. (Those with a
    heartbeat watch over their requests themselves.)
    """
    with serve("app:wsgi", "--workers", "1", "--timeout", "2", cwd=project.folder) as server:
        workers = server.workers()
        with Load(server.url, "/sleep?until=go" if worker_class == "sync" else "/", threads=1) as load:
            if worker_class == "sync":
                server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            if worker_class != "sync":
                load.stop()
            os.kill(workers[0], signal.SIGSTOP)
            suspend(server.pid)
            server.wait_for_log(r"the master did not run for \d+\.\d s: all deadlines are put off by that")
            os.kill(workers[0], signal.SIGCONT)
            project.let_go()
            load.stop()
        assert {status for status, _ in load.answers} == {200}
        assert server.get("/").status_code == 200
        assert server.workers() == workers
        assert not re.search("interrupted|killed", server.log)


@pytest.mark.usefixtures("worker_class")
def test_after_a_suspension_a_client_in_the_middle_of_its_request_is_not_late(project: Project) -> None:
    """It could reach nobody meanwhile."""
    limits = ("--header-timeout", "6", "--body-timeout", "6")
    post = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
    with serve("app:wsgi", "--workers", "1", *limits, cwd=project.folder) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address) as head, socket.create_connection(address) as body:
            head.sendall(post[:20])
            body.sendall(post + b"ab")
            assert server.get("/").status_code == 200  # it has heard the two
            suspend(server.workers()[0], 8)
            for _ in range(3):  # it has looked who is late
                assert server.get("/").status_code == 200
            head.sendall(post[20:] + b"abcd")
            body.sendall(b"cd")
            for client in (head, body):
                assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_boot_has_its_time_without_that_of_a_suspension(project: Project) -> None:
    project.append(
        "\nimport pathlib\n"
        "@pyserve.on_init\n"
        "def wait():\n"
        "    pathlib.Path('boots').touch()\n"
        "    while not pathlib.Path('go').exists():\n"
        "        time.sleep(0.01)\n"
    )
    with serve("app:wsgi", "--workers", "1", "--boot-timeout", "3", cwd=project.folder, ready=False) as server:
        server.wait_for((project.folder / "boots").exists)
        suspend(server.pid)
        server.wait_for_log("the master did not run")
        (project.folder / "go").touch()
        server.wait_for_log("ready: 1 worker")
