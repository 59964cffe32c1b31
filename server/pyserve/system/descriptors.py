"""How many descriptors a process may have open, and how many connections they are enough for.

Every process takes what it is allowed, up to ENOUGH: the usual soft limit, 1024, is there for programs that use
select(2). A connection costs one descriptor, and a second one while a large body or response waits in a file.
"""

from __future__ import annotations

from pyserve.system import linux

ENOUGH = 65536
TURNED_AWAY = 128  # connections of a worker that are given up and still have to be read to their end
RESERVE = 8  # kept in a worker to answer with, when there are no others
OWN = 56  # a worker's listeners, logs and channel, and what the app opens
PER_CONNECTION = 2
STANDARD_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}  # that have these names, too


def allowed(connections: int = 0) -> int:
    """The limit that take() can reach."""
    soft, hard = linux.descriptor_limits()
    return max(soft, min(hard, max(ENOUGH, needed(connections))))


def take(connections: int = 0) -> None:
    """Raise this process's limit to what is allowed, beyond ENOUGH if so many connections need it."""
    linux.raise_descriptor_limit(max(ENOUGH, needed(connections)))


def needed(connections: int) -> int:
    """The descriptors of a worker that holds so many connections."""
    return PER_CONNECTION * connections + TURNED_AWAY + RESERVE + OWN


def enough_for(descriptors: int) -> int:
    """The connections that a worker with so many descriptors can hold: the default of limit_connections."""
    return max((descriptors - needed(0)) // PER_CONNECTION, descriptors // 8, 1)
