"""A worker class for pyserve: every request has a thread of its own, which ends with it.

``pyserve --worker-class patient`` finds it by its entry point. docs/writing-a-worker.md goes through it.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque

from pyserve_workers import REQUEST, WANT_READ, Connection, LoopWorker


class PatientWorker(LoopWorker):
    multithread = True
    concurrent = True

    @property
    def in_app(self) -> bool:
        return False  # the main thread never runs the app: nothing to raise RequestTimeout in

    def make_draining_event(self) -> threading.Event:
        return threading.Event()

    def stop_accepting(self) -> None:
        super().stop_accepting()
        self.context.draining_event.set()

    def prepare(self) -> None:
        super().prepare()
        self.done: deque[tuple[Connection, int]] = deque()
        self.threads: dict[Connection, threading.Thread] = {}
        self.bell, self.ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll.register(self.bell, select.EPOLLIN)

    def serve(self) -> None:
        while not self.drained():
            self.turn(self.patience)
            self.take_back()

    def answer(self, connection: Connection, _events: int) -> None:
        wanted = connection.receive()
        if wanted == REQUEST:
            self.table.pause(connection)  # nobody listens to it until its thread is done
            self.table.taken.add(connection)
            self.threads[connection] = threading.Thread(target=self.run_request, args=(connection,), daemon=True)
            self.threads[connection].start()
        else:
            self.after(connection, wanted)

    def run_request(self, connection: Connection) -> None:
        """In a thread: touch nothing of the worker but the queue and the bell."""
        wanted = connection.run()
        while wanted == REQUEST:  # the client has sent the next one already
            wanted = connection.run()
        self.done.append((connection, wanted))
        os.write(self.ringer, b"!")

    def control(self) -> None:
        """The loop calls this for every descriptor that is neither a listener nor a connection."""
        if select.select([self.bell], [], [], 0)[0]:
            os.read(self.bell, 4096)
        super().control()

    def take_back(self) -> None:
        while self.done:
            connection, wanted = self.done.popleft()
            self.table.taken.discard(connection)
            del self.threads[connection]
            if wanted:
                self.table.resume(connection, WANT_READ)
            self.after(connection, wanted)

    def sweep(self, now: float) -> None:
        """Once in a while: what is late is interrupted."""
        super().sweep(now)
        for connection, why in self.overdue(self.connections, now):
            self.log.error(f"{connection.request_line} {why}")
            connection.interrupt(self.threads[connection].ident or 0)
