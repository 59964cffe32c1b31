"""The sync worker: one event loop, one request in the app at a time.

The loop holds slow clients; the app is called when a request is complete, and what a client reads slowly is sent by the
loop later. Policy is in Python (loop.py); the work of a request is in ``connection``, in native code.
"""

from __future__ import annotations

import select
import sys

from pyserve_workers.classes.draining import Draining
from pyserve_workers.classes.loop import LoopWorker
from pyserve_workers.classes.ready import serve_ready
from pyserve_workers.classes.relief import Relief
from pyserve_workers.native.connection import CLOSED
from pyserve_workers.native.system import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve_workers.native.connection import Connection


class SyncWorker(LoopWorker):
    @property
    def in_app(self) -> bool:
        return self.context.running

    def prepare(self) -> None:
        super().prepare()
        self.relief: Relief | None = None

    def disown(self) -> None:
        if self.state != "booting" and self.in_app and self.context.client not in self.connections:  # its first request
            close(self.context.client)
        super().disown()

    def make_draining_event(self) -> Draining:
        return Draining(self)

    def serve(self) -> None:
        self.epoll_fd = self.epoll.fileno()
        while not self.drained():
            self.turn(0.0 if self.table.pending else self.patience)

    def poll(self, patience: float) -> list[tuple[int, int]]:
        """Serves the connections that are ready, natively; the rest is for the loop."""
        others, changed, served = serve_ready(
            self.epoll_fd, self.context, self.connections, self.listeners, self.table.limit, patience
        )
        self.stale = served > 0 or len(others) > 1
        for connection, wanted in changed:
            if connection.fd in self.connections:
                self.after(connection, wanted)
            elif connection.state != CLOSED:  # else it was given away later in the turn
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
        self.table.keep(connection, wanted)
        if connection.pending:
            self.table.pending.append(connection)

    def answer(self, connection: Connection, events: int) -> None:
        self.after(connection, connection.serve(events))

    def sweep(self, now: float) -> None:
        super().sweep(now)
        if self.slot.get("siblings"):  # before there are, there is nobody to give to
            self.listen_for_relief()

    def will_be_kept(self) -> None:
        self.listen_for_relief()

    def listen_for_relief(self) -> None:
        """From the first time that it may matter, and never before the fork."""
        if self.relief is not None or self.bell_fd < 0:
            return
        self.relief = Relief(self, self.handoff.outlet)
        if not self.config.handoff_timeout or not getattr(sys, "_is_gil_enabled", lambda: True)():
            return  # without a GIL there is nothing that keeps the worker's thread and the other apart
        try:
            self.relief.start()
        except OSError as error:
            self.log.warning(f"what waits behind a long request stays with its worker: {error.strerror}")

    def end(self) -> None:
        if self.relief is not None:
            self.relief.stop()
            self.handoff.given += self.relief.given
        super().end()
