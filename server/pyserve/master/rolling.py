"""Rolling: generations come and go as the rollout decides, which is told what happens and says what to do."""

from __future__ import annotations

import os
import time

from pyserve.config.config import Config
from pyserve.errors import ExitCode, PyserveError
from pyserve.failpoint import failpoint
from pyserve.ipc.scoreboard import SLOTS
from pyserve.master.parts import Part
from pyserve.rules import rollout
from pyserve.system import called, cpus
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.ipc.logs import LogFiles
    from pyserve.master.ending import Ending
    from pyserve.master.parts import Situation
    from pyserve.master.population import Population
    from pyserve.master.responder import Responder
    from pyserve.system.notify import Notifier


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


def first_state(config: Config) -> rollout.State:
    """Before anything was started."""
    return rollout.State(
        plan_of(config),
        crash_window=config.crash_window,
        max_crashes=config.max_crashes,
        debt_share=max(0.5, cpus.usable() / 2),
    )


class Rolling(Part):
    name = "rolling"

    def __init__(
        self,
        situation: Situation,
        population: Population,
        responder: Responder,
        ending: Ending,
        notifier: Notifier,
        logs: LogFiles,
        reload_config: Callable[[], Config],
    ) -> None:
        self.situation = situation
        self.population = population
        self.responder = responder
        self.ending = ending
        self.notifier = notifier
        self.logs = logs
        self.log = logs.error
        self.reload_config = reload_config
        self.candidate = situation.config  # the newest that was found valid: the next generation's
        self.configs: dict[int, Config] = {}  # of each generation whose zygote may be started (again)
        self.reload_began = 0.0
        self.exit_code = ExitCode.OK

    # A part.

    def turn(self, now: float) -> None:
        self.tell(rollout.Tick(now))

    def soonest(self, now: float) -> float:
        return rollout.due(self.situation.state)

    def carried(self) -> dict[str, Any]:
        return {
            "state": rollout.carried(self.situation.state),
            "candidate": self.candidate.carried(),
            "configs": {str(generation): config.carried() for generation, config in self.configs.items()},
        }

    def resume(self, record: dict[str, Any]) -> None:
        self.situation.state = rollout.resume(record["state"])
        self.candidate = Config.resume(record["candidate"])
        self.configs = {int(number): Config.resume(each) for number, each in record["configs"].items()}

    # What the operator asks for.

    def reload(self) -> int:
        """Prepare another generation, now or after the one under way: its number. 0: refused; the log says why."""
        if self.situation.stopping:
            self.log.warning("reload refused: pyserve is stopping")
            return 0
        called.follow(self.situation.config.sources.cwd)
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
        self.candidate = config
        self.notifier.reloading()
        self.tell(rollout.Reload(plan_of(config)))
        return self.situation.state.last + bool(self.situation.state.queued)

    def rollback(self) -> int:
        """Bring back the generation before, or give up the one on its way: whose turn it is. 0: refused; the log says
        why."""
        state = self.situation.state
        generation = 0 if self.situation.stopping else rollout.way_back(state)
        if not generation:
            self.log.error(f"rollback refused, nothing was changed: {self.no_way_back()}")
            return 0
        if generation == state.previous:
            self.reload_began = time.monotonic()
            self.log.info(f"rollback: generation {generation} comes back")
            self.warn_of_late_import(generation)
            self.notifier.reloading()
        self.tell(rollout.Rollback())
        return generation

    def no_way_back(self) -> str:
        if self.situation.stopping:
            return "the server is stopping"
        if self.situation.state.phase == rollout.STARTING:
            return "the server is starting"
        keep = self.situation.config.keep_previous
        return f"no generation before this one is loaded any more; each stays for keep_previous ({keep:g} s) at most"

    def scale(self, by: int) -> bool:
        """Have so many workers more or fewer; False if there cannot be."""
        before = self.situation.state.plan.target
        if not 1 <= before + by <= SLOTS // 2:
            self.log.warning(f"{count(before, 'worker')}: there are 1 to {SLOTS // 2}, and not {before + by}")
            return False
        self.tell(rollout.Scale(by))
        self.log.info(f"workers: {before} → {self.situation.state.plan.target}")
        return True

    # What the rollout asks for.

    def tell(self, event: rollout.Event) -> None:
        situation = self.situation
        chance = os.urandom(1)[0] / 255
        situation.state, actions = rollout.step(situation.state._replace(chance=chance), event)
        if situation.state.phase != rollout.STOPPING:
            self.population.let_take(rollout.takers(situation.state))  # before one of them drains
        for action in actions:
            failpoint(f"master.{type(action).__name__}")
            ACTIONS[type(action)](self, action)

    def do_start_zygote(self, action: rollout.StartZygote) -> None:
        if action.generation > 1 and action.generation == self.situation.state.next:
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
        deadline = min(self.situation.shutdown.deadline, time.monotonic() + self.situation.config.graceful_timeout)
        cause = self.situation.shutdown.cause if self.situation.shutdown.final else action.cause
        self.population.drain(action.id, cause, deadline, final=self.situation.shutdown.final)

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
        kept = f"; generation {action.previous} can come back for {self.situation.config.keep_previous:g} s"
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
        self.situation.config = config
        self.logs.set_level(config.log_level)
        self.set_title()

    def set_title(self) -> None:
        from setproctitle import setproctitle

        setproctitle(f"pyserve: master [{self.situation.config.proc_name}]")

    def done(self, status: str) -> None:
        """Tell the service manager that what it asked for has ended, unless it has asked for more."""
        if self.situation.stopping:
            return
        if self.situation.state.phase in (rollout.STABLE, rollout.SOAKING) and not self.situation.state.queued:
            self.notifier.ready(status)
        else:
            self.notifier.status(status)

    @property
    def workers(self) -> str:
        return count(self.situation.state.plan.target, "worker")

    def do_coalesced(self, _action: rollout.Coalesced) -> None:
        owner = self.population.exclusion.owner
        alone = self.situation.state.gated and owner
        what = f"{alone.name} runs alone; it begins" if alone else "one is under way; another follows"
        self.log.info(f"reload: {what} when it has ended")

    def do_degraded(self, action: rollout.Degraded) -> None:
        text = f"degraded: {action.crashes} crashes in {self.situation.state.crash_window:g} s"
        when = f"after {action.retry_in:.1f} s each time" if action.retry_in else "at once"
        self.log.critical(f"{text}; workers are started again {when}")
        self.notifier.status(text)

    def do_recovered(self, _action: rollout.Recovered) -> None:
        self.log.info("no worker has crashed for a while: not degraded any more")
        self.notifier.status(f"generation {self.situation.state.good}, {self.workers}")

    def do_give_up(self, _action: rollout.GiveUp) -> None:
        self.exit_code = self.population.failure[0]
        self.log.critical(f"not started; exit code {self.exit_code}")
        self.ending.cut_short("the app did not start")


ACTIONS: dict[type, Callable[[Rolling, Any], None]] = {
    rollout.StartZygote: Rolling.do_start_zygote,
    rollout.StopZygote: Rolling.do_stop_zygote,
    rollout.Spawn: Rolling.do_spawn,
    rollout.Check: Rolling.do_check,
    rollout.Go: Rolling.do_go,
    rollout.Drain: Rolling.do_drain,
    rollout.Rolled: Rolling.do_rolled,
    rollout.Committed: Rolling.do_committed,
    rollout.Aborted: Rolling.do_aborted,
    rollout.Coalesced: Rolling.do_coalesced,
    rollout.Degraded: Rolling.do_degraded,
    rollout.Recovered: Rolling.do_recovered,
    rollout.GiveUp: Rolling.do_give_up,
}
