"""The port at the final stop: closed as soon as nobody has to be lost for it, so that clients go elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from lifecycle.answers import last
from lifecycle.project import Project
from support import Server, serve
from support.processes import GENEROUS, title

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LONG = ("--graceful-timeout", "600", "--timeout", "0")

APP = """
import signal

def until(name):
    while not os.path.exists(name):
        time.sleep(0.01)

def waits(environ, start_response):
    environ["wsgi.errors"].write(f"inside {environ['PATH_INFO']}\\n")
    if environ["PATH_INFO"] == "/c":
        sum(range(10 ** 14))  # holds the GIL
    if environ["PATH_INFO"] == "/fork":
        environ["wsgi.errors"].write(f"child {keep()}\\n")
    if environ["PATH_INFO"] in ("/wait", "/fork"):
        until("over")
    return wsgi(environ, start_response)

def keep():
    pid = os.fork()
    while pid == 0:
        signal.pause()  # in the system, and in no hub of gevent's
    return pid
"""


@pytest.fixture
def waiting(project: Project) -> Project:
    """An app whose ``/wait`` ends when there is a file "over"."""
    project.append(APP)
    return project


class Place:
    """Where a server listens."""

    def __init__(
        self, family: str, folder: Path, server: Server | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.host = host
        self.path = folder / "socket"
        self.port = port or (server.port if server and family == "tcp" else 0)
        self.bind = "127.0.0.1:0" if family == "tcp" else f"unix:{self.path}"

    def connect(self, data: bytes = b"") -> socket.socket:
        if self.port:
            client = socket.create_connection((self.host, self.port), timeout=GENEROUS)
        else:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.settimeout(GENEROUS)
                client.connect(os.fspath(self.path))
            except OSError:
                client.close()
                raise
        client.sendall(data)
        return client

    def refuses(self) -> bool:
        """Is a client told at once that nobody listens? Those that connect until then are of no matter."""
        try:
            self.connect().close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        return False


def ask(server: Server, place: Place, path: str) -> socket.socket:
    """A request that is in the app."""
    before = server.log.count(f"inside {path}\n")
    client = place.connect(GET.replace(b" / ", f" {path} ".encode()))
    server.wait_for(lambda: server.log.count(f"inside {path}\n") > before)
    return client


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_connects_while_requests_are_finished_is_refused(waiting: Project, family: str, workers: str) -> None:
    """Each worker is busy, and clients wait in the queue. (New ones waited, too, and were reset in the end.)"""
    place = Place(family, waiting.folder)
    with serve("app:waits", "--workers", workers, "--bind", place.bind, *LONG, cwd=waiting.folder) as server:
        place = Place(family, waiting.folder, server)
        inside = [ask(server, place, "/wait") for _ in range(int(workers))]
        queued = [place.connect(GET) for _ in range(5)]
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        assert len(server.workers()) == int(workers)
        (waiting.folder / "over").touch()
        assert [last(client) for client in inside + queued] == [200] * (int(workers) + 5)
        assert server.wait() == 0
        assert "stopped; the stop cut no request" in server.log


def test_who_waits_behind_a_long_request_is_answered_by_another_worker_as_ever(waiting: Project) -> None:
    """The other one had nothing to do, and left at once."""
    kept = GET.replace(b"Connection: close\r\n", b"")
    with serve(
        "app:waits", "-k", "sync", "--workers", "2", "--keepalive-linger", "600", *LONG, cwd=waiting.folder
    ) as server:
        place = Place("tcp", waiting.folder, server)
        clients = [place.connect(kept) for _ in range(12)]
        pids = [client.recv(1000).split()[-1] for client in clients]
        behind = [client for client, pid in zip(clients, pids, strict=True) if pid == pids[0]][1:]
        assert behind
        clients[0].sendall(kept.replace(b" / ", b" /wait "))
        server.wait_for_log("inside /wait")
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        for client in behind:
            client.sendall(kept)
        assert pids[0] not in [client.recv(1000).split()[-1] for client in behind]
        (waiting.folder / "over").touch()
        assert clients[0].recv(1000).split()[-1] == pids[0]
        for client in clients:
            client.close()
        assert server.wait() == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_who_waited_meanwhile_is_known_by_its_address(waiting: Project, host: str) -> None:
    waiting.append("""
