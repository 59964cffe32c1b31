"""The hand-off queue, as a worker uses it: connections outlive the workers that they came to.

A worker that leaves gives each connection that is between two requests to the queue, and whoever may take, takes it:
the client keeps its connection and sees nothing. What is in the middle of a request stays until that is answered, and
goes then. The master made the queue (pyserve/handoff.py) and says who takes.

While nobody takes, or the queue is full, a leaving worker goes on serving what it has, for up to ``handoff_timeout``.
Then its connections linger as at the final stop: the next response is the last, and idle ones are closed after
``keepalive_linger``.
"""

from __future__ import annotations

import os
import time
from errno import EAGAIN, ENOBUFS, ENOMEM, EPIPE, ETOOMANYREFS
from select import EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, POLLIN

from pyserve.ipc.scoreboard import SLOTS
from pyserve.system.descriptors import RESERVE
from pyserve_workers.native.parcel import FDS, LostError, can_travel, receive, send, travellers
from pyserve_workers.native.system import close, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve_workers.classes.connections import Connections
    from pyserve_workers.classes.host import Host
    from pyserve_workers.classes.shedding import Shedding
    from pyserve_workers.native.connection import Connection

BATCH = 4  # connections that are taken before other work has its turn; one, where a request keeps the others waiting
ASIDE = 0.01  # seconds for which a worker that has more than its share, or no room, leaves the queue to the others
PASSES = (EAGAIN, ETOOMANYREFS, ENOBUFS, ENOMEM)  # why the queue may take nothing now
SLACK = 1  # connections above its share that a worker may have


