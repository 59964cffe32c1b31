"""pyserve.system.notify against a real datagram socket."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyserve.system.notify import Notifier, listen_fds


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@")}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(30)

    def heard(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(4096).decode().split("\n")

    def nothing_more(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"\0pyserve-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.socket.close()


def test_ready_names_the_process_and_the_status(manager: Manager) -> None:
    Notifier(manager.environ).ready("2 workers")
    assert manager.heard() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=2 workers"]


def test_reloading_carries_the_monotonic_time_in_microseconds(manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    Notifier(manager.environ).reloading()
    first, stamp, _ = manager.heard()
    assert first == "RELOADING=1"
    name, _, value = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_stopping(manager: Manager) -> None:
    Notifier(manager.environ).stopping()
    assert manager.heard()[0] == "STOPPING=1"


def test_who_is_stopping_is_not_ready_again(manager: Manager) -> None:
    """A reload can end while its server serves on for drain_delay."""
    notifier = Notifier(manager.environ)
    notifier.stopping()
    manager.heard()
    notifier.ready("generation 2, 4 workers")
    notifier.status("degraded")
    assert manager.heard() == ["STATUS=degraded"]


def test_a_status_cannot_smuggle_in_another_message(manager: Manager) -> None:
    Notifier(manager.environ).status("fine\nSTOPPING=1")
    assert manager.heard() == ["STATUS=fine STOPPING=1"]


def test_watchdog_is_silent_unless_it_was_asked_for(manager: Manager) -> None:
    notifier = Notifier(manager.environ)
    notifier.watchdog()
    assert notifier.watchdog_interval is None
    assert manager.nothing_more()


def test_watchdog_reports_and_asks_for_half_the_time_allowed(manager: Manager) -> None:
    notifier = Notifier({**manager.environ, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_interval == 1.5
    notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_watchdog_is_off_when_it_is_meant_for_another_process_or_is_no_time(
    manager: Manager, watchdog: dict[str, str]
) -> None:
    assert Notifier({**manager.environ, **watchdog}).watchdog_interval is None


def test_nothing_is_sent_without_a_manager() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "3000000"})
    notifier.ready("")
    notifier.watchdog()
    assert notifier.watchdog_interval is None


def test_a_manager_that_went_away_is_no_error_and_is_heard_by_again_when_it_returns(tmp_path: Path) -> None:
    first = Manager(str(tmp_path / "notify"))
    notifier = Notifier(first.environ)
    notifier.status("one")
    assert first.heard() == ["STATUS=one"]
    first.socket.close()
    notifier.status("two")  # nobody listens: ECONNREFUSED
    os.unlink(tmp_path / "notify")
    notifier.status("three")  # not even a file: ENOENT
    second = Manager(str(tmp_path / "notify"))
    notifier.status("four")
    assert second.heard() == ["STATUS=four"]
    second.socket.close()


def test_a_manager_that_does_not_read_never_blocks(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier(manager.environ)
    for number in range(2000):  # more than any datagram queue holds
        notifier.status(f"{number}")
    assert manager.heard() == ["STATUS=0"]
    manager.socket.close()


def test_a_socket_of_another_kind_is_left_alone() -> None:
    Notifier({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("")


def test_listen_fds_takes_descriptors_meant_for_this_process_and_hides_them_from_children() -> None:
    # Descriptors 3 and 4 belong to the test runner here, so a child shows it.
    listener = socket.create_server(("127.0.0.1", 0))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(listener.fileno(), 100, inheritable=True)
        os.dup2(writer, 101)
        os.closerange(3, 100)
        os.dup2(100, 3, inheritable=True)
        os.dup2(100, 4, inheritable=True)
        environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b", "HOME": "/"}
        found = listen_fds(environ, os.getpid())
        os.write(101, repr((found, [os.get_inheritable(fd) for fd in found], environ)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reader, 4096).decode()
    for fd in (reader, writer):
        os.close(fd)
    listener.close()
    assert told == repr(([3, 4], [False, False], {"HOME": "/"}))


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "one", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_listen_fds_of_another_process_are_not_touched(environ: dict[str, str]) -> None:
    assert listen_fds(environ, os.getpid()) == []
    assert environ == {}
