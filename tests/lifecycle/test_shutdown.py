"""The final stop: in order, without a lost request, and within the graceful timeout whatever is stuck."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest
import requests

from lifecycle.load import Load
from lifecycle.project import Project, in_app
from support import Server, serve
from support.processes import GENEROUS, title

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# Whoever waits for the stop hooks of a worker that is stuck, or is gentle with it, waits until the test gives up.
SHORT = ("--workers", "1", "--graceful-timeout", "0.5", "--hook-timeout", "600", "--timeout", "0")
LONG = ("--workers", "1", "--graceful-timeout", "600", "--timeout", "0")

STUCK = """

def stuck(environ, start_response):
    if environ["PATH_INFO"] in ("/python", "/c"):
        environ["wsgi.errors"].write("asleep\\n")
    while environ["PATH_INFO"] == "/python":
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass
    while environ["PATH_INFO"] == "/c":
        sum(range(10 ** 14))  # holds the GIL
    return wsgi(environ, start_response)
"""


@pytest.fixture(params=["/python", "/c"])
def stuck(request: pytest.FixtureRequest, project: Project) -> str:
    """A path of app:stuck whose requests never end and cannot be interrupted."""
    project.append(STUCK)
    path: str = request.param
    return path


def get_stuck(server: Server, path: str) -> None:
    """A request that nobody answers, in the app."""

    def get() -> None:
        with contextlib.suppress(requests.RequestException):
            server.get(path)

    before = server.log.count("  asleep\n")
    threading.Thread(target=get, daemon=True).start()
    server.wait_for(lambda: server.log.count("  asleep\n") > before)


def connect(server: Server, request: bytes = GET) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=GENEROUS)
    client.sendall(request)
    return client


def connect_unix(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(GENEROUS)
    client.connect(os.fspath(path))
    client.sendall(GET)
    return client


def answer(client: socket.socket) -> bytes:
    with client:
        return b"".join(iter(lambda: client.recv(65536), b""))


# The queue.


@pytest.mark.usefixtures("worker_class")
def test_a_full_backlog_is_answered_in_full(project: Project) -> None:
    """Whoever has completed a handshake is a client. (gunicorn's sync workers reset five of six that wait there.)"""
    with serve("app:wsgi", "--workers", "2", "--backlog", "64", cwd=project.folder) as server:
        workers = server.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        clients = [connect(server) for _ in range(65)]  # the kernel lets one more in than it was told
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        answers = [answer(client) for client in clients]
        assert [each[:15] for each in answers] == [b"HTTP/1.1 200 OK"] * 65
        assert server.wait() == 0


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:socket"])
def test_a_backlog_is_shared_among_the_workers(project: Project, bind: str) -> None:
    """The first worker that was told to finish took the whole queue, and its clients waited while others idled."""
    project.append("\ndef slow(environ, respond):\n    time.sleep(0.2)\n    return wsgi(environ, respond)\n")
    with serve("app:slow", "--workers", "2", "--bind", bind, cwd=project.folder) as server:
        workers = server.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        path = project.folder / "socket"
        clients = [connect(server) if bind == "127.0.0.1:0" else connect_unix(path) for _ in range(20)]
        server.signal(signal.SIGTERM)
        server.wait_for(lambda: not server.zygotes())  # so everybody was told
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        pids = Counter(answer(client).rpartition(b"\r\n\r\n")[2] for client in clients)
        assert sum(pids.values()) == 20
        assert max(pids.values()) <= 15
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_a_backlog_is_answered_although_there_are_descriptors_for_a_part_only(project: Project) -> None:
    """What could not be accepted at once was reset; now it is accepted as others are served."""
    with serve("app:wsgi", "--workers", "1", "--keepalive-linger", "0", cwd=project.folder) as server:
        assert server.get("/").status_code == 200
        [worker] = server.workers()
        os.kill(worker, signal.SIGSTOP)
        highest = max(map(int, os.listdir(f"/proc/{worker}/fd")))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 10, highest + 10))
        clients = [connect(server) for _ in range(64)]
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        server.wait_for(lambda: not server.zygotes())  # so everybody was told
        os.kill(worker, signal.SIGCONT)
        assert [answer(client)[:15] for client in clients] == [b"HTTP/1.1 200 OK"] * 64
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_a_worker_that_has_just_booted_serves_the_queue_if_there_is_no_other(project: Project) -> None:
    """The only worker dies, and the TERM arrives while its replacement boots: it was told to leave before it served,
    and the clients in the queue were reset."""
    gate = project.folder / "gate"
    project.append(f"\n@pyserve.on_init\ndef slow():\n    while os.path.exists({str(gate)!r}): time.sleep(0.01)\n")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        [first] = server.workers()
        gate.touch()
        os.kill(first, signal.SIGKILL)
        server.wait_for(lambda: [pid for pid in server.workers() if pid != first and "booting" in title(pid)])
        clients = [connect(server) for _ in range(5)]
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        gate.unlink()
        assert [answer(client)[:15] for client in clients] == [b"HTTP/1.1 200 OK"] * 5
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_an_inherited_listener_keeps_its_queue_for_the_successor(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        arguments = ("app:wsgi", "--workers", "2", "--bind", f"fd://{fd}")
        with serve(*arguments, cwd=project.folder, pass_fds=[fd]) as first:
            workers = first.workers()
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            clients = [connect(first) for _ in range(5)]
            first.signal(signal.SIGTERM)
            first.wait_for_log("stopping")
            first.wait_for(lambda: not first.zygotes())  # so everybody was told
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert first.wait() == 0
        with serve(*arguments, cwd=project.folder, pass_fds=[fd]):
            assert [answer(client)[:15] for client in clients] == [b"HTTP/1.1 200 OK"] * 5


# The delay.


@pytest.mark.usefixtures("worker_class")
def test_all_is_served_on_for_the_delay(project: Project) -> None:
    """New connections are accepted and workers that die are replaced; only a reload is not begun any more."""
    options = ("--workers", "2", "--drain-delay", "600", "--graceful-timeout", "1000")
    with serve("app:wsgi", *options, cwd=project.folder) as server:
        server.signal(signal.SIGTERM)
        server.wait_for_log(r"stopping \(SIGTERM\): requests under way have 1000 s; serving on for 600 s of them")
        before = server.workers()
        assert server.get("/").status_code == 200
        os.kill(before[0], signal.SIGKILL)
        server.wait_for_log(r"(?s)stopping.* is serving")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload refused: pyserve is stopping")
        assert server.get("/").status_code == 200
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_the_delay_ends_and_nobody_notices(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", "--drain-delay", "1", cwd=project.folder) as server:
        with Load(server.url, threads=2) as load:
            server.signal(signal.SIGTERM)
            server.wait_for_log("stopping")
            served = len(load.answers)
            server.wait_for(lambda: len(load.answers) > served + 10)
            assert server.wait() == 0
        assert load.failures == []
        assert {status for status, _ in load.answers} == {200}


def test_the_delay_is_a_part_of_the_graceful_timeout(project: Project) -> None:
    project.append(STUCK)
    with serve("app:stuck", *SHORT, "--drain-delay", "0.3", cwd=project.folder) as server:
        get_stuck(server, "/c")
        server.signal(signal.SIGTERM)
        assert server.wait() == 70


def test_a_worker_that_leaves_for_a_reload_takes_no_queue_along_while_all_is_served_on(project: Project) -> None:
    """The roll goes on during the delay, and its old workers leave as at any time."""
    options = ("--workers", "2", "--drain-delay", "600", "--graceful-timeout", "1000")
    project.append("\nif VERSION == 'two': time.sleep(1)\n")
    with serve("app:wsgi", *options, cwd=project.folder) as server, Load(server.url, threads=2) as load:
        project.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 2 is being prepared")
        server.signal(signal.SIGTERM)
        server.wait_for_log("reload done")
        served = len(load.answers)
        server.wait_for(lambda: len(load.answers) > served + 10)
        load.stop()
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0
    assert load.failures == []


# The deadline. Each of these would wait for ever, or for the stop hooks of a worker that cannot run them.


@pytest.mark.usefixtures("worker_class")
def test_term_ends_a_worker_that_is_stuck(stuck: str, project: Project) -> None:
    with serve("app:stuck", *SHORT, cwd=project.folder) as server:
        get_stuck(server, stuck)
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        server.signal(signal.SIGTERM)  # changes nothing
        assert server.wait() == 70
        assert "1 request had to be cut" in server.log
        assert f"GET {stuck}" in server.log
        assert 'app.py", line' in server.log  # where it was


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGQUIT])
def test_a_fast_stop_ends_a_worker_that_is_stuck(stuck: str, project: Project, second: signal.Signals) -> None:
    with serve("app:stuck", *LONG, cwd=project.folder) as server:
        get_stuck(server, stuck)
        server.signal(signal.SIGINT)
        server.wait_for_log("stopping")
        server.signal(second)
        assert server.wait() == 70


