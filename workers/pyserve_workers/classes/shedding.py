"""What a worker does when it cannot hold one more connection: make room, or say so to the client.

Two things run short. At ``limit_connections``, connections that have idled longest are given up first, since they are
the cheapest to lose; when there are none, a new one is answered with 503 without a look at its request. And when the
system has no descriptor left (the app may leak them), some that were kept in reserve serve to accept and to answer the
same. A connection that is given up is half-closed and read to its end, so that the client can read its answer, or see
that its next request was not taken. Of these too only so many can be held; then the first of them must go at once. The
log has a line when a shortage begins and one when it is over, however many clients met it.
"""

from __future__ import annotations

import os
import time
from errno import EMFILE, ENFILE

from pyserve.system.descriptors import RESERVE, TURNED_AWAY
from pyserve_workers.native.accepting import accept
from pyserve_workers.native.connection import CLOSED
from pyserve_workers.native.crowd import idle_longest
from pyserve_workers.native.spells import Spell
from pyserve_workers.native.system import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.ipc.log import Log
    from pyserve_workers.classes.connections import Connections
    from pyserve_workers.classes.host import Host
    from pyserve_workers.native.connection import Connection

ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: pyserve\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Length: 38\r\n\r\n"
    b"Too many connections; try again later\n"
)
IDLE_LONG = 1.0  # seconds: whoever has been silent for less is probably about to send its next request
AT_ONCE = TURNED_AWAY // 4  # at most so many idle ones are closed together, since finding them means looking at all
QUIET = 5.0  # seconds without a refusal after which a shortage is over


class Shortage:
    """One lack of something, from its first refusal until there has been none for a while: two lines in the log."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.what = ""
        self.spell = Spell()
        self.refused = self.closed = 0

    def note(self, what: str) -> None:
        if self.spell.note():
            self.what = what
            self.refused = self.closed = 0
            self.log.warning(f"{what}: connections that idle are closed; without such, new ones are answered with 503")

    def end(self, now: float) -> None:
        """Nothing is short now. It may have been only a moment ago."""
        if self.spell.began and now - self.spell.last > QUIET:
            seconds = now - self.spell.began
            self.spell.end()
            self.log.info(
                f"{self.what}: this is over; in {seconds:.0f} s {self.closed} idle connections were closed, "
                f"{self.refused} new ones answered with 503"
            )


class Shedding:
    """One worker's. The loop asks it when a connection is above the limit, and when accepting has failed."""

    def __init__(self, worker: Host, table: Connections) -> None:
        self.worker = worker
        self.table = table
        self.given_up: list[Connection] = []  # oldest first; those that have closed are forgotten at the next need
        self.reserve: list[int] = []
        self.at_once = max(1, min(AT_ONCE, table.limit // 16))
        self.look_again = 0.0  # until then no connection will have idled for long
        self.connections = Shortage(worker.log)
        self.descriptors = Shortage(worker.log)
        self.refill()

    def finds_room(self) -> bool:
        """One more connection is open than limit_connections allows. May it stay?"""
        if self.held() <= self.table.limit:
            return True
        self.connections.note(f"limit_connections = {self.table.limit} is reached")
        self.close_idle(self.connections)
        return self.held() <= self.table.limit

    def make_room(self) -> None:
        """One more wants to come, from another worker: at the limit, who has idled longest has to go for it."""
        if self.held() >= self.table.limit:
            self.connections.note(f"limit_connections = {self.table.limit} is reached")
            self.close_idle(self.connections)

    def turn_away(self, connection: Connection) -> None:
        """Tell this client that there is no room."""
        self.connections.refused += 1
        self.give_up(connection, connection.turn_away(ANSWER))

    def refused(self, listener_fd: int, error: OSError) -> None:
        """accept() has failed. The client is told by way of a descriptor of the reserve, or stays in the queue."""
        worker, accepted = self.worker, None
        self.descriptors.note(f"cannot accept: {error.strerror}")
        if error.errno in (EMFILE, ENFILE):
            self.held()
            self.close_idle(self.descriptors)
            self.refill()
            accepted = self.accept_on_reserve(listener_fd)
        if accepted is None:
            worker.pause_accepting(listener_fd)
            return
        self.table.keep(accepted)
        self.descriptors.refused += 1
        self.give_up(accepted, accepted.turn_away(ANSWER))

    def sweep(self, now: float) -> None:
        """Once in a while: is it over?"""
        self.refill()
        if self.connections.spell.began and self.held() < self.table.limit:
            self.connections.end(now)
        if len(self.reserve) == RESERVE:
            self.descriptors.end(now)

    # The connections that are given up.

    def held(self) -> int:
        """How many connections are open and not given up."""
        self.given_up = [connection for connection in self.given_up if connection.state != CLOSED]
        return len(self.table.open) - len(self.given_up)

    def close_idle(self, shortage: Shortage) -> None:
        now = time.monotonic()
        if now < self.look_again:
            return
        longest = idle_longest(self.table.open, now, IDLE_LONG, self.at_once)
        idle = [connection for connection in longest if connection not in self.table.taken]
        if not idle:
            self.look_again = now + IDLE_LONG / 4
        for connection in idle:
            shortage.closed += 1
            self.give_up(connection, connection.retire())

    def give_up(self, connection: Connection, wanted: int) -> None:
        """It reads what still comes, until the client closes, or its time is over, or others need its place."""
        if len(self.given_up) >= TURNED_AWAY:
            oldest = self.given_up.pop(0)
            oldest.close()
            self.table.after(oldest, 0)
        self.given_up.append(connection)
        self.table.after(connection, wanted)

    # The reserve.

    def refill(self) -> None:
        """Take back what was lent, as far as there is something."""
        while len(self.reserve) < RESERVE:
            try:
                self.reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def accept_on_reserve(self, listener_fd: int) -> Connection | None:
        if not self.reserve:
            return None
        close(self.reserve.pop())
        try:
            return accept(self.worker.context, listener_fd, self.worker.listeners[listener_fd])
        except OSError:  # another thread or process was faster
            return None
