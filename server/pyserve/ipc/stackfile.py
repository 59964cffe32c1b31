"""A file in memory, one per worker, for the stacks of its threads when somebody wants to see them.

The master makes it and empties it before each question. The worker's answer is written by its signal handlers, in C, so
it comes from a worker that is stuck, too; a file neither blocks a writer nor breaks when nobody reads it. Each part of
an answer ends with a NUL: the threads' first, then, from workers with a loop of their own, what waits in that.
"""

from __future__ import annotations

import fcntl
import os

from pyserve.system import memfile

MOST = 1 << 20  # bytes of an answer that are read
MOST_PARTS = 2
PART_END = b"\0"


class StackFile:
    """``fd`` is what the worker gets a copy of."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.asked = False  # and not answered yet
        self.closed = False

    @classmethod
    def create(cls) -> StackFile:
        fd = memfile.create("stacks")  # which nobody can seal
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # the position is shared, and the file is cut now and then
        return cls(fd)

    def empty(self) -> None:
        os.ftruncate(self.fd, 0)

    def parts(self) -> list[str]:
        """The parts that are complete."""
        content = os.pread(self.fd, MOST, 0)
        *parts, rest = content.split(PART_END, MOST_PARTS)
        if len(content) == MOST:
            parts.append(rest)  # there is more; what we have is enough
        return [part.decode("utf-8", "backslashreplace") for part in parts]

    def close(self) -> None:
        self.closed = True
        os.close(self.fd)
