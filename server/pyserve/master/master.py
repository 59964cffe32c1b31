"""The master: owns the listeners, the scoreboard and all processes; never imports the app, never serves a request.

One thread, one loop: wait, take signals, let each part have its turn. ``parts`` says what a part is, and each has a
file of its own. What there should be is decided by ``rollout``, a pure function, and done by ``Rolling``.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from pyserve import __version__
from pyserve.config import trust
from pyserve.config.config import Config, reload
from pyserve.errors import ExitCode
from pyserve.master.belongings import Belongings
from pyserve.master.ending import Ending, last_words
from pyserve.master.fairness import Fairness
from pyserve.master.parts import Situation
from pyserve.master.population import Population
from pyserve.master.pressing import Pressing
from pyserve.master.recycling import Recycling
from pyserve.master.responder import Responder
from pyserve.master.rolling import Rolling, first_state
from pyserve.master.watch import Watch
from pyserve.rules import rollout, shutdown
from pyserve.system import called, descriptors, linux
from pyserve.system.notify import Notifier
from pyserve.system.suspension import Suspension
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.ipc.channel import Channel
    from pyserve.master.parts import Part

TICK = 1.0  # seconds between looks at the scoreboard


class Master:
    def __init__(
        self,
        config: Config,
        reload_config: Callable[[], Config],
        belongings: Belongings,
        first: tuple[int, Channel] | None = None,
    ) -> None:
        """``first``: the zygote of generation 1, which has its configuration already, if it could be started."""
        self.began = time.monotonic()
        self.belongings = belongings
        self.log = belongings.logs.error
        self.notifier = Notifier()
        self.watch = Watch()
        self.signals: list[int] = []
        self.wake, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.suspension = Suspension(self.began)
        self.predecessor = ""  # the version that this one has taken over from
        self.ask_upgrade: Callable[[], None] | None = None

        self.situation = Situation(config, first_state(config))
        self.population = Population(belongings, self.watch, self.situation, self.tell, first)
        self.exclusion = self.population.exclusion
        self.responder = Responder(self.population, self.situation)
        self.ending = Ending(belongings, self.situation, self.population, self.responder, self.tell, self.stop)
        self.rolling = Rolling(
            self.situation,
            self.population,
            self.responder,
            self.ending,
            self.notifier,
            belongings.logs,
            reload_config,
        )
        self.parts: list[Part] = [
            self.population,
            self.population.orphans,
            Pressing(self.population),
            Recycling(self.population.workers, self.tell, self.log),
            self.exclusion,
            self.ending,
            self.rolling,
            self.responder,
            Fairness(self.population),
        ]

    def tell(self, event: rollout.Event) -> None:
        self.rolling.tell(event)

    # Over an upgrade.

    def carried(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "began": self.began,
            "config": self.situation.config.carried(),
            "belongings": self.belongings.carried(),
            "parts": {part.name: part.carried() for part in self.parts if part.name},
        }

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Master:
        candidate = Config.resume(record["parts"]["rolling"]["candidate"])
        belongings = Belongings.resume(record["belongings"])
        master = cls(Config.resume(record["config"]), lambda: reload(candidate), belongings)
        master.predecessor = record["version"]
        master.began = record["began"]
        for part in master.parts:
            if part.name:
                part.resume(record["parts"][part.name])
        return master

    def add(self, part: Part, record: dict[str, Any] | None = None) -> None:
        """One more part. record: of the master that this one takes over from."""
        if record is not None and part.name in record["parts"]:
            part.resume(record["parts"][part.name])
        self.parts.append(part)

    # The loop.

    def start(self) -> None:
        """Start what there is to be, or go on with it. Then others may have their parts added, and ``run`` begins."""
        signal.set_wakeup_fd(self.wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda number, _frame: self.signals.append(number))
        if not self.predecessor:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.watch.add(self.wake, lambda _events: self.woken())
        linux.set_child_subreaper()
        descriptors.take()
        if self.predecessor:
            self.take_over()
        else:
            self.tell(rollout.Start())

    def run(self) -> int:
        self.rolling.set_title()
        if not self.predecessor:
            self.introduce()
        for part in self.parts:
            part.begin()
        while not self.finished():
            self.wait()
            self.take_signals()
            for part in self.parts:
                part.turn(time.monotonic())
            self.notifier.watchdog()
            self.log.tell_lost()
        exit_code = self.end()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # while the interpreter ends, they would have their defaults
        for part in self.parts:
            part.finish(exit_code)
        return exit_code

    def introduce(self) -> None:
        config = self.situation.config
        for text in (*config.warnings, *trust.warnings(config.file, config.user, config.group)):
            self.log.warning(text)
        self.log.info(f"pyserve {__version__} on Python {sys.version.split()[0]}, pid {os.getpid()}")
        for listener in self.belongings.listeners:
            self.log.info(f"listening on {listener.url}{' (handed over)' if listener.inherited else ''}")

    def take_over(self) -> None:
        """Hear what has happened since the program before this one blocked its signals."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.population.reap()
        left = count(len(self.population.workers), "worker")
        self.log.info(
            f"upgraded: pyserve {__version__} on Python {sys.version.split()[0]} goes on in place of pyserve "
            f"{self.predecessor}, pid {os.getpid()}; {left} not touched, new code for them comes with a reload"
        )
        self.notifier.ready(f"generation {rollout.goal(self.situation.state)}, {self.rolling.workers}")

    def wait(self) -> None:
        """Sleep until something happens or somebody is late, and hear what there is to be heard."""
        now = time.monotonic()
        tick = min(TICK, self.notifier.watchdog_interval or TICK)
        soonest = min(now + tick, *(part.soonest(now) for part in self.parts))
        asked = max(0.0, soonest - now)
        ready = self.watch.wait(asked)
        if missed := self.suspension.over(asked, time.monotonic()):
            self.log.warning(f"the master did not run for {missed:.1f} s: all deadlines are put off by that")
            for part in self.parts:
                part.put_off(missed)
        self.watch.tell(ready)

    def woken(self) -> None:
        """A signal has come."""
        os.read(self.wake, 4096)

    def finished(self) -> bool:
        return self.situation.state.phase == rollout.STOPPING and not self.population

    def end(self) -> int:
        self.ending.refuse_rest()
        if refused := self.belongings.queue.refused:
            self.log.warning(f"{count(refused, 'request')} came when no worker was left; answered with 503")
        if self.rolling.exit_code != ExitCode.OK:
            return self.rolling.exit_code
        cut, lost = self.population.cut, self.population.lost
        log = self.log.warning if cut or lost else self.log.info
        log(f"stopped; {last_words(cut, lost)}")
        return ExitCode.REQUESTS_CUT if cut else ExitCode.OK

    def stop(self) -> None:
        """The shutdown begins."""
        for part in self.parts:
            part.stop()
        self.notifier.stopping()

    # What the operator asks for.

    def reload(self) -> int:
        """As ``Rolling.reload``."""
        generation = self.rolling.reload()
        if generation:
            self.look_for_files()
        return generation

    def look_for_files(self) -> None:
        """Those of our sockets may have vanished, say with a runtime directory that another service has removed."""
        for part in self.parts:
            part.renew()
        for listener in self.belongings.listeners:
            if listener.lost:
                self.log.error(f"{listener.url} has vanished, clients cannot connect; only a restart makes it again")

    # Signals.

    def take_signals(self) -> None:
        taken, self.signals[:] = self.signals[:], []
        for index, number in enumerate(taken):
            if number != signal.SIGHUP or number not in taken[:index]:  # one reload for all that came together
                SIGNALS[number](self)

    def hold_signals(self) -> set[int]:
        """Let those that come now wait; the mask that there was."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def on_term(self) -> None:
        self.ending.begin_graceful("SIGTERM")

    def on_int(self) -> None:
        if self.situation.stopping:
            self.on_quit()
        else:
            self.ending.begin_graceful("SIGINT")

    def on_quit(self) -> None:
        if self.situation.shutdown.phase != shutdown.CUTTING:
            self.log.warning("fast shutdown: requests under way are cut")
            self.ending.cut_short("SIGQUIT")

    def on_hup(self) -> None:
        self.reload()

    def on_usr1(self) -> None:
        config = self.situation.config
        self.belongings.logs.reopen(lambda path: trust.check_log(path, trust.account(config.user, config.group)))
        self.population.reopen_logs()
        self.log.info("log files reopened")

    def on_usr2(self) -> None:
        if self.situation.stopping:
            self.log.warning("upgrade refused: pyserve is stopping")
            return
        called.follow(self.situation.config.sources.cwd)
        self.look_for_files()
        if self.ask_upgrade:
            self.ask_upgrade()

    def on_ttin(self) -> None:
        self.rolling.scale(+1)

    def on_ttou(self) -> None:
        self.rolling.scale(-1)

    def on_chld(self) -> None:
        """Nothing: the loop reaps each time it wakes."""


SIGNALS: dict[int, Callable[[Master], None]] = {
    signal.SIGTERM: Master.on_term,
    signal.SIGINT: Master.on_int,
    signal.SIGQUIT: Master.on_quit,
    signal.SIGHUP: Master.on_hup,
    signal.SIGUSR1: Master.on_usr1,
    signal.SIGUSR2: Master.on_usr2,
    signal.SIGTTIN: Master.on_ttin,
    signal.SIGTTOU: Master.on_ttou,
    signal.SIGCHLD: Master.on_chld,
}
