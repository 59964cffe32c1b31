"""The canary's check of itself, without a worker's loop around it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.ipc.log import Log
from pyserve_workers.life.check import MOST_SAID, Check
from pyserve_workers.life.worker import Worker
from support.processes import open_files


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), "info", "worker 0")
    yield made
    os.close(made.fd)


def test_a_check_asks_and_hears_the_answer(log: Log) -> None:
    check = Check("/healthz", log)
    assert not check.is_over()
    assert os.read(check.server_fd, 65536).startswith(b"GET /healthz HTTP/1.1\r\n")
    os.write(check.server_fd, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000)
    assert not check.is_over(), "the app may still fail"
    os.close(check.server_fd)
    assert check.is_over()
    assert check.close() == (200, "")


def test_what_is_logged_meanwhile_is_told_within_reason(log: Log) -> None:
    check = Check("/healthz", log)
    log.info("nothing wrong")
    for number in range(2 * MOST_SAID):
        log.error(f"error {number}")
    os.close(check.server_fd)
    assert check.is_over()
    status, details = check.close()
    assert status == 0
    assert details.splitlines() == [f"error {number}" for number in range(MOST_SAID)]
    log.error("afterwards it goes to the log alone")
    assert len(check.said) == MOST_SAID


def test_a_class_that_cannot_be_asked_says_so(log: Log) -> None:
    """One of somebody else's, that takes connections from listeners only."""
    sent: list[tuple[str, dict[str, Any]]] = []
    worker: Any = SimpleNamespace(
        config=SimpleNamespace(reload_check="/healthz"),
        log=log,
        epoll=select.epoll(),
        orphaned=False,
        channel=SimpleNamespace(send=lambda kind, **fields: sent.append((kind, fields))),
        take_in=lambda fd: Worker.take_in(worker, fd),
        tell_check=lambda check: Worker.tell_check(worker, check),
    )
    before = open_files()
    Worker.begin_check(worker)
    assert sent == [("CHECKED", {"status": 0, "details": "SimpleNamespace serves only what it has accepted itself"})]
    assert open_files() <= before
    worker.epoll.close()
