"""Apps that fork: nothing of the server runs in the child, whatever it does, and nobody else's request notices."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import Server, serve
from support.processes import GENEROUS, children, descendants

# A request forks in the way that its path names, and is answered with the exit code of the child, which sleeps first.
APP = """
import multiprocessing, os, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor

SECONDS = float(os.environ.get("NAP", "0.5"))

def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fork():
    pid = os.fork()
    if not pid:
        time.sleep(SECONDS)
    return pid

def nap():
    time.sleep(SECONDS)
    os._exit(7)

def nap_and_tell(name):
    time.sleep(SECONDS)
    return f"hello {name}"

class Response:
    def __init__(self, function):
        self.function = function
        self.log = None
    def __iter__(self):
        yield b"closing"
    def close(self):
        self.function()

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/work":
        time.sleep(float(query or 0))
        text = f"work {os.getpid()}"
    elif path == "/upload":
        text = f"{len(environ['wsgi.input'].read())} {os.getpid()}"
    else:
        result = WAYS[path[1:]](environ, start_response)
        if not isinstance(result, (int, str)):
            return result
        text = str(result)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]

def forked(do):
    def way(environ, start_response):
        pid = fork()
        return code_of(pid) if pid else do(environ, start_response)
    return way

def fail(environ, start_response):
    raise ValueError("in the child")

def write(environ, start_response):
    start_response("200 OK", [])(b"from the child")
    os._exit(0)

def alone(environ, start_response):
    import pyserve
    pyserve.exclusive(lambda: None)()
    sys.exit(8)

def generator(environ, start_response):
    start_response("200 OK", [])
    def parts():
        yield b"code "
        pid = fork()
        yield str(code_of(pid)).encode() if pid else b"from the child"
    return parts()

def generator_end(environ, start_response):
    start_response("200 OK", [])
    def parts():
        yield b"code "
        pid = fork()
        if pid:
            yield str(code_of(pid)).encode()
    return parts()

def generator_exit(environ, start_response):
    start_response("200 OK", [])
    def parts():
        yield b"code "
        pid = fork()
        if not pid:
            sys.exit(5)
        yield str(code_of(pid)).encode()
    return parts()

def close(environ, start_response):
    log = environ["wsgi.errors"]
    def forks():
        pid = fork()
        if not pid:
            return
        log.write(f"close: code {code_of(pid)}\\n")
    start_response("200 OK", [])
    return Response(forks)

def thread(environ, start_response):
    codes = []
    def forks():
        pid = fork()
        if pid:
            codes.append(code_of(pid))
    forking = threading.Thread(target=forks)
    forking.start()
    forking.join()
    return codes[0]

def double(environ, start_response):
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        if fork():
            sys.exit(0)
        os.write(writer, b"9")
        return "the grandchild"
    os.close(writer)
    code_of(pid)
    with open(reader) as said:
        return said.read()

def process(method):
    def way(environ, start_response):
        child = multiprocessing.get_context(method).Process(target=nap)
        child.start()
        child.join()
        return child.exitcode
    return way

def executor(environ, start_response):
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        return ", ".join(pool.map(nap_and_tell, "ab"))

def pool(environ, start_response):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return ", ".join(pool.map(nap_and_tell, "ab"))

def preexec(environ, start_response):
    return subprocess.run(["sh", "-c", "exit 6"], preexec_fn=lambda: time.sleep(SECONDS)).returncode

