"""Containers whose seccomp profile denies system calls that pyserve would like to have: it makes do without."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from lifecycle.project import Project
from support import seccomp, serve
from support.server import PYSERVE

LAUNCHER = (sys.executable, seccomp.__file__)
DENIED = ("pidfd_send_signal", "pidfd_open", "memfd_create", "eventfd2", "accept4", "waitid", "prlimit64", "clone3")


def under(error: str, calls: str) -> tuple[str, ...]:
    """The program to start pyserve with."""
    if not seccomp.CALLS:
        pytest.skip("the numbers of the system calls are not known for this machine")
    launcher = (*LAUNCHER, error, calls, "--")
    if subprocess.run([*launcher, "true"], check=False).returncode != 0:
        pytest.skip("no seccomp filter can be installed here")
    return (*launcher, *PYSERVE)


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("calls", [*DENIED, ",".join(DENIED)], ids=lambda calls: calls if "," not in calls else "all")
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_a_whole_life_without_some_system_calls(project: Project, error: str, calls: str) -> None:
    program, control = under(error, calls), project.folder / "control"
    options = ("--workers", "2", "--control-socket", str(control))
    with serve("app:wsgi", *options, cwd=project.folder, program=program) as server:
        assert server.get("/").text.startswith("one ")
        assert server.request("POST", "/", data=b"x" * 3_000_000).status_code == 200
        first = server.workers()
        os.kill(first[0], signal.SIGKILL)
        server.wait_for(lambda: len(server.workers()) == 2 and first[0] not in server.workers())
        assert server.get("/").text.startswith("one ")
        done = subprocess.run(
            [sys.executable, "-m", "pyserve.control.ctl", "--socket", control, "status"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        project.replace('"one"', '"two"')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        assert server.get("/").text.startswith("two ")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("upgraded:")
        second = server.workers()
        os.kill(second[0], signal.SIGKILL)
        server.wait_for(lambda: len(server.workers()) == 2 and second[0] not in server.workers())
        assert server.get("/").text.startswith("two ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not re.search("BUG|Traceback", server.log)
        assert ("memfd_create() is denied" in server.log) == ("memfd_create" in calls)


@pytest.mark.parametrize(("error", "calls"), [("EAGAIN", "threads"), ("EPERM", "clone3")])
def test_no_thread_can_be_started(project: Project, worker_class: str, error: str, calls: str) -> None:
    """Each worker says in a line what it cannot do then, and serves on."""
    program = under(error, calls)
    with serve("app:wsgi", "--workers", "2", cwd=project.folder, program=program) as server:
        assert {server.get("/sleep?0.05").status_code for _ in range(10)} == {200}
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        assert server.get("/").status_code == 200
        server.stop()
        told = re.findall(r"worker (\d) gen (\d) .*no thread can be started", server.log)
        assert len(told) == len(set(told)) <= 4
        assert bool(told) == (worker_class != "gevent"), "a gevent worker needs none"
        assert not re.search("BUG|Traceback", server.log)