THREAD = """
import threading

def go_on(seconds):
    time.sleep(seconds)
    print("thread over", flush=True)

@pyserve.on_init
def begin():
    threading.Thread(target=go_on, args=(float(os.environ["SECONDS"]),)).start()
"""


@pytest.mark.parametrize("how", ["stop", "reload"])
def test_a_thread_of_the_app_keeps_its_worker_to_the_deadline_and_not_longer(
    project: Project, worker_class: str, how: str
) -> None:
    """The interpreter waits for it at its end. (It did so until the time for the stop hooks was over as well.)"""
    project.append(THREAD)
    options = ("--workers", "1", "--graceful-timeout", "1", "--hook-timeout", "600")
    with serve("app:wsgi", *options, cwd=project.folder, env={"SECONDS": "600"}) as server:
        [old] = server.workers()
        server.signal(signal.SIGTERM if how == "stop" else signal.SIGHUP)
        server.wait_for_log(rf"pid {old} was killed by pyserve .*: a thread or an exit handler of its app goes on")
        if how == "reload":
            server.wait_for_log("reload done")
            server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert worker_class == "gevent" or "in go_on" in server.log  # where a thread is a greenlet
        assert "stopped; the stop cut no request" in server.log


def test_a_thread_of_the_app_may_use_the_time_that_there_is(project: Project) -> None:
    project.append(THREAD)
    with serve("app:wsgi", "--workers", "1", *LONG[2:], cwd=project.folder, env={"SECONDS": "3"}) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "thread over" in server.log


