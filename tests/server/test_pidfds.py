"""Processes by their pidfds."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

import pytest

from pyserve.system import pidfds
from support.processes import wait_for

WAYS = ["pidfd", "pid"]


def spawn(code: str) -> int:
    return os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)


def opened(pid: int, way: str) -> int:
    return pidfds.open_one(pid) if way == "pidfd" else pidfds.NONE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os._exit(0)", 0),
        ("import os; os._exit(3)", 3 << 8),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", int(signal.SIGKILL)),
    ],
)
def test_the_status_is_as_of_waitpid(way: str, code: str, status: int) -> None:
    pid = spawn(code)
    pidfd = opened(pid, way)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pidfds.wait(pidfd, pid) == status
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    if pidfd != pidfds.NONE:
        os.close(pidfd)


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_runs_has_no_status_and_can_be_signalled(way: str) -> None:
    pid = spawn("import signal; signal.pause()")
    pidfd = opened(pid, way)
    assert pidfds.wait(pidfd, pid) is None
    pidfds.send(pidfd, pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        pidfds.send(pidfd, pid, signal.SIGKILL)
    if pidfd != pidfds.NONE:
        os.close(pidfd)


def test_epoll_tells_of_the_end() -> None:
    pid = spawn("import signal; signal.pause()")
    pidfd = pidfds.open_one(pid)
    with select.epoll() as epoll:
        epoll.register(pidfd, select.EPOLLIN)
        assert epoll.poll(0) == []
        pidfds.send(pidfd, pid, signal.SIGTERM)
        assert epoll.poll(60) == [(pidfd, select.EPOLLIN)]
    assert pidfds.wait(pidfd, pid) == signal.SIGTERM
    assert not os.get_inheritable(pidfd)
    os.close(pidfd)


def test_there_may_be_none() -> None:
    assert pidfds.open_one(2**22 + 1) == pidfds.NONE  # above the kernel's limit of pids


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (os.CLD_EXITED, 7, 7 << 8),
        (os.CLD_KILLED, 11, 11),
        (os.CLD_DUMPED, 11, 11 | 0x80),
    ],
)
def test_status_of(code: int, status: int, expected: int) -> None:
    assert pidfds.status_of(code, status) == expected


def test_who_has_ended_stays_to_be_waited_for() -> None:
    pid = spawn("")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pidfds.ended() > 0
    assert os.waitpid(pid, 0) == (pid, 0)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_where_waitid_is_denied_a_status_is_kept_until_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def denied(*_: object) -> None:
        raise OSError(number, "denied")

    monkeypatch.setattr(os, "waitid", denied)
    monkeypatch.setattr(signal, "pidfd_send_signal", denied)
    pid = spawn("import signal; signal.pause()")
    pidfd = pidfds.open_one(pid)
    assert pidfds.is_child(pid)
    assert pidfds.wait(pidfd, pid) is None
    pidfds.send(pidfd, pid, signal.SIGKILL)
    wait_for(lambda: pidfds.ended() == pid)
    assert pidfds.ended() == pid
    assert pidfds.is_child(pid)
    pidfds.send(pidfd, pid, signal.SIGKILL)  # as to one that has ended and was not waited for
    assert pidfds.wait(pidfd, pid) == signal.SIGKILL
    assert pidfds.ended() == 0
    assert not pidfds.is_child(pid)
    with pytest.raises(ChildProcessError):
        pidfds.wait(pidfd, pid)
    os.close(pidfd)
