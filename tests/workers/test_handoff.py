"""The worker's side of the hand-off queue, with a worker that only has what the queue asks of it, and real sockets."""

from __future__ import annotations

import io
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.ipc.handoff import HandoffQueue
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master import listeners
from pyserve.system.descriptors import RESERVE
from pyserve_workers.classes import handoff
from pyserve_workers.classes.connections import Connections
from pyserve_workers.classes.handoff import BATCH, Handoff
from pyserve_workers.classes.loop import Listener
from pyserve_workers.classes.shedding import Shedding
from pyserve_workers.native.connection import Connection, Context
from support.processes import GENEROUS
from wire.loop import SETTINGS, MemoryLog

WAYS_IN = [Listener("http", "x", 80)]


class Worker:
    """What LoopWorker is to the queue."""

    def __init__(
        self, queue: HandoffQueue, scoreboard: Scoreboard, index: int, *, takers: int, limit: int = 100
    ) -> None:
        self.generation = SimpleNamespace(handoff_fds=queue.fds, scoreboard=scoreboard)
        self.config = SimpleNamespace(handoff_timeout=5.0, **SETTINGS)
        self.log = MemoryLog()
        self.slot = scoreboard.slot(index)
        self.pid = 1000 + index
        for name, value in (("pid", self.pid), ("generation", 1), ("takers", takers), ("siblings", 3)):
            self.slot.set(name, value)
        self.context = Context(None, self.config, self.slot.memory, io.StringIO(), self.log, None)
        self.epoll = select.epoll()
        self.table = Connections(self.epoll, self.slot, limit)
        self.connections = self.table.open
        self.ways_in = WAYS_IN
        self.state = "serving"
        self.may_take = self.concurrent = True
        self.orphaned = self.final = self.lingers = self.never_busy = False
        self.sweep_in = 1.0
        host: Any = self
        self.shedding = Shedding(host, self.table)
        self.handoff = Handoff(host, self.table, self.shedding)
        self.clients: list[socket.socket] = []

    def sweep_within(self, seconds: float) -> None:
        self.sweep_in = seconds

    def linger(self) -> None:
        self.lingers = True

    def serve(self, count: int) -> None:
        """Have so many idle clients."""
        for _ in range(count):
            client, ours = socket.socketpair()
            ours.setblocking(False)
            self.clients.append(client)
            self.table.keep(Connection(self.context, ours.detach(), WAYS_IN[0], ("192.0.2.1", 1)))

    def hears(self, fd: int) -> bool:
        """Would the loop hear of this descriptor now?"""
        return any(found == fd for found, _ in self.epoll.poll(0))

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        for client in self.clients:
            client.close()
        for fd in self.shedding.reserve:
            os.close(fd)
        self.epoll.close()


Team = list[Worker]


@pytest.fixture
def queue() -> Iterator[HandoffQueue]:
    made = HandoffQueue.create()
    yield made
    made.close()


@pytest.fixture
def team(queue: HandoffQueue) -> Iterator[Team]:
    """Three workers; the first leaves, two can take."""
    scoreboard = Scoreboard.create()
    workers = [Worker(queue, scoreboard, index, takers=takers) for index, takers in enumerate((2, 1, 1))]
    workers[0].slot.set("generation", 0)
    yield workers
    for worker in workers:
        worker.close()


def leave(worker: Worker) -> None:
    worker.state = "draining"
    worker.handoff.leave()


def test_what_one_gives_away_another_takes(team: Team, queue: HandoffQueue) -> None:
    old, new, _ = team
    old.serve(3)
    new.handoff.listen()
    assert not new.hears(queue.fds[1])
    leave(old)
    assert old.connections == {}
    assert old.slot.get("connections") == 0
    assert old.handoff.given == 3
    assert new.hears(queue.fds[1])
    new.handoff.take()
    assert len(new.connections) == new.slot.get("connections") == 3


