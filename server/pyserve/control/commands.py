"""The commands of the control socket: what each does to the master, and what it answers."""

from __future__ import annotations

import os
import time

from pyserve.app.alone import RETRY_AFTER
from pyserve.control import gatecommands, status
from pyserve.control.conversation import Command, answer
from pyserve.master.recycling import resident
from pyserve.rules import rollout
from pyserve.system.signals import STACKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.control.conversation import Conversation
    from pyserve.master.children import WorkerProcess
    from pyserve.master.master import Master

ALL = -1  # instead of a worker's number
STACKS_TICK = 0.02  # seconds between looks at stacks that are being written
STACKS_LIMIT = 5.0  # seconds that a worker has to write them: it may have to wait for a processor
STACKS_EXTRA = 1.0  # seconds more for what only the worker's own loop knows
PROCESS_STATES = {"T": "it is stopped", "t": "it is being traced", "D": "it waits for a device", "Z": "it has ended"}


# status


def tell_status(master: Master) -> Conversation:
    yield "status", whole_status(master)
    return answer(True, "")


def whole_status(master: Master) -> dict[str, Any]:
    from pyserve import __version__

    state, population = master.situation.state, master.population
    now = time.monotonic_ns()
    exclusion = master.exclusion
    detained = exclusion.detained
    workers = []
    for worker_id, process in population.workers.items():
        process.slot.set("rss", resident(process.pid))
        since = int(detained.get(worker_id, 0) * 1e9)
        workers.append(status.of_worker(process.worker, process.pid, process.leaving, process.slot, now, since))
    workers.sort(key=lambda worker: (worker["worker"], worker["generation"]))
    zygotes = {z.generation: (z.pid, resident(z.pid)) for z in population.zygotes if not z.stopping}
    return {
        "pyserve": __version__,
        "name": master.situation.config.proc_name,
        "pid": os.getpid(),
        "uptime": now / 1e9 - master.began,
        "phase": rollout.STOPPING if master.situation.stopping else state.phase,
        "degraded": state.degraded,
        "responding": master.responder.on,
        "gate": gatecommands.told(exclusion) | {"text": gatecommands.described(exclusion)},
        "generation": state.good,
        "next": state.next or None,
        "target": state.plan.target,
        "listeners": [listener.url for listener in master.belongings.listeners],
        "generations": status.of_generations(state, zygotes),
        "workers": workers,
        "totals": status.totals(workers),
    }


# reload and rollback


def reload(master: Master, wait: bool) -> Conversation:
    generation = master.reload()
    if not generation:
        return answer(False, "the reload was refused, nothing was changed")
    if not wait:
        return answer(True, f"generation {generation} is on its way", generation=generation)
    return (yield from follow(master, generation))


def rollback(master: Master, wait: bool) -> Conversation:
    generation = master.rolling.rollback()
    if not generation:
        return answer(False, "the rollback was refused, nothing was changed")
    if not wait:
        return answer(True, f"generation {generation} is on its way", generation=generation)
    return (yield from follow(master, generation))


def follow(master: Master, generation: int) -> Conversation:
    """Until a generation serves, or does not."""
    while (serves := outcome(master.situation.state, generation)) is None:
        yield 1.0
    if serves:
        return answer(True, f"generation {generation} serves", generation=generation)
    return answer(False, f"generation {generation} does not serve", generation=master.situation.state.good)


def outcome(state: rollout.State, generation: int) -> bool | None:
    """Does a generation that was asked for serve? None: it is on its way or being watched, or others still leave."""
    if state.phase == rollout.STOPPING:
        return False
    if generation == state.next or (generation > state.last and state.queued):
        return None
    if generation != state.good:
        return False
    there = {worker.generation for worker in state.workers if worker.state != rollout.DRAINING}
    return True if there <= {state.good, state.next} else None


# scale and stop


def scale(master: Master, workers: str) -> dict[str, Any]:
    try:
        by = change(workers, master.situation.state.plan.target)
    except ValueError as error:
        return answer(False, str(error))
    if not master.rolling.scale(by):
        return answer(False, "nothing was changed")
    return answer(True, "", workers=master.situation.state.plan.target)


