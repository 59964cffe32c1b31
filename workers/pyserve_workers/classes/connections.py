"""The connections of a worker: which there are, and what epoll watches of each."""

from __future__ import annotations

from select import EPOLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from select import epoll

    from pyserve.ipc.scoreboard import Slot
    from pyserve_workers.native.connection import Connection


class Connections:
    def __init__(self, epoll: epoll, slot: Slot, limit: int) -> None:
        self.epoll = epoll
        self.slot = slot
        self.limit = limit  # limit_connections
        self.open: dict[int, Connection] = {}  # by descriptor
        self.interest: dict[int, int] = {}  # what epoll watches for, where it is not EPOLLIN
        self.pending: list[Connection] = []  # with complete requests in their buffers, for the next turn
        self.taken: set[Connection] = set()  # others are at work on these

    def keep(self, connection: Connection, wanted: int = EPOLLIN) -> None:
        """Have epoll watch for what a new connection wants."""
        fd = connection.fd
        self.open[fd] = connection
        self.interest.pop(fd, None)
        self.slot.set("connections", len(self.open))
        self.epoll.register(fd, wanted)
        if wanted != EPOLLIN:
            self.interest[fd] = wanted

    def after(self, connection: Connection, wanted: int) -> None:
        """Have epoll watch for what the connection wants next; 0: it has closed itself."""
        if wanted == 0:
            self.forget(connection)
            return
        if connection.pending:
            self.pending.append(connection)
        if wanted != self.interest.get(connection.fd, EPOLLIN):
            self.watch(connection, wanted)

    def watch(self, connection: Connection, wanted: int) -> None:
        self.epoll.modify(connection.fd, wanted)
        self.interest[connection.fd] = wanted

    def pause(self, connection: Connection) -> None:
        """Hear nothing of it, until ``resume``."""
        self.epoll.unregister(connection.fd)

    def resume(self, connection: Connection, wanted: int = 0) -> None:
        """Watch for what it wants now; 0: for what it wanted before."""
        wanted = wanted or self.interest.get(connection.fd, EPOLLIN)
        self.epoll.register(connection.fd, wanted)
        self.interest[connection.fd] = wanted

    def forget(self, connection: Connection) -> None:
        """It is closed, or has gone to another worker."""
        fd = connection.fd
        if self.open.get(fd) is connection:  # else the number is another's already
            self.interest.pop(fd, None)
            del self.open[fd]
            self.slot.set("connections", len(self.open))

    def close_all(self) -> None:
        for connection in list(self.open.values()):
            connection.close()
        self.open.clear()
