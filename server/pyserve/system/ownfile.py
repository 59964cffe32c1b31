"""Files that this process has made, in folders that others may write: each is known by its device and inode.

A name says nothing about them. Whoever can write the folder may have put another file there, or a link, and a newer
server may have put its own. So a file is looked at through a descriptor of its folder, which stays that folder whatever
its name becomes, and is removed only if it is still the one that was made.
"""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Identity = tuple[int, int]  # device, inode


def identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def folder_of(path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder of ``path``, and the name in it. OSError if there is none."""
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, name
    finally:
        os.close(fd)


def is_there(path: str, file: Identity) -> bool:
    """Is this file at its path?"""
    try:
        return identity(os.stat(path, follow_symlinks=False)) == file
    except OSError:
        return False


def remove(path: str, file: Identity) -> None:
    """Remove a file if it is still there; if not, or if this is not permitted any more, that is no matter.

    Who exchanges it between the look and the removal can write the folder, and so gains nothing that he could not do.
    """
    with contextlib.suppress(OSError), folder_of(path) as (folder, name):
        if identity(os.stat(name, dir_fd=folder, follow_symlinks=False)) == file:
            os.unlink(name, dir_fd=folder)
