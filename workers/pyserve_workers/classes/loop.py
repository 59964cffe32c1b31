"""What every class of workers does with its connections: accepting, lateness, leaving.

One turn of the loop is here too. Who calls it, and where the app runs, is the class's own affair: ``serve()`` and
``answer()`` (see sync.py).
"""

from __future__ import annotations

import math
import select
import time
from _thread import get_ident
from abc import abstractmethod

from pyserve.app import alone
from pyserve.system.suspension import Suspension
from pyserve.words import count
from pyserve_workers.classes.connections import Connections
from pyserve_workers.classes.gatekeeper import Gatekeeper
from pyserve_workers.classes.handoff import Handoff
from pyserve_workers.classes.shedding import Shedding
from pyserve_workers.life.worker import Worker
from pyserve_workers.native.accepting import accept
from pyserve_workers.native.accesslog import AccessLog
from pyserve_workers.native.client import no_copies_yet
from pyserve_workers.native.connection import Connection
from pyserve_workers.native.context import Context
from pyserve_workers.native.crowd import expired, overdue, put_off
from pyserve_workers.native.losses import AccessLosses
from pyserve_workers.native.system import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NamedTuple

    from pyserve.ipc.channel import Message
    from pyserve_workers.life.check import Check
else:
    from pyserve.records import NamedTuple


class Listener(NamedTuple):
    """What the environ says of the side that was connected to."""

    scheme: str
    server_name: str
    server_port: Any


SWEEP = 1.0  # seconds between looks for connections that are late
ACCEPT_PAUSE = 0.1  # seconds without accepting after the system refused: no descriptors, no memory
LISTENER_EVENTS = select.EPOLLIN | select.EPOLLEXCLUSIVE