def change(workers: str, target: int) -> int:
    """By how many workers ``"4"``, ``"+1"`` or ``"-1"`` changes their number. ValueError if it is none of them."""
    digits = workers[1:] if workers[:1] in ("+", "-") else workers
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 4):
        raise ValueError("workers is to be a number, or a number with + or - before it")
    return int(workers) if digits != workers else int(workers) - target


def stop(master: Master, wait: bool) -> Conversation:
    if master.situation.stopping:
        master.log.info("pyservectl: it is stopping already")
    master.ending.begin_graceful("pyservectl stop")
    while wait:
        yield 1.0  # the last word is said when the master ends
    return answer(True, "stopping")


# dump


def dump(master: Master, worker: int) -> Conversation:
    asked = [process for process in master.population.workers.values() if worker in (ALL, process.worker.number)]
    if not asked:
        return answer(False, f"there is no worker {worker}" if worker != ALL else "there are no workers")
    dumps = [Dump(process) for process in asked]
    complete = True
    while dumps:
        for each in [each for each in dumps if each.ended(time.monotonic())]:
            dumps.remove(each)
            complete = complete and not each.failure
            yield "stacks", each.told()
        if dumps:
            yield STACKS_TICK
    return answer(complete, "" if complete else "not every worker has answered")


class Dump:
    """The stacks of one worker: first those of its threads, from a signal handler, then what its own loop knows."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.parts: list[str] = []
        self.failure = ""
        self.limit = time.monotonic() + STACKS_LIMIT
        self.asked_loop = False
        self.request = process.slot.request_line if process.slot.get("request_start") else None
        if not process.stacks.asked:  # by another client: both then get the same
            process.stacks.empty()
            process.stacks.asked = True
            process.signal(STACKS)

    def ended(self, now: float) -> bool:
        """Is all there, or what is missing not to come?"""
        process = self.process
        if process.status is not None or process.stacks.closed:
            self.failure = self.failure or "it has ended"
            return True
        self.parts = process.stacks.parts()
        if not self.parts:
            if now > self.limit:
                self.failure = self.why_not()
            return bool(self.failure)
        if process.heartbeat and not self.asked_loop:
            self.asked_loop = True
            self.limit = now + STACKS_EXTRA
            process.channel.send("STACKS")
        process.stacks.asked = process.heartbeat and len(self.parts) == 1 and now <= self.limit
        return not process.stacks.asked

    def why_not(self) -> str:
        if not self.process.pid:
            return "it is being started"
        return f"no answer within {STACKS_LIMIT:g} s{state_of(self.process.pid)}"

    def told(self) -> dict[str, Any]:
        worker = self.process.worker
        return {
            "worker": worker.number,
            "generation": worker.generation,
            "pid": self.process.pid or None,
            "state": worker.state,
            "request": self.request,
            "error": self.failure or None,
            "text": "".join(self.parts),
        }


def state_of(pid: int) -> str:
    """``": it is stopped"``, if the kernel says what keeps a process from answering."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            letter = stat.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return f": {PROCESS_STATES[letter]}" if letter in PROCESS_STATES else ""


WEEK = 7 * 86400
RANGES = {"hold": (0, WEEK), "drain_timeout": (0, WEEK), "retry_after": (1, WEEK)}  # seconds
ANY_NUMBER = (-(1 << 31), (1 << 31) - 1)  # the range of the others

COMMANDS = {
    "status": Command(tell_status, {}),
    "reload": Command(reload, {"wait": False}, overhears=True),
    "rollback": Command(rollback, {"wait": False}, overhears=True),
    "scale": Command(scale, {"workers": ""}, overhears=True),
    "stop": Command(stop, {"wait": False}, overhears=True),
    "dump": Command(dump, {"worker": ALL}),
    "maintenance": Command(
        gatecommands.maintenance, {"action": "status", "hold": 0.0, "retry_after": 60, "page": "", "allow": []}
    ),
    "exclusive": Command(
        gatecommands.run_alone,
        {"name": "", "hold": 0.0, "retry_after": RETRY_AFTER, "drain_timeout": 30.0, "wait": False},
    ),
    "release": Command(gatecommands.release, {"ticket": 0}),
}
