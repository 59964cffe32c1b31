"""The log of a service whose standard error is systemd's journal."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyserve.ipc import journal
from pyserve.ipc.log import Log, open_log


@contextlib.contextmanager
def opened(fd: int, level: str) -> Iterator[Log]:
    log = Log(fd, level, "master")
    yield log
    assert log._journal is not None
    log._journal.socket.close()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """Standard error as a service has it, with a journal that has no socket of its own."""
    ours, theirs = os.pipe()
    status = os.fstat(theirs)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    yield theirs
    os.close(theirs)
    with open(ours, "rb") as unread:
        assert unread.read() == b""


def test_without_a_socket_each_line_has_its_priority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    ours, theirs = os.pipe()
    status = os.fstat(theirs)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with opened(theirs, "debug") as log:
        for say in (log.debug, log.info, log.warning, log.error, log.critical, log.app):
            say("one\ntwo")
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    assert said == "".join(f"<{number}>master: one\n<{number}>two\n" for number in (7, 6, 4, 3, 2, 5))


def test_a_record_is_a_datagram(stream: int, tmp_path: Path) -> None:
    with contextlib.ExitStack() as resources:
        receiver = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log = resources.enter_context(opened(stream, "info"))
        receiver.bind(str(tmp_path / "socket"))
        log.debug("not wanted")
        log.info("ready")
        assert receiver.recv(4096) == b"PRIORITY=6\nSYSLOG_IDENTIFIER=pyserve\nMESSAGE=master: ready\n"
        log.error("one\ntwo\x1b")
        text = b"master: one\ntwo\\x1b"
        assert receiver.recv(4096) == (
            b"PRIORITY=3\nSYSLOG_IDENTIFIER=pyserve\nMESSAGE\n" + len(text).to_bytes(8, "little") + text + b"\n"
        )


def test_a_journal_that_does_not_keep_up_costs_records_and_says_how_many(stream: int, tmp_path: Path) -> None:
    with contextlib.ExitStack() as resources:
        receiver = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log = resources.enter_context(opened(stream, "info"))
        receiver.bind(str(tmp_path / "socket"))
        while not log.lost:
            log.info("ready")
        log.info("lost, too")
        before = said = b""
        for _ in range(3):
            receiver.recv(4096)
        log.info("again")
        while b"again" not in said:
            before, said = said, receiver.recv(4096)
        assert b"2 records were lost before this one: its reader does not keep up" in before
        assert log.lost == 0


def test_another_stream_is_not_the_journal(stream: int, tmp_path: Path) -> None:
    fd = open_log(str(tmp_path / "log"))
    Log(fd, "info", "master").info("ready")
    os.close(fd)
    assert (tmp_path / "log").read_text().endswith(" info  master    ready\n")
