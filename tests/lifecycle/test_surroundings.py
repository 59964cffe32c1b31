"""Full or broken surroundings: logs that nobody reads or that have no room, no descriptors, no processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import tty
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lifecycle.project import Project
from support import WORKER_CLASSES, serve
from support.processes import wait_for
from support.server import command

CHATTY = """
@pyserve.before_fork
def before():
    if not os.isatty(1):
        print("forking")  # into a buffer, which is emptied at the fork if there is room

def chatty(environ, start_response):
    print("asked", file=environ["wsgi.errors"])
    return wsgi(environ, start_response)
"""


class Reader:
    """Reads what a server says on its standard streams, or does not."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.fd, self.theirs = os.pipe()
        elif kind == "terminal":
            self.fd, self.theirs = pty.openpty()
            tty.setraw(self.theirs)
        else:
            ours, theirs = socket.socketpair()
            self.fd, self.theirs = ours.detach(), theirs.detach()
        self.kind = kind
        self.text = ""
        os.set_blocking(self.fd, False)

    def read(self) -> str:
        """All that was said so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # a terminal whose other side has closed is an error
            while data := os.read(self.fd, 65536):
                self.text += data.decode()
        return self.text

    def wait_for(self, pattern: str) -> re.Match[str]:
        found = None

        def said() -> bool:
            nonlocal found
            found = re.search(pattern, self.read())
            return found is not None

        wait_for(said, pattern)
        assert found
        return found

    def fill(self) -> None:
        """Leave no room; what fills it is an empty line, so that it can be told from what the server says."""
        if self.kind == "socket":
            writer = socket.socket(fileno=os.dup(self.theirs))
            with contextlib.suppress(BlockingIOError):
                while True:
                    writer.send(b"\n", socket.MSG_DONTWAIT)
            writer.close()
            return
        fd = os.open(f"/proc/self/fd/{self.theirs}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(fd, b"\n" * size)
        os.close(fd)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.theirs)


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    reader = Reader(request.param)
    yield reader
    reader.close()


def get(port: int) -> tuple[int, str]:
    """Status and text; the text is empty when the connection was reset with the worker that had it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("reader", "kind"),
    [*(("pipe", kind) for kind in WORKER_CLASSES), ("socket", "sync"), ("terminal", "sync")],
    indirect=["reader"],
)
def test_nobody_reads_the_logs(project: Project, reader: Reader, kind: str) -> None:
    """Standard output and error are a pipe, the journal's socket or a terminal, and whoever read there has stopped.

    Requests are answered, workers are forked, a reload is done; and when somebody reads again, it is told what is missing.
    """
    project.append(CHATTY)
    options = ("--workers", "1", "-k", kind, "--threads", "4" if kind == "threads" else "1", "--access-logfile", "-")
    process = subprocess.Popen(
        command("app:chatty", *options, "--bind", "127.0.0.1:0"),
        cwd=project.folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.DEVNULL,
        stdout=reader.theirs,
        stderr=reader.theirs,
        start_new_session=True,
    )
    try:
        reader.wait_for("ready: 1 worker")
        port = int(reader.wait_for(r"listening on http://127.0.0.1:(\d+)").group(1))
        assert get(port)[0] == 200
        reader.wait_for("GET / HTTP/1.1")
        reader.fill()
        assert [get(port)[0] for _ in range(50)] == [200] * 50
        old = get(port)[1]
        os.kill(int(old.split()[1]), signal.SIGKILL)
        wait_for(lambda: get(port)[1] not in (old, ""))
        project.replace('"one"', '"two"')
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: get(port)[1].startswith("two "))
        assert [get(port)[0] for _ in range(20)] == [200] * 20
        assert os.get_blocking(reader.theirs), "this open file is also others'"
        # Now somebody reads again. The master and the worker that serves tell what they could not say.
        reader.wait_for(r"master +\d+ records were lost before this one: its reader does not keep up")
        wait_for(lambda: get(port)[0] == 200 and "the access log can be written again" in reader.read())
        reader.wait_for(r"worker 0 gen 2 .* the access log can be written again; \d+ lines? (is|are) lost")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: reader.read() is not None and process.poll() is not None)
        assert process.returncode == 0
    finally:
        print(reader.read().strip("\n"))
        process.kill()
        process.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\n" * size)


@pytest.mark.usefixtures("worker_class")
def test_a_full_disk_under_the_logs(project: Project, small_disk: Path) -> None:
    project.append(CHATTY)
    errors, access = small_disk / "error.log", small_disk / "access.log"
    options = ("--workers", "1", "--error-logfile", str(errors), "--access-logfile", str(access))
    with serve("app:chatty", *options, cwd=project.folder, error_log=errors) as server:
        assert server.get("/").status_code == 200
        filler = small_disk / "filler"
        fill(filler)

        def no_room() -> bool:
            """A log goes on to its last page's end."""
            before = errors.stat().st_size, access.stat().st_size
            assert all(server.get("/").status_code == 200 for _ in range(20))
            fill(filler)
            return before == (errors.stat().st_size, access.stat().st_size)

        server.wait_for(no_room)
        old = server.get("/").text
        os.kill(int(old.split()[1]), signal.SIGKILL)
        server.wait_for(lambda: server.get("/").text not in (old, ""))
        assert all(server.get("/").status_code == 200 for _ in range(20))
        filler.unlink()
        server.wait_for_log(r"master +\d+ records were lost before this one: No space left on device")
        server.wait_for(
            lambda: server.get("/").status_code == 200 and "the access log can be written again" in server.log
        )
        assert re.search(r"worker 0 .*the access log can be written again; \d+ lines? (is|are) lost", server.log)


