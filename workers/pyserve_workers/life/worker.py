"""A worker's life, the same for every class: boot, handshake with the master, drain, stop hooks.

    BOOTING → READY → SERVING → DRAINING → EXITED

A worker never accepts before the master's GO. A class of workers implements the abstract methods (see sync.py). The
state is also in the worker's slot of the scoreboard.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import sys
import time
from abc import ABC, abstractmethod

import pyserve
import pyserve_workers
from pyserve import states
from pyserve.app import lifecycle
from pyserve.errors import HookError, PyserveError, RequestTimeout
from pyserve.failpoint import failpoint
from pyserve.ipc import namedfds
from pyserve.ipc.channel import ProtocolError, encode
from pyserve.ipc.log import ErrorStream
from pyserve.ipc.logs import take_over
from pyserve.ipc.scoreboard import STATES
from pyserve.ipc.stackfile import PART_END
from pyserve.system import linux
from pyserve.system.signals import DUMP, END, INTERRUPT, LET_GO, STACKS
from pyserve_workers.native import forked, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from pyserve.ipc.channel import Channel, Message
    from pyserve_workers.life.check import Check
    from pyserve_workers.life.generation import Generation

TRANSITIONS = {
    "booting": {"ready", "draining", "exited"},
    "ready": {"serving", "draining"},
    "serving": {"draining"},
    "draining": {"exited"},
    "exited": set(),
}
# Signals that reach a worker whatever the app has blocked, and those for the master that may be the app's here.
HEARD = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP, INTERRUPT, DUMP, STACKS, LET_GO, END}
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
REPARENTING = 10.0  # seconds for the process between the zygote and this one to end
FAILED = 1  # exit code


class Worker(ABC):
    """One worker process. ``run()`` is its whole life and returns its exit code."""

    role = "worker"  # for fail-points
    multithread = False
    takes_over = False  # does it serve connections from the hand-off queue, also those that nobody has accepted before?
    heartbeat = False  # does it promise one, whatever its requests do? Then the master may press it for lack of one
    late_request: type[RequestTimeout] = RequestTimeout  # what is raised in the app
    stacks_fd = -1  # its stack file
    telling_stacks = False
    bell_fd = -1  # a pipe's end: the master asks it to give away what waits behind a long request

    def __init__(self, generation: Generation, channel: Channel, number: int, slot: int) -> None:
        self.generation = generation
        self.config = generation.config
        self.channel = channel
        self.number = number
        self.pid = os.getpid()
        self.slot = generation.scoreboard.slot(slot)
        self.log = generation.log
        self.log.rename(f"worker {number} gen {generation.number} pid {self.pid}")
        self.state = "booting"
        self.cause = ""  # why it drains
        self.deadline = math.inf  # CLOCK_MONOTONIC seconds by which it must have ended
        self.orphaned = False  # the master is gone
        self.final = False  # it drains because the whole server stops
        self.released = False  # the master knows that it drains
        self.closed = False  # nobody listens any more
        self.may_take = True  # connections from the hand-off queue, once it serves
        self.cut = 0  # requests that were not answered in full
        self.wake, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll = system.epoll()
        self.ears = system.poll()  # what control() listens to: signals and the master
        self.ears.register(self.wake, select.POLLIN)
        self.ears.register(channel.fileno(), select.POLLIN)
        self.errors = ErrorStream(self.log)
        self.check: Check | None = None  # the one under way

    # What a class implements.

    @abstractmethod
    def prepare(self) -> None:
        """Make what serving needs, once the app is loaded. Must not accept."""

    @abstractmethod
    def listen(self) -> None:
        """Begin to accept."""

    @abstractmethod
    def serve(self) -> None:
        """Serve until drained; call ``control()`` when ``self.wake`` or the channel is readable."""

    @abstractmethod
    def stop_accepting(self) -> None:
        """Close the listeners; if the drain is ``final`` and nobody else does, serve their queues to their end first.
        Idle connections go to other workers, or linger."""

    def serve_rest(self) -> None:
        """It drains, and learns that everything stops: if it may take connections over, nobody else may."""
        self.log.debug("everything stops")

    def allow_taking(self, allowed: bool) -> None:
        """Of workers that leave, their connections: for classes that can."""
        self.may_take = allowed

    @property
    @abstractmethod
    def in_app(self) -> bool:
        """May this process's main thread be running the app's code now?"""

    def take_in(self, fd: int) -> None:
        """Serve a connection that no listener gave, and own its descriptor."""
        os.close(fd)
        raise NotImplementedError(f"{type(self).__name__} serves only what it has accepted itself")

    # Its life.

    def run(self) -> int:
        try:
            try:
                failpoint(f"{self.role}.booting")
                self.adopt()
                began = time.monotonic()
                self.boot()
                self.become("ready")
                seconds = time.monotonic() - began
                self.channel.send("READY", seconds=seconds, heartbeat=self.heartbeat, takes=self.takes_over)
                self.serve()
                self.end()
            finally:
                forked.check("outside of requests", only_exit=True)  # anything else is of ours, which finds all closed
        except PyserveError as error:
            self.channel.send("BOOT_FAILED", kind=error.kind, message=error.message, details=error.details)
            return FAILED
        except Exception:  # noqa: BLE001  (the log is where an operator looks, not standard error)
            import traceback

            self.log.critical(f"BUG: this worker failed; please report it\n{traceback.format_exc()}")
            return FAILED
        return 0

    def disown(self) -> None:
        """In a process that the app has forked (see forked.py)."""
        if self.state in ("draining", "exited"):  # the listeners are closed, or the class knows which are not
            self.generation.listener_fds = []
        self.generation.disown()
        for fd in (self.wake, self.wake_writer, self.stacks_fd, self.bell_fd):
            if fd >= 0:
                system.close(fd)
        self.channel.close()
        self.epoll.close()  # and what still came here would fail

    def adopt(self) -> None:
        """Become the master's child, tie this life to the master's, and say hello."""
        until = time.monotonic() + REPARENTING
        while os.getppid() != self.generation.master_pid:
            if os.getppid() == 1 or time.monotonic() > until:
                os._exit(FAILED)  # the master is gone
            time.sleep(0.0005)
        self.install_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.generation.signal_mask - HEARD)
        linux.set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != self.generation.master_pid:
            os._exit(FAILED)
        self.slot.set("generation", self.generation.number)
        self.slot.set("number", self.number)
        self.slot.set("pid", self.pid)
        self.slot.set("state", STATES.index(self.state))
        self.channel.send("HELLO", pid=self.pid)
        self.set_title("booting")

    def install_signals(self) -> None:
        notice = encode("LEAVING", {"cause": "SIGTERM"})
        seconds = math.ceil(self.config.graceful_timeout + self.config.hook_timeout) + 5
        linux.guard_worker(self.wake_writer, self.channel.fileno(), notice, seconds)
        linux.hold_listeners(self.generation.owned_fds)
        linux.give_up_listeners(LET_GO, encode("LET_GO", {"heard": False}))
        linux.ignore_signals(IGNORED, True)  # the app may use them
        try:
            linux.prepare_end(END)
        except OSError as error:
            self.log.warning(f"no timer ends this worker if it is stuck when the master is gone: {error.strerror}")
        signal.signal(INTERRUPT, self.on_interrupt)
        faulthandler.register(DUMP, file=self.log.fd, all_threads=True)
        faulthandler.register(STACKS, file=self.stacks_fd, all_threads=True)
        linux.mark_end(STACKS, self.stacks_fd)

    def boot(self) -> None:
        from pyserve_workers.life.apploader import user_traceback

        try:
            if self.generation.app is None:
                self.generation.load_app()
            for event in ("after_fork", "on_init", "on_bootstrap"):
                lifecycle.run_start(event, self.log.debug)
        except lifecycle.HookFailedError as error:
            raise HookError(str(error), user_traceback(error.__cause__ or error)) from None
        self.install_signals()  # again: the app may have set its own
        self.hear_signals()
        self.prepare()
        self.epoll.register(self.channel.fileno(), select.EPOLLIN)
        self.epoll.register(self.wake, select.EPOLLIN)

    def hear_signals(self) -> None:
        """Whatever the app has blocked: in the import, a hook or a request."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

    def become(self, state: str) -> None:
        after = states.become("worker", TRANSITIONS, self.state, state)
        failpoint(f"{self.role}.{state}")
        self.state = after
        self.slot.set("state", STATES.index(state))
        self.set_title("" if state == "serving" else state)

    def set_title(self, state: str) -> None:
        from setproctitle import setproctitle

        shown = f" {state}" if state else ""
        setproctitle(f"pyserve: worker {self.number} gen {self.generation.number}{shown} [{self.generation.title}]")

    def end(self) -> None:
        self.slot.set("heartbeat", 0)  # the loop has ended; hooks have a time of their own
        lifecycle.run_stop("on_shutdown", self.cause, self.log.debug, self.hook_failed)
        lifecycle.close()
        self.errors.flush()
        self.channel.send("BYE", cut=self.cut)
        self.become("exited")

    def hook_failed(self, text: str, error: BaseException) -> None:
        from pyserve_workers.life.apploader import user_traceback

        self.log.error(f"{text}\n{user_traceback(error)}")

    # What the master and signals say.

    def control(self) -> None:
        """Take a TERM's wake-up and all that the master has said."""
        while ready := self.ears.poll(0):
            for fd, _ in ready:
                if fd == self.wake:
                    os.read(self.wake, 64)
                    if os.getppid() != self.generation.master_pid:
                        self.master_lost()  # the kernel sent the TERM
                    elif self.state != "draining":
                        self.drain("SIGTERM", time.monotonic() + self.config.graceful_timeout, final=False)
                else:
                    self.hear_master()
        if self.check is not None and self.check.is_over():
            self.tell_check(self.check)

    def hear_master(self) -> None:
        try:
            message = self.channel.receive()
        except ProtocolError as error:  # no descriptor was free for those that came with it
            self.log.error(f"a message of the master was lost: {error}")
        else:
            self.obey(message)

    def told_to_leave(self) -> bool:
        """Has a TERM or a DRAIN come that control() has not heard? What the master has said before it is obeyed."""
        while ready := [fd for fd, _ in self.ears.poll(0)]:
            if self.wake in ready or self.channel.peek() in ("DRAIN", None):
                return True
            self.hear_master()
        return False

    def obey(self, message: Message | None) -> None:
        if message is None:
            self.master_lost()
        elif message.kind == "GO" and self.state == "ready":
            self.become("serving")
            self.listen()
        elif message.kind == "CHECK" and self.state == "ready":
            self.begin_check()
        elif message.kind == "DRAIN":
            self.told_to_drain(message)
        elif message.kind == "CLOSED":
            self.closed = True
        elif message.kind == "TAKE":
            self.allow_taking(message["allowed"])
        elif message.kind == "STACKS":
            os.write(self.stacks_fd, self.waiting_stacks().encode("utf-8", "backslashreplace") + PART_END)
        elif message.kind == "REOPEN":
            take_over(namedfds.of(message), self.generation.log_fds)
            message.close()

    def told_to_drain(self, message: Message) -> None:
        """Perhaps not for the first time: what is stronger or sooner counts."""
        self.released = True
        self.may_take = message["takes"]
        if self.state != "draining":
            self.drain(message["cause"], message["deadline"], final=message["final"])
        self.deadline = min(self.deadline, message["deadline"])
        if message["final"] and not self.final:
            self.final = True
            self.serve_rest()

    def begin_check(self) -> None:
        from pyserve_workers.life.check import Check

        self.check = Check(self.config.reload_check or "", self.log)
        self.epoll.register(self.check.fd, select.EPOLLIN)
        try:
            self.take_in(self.check.server_fd)
        except NotImplementedError as error:
            self.log.error(str(error))
            self.tell_check(self.check)

    def tell_check(self, check: Check) -> None:
        self.check = None
        self.epoll.unregister(check.fd)
        status, details = check.close()
        if not self.orphaned:
            self.channel.send("CHECKED", status=status, details=details)

    def master_lost(self) -> None:
        if self.orphaned:
            return
        self.orphaned = True
        self.epoll.unregister(self.channel.fileno())
        self.ears.unregister(self.channel.fileno())
        linux.end_after(math.ceil(self.config.graceful_timeout + self.config.hook_timeout) + 5)
        if self.state != "draining":
            self.log.error("the master is gone: finishing the requests under way, then leaving")
            served = self.state == "serving"
            self.drain("master lost", time.monotonic() + self.config.graceful_timeout, final=served)

    def drain(self, cause: str, deadline: float, *, final: bool) -> None:
        """Stop accepting and let what is under way end; the stop hooks that come before that run now."""
        if self.state == "ready":
            self.log.debug("told to leave before it served")
        self.cause, self.deadline, self.final = cause, deadline, final
        self.become("draining")
        linux.hold_listeners([])  # from here on their numbers may become the app's
        self.stop_accepting()
        if not self.orphaned:
            self.channel.send("LET_GO", heard=True)
        self.announce()

    def announce(self) -> None:
        """Tell the app that this worker is leaving."""
        cause = self.cause
        lifecycle.run_stop("on_destroy", cause, self.log.debug, self.hook_failed)
        lifecycle.run_stop("before_shutdown", cause, self.log.debug, self.hook_failed)

    def on_interrupt(self, _number: int, frame: FrameType | None) -> None:
        """The master says that the request in the app has run for too long, or that the graceful deadline is over."""
        if os.getpid() != self.pid:
            return  # a process that the app forked
        self.tell_stacks(frame)
        if self.state != "booting" and self.in_app:
            if self.heartbeat and self.state == "draining":
                self.cut += 1
            raise self.late_request

    def tell_stacks(self, frame: FrameType | None) -> None:
        """Into the log. Once at a time: asked for them while it collects them, it might be in the middle of the imports
        that this takes the first time."""
        if self.telling_stacks:
            return
        self.telling_stacks = True
        try:
            self.log.error(f"{self.busy_with}: the stacks of this worker's threads\n{self.stacks(frame)}")
        finally:
            self.telling_stacks = False

    @property
    def busy_with(self) -> str:
        """What it does now, for the log."""
        return self.slot.request_line or self.state

    def stacks(self, frame: FrameType | None) -> str:
        return stacks(frame)

    def waiting_stacks(self) -> str:
        """The stacks of what is no thread and waits in this worker's loop."""
        return ""