WAYS = {
    "return": forked(lambda environ, start_response: "from the child"),
    "raise": forked(fail),
    "exit": forked(lambda environ, start_response: sys.exit(3)),
    "exit-text": forked(lambda environ, start_response: sys.exit("no use")),
    "os-exit": forked(lambda environ, start_response: os._exit(4)),
    "write": forked(write),
    "alone": forked(alone),
    "generator": generator,
    "generator-end": generator_end,
    "generator-exit": generator_exit,
    "close": close,
    "thread": thread,
    "double": double,
    "fork": process("fork"),
    "forkserver": process("forkserver"),
    "spawn": process("spawn"),
    "executor": executor,
    "pool": pool,
    "preexec": preexec,
}
"""

RETURNED = "has returned to the server; it is ended with code 0"
# What the client hears, and what of the child is in the log.
ENDS = {
    "return": ("0", RETURNED),
    "raise": ("1", r"has failed; it is ended with code 1\n(.*\n)*? +ValueError: in the child"),
    "exit": ("3", "has ended with code 3"),
    "exit-text": ("1", "has ended with code 1"),
    "os-exit": ("4", ""),
    "write": ("1", r"has failed; it is ended with code 1\n(.*\n)*? +RuntimeError: write\(\) was called in a process"),
    "alone": ("8", "has ended with code 8"),
    "generator": ("code 0", RETURNED),
    "generator-end": ("code 0", RETURNED),
    "generator-exit": ("code 5", "has ended with code 5"),
    "close": ("closing", RETURNED),
    "double": ("9", RETURNED),
}
WAYS = {
    **{name: heard for name, (heard, _) in ENDS.items() if name != "close"},
    "thread": "0",
    "fork": "7",
    "forkserver": "7",
    "spawn": "7",
    "executor": "hello a, hello b",
    "pool": "hello a, hello b",
    "preexec": "6",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.usefixtures("worker_class")
def test_the_child_ends_where_the_apps_code_ends(folder: Path, way: str) -> None:
    """On a kept connection too there is one answer for each request, and it is the worker's."""
    heard, logged = ENDS[way]
    with serve("app:app", "--workers", "1", cwd=folder, env={"NAP": "0.01"}) as server:
        worker = server.workers()[0]
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GENEROUS)
        for _ in range(2):
            client.request("GET", f"/{way}")
            assert client.getresponse().read().decode() == heard
            client.request("GET", "/work")
            assert client.getresponse().read().decode() == f"work {worker}"
        client.close()
        if way == "close":
            server.wait_for_log("close: code 0(.*\n)+.*close: code 0")
        told = rf"GET /{way} from 127.0.0.1: a process that the app has forked \(pid \d+\) {logged or 'has'}"
        assert len(list(re.finditer(told, server.log))) == (2 if logged else 0)
        assert server.workers() == [worker]
        server.wait_for(lambda: not descendants(worker))
        assert not re.search("BUG|Exception ignored", server.log)


