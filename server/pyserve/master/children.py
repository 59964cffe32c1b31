"""The master's children: zygotes and workers, and how they are pressed to end."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pyserve.ipc.channel import BESIDE, FROM_WORKER, FROM_ZYGOTE, ONCE, Channel, ProtocolError
from pyserve.ipc.scoreboard import RESPONDERS_SLOT, STATES
from pyserve.ipc.stackfile import StackFile
from pyserve.rules.rollout import Worker
from pyserve.system import pidfds
from pyserve.system.signals import DUMP, INTERRUPT, INTERRUPT_GRACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.ipc.channel import Message
    from pyserve.ipc.scoreboard import Scoreboard, Slot

KILL_AFTER_DUMP = 2.0  # seconds for the stacks to be written
OWN_GRACE = 1.5  # of these, for a worker that watches its requests to cut them itself, which takes it CUT_GRACE at most
EXIT_GRACE = 2.0  # seconds for a worker that has said its last word to end
QUIT_GRACE = 2.0  # seconds for a child to end that was told to do so at once
MOST_UNBROKEN = (
    10_000  # messages of a child that come as fast as they are heard: thousands of requests cannot want so much
)

INTERRUPTED = "interrupt"
HEARD = "heard"  # has it noticed the interruption? Who has not is stuck, and waited for no longer
DUMPED = "dump"
KILLED = "kill"
SIGNALS = {INTERRUPTED: INTERRUPT, DUMPED: DUMP, KILLED: signal.SIGKILL}


RING = b"\1" + bytes(7)  # an eventfd, as the bell was at first, takes it too

GOES_ON = "a thread or an exit handler of its app goes on"
BOOTED = STATES.index("ready")


class Pressure:
    """What is done to a child that does not end in time: (when, what) in order, and why."""

    def __init__(self, why: str, steps: list[tuple[float, str]]) -> None:
        self.why = why
        self.steps = steps

    @classmethod
    def boot(cls, now: float, timeout: float, why: str) -> Pressure:
        return cls(why, [(now + timeout, DUMPED), (now + timeout + KILL_AFTER_DUMP, KILLED)])

    @classmethod
    def drain(cls, deadline: float, hook_timeout: float, own: float = 0.0) -> Pressure:
        """At the deadline what still runs is cut, for ``own`` seconds by the worker itself; the stop hooks have time
        after it."""
        heard = deadline + INTERRUPT_GRACE
        end = heard + hook_timeout
        steps = [(deadline + own, INTERRUPTED), (heard, HEARD), (end, DUMPED), (end + KILL_AFTER_DUMP, KILLED)]
        return cls("it did not end within the graceful timeout", steps)

    @classmethod
    def fast(cls, now: float) -> Pressure:
        """For a child that was told to end at once, and may be stopped or not have said its pid yet."""
        return cls("fast shutdown", [(now + QUIT_GRACE, KILLED)])

    @classmethod
    def deaf(cls, now: float) -> Pressure:
        """For a child that has closed its channel: one that ends has ended by then."""
        return cls("it has closed its channel", [(now + QUIT_GRACE, KILLED)])

    @classmethod
    def exit(cls, end: float) -> Pressure:
        """An interpreter waits for the app's threads before it ends, and runs what the app has left for the end."""
        return cls(GOES_ON, [(end, DUMPED), (end + KILL_AFTER_DUMP, KILLED)])

    @classmethod
    def request(cls, now: float, why: str) -> Pressure:
        end = now + INTERRUPT_GRACE
        return cls(why, [(now, INTERRUPTED), (end, DUMPED), (end + KILL_AFTER_DUMP, KILLED)])

    def carried(self) -> dict[str, Any]:
        return {"why": self.why, "steps": self.steps}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Pressure:
        return cls(record["why"], [(when, what) for when, what in record["steps"]])

    def stuck(self, now: float) -> None:
        """The child does not notice anything any more: its end is not to be waited for."""
        self.steps = [(now, DUMPED), (now + KILL_AFTER_DUMP, KILLED)]

    def due(self, now: float) -> str | None:
        """Take the next step that is due."""
        if self.steps and now >= self.steps[0][0]:
            return self.steps.pop(0)[1]
        return None

    def put_off(self, seconds: float) -> None:
        """Everything is due so much later."""
        self.steps = [(when + seconds, what) for when, what in self.steps]

    @property
    def next(self) -> float:
        """When the next step is due; infinity if none is."""
        return self.steps[0][0] if self.steps else float("inf")


