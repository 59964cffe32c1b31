"""The population: every child process there is, how it is started, heard and buried.

What happens here is told to the rollout (``tell``); what the rollout wants is asked of the methods. Kernel facts
outrank messages: a child has ended when waitpid says so, or when its channel has ended before it could say its pid.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from pyserve.config import checkurl
from pyserve.config.config import Config
from pyserve.errors import BY_KIND, ExitCode, PyserveError
from pyserve.ipc import namedfds
from pyserve.ipc.channel import Channel, LostError, ProtocolError
from pyserve.ipc.scoreboard import free_slot
from pyserve.master import zygotes
from pyserve.master.children import Pressure, ResponderProcess, WorkerProcess, Zygote
from pyserve.master.deaths import explain, loss, unexplained_kill
from pyserve.master.exclusion import Exclusion
from pyserve.master.findings import Findings
from pyserve.master.orphans import Orphans
from pyserve.master.parts import NEVER, Part
from pyserve.rules import rollout
from pyserve.rules.suspects import Suspects
from pyserve.system import called, pidfds
from pyserve.system.oom import OomKills
from pyserve.system.signals import LET_GO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.ipc.channel import Message
    from pyserve.master.belongings import Belongings
    from pyserve.master.children import Child
    from pyserve.master.parts import Situation
    from pyserve.master.watch import Watch


A_TURN = 100  # messages of a child that are heard, and children that are reaped, before others have their turn
LAST_WORDS = 2000  # more messages than the buffer of a channel holds
# Why workers are killed, when it is not worth a line of its own.
FAST = "fast shutdown"
STOPPING = "it had not booted when the server stopped"


class Population(Part):
    """All zygotes and workers; ``failure`` is the last one's (exit code, reason)."""

    name = "population"

    def __init__(
        self,
        belongings: Belongings,
        watch: Watch,
        situation: Situation,
        tell: Callable[[rollout.Event], None],
        first: tuple[int, Channel] | None,
    ) -> None:
        self.belongings = belongings
        self.log = belongings.logs.error
        self.scoreboard = belongings.scoreboard
        self.watch = watch
        self.situation = situation
        self.tell = tell
        self.takers: set[int] = set()  # of connections from the queue: ids
        self.helped = False  # the responder is another one
        self.first = first  # generation 1's zygote, which has its CONFIG
        self.workers: dict[int, WorkerProcess] = {}  # by rollout's id
        self.zygotes: list[Zygote] = []
        self.responder: ResponderProcess | None = None
        self.news: list[rollout.Event] = []  # what happened while the rollout's actions were being done
        self.awaited: dict[int, int | None] = {}  # the statuses of others that somebody has started, by their pids
        self.exclusion = Exclusion(self.workers, self.news, watch, self.log)
        self.orphans = Orphans(self.children, self.awaited, situation, self.log)
        self.failure: tuple[int, str] = (ExitCode.APP, "")
        self.oom_kills = OomKills()
        self.findings = Findings()
        config = situation.config
        program = os.path.join(config.sources.cwd, sys.argv[0])
        ways = [config.sources.cwd, config.chdir, program, called.interpreter()]
        self.links = called.links(ways)  # on the ways to what was called, and where they led at the start
        self.suspects = Suspects()
        self.able = True  # are these workers of a class that takes connections from the hand-off queue?
        self.heirs: set[int] = set()  # of what is in the hand-off queue when everything drains: the workers' ids
        self.cut = 0
        self.lost = 0  # connections of which nobody knows whether a request was under way
        self.more_ended = False  # children, than were reaped in this turn

    def __bool__(self) -> bool:
        return bool(self.workers or self.zygotes or self.responder or self.news or self.orphans)

    def turn(self, now: float) -> None:
        self.flush()
        self.reap()

    def soonest(self, now: float) -> float:
        return now if self.more_ended else NEVER

    def children(self) -> list[WorkerProcess | Zygote | ResponderProcess]:
        return [*self.workers.values(), *self.zygotes, *([self.responder] if self.responder else [])]

    def carried(self) -> dict[str, Any]:
        """Only what is told is gone from ``news``."""
        return {
            "configs": {str(child.generation): child.config.carried() for child in self.loaded()},
            "workers": [process.carried() for process in self.workers.values()],
            "zygotes": [zygote.carried() for zygote in self.zygotes],
            "responder": self.responder and self.responder.carried(),
            "failure": self.failure,
            "links": self.links,
            "cut": self.cut,
            "able": self.able,
        }

    def loaded(self) -> list[WorkerProcess | Zygote]:
        """The children that have a generation, and its configuration."""
        return [*self.workers.values(), *self.zygotes]

    def resume(self, record: dict[str, Any]) -> None:
        configs = {int(generation): Config.resume(each) for generation, each in record["configs"].items()}
        for each in record["workers"]:
            process = WorkerProcess.resume(each, configs[each["worker"]["generation"]], self.scoreboard)
            self.workers[process.worker.id] = process
        self.zygotes = [Zygote.resume(each, configs[each["plain"]["generation"]]) for each in record["zygotes"]]
        self.responder = ResponderProcess.resume(record["responder"]) if record["responder"] else None
        for child in self.children():
            self.hear_of(child)  # which finds the end of a channel once more, if it was found before
            child.at_end_of_file = False
        self.failure = (record["failure"][0], record["failure"][1])
        self.links = record["links"]
        self.cut = record["cut"]
        self.able = record["able"]

    # Starting.

    def start_zygote(self, generation: int, config: Config, preload: str | None = None) -> None:
        """Start a generation's zygote; ``preload`` overrules the configuration's."""
        if preload is None and (reasons := self.findings.known(config)):
            preload = self.not_preloaded(generation, reasons, "as was found before")
        preload = preload or config.preload
        first, self.first = self.first, None
        try:
            pid, channel = first or zygotes.start(config.worker_class)
        except OSError as error:
            self.not_started(generation, f"{called.interpreter()} cannot be started: {error.strerror}")
            return
        zygote = Zygote(generation, config, preload, channel, pid)
        timeout = config.boot_timeout
        zygote.pressure = Pressure.boot(
            time.monotonic(), timeout, f"the app did not load within boot_timeout ({timeout:g} s)"
        )
        self.zygotes.append(zygote)
        self.hear_of(zygote)
        if first:
            return
        try:
            zygotes.configure(channel, config, generation, preload, self.belongings)
        except (OSError, ValueError) as error:
            self.stop_zygote(zygote)
            self.not_started(generation, f"its configuration cannot be handed over: {error}")

    def not_preloaded(self, generation: int, reasons: str, since: str = "") -> str:
        """Say so, and return the value of ``preload`` that has it so."""
        self.log.warning(
            f"generation {generation}: not preloaded, each worker imports the app for itself: "
            f"{since and since + ', '}the import {reasons}; set preload to always or never to decide it"
        )
        return "never"

    def not_started(self, generation: int, reason: str) -> None:
        self.log.error(f"generation {generation}: {reason}")
        self.failure = (ExitCode.INTERNAL, reason)
        self.news.append(rollout.LoadFailed(generation, reason, time.monotonic()))

    def hear_of(self, child: Child) -> None:
        """Wake up when a child says something, and, once its pid is known, when it ends."""
        channel, end = child.channel.fileno(), child.pidfd
        if channel not in self.watch:
            self.watch.add(channel, lambda _events: self.read(child))
        if end != pidfds.NONE and end not in self.watch:
            self.watch.add(end, lambda _events: None)  # there is nothing to read: reap() finds who has ended

    def stop_zygotes(self, generation: int) -> None:
        for zygote in self.zygotes:
            if zygote.generation == generation:
                self.stop_zygote(zygote)

    def stop_zygote(self, zygote: Zygote) -> None:
        """End it hard: it has nothing to finish, and while it imports the app it would not hear a softer word."""
        zygote.stopping = True
        zygote.signal(signal.SIGKILL)

    def rest(self, generation: int) -> bool:
        """Suspend a generation's zygote if it has threads of the app's, such as a scheduler: nobody uses it, and those
        of the generation that serves do the same work. False if it has none."""
        resting = [zygote for zygote in self.zygotes if zygote.generation == generation and zygote.has_threads()]
        for zygote in resting:
            zygote.rest()
        return bool(resting)

    def is_preloaded(self, generation: int) -> bool:
        """Has its zygote the app's code in memory? Else each of its workers imports what it finds."""
        return all(zygote.preload != "never" for zygote in self.zygotes if zygote.generation == generation)

    def spawn(self, worker: rollout.Worker) -> None:
        zygote = next(z for z in self.zygotes if z.generation == worker.generation and not z.stopping)
        try:
            index = free_slot({process.slot_index for process in self.workers.values()})
            slot = self.scoreboard.slot(index)
            slot.clear()
            self.exclusion.born(slot)
            process, ends = WorkerProcess.expected(worker, zygote.config, index, slot)
        except OSError as error:
            self.log.error(f"worker {worker.number} cannot be started: {error.strerror}")
            self.news.append(rollout.WorkerGone(worker.id, str(error), time.monotonic()))
            return
        timeout = process.config.boot_timeout
        process.pressure = Pressure.boot(
            time.monotonic(), timeout, f"it was not ready within boot_timeout ({timeout:g} s)"
        )
        self.workers[worker.id] = process
        self.tell_siblings()
        self.hear_of(process)
        channel_end, bell_end = ends
        fds = [channel_end, process.stacks.fd, bell_end]
        try:
            zygote.wake()
            zygote.channel.send("SPAWN", fds=fds, id=worker.id, number=worker.number, slot=index)
        except OSError as error:  # it had to wait, and there was no descriptor for that
            process.boot_failure = f"it cannot be asked for: {error.strerror}"
            self.log.error(f"{process.name} cannot be started: {error.strerror}")
        for fd in ends:
            os.close(fd)

    def tell_siblings(self) -> None:
        """Let each worker know how many others there are, which it must take turns with."""
        for process in self.workers.values():
            process.slot.set("siblings", len(self.workers) - 1)

    # Asking.

    def check(self, worker_id: int) -> None:
        """Have a worker that is ready answer the check request of its configuration."""
        process = self.workers[worker_id]
        process.worker = process.worker._replace(state=rollout.CHECKING)
        self.exclusion.serving(process)
        process.channel.send("CHECK")
        timeout = process.config.boot_timeout
        why = f"reload_check {process.config.reload_check} was not answered within boot_timeout ({timeout:g} s)"
        process.pressure = Pressure.boot(time.monotonic(), timeout, why)

    def go(self, worker_id: int) -> None:
        process = self.workers[worker_id]
        process.worker = process.worker._replace(state=rollout.SERVING)
        self.exclusion.serving(process)
        process.channel.send("GO")
        self.log.info(f"{process.name} is serving")
        self.release()

    def let_take(self, takers: set[int]) -> None:
        """Have these workers, by their ids, and no others take connections from the hand-off queue."""
        if takers == self.takers:
            return
        self.takers = takers
        self.tell_takers()
        for worker_id, process in self.workers.items():
            allowed = worker_id in takers
            if allowed != process.takes and process.worker.state == rollout.SERVING:
                process.takes = allowed
                process.channel.send("TAKE", allowed=allowed)

    def let_help(self, helped: bool) -> None:
        """Does the responder take them, too, from workers that cannot answer?"""
        if helped != self.helped:
            self.helped = helped
            self.tell_takers()

    def tell_takers(self) -> None:
        """Each process is told how many others take."""
        if self.responder:
            self.scoreboard.slot(self.responder.SLOT).set("takers", len(self.takers))
        for worker_id, process in self.workers.items():
            process.slot.set("takers", len(self.takers - {worker_id}) + self.helped)

    def drain(self, worker_id: int, cause: str, deadline: float, *, final: bool) -> None:
        """Have a worker finish what it has begun and leave; ``final``: everything stops."""
        process = self.workers.get(worker_id)
        if process is None:
            return  # it could not be started
        process.worker = process.worker._replace(state=rollout.DRAINING)
        if not process.leaving:
            process.leaving = cause
            process.press_drain(deadline)
            self.tell_to_drain(process, final=final)
            self.log.debug(f"{process.name} drains ({cause})")

    def tell_to_drain(self, process: WorkerProcess, *, final: bool) -> None:
        process.released = True
        if process.killed_because:
            return
        takes = process.worker.id in self.heirs
        process.channel.send("DRAIN", cause=process.leaving, deadline=process.deadline, final=final, takes=takes)

    def release(self) -> None:
        """Those that leave by themselves may do so as soon as another serves. Until then they are needed if the TERM
        that told them was sent to all processes, and the master has yet to hear it."""
        if self.accepting():
            for process in self.workers.values():
                if process.leaving and not process.released:
                    self.tell_to_drain(process, final=False)

    def accepting(self) -> list[WorkerProcess]:
        return [p for p in self.workers.values() if p.worker.state == rollout.SERVING and not p.leaving]

    def drain_all(self, deadline: float, *, boots: bool) -> None:
        """Everything is about to drain: see who serves the hand-off queue to its end, and let those that leave already
        have no more time than the others. ``boots``: workers that boot shall, if there is nobody else."""
        there = self.workers.values()
        heirs = self.accepting() or [process for process in there if process.booted]
        booting = [process for process in there if not process.booted]
        if not heirs and boots:
            heirs, booting = booting, []
        self.heirs = {process.worker.id for process in heirs if self.able}
        self.takers = set(self.heirs)
        self.tell_takers()
        for process in there:
            if process.leaving:
                if deadline < process.deadline:
                    process.press_drain(deadline)
                self.tell_to_drain(process, final=True)
        for process in booting:  # they have nothing to finish, and may be importing for long
            process.kill(STOPPING)

    # The listening sockets at the end.

    def listening(self) -> list[Child]:
        """Who has copies of them."""
        return [child for child in self.children() if child.listens]

    def let_go(self) -> None:
        """Have workers close them that are busy, and have not heard what they were told."""
        for process in self.workers.values():
            if process.listens and self.able:
                process.signal(LET_GO)

    def let_leave(self) -> bool:
        """Nobody listens any more. Who has heard of the stop stays until all have: what waits behind a long request
        comes to them. False if it is not time."""
        if not all(process.heard for process in self.workers.values()):
            return False
        for process in self.workers.values():
            process.channel.send("CLOSED")
        if self.responder:
            self.responder.channel.send("CLOSED")
        return True

    def quit(self) -> None:
        """End every worker now."""
        for process in self.workers.values():
            process.killed_because = FAST
            process.pressure = Pressure.fast(time.monotonic())
            process.signal(signal.SIGKILL if process.worker.state == rollout.BOOTING else signal.SIGQUIT)
        if self.responder:
            self.responder.kill(FAST)

    def reopen_logs(self) -> None:
        for child in self.children():
            try:
                namedfds.send(child.channel, "REOPEN", self.belongings.logs.named())
            except OSError as error:  # it had to wait, and there was no descriptor for that
                self.log.error(f"{child.name} writes on into the old log files: {error.strerror}")

    def flush(self) -> None:
        """Send what channels could not take before."""
        for child in self.children():
            if child.channel.outbox:
                try:
                    child.channel.flush()
                except OSError as error:
                    self.give_up(child, f"nothing can be said to it: {error.strerror}")

    # Hearing.

    def read(self, child: Child, most: int = A_TURN) -> None:
        """Take what a child has said; at the end of its channel, wait for the kernel to say how it ended.

        Whatever goes wrong meanwhile is the end of this child, and of nothing else.
        """
        try:
            for _ in range(most):
                if child.at_end_of_file or not self.hear_one(child):
                    return
        except ProtocolError as error:
            self.give_up(child, f"it misused its channel: {error}")
        except Exception as error:  # noqa: BLE001  (as the docstring says)
            import traceback

            self.log.error(f"BUG: {child.name} cannot be heard\n{traceback.format_exc()}")
            self.give_up(child, f"it cannot be heard: {error!r}")

    def hear_one(self, child: Child) -> bool:
        """False: it has said nothing more."""
        try:
            message = child.hear()
        except BlockingIOError:
            return False
        except LostError as error:
            self.log.error(f"{child.name}: a message was lost: {error}")
            return True
        if message is None:
            child.at_end_of_file = True
            self.watch.drop(child.channel.fileno())
            if isinstance(child, WorkerProcess) and not child.pid:
                self.worker_ended(child)
            return False
        try:
            if isinstance(child, Zygote):
                self.on_zygote(child, message)
            elif isinstance(child, WorkerProcess):
                self.on_worker(child, message)
            elif isinstance(child, ResponderProcess):
                self.on_responder(child, message)
        finally:
            message.discard()  # nobody has taken what came with it
        return True

    def give_up(self, child: Child, why: str) -> None:
        """Hear nothing more of a child, and end it. The line on its end says why."""
        child.at_end_of_file = True
        self.watch.drop(child.channel.fileno())
        child.kill(why)
        if isinstance(child, WorkerProcess) and not child.pid:
            self.log.error(f"{child.name} is given up: {why}")
            self.worker_ended(child)

    def on_zygote(self, zygote: Zygote, message: Message) -> None:
        generation = zygote.generation
        if zygote.stopping:
            return
        if zygote.loaded != (message.kind == "SPAWN_FAILED"):
            raise ProtocolError(f"{message.kind} from a zygote that has {'' if zygote.loaded else 'not '}loaded")
        if message.kind == "LOADED":
            zygote.loaded = True
            zygote.pressure = None
            zygote.killed_because = ""
            self.tell_place(zygote, message["folder"], message["interpreter"])
            self.log.info(f"generation {generation}: loaded {message['description']} in {message['seconds']:.2f} s")
            self.tell(rollout.Loaded(generation))
        elif message.kind == "LOAD_FAILED":
            self.fail(message, f"generation {generation}: ")
            zygote.stopping = True
            self.tell(rollout.LoadFailed(generation, message["message"], time.monotonic()))
        elif message.kind == "UNSAFE":
            if zygote.preload != "auto":
                raise ProtocolError("UNSAFE, which nobody wants to know")
            self.findings.note(zygote.config, message["reasons"])
            preload = self.not_preloaded(generation, message["reasons"])
            zygote.stopping = True
            self.stop_zygote(zygote)
            self.start_zygote(generation, zygote.config, preload)
        elif message.kind == "SPAWN_FAILED":
            worker = self.workers.get(message["id"])
            if worker and worker.generation == generation and not worker.pid and not worker.boot_failure:
                worker.boot_failure = message["message"]
                self.fail(message, f"{worker.name} could not be forked: ")

    def tell_place(self, zygote: Zygote, folder: str, interpreter: str) -> None:
        """Say where a generation runs, if that is not where the others do, and if a release has left it behind."""
        zygote.place = f"working directory {folder}, interpreter {interpreter}"
        if any(other.loaded and other.place != zygote.place for other in self.zygotes):
            self.log.info(f"generation {zygote.generation}: {zygote.place}")
        for what, path in (("working directory", folder), ("interpreter", interpreter)):
            if link := called.left_behind(self.links, path):
                self.log.warning(
                    f"generation {zygote.generation}: {link} leads to {os.path.realpath(link)} now, but the {what} is "
                    f"still {path}: call it, or set chdir, by way of the link (deploy/README.md)"
                )

    def on_worker(self, process: WorkerProcess, message: Message) -> None:
        if message.kind == "HELLO":
            self.on_hello(process, message["pid"])
        elif not process.pid and message.kind != "LEAVING":  # which a signal handler says, at any time
            raise ProtocolError(f"{message.kind} before HELLO")
        elif message.kind == "READY":
            self.on_ready(process, message)
        elif message.kind == "BOOT_FAILED":
            process.boot_failure = message["message"]
            self.fail(message, f"{process.name} could not start: ")
            process.press_exit(time.monotonic())
        elif message.kind == "LEAVING":
            self.on_leaving(process, message["cause"])
        elif message.kind == "LET_GO":
            process.listens, process.heard = False, process.heard or message["heard"]
        elif message.kind == "CHECKED":
            self.on_checked(process, message["status"], message["details"])
        elif message.kind == "BYE":
            process.cut += message["cut"]
            process.press_exit(time.monotonic())
        elif message.kind in ("EXCLUSIVE", "IDLE"):
            self.exclusion.heard(process, message)

    def on_ready(self, process: WorkerProcess, message: Message) -> None:
        process.heartbeat, self.able = message["heartbeat"], message["takes"]
        if process.leaving:
            process.press_drain(process.deadline)  # now with what a worker that has booted has to end
        else:
            process.pressure = None
        self.tell(rollout.WorkerReady(process.worker.id, time.monotonic() - process.asked_for))

    def on_leaving(self, process: WorkerProcess, cause: str) -> None:
        """It stops accepting by itself."""
        if process.leaving:
            return
        process.leaving = cause
        why = "was told to stop" if cause == "SIGTERM" else "has to leave"
        self.log.info(f"{process.name} {why} ({cause}); a replacement starts")
        process.press_drain(time.monotonic() + process.config.graceful_timeout)
        self.tell(rollout.WorkerLeaving(process.worker.id))
        self.release()

    def on_checked(self, process: WorkerProcess, status: int, details: str) -> None:
        if process.leaving:
            return
        if process.worker.state != rollout.CHECKING:
            raise ProtocolError("CHECKED, which nobody wants to know")
        process.pressure = None
        answered = f"with {status}" if status else "with nothing"
        text = f"reload_check {process.config.reload_check} was answered {answered}"
        if checkurl.is_good(status):
            self.log.info(f"{process.name}: {text}")
            self.tell(rollout.CheckPassed(process.worker.id))
        else:
            self.log.error(f"{process.name}: {text}\n{details}".rstrip())
            self.tell(rollout.CheckFailed(process.worker.id, text))

    def on_hello(self, process: WorkerProcess, pid: int) -> None:
        """Believe a worker's pid only if the kernel says that it is our child, and nobody else's: signals go there."""
        others = {*self.awaited, *(child.pid for child in self.children())}
        if pid in others or not pidfds.is_child(pid):
            raise ProtocolError(f"HELLO from pid {pid}, which cannot be")
        process.identify(pid)
        self.hear_of(process)
        if process.killed_because == STOPPING:
            process.kill(STOPPING)

    def on_responder(self, responder: ResponderProcess, message: Message) -> None:
        if message.kind == "READY" and not responder.leaving:
            responder.pressure = None
        elif message.kind == "LET_GO":
            responder.listens = False
        elif message.kind == "BOOT_FAILED":
            self.log.error(f"responder: {message['message']}\n{message['details']}".rstrip())

    def fail(self, message: Message, prefix: str) -> None:
        self.failure = (BY_KIND.get(message["kind"], PyserveError).exit_code, message["message"])
        self.log.error(f"{prefix}{message['message']}\n{message['details']}".rstrip())

    # Ending.

    def reap(self) -> None:
        """Take the statuses of children that have ended, and tell what could not be told before."""
        news = self.news[:]
        self.news.clear()
        for event in news:
            self.tell(event)
        self.more_ended = True  # for all that is known: an app can have them end as fast as they are reaped
        for _ in range(A_TURN):
            pid = pidfds.ended()
            if not pid:
                self.more_ended = False
                return
            self.reap_one(pid)

    def reap_one(self, pid: int) -> None:
        child = self.whose(pid)
        if child is None:
            status = pidfds.wait(pidfds.NONE, pid)  # of the app's making, and left to us when its parent ended
            self.orphans.reaped(pid)
            if pid in self.awaited:
                self.awaited[pid] = status
            return
        self.read(child, LAST_WORDS)
        child.wait()
        self.orphans.lost(child)
        if isinstance(child, Zygote):
            self.zygote_ended(child)
        elif isinstance(child, WorkerProcess):
            self.worker_ended(child)
        else:  # its end is noticed by who needs it
            self.bury(child)

    def whose(self, pid: int) -> Child | None:
        """Which child has this pid. Nobody has waited for it, so that the number cannot be another's meanwhile."""
        for process in [process for process in self.workers.values() if not process.pid]:
            self.read(process)  # its HELLO may have come with its end
        return next((child for child in self.children() if child.pid == pid), None)

    def zygote_ended(self, zygote: Zygote) -> None:
        self.zygotes.remove(zygote)
        self.bury(zygote)
        for process in [p for p in self.workers.values() if not p.pid and p.worker.generation == zygote.generation]:
            self.read(process)  # it was being forked: either it says HELLO or its channel ends
        if zygote.stopping and not zygote.killed_because:
            return
        ended = self.explain(zygote)
        self.log.error(f"{zygote.name} {ended}")
        if zygote.stopping:
            return
        now = time.monotonic()
        if zygote.loaded:
            self.tell(rollout.ZygoteGone(zygote.generation, now))
        else:
            reason = f"the process that loads the app {ended}"
            self.failure = (ExitCode.APP, reason)
            self.tell(rollout.LoadFailed(zygote.generation, reason, now))

    def worker_ended(self, process: WorkerProcess) -> None:
        if self.workers.pop(process.worker.id, None) is None:
            return
        process.at_end_of_file = True  # read() may be in the middle of its messages
        self.bury(process)
        ended = self.explain(process)
        clean = process.status == 0 and process.leaving
        if not clean:
            process.count_cut()
        if self.situation.stopping:
            self.cut += process.cut
            self.lost += 0 if clean else max(0, process.slot.get("connections") - process.cut)
            self.takers.discard(process.worker.id)
            self.tell_takers()
        now, inside = time.monotonic(), process.slot.inside
        lost = loss(process.cut, inside)
        has_served = bool(inside or process.slot.get("requests"))
        process.slot.clear()
        self.exclusion.ended(process.worker.id)
        self.tell_siblings()
        if clean:
            self.log.info(f"{process.name} has left ({process.leaving})")
        elif process.killed_because not in (FAST, STOPPING):
            level = (
                self.log.info
                if process.boot_failure or (self.situation.stopping and not process.pid)
                else self.log.error
            )
            level(f"{process.name} {ended}{lost}")
            if not process.leaving and (suspicion := self.suspects.note(inside, now)):
                self.log.error(suspicion)
        reason = process.boot_failure or f"a worker {ended}"
        self.tell(rollout.WorkerGone(process.worker.id, reason, now, has_served))

    def bury(self, child: Child) -> None:
        self.watch.drop(child.channel.fileno())
        self.watch.drop(child.pidfd)
        child.close()

    def explain(self, child: Child) -> str:
        """How a child has ended."""
        unexplained = unexplained_kill(child.status, child.killed_because)
        oom = self.oom_kills.explain_one() if unexplained else None
        return explain(child.status, child.killed_because, oom=oom)
