"""The gevent worker: one event loop, a greenlet for each request that waits in the app.

All connections are in the worker's own epoll, as with every class of workers, and gevent's hub watches only that. Idle
connections and half-read requests are an entry there, no greenlet and no watcher. When it is ready, a greenlet of the
pool does a turn of loop.py's loop. The main greenlet waits for the end.

While nothing but the worker's own watchers is active in the hub, the greenlet that leads waits in the epoll itself, as
a sync worker does. It is cheaper, and EPOLLEXCLUSIVE has its effect only for a process that waits in this very epoll:
of those that wait in one that watches it, each new connection wakes all. What another native thread hands to the hub
without a watcher of its own can then wait for the next sweep.
"""

from __future__ import annotations

import math
import os
import sys
import time
from itertools import islice
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLRDHUP

from pyserve.errors import ClientGone, RequestTimeout
from pyserve_workers.classes.databases import close_databases
from pyserve_workers.classes.loop import LoopWorker
from pyserve_workers.life import hubs, worker
from pyserve_workers.native.connection import BUSY, REQUEST

try:
    from gevent import Timeout, get_hub
    from gevent.event import Event
    from gevent.exceptions import LoopExit
    from gevent.socket import wait_write
    from greenlet import getcurrent, greenlet

    from pyserve_workers.classes.greenlets import Pool, Relieved
except ImportError as error:
    raise ImportError(f"{error}: install it with pip install 'pyserve[gevent]'") from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pyserve_workers.native.connection import Connection

READ = 1  # libev's EV_READ
OWN_WATCHERS = 2  # of the epoll, and for the sweeps
# What is heard of a client while its request waits in the app: once that it is gone, and no byte that it sends.
QUIET = EPOLLRDHUP | EPOLLET
GONE = EPOLLHUP | EPOLLERR
SHRINK_EVERY = 10.0  # seconds between looks for greenlets that are not needed
CUT_GRACE = 1.0  # seconds that requests have, once they were told at the deadline, to end
MOST_STACKS = 20  # of waiting requests that the log shows


class LateRequest(RequestTimeout, Timeout):  # type: ignore[misc]  # gevent ships no types
    """RequestTimeout as code that is made for gevent knows how to clean up after it."""


