"""What only the gevent worker does: patching, greenlets that wait while others go on, a hub that is blocked."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lifecycle.load import Load
from lifecycle.project import Project
from support import Server, serve
from support.processes import GENEROUS, title

APP = """
import gevent, os, sys, threading, time
from gevent.monkey import get_original
from contextvars import ContextVar

seen = ContextVar("seen", default="nothing")
local = threading.local()
inside = most = 0

def app(environ, start_response):
    global inside, most
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    log = environ["wsgi.errors"]
    if path == "/loop":
        try:
            while True:
                pass
        finally:
            log.write(f"the loop was ended by a Timeout: {isinstance(sys.exc_info()[1], gevent.Timeout)}\\n")
    elif path == "/sleep":
        inside += 1
        most = max(most, inside)
        log.write("asleep\\n")
        try:
            time.sleep(float(query))
        finally:
            inside -= 1
    elif path == "/block":
        get_original("time", "sleep")(float(query))
    elif path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream(log, float(query))
    elif path == "/large":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return large(log)
    elif path == "/stubborn":
        for _ in range(2):
            try:
                time.sleep(60)
            except gevent.Timeout as error:
                log.write(f"not ended by {type(error).__mro__[1].__name__}\\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    before, kept = seen.get(), getattr(local, "number", 0)
    seen.set("something")
    local.number = kept + 1
    return [f"{os.getpid()} {most} {before} {kept}".encode()]

def stream(log, seconds):
    try:
        yield b"first"
        time.sleep(seconds)
        yield b"last"
    finally:
        log.write("stream closed\\n")

def large(log):
    for number in range(400):
        yield b"x" * 65536
        log.write(f"part {number}\\n")
"""


CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem"
    " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
)


@contextmanager
def serving(folder: Path, *options: str, app: str = APP, workers: int = 1, **more: Any) -> Iterator[Server]:
    (folder / "greens.py").write_text(app)
    with serve("greens:app", "-k", "gevent", "--workers", str(workers), *options, cwd=folder, **more) as server:
        yield server
        assert "MonkeyPatchWarning" not in server.log
        assert "Traceback" not in server.log


def test_everything_is_patched_in_a_view_that_uses_requests_over_tls(tmp_path: Path) -> None:
    subprocess.run(CERTIFICATE, shell=True, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "other.py").write_text(
        "import http.server, ssl\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('Content-Length', '6'); self.end_headers()\n"
        "        self.wfile.write(b'secret')\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "context.load_cert_chain('cert.pem', 'key.pem')\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    app = """
import logging, queue, select, socket, ssl, threading  # what the view shall find patched
import flask, requests
from gevent import monkey

app = flask.Flask(__name__)

@app.route("/<int:port>")
def view(port):
    modules = {name: monkey.is_module_patched(name) for name in ("ssl", "socket", "threading", "queue", "select")}
    text = requests.get(f"https://localhost:{port}/", verify="cert.pem", timeout=30).text
    return {"text": text, "modules": modules, "thread": type(threading.Lock()).__module__,
            "socket": socket.socket.__module__, "context": ssl.SSLContext.__module__}
"""
    with subprocess.Popen([sys.executable, "other.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout
            port = int(other.stdout.readline())
            for preload in ("auto", "never"):
                with serving(tmp_path, app=app, env={"PYSERVE_PRELOAD": preload}) as server:
                    answer = server.get(f"/{port}").json()
                    assert answer["text"] == "secret"
                    assert set(answer["modules"].values()) == {True}
                    assert answer["socket"].startswith("gevent.")
                    assert answer["context"].startswith("gevent.")
                    assert answer["thread"].startswith("gevent.")
        finally:
            other.kill()


def test_without_gevent_one_line_says_what_to_install(project: Project) -> None:
    broken = project.folder / "broken" / "gevent"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'gevent'\")\n")
    env = {"PYTHONPATH": str(broken.parent)}
    with serve("app:wsgi", "-k", "gevent", cwd=project.folder, env=env, ready=False) as server:
        assert server.wait() == 78
        assert "pip install 'pyserve[gevent]'" in server.log
        assert "Traceback" not in server.log


def test_requests_that_wait_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with serving(tmp_path) as server, Load(server.url, "/sleep?0.5", threads=20) as load:
        server.wait_for(lambda: len(load.answers) >= 20)
        assert load.failures == []
        assert int(server.get("/").text.split()[1]) == 20


def test_who_wakes_together_with_a_sweep_is_not_forgotten(tmp_path: Path) -> None:
    """A greenlet whose timer fired in the same round of the hub as that of the sweeps once waited until its request was
    late and interrupted: the sweep saw that nobody waited any more, and waited in the epoll itself."""
    with serving(tmp_path, "--timeout", "8") as server, ThreadPoolExecutor() as clients:
        sleeping = clients.submit(server.get, "/sleep?1.4")
        server.wait_for_log("asleep")
        blocking = clients.submit(server.get, "/block?1.7")  # both timers fire meanwhile, and are seen afterwards
        assert sleeping.result().status_code == blocking.result().status_code == 200
        assert "it is interrupted" not in server.log


def test_each_request_has_a_context_of_its_own_and_greenlets_keep_their_locals(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        answers = [server.get("/").text.split()[2:] for _ in range(3)]
        assert [before for before, _ in answers] == ["nothing"] * 3
        assert [kept for _, kept in answers] == ["0", "1", "2"]


def test_worker_connections_bounds_the_requests_in_the_app_and_nothing_spins(tmp_path: Path) -> None:
    with serving(tmp_path, "--worker-connections", "2") as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GENEROUS)
        kept.request("GET", "/")
        kept.getresponse().read()
        with Load(server.url, "/sleep?2", threads=2) as first:
            server.wait_for(lambda: server.log.count("asleep") == 2)
            first.stopped.set()
            kept.request("GET", "/")  # over a connection that the worker has
            before = cpu_seconds(server.workers()[0])
            with Load(server.url, "/", threads=6) as more:
                more.stopped.set()
                first.stop()
                spent = cpu_seconds(server.workers()[0]) - before
                more.stop()
            assert kept.getresponse().status == 200
        assert spent < 1  # of the two seconds that it would have spun
        assert [status for status, _ in first.answers + more.answers] == [200] * 8
        assert int(server.get("/").text.split()[1]) == 2
        kept.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_request_that_waits_too_long_is_interrupted_alone(tmp_path: Path) -> None:
    with serving(tmp_path, "--timeout", "1") as server:
        worker = server.workers()
        with Load(server.url, "/sleep?0.2", threads=2) as others:
            assert server.get("/sleep?60").status_code == 504
        assert others.failures == []
        assert {status for status, _ in others.answers} == {200}
        server.wait_for_log(r"GET /sleep\?60 has run for [\d.]+ s \(timeout is 1 s\); it is interrupted\n.*greens.py")
        server.wait_for_log("time.sleep")
        server.wait_for_log("GET /sleep.60 from 127.0.0.1: answered with 504")
        assert server.workers() == worker


def test_a_request_that_does_not_end_is_interrupted_again(tmp_path: Path) -> None:
    with serving(tmp_path, "--timeout", "1") as server:
        assert server.get("/stubborn").status_code == 200
        assert server.log.count("not ended by RequestTimeout") == 2


def test_a_loop_that_blocks_the_worker_is_found_by_the_master_and_interrupted(tmp_path: Path) -> None:
    with serving(tmp_path, "--timeout", "1") as server:
        worker = server.workers()
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GENEROUS)
        idle.request("GET", "/")
        idle.getresponse().read()
        assert server.get("/loop").status_code == 504
        server.wait_for_log(r"a request has blocked it for [\d.]+ s \(timeout is 1 s\); it is interrupted")
        server.wait_for_log(r"GET /loop: the stacks of this worker's threads")
        server.wait_for_log(r"greens\.py\", line \d+, in app\s+(while True|pass)")
        server.wait_for_log("the loop was ended by a Timeout: True")
        idle.request("GET", "/")
        assert idle.getresponse().status == 200
        assert server.workers() == worker
        idle.close()


def test_a_client_that_leaves_a_stream_that_says_nothing_ends_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for reset in (False, True):
            client = socket.create_connection(("127.0.0.1", server.port), GENEROUS)
            client.sendall(b"GET /stream?600 HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"first" not in received:
                received += client.recv(1000)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            server.wait_for(lambda count=1 + reset: server.log.count("stream closed") == count)  # type: ignore[misc]
        assert server.get("/").status_code == 200


def test_a_client_that_has_said_all_it_has_to_say_still_gets_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), GENEROUS) as client:
            client.sendall(b"GET /sleep?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            received = b""
            while part := client.recv(1000):
                received += part
        assert received.startswith(b"HTTP/1.1 200 OK")


def test_what_a_client_sends_while_its_request_waits_is_read_afterwards(tmp_path: Path) -> None:
    with serving(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), GENEROUS) as client:
        client.sendall(b"GET /sleep?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for_log("asleep")
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        received = b""
        while received.count(b"200 OK") < 3:
            received += client.recv(10000)


def test_a_slow_reader_parks_its_greenlet(tmp_path: Path) -> None:
    options = ("--response-buffer", "65536", "--response-spool", "65536")
    with serving(tmp_path, *options) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(GENEROUS)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        server.wait_for_log("part 1$")
        assert server.get("/").status_code == 200
        assert "part 399" not in server.log
        size = 0
        while part := client.recv(1 << 20):
            size += len(part)
        assert size > 400 * 65536


def test_hooks_may_wait_while_requests_go_on(tmp_path: Path) -> None:
    app = APP + (
        "\nimport pyserve\n"
        "@pyserve.on_destroy\n"
        "def stop(signal):\n"
        "    while not os.path.exists('answered'): time.sleep(0.01)\n"
        "    print(f'stopped after {signal}', flush=True)\n"
    )
    with serving(tmp_path, app=app) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GENEROUS)
        kept.request("GET", "/")
        kept.getresponse().read()
        (worker,) = server.workers()
        with Load(server.url, "/sleep?0.5", threads=1) as load:
            server.wait_for_log("asleep")
            load.stopped.set()
            server.signal(signal.SIGTERM)
            load.stop()
        server.wait_for(lambda: "draining" in title(worker))
        kept.request("GET", "/")
        answer = kept.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (200, "close")
        assert "stopped after" not in server.log
        (tmp_path / "answered").touch()
        assert server.wait() == 0
        assert "stopped after SIGTERM" in server.log
        assert [status for status, _ in load.answers] == [200]


def test_the_graceful_timeout_ends_all_that_wait(tmp_path: Path) -> None:
    with serving(tmp_path, "--graceful-timeout", "1") as server:
        with Load(server.url, "/sleep?60", threads=3) as load:
            server.wait_for(lambda: server.log.count("asleep") == 3)
            load.stopped.set()
            server.signal(signal.SIGTERM)
            assert server.wait() == 70
            load.stop()
        assert [status for status, _ in load.answers] == [504] * 3
        assert server.log.count("GET /sleep?60 is cut: the graceful timeout is over") == 3
        assert "3 requests had to be cut" in server.log


@pytest.mark.parametrize(
    ("statement", "preloaded"),
    [("gevent.sleep(0.01)", True), ("gevent.spawn(time.sleep, 600)", False)],
    ids=["a hub", "a greenlet"],
)
def test_no_hub_and_no_greenlet_crosses_the_fork(tmp_path: Path, statement: str, preloaded: bool) -> None:
    with serving(tmp_path, app=f"{APP}\n{statement}\n", workers=2) as server:
        assert ("not preloaded" not in server.log) == preloaded
        if not preloaded:
            assert "the import started 1 greenlet;" in server.log
        with Load(server.url, "/sleep?0.01", threads=8) as load:
            server.wait_for(lambda: len(load.answers) > 100)
        assert load.failures == []


def test_the_pool_shrinks_when_it_is_not_needed(tmp_path: Path) -> None:
    app = APP + (
        "\nfrom greenlet import greenlet\n"
        "import gc\n"
        "def count(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/sleep': return app(environ, start_response)\n"
        "    start_response('200 OK', [])\n"
        "    return [str(sum(isinstance(x, greenlet) and hasattr(x, 'runner') and not x.dead\n"
        "                    for x in gc.get_objects())).encode()]\n"
    )
    (tmp_path / "greens.py").write_text(app)
    with serve("greens:count", "-k", "gevent", "--workers", "1", cwd=tmp_path) as server:
        with Load(server.url, "/sleep?0.5", threads=40) as load:
            server.wait_for(lambda: len(load.answers) >= 40)
        most = int(server.get("/").text)
        assert most >= 40

        def shrunk() -> bool:
            time.sleep(0.5)  # not too often: who asks needs greenlets
            return int(server.get("/").text) < most

        server.wait_for(shrunk)