def test_a_fast_stop_ends_a_worker_that_is_stopped(project: Project) -> None:
    with serve("app:wsgi", *LONG, cwd=project.folder) as server:
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.signal(signal.SIGQUIT)
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
def test_a_reload_ends_its_old_worker_that_is_stuck(project: Project) -> None:
    """(gunicorn's was still there 8 s after a graceful timeout of 2.)"""
    project.append(STUCK)
    with serve("app:stuck", *SHORT, cwd=project.folder) as server:
        [old] = server.workers()
        get_stuck(server, "/c")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        server.wait_for_log(rf"pid {old} was killed by pyserve")  # before the stop, at which what is cut counts
        assert server.get("/").status_code == 200


def test_fewer_workers_end_one_that_is_stuck(project: Project) -> None:
    project.append(STUCK)
    with serve("app:stuck", *SHORT, "--workers", "2", cwd=project.folder) as server:
        get_stuck(server, "/c")
        get_stuck(server, "/c")  # perhaps in the same worker
        server.signal(signal.SIGTTOU)
        server.wait_for(lambda: len(server.workers()) == 1)
        server.signal(signal.SIGQUIT)
        server.wait()


def test_the_deadline_of_the_stop_holds_for_who_was_leaving_before(project: Project) -> None:
    """A reload shortens graceful_timeout; an old worker, on its way out with the old one, is stuck when the TERM comes."""
    project.append(STUCK)
    settings = project.folder / "pyserve.toml"
    settings.write_text("graceful_timeout = 600\nhook_timeout = 600\ntimeout = 0\nworkers = 1\n")
    with serve("app:stuck", cwd=project.folder) as server:
        get_stuck(server, "/c")
        settings.write_text(settings.read_text().replace("graceful_timeout = 600", "graceful_timeout = 1"))
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        server.signal(signal.SIGTERM)
        assert server.wait() == 70


HANGS = {"python": "\nwhile True: time.sleep(0.01)\n", "c": "\nsum(range(10 ** 14))\n"}


@pytest.mark.parametrize("preload", ["always", "never"])
@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS.keys())
def test_term_while_the_import_hangs(project: Project, hang: str, preload: str) -> None:
    project.append("\nprint('importing', flush=True)\n" + hang)
    with serve("app:wsgi", *SHORT, cwd=project.folder, env={"PYSERVE_PRELOAD": preload}, ready=False) as server:
        server.wait_for_log("importing")
        server.wait_for_log("listening on")  # the zygote is at work before the master is
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS.keys())
def test_term_while_a_worker_hangs_in_its_boot(project: Project, hang: str) -> None:
    project.append(f"\n@pyserve.on_init\ndef hang():\n    print('booting', flush=True)\n    {hang.strip()}\n")
    with serve("app:wsgi", *SHORT, cwd=project.folder, ready=False) as server:
        server.wait_for_log("booting")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize("where", ["import", "on_init"])
def test_term_while_a_reload_hangs(project: Project, where: str) -> None:
    """In its preparation, and with its canary; the old worker is stuck besides."""
    project.append(STUCK)
    with serve("app:stuck", *SHORT, cwd=project.folder) as server:
        get_stuck(server, "/c")
        start = "\n@pyserve.on_init\ndef hang():\n    " if where == "on_init" else "\n"
        project.append(f"{start}print('hanging', flush=True); sum(range(10 ** 14))\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("hanging")
        server.signal(signal.SIGTERM)
        assert server.wait() == 70


def test_term_in_the_middle_of_a_roll(project: Project) -> None:
    """Of two workers one is replaced, and stuck; the second new one does not become ready."""
    project.append(STUCK)
    project.append("\n@pyserve.on_init\ndef slow():\n    if os.path.exists('slow'): time.sleep(600)\n")
    with serve("app:stuck", *SHORT, "--workers", "2", cwd=project.folder) as server:
        get_stuck(server, "/c")
        get_stuck(server, "/c")
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"gen 2 pid \d+ is serving")
        (project.folder / "slow").touch()
        server.signal(signal.SIGTERM)
        assert server.wait() == 70


def test_repeats_and_other_signals_during_the_stop_change_nothing(project: Project) -> None:
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        with Load(server.url, "/sleep?until=go", threads=1) as load:
            server.wait_for(lambda: in_app(server, 1))
            load.stopped.set()
            for number in (
                signal.SIGTERM,
                signal.SIGHUP,
                signal.SIGTERM,
                signal.SIGTTIN,
                signal.SIGTTOU,
                signal.SIGUSR1,
            ):
                server.signal(number)
            server.wait_for_log("log files reopened")
            project.let_go()
            load.stop()
        assert [status for status, _ in load.answers] == [200]
        assert server.wait() == 0