def peer(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        return waits(environ, start_response)
    start_response("200 OK", [])
    return [" ".join(environ[name] for name in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_PORT")).encode()]
""")
    with serve("app:peer", "--workers", "1", "--bind", f"{host}:0", *LONG, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server, host.strip("[]"))
        inside = ask(server, place, "/wait")
        client = place.connect(GET)
        expected = f"{client.getsockname()[0]} {client.getsockname()[1]} {server.port}"
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        (waiting.folder / "over").touch()
        assert last(inside) == 200
        with client:
            answer = b"".join(iter(lambda: client.recv(1000), b""))
        assert answer.decode().endswith(expected)


@pytest.mark.usefixtures("worker_class")
def test_a_worker_that_is_busy_in_c_is_no_hindrance(waiting: Project) -> None:
    with serve("app:waits", "--workers", "1", *LONG, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server)
        inside = ask(server, place, "/c")
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        assert len(server.workers()) == 1
        server.signal(signal.SIGQUIT)
        assert server.wait() == 70
        assert last(inside) == 0


@pytest.mark.usefixtures("worker_class")
def test_what_the_app_has_forked_is_none_either(waiting: Project) -> None:
    """Neither in a request nor at its import. (Their copies kept the port open for as long as they lived.)"""
    waiting.append("\nat_import = keep()\n")
    with serve("app:waits", "--workers", "1", *LONG, cwd=waiting.folder, env={"PYSERVE_PRELOAD": "always"}) as server:
        place = Place("tcp", waiting.folder, server)
        inside = ask(server, place, "/fork")
        server.wait_for_log(r"child \d+")
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        (waiting.folder / "over").touch()
        assert last(inside) == 200
        assert server.wait() == 0
        assert not server.processes()


@pytest.mark.usefixtures("worker_class")
def test_a_successor_may_have_it_at_once(waiting: Project) -> None:
    """And its file of a unix socket is not removed when the old server ends."""
    place = Place("unix", waiting.folder)
    arguments = ("app:waits", "--workers", "1", "--bind", place.bind, *LONG)
    with serve(*arguments, cwd=waiting.folder) as old:
        inside = ask(old, place, "/wait")
        old.signal(signal.SIGTERM)
        old.wait_for(place.refuses)
        with serve(*arguments, cwd=waiting.folder):
            (waiting.folder / "over").touch()
            assert last(inside) == 200
            assert old.wait() == 0
            assert last(place.connect(GET)) == 200


@pytest.mark.usefixtures("worker_class")
def test_a_worker_that_stands_still_makes_nobody_wait(waiting: Project) -> None:
    """It cannot close the port. So who comes is served, and refused from the deadline on, until it is killed."""
    arguments = ("app:waits", "--workers", "2", "--graceful-timeout", "2", "--timeout", "0")
    with serve(*arguments, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server)
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        statuses = []
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                statuses.append(last(place.connect(GET)))
        lost = statuses.count(0)  # one may have come at the deadline
        assert server.wait() == (70 if lost else 0)
        said = "1 request had to be cut" if lost else "the stop cut no request"
        assert f"stopped; {said}" in server.log
        assert lost <= 1
        answered = [each for each in statuses if each]
        assert answered[0] == 200
        assert answered == sorted(answered), "200, and after the deadline 503 until nobody listens"


# While workers boot.

BOOTS = {
    "import": "\nuntil('go')\n",
    "hook": "\n@pyserve.on_init\ndef boot():\n    until('go')\n",
}


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("preload", ["always", "never"])
@pytest.mark.parametrize("what", BOOTS)
def test_a_stop_before_the_first_worker_is_ready(waiting: Project, what: str, preload: str) -> None:
    """It does not wait for the import, and who waits is told. (They were reset, and nobody counted them.)"""
    waiting.append(BOOTS[what])
    env = {"PYSERVE_PRELOAD": preload}
    with serve("app:wsgi", "--workers", "2", *LONG, cwd=waiting.folder, env=env, ready=False) as server:
        server.url = server.wait_for_log(r"listening on (\S+)").group(1)
        if preload == "never" or what == "hook":
            server.wait_for(lambda: [pid for pid in server.workers() if "booting" in title(pid)])
        place = Place("tcp", waiting.folder, server)
        clients = [place.connect(GET) for _ in range(3)]
        silent = place.connect()
        server.signal(signal.SIGTERM)
        assert [last(client) for client in [*clients, silent]] == [503] * 4
        assert server.wait() == 0
        assert "4 requests came when no worker was left; answered with 503" in server.log


@pytest.mark.usefixtures("worker_class")
def test_a_stop_while_some_workers_boot_does_not_wait_for_them(waiting: Project) -> None:
    waiting.append("\n@pyserve.on_init\ndef boot():\n    while os.path.exists('block'): time.sleep(0.01)\n")
    with serve("app:waits", "--workers", "1", *LONG, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server)
        (waiting.folder / "block").touch()
        server.signal(signal.SIGTTIN)
        server.wait_for(lambda: [pid for pid in server.workers() if "booting" in title(pid)])
        inside = ask(server, place, "/wait")
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        server.wait_for(lambda: len(server.workers()) == 1)
        (waiting.folder / "over").touch()
        assert last(inside) == 200
        assert server.wait() == 0


# The last line of the log.


@pytest.mark.usefixtures("worker_class")
def test_what_a_killed_worker_takes_along_is_not_called_answered(waiting: Project) -> None:
    """Half of a body is in no app yet."""
    with serve("app:waits", "--workers", "1", *LONG, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server)
        half = place.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert last(half) == 0
        assert server.wait() == 0
        assert "stopped; no request is known to be cut, but 1 connection ended with killed workers" in server.log


@pytest.mark.usefixtures("worker_class")
def test_what_waits_when_all_workers_are_killed_is_refused_and_counted(waiting: Project) -> None:
    with serve("app:waits", "--workers", "1", *LONG, cwd=waiting.folder) as server:
        place = Place("tcp", waiting.folder, server)
        inside = ask(server, place, "/c")
        queued = [place.connect(GET) for _ in range(3)]
        server.signal(signal.SIGTERM)
        server.wait_for(place.refuses)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert [last(client) for client in [inside, *queued]] == [0, 503, 503, 503]
        assert server.wait() == 70
        assert "stopped; 1 request had to be cut" in server.log
        assert "3 requests came when no worker was left; answered with 503" in server.log


@pytest.mark.usefixtures("worker_class")
def test_a_stop_in_the_moment_in_which_it_begins_to_listen(waiting: Project) -> None:
    """The master has no handlers yet. (It was killed by the signal, and its client reset.)"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serve("app:wsgi", "--workers", "1", "-b", f"127.0.0.1:{port}", cwd=waiting.folder, ready=False) as server:
        place = Place("tcp", waiting.folder, server, port=port)
        clients: list[socket.socket] = []

        def connected() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                clients.append(place.connect(GET))
            return bool(clients)

        server.wait_for(connected)
        server.signal(signal.SIGTERM)
        assert last(clients[0]) in (200, 503)
        assert server.wait() == 0
