"""``environ["pyserve.draining"]``: the app learns that its worker is to leave, while its request is under way."""

from __future__ import annotations

import os
import signal

import pytest

from lifecycle.load import Load
from lifecycle.project import Project
from support import serve

CODE = """
def waits(environ, start_response):
    draining = environ["pyserve.draining"]
    if environ["PATH_INFO"] == "/now":
        text = str(draining.is_set())
    else:
        before = draining.wait(0.01)
        environ["wsgi.errors"].write("waiting\\n")
        text = f"{before} {draining.wait()} {draining.wait(0)} {draining.is_set()}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("how", ["stop", "reload", "worker"])
def test_a_request_learns_that_its_worker_drains(project: Project, how: str) -> None:
    project.append(CODE)
    with serve("app:waits", "--workers", "1", cwd=project.folder) as server:
        assert server.get("/now").text == "False"
        with Load(server.url, "/", threads=1) as load:
            server.wait_for_log("waiting")
            load.stopped.set()
            if how == "worker":
                os.kill(server.workers()[0], signal.SIGTERM)
            else:
                server.signal(signal.SIGTERM if how == "stop" else signal.SIGHUP)
            load.stop()
        assert load.answers == [(200, b"False True True True")]


FORKS = """
def forks(environ, start_response):
    environ["wsgi.errors"].write("waiting\\n")
    environ["pyserve.draining"].wait()
    files = [os.open(f"file{number}", os.O_CREAT | os.O_WRONLY) for number in range(20)]
    pid = os.fork()
    if pid == 0:
        try:
            for fd in files:
                os.write(fd, b"written")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str([os.fstat(fd).st_size for fd in files]).encode()]
"""


@pytest.mark.parametrize("how", ["stop", "worker"])
def test_what_the_app_opens_while_its_worker_drains_is_the_childs_too(
    project: Project, concurrent: str, how: str
) -> None:
    """Its files have the numbers that the listeners had. A fork closes copies of those, and nothing else."""
    project.append(FORKS)
    with serve("app:forks", "-k", concurrent, "--workers", "1", cwd=project.folder) as server:
        with Load(server.url, "/", threads=1) as load:
            server.wait_for_log("waiting")
            load.stopped.set()
            if how == "worker":
                os.kill(server.workers()[0], signal.SIGTERM)
            else:
                server.signal(signal.SIGTERM)
            load.stop()
        assert load.answers == [(200, str([7] * 20).encode())]


SLEEPS = """
def sleeps(environ, start_response):
    environ["wsgi.errors"].write("asleep\\n")
    while True:
        time.sleep(0.05)
"""


def test_a_worker_that_watches_its_requests_cuts_them_itself(project: Project, concurrent: str) -> None:
    """The master interrupted it in the same moment, whatever it did then, and had its stacks logged as an error; also
    where no more than a WebSocket had been open."""
    project.append(f"import time\n{SLEEPS}")
    with serve(
        "app:sleeps", "-k", concurrent, "--workers", "1", "--graceful-timeout", "1", cwd=project.folder
    ) as server:
        with Load(server.url, "/", threads=1) as load:
            server.wait_for_log("asleep")
            load.stopped.set()
            server.signal(signal.SIGHUP)
            load.stop()
        server.wait_for_log(r"has left \(reload\)")
        assert [status for status, _ in load.answers] == [504]
        assert "1 request was cut: the graceful timeout is over" in server.log
        assert "it did not end within the graceful timeout" not in server.log