class GeventWorker(LoopWorker):
    multithread = True
    concurrent = True
    heartbeat = True
    late_request = LateRequest
    watches_running = True

    def prepare(self) -> None:
        super().prepare()
        self.hub = get_hub()
        self.pool = Pool(self.hub, self.config.worker_connections, self.lead, self.quiet, self.done)
        self.context.wait_writable = wait_writable
        self.bunch = self.context.bunch
        self.main = getcurrent()
        self.events: Iterator[tuple[int, int]] = iter(())
        self.over = Event()
        self.failure: BaseException | None = None
        self.announced = False  # the hooks that come before the end of the connections have run
        self.asked_to_end = False  # the requests in the app, at the deadline
        self.shrink_at = 0.0
        self.watcher = self.hub.loop.io(self.epoll.fileno(), READ)
        self.ticker = self.hub.loop.timer(self.sweep_every, self.sweep_every)
        self.soon = self.hub.loop.timer(0.0)  # not started

    def disown(self) -> None:
        super().disown()
        self.forker = getcurrent()
        hubs.keep_only(self.forker)
        if self.state != "booting":
            self.pool.leader = None  # whoever it was, the hub has nobody lead after it
            for watcher in (self.watcher, self.ticker, self.soon):
                watcher.close()

    def client_here(self) -> int:
        runner = getattr(getcurrent(), "runner", None)
        return -1 if runner is None or runner.connection is None else runner.connection.fd

    def make_draining_event(self) -> Event:
        return Event()

    def serve(self) -> None:
        self.watcher.start(self.pool.go)
        self.tick_every(self.sweep_every)
        try:
            self.over.wait()
        except LoopExit:  # in a process that the app has forked: nothing is left to do there
            if self.waits(self.forker):
                sys.exit(f"pid {os.getpid()}, which the app has forked, waits for what can never come")
            raise
        self.watcher.close()
        self.ticker.close()
        if self.failure is not None:
            raise self.failure

    def waits(self, forker: greenlet) -> bool:
        """Is a greenlet in code of the app, which has not ended?"""
        runner = getattr(forker, "runner", None)
        return not forker.dead and forker is not self.hub and (runner is None or runner.connection is not None)

    def tick_every(self, seconds: float) -> None:
        self.ticker.close()
        self.ticker = self.hub.loop.timer(seconds, seconds)
        self.ticker.start(self.on_tick)

    def on_tick(self) -> None:
        """In the hub: it is time to look for what is late."""
        self.next_sweep = 0.0
        self.pool.go()

    def sweep_within(self, seconds: float) -> None:
        super().sweep_within(seconds)
        self.soon.close()
        self.soon = self.hub.loop.timer(seconds)
        self.soon.start(self.on_tick)

    def end(self) -> None:
        self.soon.close()
        self.pool.end()
        super().end()
        close_databases()

    # In the greenlet that leads.

    def lead(self) -> None:
        """One turn of the loop, or the rest of one."""
        loop = self.hub.loop
        try:
            alone = True
            while alone and not self.over.is_set():
                # A timer that has fired is not active any more: whoever it wakes may be next in this round of the hub.
                alone = loop.activecnt == OWN_WATCHERS and not loop.pendingcnt
                self.turn(self.patience if alone and not self.table.pending else 0.0)
                self.bunch.push()
                if self.state == "draining" and self.drained():
                    self.over.set()
            if self.table.pending:
                loop.run_callback(self.pool.go)  # after greenlets that can go on
        except Relieved:
            raise
        except BaseException as error:  # noqa: BLE001  (the main greenlet raises it again)
            self.failure = error
            self.over.set()

    def poll(self, patience: float) -> Iterator[tuple[int, int]]:
        """What is ready; first what a greenlet that was relieved has left of its turn."""
        left = list(self.events)
        self.stale = True
        if not left:
            left = self.epoll.poll(patience)
            self.stale = len(left) > 1
            self.hub.loop.update_now()  # timers count from what the loop takes for now
        self.events = iter(left)
        self.bunch.is_open = len(left) > 1
        return self.events

    def answer(self, connection: Connection, events: int) -> None:
        wanted = connection.receive()
        if wanted == REQUEST:
            wanted = self.pool.run(connection)
        elif wanted == BUSY:
            self.heard(connection, events)
        if wanted != BUSY:
            self.after(connection, wanted)

    def heard(self, connection: Connection, events: int) -> None:
        """Of a client whose request is in the app. One that only half-closes may well wait for its answer; while a
        response is streamed, nobody can tell it from one that is gone, and it counts as that."""
        streaming = connection.streaming
        self.gatekeeper.client_left(connection.fd)
        if events & GONE or (events & EPOLLRDHUP and streaming):
            connection.gone()
            if streaming:
                self.hub.loop.run_callback(self.pool.throw, connection, ClientGone())

    def stop_accepting(self) -> None:
        super().stop_accepting()
        self.context.draining_event.set()

    def announce(self) -> None:
        """The hooks may wait; meanwhile other greenlets lead."""
        leader = self.pool.leader
        self.bunch.push()
        self.linger_until = math.inf
        super().announce()
        self.announced = True
        if not self.handoff.leaving:
            self.linger()
        self.hub.loop.run_callback(self.tick_every, self.sweep_every)
        self.pool.check(leader)

    # Requests that wait.

    def quiet(self, connection: Connection) -> None:
        """A request waits: what its client sends meanwhile must not wake anybody, and no response waits for it."""
        self.bunch.push()
        self.table.watch(connection, QUIET)
        if len(self.pool.busy) >= self.pool.limit and not self.full:
            self.full = True
            for listener_fd in self.listeners.keys() - set(self.paused):
                self.ignore(listener_fd)
                self.paused.append(listener_fd)

    def done(self, connection: Connection, wanted: int) -> None:
        """A request that waited is over."""
        self.after(connection, wanted)
        if self.table.pending:
            self.hub.loop.run_callback(self.pool.go)
        if self.full and len(self.pool.busy) < self.pool.limit:
            self.full = False
            self.resume_accepting()

    # Lateness.

    def sweep(self, now: float) -> None:
        super().sweep(now)
        for connection, why in self.overdue(self.connections, now):
            self.interrupt(connection, f"{why}; it is interrupted")
        if now >= self.shrink_at:
            self.shrink_at = now + SHRINK_EVERY
            self.hub.loop.run_callback(self.pool.dismiss, self.pool.surplus())

    def interrupt_alone(self, fd: int) -> None:
        self.interrupt(self.connections[fd], "has run alone for longer than its timeout; it is interrupted")

    def interrupt(self, connection: Connection, why: str) -> None:
        """Raise LateRequest in a request that waits in the app."""
        frame = self.pool.frame(connection)
        self.log.error(f"{connection.request_line} {why}\n{worker.stack(frame)}")
        self.hub.loop.run_callback(self.pool.throw, connection, self.late_request())

    @property
    def in_app(self) -> bool:
        """Has a signal come while a greenlet of the app's runs, and keeps the hub from running?"""
        current = getcurrent()
        runner = getattr(current, "runner", None)
        if runner is not None:
            return runner.connection is not None and runner.connection.running
        return current not in (self.hub, self.main)

    @property
    def busy_with(self) -> str:
        runner = getattr(getcurrent(), "runner", None)
        return self.state if runner is None or runner.connection is None else runner.connection.request_line

    def stacks(self, frame: FrameType | None) -> str:
        return f"{super().stacks(frame)}\n{self.waiting_stacks()}"

    def waiting_stacks(self) -> str:
        return "\n".join(
            f"{connection.request_line} waits:\n{worker.stack(where)}"
            for connection, where in islice(self.pool.frames(), MOST_STACKS)
        )

    # Leaving.

    def drained(self) -> bool:
        if self.state != "draining":
            return False
        now = time.monotonic()
        if now < self.deadline:
            return self.announced and self.is_done()
        if not self.asked_to_end:
            self.asked_to_end = True
            self.count_unfinished()
            for connection in list(self.connections.values()):
                if connection.running and connection.unfinished:
                    self.interrupt(connection, "is cut: the graceful timeout is over")
        if self.pool.busy and now < self.deadline + CUT_GRACE:
            return False
        self.table.close_all()
        return True


def wait_writable(fd: int, seconds: float | None) -> bool:
    """Have this greenlet wait until a client has read; False if it has not for so long."""
    try:
        wait_write(fd, seconds, TimeoutError())
    except TimeoutError:
        return False
    return True
