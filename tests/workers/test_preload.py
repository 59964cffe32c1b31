"""Preloading: what an import may leave behind, and that workers of one import do not draw the same random numbers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support import serve

AUDIT = """
from pyserve_workers.life.audit import Audit
{before}
with Audit() as audit:
{code}
print(audit.found())
"""


def audit_of(code: str, before: str = "") -> str:
    """What the audit says in a fresh interpreter in which ``code`` is the import, after ``before``."""
    program = AUDIT.format(before=before, code=textwrap.indent(textwrap.dedent(code) or "pass", "    "))
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


LISTENER = "import socket; listener = socket.create_server(('{host}', 0), family=socket.{family});"
CLIENT = (
    "client = socket.socket(socket.{family}); client.connect(listener.getsockname()); print(listener.getsockname())"
)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import socket; listener = socket.create_server(('127.0.0.1', 0))",
        "import socket; unused = socket.socket()",
        "import socket; a, b = socket.socketpair(); a.close(); b.close()",
        # As to syslog and to a collector of figures: each datagram is whole, whoever sends it.
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 9))",
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "import asyncio; loop = asyncio.new_event_loop(); loop.close()",
        "import select; select.epoll().close()",
        "import threading; t = threading.Thread(target=int); t.start(); t.join()",
        "import tempfile; kept = tempfile.TemporaryFile()",
        "import sqlite3; kept = sqlite3.connect(':memory:')",
        "import os; os.pipe()",
        "import logging, logging.config, requests",
        "import django.core.wsgi, django.contrib.auth.signals",
        "import subprocess; subprocess.run(['true'])",
        "import subprocess, time; p = subprocess.Popen(['true']); time.sleep(0.5)",
        "import atexit; register = atexit.register; register(print); atexit.unregister(print)",
        "import tempfile; folder = tempfile.TemporaryDirectory(); folder.cleanup()",
        "import tempfile; file = tempfile.NamedTemporaryFile(); file.close()",
        "import weakref; weakref.finalize(lambda: 0, print)",  # its object is gone already
        "import signal; signal.setitimer(signal.ITIMER_REAL, 5); signal.setitimer(signal.ITIMER_REAL, 0)",
    ],
)
def test_harmless(code: str) -> None:
    assert audit_of(code) == ""


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("::1", "AF_INET6")])
def test_a_connected_socket_is_named_by_its_peer(host: str, family: str) -> None:
    try:
        socket.create_server((host, 0), family=getattr(socket, family)).close()
    except OSError:
        pytest.skip(f"{host} is not there")
    said, found = audit_of(f"{LISTENER}{CLIENT}".format(host=host, family=family)).splitlines()
    port = said.split(",")[1].strip(" )")
    assert found == f"connected a socket to {f'[{host}]' if ':' in host else host}:{port}"


def test_a_connected_unix_socket_is_named_by_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/database")
        listener.listen()
        code = f"import socket; c = socket.socket(socket.AF_UNIX); c.connect('{tmp_path}/database')"
        assert audit_of(code) == f"connected a socket to {tmp_path}/database"
        assert audit_of(f"import subprocess; {code}; c.close()") == ""


TICKER = """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True, name="ticker").start()
"""


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import asyncio; kept = asyncio.new_event_loop()", "made an event loop (_UnixSelectorEventLoop)"),
        ("import select; kept = select.epoll()", "opened an epoll descriptor"),
        ("import ctypes; ctypes.CDLL(None).inotify_init()", "opened an inotify descriptor"),
        (
            "import socket; pair = socket.socketpair()",
            "connected a socket to a process or thread of its own (a socket pair)",
        ),
        (
            TICKER,
            "started 1 thread (ticker)",
        ),
        (
            f"import asyncio\nkept = asyncio.new_event_loop()\n{TICKER}",
            "started 1 thread (ticker) and made an event loop (_UnixSelectorEventLoop)",
        ),
        ("import subprocess; kept = subprocess.Popen(['cat'], stdin=subprocess.PIPE)", "started 1 process (cat)"),
        ("import signal; signal.setitimer(signal.ITIMER_PROF, 60)", "started a timer (setitimer or alarm)"),
        ("import signal; signal.alarm(60)", "started a timer (setitimer or alarm)"),
        (
            "import ctypes; ctypes.CDLL(None).timerfd_create(1, 0)",
            "opened a timer descriptor",
        ),
        ("import atexit, shutil; atexit.register(shutil.copy, 'a', 'b')", "registered an exit callback (shutil:copy)"),
        (
            "import atexit, os, functools; atexit.register(functools.partial(os.unlink, '/nowhere'))",
            "registered an exit callback (posix:unlink)",
        ),
        (
            "class Pool:\n    def close(self): pass\nimport atexit\natexit.register(Pool().close)",
            "registered an exit callback (__main__:Pool.close)",
        ),
        (
            "import tempfile; folder = tempfile.TemporaryDirectory()",
            "registered a finalizer that runs at exit (tempfile:TemporaryDirectory._cleanup)",
        ),
        (
            "import tempfile; file = tempfile.NamedTemporaryFile(prefix='/tmp/x', suffix='y')",
            "made a temporary file (/tmp/x*y)",
        ),
    ],
)
def test_what_a_fork_would_break(code: str, found: str) -> None:
    before, star, after = found.partition("*")
    said = audit_of(code)
    assert said == found or (star and said.startswith(before) and said.endswith(after)), said


@pytest.mark.parametrize(
    "made",
    [
        "multiprocessing.Process(target=time.sleep, args=(60,), daemon=True).start()",
        "kept = multiprocessing.Pool(1)",
        "kept = multiprocessing.Manager()",
    ],
)
def test_processes_of_multiprocessing(made: str) -> None:
    assert re.search(r"started \d process(es)? \(", audit_of(f"import multiprocessing, time; {made}"))


LAZY = """
class Lazy:
    @property
    def __class__(self):
        raise RuntimeError("evaluated")

    def __eq__(self, other):
        raise RuntimeError("compared")

    __hash__ = None