def test_the_copy_of_the_giver_does_not_report_as_the_next_of_its_number(team: Team, queue: HandoffQueue) -> None:
    """A giver may close its own copy later than the taker. The taker's epoll reported that the client was gone under the
    number that was a new client's by then, whose answer was not sent."""
    giver, taker, _ = team
    taker.context.epoll = taker.epoll.fileno()
    giver.serve(1)
    taker.handoff.listen()
    copy = os.dup(*giver.connections)
    try:
        leave(giver)
        taker.handoff.take()
        (connection,) = taker.connections.values()
        connection.close()
        giver.clients[0].settimeout(GENEROUS)
        assert giver.clients[0].recv(1) == b"", "it is told at once"
        giver.clients[0].close()
        assert not taker.hears(connection.fd)
    finally:
        os.close(copy)
        taker.connections.clear()


def test_a_few_at_a_time_and_whoever_has_more_than_its_share_stands_aside(team: Team, queue: HandoffQueue) -> None:
    old, new, other = team
    old.serve(5 * BATCH)
    for worker in (new, other):
        worker.handoff.listen()
    leave(old)
    new.handoff.take()
    assert len(new.connections) == BATCH
    assert not new.hears(queue.fds[1]), "the other one has none yet"
    assert new.sweep_in == handoff.ASIDE
    other.handoff.take()
    assert other.hears(queue.fds[1]), "both have as many"
    other.handoff.take()
    assert not other.hears(queue.fds[1])
    new.handoff.sweep(time.monotonic() + handoff.ASIDE)
    assert new.hears(queue.fds[1])


@pytest.mark.parametrize("why", ["the responder", "the gate is closed"])
def test_who_says_no_to_everybody_takes_all_of_them(team: Team, queue: HandoffQueue, why: str) -> None:
    """Though it runs one request at a time, and has more connections than others."""
    old, new, _ = team
    new.concurrent = False
    new.never_busy = why == "the responder"
    new.slot.set("gate", why == "the gate is closed")
    old.serve(3 * BATCH)
    new.handoff.listen()
    leave(old)
    for _ in range(3):
        assert new.hears(queue.fds[1])
        new.handoff.take()
    assert len(new.connections) == 3 * BATCH


def test_who_may_not_take_leaves_the_queue_alone(team: Team, queue: HandoffQueue) -> None:
    old, new, _ = team
    new.handoff.listen()
    new.may_take = False
    new.handoff.obey()
    old.serve(1)
    leave(old)
    assert not new.hears(queue.fds[1])
    new.handoff.take()
    assert new.connections == {}
    new.may_take = True
    new.handoff.obey()
    assert new.hears(queue.fds[1])


def test_without_a_descriptor_to_spare_nothing_is_read(team: Team, queue: HandoffQueue, monkeypatch: Any) -> None:
    """The kernel would deliver the message and drop the connection."""
    old, new, _ = team
    old.serve(1)
    leave(old)
    new.handoff.listen()
    os.close(new.shedding.reserve.pop())
    with monkeypatch.context() as patch:
        patch.setattr(new.shedding, "refill", lambda: None)
        new.handoff.take()
        assert new.connections == {}
        assert not new.hears(queue.fds[1])
    new.handoff.sweep(time.monotonic() + handoff.ASIDE)
    assert len(new.shedding.reserve) < RESERVE
    new.handoff.take()
    assert len(new.connections) == 1
    assert len(new.shedding.reserve) == RESERVE


def test_at_its_limit_a_worker_takes_nothing_until_there_is_room(team: Team, queue: HandoffQueue) -> None:
    old, new, _ = team
    new.table.limit = 2
    new.serve(2)
    old.serve(1)
    leave(old)
    new.handoff.listen()
    new.handoff.take()
    assert len(new.connections) == 2
    assert not new.hears(queue.fds[1])
    new.table.limit = 3
    new.handoff.sweep(time.monotonic() + handoff.ASIDE)
    new.handoff.take()
    assert len(new.connections) == 3


