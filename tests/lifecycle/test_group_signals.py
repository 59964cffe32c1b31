"""Signals that reach every process of the service at once, as terminals, service managers and people send them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lifecycle.answers import last, status
from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import Server, serve
from support.processes import GENEROUS, title

CHILDREN_TOO = (signal.SIGUSR1, signal.SIGWINCH)  # to the master, they change nothing of the workers
CHILDREN = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def send_all(server: Server, number: int) -> None:
    for pid in server.processes():
        send(pid, number)


@contextmanager
def storm(server: Server) -> Iterator[None]:
    """Each process gets each of these signals again and again, from the moment in which it can be seen."""
    over = threading.Event()

    def blow() -> None:
        while not over.is_set():
            for pid in server.processes():
                for number in CHILDREN_TOO if pid == server.pid else CHILDREN_TOO + CHILDREN:
                    send(pid, number)
            time.sleep(0.001)

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("preload", ["always", "never"])
def test_no_process_minds_what_is_for_the_master(project: Project, preload: str) -> None:
    """Zygotes, workers in their boot and in a request, and those in between. (USR1 to the group, for the logs, killed all
    of them.)"""
    options = ("--workers", "2", "--reload-check", "/")
    with serve("app:wsgi", *options, cwd=project.folder, env={"PYSERVE_PRELOAD": preload}, ready=False) as server:
        server.url = server.wait_for_log(r"listening on (\S+)").group(1)
        with storm(server):
            server.wait_for_log("ready: 2 workers")
            workers = server.workers()
            assert server.get("/sleep?1").status_code == 200
            assert server.workers() == workers
            project.replace('"one"', '"two"')
            server.signal(signal.SIGHUP)
            server.wait_for_log("reload done")
            assert server.get("/").text.startswith("two ")
            server.wait_for(lambda: len(server.workers()) == 2)
            os.kill(server.workers()[0], signal.SIGKILL)
            server.wait_for(lambda: server.log.count("is serving") == 5)
        assert server.log.count("was killed by") == 1


@pytest.mark.usefixtures("worker_class")
def test_they_do_what_they_mean_once(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server, Load(server.url, threads=2) as load:
        send_all(server, signal.SIGTTIN)
        server.wait_for_log("workers: 2 → 3")
        server.wait_for(lambda: len(server.workers()) == 3)
        send_all(server, signal.SIGTTOU)
        server.wait_for_log("workers: 3 → 2")
        server.wait_for(lambda: len(server.workers()) == 2)
        send_all(server, signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        server.wait_for(lambda: len(server.workers()) == 2)
        workers = server.workers()
        send_all(server, signal.SIGUSR2)
        server.wait_for_log("upgraded: ")
        assert server.workers() == workers
        send_all(server, signal.SIGUSR1)
        server.wait_for_log("log files reopened")
        assert server.workers() == workers
        load.stop()
        assert load.failures == []


def test_the_child_that_proves_an_upgrade_does_not_mind_either(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        for number in CHILDREN_TOO:
            server.signal(signal.SIGUSR2)
            server.wait_for(lambda: [pid for pid in server.processes() if "--prove-upgrade" in title(pid)])
            send_all(server, number)
            server.wait_for(lambda: server.log.count("upgraded: ") == CHILDREN_TOO.index(number) + 1)  # noqa: B023


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("moment", ["proved", "done"])
def test_a_term_to_all_may_come_during_an_upgrade(project: Project, moment: str) -> None:
    """Whichever of the two masters hears it, it is one stop."""
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        with ThreadPoolExecutor() as clients:
            slow = clients.submit(server.get, "/sleep?until=go")
            server.wait_for(lambda: in_app(server, 1))
            server.signal(signal.SIGUSR2)
            if moment == "done":
                server.wait_for_log("upgraded: ")
            else:
                server.wait_for(lambda: any("--prove-upgrade" in title(pid) for pid in server.processes()))
            send_all(server, signal.SIGTERM)
            project.let_go()
            assert slow.result().status_code == 200
        assert server.wait() == 0
        server.wait_for(lambda: not server.processes())
        assert "stopped; the stop cut no request" in server.log
        assert " error " not in server.log


@pytest.mark.usefixtures("worker_class")
def test_the_app_may_have_these_signals(project: Project) -> None:
    project.append("""
import signal
told = []

@pyserve.on_init
def listen():
    signal.signal(signal.SIGUSR1, lambda *_: told.append("USR1"))

def tells(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(told).encode()]
""")
    with serve("app:tells", "--workers", "1", cwd=project.folder) as server:
        send(server.workers()[0], signal.SIGUSR1)
        server.wait_for(lambda: server.get("/").text == "USR1")


def test_what_the_app_forks_has_the_usual_handlers(project: Project) -> None:
    """Also what its import forks, in a zygote that heeds no TERM."""
    project.append("""
def fork():
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(60)
    return pid

at_import = fork()

def ends(environ, start_response):
    start_response("200 OK", [])
    pids = [at_import, fork()]
    return [" ".join(map(str, pids)).encode()]
