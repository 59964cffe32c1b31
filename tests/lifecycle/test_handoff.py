"""Kept connections outlive the workers that they came to: their clients see nothing of a reload, or of a worker's end.

``keepalive_linger`` is 0 here, so that a connection that stayed with its worker would be closed with it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from lifecycle.project import Project, in_app
from support import Server, serve
from wire.loop import Client

KEPT = ("--keepalive-linger", "0", "--log-level", "debug")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"  # until its worker is told to leave


class Kept(Client):
    """A client that the end of the test disconnects."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", server.port))
        self.opened.append(self)


@pytest.fixture
def project(project: Project) -> Project:
    project.replace(
        'if path == "/sleep":',
        'if path == "/wait":\n'
        '        environ["wsgi.errors"].write("asleep\\n")\n'
        '        environ["pyserve.draining"].wait()\n'
        '    if path == "/sleep":',
    )
    return project


@pytest.fixture(autouse=True)
def disconnect() -> Iterator[None]:
    yield
    while Kept.opened:
        Kept.opened.pop().socket.close()


def ask(client: Client, request: bytes = GET) -> str:
    """One request over a kept connection, which stays open: the text of the response."""
    client.send(request)
    return answer(client)


def answer(client: Client) -> str:
    response = client.response()
    assert response.status == 200
    assert "connection" not in response.headers
    return response.body.decode()


def connect(server: Server, count: int) -> list[Client]:
    clients: list[Client] = [Kept(server) for _ in range(count)]
    for client in clients:
        ask(client)
    return clients


def reload(server: Server, project: Project, generation: int, workers: int, *, gone: bool = True) -> str:
    """Deploy, and wait until the old workers have left; the new version."""
    old = re.findall(r'^VERSION = ".*"', project.app.read_text(), re.MULTILINE)[0]
    project.replace(old, f'VERSION = "version{generation}"')
    server.signal(signal.SIGHUP)
    server.wait_for_log(rf"reload done: generation {generation} serves with {workers} worker")
    if gone:
        server.wait_for(lambda: server.log.count("has left (reload)") == (generation - 1) * workers)
    return f"version{generation}"


class Thinking(threading.Thread):
    """A client that keeps one connection, and thinks between two requests."""

    def __init__(self, server: Server, pause: float) -> None:
        super().__init__(daemon=True)
        self.client = Kept(server)
        self.pause = pause
        self.answers: list[str] = []
        self.failure: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            while not self.over.wait(self.pause):
                self.answers.append(ask(self.client))
        except BaseException as error:  # noqa: BLE001  (the test raises it again)
            self.failure = error


