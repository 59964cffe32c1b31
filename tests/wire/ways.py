"""How a test's server calls the app: in its loop, as sync workers do, or as another class of workers does.

The fixture ``way`` of wire/conftest.py runs a test with each. A way has ``concurrent``, for the Context, ``run(server)``,
which has ``server.turn()`` called until it returns False, ``poll(server)``, and ``serve(server, connection, events)``.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from select import EPOLLET, EPOLLIN, EPOLLRDHUP
from typing import TYPE_CHECKING, Any

from pyserve_workers.native.connection import BUSY, REQUEST, WANT_READ, Connection

if TYPE_CHECKING:
    from wire.loop import Server

LOOK_EVERY = 0.02  # seconds, for connections that are late


class Sync:
    concurrent = False

    def run(self, server: Server) -> None:
        while server.turn():
            pass

    def poll(self, server: Server) -> list[tuple[int, int]]:
        return server.epoll.poll(0 if server.table.pending else LOOK_EVERY)

    def serve(self, server: Server, connection: Connection, events: int) -> None:
        server.after(connection, connection.serve(events))


class Gevent:
    """In greenlets that lead by turns, in a hub that watches the server's epoll."""

    concurrent = True

    def run(self, server: Server) -> None:
        import gevent
        from gevent.event import Event

        from pyserve_workers.classes.geventworker import wait_writable
        from pyserve_workers.classes.greenlets import Pool

        if server.context.wait_writable is None:
            server.context.wait_writable = wait_writable
        hub = gevent.get_hub()
        over = Event()
        self.failure: BaseException | None = None
        self.events: Iterator[tuple[int, int]] = iter(())

        def lead() -> None:
            try:
                if not server.turn():
                    over.set()
            except Exception as error:  # noqa: BLE001 - the server's thread raises it again
                self.failure = error
                over.set()

        def quiet(connection: Connection) -> None:
            server.table.watch(connection, EPOLLRDHUP | EPOLLET)

        self.pool = Pool(hub, 1000, lead, quiet, server.after)
        watchers: list[Any] = [hub.loop.io(server.epoll.fileno(), 1), hub.loop.timer(LOOK_EVERY, LOOK_EVERY)]
        for watcher in watchers:
            watcher.start(self.pool.go)
        over.wait()
        for watcher in watchers:
            watcher.close()
        self.pool.end()
        hub.destroy(destroy_loop=True)
        if self.failure is not None:
            raise self.failure

    def poll(self, server: Server) -> Iterator[tuple[int, int]]:
        left = list(self.events)
        self.events = iter(left or server.epoll.poll(0))
        return self.events

    def serve(self, server: Server, connection: Connection, _events: int) -> None:
        wanted = connection.receive()
        if wanted == REQUEST:
            wanted = self.pool.run(connection)
        if wanted != BUSY:
            server.after(connection, wanted)


class Threads:
    """In a thread of a pool; the loop does not listen to a connection meanwhile."""

    concurrent = True

    def run(self, server: Server) -> None:
        self.done: deque[tuple[Connection, int]] = deque()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        server.epoll.register(self.bell, EPOLLIN)
        with ThreadPoolExecutor(8) as self.pool:
            while server.turn():
                pass
        os.close(self.bell)

    def poll(self, server: Server) -> Iterator[tuple[int, int]]:
        for fd, events in server.epoll.poll(0 if server.table.pending else LOOK_EVERY):
            if fd != self.bell:
                yield fd, events
                continue
            os.eventfd_read(self.bell)
            while self.done:
                connection, wanted = self.done.popleft()
                if wanted:
                    server.table.resume(connection, WANT_READ)
                server.after(connection, WANT_READ if wanted == REQUEST else wanted)

    def serve(self, server: Server, connection: Connection, _events: int) -> None:
        wanted = connection.receive()
        if wanted == REQUEST:
            server.table.pause(connection)
            self.pool.submit(self.call, connection)
        elif wanted != BUSY:
            server.after(connection, wanted)

    def call(self, connection: Connection) -> None:
        for _ in range(32):
            wanted = connection.run()
            if wanted != REQUEST:
                break
        else:  # others have their turn before the next one
            wanted = connection.flush()
        self.done.append((connection, wanted))
        os.eventfd_write(self.bell, 1)


Way = Sync | Gevent | Threads
WAYS: dict[str, type[Way]] = {"sync": Sync, "gevent": Gevent, "threads": Threads}

chosen: type[Way] = Sync


@contextlib.contextmanager
def choose(name: str) -> Iterator[None]:
    """Servers made meanwhile call their app in this way."""
    global chosen
    before, chosen = chosen, WAYS[name]
    try:
        yield
    finally:
        chosen = before