class LoopWorker(Worker):
    """A worker whose connections are in ``self.epoll``, with the master's channel and the listeners."""

    context: Context
    takes_over = True
    never_busy = False  # has it always time for one more connection?
    concurrent = False  # may several requests be in the app at once?
    full = False  # does it accept no more for now, because so many are?
    watches_running = False  # does the loop hear of clients whose requests are in the app?

    def prepare(self) -> None:
        config = self.config
        fd = self.generation.access_log_fd
        access_log = AccessLog(fd, config.access_logformat) if fd is not None else None
        app = self.generation.app
        self.context = Context(
            alone.exclusively(app, config.exclusive) if app and config.exclusive else app,
            config,
            self.slot.memory,
            self.errors,
            self.log,
            access_log,
            multithread=self.multithread,
            concurrent=self.concurrent,
        )
        self.context.epoll = self.epoll.fileno()
        no_copies_yet()
        self.context.draining_event = self.make_draining_event()
        self.main_thread = get_ident()
        self.table = Connections(self.epoll, self.slot, config.limit_connections)
        self.connections = self.table.open
        self.gatekeeper = self.context.gatekeeper = Gatekeeper(self, self.table)
        alone.kept_by(self.gatekeeper)
        self.access_log = access_log
        self.losses = AccessLosses(self.log, access_log)
        self.listeners: dict[int, Listener] = {}
        self.ways_in = [Listener("http", it["server_name"], it["server_port"]) for it in self.generation.listeners]
        self.paused: list[int] = []  # listeners that are out of epoll until the next sweep
        self.unserved: dict[int, Listener] = {}  # those whose queues are to be served to their end, without a master
        self.shedding = Shedding(self, self.table)
        self.handoff = Handoff(self, self.table, self.shedding)
        self.stale = False  # the app has run since epoll was asked: meanwhile the master may have said something
        timeouts = [config.header_timeout, config.body_timeout, config.write_timeout, config.keep_alive]
        if self.concurrent:  # else the master watches over them
            timeouts += [config.timeout, config.request_deadline]
        self.sweep_every = min(SWEEP, *(timeout / 4 for timeout in timeouts if timeout))
        self.next_sweep = 0.0
        self.suspension = Suspension(time.monotonic())
        self.patience = self.sweep_every  # seconds that the loop may sleep
        self.linger_until = math.inf  # while draining: when idle connections are closed

    def disown(self) -> None:
        if self.state != "booting":
            self.context.forked = True
            alone.kept_by(alone.NOBODY)
            for connection in self.connections.values():
                connection.disown()
            for fd in self.unserved:
                close(fd)
        super().disown()

    @abstractmethod
    def make_draining_event(self) -> Any:
        """What apps have as ``environ["pyserve.draining"]``: ``is_set()`` and ``wait(timeout=None)``."""

    def client_here(self) -> int:
        """The descriptor of the client whose request the calling thread or greenlet runs; -1 if it runs none."""
        return self.context.client if self.in_app and get_ident() == self.main_thread else -1

    def will_be_kept(self) -> None:
        """A request of this worker's, which runs no other beside it, is about to ask for the gate."""

    def obey(self, message: Message | None) -> None:
        if message is not None and message.kind in ("PAUSE", "RESUME"):
            self.gatekeeper.obey(message)
        else:
            super().obey(message)

    def tell_check(self, check: Check) -> None:
        super().tell_check(check)
        self.gatekeeper.look()

    def go_on(self, connections: list[Connection]) -> None:
        """Requests that were held may try again, in the next turn."""
        self.table.pending += connections

    def listen(self) -> None:
        for fd, way_in in zip(self.generation.listener_fds, self.ways_in, strict=True):
            self.listeners[fd] = way_in
            self.epoll.register(fd, LISTENER_EVENTS)
        self.handoff.listen()

    def turn(self, patience: float) -> None:
        """Do all that is ready, and once in a while look for what is late."""
        connections, pending = self.connections, self.table.pending
        for _ in range(len(pending)):
            self.answer(pending.pop(0), 0)
        waiting: list[int] = []
        for fd, events in self.poll(patience):
            if (ready := connections.get(fd)) is not None:
                self.answer(ready, events)
            elif fd in self.listeners or fd == self.handoff.inlet:
                waiting.append(fd)
            elif not self.handoff.is_outlet(fd):
                self.control()
        for fd in waiting:  # last: while this worker was busy, another may have taken the connection
            self.take(fd)
        if self.access_log is not None:
            self.access_log.flush()
        now = time.monotonic()
        if now >= self.next_sweep:
            self.sweep(now)

    def poll(self, patience: float) -> Iterable[tuple[int, int]]:
        """The descriptors that are ready, and their events."""
        ready = self.epoll.poll(patience)
        self.stale = len(ready) > 1
        return ready

    @abstractmethod
    def answer(self, connection: Connection, events: int) -> None:
        """Do what can be done for a connection whose descriptor is ready; ``after()`` takes what it wants next."""

    def after(self, connection: Connection, wanted: int) -> None:
        """Have epoll watch for what the connection wants next; 0: it has closed itself."""
        self.table.after(connection, wanted)
        if wanted and self.handoff.leaving:
            self.handoff.offer(connection)

    def take_in(self, fd: int) -> None:
        self.table.keep(Connection(self.context, fd, self.ways_in[0]))

    # Accepting.

    def take(self, listener_fd: int) -> None:
        """Accept one connection and serve what it has sent. Then the listener goes to the end of the kernel's list.

        Taking it out of epoll and putting it back lets the workers take turns; left in, the first to have registered
        gets nearly every connection. Serving at once, before the next turn, leaves further connections to idle
        workers. What the master has said is obeyed first: who connects after a reload is done
        must not be answered by old code.
        """
        if self.stale:
            self.control()
        self.stale = True
        if listener_fd == self.handoff.inlet:
            self.handoff.take()
        elif listener_fd in self.listeners and not self.full:
            self.accept_one(listener_fd)

    def accept_one(self, listener_fd: int) -> None:
        try:
            connection = accept(self.context, listener_fd, self.listeners[listener_fd])
        except OSError as error:
            self.shedding.refused(listener_fd, error)
            return
        if connection is not None:
            self.rotate(listener_fd)
            if len(self.connections) < self.table.limit:
                self.welcome(connection)
                return
            self.table.keep(connection)
            if self.shedding.finds_room():
                self.answer(connection, select.EPOLLIN)
            else:
                self.shedding.turn_away(connection)

    def rotate(self, listener_fd: int) -> None:
        if self.slot.get("siblings") and self.ignore(listener_fd):
            self.epoll.register(listener_fd, LISTENER_EVENTS)

    def ignore(self, listener_fd: int) -> bool:
        """Take it out of epoll; False if it was not there any more: it was let go meanwhile (LET_GO)."""
        try:
            self.epoll.unregister(listener_fd)
        except FileNotFoundError:
            return False
        return True

    def welcome(self, connection: Connection) -> None:
        """Serve what a new connection has sent already."""
        self.table.keep(connection)
        self.answer(connection, select.EPOLLIN)

    def pause_accepting(self, listener_fd: int) -> None:
        """The system has no descriptor or no memory for one more connection: let the queue wait, rather than spin."""
        if listener_fd not in self.paused:
            self.ignore(listener_fd)
            self.paused.append(listener_fd)
        self.sweep_within(ACCEPT_PAUSE)

    def resume_accepting(self) -> None:
        for listener_fd in self.paused:
            self.epoll.register(listener_fd, LISTENER_EVENTS)
        self.paused.clear()

    # Lateness.

    def sweep_within(self, seconds: float) -> None:
        """Look for what is late sooner than usual, once."""
        self.next_sweep = min(self.next_sweep, time.monotonic() + seconds)
        self.patience = min(self.patience, seconds)

    def sweep(self, now: float) -> None:
        self.next_sweep = now + self.sweep_every
        self.patience = self.sweep_every
        self.hear_signals()
        self.slot.set("heartbeat", time.monotonic_ns())
        if not self.full:
            self.resume_accepting()
        if missed := self.suspension.over(self.sweep_every, now):
            put_off(self.connections, missed)
        for connection in expired(self.connections, now):
            if connection not in self.table.taken:
                self.after(connection, connection.expire())
        self.shedding.sweep(now)
        self.losses.look()
        self.context.complaints.look(now)
        self.log.tell_lost()
        self.handoff.sweep(now)
        for fd in self.gatekeeper.late(now):
            self.interrupt_alone(fd)
        if self.state == "draining" and now >= self.linger_until:
            used = {*self.table.taken, *self.table.pending}
            for connection in [c for c in self.connections.values() if c.idle and c not in used]:
                self.after(connection, connection.retire())
        self.accept_rest()  # last: what they have sent is read before they can count as idle

    def overdue(self, connections: dict[int, Connection], now: float) -> list[tuple[Connection, str]]:
        """The connections whose requests have run for too long, and why. Those that are alone have their own limit."""
        found = overdue(connections, now, self.config.timeout, self.config.request_deadline)
        return [(connection, why) for connection, why in found if connection.fd not in self.gatekeeper.tickets]

    def interrupt_alone(self, fd: int) -> None:
        """This client's request has been alone for longer than its timeout. The master sees to that where the loop
        cannot run meanwhile."""

    # Leaving.

    def allow_taking(self, allowed: bool) -> None:
        super().allow_taking(allowed)
        self.handoff.obey()

    def stop_accepting(self) -> None:
        """Others go on with the queues, and with the connections; at the final stop the master, if there is one, gives
        who is in the queues to the hand-off queue."""
        self.sweep_every = min(self.sweep_every, 0.1)
        self.sweep_within(self.sweep_every)
        for fd in set(self.listeners) - set(self.paused):
            self.ignore(fd)
        self.paused.clear()
        for fd in self.generation.listener_fds:
            if self.final and self.orphaned and fd in self.listeners and fd in self.generation.owned_fds:
                self.unserved[fd] = self.listeners[fd]
            else:
                close(fd)
        self.listeners.clear()
        self.accept_rest()
        self.handoff.leave()
        if not self.handoff.leaving:
            self.linger()

    def linger(self) -> None:
        """Nobody goes on with the connections: the next response is the last of each, and idle ones end soon."""
        self.context.draining = True
        self.linger_until = min(self.deadline, time.monotonic() + self.config.keepalive_linger)

    def serve_rest(self) -> None:
        self.handoff.leave()
        self.linger()

    def accept_rest(self) -> None:
        """Take what is left in the queues, and close each that is empty. The next sweep goes on, when others have been
        served, where the system refuses for lack of descriptors or memory."""
        for fd, about in list(self.unserved.items()):
            try:
                while (connection := accept(self.context, fd, about)) is not None:
                    self.table.keep(connection)
            except OSError as error:
                self.log.debug(f"the rest of the queue has to wait: {error.strerror}")
                continue
            del self.unserved[fd]
            close(fd)

    def is_done(self) -> bool:
        """Has it nothing more to do, while it drains, and will nothing more come?"""
        if self.connections or self.unserved:
            return False
        if self.final:
            return not self.may_take or ((self.closed or self.orphaned) and self.handoff.is_empty())
        return self.released or self.orphaned

    def drained(self) -> bool:
        if self.state != "draining":
            return False
        if time.monotonic() < self.deadline:
            return self.is_done()
        self.count_unfinished()
        self.table.close_all()
        return True

    def count_unfinished(self) -> None:
        """The deadline is over: the requests that are not answered yet are cut. The sockets that the app has taken over
        end first, which it sees to as to any end of theirs."""
        if ended := sum(connection.hang_up() for connection in self.connections.values()):
            self.log.info(
                f"{count(ended, 'connection')} that the app had taken over ended: the graceful timeout is over"
            )
        if self.unserved:
            self.log.error(
                "clients in the queue are cut: there was no room for them until the graceful timeout was over"
            )
        unfinished = [c for c in self.connections.values() if c.unfinished or (c.idle and c.has_unread())]
        self.cut += len(unfinished)
        if unfinished:
            said = count(len(unfinished), "request", "was", "were")
            self.log.error(f"{said} cut: the graceful timeout is over")

    def end(self) -> None:
        self.log.debug(f"it gave {self.handoff.given} connections to other workers")
        self.context.complaints.tell(time.monotonic())
        super().end()