@pytest.mark.usefixtures("worker_class")
def test_clients_keep_their_connections_through_ten_reloads(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", *KEPT, cwd=project.folder) as server:
        idle = connect(server, 10)
        thinking = [Thinking(server, pause) for pause in (0.0, 0.001, 0.01, 0.02, 0.05, 0.1)]
        for thread in thinking:
            thread.start()
        version = "one"
        for generation in range(2, 12):
            version = reload(server, project, generation, 2, gone=False)
        for thread in thinking:
            thread.over.set()
            thread.join(60)
            assert thread.failure is None
        server.wait_for(lambda: server.log.count("has left (reload)") == 20)
        assert sum(len(thread.answers) for thread in thinking) > 100
        assert {ask(client).split()[0] for client in idle} == {version}
        server.wait_for(lambda: len(server.workers()) == 2)


def given(server: Server) -> int:
    """How many connections workers that have left gave away."""
    return sum(int(number) for number in re.findall(r"it gave (\d+) connections", server.log))


@pytest.mark.usefixtures("worker_class")
def test_a_connection_moves_once_in_a_reload(project: Project) -> None:
    with serve("app:wsgi", "--workers", "3", *KEPT, cwd=project.folder) as server:
        idle = connect(server, 60)
        version = reload(server, project, 2, 3)
        assert given(server) == 60
        for client in idle:
            assert ask(client).startswith(version)


@pytest.mark.usefixtures("worker_class")
def test_the_beginning_of_a_request_goes_along(project: Project) -> None:
    """Half a head that the old worker has read is completed by the new one's reading."""
    with serve("app:wsgi", "--workers", "1", *KEPT, cwd=project.folder) as server:
        head = GET[:-2] + b"X-Long: " + b"y" * 3000
        clients = [*connect(server, 2), Kept(server)]  # and one that has sent nothing before
        for client, size in zip(clients, (1, 30, len(head)), strict=True):
            client.send(head[:size])
        ask(connect(server, 1)[0])  # the worker has seen them too, then
        version = reload(server, project, 2, 1)
        for client, size in zip(clients, (1, 30, len(head)), strict=True):
            assert ask(client, head[size:] + b"\r\n\r\n").startswith(version)


@pytest.mark.usefixtures("worker_class")
def test_requests_that_were_sent_ahead_go_along(project: Project) -> None:
    """A client that does not wait for answers gets all of them, in order: the first of the old code, the last of the new."""
    count = 200
    with serve("app:wsgi", "--workers", "1", *KEPT, cwd=project.folder) as server:
        (client,) = connect(server, 1)
        client.send(WAIT + (count - 1) * GET)
        server.wait_for(lambda: in_app(server, 1))
        version = reload(server, project, 2, 1)
        answers = [answer(client).split()[0] for _ in range(count)]
        assert answers == sorted(answers)
        assert {"one", version} == set(answers)
        server.wait_for(lambda: ask(client).startswith(version))


@pytest.mark.usefixtures("worker_class")
def test_a_request_under_way_is_answered_where_it_is_and_its_connection_goes_on(project: Project) -> None:
    """In the app, or in its body: both end with the old worker, and their connections do not."""
    with serve("app:wsgi", "--workers", "1", *KEPT, cwd=project.folder) as server:
        uploading, waiting = connect(server, 2)
        uploading.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        ask(connect(server, 1)[0])
        waiting.send(WAIT)
        server.wait_for(lambda: in_app(server, 1))
        version = reload(server, project, 2, 1, gone=False)
        assert answer(waiting).startswith("one ")
        server.wait_for(lambda: ask(waiting).startswith(version))  # it may be heard before the master is
        assert ask(uploading, b"67890").startswith("one ")
        server.wait_for(lambda: ask(uploading).startswith(version))


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("how", ["scale down", "TERM to a worker"])
def test_a_worker_that_leaves_without_a_reload_gives_its_connections_away(project: Project, how: str) -> None:
    with serve("app:wsgi", "--workers", "2", *KEPT, cwd=project.folder) as server:
        idle = connect(server, 20)
        pid = ask(idle[0]).split()[1]
        if how == "scale down":
            server.signal(signal.SIGTTOU)
        else:
            os.kill(int(pid), signal.SIGTERM)
        server.wait_for_log("has left")
        for client in idle:
            ask(client)


@pytest.mark.parametrize("old, new", [("sync", "gevent"), ("gevent", "threads"), ("threads", "sync")])
def test_they_go_to_another_class_of_workers(project: Project, old: str, new: str) -> None:
    settings = project.folder / "pyserve.toml"
    settings.write_text(f"worker_class = '{old}'\n")
    with serve("app:wsgi", "--workers", "1", *KEPT, cwd=project.folder) as server:
        idle = connect(server, 3)
        idle[0].send(GET[:20])
        idle.append(Kept(server))
        settings.write_text(f"worker_class = '{new}'\n")
        version = reload(server, project, 2, 1)
        assert ask(idle[0], GET[20:]).startswith(version)
        for client in idle[1:]:
            assert ask(client).startswith(version)


def test_a_connection_that_the_app_has_taken_over_stays(project: Project) -> None:
    """What speaks another protocol by now is nothing that another worker could go on with."""
    project.append("""
def upgraded(environ, start_response):
    if "HTTP_UPGRADE" not in environ:
        return wsgi(environ, start_response)
    client = environ["gunicorn.socket"]
    client.sendall(b"hello")
    while data := client.recv(100):
        client.sendall(data.upper())
    return []
""")
    with serve("app:upgraded", "--workers", "1", "--threads", "4", *KEPT, cwd=project.folder) as server:
        client = Kept(server)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert client.take(5) == b"hello"
        version = reload(server, project, 2, 1, gone=False)
        client.send(b"still here")
        assert client.take(10) == b"STILL HERE"
        assert server.get("/").text.startswith(version)
        client.socket.close()


# When there is nobody to take them.

SLOW_BOOT = """
@pyserve.on_init
def wait_for_the_file_to_go():
    while os.path.exists("block"):
        time.sleep(0.05)
"""


def test_they_wait_for_a_worker_that_boots_slowly(project: Project) -> None:
    project.append(SLOW_BOOT)
    with serve("app:wsgi", "--workers", "1", "--handoff-timeout", "600", *KEPT, cwd=project.folder) as server:
        idle = connect(server, 5)
        old = ask(idle[0])
        (project.folder / "block").touch()
        os.kill(int(old.split()[1]), signal.SIGTERM)
        server.wait_for_log("was told to stop")
        assert {ask(client) for client in idle} == {old}, "the one that leaves goes on meanwhile"
        (project.folder / "block").unlink()
        server.wait_for_log("has left")
        assert old not in {ask(client) for client in idle}


@pytest.mark.usefixtures("worker_class")
def test_without_a_taker_they_linger(project: Project) -> None:
    project.append(SLOW_BOOT)
    arguments = ("--workers", "1", "--handoff-timeout", "0.2", "--keepalive-linger", "600")
    with serve("app:wsgi", *arguments, cwd=project.folder) as server:
        client, silent = connect(server, 2)
        old = ask(client)
        (project.folder / "block").touch()
        os.kill(int(old.split()[1]), signal.SIGTERM)
        server.wait_for_log(r"no worker has taken this one's connections for 0\.2 s: 2 of them end here")
        client.send(GET)
        response = client.response()
        assert response.body.decode() == old
        assert response.headers["connection"] == "close"
        assert client.closed()
        silent.socket.close()
        (project.folder / "block").unlink()
        server.wait_for_log("has left")


def test_without_a_time_for_it_nothing_is_handed_over(project: Project) -> None:
    with serve("app:wsgi", "--workers", "1", "--handoff-timeout", "0", *KEPT, cwd=project.folder) as server:
        (client,) = connect(server, 1)
        reload(server, project, 2, 1)
        assert client.closed()


def strand(server: Server, project: Project, count: int) -> tuple[list[Client], Client, int]:
    """Connections that are in the queue, where nobody takes them; one whose request keeps the only worker, and its pid.

    Of two workers one has given its connections away and left, the other is in a request, and no new one comes up.
    """
    busy = connect(server, 1)[0]
    busy_pid = int(ask(busy).split()[1])
    (gone_pid,) = set(server.workers()) - {busy_pid}
    busy.send(WAIT)
    server.wait_for(lambda: in_app(server, 1))
    clients = connect(server, count)  # to the other one
    (project.folder / "block").touch()
    os.kill(gone_pid, signal.SIGTERM)
    server.wait_for_log(f"pid {gone_pid} has left")
    return clients, busy, busy_pid


def test_what_is_in_the_queue_outlives_a_receiver_that_is_killed(project: Project) -> None:
    project.append(SLOW_BOOT)
    with serve("app:wsgi", "--workers", "2", *KEPT, cwd=project.folder) as server:
        clients, _, busy_pid = strand(server, project, 20)
        os.kill(busy_pid, signal.SIGKILL)
        server.wait_for_log(f"pid {busy_pid} was killed")
        clients[0].send(GET)
        (project.folder / "block").unlink()
        answer(clients[0])
        for client in clients[1:]:
            ask(client)


def test_what_is_in_the_queue_at_the_end_is_answered(project: Project) -> None:
    """Its last worker takes it before it leaves."""
    project.append(SLOW_BOOT)
    with serve("app:wsgi", "--workers", "2", *KEPT, cwd=project.folder) as server:
        clients, busy, _ = strand(server, project, 3)
        clients[0].send(GET)
        server.signal(signal.SIGTERM)
        assert busy.response().status == 200
        assert clients[0].response().status == 200
        (project.folder / "block").unlink()
        for client in clients:
            assert client.closed()
        assert server.wait() == 0


def test_without_a_worker_the_master_answers_what_is_in_the_queue(project: Project) -> None:
    project.append(SLOW_BOOT)
    with serve("app:wsgi", "--workers", "2", *KEPT, cwd=project.folder) as server:
        clients, _, busy_pid = strand(server, project, 3)
        clients[0].send(GET)
        os.kill(busy_pid, signal.SIGKILL)
        server.wait_for_log(f"pid {busy_pid} was killed")
        server.signal(signal.SIGQUIT)
        assert clients[0].response().status == 503
        for client in clients:
            assert client.closed()
        server.wait_for_log("1 request came when no worker was left; answered with 503")
        server.wait()


# Through recycling.


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize(
    "cause, limit",
    [
        ("max_requests", ("--max-requests", "20")),
        ("max_memory", ("--max-memory", "100M")),
        ("max_lifetime", ("--max-lifetime", "1")),
    ],
)
def test_clients_keep_their_connections_through_recycling(project: Project, cause: str, limit: tuple[str, str]) -> None:
    """Six of them are idle meanwhile, one has sent a part of a head, and one goes on asking."""
    project.append("""
leaked = []

def leaking(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        leaked.append(bytearray(b"x") * (110 << 20))
    return wsgi(environ, start_response)
""")
    with serve("app:leaking", "--workers", "1", *KEPT, *limit, "--header-timeout", "60", cwd=project.folder) as server:
        first = set(server.workers())
        *idle, partial, asking = connect(server, 8)
        partial.send(GET[:20])
        for _ in range(3):
            left = server.log.count(f"has left ({cause})")
            if cause == "max_memory":
                ask(asking, GET.replace(b"/ ", b"/leak "))
            while server.log.count(f"has left ({cause})") == left:
                ask(asking)
        assert not first & set(server.workers())
        partial.send(GET[20:])
        for client in (partial, *idle):
            assert int((answer(client) if client is partial else ask(client)).split()[1]) not in first


# Behind a long request.

SOON = ("--workers", "2", "--keepalive-linger", "0.5", "--header-timeout", "3")  # the stop does not wait for long


def test_who_waits_behind_a_long_request_is_answered_by_another_worker(project: Project) -> None:
    """The request ends when the server does, so each of these answers has come from the other worker."""
    with serve("app:wsgi", *SOON, cwd=project.folder) as server:
        clients = connect(server, 12)
        busy, *others = clients
        pid = ask(busy).split()[1]
        busy.send(WAIT)
        server.wait_for(lambda: in_app(server, 1))
        assert pid not in {ask(client).split()[1] for client in others}
        others[0].send(GET[:20])
        server.signal(signal.SIGTERM)
        assert busy.response().body.decode().split()[1] == pid
        assert server.wait() == 0


def test_who_sent_requests_ahead_waits_for_them_alone(project: Project) -> None:
    """What a client has sent behind its long request is the same connection's, and stays."""
    with serve("app:wsgi", *SOON, cwd=project.folder) as server:
        busy, *others = connect(server, 6)
        pid = ask(busy).split()[1]
        busy.send(WAIT + GET)
        server.wait_for(lambda: in_app(server, 1))
        assert pid not in {ask(client).split()[1] for client in others}
        server.signal(signal.SIGTERM)
        assert busy.response().body.decode().split()[1] == pid
        assert server.wait() == 0


def test_an_app_that_forks_is_not_disturbed_by_what_listens_for_the_bell(project: Project) -> None:
    """The thread that gives connections away is none of Python's, and a fork does not take it along."""
    project.append("""
def forking(environ, start_response):
    import multiprocessing, threading
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
    child.start()
    child.join()
    start_response("200 OK", [])
    return [f"{child.exitcode} {threading.active_count()}".encode()]
""")
    with serve("app:forking", *SOON, cwd=project.folder) as server:
        for client in connect(server, 6):
            assert ask(client) == "7 1"
