"""What an app's import has left behind in the zygote that a fork would break or double: ``preload = auto`` asks.

Threads and greenlets do not live on in a worker, or live on in each. A connected socket would be one conversation led
by several, and an epoll (so an event loop, which has one) or an inotify descriptor is shared by all who inherit it:
each takes events away from the others. Datagram sockets may be connected, as the one to syslog is: each datagram is
whole. A child process and a timer stay with the zygote, and what is to be done at the end of the process would be done
by the first worker that leaves (endings.py).

Nothing of the app runs for a look at it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from pyserve_workers.life import hubs
from pyserve_workers.life.endings import Watch, temporary_files
from pyserve_workers.life.living import living
from pyserve_workers.native.system import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SOCK_STREAM, SOCK_DGRAM = 1, 2
EPOLL = "anon_inode:[eventpoll]"
SHARED = {
    EPOLL: "an epoll descriptor",
    "anon_inode:inotify": "an inotify descriptor",
    "anon_inode:[fanotify]": "a fanotify descriptor",
    "anon_inode:[io_uring]": "an io_uring",
    "anon_inode:[timerfd]": "a timer descriptor",
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


class Audit:
    """``with Audit() as audit: import``, then ``audit.found()`` says what speaks against forking."""

    def __init__(self) -> None:
        self.before = descriptors()
        self.threads = set(os.listdir("/proc/self/task"))  # an agent's, which was there before
        self.endings = Watch()

    def __enter__(self) -> Audit:
        self.endings.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.endings.__exit__()

    def found(self) -> str:
        """What speaks against forking, as the end of "the import …"; empty if nothing."""
        greenlets = hubs.audit()
        if not greenlets:
            hubs.destroy()  # with its loop; the next fork would do so, too
        fresh = {fd: what for fd, what in descriptors().items() if self.before.get(fd) != what}
        loops = event_loops(has_epoll=EPOLL in fresh.values())
        reasons = [
            greenlets or threads(self.threads),
            processes(),
            timers(),
            loops,
            *of_descriptors(fresh, has_loop=bool(loops or greenlets)),
            *self.endings.found(),
            temporary_files(),
        ]
        return " and ".join(filter(None, reasons))


def threads(before: set[str]) -> str:
    """Python's and others'. One that has been joined is in the kernel's list for a moment more."""
    threading = sys.modules.get("threading")
    running = threading.enumerate() if threading else []
    names = [it.name for it in running if it.name != "MainThread" and str(it.native_id) not in before]
    until = time.monotonic() + ENDING
    while (number := len(set(os.listdir("/proc/self/task")) - before)) and not names and time.monotonic() < until:
        time.sleep(0.001)
    if not number:
        return ""
    shown = f" ({', '.join(names[:MOST_NAMED])})" if names else ""
    return f"started {number} thread{'s' if number > 1 else ''}{shown}"


def processes() -> str:
    """Children that run. The kernel may be built without the list of them."""
    names = []
    for thread in os.listdir("/proc/self/task"):
        for pid in read(f"/proc/self/task/{thread}/children").split():
            name, _, rest = read(f"/proc/{pid}/stat").partition("(")[2].rpartition(") ")
            if rest[:1] not in ("Z", "X", ""):
                names.append(name)
    shown = ", ".join(sorted(names)[:MOST_NAMED])
    return f"started {len(names)} process{'es' if len(names) > 1 else ''} ({shown})" if names else ""


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()
    except OSError:
        return ""


def timers() -> str:
    """A fork has none of them."""
    kinds = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
    return "started a timer (setitimer or alarm)" if any(signal.getitimer(kind)[0] for kind in kinds) else ""


def event_loops(*, has_epoll: bool) -> str:
    """asyncio's, and those that only follow its interface: whether such a one is open, its epoll tells."""
    events, base = sys.modules.get("asyncio.events"), sys.modules.get("asyncio.base_events")
    if events is None or base is None:
        return ""

    def is_open(loop: object) -> bool:
        is_ours = issubclass(type(loop), base.BaseEventLoop)
        return not object.__getattribute__(loop, "_closed") if is_ours else has_epoll

    loops = living(lambda kind: issubclass(kind, events.AbstractEventLoop))
    kinds = sorted({type(loop).__qualname__ for loop in loops if is_open(loop)})
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
        if what in SHARED and not (has_loop and what == EPOLL):
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
