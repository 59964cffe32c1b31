"""The scoreboard: one map shared by master and workers, a slot for every worker process.

Workers write into their own slot with plain stores (in native code, see scoreboard.h, which has the same table); the
master reads. No message and no lock is spent on a request.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct

from pyserve.system import memfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

SLOT_SIZE = 4096
SLOTS = 1024
LATENCY_BUCKETS = 24
STATUS_CLASSES = 5
RESPONDERS_SLOT = SLOTS - 1  # there are never half as many workers
REQUEST_LINE = 384
REQUEST_LINES = 8
WORD = 8

# A worker's states, as the number in its slot says them; worker.py has their transitions.
STATES = ("free", "booting", "ready", "serving", "draining", "exited")

# The words of a slot in order: (name, how many). Times are CLOCK_MONOTONIC nanoseconds, sizes are bytes.
FIELDS = (
    ("pid", 1),
    ("generation", 1),
    ("number", 1),
    ("state", 1),
    ("heartbeat", 1),
    ("request_start", 1),
    ("active", 1),
    ("connections", 1),
    ("requests", 1),
    ("bytes_in", 1),
    ("bytes_out", 1),
    ("status", STATUS_CLASSES),
    ("cut", 1),
    ("siblings", 1),
    ("rss", 1),
    ("latency_sum", 1),
    ("latency", LATENCY_BUCKETS),
    ("queued", 1),
    ("queue_waits", 1),
    ("queue_time", 1),
    ("takers", 1),
    ("gate", 1),
    ("spooled", 1),
    ("request_since", REQUEST_LINES),
    ("request_line_length", REQUEST_LINES),
    ("request_line", REQUEST_LINES * REQUEST_LINE // WORD),
)
OFFSETS: dict[str, int] = {}
_offset = 0
for _name, _count in FIELDS:
    OFFSETS[_name] = _offset
    _offset += _count * WORD


def free_slot(taken: Collection[int]) -> int:
    """A slot for another worker; the last one is the responder's. OSError if so many workers are there, or leaving."""
    free = next((index for index in range(SLOTS - 1) if index not in taken), None)
    if free is None:
        raise OSError(errno.EAGAIN, f"{SLOTS - 1} others are there or still leaving")
    return free


class Slot:
    """One worker's place: ``slot.get("active")``, ``slot.set("state", 3)``."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory

    def get(self, name: str, index: int = 0) -> int:
        value: int = struct.unpack_from("=Q", self.memory, OFFSETS[name] + index * WORD)[0]
        return value

    def set(self, name: str, value: int, index: int = 0) -> None:
        struct.pack_into("=Q", self.memory, OFFSETS[name] + index * WORD, value)

    @property
    def request_line(self) -> str:
        """Of a worker that runs one request at a time: the line of the one that is (or was last) in the app."""
        return self.line_at(0)

    @property
    def inside(self) -> list[str]:
        """The lines of the requests that are in the app, in the order in which they entered it. Of those only that have
        not had more than REQUEST_LINES with them since."""
        if not self.get("active"):
            return []
        places = sorted(range(REQUEST_LINES), key=lambda place: self.get("request_since", place))
        return [line for line in map(self.line_at, places) if line]

    def line_at(self, place: int) -> str:
        """``"GET /path"``: the client's bytes, as Latin-1."""
        length = min(self.get("request_line_length", place), REQUEST_LINE)
        start = OFFSETS["request_line"] + place * REQUEST_LINE
        return bytes(self.memory[start : start + length]).decode("latin-1")

    def clear(self) -> None:
        self.memory[:] = bytes(SLOT_SIZE)


class Scoreboard:
    """The shared map. The master creates it and hands its descriptor on; slots that nobody touched use no memory."""

    sealed = True

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, SLOT_SIZE * SLOTS)

    @classmethod
    def create(cls) -> Scoreboard:
        """No worker can cut it if it is ``sealed``: whoever then looked at what is gone would die of a SIGBUS."""
        fd = memfile.create("scoreboard", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, SLOT_SIZE * SLOTS)
        scoreboard = cls(fd)
        try:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError:
            scoreboard.sealed = False
        return scoreboard

    def slot(self, index: int) -> Slot:
        if not 0 <= index < SLOTS:
            raise IndexError(f"slot {index} of {SLOTS}")
        return Slot(memoryview(self.map)[index * SLOT_SIZE : (index + 1) * SLOT_SIZE])