class Handoff:
    """One worker's: taking while it serves, giving while it leaves."""

    def __init__(self, worker: Host, table: Connections, shedding: Shedding) -> None:
        self.worker = worker
        self.table = table
        self.shedding = shedding
        self.outlet, self.inlet = worker.generation.handoff_fds
        self.listening = False  # the queue is in epoll
        self.aside_until = 0.0  # not 0: it is not, for a moment
        self.shut_down = False  # the queue, by a worker that is not to be trusted
        self.leaving = False  # connections are given away
        self.given = 0
        self.blocked = False  # … but not now: the last try has failed
        self.stuck_since = 0.0  # when the first of the tries failed that have all failed
        self.awaiting = False  # epoll tells when the queue has room again

    # Taking.

    def listen(self) -> None:
        """Begin to take, if the master lets it."""
        self.leaving = False
        if self.worker.may_take and not self.listening and not self.shut_down:
            self.table.epoll.register(self.inlet, EPOLLIN | EPOLLEXCLUSIVE)
            self.listening = True

    def ignore(self) -> None:
        self.aside_until = 0.0
        if self.listening:
            self.table.epoll.unregister(self.inlet)
            self.listening = False

    def obey(self) -> None:
        """The master has said whether this worker may take."""
        if not self.worker.may_take:
            self.ignore()
        elif self.worker.state == "serving":
            self.listen()

    def take(self) -> None:
        """The queue has something: take some of it."""
        worker = self.worker
        quick = worker.never_busy or bool(worker.slot.get("gate"))  # what it takes is answered at once, with 503
        taken, batch = 0, BATCH if worker.concurrent or quick else 1
        if self.listening:
            self.shedding.make_room()
        while self.listening and taken < batch and self.has_room() and self.take_one():
            taken += 1
        if not self.listening:
            return
        fair = quick or worker.slot.get("connections") <= self.share() + SLACK
        if self.has_room() and fair:
            self.ignore()  # and to the end of the kernel's list, as for listeners
            self.listen()
        else:
            self.step_aside()

    def take_one(self) -> bool:
        """False if the queue is empty."""
        shedding = self.shedding
        for _ in range(FDS):  # without a free descriptor the kernel would drop the connection's
            close(shedding.reserve.pop())
        try:
            arrived = receive(self.inlet, self.worker.context, self.worker.ways_in)
        except LostError as error:
            self.worker.log.error(f"a connection that another worker gave away is lost: {error}")
            return True
        except OSError as error:
            if error.errno == EPIPE:
                self.ignore()
                self.shut_down = True
                self.worker.log.error(
                    "somebody has shut the hand-off queue down: no connection comes from others any more"
                )
            else:
                self.worker.log.error(f"the hand-off queue cannot be read now: {error.strerror}")
            return False
        finally:
            shedding.refill()
        if arrived is None:
            return False
        connection, wanted = arrived
        if wanted:
            self.table.keep(connection, wanted)
            if connection.pending or self.worker.final:  # then: before it can count as idle
                self.table.pending.append(connection)
        return True

    def has_room(self) -> bool:
        """Is there a place for one more connection, and a descriptor to spare?"""
        shedding = self.shedding
        shedding.refill()
        return len(shedding.reserve) == RESERVE and shedding.held() < self.table.limit

    def share(self) -> float:
        """How many connections those have on average that take: this one, and others of its generation."""
        scoreboard, own = self.worker.generation.scoreboard, self.worker.slot
        others, generation = own.get("takers"), own.get("generation")
        found, total = 0, own.get("connections")
        for index in range(min(SLOTS, 2 * own.get("siblings") + 2)):  # the master gives low numbers first
            slot = scoreboard.slot(index)
            if slot.get("generation") == generation and slot.get("pid") not in (0, self.worker.pid) and found < others:
                found += 1
                total += slot.get("connections")
        return total / (others + 1)

    def step_aside(self) -> None:
        self.ignore()
        self.aside_until = time.monotonic() + ASIDE
        self.worker.sweep_within(ASIDE)

    def is_empty(self) -> bool:
        look = poll()
        look.register(self.inlet, POLLIN)
        return self.shut_down or not look.poll(0)

    # Giving.

    def leave(self) -> None:
        """This worker leaves: give away what can go now; the rest is offered as its requests end. If everything stops,
        there is nobody to give anything to, and what is in the queue is served to its end."""
        if not self.worker.final:
            self.give_all()
            return
        self.stop_waiting()
        self.ignore()
        self.listen()
        self.leaving = False

    def give_all(self) -> None:
        """From now on, what can go goes."""
        self.ignore()
        if self.worker.config.handoff_timeout:
            self.leaving = True
            self.offer_all()

    def offer_all(self) -> None:
        for connection in travellers(self.table.open):
            if not self.leaving or self.blocked:
                return
            self.offer(connection)

    def offer(self, connection: Connection) -> None:
        """Give a connection away, if it can travel and there is somebody to take it."""
        worker = self.worker
        if self.blocked or connection in self.table.taken or not can_travel(connection):
            return
        if worker.final or worker.orphaned:  # the server stops by now, and with its master all others end
            self.linger()
            return
        if not worker.slot.get("takers"):
            self.wait()
            return
        self.table.pause(connection)
        failure = send(self.outlet, connection, worker.ways_in)
        if failure == 0:
            self.given += 1
            self.stuck_since = 0.0
            self.table.forget(connection)
            return
        self.table.resume(connection)
        if failure not in PASSES:
            worker.log.error(f"connections cannot be given to other workers: {os.strerror(failure)}")
            self.linger()
            return
        self.wait()
        if failure == EAGAIN and not self.awaiting:
            self.table.epoll.register(self.outlet, EPOLLOUT)
            self.awaiting = True

    def wait(self) -> None:
        self.blocked = True
        self.stuck_since = self.stuck_since or time.monotonic()

    def stop_waiting(self) -> None:
        if self.awaiting:
            self.table.epoll.unregister(self.outlet)
            self.awaiting = False
        self.blocked = False

    def try_again(self) -> None:
        """There may be room in the queue now, or somebody who takes."""
        self.stop_waiting()
        self.offer_all()
        timeout = self.worker.config.handoff_timeout
        if self.blocked and time.monotonic() >= self.stuck_since + timeout:
            self.worker.log.warning(
                f"no worker has taken this one's connections for {timeout:g} s: "
                f"{len(self.table.open)} of them end here, those that idle soon"
            )
            self.linger()

    def linger(self) -> None:
        """Nobody takes over: the next response of each connection is its last."""
        self.leaving = False
        self.worker.linger()

    # For the loop.

    def is_outlet(self, fd: int) -> bool:
        """Epoll reports a descriptor: is it the queue, which has room again?"""
        if fd != self.outlet:
            return False
        if self.awaiting:
            self.try_again()
        return True

    def sweep(self, now: float) -> None:
        if self.aside_until and now >= self.aside_until:
            self.aside_until = 0.0
            self.listen()
        if self.leaving:
            if self.blocked:
                self.try_again()
            else:
                self.offer_all()
