"""Which of the processes that the master adopts end, and when. The test's own process is the master."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.master.children import WorkerProcess, Zygote
from pyserve.master.orphans import Orphans, adopted, is_copy
from pyserve.rules import rollout
from pyserve.system import linux
from support.processes import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the timer of pytest-timeout is a thread


END = b"."
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def sleep() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        signal.pause()


class Parent:
    """A process that forks what it is asked to, and ends."""

    def __init__(self) -> None:
        asked, self.ask = os.pipe()
        self.said, say = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                for letter in iter(lambda: os.read(asked, 1), END):
                    os.write(say, b"%d\n" % self.fork(detached=letter == b"d"))
            finally:
                os._exit(0)
        os.close(asked)
        os.close(say)

    def fork(self, *, detached: bool) -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            if detached and os.fork():
                os._exit(0)
            os.write(writer, b"%d" % os.getpid())
            sleep()
        if detached:
            os.waitpid(pid, 0)
        said = os.read(reader, 16)
        os.close(reader)
        os.close(writer)
        return int(said)

    def child(self, *, detached: bool = False) -> int:
        os.write(self.ask, b"d" if detached else b"c")
        pid = int(os.read(self.said, 16))
        wait_for(lambda: not detached or pid in adopted())
        return pid

    def end(self) -> None:
        os.write(self.ask, END)
        os.waitpid(self.pid, 0)
        os.close(self.ask)
        os.close(self.said)


class World:
    """A population as far as orphans see it."""

    def __init__(self) -> None:
        self.before = adopted()
        self.said: list[str] = []
        self.workers: dict[int, Any] = {}
        self.awaited: dict[int, int | None] = dict.fromkeys(self.before, 0)
        self.generations: list[int] = []
        self.situation = SimpleNamespace(
            stopping=False,
            config=SimpleNamespace(graceful_timeout=30.0),
            shutdown=SimpleNamespace(deadline=float("inf")),
        )
        situation: Any = self.situation
        log: Any = SimpleNamespace(info=self.said.append, warning=self.said.append)
        self.orphans = Orphans(self.children, self.awaited, situation, log)

    def children(self) -> list[Any]:
        return [*self.workers.values(), *map(self.zygote, self.generations)]

    def zygote(self, generation: int) -> Zygote:
        zygote = Zygote.__new__(Zygote)
        zygote.generation, zygote.pid = generation, os.getpid()
        return zygote

    def parent(self) -> Parent:
        parent = Parent()
        self.awaited[parent.pid] = 0
        return parent

    def lose_worker(self, parent: Parent) -> None:
        parent.end()
        process = WorkerProcess.__new__(WorkerProcess)
        process.worker, process.pid = rollout.Worker(1, 0, 1), parent.pid
        self.orphans.lost(process)

    def lose_zygote(self, parent: Parent, generation: int) -> None:
        parent.end()
        zygote = Zygote.__new__(Zygote)
        zygote.generation = generation
        self.orphans.lost(zygote)

    def turn(self, now: float) -> set[int]:
        """Who was told to end by then."""
        self.orphans.turn(now)
        return set(self.orphans.told)


@pytest.fixture
def world() -> Iterator[World]:
    linux.set_child_subreaper()
    world = World()
    yield world
    for pid in adopted() - world.before:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # What follows in this process waits for no orphans.
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def test_a_child_ends_with_its_worker(world: World) -> None:
    worker, other = world.parent(), world.parent()
    child, others = worker.child(), other.child()
    assert world.turn(0.0) == set()
    world.lose_worker(worker)
    assert world.turn(0.5) == {child}
    assert world.said == [
        f"worker 0 gen 1 pid {worker.pid} has left pid {child} behind, which the app had forked: it has 30 s to end"
    ]
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    world.orphans.reaped(child)
    assert world.turn(60.0) == set()
    world.lose_worker(other)
    assert world.turn(61.0) == {others}


def test_one_that_was_adopted_before_ends_with_the_server(world: World) -> None:
    """Nobody knows whose it was."""
    worker = world.parent()
    job = worker.child(detached=True)
    assert world.turn(0.0) == set()
    child = worker.child()
    world.lose_worker(worker)
    assert world.turn(0.5) == {child}
    world.situation.stopping = True
    world.workers[1] = SimpleNamespace(pid=1)
    assert world.turn(2.0) == {child}
    world.workers.clear()
    os.waitpid(child, 0)
    world.orphans.reaped(child)
    assert world.turn(4.0) == {job}


def test_a_worker_that_has_not_said_its_pid_is_not_taken_for_one(world: World) -> None:
    worker = world.parent()
    booting = worker.child(detached=True)
    world.workers[2] = SimpleNamespace(pid=0)
    world.lose_worker(worker)
    assert world.turn(0.5) == set()
    world.workers[2].pid = booting
    assert world.turn(0.6) == set()


def test_what_an_import_has_forked_ends_with_its_generation(world: World) -> None:
    zygote = world.parent()
    helper = zygote.child()
    world.generations = [1, 2]
    world.lose_zygote(zygote, 1)
    assert world.turn(0.5) == set()
    world.generations = [2]
    assert world.turn(2.0) == {helper}


def test_one_that_does_not_end_is_killed(world: World) -> None:
    worker = world.parent()
    child = worker.child()
    os.kill(child, signal.SIGSTOP)
    world.lose_worker(worker)
    world.turn(0.0)
    assert world.orphans.soonest(100.0) == 30.0
    world.turn(29.0)
    assert len(world.said) == 1
    world.turn(30.0)
    assert world.said[1:] == [f"pid {child}, which the app had forked, has not ended on a SIGTERM: it is killed"]
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    world.orphans.reaped(child)
    assert not world.orphans


@pytest.mark.parametrize("made", [os.setsid, lambda: os.execvp("sleep", ["sleep", "1000"])])
def test_daemons_and_programs_are_left_alone(world: World, made: Any) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, False)
    pid = os.fork()
    if not pid:
        made()
        os.close(writer)
        sleep()
    os.close(writer)
    assert os.read(reader, 1) == b""
    assert not is_copy(pid)
    os.close(reader)
