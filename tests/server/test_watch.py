"""Who is told of which descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyserve.master.watch import Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.close()


def full() -> tuple[int, int]:
    """A pipe with something in it."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    return reader, writer


def test_each_is_told_of_its_own(watch: Watch) -> None:
    told: list[str] = []
    (one, first), (two, second) = full(), full()
    watch.add(one, lambda _events: told.append("one"))
    watch.add(two, lambda _events: told.append("two"))
    watch.tell(watch.wait(0))
    assert sorted(told) == ["one", "two"]
    os.read(one, 1)
    watch.tell(watch.wait(0))
    assert sorted(told) == ["one", "two", "two"]
    for fd in (one, first, two, second):
        os.close(fd)


def test_who_was_dropped_in_between_is_told_nothing(watch: Watch) -> None:
    """As when a worker's end takes the ticket with it that has come in the same turn."""
    told: list[int] = []
    (one, first), (two, second) = full(), full()

    def drop(fd: int, other: int) -> None:
        told.append(fd)
        watch.drop(other)
        os.close(other)

    watch.add(one, lambda _events: drop(one, two))
    watch.add(two, lambda _events: drop(two, one))
    watch.tell(watch.wait(0))
    assert len(told) == 1
    assert told[0] in watch
    assert {one, two} - {told[0]} == {fd for fd in (one, two) if fd not in watch}
    for fd in (told[0], first, second):
        os.close(fd)


def test_a_descriptor_that_is_not_watched_can_be_dropped(watch: Watch) -> None:
    watch.drop(99)


def test_a_file_cannot_be_watched_and_leaves_nothing(watch: Watch) -> None:
    with open(__file__) as file, pytest.raises(PermissionError):
        watch.add(file.fileno(), print)
    assert file.closed
    assert watch.told == {}
