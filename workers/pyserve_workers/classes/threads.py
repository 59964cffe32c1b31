"""The threaded worker: one event loop, up to N requests in the app, each in a thread.

Whoever polls is the leader. While requests are quick, a thread of the pool leads and runs each request itself between
two looks at the loop: no request pays for being handed to another thread. Meanwhile the main thread watches, without
the GIL, and takes the loop over when the leader has been in the app for a millisecond or two. It then leads: it gives
requests to threads that are idle, and those for which there is none wait in a queue. After a while (pace.py) it lets a
thread of the pool lead again.

The main thread never runs the app: it is there for signals and the master, whatever the app's threads do.

``self.tables`` is held by whoever touches the loop's tables (all that is not a Connection here): the leader, except
while it polls or is in the app, and a thread whose request has ended. A connection in ``table.taken`` is left alone by
all but the thread that has it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from _thread import allocate_lock, get_ident
from collections import deque
from contextvars import Context as Variables

from pyserve.system.signals import INTERRUPT_GRACE
from pyserve_workers.classes.databases import close_databases
from pyserve_workers.classes.loop import LoopWorker
from pyserve_workers.classes.pace import Pace
from pyserve_workers.classes.pulse import Pulse
from pyserve_workers.life.worker import FAILED, stack_of
from pyserve_workers.native.connection import REQUEST, WANT_READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pyserve_workers.native.connection import Connection

GONE = select.EPOLLHUP | select.EPOLLERR
STUCK = "a request that cannot be interrupted"
REQUESTS_A_TURN = 32  # of one client that does not wait for answers
TOGETHER = 0.001  # seconds
CUT_GRACE = 1.0  # seconds that requests have, once they were interrupted at the deadline, to end
FAREWELL = 1.0  # seconds for an idle thread to end, in which its locals are released


class AppThread:
    """A thread of the pool. It sleeps until ``begin()`` gives it a connection, or None: then it ends."""

    def __init__(self, name: str, live: Callable[[AppThread], None]) -> None:
        self.name = name
        # A daemon: at its deadline the process does not wait for those that are still in the app.
        self.thread = threading.Thread(target=live, args=(self,), name=name, daemon=True)
        self.ident = 0
        self.connection: Connection | None = None  # whose request it runs
        self.pressed = 0.0  # when its request was interrupted, CLOCK_MONOTONIC; 0: it was not
        self.wake = allocate_lock()
        self.wake.acquire()

    def begin(self, connection: Connection | None) -> None:
        self.connection = connection
        self.pressed = 0.0
        self.wake.release()

    def stack(self) -> str:
        return stack_of(self.ident, sys._current_frames().get(self.ident))


class ThreadsWorker(LoopWorker):
    multithread = True
    concurrent = True
    heartbeat = True

    @property
    def in_app(self) -> bool:
        return False

    def prepare(self) -> None:
        super().prepare()
        self.size = self.config.threads
        self.tables = allocate_lock()
        self.pulse = Pulse()
        self.bunch = self.context.bunch
        self.pace = Pace()
        self.leader: AppThread | None = None  # None: the main thread
        self.threads: list[AppThread] = []  # all that have been started; they are when there is need
        self.idle: list[AppThread] = []  # the one that was used last is used next
        self.queue: deque[tuple[Connection, int]] = deque()  # complete requests, and since when they wait
        self.held: deque[Connection] = deque()  # readable, but not read while the queue is full; out of epoll
        self.muted: set[Connection] = set()  # taken, and sent something meanwhile; out of epoll
        self.given_up: set[Connection] = set()  # whose requests are stuck
        self.stuck = False  # a thread is, and so this worker must be replaced
        self.told_stacks = False
        self.asked_to_end = False  # the requests in the app, at the deadline
        self.has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()

    def client_here(self) -> int:
        here = get_ident()
        at_work = (thread.connection for thread in self.threads if thread.ident == here)
        return next((connection.fd for connection in at_work if connection is not None), -1)

    def go_on(self, connections: list[Connection]) -> None:
        with self.tables:
            super().go_on(connections)

    def make_draining_event(self) -> threading.Event:
        return threading.Event()

    # The main thread.

    def serve(self) -> None:
        self.tables.acquire()
        while not self.drained():
            if self.stuck and self.state == "serving":
                self.leave()
            elif self.leader is None:
                self.turn(self.patience)
            else:
                self.watch()
        self.dismiss()
        self.tables.release()

    def watch(self) -> None:
        """Wait until the leader gives the loop back, or is late: then take it."""
        self.tables.release()
        late = self.pulse.watch()
        self.tables.acquire()
        if late and self.leader is not None and self.pulse.is_late():
            self.take_back()

    def disown(self) -> None:
        self.tables = allocate_lock()  # the thread that held it is not here
        super().disown()

    def take_back(self) -> None:
        self.leader = None
        self.bunch.push()
        self.pulse.reset()
        self.pace.waited(self.pulse.calls)

    def hear(self) -> None:
        """Do what the master and signals say. Hooks may run: others can use the tables meanwhile."""
        self.tables.release()
        try:
            self.control()
        finally:
            self.tables.acquire()

    # Lateness.

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self.queue and not self.threads and (thread := self.idle_thread()) is not None:
            thread.begin(self.queue.popleft()[0])  # which takes the others
        for thread in self.threads:
            self.look_at(thread, now)

    def look_at(self, thread: AppThread, now: float) -> None:
        """Interrupt a request that has been in the app for too long. What cannot be interrupted costs the worker."""
        connection = thread.connection
        if connection is None:
            return
        if thread.pressed:
            late = now >= thread.pressed + INTERRUPT_GRACE
            if late and connection.running and connection not in self.given_up:
                self.give_up(connection, thread)
        elif found := self.overdue({connection.fd: connection}, now):
            self.log.error(f"{connection.request_line} {found[0][1]}; it is interrupted\n{thread.stack()}")
            thread.pressed = now
            connection.interrupt(thread.ident)

    def interrupt_alone(self, fd: int) -> None:
        for thread in self.threads:
            connection = thread.connection
            if connection is not None and connection.fd == fd and not thread.pressed:
                self.log.error(
                    f"{connection.request_line} has run alone for longer than its timeout; it is interrupted\n"
                    f"{thread.stack()}"
                )
                thread.pressed = time.monotonic()
                connection.interrupt(thread.ident)

    def give_up(self, connection: Connection, thread: AppThread) -> None:
        """A request is stuck. Its client need not wait; its thread is lost, so this worker must be replaced."""
        self.given_up.add(connection)
        answered = self.has_gil and connection.give_up()
        told = "; its client is answered with 504" if answered else ""
        self.log.error(f"{connection.request_line} goes on: this worker is replaced{told}\n{thread.stack()}")
        self.stuck = True
        if self.leader is not None:
            self.give_back()

    # Leaving.

    def leave(self) -> None:
        """Have the master start a replacement, and drain."""
        self.tables.release()
        try:
            self.channel.send("LEAVING", cause=STUCK)
            self.drain(STUCK, time.monotonic() + self.config.graceful_timeout, final=False)
        finally:
            self.tables.acquire()

    def take_in(self, fd: int) -> None:
        with self.tables:
            super().take_in(fd)

    def allow_taking(self, allowed: bool) -> None:
        with self.tables:
            super().allow_taking(allowed)

    def stop_accepting(self) -> None:
        with self.tables:
            super().stop_accepting()
        self.context.draining_event.set()

    def serve_rest(self) -> None:
        with self.tables:
            super().serve_rest()

    def drained(self) -> bool:
        """Nobody waits for the requests that are stuck. At the deadline the others are interrupted, and those that do
        not notice it are answered from outside."""
        if self.state != "draining":
            return False
        now = time.monotonic()
        if self.given_up:
            left = self.connections.values()
            if all(connection in self.given_up and not connection.unfinished for connection in left):
                self.deadline = min(self.deadline, now)
        if now < self.deadline:
            return self.is_done()
        if not self.asked_to_end:
            self.ask_to_end()
        if self.at_work() and now < self.deadline + CUT_GRACE:
            return False
        for _, connection in self.at_work():
            if self.has_gil:
                connection.give_up()
        self.close_all()
        return True

    def ask_to_end(self) -> None:
        self.asked_to_end = True
        self.count_unfinished()
        for thread, connection in self.at_work():
            if connection.unfinished:
                connection.interrupt(thread.ident)

    def at_work(self) -> list[tuple[AppThread, Connection]]:
        """The threads whose requests are in the app and not given up, and these."""
        inside = [(thread, thread.connection) for thread in self.threads]
        return [(thread, c) for thread, c in inside if c is not None and c.running and c not in self.given_up]

    def count_unfinished(self) -> None:
        super().count_unfinished()
        if self.cut and not self.told_stacks:  # the master has not asked for them yet
            self.tell_stacks(sys._getframe())

    def close_all(self) -> None:
        self.table.close_all()
        self.queue.clear()
        self.held.clear()

    @property
    def busy_with(self) -> str:
        return self.state

    def stacks(self, frame: FrameType | None) -> str:
        self.told_stacks = self.state == "draining"
        at_work = [(thread, thread.connection) for thread in self.threads]
        requests = [f"{thread.name} runs {c.request_line}\n" for thread, c in at_work if c is not None and c.running]
        return "".join([*requests, super().stacks(frame)])

    def dismiss(self) -> None:
        """End the threads that are idle, so that their thread-locals are released. The tables are held."""
        idle = list(self.idle)
        for thread in idle:
            thread.begin(None)
        self.tables.release()
        for thread in idle:
            thread.thread.join(FAREWELL)
        self.tables.acquire()

    def end(self) -> None:
        super().end()
        if len(self.idle) < len(self.threads):  # an interpreter that ends properly would wait for what they hold
            os._exit(0)

    # The leader.

    def turn(self, patience: float) -> None:
        """One turn of the loop. It ends early if the caller does not lead any more: whatever is still ready will be
        reported to the next leader."""
        leader = self.leader
        for fd, events in self.poll(patience):
            if (connection := self.connections.get(fd)) is not None:
                self.answer(connection, events)
            elif fd in self.listeners or fd == self.handoff.inlet:
                self.take(fd)
            elif not self.handoff.is_outlet(fd):
                self.told()
            if self.leader is not leader:
                return
        self.bunch.push()
        if self.access_log is not None:
            self.access_log.flush()
        now = time.monotonic()
        if now >= self.next_sweep:
            self.sweep(now)

    def poll(self, patience: float) -> Iterator[tuple[int, int]]:
        """What is ready: (descriptor, events), listeners last."""
        crowded = self.leader is None and len(self.held) >= self.size
        self.tables.release()
        if crowded:  # who comes now must wait anyway: look at all of them together
            time.sleep(TOGETHER)
        found = self.epoll.poll(0.0 if self.table.pending else patience)
        self.tables.acquire()
        self.bunch.is_open = self.leader is not None and len(found) > 1
        for _ in range(len(self.table.pending)):
            yield self.table.pending.pop(0).fd, 0
        waiting = []
        for event in found:
            if event[0] in self.listeners or event[0] == self.handoff.inlet:
                waiting.append(event)
            else:
                yield event
        yield from waiting

    def told(self) -> None:
        """The master or a signal has something to say: to the main thread."""
        if self.leader is None:
            self.hear()
        else:
            self.give_back()

    def give_back(self) -> None:
        self.leader = None
        self.bunch.push()
        self.pulse.call()

    def take(self, listener_fd: int) -> None:
        if self.ears.poll(0):  # who connects after a reload is done must not be answered by old code
            self.told()
        elif listener_fd == self.handoff.inlet:
            self.handoff.take()
        elif len(self.table.taken) < self.size:
            self.accept_one(listener_fd)
        else:  # other workers may have time, and if not, it can as well wait in the kernel
            self.full = True
            self.ignore(listener_fd)
            self.paused.append(listener_fd)

    def answer(self, connection: Connection, events: int) -> None:
        if connection in self.table.taken:
            self.mute(connection, events)
        elif self.leader is None and not events & select.EPOLLOUT and (self.held or self.is_full()):
            self.table.pause(connection)
            self.table.taken.add(connection)
            self.held.append(connection)
        elif self.read(connection):
            self.begin(connection)

    def mute(self, connection: Connection, events: int) -> None:
        """The client has sent more, or has gone, while its request is in the app or waits: look at it afterwards."""
        if events & GONE:
            connection.gone()
        if connection not in self.muted:
            try:
                self.table.pause(connection)
            except OSError:
                return  # the thread that has it has just closed it
            self.muted.add(connection)

    def is_full(self) -> bool:
        return len(self.queue) >= self.size

    def read(self, connection: Connection) -> bool:
        """Read what there is; True if a request is complete, which is then the caller's to care for."""
        wanted = connection.receive()
        if wanted == REQUEST:
            self.table.taken.add(connection)
            return True
        self.after(connection, wanted)
        return False

    def begin(self, connection: Connection) -> None:
        """A request is complete: run it, give it to a thread, or have it wait for one."""
        leader = self.leader
        if leader is not None and leader.ident == get_ident():
            leader.connection = connection
            leader.pressed = 0.0
            self.run_leading(leader, connection)
            return
        thread = self.idle_thread()
        if thread is None:
            self.wait(connection)
            return
        # Where there is no GIL a leader that runs requests itself would use one core.
        if leader is None and self.has_gil and self.pace.quick and self.state == "serving":
            self.leader = thread
            self.pace.lead(self.pulse.calls)
        self.pace.handed_out()
        thread.begin(connection)

    def wait(self, connection: Connection) -> None:
        self.queue.append((connection, time.monotonic_ns()))
        self.slot.set("queued", len(self.queue))

    def idle_thread(self) -> AppThread | None:
        if self.idle:
            return self.idle.pop()
        if len(self.threads) == self.size:
            return None
        me = AppThread(f"pyserve-{len(self.threads) + 1}", self.live)
        try:
            me.thread.start()
        except RuntimeError as error:
            if self.threads:
                self.size = len(self.threads)
                self.log.error(f"{error}: this worker makes do with the {self.size} that it has")
            elif not self.queue:
                self.log.error(f"{error}: requests wait until there is one")
            return None
        self.threads.append(me)
        return me

    # The threads of the pool.

    def live(self, me: AppThread) -> None:
        me.ident = get_ident()
        try:
            self.work(me)
        except BaseException:  # noqa: BLE001  (whatever it is, this worker cannot go on)
            import traceback

            self.log.critical(f"BUG: this worker failed; please report it\n{traceback.format_exc()}")
            os._exit(FAILED)

    def work(self, me: AppThread) -> None:
        me.wake.acquire()
        self.tables.acquire()
        while (connection := me.connection) is not None:
            if self.leader is me:
                self.run_leading(me, connection)
                while self.leader is me:
                    self.turn(self.patience)
            else:
                self.run_request(me, connection)
            if not self.find_work(me):
                self.tables.release()
                me.wake.acquire()
                self.tables.acquire()
        self.tables.release()
        close_databases()

    def run_request(self, me: AppThread, connection: Connection) -> None:
        """Run a request in the app, and those that its client has sent behind it; others use the tables meanwhile."""
        self.tables.release()
        wanted, turns = REQUEST, 1 if self.handoff.leaving else REQUESTS_A_TURN
        while wanted == REQUEST and turns:
            turns -= 1
            me.pressed = 0.0
            wanted = Variables().run(connection.run)
        if self.leader is not me and self.access_log is not None:
            self.access_log.flush()
        self.tables.acquire()
        self.finish(me, connection, wanted)

    def run_leading(self, me: AppThread, connection: Connection) -> None:
        """The same between two looks at the loop, if it does not take long."""
        self.pulse.enter()
        self.run_request(me, connection)
        if self.leader is me and self.pulse.leave():
            self.pace.waited(self.pulse.calls)
            self.give_back()

    def finish(self, me: AppThread, connection: Connection, wanted: int) -> None:
        me.connection = None
        self.given_up.discard(connection)
        if wanted == REQUEST:  # there are more still: others have their turn before them
            wanted = connection.flush()
        if wanted == REQUEST:
            wanted = WANT_READ
        if connection in self.muted:
            self.muted.discard(connection)
            if wanted:
                self.table.resume(connection, wanted)
        if connection.pending and self.leader is not me and not self.handoff.leaving:
            self.wait(connection)
        else:
            self.table.taken.discard(connection)
            self.after(connection, wanted)

    def find_work(self, me: AppThread) -> bool:
        """Make room, and take the request that has waited longest; else the thread is idle."""
        while self.held and not self.is_full():
            connection = self.held.popleft()
            self.table.taken.discard(connection)
            self.table.resume(connection)
            if self.read(connection):
                self.wait(connection)
        if self.queue:
            me.connection, since = self.queue.popleft()
            me.pressed = 0.0
            slot = self.slot
            slot.set("queued", len(self.queue))
            slot.set("queue_waits", slot.get("queue_waits") + 1)
            slot.set("queue_time", slot.get("queue_time") + time.monotonic_ns() - since)
            return True
        if self.full:
            self.full = False
            self.resume_accepting()
        self.idle.append(me)
        return False
