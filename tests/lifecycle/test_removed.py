"""The package goes away under a server: an old release is cleaned up, a pip upgrade is under way. All that serving can
need is in memory by then, whatever goes wrong; what needs the disk is refused, and changes nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lifecycle.operator import ctl
from lifecycle.project import Project
from support import Server, serve
from support.installed import PACKAGES
from support.processes import GENEROUS

# What of pyserve imports something after the removal writes that down, and how it came to it; not what an import imports
# itself, nor what the standard library does, which is there.
WITNESS = """
import os, sys

def heard(event, arguments):
    if event == "import" and os.path.exists(armed):
        frame, way, importer = sys._getframe(1), [], ""
        while frame is not None:
            code, frame = frame.f_code, frame.f_back
            if code.co_name in ("exec_module", "create_module"):
                return  # a part of another import
            if not code.co_filename.startswith("<frozen importlib"):
                way.append(f"{os.path.basename(code.co_filename)}:{code.co_name}")
                importer = importer or code.co_filename
        if "/site-packages/pyserve" in importer:
            with open(witness, "a") as file:
                file.write(f"{arguments[0]} < {' < '.join(way[:9])}\\n")

armed = os.environ.get("ARMED", "")
witness = armed + ".imports"
sys.addaudithook(heard)
"""
APP = """
import os, time
import pyserve

class Body:
    def __init__(self, *items):
        self.items = list(items)

    def __iter__(self):
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self):
        raise ValueError("in close")

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/key":
        return 1 + environ["no such key"] * 2
    if path == "/name":
        enviro
    if path == "/attribute":
        environ.poop
    if path == "/import":
        from os import pathh
    if path == "/syntax":
        compile("a b", "made", "exec")
    if path == "/group":
        raise ExceptionGroup("some", [ValueError("one"), KeyError("two")])
    if path == "/exit":
        raise SystemExit(3)
    if path == "/die":
        os._exit(3)
    if path == "/sleep":
        time.sleep(30)
    if path == "/hang":
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
    if path == "/none":
        return None
    if path == "/short":
        start_response("200 OK", [("Content-Length", "9")])
        return [b"short"]
    if path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open("app.py", "rb"))
    if path == "/socket" and "gunicorn.socket" in environ:
        environ["gunicorn.socket"].sendall(b"taken over")
        return []
    if path == "/alone":
        return alone(environ, start_response)
    if path == "/echo":
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]
    start_response("200 OK", [("X-A", "1")])
    if path == "/cut":
        return Body(b"first", ValueError("late"))
    if path == "/close":
        return Body(b"whole")
    return [b"ok"]

@pyserve.exclusive(timeout=0.5)
def alone(environ, start_response):
    if environ["QUERY_STRING"] == "late":
        time.sleep(30)
    start_response("200 OK", [])
    return [b"alone"]

class Never:
    def __await__(self):
        while True:
            yield

@pyserve.on_destroy(timeout=0.1)
def slow(signal):
    time.sleep(30)

@pyserve.before_shutdown
async def asynchronous(signal):
    pass

@pyserve.before_shutdown(timeout=0.1)
async def slow_too(signal):
    await Never()

@pyserve.on_shutdown
def failing(signal):
    raise ValueError("on_shutdown")
