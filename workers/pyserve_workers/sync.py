"""The sync worker: one event loop, one request in the app at a time.

The loop holds slow clients; the app is called when a request is complete, and what a client reads slowly is sent by the
loop later. Policy is in Python (loop.py); the work of a request is in ``connection``, in native code.
"""

from __future__ import annotations

import select

from pyserve_workers.draining import Draining
from pyserve_workers.loop import LoopWorker
from pyserve_workers.ready import serve_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve_workers.connection import Connection


class SyncWorker(LoopWorker):
    @property
    def in_app(self) -> bool:
        return self.context.running

    def make_draining_event(self) -> Draining:
        return Draining(self)

    def serve(self) -> None:
        self.epoll_fd = self.epoll.fileno()
        while not self.drained():
            self.turn(0.0 if self.pending else self.patience)

    def poll(self, patience: float) -> list[tuple[int, int]]:
        """Serves the connections that are ready, natively; the rest is for the loop."""
        others, changed, served = serve_ready(
            self.epoll_fd, self.context, self.connections, self.listeners, self.limit, patience
        )
        self.stale = served > 0 or len(others) > 1
        for connection, wanted in changed:
            if connection.fd in self.connections:
                self.after(connection, wanted)
            else:
                self.stay(connection, wanted)
        if self.handoff.leaving:
            self.handoff.offer_all()
        return others

    def welcome(self, connection: Connection) -> None:
        """One that is closed after its first answer is never known to epoll."""
        wanted = connection.serve(select.EPOLLIN)
        if wanted:
            self.stay(connection, wanted)

    def stay(self, connection: Connection, wanted: int) -> None:
        self.keep(connection, wanted)
        if connection.pending:
            self.pending.append(connection)

    def answer(self, connection: Connection, events: int) -> None:
        self.after(connection, connection.serve(events))