class Strangers:
    """Clients of the same worker, of every kind, while one request forks and its child waits."""

    def __init__(self, server: Server, kind: str) -> None:
        self.server = server
        self.worker = server.workers()[0]
        self.concurrent = kind != "sync"
        self.over = threading.Event()

    def work(self, number: int) -> int:
        """Requests on new connections; some wait in the app."""
        asked = 0
        while not self.over.is_set():
            seconds = 0.02 * (number % 3) if self.concurrent else 0
            answer = self.server.get(f"/work?{seconds}")
            assert (answer.status_code, answer.text) == (200, f"work {self.worker}")
            asked += 1
        return asked

    def keep(self, pause: float) -> int:
        """Requests on a connection that is kept, and idles between them."""
        client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=GENEROUS)
        asked = 0
        while not self.over.wait(pause):
            client.request("GET", "/work")
            assert client.getresponse().read().decode() == f"work {self.worker}"
            asked += 1
        client.close()
        return asked

    def upload(self, pause: float) -> int:
        """A body that comes in pieces."""
        asked, size = 0, 300_000
        while not self.over.is_set():
            with socket.create_connection(("127.0.0.1", self.server.port), GENEROUS) as client:
                head = f"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
                client.sendall(head.encode())
                for _ in range(10):
                    client.sendall(b"x" * (size // 10))
                    self.over.wait(pause)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
                assert answer.endswith(f"\r\n\r\n{size} {self.worker}".encode())
            asked += 1
        return asked


@pytest.mark.parametrize("way", WAYS)
def test_strangers_do_not_notice(folder: Path, worker_class: str, way: str) -> None:
    """Their answers are the worker's, all of them, while children wait: in a sleep, for a lock, for a pipe."""
    if (worker_class, way) == ("gevent", "pool"):
        pytest.skip("multiprocessing.Pool hangs under gevent, with and without a server")
    if (worker_class, way) == ("gevent", "forkserver") and sys.version_info >= (3, 14):
        pytest.skip("multiprocessing reads from a socket of gevent's as if it blocked, with and without a server")
    with serve("app:app", "--workers", "1", cwd=folder) as server, ThreadPoolExecutor(16) as threads:
        strangers = Strangers(server, worker_class)
        try:
            asking = [threads.submit(strangers.work, number) for number in range(4)]
            asking += [threads.submit(strangers.keep, pause) for pause in (0.01, 0.03, 0.05, 0.2)]
            asking += [threads.submit(strangers.upload, pause) for pause in (0.01, 0.03)]
            assert server.get(f"/{way}").text == WAYS[way]
        finally:
            strangers.over.set()
        assert all(future.result(GENEROUS) for future in asking)
        assert server.workers() == [strangers.worker]
        assert not re.search("BUG|Exception ignored", server.log)
        assert "cut" not in server.log


def test_greenlets_of_the_app_that_fork(tmp_path: Path) -> None:
    """One ends the process by an exit. One waits for what would come from the worker's greenlets: its process ends, and
    not as if all were well."""
    (tmp_path / "app.py").write_text(
        "import os, sys\n"
        "import gevent\n"
        "from gevent.event import Event\n"
        "def forks(child):\n"
        "    pid = os.fork()\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else child()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    codes = [gevent.spawn(forks, lambda: sys.exit(9)).get(), gevent.spawn(forks, Event().wait).get()]\n"
        "    return [repr([*codes, forks(Event().wait)]).encode()]\n"
    )
    with serve("app:app", "-k", "gevent", "--workers", "1", cwd=tmp_path) as server:
        assert server.get("/").text == "[9, 1, 1]"
        assert len(re.findall(r"pid \d+, which the app has forked, waits for what can never come", server.log)) == 2
        assert len(re.findall(r"outside of requests: .* has ended with code [19]", server.log)) == 3


@pytest.mark.usefixtures("worker_class")
def test_a_request_that_is_alone_forks(tmp_path: Path) -> None:
    """The child comes back from the view; the request stays alone."""
    (tmp_path / "app.py").write_text(
        "import os, time\n"
        "import pyserve\n"
        "@pyserve.exclusive\n"
        "def alone(environ, start_response):\n"
        "    pid = os.fork()\n"
        "    if pid:\n"
        "        os.waitpid(pid, 0)\n"
        "        while not os.path.exists('over'):\n"
        "            time.sleep(0.01)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'alone']\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/alone':\n"
        "        return alone(environ, start_response)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'open']\n"
    )
    with serve("app:app", "--workers", "2", cwd=tmp_path) as server, ThreadPoolExecutor() as threads:
        alone = threads.submit(server.get, "/alone")
        server.wait_for_log(f"GET /alone from .*{RETURNED}")
        for _ in range(5):
            assert server.get("/").status_code == 503
        (tmp_path / "over").touch()
        assert alone.result().text == "alone"
        server.wait_for(lambda: server.get("/").text == "open")


HOOKS = """
import os, threading, time

lock = threading.Lock()

def told(what):
    return lambda: os.write(2, f"{what} {os.getpid()}\\n".encode())

def hold():
    with lock:
        told("thread")()
        time.sleep(0.2)

os.register_at_fork(before=told("before"), after_in_parent=told("parent"), after_in_child=told("child"))
os.register_at_fork(after_in_child=lambda: threading.Thread(target=hold).start())

def app(environ, start_response):
    with lock:
        start_response("200 OK", [])
        return [b"hello"]
"""


@pytest.mark.usefixtures("worker_class")
def test_a_worker_is_one_fork_to_the_app(tmp_path: Path) -> None:
    """Its hooks run once for each. A lock that a thread of theirs holds is not held for ever by one that is not there."""
    (tmp_path / "app.py").write_text(HOOKS)
    with serve("app:app", "--workers", "3", cwd=tmp_path, env={"PYSERVE_PRELOAD": "always"}) as server:
        for _ in range(20):
            assert server.get("/").text == "hello"
        workers, zygote = set(server.workers()), server.zygotes()[0]
        said = [(what, int(pid)) for what, pid in re.findall(r"^(before|parent|child|thread) (\d+)$", server.log, re.M)]
        assert sorted(said) == sorted(
            [
                *([("before", zygote), ("parent", zygote)] * 3),
                *((what, pid) for what in ("child", "thread") for pid in workers),
            ]
        )


# Forks outside of requests.

IN_HOOKS = """
import os, sys, time
import pyserve

def forks(told):
    pid = os.fork()
    if not pid:
        time.sleep(0.2)  # under gevent, the hub goes on meanwhile
        sys.exit(5)
    told(f"child: {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")

@pyserve.on_init
def init():
    if os.fork():
        forks(print)

@pyserve.on_shutdown
def shutdown(_cause):
    forks(print)
    raise ValueError("the other hooks go on") if os.fork() else SystemExit(6)

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"""


@pytest.mark.usefixtures("worker_class")
def test_a_hook_forks(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(IN_HOOKS)
    with serve("app:app", "--workers", "1", cwd=tmp_path, env={"PYTHONUNBUFFERED": "1"}) as server:
        assert server.get("/").text == "hello"
        server.stop()
        log = server.log
    assert log.count("child: 5") == 2
    assert log.count("on_init hook app.init: a process that the app has forked") == 2
    assert len(re.findall(rf"on_init hook app.init: .*{RETURNED}", log)) == 1
    assert len(re.findall(r"on_init hook app.init: .* has ended with code 5", log)) == 1
    assert len(re.findall(r"on_shutdown hook app.shutdown: .* has ended with code [56]", log)) == 2
    assert log.count("is serving") == log.count("has left") == 1
    assert not re.search("BUG|Exception ignored", log)


@pytest.mark.parametrize("preload", ["always", "never"])
@pytest.mark.parametrize("ending", ["sys.exit(5)", "pass"])
@pytest.mark.usefixtures("worker_class")
def test_the_import_forks(tmp_path: Path, preload: str, ending: str) -> None:
    (tmp_path / "app.py").write_text(
        "import os, sys, time\n"
        "pid = os.fork()\n"
        f"if not pid:\n    time.sleep(0.2)\n    {ending}\n"
        "code = pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(code).encode()]\n"
    )
    with serve("app:app", "--workers", "2", cwd=tmp_path, env={"PYSERVE_PRELOAD": preload}) as server:
        assert server.get("/").text == ("5" if "exit" in ending else "0")
        importing = 1 if preload == "always" else 2
        assert server.log.count("importing 'app:app': a process that the app has forked") == importing
        assert server.log.count("is serving") == 2
        assert not re.search("BUG|Exception ignored", server.log)


def test_a_signal_handler_forks(tmp_path: Path, worker_class: str) -> None:
    """While the worker waits for clients: the child returns into the middle of the loop, which ends there."""
    (tmp_path / "app.py").write_text(
        "import os, signal, time\n"
        "import pyserve\n"
        "pids = []\n"
        "def handler(_number, _frame):\n"
        "    pids.append(os.fork())\n"
        "@pyserve.on_init\n"
        "def init():\n"
        "    signal.signal(signal.SIGRTMIN + 9, handler)\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    time.sleep(0.05)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1]) if pids else 'none'\n"
        "    return [str(code).encode()]\n"
    )
    with serve("app:app", "--workers", "1", cwd=tmp_path) as server:
        worker = server.workers()[0]
        for number in range(1, 4):
            os.kill(worker, signal.SIGRTMIN + 9)
            answers: list[str] = []

            def told(number: int = number, answers: list[str] = answers) -> bool:
                if worker_class == "threads":  # whose main thread may notice the signal only when a request is slow
                    answers.append(server.get("/").text)
                return len(re.findall(rf"outside of requests: .*{RETURNED}", server.log)) == number

            server.wait_for(told)
            assert "0" in answers or server.get("/").text == "0"
        assert server.workers() == [worker]
        assert not re.search("BUG|Exception ignored", server.log)


# What is left behind.

LEFT = """
import multiprocessing, os, signal, subprocess, sys, time
from ctypes import PyDLL

def sleep():
    while True:
        signal.pause()

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep()

def parent():
    if os.fork():
        os.setpgid(0, 0)
    sleep()

def process(target):
    child = multiprocessing.get_context("fork").Process(target=target, daemon=True)
    child.start()
    return child.pid

def fork(target, os_fork=os.fork):
    pid = os_fork()
    if not pid:
        target()
    return pid

def detach(prepare):
    # A job that is nobody's child.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        prepare()
        pid = os.fork()
        if not pid:
            os.close(writer)
            sleep()
        os.write(writer, f"{pid}\\n".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as said:
        return int(said.readline())

WAYS = {
    "/process": lambda: process(sleep),
    "/stubborn": lambda: fork(stubborn),
    "/parent": lambda: fork(parent),
    "/libc": lambda: fork(sleep, PyDLL(None).fork),
    "/daemon": lambda: detach(os.setsid),
    "/detached": lambda: detach(lambda: None),
    "/slow": lambda: time.sleep(0.1) or 0,
    "/program": lambda: subprocess.Popen(["sleep", "1000"]).pid,
}

def app(environ, start_response):
    way = WAYS.get(environ["PATH_INFO"], int)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{way()} {os.getpid()}".encode()]
"""


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    (tmp_path / "app.py").write_text(LEFT)
    left = Left(tmp_path)
    yield left
    for pid in left.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Left:
    """What an app has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: list[int] = []

    def start(self, server: Server, way: str) -> tuple[int, int]:
        """Have something started: its pid, and the worker's."""
        pid, worker = map(int, server.get(f"/{way}").text.split())
        self.pids.append(pid)
        assert lives(pid)
        return pid, worker


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.usefixtures("worker_class")
def test_copies_of_a_worker_end_with_it(left: Left, end: signal.Signals) -> None:
    """Killed or drained; not daemons, nor other programs."""
    with serve("app:app", "--workers", "1", "--graceful-timeout", "3", cwd=left.folder) as server:
        worker = server.workers()[0]
        process, parent, libc = (left.start(server, way)[0] for way in ("process", "parent", "libc"))
        server.wait_for(lambda: children(parent))
        copies = [process, parent, libc, *children(parent)]
        stubborn, _ = left.start(server, "stubborn")
        daemon, _ = left.start(server, "daemon")
        program, _ = left.start(server, "program")
        left.pids += copies
        os.kill(worker, end)
        server.wait_for(lambda: not any(map(lives, [worker, *copies])))
        server.wait_for_log(rf"pid {stubborn}, which the app had forked, has not ended on a SIGTERM: it is killed")
        server.wait_for(lambda: not lives(stubborn))
        assert int(server.get("/").text.split()[1]) in server.workers()
        assert lives(daemon)
        assert lives(program)
        # multiprocessing ends its own when a worker leaves in peace.
        told = [pid for pid in copies if pid != process or end == signal.SIGKILL]
        assert all(f"has left pid {pid} behind, which the app had forked" in server.log for pid in told)
        os.kill(program, signal.SIGKILL)
    assert lives(daemon)


def test_a_detached_job_ends_with_the_server(left: Left) -> None:
    """It has forked twice, and not asked for a session of its own."""
    with serve("app:app", "--workers", "1", cwd=left.folder) as server:
        job, _ = left.start(server, "detached")
        daemon, _ = left.start(server, "daemon")
        server.stop()
        assert not lives(job)
        assert lives(daemon)


@pytest.mark.usefixtures("worker_class")
def test_what_the_import_has_forked_ends_with_its_generation(tmp_path: Path) -> None:
    """It serves the workers that drain, when the zygote is gone."""
    (tmp_path / "app.py").write_text(
        "import os, signal, time\n"
        "helper = os.fork()\n"
        "while not helper:\n    signal.pause()\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    yield str(helper).encode()\n"
        "    environ['wsgi.errors'].write(f'asleep {environ[\"QUERY_STRING\"]}\\n')\n"
        "    time.sleep(float(environ['QUERY_STRING'] or 0))\n"
        "    os.kill(helper, 0)\n"
    )
    options = ("--workers", "1", "--keep-previous", "0")
    env = {"PYSERVE_PRELOAD": "always"}
    with serve("app:app", *options, cwd=tmp_path, env=env) as server, ThreadPoolExecutor() as threads:
        helper = int(server.get("/").text)
        slow = threads.submit(server.get, "/?2")
        server.wait_for_log("asleep 2")
        server.signal(signal.SIGHUP)
        server.wait_for_log("generation 2 is committed")
        server.wait_for(lambda: len(server.zygotes()) == 1)
        assert slow.result().text == str(helper)
        server.wait_for(lambda: not lives(helper))
        second = int(server.get("/").text)
        assert second != helper
        assert lives(second)
        server.stop()
        assert not lives(second)


@pytest.mark.parametrize("way", ["stubborn", "parent"])
@pytest.mark.usefixtures("worker_class")
def test_the_port_is_free_when_the_server_is_gone(left: Left, way: str) -> None:
    """All of it was killed but what the app has forked."""
    with serve("app:app", "--workers", "1", cwd=left.folder) as server:
        pid, _ = left.start(server, way)
        port = server.port
        for each in [server.pid, *server.zygotes(), *server.workers()]:
            os.kill(each, signal.SIGKILL)
        server.wait()
        assert lives(pid)
        with serve("app:app", "--workers", "1", "--bind", f"127.0.0.1:{port}", cwd=left.folder) as next_one:
            assert next_one.get("/").status_code == 200
            assert lives(pid)
        server.kill()


@pytest.mark.parametrize("way", ["process", "libc"])
@pytest.mark.usefixtures("worker_class")
def test_connections_end_while_a_copy_of_the_worker_lives(left: Left, way: str) -> None:
    """At keep_alive, at the end of an HTTP/1.0 response, and when the worker is killed."""
    with serve("app:app", "--workers", "1", "--keep-alive", "1", "--graceful-timeout", "3", cwd=left.folder) as server:

        def ask(path: str) -> socket.socket:
            client = socket.create_connection(("127.0.0.1", server.port), GENEROUS)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            left.pids += [int(answer.split(b"\r\n\r\n")[1].split()[0])] * (path != "/")
            return client

        with ask("/") as idle, socket.create_connection(("127.0.0.1", server.port), GENEROUS) as closing:
            pid, worker = left.start(server, way)
            closing.sendall(f"GET /{way} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: closing.recv(65536), b""))
            left.pids.append(int(answer.split(b"\r\n\r\n")[1].split()[0]))
            assert idle.recv(1) == b""
        if way == "process":  # of a fork by other means the server does not hear
            with ask("/") as idle, ask("/stubborn") as own:
                os.kill(worker, signal.SIGKILL)
                for client in (idle, own):
                    with contextlib.suppress(ConnectionResetError):
                        assert client.recv(1) == b""
                assert lives(left.pids[-1])
        assert lives(pid) or way == "process"


@pytest.mark.usefixtures("worker_class")
def test_a_copy_of_a_connection_does_not_report_as_the_next_of_its_number(left: Left) -> None:
    """The epoll would go on to report it as long as the copy is open, and the end of an old client as the new one's."""
    with serve("app:app", "--workers", "1", cwd=left.folder) as server:
        for _ in range(5):
            left.start(server, "libc")
            assert server.get("/slow").text.split()[0] == "0"
