"""``wsgi.file_wrapper`` (PEP 3333): an iterable over a file that the server may send without reading it."""

from __future__ import annotations

import io
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FileWrapper:
    """Iterates over ``filelike.read(block_size)``; has ``close`` if the file has it."""

    __slots__ = ("block_size", "close", "filelike")

    def __init__(self, filelike: Any, block_size: int = 65536) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if not data:
            raise StopIteration
        return data


def on_disk(wrapper: FileWrapper) -> tuple[int, int, int] | None:
    """(descriptor, position, bytes from there to the end) of a file that can be sent from its descriptor, else None.

    Only the io module's own binary files on regular files are taken for what their descriptor says: a GzipFile has a
    fileno() too, but reading it gives other bytes. What the app has written is on the disk first. A file without blocks
    is one of /proc or /sys, or as good as empty: its size says nothing of what reading it gives.
    """
    file = wrapper.filelike
    if type(file) is io.BufferedRandom:
        file.flush()
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO:
        return None
    fd = raw.fileno()
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or not status.st_blocks or not raw.readable():
        return None
    position = file.tell()
    return fd, position, max(status.st_size - position, 0)