class Child:
    """A process of ours: its channel, its pid once known, and what presses it."""

    # attributes that are JSON values
    PLAIN: tuple[str, ...] = ("pid", "status", "killed_because", "at_end_of_file", "said", "unbroken", "listens")
    SAYS: tuple[str, ...] = ()  # the kinds of its messages

    def __init__(self, channel: Channel, pid: int = 0) -> None:
        self.channel = channel
        self.pid = 0
        self.pidfd = pidfds.NONE
        self.status: int | None = None  # from waitpid
        self.pressure: Pressure | None = None
        self.killed_because = ""
        self.at_end_of_file = False
        self.said: list[str] = []  # of what is said once
        self.unbroken = 0  # messages that were heard since its channel was last found empty
        self.listens = True  # it has copies of the listening sockets
        if pid:
            self.identify(pid)

    @property
    def name(self) -> str:
        """For the log."""
        return "child"

    def identify(self, pid: int) -> None:
        """It is this process, a child of ours that nobody has waited for."""
        self.pid = pid
        self.pidfd = pidfds.open_one(pid)

    def wait(self) -> None:
        """Take its status, if it has ended."""
        self.status = pidfds.wait(self.pidfd, self.pid)

    def close(self) -> None:
        """It has ended: no channel, no pidfd."""
        self.channel.end()
        if self.pidfd != pidfds.NONE:
            os.close(self.pidfd)
            self.pidfd = pidfds.NONE

    def carried(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.PLAIN}
        pressure = self.pressure and self.pressure.carried()
        known = [self.pidfd] if self.pidfd != pidfds.NONE else []
        return {"plain": plain, "channel": self.channel.carried(), "pidfd": {"fds": known}, "pressure": pressure}

    def go_on(self, record: dict[str, Any]) -> None:
        """Take over what is not given to the constructor."""
        for name, value in record["plain"].items():
            setattr(self, name, value)
        self.pidfd = next(iter(record["pidfd"]["fds"]), pidfds.NONE)
        self.pressure = Pressure.resume(record["pressure"]) if record["pressure"] else None

    def hear(self) -> Message | None:
        """What it says next; None at the end of its channel. BlockingIOError: nothing, for now.

        ProtocolError: no child of this kind says that. LostError.
        """
        try:
            message = self.channel.receive()
        except BlockingIOError:
            self.unbroken = 0
            raise
        self.unbroken += 1
        if message is not None:
            try:
                self.admit(message)
            except ProtocolError:
                message.discard()
                raise
        return message

    def admit(self, message: Message) -> None:
        kind = message.kind
        if self.unbroken > MOST_UNBROKEN:
            raise ProtocolError(f"{self.unbroken} messages without a pause, the last is {kind}")
        if kind not in self.SAYS:
            raise ProtocolError(f"{kind} is not for it to say")
        if len(message.fds) != BESIDE.get(kind, 0):
            raise ProtocolError(f"{kind} with {len(message.fds)} descriptors")
        if kind in ONCE:
            if kind in self.said:
                raise ProtocolError(f"{kind} again")
            self.said.append(kind)

    def signal(self, number: int) -> bool:
        """Send a signal; nothing happens if the process has ended or has not said its pid yet.

        False: we have no right to, since it runs a program of somebody else's (sudo).
        """
        if self.pid and self.status is None:
            try:
                pidfds.send(self.pidfd, self.pid, number)
            except PermissionError:
                return False
        return True

    def kill(self, why: str) -> None:
        self.killed_because = why
        self.signal(signal.SIGKILL)

    def press(self, step: str, why: str) -> bool:
        """Do a step of its pressure; False: we have no right to."""
        if step == KILLED:
            self.killed_because = self.killed_because or why
        return self.signal(SIGNALS[step]) if step in SIGNALS else True


class Zygote(Child):
    """A generation's zygote."""

    SAYS = FROM_ZYGOTE
    PLAIN = (*Child.PLAIN, "generation", "preload", "loaded", "place", "stopping", "resting")

    def __init__(self, generation: int, config: Config, preload: str, channel: Channel, pid: int) -> None:
        super().__init__(channel, pid)
        self.generation = generation
        self.config = config
        self.preload = preload
        self.loaded = False
        self.place = ""  # in words: where it runs, and with what
        self.stopping = False
        self.resting = False

    def has_threads(self) -> bool:
        try:
            return len(os.listdir(f"/proc/{self.pid}/task")) > 1
        except OSError:  # it has just ended
            return False

    def rest(self) -> None:
        """Nothing in it runs until somebody wakes it."""
        self.resting = True
        self.signal(signal.SIGSTOP)

    def wake(self) -> None:
        if self.resting:
            self.resting = False
            self.signal(signal.SIGCONT)

    @classmethod
    def resume(cls, record: dict[str, Any], config: Config) -> Zygote:
        plain = record["plain"]
        zygote = cls(plain["generation"], config, plain["preload"], Channel.resume(record["channel"]), 0)
        zygote.go_on(record)
        return zygote

    @property
    def name(self) -> str:
        return f"zygote {self.generation}"


