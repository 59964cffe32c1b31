"""What outlives the master's re-exec: a record of plain JSON values, in a file in memory that the next program reads.

The convention. A noun that goes along has ``carried()``: what it is made of as JSON values, descriptors under the names
``fd`` and ``fds`` and nowhere else; and a class method ``resume(record)``, which makes it again in a process that has
inherited those descriptors. Times are CLOCK_MONOTONIC seconds, which go on over an exec. Values of the application's
environment may be in it, so it is never written to a disk or a log.
"""

from __future__ import annotations

import json
import os

from pyserve.system import memfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

# Counts what two versions must have in common for one to take over from the other: this record, the messages of the
# channels (old workers and zygotes go on under the new master), the layout of the scoreboard. Raise it when one of them
# changes so that an older or newer peer would misunderstand.
FORMAT = 6


class FormatError(Exception):
    """A record that this version cannot take over; the text says why."""


def pack(record: dict[str, Any]) -> int:
    """A descriptor of a file in memory that holds the record."""
    content = json.dumps({"format": FORMAT, "record": record}).encode("ascii")
    fd = memfile.create("carried")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd


def unpack(fd: int) -> dict[str, Any]:
    """The record in such a file, whose descriptors this process has: none of them goes to the programs that it starts.

    FormatError if it is none, or another version's.
    """
    try:
        size = os.fstat(fd).st_size
        content = json.loads(os.pread(fd, size, 0))
        number, record = content["format"], content["record"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"descriptor {fd} holds no state of a master: {error!r}") from None
    if number != FORMAT:
        raise FormatError(f"the state of the running master has format {number}, this version reads format {FORMAT}")
    share(descriptors(record), False)
    return dict(record)


def descriptors(value: Any) -> Iterator[int]:
    """Every descriptor in a record."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "fd":
                yield part
            elif name == "fds":
                yield from part
            else:
                yield from descriptors(part)
    elif isinstance(value, list):
        for part in value:
            yield from descriptors(part)


def share(fds: Iterable[int], shared: bool) -> None:
    """Let descriptors go on over an exec, or not. OSError if one is not open."""
    for fd in fds:
        os.set_inheritable(fd, shared)