def limit(pid: int, what: int, soft: int) -> int:
    """Set the soft limit of a process; the one it had."""
    before, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, hard))
    return before


@pytest.mark.usefixtures("worker_class")
def test_a_master_without_descriptors_waits_until_it_can_start_workers_and_zygotes(project: Project) -> None:
    """What it cannot start it tries again, each time later; those that are there go on."""
    with serve("app:wsgi", "--workers", "2", cwd=project.folder) as server:
        first, second = server.workers()
        before = limit(server.pid, resource.RLIMIT_NOFILE, 3)
        os.kill(first, signal.SIGKILL)
        server.wait_for_log("worker 0 cannot be started: Too many open files")
        os.kill(server.zygotes()[0], signal.SIGKILL)
        server.wait_for_log(r"generation 1: \S+ cannot be started: Too many open files")
        server.signal(signal.SIGUSR1)
        server.wait_for_log("cannot open the log|log files reopened")
        assert server.get("/").text == f"one {second}"
        limit(server.pid, resource.RLIMIT_NOFILE, before)
        server.wait_for(lambda: len(server.workers()) == 2 and second in server.workers())
        assert server.get("/").status_code == 200
        assert len(re.findall("cannot be started", server.log)) < 20


CROWDED = """
import resource

@pyserve.before_fork
def crowd():
    # As if its user had as many processes as it may, as long as there is that file.
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1 if os.path.exists("crowded") else hard, hard))
"""


@pytest.mark.usefixtures("worker_class")
def test_no_process_can_be_forked(project: Project) -> None:
    """As when the user has as many as it may: one line each time, with growing pauses, and it recovers."""
    user: tuple[str, ...] = ()
    if os.geteuid() == 0:  # whom no limit stops
        user = ("--user", "nobody")
        for folder in (project.folder, *project.folder.parents):
            if str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
    project.append(CROWDED)
    (project.folder / "sitecustomize.py").write_text("import resource\n")  # while the interpreter's files can be read
    environ = {"PYTHONPATH": str(project.folder)}
    with serve("app:wsgi", "--workers", "2", *user, cwd=project.folder, env=environ) as server:
        first, second = server.workers()
        zygotes = server.zygotes()
        crowded = project.folder / "crowded"
        crowded.touch()
        os.kill(first, signal.SIGKILL)
        line = "worker 0 gen 1 could not be forked: fork failed: Resource temporarily unavailable"
        server.wait_for(lambda: server.log.count(line) >= 3)
        assert server.get("/").text == f"one {second}"
        crowded.unlink()
        server.wait_for(lambda: len(server.workers()) == 2)
        assert server.zygotes() == zygotes
        assert len(re.findall(r" error ", server.log)) < 20


JUMPING = """
# The wall clock of every process of the server is set again and again, by hours.
import itertools, time
real, jumps = time.time, itertools.cycle((0, 7200, -7200, 86400 * 400))
time.time = lambda: real() + next(jumps)
"""


@pytest.mark.usefixtures("worker_class")
def test_a_jump_of_the_wall_clock_ends_nothing(project: Project) -> None:
    (project.folder / "sitecustomize.py").write_text(JUMPING)
    options = ("--workers", "2", "--timeout", "30", "--graceful-timeout", "30")
    environ = {"PYTHONPATH": str(project.folder)}
    with serve("app:wsgi", *options, cwd=project.folder, env=environ) as server:
        workers = server.workers()
        assert server.get("/sleep?1.5").status_code == 200
        assert server.workers() == workers
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        assert server.get("/").status_code == 200
        stamps = {line[:13] for line in server.log.splitlines() if line.startswith("20")}
        assert len(stamps) > 1, "the clock did jump"
        assert not re.search("killed|interrupted|degraded|did not", server.log)


def reopened(log: Path, times: int) -> bool:
    """More often than that?"""
    return log.read_text().count("log files reopened") > times


def test_a_worker_that_does_not_read_its_channel_costs_the_master_nothing(project: Project) -> None:
    """However often it is told something: the master goes on, and keeps what is new, not all that was said."""
    errors = project.folder / "error.log"
    options = ("--workers", "2", "--error-logfile", str(errors))
    with serve("app:wsgi", *options, cwd=project.folder, error_log=errors) as server:
        stopped = server.workers()[0]
        os.kill(stopped, signal.SIGSTOP)

        def told(times: int) -> int:
            """Tell everybody so often; the master's open descriptors then."""
            for _ in range(times):
                done = errors.read_text().count("log files reopened")
                server.signal(signal.SIGUSR1)
                wait_for(partial(reopened, errors, done))
            return len(os.listdir(f"/proc/{server.pid}/fd"))

        few = told(400)  # more than its channel takes
        assert told(200) == few
        errors.rename(project.folder / "error.1")
        server.signal(signal.SIGUSR1)
        server.wait_for(errors.exists)
        os.kill(stopped, signal.SIGCONT)
        server.wait_for(lambda: server.get("/").text == f"one {stopped}")
        newest = errors.stat()
        server.wait_for(
            lambda: any(
                os.path.samestat(os.stat(f"/proc/{stopped}/fd/{fd}"), newest)
                for fd in os.listdir(f"/proc/{stopped}/fd")
                if os.path.exists(f"/proc/{stopped}/fd/{fd}")
            )
        )
