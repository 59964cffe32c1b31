"""What an app's import has left behind in the zygote that a fork would break or double: ``preload = auto`` asks.

Threads and greenlets do not live on in a worker, or live on in each. A connected socket would be one conversation led
by several, and an epoll (so an event loop, which has one) or an inotify descriptor is shared by all who inherit it:
each takes events away from the others. Datagram sockets may be connected, as the one to syslog is: each datagram is
whole.
"""

from __future__ import annotations

import os
import sys
import time

from pyserve_workers import hubs
from pyserve_workers.system import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SOCK_STREAM, SOCK_DGRAM = 1, 2
SHARED = {
    "anon_inode:[eventpoll]": "an epoll descriptor",
    "anon_inode:inotify": "an inotify descriptor",
    "anon_inode:[fanotify]": "a fanotify descriptor",
    "anon_inode:[io_uring]": "an io_uring",
}
Descriptors = dict[int, str]
MOST_NAMED = 4
ENDING = 0.2  # seconds


def descriptors() -> Descriptors:
    """What this process has open: number → what the kernel calls it, ``"socket:[4711]"``."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own
            continue
    return found


def audit(before: Descriptors) -> str:
    """What speaks against forking, as the end of "the import …"; empty if nothing. ``before``: what was open then."""
    greenlets = hubs.audit()
    if not greenlets:
        hubs.destroy()  # with its loop; the next fork would do so, too
    loops = event_loops()
    fresh = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
    found = [greenlets or threads(), loops, *of_descriptors(fresh, has_loop=bool(loops or greenlets))]
    return " and ".join(filter(None, found))


def threads() -> str:
    """Python's and others'. One that has been joined is in the kernel's list for a moment more."""
    threading = sys.modules.get("threading")
    names = [thread.name for thread in threading.enumerate() if thread.name != "MainThread"] if threading else []
    until = time.monotonic() + ENDING
    while (number := len(os.listdir("/proc/self/task")) - 1) and not names and time.monotonic() < until:
        time.sleep(0.001)
    if not number:
        return ""
    shown = f" ({', '.join(names[:MOST_NAMED])})" if names else ""
    return f"started {number} thread{'s' if number > 1 else ''}{shown}"


def event_loops() -> str:
    """asyncio's, and those that follow its interface."""
    events = sys.modules.get("asyncio.events")
    if events is None:
        return ""
    import gc

    loops = [thing for thing in gc.get_objects() if isinstance(thing, events.AbstractEventLoop)]
    kinds = sorted({type(loop).__qualname__ for loop in loops if not loop.is_closed()})
    return f"made an event loop ({', '.join(kinds)})" if kinds else ""


def of_descriptors(fresh: Descriptors, *, has_loop: bool) -> Iterator[str]:
    """What is wrong with some descriptors; that a loop or hub has an epoll and a pair needs no mention."""
    peers = sorted({peer for fd, what in fresh.items() if what.startswith("socket:") and (peer := connected_to(fd))})
    if has_loop:
        peers = [peer for peer in peers if peer != UNNAMED]
    if peers:
        shown = ", ".join(peers[:MOST_NAMED]) + (", …" if len(peers) > MOST_NAMED else "")
        yield f"connected a socket to {shown}"
    for what in sorted(set(fresh.values())):
        if what in SHARED and not (has_loop and "eventpoll" in what):
            yield f"opened {SHARED[what]}"


UNNAMED = "a process or thread of its own (a socket pair)"


def connected_to(fd: int) -> str:
    """Whom a socket that is no datagram socket talks to; empty if to nobody."""
    asked = socket(fileno=os.dup(fd))
    try:
        if asked.type == SOCK_DGRAM:
            return ""
        return address(asked.getpeername())
    except OSError:  # it is not connected: it listens, or is not used yet
        return ""
    finally:
        asked.close()


def address(name: object) -> str:
    """A peer's name as people write it."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "backslashreplace").replace("\0", "@")
    if isinstance(name, tuple) and len(name) >= 2:
        host, port = str(name[0]), name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name) if name else UNNAMED