""")
    env = {"PYSERVE_PRELOAD": "always"}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with serve("app:ends", "--workers", "1", cwd=project.folder, env=env) as server:
            pids = list(map(int, server.get("/").text.split()))
            for pid in pids:
                send(pid, number)
            server.wait_for(lambda: not set(pids) & set(server.processes()))  # noqa: B023


# TERM to everybody: systemd's KillMode=control-group, supervisord's stopasgroup, Heroku.

EVERYBODY = {
    "the master first": lambda server: [server.pid, *server.zygotes(), *server.workers()],
    "the master last": lambda server: [*server.workers(), *server.zygotes(), server.pid],
    "the master between": lambda server: [server.workers()[0], server.pid, *server.zygotes(), *server.workers()[1:]],
}
WAIT = b"GET /sleep?until=go HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def terminate(server: Server, order: str) -> None:
    pids = EVERYBODY[order](server)
    for pid in pids:
        send(pid, signal.SIGTERM)
        if order == "the master last" and pid in server.workers():
            server.wait_for_log(rf"pid {pid} was told to stop")


def connect(server: Server, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=GENEROUS)
    client.sendall(data)
    return client


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("order", EVERYBODY)
def test_a_term_to_everybody_is_one_to_the_master(project: Project, order: str) -> None:
    """Busy workers, kept connections, half a head, and clients in the queue. (The queue was reset, kept connections had an
    empty 503, and the log said that the stop cut no request.)"""
    with serve("app:wsgi", "--workers", "2", "--keepalive-linger", "30", cwd=project.folder) as server:
        kept = [connect(server, GET) for _ in range(6)]
        assert [status(client) for client in kept] == [200] * 6
        half = connect(server, GET[:20])
        busy = [connect(server, WAIT) for _ in range(2)]
        server.wait_for(lambda: in_app(server, 1))
        stopped = server.workers()
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        queued = [connect(server, GET) for _ in range(6)]
        terminate(server, "the master first" if order == "the master last" else order)
        server.wait_for_log("stopping")
        for pid in stopped:
            send(pid, signal.SIGCONT)
        half.sendall(GET[20:])
        for client in kept:
            client.sendall(GET)
        project.let_go()
        assert [last(client) for client in [*kept, half, *busy, *queued]] == [200] * 15
        assert server.wait() == 0
        assert "stopped; the stop cut no request" in server.log
        assert not set(server.log.split()) & {"error", "crit", "warn"}


BLOCKED_IMPORT = """
while os.path.exists("block"):
    time.sleep(0.01)
"""


@pytest.mark.usefixtures("worker_class")
def test_workers_that_hear_it_first_are_there_when_the_master_does(project: Project) -> None:
    """Their replacements would take long, and are not waited for. (They left at once, and the rest was lost.)"""
    project.append(BLOCKED_IMPORT)
    env = {"PYSERVE_PRELOAD": "never"}
    with serve("app:wsgi", "--workers", "2", cwd=project.folder, env=env) as server:
        kept = [connect(server, GET) for _ in range(6)]
        assert [status(client) for client in kept] == [200] * 6
        (project.folder / "block").touch()
        for pid in server.workers():
            send(pid, signal.SIGTERM)
            server.wait_for_log(rf"pid {pid} was told to stop")
        server.wait_for(lambda: sum("booting" in title(pid) for pid in server.workers()) == 2)
        queued = [connect(server, GET) for _ in range(6)]
        for pid in server.processes():
            send(pid, signal.SIGTERM)
        server.wait_for_log("stopping")
        for client in kept:
            client.sendall(GET)
        assert [last(client) for client in kept + queued] == [200] * 12
        assert server.wait() == 0
        assert "stopped; the stop cut no request" in server.log


def test_a_worker_that_leaves_is_not_kept_by_nobodys_term(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        old = server.workers()
        send(old[0], signal.SIGTERM)
        server.wait_for_log(rf"pid {old[0]} has left \(SIGTERM\)")
        assert server.get("/").status_code == 200


@pytest.mark.usefixtures("worker_class")
def test_the_responder_hears_it_too(project: Project) -> None:
    project.append("""
@pyserve.on_init
def boot():
    if os.path.exists("broken"):
        raise RuntimeError("broken by this test")
""")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        (project.folder / "broken").touch()
        send(server.workers()[0], signal.SIGKILL)
        assert server.get("/").status_code == 503
        (responder,) = [pid for pid in server.processes() if "responder" in title(pid)]
        send(responder, signal.SIGSTOP)
        queued = [connect(server, GET) for _ in range(4)]
        send_all(server, signal.SIGTERM)
        server.wait_for_log("stopping")
        send(responder, signal.SIGCONT)
        assert [last(client) for client in queued] == [503] * 4
        assert server.wait() == 0


# SIGALRM belongs to the app.

ALARM = """
import signal

def alarmed(environ, start_response):
    rung = []
    signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    signal.setitimer(signal.ITIMER_REAL, 1.0, 0.1)
    environ["wsgi.errors"].write("asleep\\n")
    while len(rung) < 3:
        time.sleep(0.01)
    signal.setitimer(signal.ITIMER_REAL, 0)
    start_response("200 OK", [])
    return [b"rung"]
"""


@pytest.mark.parametrize("everybody", [True, False])
def test_a_term_leaves_the_timer_of_the_app_alone(project: Project, everybody: bool) -> None:
    """(The worker's own, which is to end it if it is stuck, took its place.)"""
    project.append(ALARM)
    with serve("app:alarmed", "--workers", "1", cwd=project.folder) as server:
        with Load(server.url, threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            for pid in server.processes() if everybody else server.workers():
                send(pid, signal.SIGTERM)
            load.stop()
        assert load.answers == [(200, b"rung")]
        assert load.failures == []
