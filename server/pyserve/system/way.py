"""The way to a file: every folder and link that decides what a path means, and who may write it.

Who can write a folder can exchange what is in it, and who can exchange a folder or a link decides where the path leads.
Nothing here judges that: ``trust`` does.
"""

from __future__ import annotations

import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple

ROOT = 0
MOST_LINKS = 40  # as the kernel follows
ACCESS_LIST = "system.posix_acl_access"
# linux/posix_acl_xattr.h: the version, then entries of tag, permissions, id
HEADER, RIGHT = 4, struct.Struct("<HHI")
USER, GROUP_OWNER, GROUP = 0x02, 0x04, 0x08
WRITE = 2


class Entry(NamedTuple):
    """A folder, a link, or the file itself; beside owner and mode, whom an access list lets write it."""

    path: str
    mode: int  # st_mode
    uid: int
    gid: int
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()


class Writers(NamedTuple):
    """Who can change an entry, or have another in its place."""

    users: frozenset[int]
    groups: frozenset[int]
    everybody: bool


def writers(entry: Entry) -> Writers:
    """A link's mode says nothing. In a sticky folder nobody can take away what is another's: so its owner counts, and
    the owner of what lies in it, which is an entry of its own. What is written to /dev/null does not stay."""
    owner = frozenset((entry.uid,))
    sticky = stat.S_ISDIR(entry.mode) and entry.mode & stat.S_ISVTX
    if sticky or stat.S_ISLNK(entry.mode) or stat.S_ISCHR(entry.mode):
        return Writers(owner, frozenset(), False)
    groups = entry.groups | ({entry.gid} if entry.mode & stat.S_IWGRP else set())
    return Writers(owner | entry.users, groups, bool(entry.mode & stat.S_IWOTH))


def on_the_way(path: str) -> Iterator[Entry]:
    """The folders and links, without the file."""
    return (entry for entry in way(path) if stat.S_ISDIR(entry.mode) or stat.S_ISLNK(entry.mode))


def only_ours(path: str) -> bool:
    """Can nobody but root and the user of this process have made what is on the way to a file?"""
    for entry in on_the_way(path):
        users, groups, everybody = writers(entry)
        if everybody or users - {ROOT, os.geteuid()} or groups - {ROOT}:
            return False
    return True


def look(path: str) -> Entry:
    found = os.lstat(path)
    entry = Entry(path, found.st_mode, found.st_uid, found.st_gid)
    if found.st_mode & stat.S_IWGRP and not stat.S_ISLNK(found.st_mode):  # with an access list this bit is its mask
        try:
            return with_access_list(entry, os.getxattr(path, ACCESS_LIST, follow_symlinks=False))
        except OSError:
            pass  # there is none
    return entry


def way(path: str, look: Callable[[str], Entry] = look) -> Iterator[Entry]:
    """From the root of the file system to the file, or as far as there is something. ``path`` is absolute.

    look: one that remembers, for who goes many ways.
    """
    names = path.split("/")[::-1]
    here, links = "/", 0
    yield look(here)
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            entry = look(there)
            target = os.readlink(there) if stat.S_ISLNK(entry.mode) else ""
        except OSError:  # it is not there
            return
        yield entry
        if target:
            links += 1
            if links > MOST_LINKS:
                return
            names += target.split("/")[::-1]
            there = "/" if target.startswith("/") else here
        here = there


def with_access_list(entry: Entry, content: bytes) -> Entry:
    """An entry with its access list, given as the kernel keeps it."""
    rights = [(tag, number) for tag, bits, number in RIGHT.iter_unpack(content[HEADER:]) if bits & WRITE]
    return entry._replace(
        mode=entry.mode if any(tag == GROUP_OWNER for tag, _ in rights) else entry.mode & ~stat.S_IWGRP,
        users=frozenset(number for tag, number in rights if tag == USER),
        groups=frozenset(number for tag, number in rights if tag == GROUP),
    )
