"""The table of a worker's connections, with sockets and an epoll, and no loop."""

from __future__ import annotations

import io
import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import pyserve_workers
from pyserve.ipc.scoreboard import SLOT_SIZE, Slot
from pyserve_workers import WANT_READ, WANT_WRITE, Connection
from pyserve_workers.classes.connections import Connections
from pyserve_workers.native.context import Context
from wire.loop import SETTINGS, MemoryLog

ABOUT = SimpleNamespace(scheme="http", server_name="x", server_port=80)


class Pair:
    """A connection and its client's end."""

    def __init__(self, context: Context) -> None:
        self.client, ours = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(context, ours.detach(), ABOUT, ("192.0.2.1", 1))
        self.fd = self.connection.fd


class World:
    def __init__(self) -> None:
        self.slot = Slot(memoryview(bytearray(SLOT_SIZE)))
        log: Any = MemoryLog()
        self.context = Context(None, SimpleNamespace(**SETTINGS), self.slot.memory, io.StringIO(), log)
        self.epoll = select.epoll()
        self.table = Connections(self.epoll, self.slot, 10)
        self.pairs = [Pair(self.context) for _ in range(3)]

    def ready(self) -> dict[int, int]:
        return dict(self.epoll.poll(0))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.table.close_all()
    for pair in world.pairs:
        pair.connection.close()
        pair.client.close()
    world.epoll.close()


def test_what_is_kept_is_counted_and_heard_of(world: World) -> None:
    table, (one, two, _) = world.table, world.pairs
    table.keep(one.connection)
    table.keep(two.connection, WANT_WRITE)
    assert world.slot.get("connections") == len(table.open) == 2
    assert world.ready() == {two.fd: select.EPOLLOUT}
    one.client.sendall(b"G")
    assert world.ready() == {one.fd: select.EPOLLIN, two.fd: select.EPOLLOUT}


def test_epoll_is_told_of_changes(world: World) -> None:
    table, (one, _, _) = world.table, world.pairs
    table.keep(one.connection)
    table.after(one.connection, WANT_WRITE)
    assert world.ready() == {one.fd: select.EPOLLOUT}
    table.after(one.connection, WANT_READ)
    assert world.ready() == {}


def test_one_that_is_paused_is_not_heard_of_and_goes_on_as_it_was(world: World) -> None:
    table, (one, two, _) = world.table, world.pairs
    table.keep(one.connection, WANT_WRITE)
    table.keep(two.connection, WANT_WRITE)
    for pair in (one, two):
        table.pause(pair.connection)
    assert world.ready() == {}
    table.resume(one.connection)
    table.resume(two.connection, WANT_READ)
    assert world.ready() == {one.fd: select.EPOLLOUT}
    table.after(two.connection, WANT_WRITE)
    assert world.ready() == {one.fd: select.EPOLLOUT, two.fd: select.EPOLLOUT}


def test_what_is_forgotten_is_forgotten_once(world: World) -> None:
    """Its number may be another's already, which came while it was closed."""
    table, (one, _, _) = world.table, world.pairs
    table.keep(one.connection)
    one.connection.close()
    ours, client = socket.socketpair()
    ours.setblocking(False)
    again = Connection(world.context, ours.detach(), ABOUT, ("192.0.2.1", 2))
    assert again.fd == one.fd, "the lowest number that is free"
    table.keep(again)
    table.after(one.connection, 0)
    assert table.open == {again.fd: again}
    again.close()
    table.after(again, 0)
    assert table.open == {}
    assert world.slot.get("connections") == 0
    client.close()


def test_the_public_names_are_there() -> None:
    for name in pyserve_workers.__all__:
        assert getattr(pyserve_workers, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pyserve_workers.Nothing
