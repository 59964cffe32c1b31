"""examples/worker_class: a worker class that somebody else ships, installed as docs/writing-a-worker.md says."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import serve
from support.processes import GENEROUS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "worker_class"
APP = """
import threading, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("slow has begun", file=environ["wsgi.errors"])
        while True:
            time.sleep(0.01)
    if environ["PATH_INFO"] == "/meet":
        meeting.wait(60)
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [f"{environ['wsgi.multithread']} {threading.current_thread() is threading.main_thread()} ".encode(), body]

meeting = threading.Barrier(20)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the import path into which the example has been installed."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "packages", source], check=True)
    return folder / "packages"


def test_the_files_that_the_page_shows_are_the_example() -> None:
    page = (ROOT / "docs" / "writing-a-worker.md").read_text(encoding="utf-8")
    for name in ("patient.py", "pyproject.toml"):
        assert (EXAMPLE / name).read_text(encoding="utf-8").strip() in page


def test_it_serves_reloads_times_out_and_drains(site: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    arguments = ["app:app", "--worker-class", "patient", "--workers", "1", "--timeout", "2"]
    with serve(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(site)}) as server, ThreadPoolExecutor(20) as pool:
        assert server.get("/").text == "True False "
        assert server.request("POST", "/", data=b"x" * 3_000_000).text == "True False " + "x" * 3_000_000
        together = list(pool.map(lambda _: server.get("/meet").status_code, range(20)))
        assert together == [200] * 20
        assert server.get("/slow").status_code == 504
        assert "GET /slow has run for" in server.log
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        assert server.get("/").status_code == 200
        slow = pool.submit(server.get, "/slow")
        server.wait_for(lambda: server.log.count("slow has begun") == 2)
        server.signal(signal.SIGTERM)
        assert slow.result(GENEROUS).status_code == 504
        assert server.wait() == 0


PLAIN = """
import os, select, socket

from pyserve_workers.life.worker import Worker


class PlainWorker(Worker):
    in_app = False

    def prepare(self):
        self.listeners = []
        self.waiting = []

    def listen(self):
        self.listeners = [socket.socket(fileno=os.dup(fd)) for fd in self.generation.listener_fds]
        for listener in self.listeners:
            listener.setblocking(False)
            self.epoll.register(listener, select.EPOLLIN)

    def serve(self):
        while self.state != "draining":
            for fd, _ in self.epoll.poll(0.1):
                if fd in (self.wake, self.channel.fileno()):
                    self.control()
                elif not os.path.exists("block"):
                    self.take()

    def take(self):
        for listener in self.listeners:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return False
            with client:
                client.settimeout(60)
                client.recv(1000)
                client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n")
        return True

    def stop_accepting(self):
        while self.final and self.take():
            pass
        for listener in self.listeners:
            listener.close()
        for fd in self.generation.listener_fds:
            os.close(fd)
"""


def test_one_that_takes_nothing_over_serves_its_queue_by_itself(tmp_path: Path) -> None:
    """A class of its own from the bottom: at the final stop nobody gives it what it cannot take."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "plain.py").write_text(PLAIN)
    installed = tmp_path / "plain-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[pyserve.workers]\nplain = plain:PlainWorker\n")
    with serve("app:app", "-k", "plain", "-w", "1", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as server:
        assert server.get("/").status_code == 200
        (tmp_path / "block").touch()
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=GENEROUS) for _ in range(5)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.signal(signal.SIGTERM)
        for client in clients:
            with client:
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert server.wait() == 0
        assert "stopped; the stop cut no request" in server.log


def test_without_it_pyserve_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with serve("app:app", "--worker-class", "patient", cwd=tmp_path, ready=False) as server:
        assert server.wait() == 78
        assert "worker_class = patient (--worker-class) is not installed, there is: " in server.log
