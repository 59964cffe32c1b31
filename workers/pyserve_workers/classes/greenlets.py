"""Greenlets that take turns at the worker's loop.

The one that leads does a turn: it asks for what is ready, and runs the requests itself. An app that does not wait costs
no switch. When an app does wait, the hub is back in go(): it lets another greenlet lead, and the one that waits is
relieved; when its request is over, it takes one that waits for its turn, or is parked until it is to lead again.

A new greenlet for each request would cost more than the request. Like a pooled thread, a greenlet keeps its
greenlet-locals; each request has a context (contextvars) of its own.
"""

from __future__ import annotations

import contextlib
from collections import deque

from greenlet import GreenletExit, getcurrent, greenlet

from pyserve_workers.classes.databases import close_databases
from pyserve_workers.native.connection import BUSY, REQUEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

    from pyserve_workers.native.connection import Connection

REQUESTS_A_TURN = 32  # of one client that does not wait for answers, before others have their turn
KEPT = 8  # greenlets that stay although they have not been needed for a while


class Relieved(BaseException):
    """Another greenlet leads now; this one's turn is over."""


class Runner:
    """One greenlet of the pool; ``connection`` is the one whose request it runs."""

    # Not a subclass of greenlet, whose instances find their attributes slowly.
    __slots__ = ("connection", "dismissed", "greenlet", "pool", "switch")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.greenlet = greenlet(self.work, pool.hub)
        self.greenlet.runner = self
        self.switch: Callable[[], Any] = self.greenlet.switch
        self.connection: Connection | None = None
        self.dismissed = False

    def work(self) -> None:
        pool = self.pool
        while not self.dismissed:
            if pool.leader is self:  # else something that an app has left behind has woken it
                pool.lead(self)
            try:
                greenlet.switch(pool.hub)
            except BaseException as error:  # noqa: BLE001  (see below)
                if isinstance(error, GreenletExit):
                    return
                # else a Timeout that an app has left behind: it concerns nobody any more
        close_databases()

    def run(self, connection: Connection) -> int:
        """Run a connection's request; what the connection wants then."""
        self.connection = connection
        self.greenlet.gr_context = None
        wanted = connection.run()
        if wanted == REQUEST:
            wanted = self.go_on(connection)
        self.connection = None
        return wanted

    def go_on(self, connection: Connection) -> int:
        """Run the requests that a client has sent without waiting for answers, up to a number."""
        wanted = REQUEST
        turns = REQUESTS_A_TURN
        while wanted == REQUEST and turns:
            turns -= 1
            self.greenlet.gr_context = None
            wanted = connection.run()
        return connection.flush() if wanted == REQUEST else wanted


class Pool:
    """Greenlets whose parent is ``hub``; at most ``limit`` requests wait in the app at once, more wait for their turn.

    ``turn()`` does one turn of the loop, or goes on with the one that another greenlet was relieved of. ``quiet(
    connection)``: its request waits, nothing that its client sends may wake anybody. ``done(connection, wanted)``: a
    request that has waited is over, and the connection wants that.
    """

    def __init__(
        self,
        hub: Any,
        limit: int,
        turn: Callable[[], None],
        quiet: Callable[[Connection], None],
        done: Callable[[Connection, int], None],
    ) -> None:
        self.hub = hub
        self.limit = limit
        self.turn = turn
        self.quiet = quiet
        self.done = done
        self.leader: Runner | None = None
        self.idle: list[Runner] = []
        self.busy: dict[int, Runner] = {}  # those whose request waits, by its descriptor
        self.queue: deque[Connection] = deque()
        self.unneeded: list[Runner] = []  # what was idle when shrink() looked

    # In the hub.

    def go(self) -> None:
        """Have a turn of the loop done, by as many greenlets as it takes."""
        while True:
            self.leader = self.idle.pop() if self.idle else Runner(self)
            self.leader.switch()
            leader = self.relieve()
            if leader is None:
                return
            connection = leader.connection
            if connection is not None:  # else it waits in a hook
                self.busy[connection.fd] = leader
                self.quiet(connection)

    def relieve(self) -> Runner | None:
        """Whose turn is not over, as he waits; None if it is."""
        leader, self.leader = self.leader, None
        return leader

    def throw(self, connection: Connection, error: BaseException) -> None:
        """Raise an exception in a connection's request, if it still waits in the app."""
        runner = self.busy.get(connection.fd)
        if runner is not None and runner.connection is connection and connection.running:
            runner.greenlet.throw(error)

    def dismiss(self, number: int) -> None:
        """End the greenlets that have been parked for longest."""
        leaving, self.idle = self.idle[:number], self.idle[number:]
        for runner in leaving:
            runner.dismissed = True
            runner.switch()

    def end(self) -> None:
        """In the main greenlet, after the last turn: end all that are parked."""
        for runner in self.idle:
            runner.dismissed = True
            runner.greenlet.parent = getcurrent()  # where its end leads to
            runner.switch()

    # In the greenlet that leads.

    def lead(self, leader: Runner) -> None:
        with contextlib.suppress(Relieved):
            self.turn()
        if self.leader is leader:
            self.leader = None
        self.idle.append(leader)

    def run(self, connection: Connection) -> int:
        """Run a connection's request; what the connection wants then, or BUSY if it waits for its turn. Raises Relieved
        if the app has waited."""
        leader = self.leader
        if leader is None:
            raise AssertionError("BUG: a request is to be run by a greenlet that does not lead")
        if len(self.busy) >= self.limit:
            if connection not in self.queue:  # it may be heard of again
                self.queue.append(connection)
            self.quiet(connection)
            return BUSY
        wanted = leader.run(connection)
        if self.leader is not leader:
            self.follow(leader, connection, wanted)
            raise Relieved
        return wanted

    def check(self, leader: Runner | None) -> None:
        """Raise Relieved if ``leader``, which did something that may have waited, does not lead any more."""
        if self.leader is not leader:
            raise Relieved

    # In any of them.

    def follow(self, runner: Runner, connection: Connection, wanted: int) -> None:
        """A request that has waited is over; run those that wait for their turn."""
        while True:
            del self.busy[connection.fd]
            following = self.queue.popleft() if self.queue else None
            if following is not None:
                self.busy[following.fd] = runner
            self.done(connection, wanted)
            if following is None:
                return
            connection = following
            wanted = runner.run(connection)

    def frame(self, connection: Connection) -> FrameType | None:
        """Where a connection's request waits; None if it does not."""
        runner = self.busy.get(connection.fd)
        return None if runner is None else runner.greenlet.gr_frame

    def frames(self) -> Iterator[tuple[Connection, FrameType | None]]:
        """Each request that waits in the app, and where."""
        for runner in list(self.busy.values()):
            if runner.connection is not None:
                yield runner.connection, runner.greenlet.gr_frame

    def surplus(self) -> int:
        """Asked once in a while: how many greenlets were not needed since the last time, and need not be kept.

        The last one to be parked is the first to lead again, so the unneeded ones are still where they were.
        """
        unneeded = 0
        for before, now in zip(self.unneeded, self.idle, strict=False):
            if before is not now:
                break
            unneeded += 1
        self.unneeded = list(self.idle)
        return max(0, min((unneeded + 1) // 2, len(self.idle) - KEPT))