lazy = [Lazy(), Lazy()]
import asyncio, tempfile, gevent
loop = asyncio.new_event_loop()
loop.close()
gevent.sleep(0)
from django.utils.functional import SimpleLazyObject

def evaluate():
    raise RuntimeError("evaluated")

lazy.append(SimpleLazyObject(evaluate))
from django.contrib.staticfiles.storage import staticfiles_storage  # settings are not configured: it raises
"""


def test_a_look_evaluates_no_lazy_object() -> None:
    assert audit_of(LAZY) == ""


def test_what_was_open_before_the_import_is_not_its_doing() -> None:
    before = "import atexit, select, tempfile; ours = select.epoll(); folder = tempfile.TemporaryDirectory()"
    assert audit_of("", before) == ""


def test_many_peers_are_not_all_named() -> None:
    code = "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\nkept = []\nfor _ in range(6):\n"
    code += "    kept.append(socket.create_connection(listener.getsockname())); kept.append(listener.accept()[0])"
    found = audit_of(code)
    assert found.startswith("connected a socket to 127.0.0.1:")
    assert found.endswith(", …")
    assert found.count("127.0.0.1:") == 4


# In a server.

APP = """
import os, random, socket, sys, uuid
import numpy.random

listener = socket.socket(socket.AF_UNIX)
IMPORTED_IN = os.getpid()

def wsgi(environ, start_response):
    start_response("200 OK", [])
    drawn = f"{random.random()} {uuid.uuid4()} {uuid.uuid1()} {numpy.random.state}"
    return [f"{os.getpid()} {IMPORTED_IN} {drawn}".encode()]
"""
NUMPY = """
# As numpy's global generator: it keeps its state over a fork, and seed() without argument takes a new one.
import os
state = "as imported"
def seed():
    global state
    state = os.urandom(8).hex()