OUR_FILES = (os.path.dirname(pyserve_workers.__file__), os.path.dirname(pyserve.__file__), "<string>")


def _is_ours(filename: str) -> bool:
    return filename.startswith(OUR_FILES)


def stacks(main: FrameType | None) -> str:
    """Where every thread is now in the code that is not ours, most recent call last; the calling one at ``main``.
    Those that are in ours only are left out."""
    import _thread

    here = _thread.get_ident()
    others = [stack_of(ident, frame) for ident, frame in sys._current_frames().items() if ident != here]
    return "\n".join(filter(None, [stack_of(here, main), *others]))


def stack_of(ident: int, frame: FrameType | None) -> str:
    """The same of one thread, under its name."""
    threading = sys.modules.get("threading")
    names = {thread.ident: thread.name for thread in threading.enumerate()} if threading else {ident: "MainThread"}
    lines = stack(frame)
    return f"Thread {names.get(ident, ident)}:\n{lines}" if lines else ""


def stack(frame: FrameType | None) -> str:
    """The code that is not ours on the way to a frame, most recent call last."""
    import traceback

    summary = traceback.extract_stack(frame) if frame is not None else []
    first = next((index for index, entry in enumerate(summary) if _is_ours(entry.filename)), 0)  # before it: its start
    return "".join(traceback.format_list([entry for entry in summary[first:] if not _is_ours(entry.filename)]))
