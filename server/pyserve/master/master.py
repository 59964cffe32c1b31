"""The master: owns the listeners, the scoreboard and all processes; never imports the app, never serves a request.

One thread, one loop: wait, take signals, reap, press the late. What there should be is decided by ``rollout``, a pure
function; the processes are ``population``'s; here the two are brought together.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from importlib import import_module

from pyserve import __version__
from pyserve.config import trust
from pyserve.errors import ExitCode, PyserveError
from pyserve.failpoint import failpoint
from pyserve.ipc.scoreboard import SLOTS
from pyserve.master.ending import Ending, last_words
from pyserve.master.fairness import Fairness
from pyserve.master.population import Population
from pyserve.master.pressing import Pressing
from pyserve.master.recycling import Recycling
from pyserve.master.responder import Responder
from pyserve.rules import rollout, shutdown
from pyserve.system import called, cpus, descriptors, linux
from pyserve.system.notify import Notifier
from pyserve.system.suspension import Suspension
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.control.control import Control
    from pyserve.ipc.channel import Channel
    from pyserve.master.belongings import Belongings
    from pyserve.master.upgrade import Upgrade
    from pyserve.rules.shutdown import Shutdown

TICK = 1.0  # seconds between looks at the scoreboard
# What is imported where it is needed, by when the release that this master is of may have been removed.
LATER = ("pyserve.config.gunicorn_habits", "pyserve.config.tomlfile")


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
        self.config = config  # of the generation that serves
        self.candidate = config  # the newest that was found valid: the next generation's
        self.configs: dict[int, Config] = {}  # of each generation whose zygote may be started (again)
        self.reload_config = reload_config
        self.belongings = belongings
        self.listeners = belongings.listeners
        self.logs = belongings.logs
        self.log = belongings.logs.error
        self.notifier = Notifier()
        self.epoll = select.epoll()
        self.population = Population(
            self.listeners, self.logs, belongings.scoreboard, belongings.queue, first, self.epoll, self.tell
        )
        ways = [config.sources.cwd, config.chdir, os.path.join(config.sources.cwd, sys.argv[0]), called.interpreter()]
        self.population.links = called.links(ways)
        self.pressing = Pressing(self.population)
        self.responder = Responder(self.population)
        self.recycling = Recycling(self.population.workers, self.tell, self.log)
        self.fairness = Fairness(self.population)
        self.state = rollout.State(
            plan_of(config),
            crash_window=config.crash_window,
            max_crashes=config.max_crashes,
            debt_share=max(0.5, cpus.usable() / 2),
        )
        self.signals: list[int] = []
        self.wake, self.wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.exit_code = ExitCode.OK
        self.ending = Ending(self)
        self.reload_began = 0.0
        self.suspension = Suspension(self.began)
        self.predecessor = ""  # the version that this one has taken over from
        self.upgrade: Upgrade | None = None
        self.control: Control | None = None
        if belongings.control_socket:
            from pyserve.control.control import Control

            self.control = Control(belongings.control_socket, self)

    def carried(self) -> dict[str, Any]:
        configs = {**{child.generation: child.config for child in self.population.loaded()}, **self.configs}
        return {
            "version": __version__,
            "began": self.began,
            "belongings": self.belongings.carried(),
            "candidate": self.candidate.carried(),
            "generations": {str(generation): config.carried() for generation, config in configs.items()},
            "known": list(self.configs),
            "state": rollout.carried(self.state),
            "population": self.population.carried(),
            "responder": self.responder.carried(),
            "exclusion": self.population.exclusion.carried(),
            "control": self.control.carried() if self.control else [],
            "recycling": self.recycling.carried(),
        }

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Master:
        from pyserve.config.config import Config, reload
        from pyserve.master.belongings import Belongings

        state = rollout.resume(record["state"])
        candidate = Config.resume(record["candidate"])
        configs = {int(number): Config.resume(each) for number, each in record["generations"].items()}
        master = cls(configs[rollout.goal(state)], lambda: reload(candidate), Belongings.resume(record["belongings"]))
        master.predecessor = record["version"]
        master.began = record["began"]
        master.candidate = candidate
        master.configs = {generation: configs[generation] for generation in record["known"]}
        master.state = state
        master.population.go_on(record["population"], configs)
        master.responder.go_on(record["responder"])
        master.population.exclusion.go_on(record["exclusion"])
        master.recycling.go_on(record["recycling"])
        if master.control:
            master.control.go_on(record["control"])
        return master

    # The loop.

    def run(self) -> int:
        self.start()
        while not self.finished():
            self.wait()
            self.take_signals()
            self.population.reap()
            self.population.orphans.turn(time.monotonic(), self.config.graceful_timeout, self.shutdown.deadline)
            self.pressing.turn()
            self.recycling.turn(time.monotonic())
            self.population.exclusion.turn()
            self.ending.turn()
            self.tell(rollout.Tick(time.monotonic()))
            self.responder.turn(self.state, self.config, self.shutdown.deadline)
            self.fairness.turn()
            self.notifier.watchdog()
            self.log.tell_lost()
            if self.control:
                self.control.turn()
            if self.upgrade:
                self.upgrade.turn()
        exit_code = self.end()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # while the interpreter ends, they would have their defaults
        if self.control:
            self.control.finish(exit_code)
        return exit_code

    def start(self) -> None:
        signal.set_wakeup_fd(self.wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda number, _frame: self.signals.append(number))
        if not self.predecessor:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.epoll.register(self.wake, select.EPOLLIN)
        linux.set_child_subreaper()
        descriptors.take()
        if self.predecessor:
            self.take_over()
        else:
            self.tell(rollout.Start())
        # From here on the zygote is at work; what takes time here costs nothing.
        from pyserve.master.upgrade import Upgrade  # when it is asked for, the new version's would be found

        for name in LATER:
            import_module(name)
        self.set_title()
        self.upgrade = Upgrade(self)
        if not self.predecessor:
            self.introduce()
        if self.control:
            self.control.begin()

    def introduce(self) -> None:
        for text in (*self.config.warnings, *trust.warnings(self.config.file, self.config.user, self.config.group)):
            self.log.warning(text)
        self.log.info(f"pyserve {__version__} on Python {sys.version.split()[0]}, pid {os.getpid()}")
        for listener in self.listeners:
            self.log.info(f"listening on {listener.url}{' (handed over)' if listener.inherited else ''}")

    def look_for_files(self) -> None:
        """Those of our sockets may have vanished, say with a runtime directory that another service has removed."""
        if self.control:
            self.control.renew()
        for listener in self.listeners:
            if listener.lost:
                self.log.error(f"{listener.url} has vanished, clients cannot connect; only a restart makes it again")

    def take_over(self) -> None:
        """Hear what has happened since the program before this one blocked its signals."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self.population.reap()
        left = count(len(self.population.workers), "worker")
        self.log.info(
            f"upgraded: pyserve {__version__} on Python {sys.version.split()[0]} goes on in place of pyserve "
            f"{self.predecessor}, pid {os.getpid()}; {left} not touched, new code for them comes with a reload"
        )
        self.notifier.ready(f"generation {rollout.goal(self.state)}, {self.workers}")

    def wait(self) -> None:
        """Sleep until something happens or somebody is late, and hear what the children say."""
        now = time.monotonic()
        tick = min(TICK, self.notifier.watchdog_interval or TICK)
        soonest = min(self.pressing.soonest(now + tick), self.shutdown.look_again(now), rollout.due(self.state))
        soonest = self.population.exclusion.soonest(soonest, now)
        soonest = self.population.orphans.soonest(self.fairness.soonest(soonest))
        if self.control:
            soonest = self.control.soonest(soonest)
        if self.upgrade:
            soonest = self.upgrade.soonest(soonest)
        if self.population.more_ended:
            soonest = now
        asked = max(0.0, soonest - now)
        ready = self.epoll.poll(asked)
        self.wake_up(self.suspension.over(asked, time.monotonic()))
        for fd, events in ready:
            if fd == self.wake:
                os.read(self.wake, 4096)
            elif not (self.control and self.control.hear(fd, events)):
                self.population.hear(fd)
        self.population.flush()

    def wake_up(self, missed: float) -> None:
        """After a suspension of so many seconds nobody is late: not before they could have shown that they live."""
        if missed:
            self.log.warning(f"the master did not run for {missed:.1f} s: all deadlines are put off by that")
            self.pressing.put_off(missed)
            self.ending.put_off(missed)

    def finished(self) -> bool:
        return self.state.phase == rollout.STOPPING and not self.population

    def end(self) -> int:
        self.ending.finish()
        if refused := self.population.queue.refused:
            self.log.warning(f"{count(refused, 'request')} came when no worker was left; answered with 503")
        if self.exit_code != ExitCode.OK:
            return self.exit_code
        cut, lost = self.population.cut, self.population.lost
        log = self.log.warning if cut or lost else self.log.info
        log(f"stopped; {last_words(cut, lost)}")
        return ExitCode.REQUESTS_CUT if cut else ExitCode.OK

    # Signals.

    def take_signals(self) -> None:
        taken, self.signals[:] = self.signals[:], []
        for index, number in enumerate(taken):
            if number != signal.SIGHUP or number not in taken[:index]:  # one reload for all that came together
                SIGNALS[number](self)

    def on_term(self) -> None:
        self.ending.begin("SIGTERM")

    def on_int(self) -> None:
        if self.shutdown.begun:
            self.on_quit()
        else:
            self.ending.begin("SIGINT")

    def on_quit(self) -> None:
        if self.shutdown.phase != shutdown.CUTTING:
            self.log.warning("fast shutdown: requests under way are cut")
            self.ending.cut_short("SIGQUIT")

    def on_hup(self) -> None:
        self.reload()

    def reload(self) -> int:
        """Prepare another generation, now or after the one under way: its number. 0: refused; the log says why."""
        if self.shutdown.begun:
            self.log.warning("reload refused: pyserve is stopping")
            return 0
        called.follow(self.config.sources.cwd)
        try:
            config = self.reload_config()
        except PyserveError as error:
            self.log.error(f"reload refused, nothing was changed: {error.message}\n{error.details}".rstrip())
            return 0
        except ImportError as error:
            self.log.error(f"reload refused, nothing was changed: this pyserve is not on the disk any more ({error})")
            return 0
        except Exception as error:  # noqa: BLE001  (no configuration, however wrong, may end a server that serves)
            self.log.error(f"BUG: reload refused, nothing was changed: {error!r}")
            return 0
        for text in config.warnings:
            self.log.warning(text)
        self.look_for_files()
        self.candidate = config
        self.notifier.reloading()
        self.tell(rollout.Reload(plan_of(config)))
        return self.state.last + bool(self.state.queued)

    def rollback(self) -> int:
        """Bring back the generation before, or give up the one on its way: whose turn it is. 0: refused; the log says
        why."""
        generation = 0 if self.shutdown.begun else rollout.way_back(self.state)
        if not generation:
            self.log.error(f"rollback refused, nothing was changed: {self.no_way_back()}")
            return 0
        if generation == self.state.previous:
            self.reload_began = time.monotonic()
            self.log.info(f"rollback: generation {generation} comes back")
            self.warn_of_late_import(generation)
            self.notifier.reloading()
        self.tell(rollout.Rollback())
        return generation

    def no_way_back(self) -> str:
        if self.shutdown.begun or self.state.phase == rollout.STARTING:
            return "the server is stopping" if self.shutdown.begun else "the server is starting"
        keep = self.config.keep_previous
        return f"no generation before this one is loaded any more; each stays for keep_previous ({keep:g} s) at most"

    def on_usr1(self) -> None:
        self.logs.reopen(lambda path: trust.check_log(path, trust.account(self.config.user, self.config.group)))
        self.population.reopen_logs()
        self.log.info("log files reopened")

    def on_usr2(self) -> None:
        if self.shutdown.begun:
            self.log.warning("upgrade refused: pyserve is stopping")
            return
        called.follow(self.config.sources.cwd)
        self.look_for_files()
        if self.upgrade:
            self.upgrade.ask()

    def hold_signals(self) -> set[int]:
        """Let those that come now wait; the mask that there was."""
        return signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def on_ttin(self) -> None:
        self.scale(+1)

    def on_ttou(self) -> None:
        self.scale(-1)

    def on_chld(self) -> None:
        """Nothing: the loop reaps each time it wakes."""

    def scale(self, by: int) -> bool:
        """Have so many workers more or fewer; False if there cannot be."""
        before = self.state.plan.target
        if not 1 <= before + by <= SLOTS // 2:
            self.log.warning(f"{count(before, 'worker')}: there are 1 to {SLOTS // 2}, and not {before + by}")
            return False
        self.tell(rollout.Scale(by))
        self.log.info(f"workers: {before} → {self.state.plan.target}")
        return True

    # Stopping.

    @property
    def shutdown(self) -> Shutdown:
        return self.ending.state

    def not_ready(self) -> None:
        """The shutdown begins: nothing else does any more."""
        if self.upgrade:
            self.upgrade.cancel()
        self.population.stopping = True
        self.population.exclusion.stop()
        self.notifier.stopping()

    # What the rollout asks for.

    def tell(self, event: rollout.Event) -> None:
        chance = os.urandom(1)[0] / 255
        self.state, actions = rollout.step(self.state._replace(chance=chance), event)
        if self.state.phase != rollout.STOPPING:
            self.population.let_take(rollout.takers(self.state))  # before one of them drains
        for action in actions:
            failpoint(f"master.{type(action).__name__}")
            ACTIONS[type(action)](self, action)

    def do_start_zygote(self, action: rollout.StartZygote) -> None:
        if action.generation > 1 and action.generation == self.state.next:
            self.reload_began = time.monotonic()
            self.log.info(f"reload: generation {action.generation} is being prepared")
        config = self.configs.setdefault(action.generation, self.candidate)
        self.population.start_zygote(action.generation, config)

    def do_stop_zygote(self, action: rollout.StopZygote) -> None:
        self.population.stop_zygotes(action.generation)
        self.configs.pop(action.generation, None)

    def do_spawn(self, action: rollout.Spawn) -> None:
        self.population.spawn(action.worker)

    def do_check(self, action: rollout.Check) -> None:
        self.population.check(action.id)

    def do_go(self, action: rollout.Go) -> None:
        self.responder.hush()
        self.population.go(action.id)

    def do_drain(self, action: rollout.Drain) -> None:
        deadline = min(self.shutdown.deadline, time.monotonic() + self.config.graceful_timeout)
        cause = self.shutdown.cause if self.shutdown.final else action.cause
        self.population.drain(action.id, cause, deadline, final=self.shutdown.final)

    def do_rolled(self, action: rollout.Rolled) -> None:
        what = "reload" if action.generation > action.before else "rollback"
        seconds = time.monotonic() - self.reload_began
        self.configure(self.configs[action.generation])
        self.log.info(f"{what} done: generation {action.generation} serves with {self.workers} ({seconds:.1f} s)")
        self.done(f"generation {action.generation}, {self.workers}")

    def do_committed(self, action: rollout.Committed) -> None:
        if action.first:
            self.log.info(f"ready: {self.workers}")
            self.done(f"generation {action.generation}, {self.workers}")
            return
        kept = f"; generation {action.previous} can come back for {self.config.keep_previous:g} s"
        if self.population.rest(action.previous):
            kept += ", and its threads rest until then"
        self.log.info(f"generation {action.generation} is committed{kept if action.previous else ''}")

    def do_aborted(self, action: rollout.Aborted) -> None:
        what = "reload" if action.generation > action.good else "rollback"
        how = "rolled back" if action.rolled_back else "aborted, nothing was changed"
        self.configure(self.configs[action.good])
        self.log.error(
            f"{what} {how}: generation {action.good} goes on serving. Generation {action.generation}: {action.reason}"
        )
        if action.rolled_back:
            self.warn_of_late_import(action.good)
        self.done(f"generation {action.good}; the {what} to generation {action.generation} failed")

    def warn_of_late_import(self, generation: int) -> None:
        if not self.population.is_preloaded(generation):
            self.log.warning(
                f"generation {generation} is not preloaded: its new workers import what its folder holds now. Releases "
                "in folders of their own, with chdir a link to the current one, keep their code"
            )

    def configure(self, config: Config) -> None:
        """The master itself goes by the configuration of the generation that serves."""
        self.config = config
        self.logs.set_level(config.log_level)
        self.set_title()

    def set_title(self) -> None:
        from setproctitle import setproctitle

        setproctitle(f"pyserve: master [{self.config.proc_name}]")

    def done(self, status: str) -> None:
        """Tell the service manager that what it asked for has ended, unless it has asked for more."""
        if self.shutdown.begun:
            return
        if self.state.phase in (rollout.STABLE, rollout.SOAKING) and not self.state.queued:
            self.notifier.ready(status)
        else:
            self.notifier.status(status)

    @property
    def workers(self) -> str:
        return count(self.state.plan.target, "worker")

    def do_coalesced(self, _action: rollout.Coalesced) -> None:
        owner = self.population.exclusion.owner
        what = (
            f"{owner.name} runs alone; it begins" if self.state.gated and owner else "one is under way; another follows"
        )
        self.log.info(f"reload: {what} when it has ended")

    def do_degraded(self, action: rollout.Degraded) -> None:
        text = f"degraded: {action.crashes} crashes in {self.state.crash_window:g} s"
        when = f"after {action.retry_in:.1f} s each time" if action.retry_in else "at once"
        self.log.critical(f"{text}; workers are started again {when}")
        self.notifier.status(text)

    def do_recovered(self, _action: rollout.Recovered) -> None:
        self.log.info("no worker has crashed for a while: not degraded any more")
        self.notifier.status(f"generation {self.state.good}, {self.workers}")

    def do_give_up(self, _action: rollout.GiveUp) -> None:
        self.exit_code = self.population.failure[0]
        self.log.critical(f"not started; exit code {self.exit_code}")
        self.ending.cut_short("the app did not start")


def plan_of(config: Config) -> rollout.Plan:
    """How the generation with this configuration is to be rolled out."""
    return rollout.Plan(
        target=config.workers,
        max_surge=config.max_surge,
        max_unavailable=config.max_unavailable,
        check=config.reload_check is not None,
        soak=config.reload_soak,
        keep=config.keep_previous,
    )


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

ACTIONS: dict[type, Callable[[Master, Any], None]] = {
    rollout.StartZygote: Master.do_start_zygote,
    rollout.StopZygote: Master.do_stop_zygote,
    rollout.Spawn: Master.do_spawn,
    rollout.Check: Master.do_check,
    rollout.Go: Master.do_go,
    rollout.Drain: Master.do_drain,
    rollout.Rolled: Master.do_rolled,
    rollout.Committed: Master.do_committed,
    rollout.Aborted: Master.do_aborted,
    rollout.Coalesced: Master.do_coalesced,
    rollout.Degraded: Master.do_degraded,
    rollout.Recovered: Master.do_recovered,
    rollout.GiveUp: Master.do_give_up,
}