"""


@pytest.mark.usefixtures("worker_class")
def test_workers_of_one_import_draw_their_own_random_numbers(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("")
    (tmp_path / "numpy" / "random.py").write_text(NUMPY)
    with serve("app:wsgi", "--workers", "2", cwd=tmp_path) as server:
        answers: dict[str, list[str]] = {}

        def both_have_answered() -> bool:
            pid, *rest = server.get("/").text.split()
            answers.setdefault(pid, rest)
            return len(answers) == 2

        server.wait_for(both_have_answered)
        first, second = answers.values()
        assert first[0] == second[0], "one import for both"
        assert first[0] not in answers, "in the zygote"
        assert all(one != other for one, other in zip(first[1:], second[1:], strict=True))
        assert "as imported" not in " ".join(first + second)


def test_numpys_global_generator() -> None:
    numpy_random = pytest.importorskip("numpy.random")
    from pyserve_workers.life.randomness import reseed

    numpy_random.seed(1)
    expected = numpy_random.random()
    numpy_random.seed(1)
    reseed()
    assert numpy_random.random() != expected


@pytest.mark.usefixtures("worker_class")
def test_an_app_that_connects_at_import_is_loaded_by_each_worker_for_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        (tmp_path / "app.py").write_text(
            f"import os, socket\nconnection = socket.create_connection(('127.0.0.1', {port}))\n"
            "IMPORTED_IN = os.getpid()\n"
            "def wsgi(environ, start_response):\n"
            "    start_response('200 OK', [])\n"
            "    return [b'own' if os.getpid() == IMPORTED_IN else b'shared']\n"
        )
        with serve("app:wsgi", "--workers", "2", cwd=tmp_path) as server:
            server.wait_for_log(
                "generation 1: not preloaded, each worker imports the app for itself: "
                rf"the import connected a socket to 127\.0\.0\.1:{port};"
            )
            assert {server.get("/").text for _ in range(8)} == {"own"}


FOLDER = """
import os, tempfile

folder = tempfile.TemporaryDirectory()
file = tempfile.NamedTemporaryFile()

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.path.isdir(folder.name)} {os.path.isfile(file.name)} {os.getpid()}".encode()]
"""


@pytest.mark.usefixtures("worker_class")
def test_a_worker_that_leaves_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """Forked from one import, each would remove the same folder at its end."""
    (tmp_path / "app.py").write_text(FOLDER)
    with serve("app:wsgi", "--workers", "2", cwd=tmp_path) as server:
        assert (
            "the import registered a finalizer that runs at exit (tempfile:TemporaryDirectory._cleanup)" in server.log
        )
        assert "set preload to always or never to decide it" in server.log
        first = server.workers()[0]
        os.kill(first, signal.SIGTERM)
        server.wait_for(lambda: first not in server.workers() and len(server.workers()) == 2)
        server.wait_for(lambda: len({server.get("/").text.split()[2] for _ in range(8)}) == 2)
        assert {server.get("/").text.rpartition(" ")[0] for _ in range(8)} == {"True True"}


def test_a_lazy_object_that_raises_ends_no_start(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(LAZY + "from wsgiref.simple_server import demo_app as wsgi\n")
    with serve("app:wsgi", cwd=tmp_path) as server:
        assert server.get("/").status_code == 200
        assert "not preloaded" not in server.log


THREAD = """
import os, threading, time

with open("imports", "a") as file:
    print(os.getpid(), file=file)
threading.Thread(target=time.sleep, args=(600,), daemon=True, name="ticker").start()

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_what_was_found_is_remembered_until_the_code_changes(tmp_path: Path) -> None:
    """An import can take a minute; each reload would do it once for nothing."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(THREAD)
    with serve("app:wsgi", "--workers", "1", "--chdir", "code", cwd=tmp_path) as server:

        def reload_imports(times: int) -> str:
            before, said = (tmp_path / "code" / "imports").read_text().split(), len(server.log)
            server.signal(signal.SIGHUP)
            server.wait_for(lambda: "reload done" in server.log[said:])
            after = (tmp_path / "code" / "imports").read_text().split()
            assert len(after) - len(before) == times, after
            return server.log[said:]

        assert "not preloaded, each worker imports the app for itself: the import started 1 thread" in server.log
        said = reload_imports(1)  # by its worker
        assert "as was found before, the import started 1 thread (ticker)" in said
        (tmp_path / "code" / "app.py").write_text(f"{THREAD}\n")
        assert "as was found before" not in reload_imports(2)  # by the zygote, too
        (tmp_path / "code" / "app.py").write_text(THREAD.replace("threading.Thread", "# "))
        assert "not preloaded" not in reload_imports(1)