"""
CONFIG = """
app = "app:wsgi"
workers = 2
control_socket = "pyserve.ctl"
timeout = 1
graceful_timeout = 5
body_buffer = "4KiB"
access_logfile = "access.log"
access_logformat = '%(h)s %(u)s "%(r)s" %(s)s %({User-Agent}i)s %({X-A}o)s %({wsgi.version}e)s'
"""


class Installation:
    """A virtual environment with a copy of the packages; what they depend on is that of the tests."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", symlinks=True)
        self.python = str(folder / "venv" / "bin" / "python")
        self.site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
        for package in PACKAGES:
            shutil.copytree(package, self.site / package.name, copy_function=os.symlink)
        (self.site / "witness.py").write_text(WITNESS)
        (self.site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\nimport witness\n")
        self.armed = folder / "armed"
        self.environ = {"ARMED": str(self.armed)}

    def remove(self) -> None:
        """From here on nothing is to be imported."""
        self.armed.touch()
        for package in PACKAGES:
            shutil.rmtree(self.site / package.name)

    def imports(self) -> str:
        """What was imported all the same, and by whom; new processes aside, which find nothing. Told once."""
        file = Path(f"{self.armed}.imports")
        told = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        return told


@pytest.fixture
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installation"))


@pytest.fixture
def removed(installation: Installation, project: Project, worker_class: str) -> Iterator[Server]:
    """A server whose package is removed when it serves."""
    project.app.write_text(APP)
    project.folder.joinpath("pyserve.toml").write_text(CONFIG)
    with serve(cwd=project.folder, env=installation.environ, program=(installation.python, "-m", "pyserve")) as server:
        assert server.get("/").text == "ok"
        installation.remove()
        yield server
    assert installation.imports() == ""


def say(server: Server, request: bytes) -> bytes:
    """All that the server answers."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=GENEROUS) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(path: str) -> bytes:
    fields = ["Host: x", "Upgrade: websocket", "Connection: upgrade", "Connection: close", "Authorization: Basic dTpw"]
    return "\r\n".join([f"GET {path} HTTP/1.1", *fields, "", ""]).encode()


FAILURES = {
    "/key": "KeyError: 'no such key'",
    "/name": "NameError: name 'enviro' is not defined",
    "/attribute": "AttributeError: 'dict' object has no attribute 'poop'",
    "/import": "ImportError: cannot import name 'pathh'",
    "/syntax": "SyntaxError: ",
    "/group": "KeyError: 'two'",
    "/exit": "SystemExit: 3",
    "/none": "TypeError: the app returned None",
}


def test_whatever_the_app_does_is_answered_and_told(removed: Server, worker_class: str) -> None:
    server = removed
    for path, told in FAILURES.items():
        assert server.get(path).status_code == 500, path
        assert told in server.log
    assert say(server, get("/short")).endswith(b"short")
    assert say(server, get("/cut")).endswith(b"\r\n5\r\nfirst\r\n")
    assert "ValueError: late" in server.log
    assert say(server, get("/close")).endswith(b"whole\r\n0\r\n\r\n")
    assert "ValueError: in close" in server.log
    assert b"def wsgi" in say(server, get("/file"))
    assert say(server, get("/socket")) == b"taken over" or worker_class == "sync"
    assert say(server, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert server.request("POST", "/echo", data=b"x" * 100_000).text == "x" * 100_000
    assert server.get("/alone").text == "alone"
    server.wait_for(lambda: server.get("/").text == "ok")  # the gate is open again
    assert server.get("/alone?late").status_code == 504
    server.wait_for(lambda: server.get("/").text == "ok")
    assert server.get("/sleep").status_code == 504
    assert "in wsgi" in server.log  # where it slept


@pytest.mark.parametrize("path", ["/hang", "/die"])
def test_a_worker_that_its_request_costs_is_replaced(removed: Server, path: str) -> None:
    server = removed
    before = set(server.workers())
    with contextlib.suppress(requests.ConnectionError):
        assert server.get(path).status_code == 504
    server.wait_for(lambda: len(set(server.workers()) - before) == 1)
    server.wait_for_log(r"(worker \d gen 1 pid \d+ is serving[\s\S]*){3}")
    assert server.get("/").text == "ok"


def test_what_the_operator_asks_is_done_or_refused(removed: Server, project: Project) -> None:
    server = removed
    assert "2 of 2 workers serve" in ctl(project, "status")
    assert "worker 1 gen 1" in ctl(project, "dump")
    ctl(project, "maintenance", "on")
    assert server.get("/").status_code == 503
    ctl(project, "maintenance", "off")
    ctl(project, "exclusive", "--", "true")
    server.signal(signal.SIGUSR1)
    server.wait_for_log("log files reopened")
    assert "2 → 3" in ctl(project, "scale", "3")
    server.wait_for(lambda: len(server.workers()) == 3)
    ctl(project, "scale", "2")
    server.wait_for_log("has left .scale down.")
    for told in (
        "on_destroy hook app.slow failed",
        "before_shutdown hook app.slow_too failed",
        "ValueError: on_shutdown",
    ):
        assert told in server.log
    assert "reload aborted, nothing was changed" in ctl(project, "reload", "--wait", code=1)
    assert "rollback refused, nothing was changed" in ctl(project, "rollback", code=1)
    server.signal(signal.SIGUSR2)
    server.wait_for_log("upgrade failed, nothing was changed")
    assert server.get("/").text == "ok"


def test_a_wrong_configuration_is_refused_with_its_reason(
    removed: Server, installation: Installation, project: Project
) -> None:
    config = project.folder / "pyserve.toml"
    config.write_text(config.read_text() + "worker_conections = 1\n")
    removed.signal(signal.SIGHUP)
    removed.wait_for_log("reload refused, nothing was changed: .*worker_conections")
    assert installation.imports().startswith("difflib <"), "the standard library is there"
    assert removed.get("/").text == "ok"


def test_connections_move_when_a_worker_is_told_to_leave(removed: Server) -> None:
    server = removed
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(f"{server.url}/").text == "ok"
        for pid in server.workers():
            os.kill(pid, signal.SIGTERM)
            server.wait_for_log(f"pid {pid} was told to stop")
        server.wait_for_log(r"(worker \d gen 1 pid \d+ is serving[\s\S]*){4}")
        assert session.get(f"{server.url}/").text == "ok"


def test_the_master_outlives_what_it_cannot_replace(removed: Server) -> None:
    """Without its zygote, and without workers: there is nothing left to start them from."""
    server = removed
    os.kill(server.zygotes()[0], signal.SIGKILL)
    server.wait_for_log("zygote 1 was killed by SIGKILL")
    assert server.get("/").text == "ok"
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    server.wait_for_log("degraded")
    server.wait_for_log("responder exited with code 1")
