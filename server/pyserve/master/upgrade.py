"""Upgrade in place, SIGUSR2: the pyserve that is installed now takes over in the same process.

    IDLE     nobody has asked for it
    WAITING  asked for while a generation is being started or rolled out; it goes on when that has ended
    PROVING  a child, a fresh exec of the same command line, proves that the new pyserve starts, accepts the
             configuration, and can make a master from the state of this one
    PROVEN   it can: the master executes the new program over itself, once nothing else is under way

Workers and zygotes are not touched and notice nothing: the process stays their parent, and their channels, the
listeners and all else that is ``carried`` stay open. Signals are blocked on the way, and delivered afterwards. Until
the exec has succeeded nothing is changed. What the new program does is in ``takeover``.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from pyserve import states
from pyserve.failpoint import failpoint
from pyserve.master import carried
from pyserve.master.deaths import explain
from pyserve.master.parts import NEVER, Part
from pyserve.rules import rollout
from pyserve.system import called, linux, memfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from pyserve.master.master import Master
else:
    from pyserve.records import NamedTuple

VARIABLE = "PYSERVE_UPGRADE"  # names the descriptor of the state to the program that takes over
PROVE = "--prove-upgrade"  # the same to the child that proves; a version that does not know it fails, and never serves
PROVEN_SAYS = "proven: pyserve "
TOLD = 64 << 10  # bytes of what the child says that are looked at

SETTLED = (rollout.STABLE, rollout.SOAKING)  # one generation has all the workers

IDLE = "idle"
WAITING = "waiting"
PROVING = "proving"
PROVEN = "proven"

# What each phase may become. Anything else is a bug.
TRANSITIONS = {
    IDLE: {WAITING},
    WAITING: {PROVING, IDLE},
    PROVING: {PROVEN, IDLE},
    PROVEN: {IDLE},
}


class Proof(NamedTuple):
    """The proving child, the leader of a process group."""

    pid: int
    output: int  # a file in memory for all that it says
    until: float  # CLOCK_MONOTONIC seconds


class Upgrade(Part):
    def __init__(self, master: Master) -> None:
        self.master = master
        self.log = master.log
        self.phase = IDLE
        self.proof: Proof | None = None

    def become(self, phase: str) -> None:
        self.phase = states.become("upgrade", TRANSITIONS, self.phase, phase)

    def ask(self) -> None:
        if self.phase != IDLE:
            self.log.info("upgrade: one is under way")
            return
        self.become(WAITING)
        if self.master.situation.state.phase not in SETTLED:
            self.log.info("upgrade: it waits until the generation that is on its way serves or is given up")
        elif not self.master.exclusion.quiet:
            self.log.info("upgrade: it waits until nobody runs alone, or wants to")

    @property
    def quiet(self) -> bool:
        """Is nothing else under way, and nothing left to be told?"""
        master = self.master
        settled = master.situation.state.phase in SETTLED and master.exclusion.quiet
        return settled and not master.population.news and not master.signals

    def soonest(self, now: float) -> float:
        return self.proof.until if self.proof else NEVER

    def turn(self, now: float) -> None:
        if self.phase == WAITING and self.quiet:
            self.prove()
        elif self.proof:
            self.look_at(self.proof)
        if self.phase == PROVEN and self.quiet:
            self.execute()

    def stop(self) -> None:
        """There is nothing to upgrade any more."""
        if self.phase != IDLE:
            self.log.info("upgrade given up: pyserve is stopping")
            self.end_proof()
            self.become(IDLE)

    def fail(self, reason: str) -> None:
        self.log.error(f"upgrade failed, nothing was changed: {reason}")
        self.become(IDLE)

    # Proving.

    def prove(self) -> None:
        """Start the child."""
        self.become(PROVING)
        opened: list[int] = []
        try:
            record = self.master.carried()
            record["parts"].pop("control", None)  # whose connections are not to be held open by the child
            opened.append(carried.pack(record))
            opened.append(memfile.create("proof"))
            state, output = opened
            pid = self.fork(state, output, [state, *carried.descriptors(record)])
        except Exception as error:  # noqa: BLE001  (no upgrade, whatever is wrong with it, may end a server that serves)
            for fd in opened:
                os.close(fd)
            self.fail(f"the child that proves it cannot be started: {why(error)}")
            return
        os.close(state)
        self.master.population.awaited[pid] = None
        self.proof = Proof(pid, output, time.monotonic() + self.master.situation.config.boot_timeout)
        self.log.info(f"upgrade: pid {pid} tries whether the pyserve that is installed now can take over")

    def fork(self, state: int, output: int, shared: list[int]) -> int:
        """The child's pid. All that is left to do there is the exec."""
        command = [*own_command(self.master.situation.config.sources.cwd), PROVE, str(state)]
        usual = self.master.hold_signals()  # which the child does not take back: they are for the master
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
            return pid
        try:
            os.setpgid(0, 0)  # so that all that it starts can be ended with it
            linux.set_parent_death_signal(signal.SIGKILL)
            carried.share(shared, True)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execve(command[0], command, called.environ())
        except OSError as error:
            os.write(output, f"{command[0]} cannot be started: {error.strerror}".encode())
        finally:
            os._exit(127)

    def look_at(self, proof: Proof) -> None:
        """Has the child ended, or had enough time?"""
        status = self.master.population.awaited[proof.pid]
        if status is None and time.monotonic() < proof.until:
            return
        said = os.pread(proof.output, TOLD, 0).decode("utf-8", "backslashreplace").strip()
        if status is None:
            self.end_proof()
        else:
            self.forget_proof()
        version = said.rpartition("\n")[2].removeprefix(PROVEN_SAYS)
        if status == 0 and said.endswith(PROVEN_SAYS + version):
            self.log.info(f"upgrade: pyserve {version} can take over")
            self.become(PROVEN)
            return
        timeout = self.master.situation.config.boot_timeout
        ended = explain(status) if status is not None else f"did not end within boot_timeout ({timeout:g} s)"
        self.fail(f"the pyserve that is installed now {ended}\n{said}".rstrip())

    def end_proof(self) -> None:
        """Whatever still runs of it must not go on. Nobody has waited for it yet, so the number is still its own."""
        if self.proof:
            os.killpg(self.proof.pid, signal.SIGKILL)
            self.forget_proof()

    def forget_proof(self) -> None:
        if self.proof:
            del self.master.population.awaited[self.proof.pid]
            os.close(self.proof.output)
            self.proof = None

    # The exec.

    def execute(self) -> None:
        """Become the new program. It comes back only if that cannot be."""
        master = self.master
        usual = master.hold_signals()
        if not self.quiet:  # a signal has come
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)
            return
        for part in master.parts:
            part.hand_over()
        shared: list[int] = []
        command = own_command(master.situation.config.sources.cwd)
        try:
            record = master.carried()
            state = carried.pack(record)
            shared = [state, *carried.descriptors(record)]
            carried.share(shared, True)
            failpoint("upgrade.exec")
            os.execve(command[0], command, {**called.environ(), VARIABLE: str(state)})
        except Exception as error:  # noqa: BLE001  (as above)
            carried.share(shared, False)
            for fd in shared[:1]:
                os.close(fd)
            self.fail(f"{command[0]} cannot be executed: {why(error)}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, usual)


def why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"BUG: {error!r}"


def own_command(cwd: str) -> list[str]:
    """The command line of this process, with the script's path made absolute as seen from where it was started.

    With -P, so that ``-m pyserve`` does not mean a folder ``pyserve`` of the app.
    """
    script = sys.argv[0]
    safe = [] if sys.flags.safe_path else ["-P"]
    words = (os.path.join(cwd, word) if word == script else word for word in sys.orig_argv[1:])
    return [called.interpreter(), *safe, *words]
