"""Children: how they are pressed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyserve.ipc.channel import Channel
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master.children import (
    DUMPED,
    HEARD,
    INTERRUPTED,
    KILL_AFTER_DUMP,
    KILLED,
    QUIT_GRACE,
    Child,
    Pressure,
    WorkerProcess,
    Zygote,
)
from pyserve.master.deaths import explain
from pyserve.rules.rollout import Worker
from pyserve.system import signals
from pyserve.system.signals import INTERRUPT_GRACE

# Pressure.

NOW = 1000.0


def all_steps(pressure: Pressure) -> list[tuple[float, str]]:
    """What comes when, as the master's loop sees it: it sleeps until ``next`` and takes what is due."""
    steps = []
    while pressure.next < math.inf:
        now = pressure.next
        assert pressure.due(now - 0.001) is None
        step = pressure.due(now)
        assert step is not None
        steps.append((now, step))
    assert pressure.due(1e12) is None
    return steps


def test_boot() -> None:
    pressure = Pressure.boot(NOW, 60.0, "it was not ready")
    assert pressure.why == "it was not ready"
    assert all_steps(pressure) == [(1060.0, DUMPED), (1060.0 + KILL_AFTER_DUMP, KILLED)]


def test_drain_leaves_the_stop_hooks_their_time() -> None:
    """They begin when the last request was interrupted, at the latest."""
    end = 1030.0 + INTERRUPT_GRACE + 5.0
    assert all_steps(Pressure.drain(1030.0, hook_timeout=5.0)) == [
        (1030.0, INTERRUPTED),
        (1030.0 + INTERRUPT_GRACE, HEARD),
        (end, DUMPED),
        (end + KILL_AFTER_DUMP, KILLED),
    ]


def test_drain_lets_a_worker_cut_its_requests_itself() -> None:
    """The rest is not put off by that."""
    steps = all_steps(Pressure.drain(1030.0, hook_timeout=5.0))
    assert all_steps(Pressure.drain(1030.0, hook_timeout=5.0, own=0.5)) == [(1030.5, INTERRUPTED), *steps[1:]]


def test_a_child_that_does_not_notice_anything_is_not_waited_for() -> None:
    pressure = Pressure.drain(1030.0, hook_timeout=5.0)
    pressure.stuck(1032.0)
    assert all_steps(pressure) == [(1032.0, DUMPED), (1032.0 + KILL_AFTER_DUMP, KILLED)]


def test_a_child_that_was_told_to_end_at_once() -> None:
    assert all_steps(Pressure.fast(NOW)) == [(NOW + QUIT_GRACE, KILLED)]


def test_request() -> None:
    end = NOW + INTERRUPT_GRACE
    assert all_steps(Pressure.request(NOW, "GET / has run for 30.0 s")) == [
        (NOW, INTERRUPTED),
        (end, DUMPED),
        (end + KILL_AFTER_DUMP, KILLED),
    ]


def test_steps_that_are_long_overdue_still_come_one_by_one() -> None:
    pressure = Pressure.drain(NOW, 5.0)
    assert [pressure.due(NOW + 1e6) for _ in range(5)] == [INTERRUPTED, HEARD, DUMPED, KILLED, None]


def test_put_off() -> None:
    pressure = Pressure.boot(NOW, 60.0, "it was not ready")
    assert pressure.due(1060.0) == DUMPED
    pressure.put_off(30.0)
    assert all_steps(pressure) == [(1090.0 + KILL_AFTER_DUMP, KILLED)]


# Children.


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = Channel.pair()
    theirs.close()
    yield ours
    ours.close()


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])


def test_pressing_signals_and_keeps_the_reason(channel: Channel, sleeper: subprocess.Popen[bytes]) -> None:
    child = Child(channel, sleeper.pid)
    child.press(KILLED, "it was not ready")
    child.status = os.waitpid(sleeper.pid, 0)[1]
    sleeper.returncode = 0
    assert explain(child.status, child.killed_because) == "was killed by pyserve (SIGKILL): it was not ready"


@pytest.mark.parametrize("step", [INTERRUPTED, DUMPED])
def test_softer_steps_give_no_reason(channel: Channel, sleeper: subprocess.Popen[bytes], step: str) -> None:
    """A child that ends meanwhile ends by itself. (This one has no handlers, so each signal ends it.)"""
    child = Child(channel, sleeper.pid)
    child.press(step, "it was not ready")
    assert child.killed_because == ""
    assert sleeper.wait() < 0


def test_nothing_is_signalled_that_has_not_said_its_pid_or_has_ended(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all not pid 0, which is our whole process group."""

    def kill(pid: int, number: int) -> None:
        raise AssertionError(f"kill({pid}, {number})")

    monkeypatch.setattr(os, "kill", kill)
    Child(channel).signal(signal.SIGKILL)
    ended = Child(channel, 4711)
    ended.status = 0
    ended.signal(signal.SIGKILL)


def test_names(channel: Channel) -> None:
    worker = WorkerProcess(Worker(12, 3, 2), None, channel, 0, Scoreboard.create().slot(0), None, -1)  # type: ignore[arg-type]  # as below
    assert worker.name == "worker 3 gen 2"
    worker.pid = 4711
    assert worker.name == "worker 3 gen 2 pid 4711"
    zygote = Zygote(2, None, "auto", channel, 4712)  # type: ignore[arg-type]  # its configuration does not matter here
    assert zygote.name == "zygote 2"


def test_every_signal_means_one_thing() -> None:
    numbers = [value for name, value in vars(signals).items() if name.isupper() and isinstance(value, int)]
    assert len(numbers) == len(set(numbers)) > 5
