"""Recycling: which workers have served enough, and are replaced by fresh ones before anybody suffers from it.

Once a second the master looks at the scoreboard and, if there is a limit of memory, at one small file of /proc for each
worker. So no request costs anything for it, and a worker can exceed its limits by what it does in a second.
"""

from __future__ import annotations

import os
import random

from pyserve.master.children import KILLED
from pyserve.master.parts import Part
from pyserve.rules import rollout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NamedTuple

    from pyserve.config.config import Config
    from pyserve.ipc.log import Log
    from pyserve.master.children import WorkerProcess
else:
    from pyserve.records import NamedTuple

LOOK_EVERY = 1.0  # seconds
LIFETIME_JITTER = 0.1  # of max_lifetime: workers that were born together need not leave together
RUNAWAY = 2  # times max_memory: such a worker is not waited for
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


class Limits(NamedTuple):
    """What one worker may use up; 0: as much as it likes."""

    requests: int = 0
    memory: int = 0  # bytes, resident
    lives_until: float = 0.0  # monotonic seconds


def draw(config: Config, now: float) -> Limits:
    """The limits of a worker that is new, with their jitter."""
    requests, lifetime = config.max_requests, config.max_lifetime
    return Limits(
        requests + random.randint(0, config.max_requests_jitter) if requests else 0,
        config.max_memory,
        now + lifetime * random.uniform(1.0, 1.0 + LIFETIME_JITTER) if lifetime else 0.0,
    )


def worn_by(limits: Limits, requests: int, memory: int, now: float) -> str:
    """The setting whose limit a worker has reached; empty if none."""
    if limits.memory and memory >= limits.memory:
        return "max_memory"
    if limits.requests and requests >= limits.requests:
        return "max_requests"
    return "max_lifetime" if limits.lives_until and now >= limits.lives_until else ""


def is_runaway(max_memory: int, memory: int, active: int) -> bool:
    """Has a worker grown beyond what can be waited for, within a request?"""
    return bool(max_memory) and active > 0 and memory > RUNAWAY * max_memory


def resident(pid: int) -> int:
    """Bytes of a process in memory, shared ones included; 0 if that cannot be known."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


class Recycling(Part):
    """Looks at the workers, and tells the rollout which of them are worn."""

    name = "recycling"

    def __init__(self, workers: dict[int, WorkerProcess], tell: Callable[[rollout.Event], None], log: Log) -> None:
        self.workers = workers
        self.tell = tell
        self.log = log
        self.limits: dict[int, Limits] = {}  # by the rollout's id of the worker
        self.worn: set[int] = set()
        self.next_look = 0.0

    def carried(self) -> dict[str, Any]:
        return {
            "limits": [[worker, limits._asdict()] for worker, limits in self.limits.items()],
            "worn": list(self.worn),
        }

    def resume(self, record: dict[str, Any]) -> None:
        self.limits = {worker: Limits(**limits) for worker, limits in record["limits"]}
        self.worn = set(record["worn"])

    def turn(self, now: float) -> None:
        """Look at the workers that are new, and if it is time to, at all of them."""
        for process in list(self.workers.values()):
            if process.worker.state == rollout.SERVING and process.worker.id not in self.limits:
                self.limits[process.worker.id] = self.first_limits(process, self.measure(process), now)
        if now < self.next_look:
            return
        self.next_look = now + LOOK_EVERY
        self.limits = {worker: limits for worker, limits in self.limits.items() if worker in self.workers}
        self.worn &= self.limits.keys()
        for process in list(self.workers.values()):
            if process.worker.id in self.limits:
                self.look_at(process, self.limits[process.worker.id], now)

    def look_at(self, process: WorkerProcess, limits: Limits, now: float) -> None:
        memory = self.measure(process)
        if is_runaway(process.config.max_memory, memory, process.slot.get("active")):
            self.kill(process, memory)
        elif process.worker.id not in self.worn and not process.leaving:
            requests = process.slot.get("requests")
            cause = worn_by(limits, requests, memory, now)
            if cause:
                self.worn.add(process.worker.id)
                self.log.info(f"{process.name} {reached(cause, requests, memory)}: a fresh one takes its place")
                self.tell(rollout.Worn(process.worker.id, cause))

    def measure(self, process: WorkerProcess) -> int:
        """The memory that a worker takes, also for the scoreboard; 0 if nobody wants to know."""
        memory = resident(process.pid) if process.config.max_memory else 0
        if memory:
            process.slot.set("rss", memory)
        return memory

    def first_limits(self, process: WorkerProcess, memory: int, now: float) -> Limits:
        """The limits of a worker that is seen for the first time."""
        limits = draw(process.config, now)
        if limits.memory and memory >= limits.memory:  # else it would be replaced without end
            self.log.warning(
                f"{process.name} takes {memory / MIB:.0f} MiB from its start, not less than max_memory "
                f"({limits.memory / MIB:.0f} MiB): it is not replaced for that; raise max_memory"
            )
            limits = limits._replace(memory=0)
        return limits

    def kill(self, process: WorkerProcess, memory: int) -> None:
        if process.killed_because:
            return
        doing = ", ".join(process.slot.inside) or process.slot.request_line or "a request"
        limit = process.config.max_memory / MIB
        why = f"it has grown to {memory / MIB:.0f} MiB in {doing}, more than twice max_memory ({limit:.0f} MiB)"
        self.log.error(f"{process.name}: {why}; it is killed")
        process.press(KILLED, why)


def reached(cause: str, requests: int, memory: int) -> str:
    """What a worker has done to reach its limit, in words."""
    words = {
        "max_requests": f"has answered {requests} requests",
        "max_memory": f"takes {memory / MIB:.0f} MiB of memory",
        "max_lifetime": "has lived for its time",
    }
    return f"{words[cause]} ({cause})"
