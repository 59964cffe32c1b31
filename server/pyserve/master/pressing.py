"""The pressing: children that are late are interrupted, have their stacks written, and are killed at last.

What is done to whom, and when, is each child's ``Pressure``; a boot, a drain and a request begin one. Here it is
carried out, and requests that run for too long are found on the scoreboard.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from pyserve.master.children import DUMPED, GOES_ON, HEARD, INTERRUPTED, KILLED, Pressure, WorkerProcess, Zygote
from pyserve.master.deaths import named
from pyserve.master.parts import NEVER, Part
from pyserve.rules import rollout
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config.config import Config
    from pyserve.master.children import ResponderProcess
    from pyserve.master.population import Population

BLOCKED = 3.0  # seconds without a heartbeat, of which there is one in each second


class Pressing(Part):
    def __init__(self, population: Population) -> None:
        self.population = population
        self.log = population.log
        self.awake_since = 0.0  # CLOCK_MONOTONIC seconds; what was to be seen before was not looked at in time

    def soonest(self, now: float) -> float:
        """When the next child is late."""
        pressed = (child.pressure.next for child in self.population.children() if child.pressure)
        return min([NEVER, *pressed, *map(self.late_at, self.population.workers.values())])

    def put_off(self, seconds: float) -> None:
        self.awake_since = time.monotonic()
        for child in self.population.children():
            if child.pressure:
                child.pressure.put_off(seconds)
        for process in self.population.workers.values():
            process.deadline += seconds

    def turn(self, now: float) -> None:
        for process in list(self.population.workers.values()):
            self.watch_request(process, now)
        for child in self.population.children():
            if child.at_end_of_file and child.pressure is None:
                child.pressure = Pressure.deaf(now)
            if child.pressure and (step := child.pressure.due(now)):
                self.take_step(child, child.pressure, step, now)

    def take_step(
        self, child: WorkerProcess | Zygote | ResponderProcess, pressure: Pressure, step: str, now: float
    ) -> None:
        worker = child if isinstance(child, WorkerProcess) else None
        if step == INTERRUPTED and not child.killed_because:
            in_app = worker and worker.slot.get("active")
            self.log.warning(
                f"{child.name}: {pressure.why}; {'it is interrupted' if in_app else 'it has little time left'}"
            )
            if worker and worker.leaving and not worker.heartbeat:
                worker.count_cut()  # those with a heartbeat say it in their BYE
        elif step == HEARD and worker and worker.stuck:
            pressure.stuck(now)
        elif step == DUMPED:
            cut = left_of(worker) if worker else ""
            self.log.error(f"{child.name}: {pressure.why}; {cut}the stacks of its threads follow, then it is killed")
            if isinstance(child, Zygote) or pressure.why == GOES_ON:  # it may have no handler: then it dies of it
                child.killed_because = pressure.why
        if not child.press(step, pressure.why):
            self.log.error(f"{child.name}: {pressure.why}; it cannot be signalled: {os.strerror(errno.EPERM)}")
        if step == KILLED and worker and not worker.pid:
            self.give_up(worker)

    def give_up(self, worker: WorkerProcess) -> None:
        """One that never said who it is: without its channel it ends by itself."""
        self.population.worker_ended(worker)
        for zygote in self.population.zygotes:  # which should have forked it, and is stuck
            if zygote.generation == worker.worker.generation and zygote.loaded:
                zygote.killed_because = "it did not fork a worker within boot_timeout"
                zygote.signal(signal.SIGKILL)

    def watch_request(self, process: WorkerProcess, now: float) -> None:
        """Press the worker whose request has been in the app for longer than it may."""
        began = process.watched
        if process.pressed_request and began != process.pressed_request:
            process.pressed_request = 0
            if not process.leaving:
                process.pressure = None
        if now >= self.late_at(process):
            process.pressed_request = began
            elapsed = now - began / 1e9
            what = "a request has blocked it" if process.heartbeat else f"{process.slot.request_line} has run"
            limit = "{} is {:g} s".format(*limit_of(process.config))
            if self.alone_until(process):
                limit = "it runs alone, and its own timeout is over"
            why = f"{what} for {elapsed:.1f} s ({limit})"
            process.pressure = Pressure.request(now, why)

    def late_at(self, process: WorkerProcess) -> float:
        """When the request that the worker runs will have run for too long; infinity if there is none to watch.

        Before it serves, a worker has another pressure, which nothing on the scoreboard is to take from it.
        """
        began, (_, limit) = process.watched, limit_of(process.config)
        if not began or process.leaving or process.pressed_request or process.worker.state != rollout.SERVING:
            return NEVER
        since = max(began / 1e9, self.awake_since)
        if alone_until := self.alone_until(process):
            return max(alone_until, since + BLOCKED)
        return since + limit

    def alone_until(self, process: WorkerProcess) -> float:
        """Of a worker with a heartbeat, which a request that is alone may keep from it for as long as it likes."""
        return self.population.exclusion.alone_until(process.worker.id) if process.heartbeat else 0.0


def limit_of(config: Config) -> tuple[str, float]:
    """The setting that limits a request the most, and its seconds."""
    limits = {"timeout": config.timeout, "request_deadline": config.request_deadline}
    return min(((name, limit or NEVER) for name, limit in limits.items()), key=lambda pair: pair[1])


def left_of(process: WorkerProcess) -> str:
    """What a worker cannot finish before it is killed, for the log."""
    active, inside = process.slot.get("active"), process.slot.inside
    if not process.leaving or not active:
        return ""
    cut = named(active, inside) if inside else count(active, "request")
    return f"{cut} in the app; its stop hooks do not run; "
