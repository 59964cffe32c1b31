"""Has the kernel killed for lack of memory? The counter ``oom_kill`` of this process's control group tells.

Who dies of it dies of a SIGKILL like any other; the kernel counts before it sends the signal.
"""

from __future__ import annotations

import time

from pyserve.system import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FRESH = 5.0  # seconds in which the deaths that were counted together are seen one after the other


class OomKills:
    """The kills that were counted and not yet matched with a death."""

    def __init__(self, read: Callable[[str], str] = cgroups.read) -> None:
        self.read = read
        self.path = ""
        self.last = 0
        self.unexplained = 0
        self.seen_at = 0.0
        for path in candidates(read("/proc/self/cgroup")):
            number = counted(read(path))
            if number is not None:
                self.path, self.last = path, number
                break

    def explain_one(self, now: float | None = None) -> bool | None:
        """A child was killed by a SIGKILL that was not ours: was it one of these? None if nobody counts here."""
        now = time.monotonic() if now is None else now
        number = counted(self.read(self.path)) if self.path else None
        if number is None:
            return None
        if now - self.seen_at > FRESH:
            self.unexplained = 0  # those were no children of ours, but processes that the app had started
        if number > self.last:
            self.unexplained += number - self.last
            self.seen_at = now
        self.last = number
        if not self.unexplained:
            return False
        self.unexplained -= 1
        return True


def candidates(membership: str) -> list[str]:
    """The files that may have the counter, the group's own before its ancestors'."""
    return [
        f"{folder}/{'memory.events' if is_v2 else 'memory.oom_control'}"
        for is_v2, folder in cgroups.folders(membership, "memory")
    ]


def counted(text: str) -> int | None:
    """The counter in a memory.events (v2) or memory.oom_control (v1); None if it is not there, as in old kernels."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return None
