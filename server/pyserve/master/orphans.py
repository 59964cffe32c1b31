"""Orphans: what the app has forked and left behind. The master adopts them (PR_SET_CHILD_SUBREAPER).

One that still is a copy of its worker, in its session, and not another program that was executed, ends with its worker:
it gets a TERM, and a KILL after the graceful timeout. What the import in a zygote has forked serves all workers of the
generation, and ends with the last of them. What was adopted while its worker lived has half detached itself, and ends
with the server. What has a session of its own is a daemon, and what was executed another program: they are left alone.
"""

from __future__ import annotations

import os
import signal

from pyserve.master.children import QUIT_GRACE, WorkerProcess, Zygote
from pyserve.master.parts import NEVER, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NamedTuple

    from pyserve.ipc.log import Log
    from pyserve.master.children import Child
    from pyserve.master.parts import Situation
else:
    from pyserve.records import NamedTuple

LOOK_EVERY = 1.0  # seconds
NEVER_EXECUTED = 0x40  # the kernel's PF_FORKNOEXEC
NOW, SERVER = -1, 0  # instead of a generation


class Tie(NamedTuple):
    """Who has left a process behind, and what it ends with: a generation, NOW or SERVER."""

    name: str
    ends_with: int


DETACHED = Tie("a worker", SERVER)


def adopted() -> set[int]:
    """The children of this process; none where the kernel does not list them (CONFIG_PROC_CHILDREN)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return set(map(int, file.read().split()))
    except OSError:
        return set()


def is_copy(pid: int) -> bool:
    """Does it run the program that its parent ran, in the session that this process is in?"""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, _, _, session, _, _, flags, *_ = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return state != "Z" and int(session) == os.getsid(0) and bool(int(flags) & NEVER_EXECUTED)


class Orphans(Part):
    def __init__(
        self, children: Callable[[], Sequence[Child]], awaited: dict[int, int | None], situation: Situation, log: Log
    ) -> None:
        """children: those of ours that live; awaited: by pid, other processes that the master has started."""
        self.children = children
        self.awaited = awaited
        self.situation = situation
        self.log = log
        self.look_at = 0.0  # CLOCK_MONOTONIC seconds
        self.ended: list[Tie] = []  # who has ended since the last look: what is new then was left by them
        self.known: dict[int, Tie] = {}
        self.told: dict[int, float] = {}  # to end, and when they are killed

    def __bool__(self) -> bool:
        return bool(self.told)

    def lost(self, child: Child) -> None:
        """A child has ended."""
        if isinstance(child, WorkerProcess):
            self.ended.append(Tie(child.name, NOW))
        elif isinstance(child, Zygote):
            self.ended.append(Tie(child.name, child.generation))

    def reaped(self, pid: int) -> None:
        """One that was adopted has ended."""
        self.known.pop(pid, None)
        if self.told.pop(pid, None):
            self.ended.append(Tie(f"pid {pid}", NOW))

    def soonest(self, now: float) -> float:
        return min(self.told.values(), default=NEVER)

    def turn(self, now: float) -> None:
        # A worker that has not said its pid yet could be taken for one of them.
        if (self.ended or now >= self.look_at) and all(child.pid for child in self.children()):
            self.look_at = now + LOOK_EVERY
            self.look()
            graceful, deadline = self.situation.config.graceful_timeout, self.situation.shutdown.deadline
            patience = max(QUIT_GRACE, min(graceful, deadline - now))
            for pid, tie in list(self.known.items()):
                if self.is_over(tie):
                    self.end(pid, tie.name, now, patience)
        for pid in [pid for pid, until in self.told.items() if now >= until]:
            self.log.warning(f"pid {pid}, which the app had forked, has not ended on a SIGTERM: it is killed")
            self.told[pid] = NEVER
            os.kill(pid, signal.SIGKILL)

    def look(self) -> None:
        """Find those that are new."""
        tie = min(self.ended, key=lambda tie: tie.ends_with, default=DETACHED)
        self.ended = []
        ours = {child.pid for child in self.children()} | self.awaited.keys()
        for pid in adopted() - ours - self.known.keys() - self.told.keys():
            self.known[pid] = tie

    def is_over(self, tie: Tie) -> bool:
        """Has everything ended that it was to end with?"""
        if tie.ends_with == SERVER:
            return self.situation.stopping and not self.children()
        loaded = (child for child in self.children() if isinstance(child, (WorkerProcess, Zygote)))
        return all(child.generation != tie.ends_with for child in loaded)

    def end(self, pid: int, name: str, now: float, patience: float) -> None:
        if not is_copy(pid):
            self.known[pid] = DETACHED
            return
        del self.known[pid]
        self.told[pid] = now + patience
        self.log.info(f"{name} has left pid {pid} behind, which the app had forked: it has {patience:.0f} s to end")
        os.kill(pid, signal.SIGTERM)