class WorkerProcess(Child):
    """A worker: what the rollout knows of it, and its slot on the scoreboard."""

    SAYS = FROM_WORKER
    PLAIN = (
        *Child.PLAIN, "slot_index", "leaving", "deadline", "boot_failure", "cut", "takes", "heartbeat",
        "pressed_request", "asked_for", "released", "heard",
    )  # fmt: skip

    def __init__(
        self,
        worker: Worker,
        config: Config,
        channel: Channel,
        slot_index: int,
        slot: Slot,
        stacks: StackFile,
        bell: int,
    ) -> None:
        super().__init__(channel)
        self.worker = worker
        self.generation = worker.generation
        self.config = config  # of its generation
        self.slot_index = slot_index
        self.slot = slot
        self.stacks = stacks
        self.bell = bell  # our end of a pipe
        self.asked_for = time.monotonic()
        self.leaving = ""  # the cause, once it was told to drain or says that it does
        self.deadline = float("inf")  # of its drain, CLOCK_MONOTONIC seconds
        self.boot_failure = ""
        self.cut = 0
        self.heard = False  # its loop has, that it drains
        self.released = False  # when it leaves by itself: it may do so
        self.takes = True  # connections from the hand-off queue, once it serves
        self.heartbeat = False  # it stores one: it watches over its requests itself, and we only over that
        self.pressed_request = 0  # request_start of the request, or the heartbeat, that the pressure is for

    @classmethod
    def expected(
        cls, worker: Worker, config: Config, slot_index: int, slot: Slot
    ) -> tuple[WorkerProcess, tuple[int, int]]:
        """One that is still to be forked, and its ends of channel and bell. OSError: no descriptors are left for it."""
        channel, theirs = Channel.pair()
        bell: list[int] = []
        try:
            bell += os.pipe2(os.O_CLOEXEC)
            stacks = StackFile.create()
        except OSError:
            channel.close()
            theirs.close()
            for fd in bell:
                os.close(fd)
            raise
        heard, rung = bell
        os.set_blocking(rung, False)  # of this end alone, which the worker does not have
        return cls(worker, config, channel, slot_index, slot, stacks, rung), (theirs.detach(), heard)

    def close(self) -> None:
        super().close()
        self.stacks.close()
        os.close(self.bell)

    def carried(self) -> dict[str, Any]:
        own = {"worker": self.worker._asdict(), "stacks": {"fd": self.stacks.fd}, "bell": {"fd": self.bell}}
        return {**super().carried(), **own}

    @classmethod
    def resume(cls, record: dict[str, Any], config: Config, scoreboard: Scoreboard) -> WorkerProcess:
        index = record["plain"]["slot_index"]
        channel, stacks = Channel.resume(record["channel"]), StackFile(record["stacks"]["fd"])
        worker, bell = Worker(**record["worker"]), record["bell"]["fd"]
        process = cls(worker, config, channel, index, scoreboard.slot(index), stacks, bell)
        process.go_on(record)
        return process

    def ring(self) -> None:
        """Have it give away what waits behind its request."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it has not heard that it was rung, or cannot
            os.write(self.bell, RING)

    @property
    def name(self) -> str:
        pid = f" pid {self.pid}" if self.pid else ""
        return f"worker {self.worker.number} gen {self.worker.generation}{pid}"

    @property
    def booted(self) -> bool:
        return "READY" in self.said and "BYE" not in self.said

    @property
    def watched(self) -> int:
        """Since when that goes on which ``timeout`` limits, in CLOCK_MONOTONIC ns; 0: nothing does."""
        return self.slot.get("heartbeat" if self.heartbeat else "request_start")

    @property
    def stuck(self) -> bool:
        """Does it still do what it did when its deadline was over? Its stop hooks are nothing that is watched."""
        return 0 < self.watched <= self.deadline * 1e9

    def count_cut(self) -> None:
        """The requests that are in the app now are not answered."""
        self.cut = max(self.cut, self.slot.get("active"))

    def press_drain(self, deadline: float) -> None:
        if self.killed_because:
            return
        self.deadline = deadline
        if self.slot.get("state") < BOOTED:  # nothing to finish, and no stop hooks to run
            self.pressure = Pressure.boot(deadline, 0.0, "it did not end its boot within the graceful timeout")
        else:
            self.pressure = Pressure.drain(deadline, self.config.hook_timeout, OWN_GRACE if self.heartbeat else 0.0)
        self.pressed_request = 0

    def press_exit(self, now: float) -> None:
        """It has nothing more to do."""
        if not self.killed_because:
            end = max(now + EXIT_GRACE, self.deadline if self.leaving else now)
            self.pressure = Pressure.exit(end)


class ResponderProcess(Child):
    """The process that answers 503 while no worker can."""

    name = "responder"
    SAYS = FROM_WORKER
    SLOT = RESPONDERS_SLOT
    PLAIN = (*Child.PLAIN, "leaving")
    leaving = False

    @classmethod
    def resume(cls, record: dict[str, Any]) -> ResponderProcess:
        process = cls(Channel.resume(record["channel"]))
        process.go_on(record)
        return process
