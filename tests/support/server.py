"""A pyserve under test: a real process that a test drives as a person would, with its log, signals and requests.

    with serve("app:wsgi", "--workers", "2", cwd=tmp_path) as server:
        assert server.get("/").text == "hello"
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")

The end of the block stops it gracefully if the test has not, and fails the test if it then exits with another code than
0, or leaves a process behind. The log of a failed test is printed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from support.processes import GENEROUS, children, descendants, in_session, title, wait_for

BIND_FLAGS = ("-b", "--bind")
PYSERVE = (sys.executable, "-m", "pyserve")
WORKER_CLASSES = ("sync", "threads", "gevent")

# A reload is watched for a moment only: tests that reload again need not wait for it.
SETTINGS = {"PYSERVE_RELOAD_SOAK": "0.2"}

worker_class: str | None = None  # what servers have now that do not say it themselves; see the fixture worker_class


class Server:
    def __init__(
        self,
        command: list[str],
        cwd: Path,
        environ: dict[str, str],
        log: Path,
        error_log: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.log_path = log
        self.error_log = error_log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,  # its id marks every process of this server, also one whose parent has ended
            )
        self.pid = self.process.pid
        self.url = ""  # of the first TCP listener

    @property
    def log(self) -> str:
        """All that was written to the standard streams, and to the error log if it is a file, so far."""
        paths = [self.log_path, *([self.error_log] if self.error_log and self.error_log.exists() else [])]
        return "".join(path.read_text(errors="backslashreplace") for path in paths)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_for(self, condition: Callable[[], object], timeout: float = GENEROUS) -> None:
        """Wait until a condition holds."""
        wait_for(condition, timeout=timeout)

    def wait_for_log(self, pattern: str, timeout: float = GENEROUS) -> re.Match[str]:
        """Wait until the log has a match for the regular expression. If the server ends before that, fail at once."""
        found = None

        def logged() -> bool:
            nonlocal found
            ended = self.process.poll() is not None  # asked for first: what it wrote last then counts
            found = re.search(pattern, self.log, re.MULTILINE)
            assert found or not ended, f"exited with code {self.process.returncode}; {pattern!r} is not in its log"
            return found is not None

        wait_for(logged, f"{pattern!r} in the log", timeout)
        assert found
        return found

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET over a connection of its own."""
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request over a connection of its own."""
        options.setdefault("timeout", GENEROUS)
        with requests.Session() as session:
            session.trust_env = False  # no proxy between a test and its server
            response = session.request(method, self.url + path, **options)
            # A response keeps its connection open for as long as a test keeps it, and a server that stops waits for that.
            pools = session.get_adapter(self.url).poolmanager.pools  # type: ignore[attr-defined]
            for key in pools.keys():  # noqa: SIM118 - it is no dict
                pools[key].close()
            return response

    def signal(self, number: int) -> None:
        """A signal to the master."""
        self.process.send_signal(number)

    def wait(self, timeout: float = GENEROUS) -> int:
        """The master's exit code, once it has ended; negative for a signal."""
        return self.process.wait(timeout)

    def workers(self) -> list[int]:
        """The pids of the workers, oldest first."""
        return [pid for pid in children(self.pid) if title(pid).startswith("pyserve: worker")]

    def zygotes(self) -> list[int]:
        """The pids of the zygotes, oldest first."""
        return [pid for pid in children(self.pid) if title(pid).startswith("pyserve: zygote")]

    def tree(self) -> list[int]:
        """The pids of the master and all that descend from it."""
        return [self.pid, *descendants(self.pid)]

    def processes(self) -> list[int]:
        """Every running process of this server, orphans included, the master's pid first while it runs."""
        return in_session(self.pid)

    def stop(self) -> None:
        """End gracefully. An AssertionError if the exit code is not 0 or a process stays."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            code = self.wait()
            assert code == 0, f"exited with code {code} after a SIGTERM"
        wait_for(lambda: not self.processes(), f"the end of {[(pid, title(pid)) for pid in self.processes()]}", 15)

    def kill(self) -> None:
        """End every process, whatever its state."""
        while left := self.processes():  # one may be forking while it is looked at
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait()


def command(*arguments: str) -> list[str]:
    """The command line of ``pyserve ARGUMENTS`` in the interpreter that runs the tests."""
    return [*PYSERVE, *arguments]


@contextmanager
def serve(
    *arguments: str,
    cwd: Path,
    env: dict[str, str] | None = None,
    ready: bool = True,
    error_log: Path | None = None,
    pass_fds: Sequence[int] = (),
    program: Sequence[str] = (),
    bind: bool = True,
) -> Iterator[Server]:
    """A server started with these arguments in ``cwd``, listening (on a free port of 127.0.0.1 if no --bind is given).

    env: variables to add. ready=False: do not wait until every worker is ready. error_log: that of --error-logfile.
    pass_fds: descriptors that it inherits, for fd://N. program: what is started instead of PYSERVE. bind=False: a file says where.
    """
    if bind and not any(word == flag or word.startswith(f"{flag}=") for word in arguments for flag in BIND_FLAGS):
        arguments = (*arguments, "--bind", "127.0.0.1:0")
    with tempfile.TemporaryDirectory(prefix="pyserve-log-") as folder:
        environ = {**os.environ, **SETTINGS, **(env or {})}
        if worker_class is not None:
            environ["PYSERVE_WORKER_CLASS"] = worker_class
        if worker_class == "threads" or "threads" in arguments:
            environ["PYSERVE_THREADS"] = "16"
        server = Server([*(program or PYSERVE), *arguments], cwd, environ, Path(folder, "log"), error_log, pass_fds)
        try:
            if ready:
                wait_until_ready(server)
            yield server
            server.stop()
        except BaseException:
            print(f"--- log of {' '.join(arguments)}\n{server.log}---")
            raise
        finally:
            server.kill()


def wait_until_ready(server: Server) -> None:
    url = server.wait_for_log(r"listening on (\S+)").group(1)
    server.wait_for_log(r"ready: \d+ worker")
    if url.startswith("http"):
        server.url = url