def test_at_the_final_stop_what_is_in_the_queue_is_taken_to_its_end(team: Team, queue: HandoffQueue) -> None:
    old, new, _ = team
    old.serve(10)
    leave(old)
    new.final = True
    leave(new)
    assert not new.handoff.is_empty()
    while not new.handoff.is_empty():
        assert new.hears(queue.fds[1]) or new.handoff.aside_until
        new.handoff.sweep(time.monotonic() + handoff.ASIDE)
        new.handoff.take()
    assert len(new.connections) == 10
    assert len(new.table.pending) == 10, "what they have sent is read before they can count as idle"
    assert not new.handoff.leaving


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_who_the_master_has_accepted_is_a_new_client(
    queue: HandoffQueue, team: Team, tmp_path: Path, family: socket.AddressFamily
) -> None:
    bind = {socket.AF_INET: "127.0.0.1:0", socket.AF_INET6: "[::1]:0"}.get(family, f"unix:{tmp_path}/socket")
    (listener,) = listeners.open_all([bind], 16, 0o600, (-1, -1))
    new = team[1]
    new.handoff.listen()
    with socket.socket(family) as client:
        client.connect(listener.socket.getsockname())
        found = listener.accept()
        assert found is not None
        queue.put(0, *found)
        new.handoff.take()
        (connection,) = new.connections.values()
        assert connection.idle
        assert connection.deadline <= time.monotonic() + SETTINGS["header_timeout"], "as of any that has just come"
    listener.close(unlink=True)


def test_nothing_is_given_while_nobody_takes(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    (old, *_) = team
    old.serve(2)
    old.slot.set("takers", 0)
    leave(old)
    assert len(old.connections) == 2
    for now in (101.0, 104.9):
        old.handoff.sweep(now)
        assert not old.lingers
    old.slot.set("takers", 1)
    old.handoff.sweep(now)
    assert old.connections == {}
    old.serve(1)
    old.slot.set("takers", 0)
    for now in (110.0, 114.9):
        old.handoff.sweep(now)
        assert not old.lingers, "the time counts from the last success"
    now = 115.0
    old.handoff.sweep(now)
    assert old.lingers
    assert "no worker has taken this one's connections for 5 s" in old.log.texts("warning")
    assert not old.handoff.leaving


def test_a_full_queue_is_waited_for(team: Team, queue: HandoffQueue) -> None:
    old, new, _ = team
    old.serve(5)
    filled = 0
    try:
        while filled < 1_000_000:
            queue.outlet.send(bytes(60_000))
            filled += 1
    except BlockingIOError:
        pass
    leave(old)
    assert len(old.connections) == 5
    assert not old.hears(queue.fds[0])
    old.clients[0].send(b"x")
    assert any(old.hears(fd) for fd in old.connections), "they are served meanwhile"
    for _ in range(filled):
        queue.inlet.recv(60_000)
    assert old.hears(queue.fds[0]), "there is room again"
    assert old.handoff.is_outlet(queue.fds[0])
    assert old.connections == {}
    assert not old.hears(queue.fds[0])
    new.handoff.listen()
    new.handoff.take()
    assert len(new.connections) >= 4


def test_who_is_at_work_on_a_connection_keeps_it(team: Team) -> None:
    (old, *_) = team
    old.serve(2)
    mine = next(iter(old.connections.values()))
    old.table.taken.add(mine)
    leave(old)
    assert list(old.connections.values()) == [mine]
    old.table.taken.clear()
    old.handoff.offer(mine)
    assert old.connections == {}


def test_without_a_master_nobody_takes_over(team: Team) -> None:
    (old, *_) = team
    old.serve(1)
    old.orphaned = True
    leave(old)
    assert len(old.connections) == 1


@pytest.mark.parametrize("message, why", [(b"?", "no descriptor"), (b"?" * 100, "no descriptor")])
def test_what_is_lost_is_said_and_the_next_one_is_taken(
    team: Team, queue: HandoffQueue, message: bytes, why: str
) -> None:
    old, new, _ = team
    queue.outlet.send(message)
    old.serve(1)
    leave(old)
    new.handoff.listen()
    new.handoff.take()
    assert why in new.log.texts("error")
    assert len(new.connections) == 1
