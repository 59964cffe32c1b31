"""Shedding with a worker that only notes what it is told."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.system.descriptors import RESERVE
from pyserve_workers.classes import shedding
from pyserve_workers.classes.connections import Connections
from pyserve_workers.classes.shedding import QUIET, Shedding, Shortage


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warning = self.info = self.lines.append


def make(limit: int = 10) -> tuple[Shedding, Any]:
    worker: Any = SimpleNamespace(log=Log(), paused=[], listeners={7: None}, context=None)
    worker.pause_accepting = worker.paused.append
    slot: Any = SimpleNamespace(set=lambda _name, _value: None)
    epoll: Any = None
    return Shedding(worker, Connections(epoll, slot, limit)), worker


def end(shed: Shedding) -> None:
    for fd in shed.reserve:
        os.close(fd)


def test_a_shortage_has_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    shortage = Shortage(log)  # type: ignore[arg-type]
    shortage.end(now)
    for now in (100.0, 101.0, 104.0):
        shortage.note("no chairs")
        shortage.refused += 1
        shortage.end(now + 0.5)
    assert len(log.lines) == 1
    shortage.end(104.0 + QUIET + 0.1)
    assert (
        log.lines[1] == "no chairs: this is over; in 9 s 0 idle connections were closed, 3 new ones answered with 503"
    )
    now = 200.0
    shortage.note("no chairs")
    assert shortage.refused == 0
    assert len(log.lines) == 3


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS])
def test_without_memory_the_reserve_does_not_help(code: int) -> None:
    shed, worker = make()
    shed.refused(7, OSError(code, os.strerror(code)))
    assert worker.paused == [7]
    assert len(shed.reserve) == RESERVE
    end(shed)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_somebody_else_may_take_what_the_reserve_gives(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shed, worker = make()

    def refuse(context: object, listener: int, about: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shedding, "accept", refuse)
    for _ in range(3):
        shed.refused(7, OSError(code, os.strerror(code)))
    assert worker.paused == [7, 7, 7]
    assert len(worker.log.lines) == 1
    shed.sweep(0.0)
    assert len(shed.reserve) == RESERVE
    end(shed)
