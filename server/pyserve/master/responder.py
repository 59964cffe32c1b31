"""The master's side of the responder: when it is needed, and that it is there then.

The responder (``programs/responder.py``) answers 503 while no worker can answer. It costs nothing as long as all
is well: its process is started when the last worker has crashed and the next one has to wait, and dismissed when it
has not been needed for a while. Connections that come when one crash is being repaired stay in the kernel's queue for
the replacement, which is there in milliseconds.
"""

from __future__ import annotations

from pyserve.master import zygotes
from pyserve.master.children import Pressure, ResponderProcess
from pyserve.master.deaths import explain
from pyserve.master.exclusion import Notice
from pyserve.master.parts import Part
from pyserve.rules import rollout
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.master.parts import Situation
    from pyserve.master.population import Population

PROGRAM = "from pyserve_workers.programs.responder import main; main()"
WORTH_SAYING = 1.0  # seconds to the next try, above which clients are told rather than left in the queue
PATIENCE = 5.0  # seconds without a worker that serves after which they are told in any case
KEPT = 60.0  # seconds that the process stays when it is not needed


def nobody_serves(state: rollout.State) -> bool:
    """Has there been a worker that served, is there to be one, and is there none now?"""
    if state.phase in (rollout.STARTING, rollout.STOPPING):
        return False
    return not serving(state)


def serving(state: rollout.State) -> list[int]:
    return [worker.id for worker in state.workers if worker.state == rollout.SERVING]


def worth_saying(state: rollout.State, nobody_since: float, now: float) -> bool:
    """Nobody serves, since then. Will it take so long that clients should know?"""
    return rollout.retry_at(state) - now > WORTH_SAYING or now - nobody_since > PATIENCE


class Responder(Part):
    name = "responder"

    PLAIN = ("nobody_since", "needed_until", "on", "deaths", "start_at", "answered")  # attributes that are carried

    def __init__(self, population: Population, situation: Situation) -> None:
        self.population = population
        self.situation = situation
        self.exclusion = population.exclusion
        self.blocked = False  # is every worker in a request that is alone, or wants to be?
        self.log = population.log
        self.nobody_since = 0.0  # 0: somebody serves; CLOCK_MONOTONIC seconds, as all times here
        self.needed_until = 0.0
        self.on = False  # is it to accept?
        self.said: dict[str, Any] = {}  # the last RESPOND to its process
        self.deaths = 0  # of its process, since it was last not needed
        self.start_at = 0.0
        self.answered = 0  # requests, when it was last turned on

    def carried(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.PLAIN}

    def resume(self, record: dict[str, Any]) -> None:
        """What was said to the process is said again."""
        for name in self.PLAIN:
            setattr(self, name, record[name])

    @property
    def process(self) -> ResponderProcess | None:
        return self.population.responder

    def turn(self, now: float) -> None:
        state, config = self.situation.state, self.situation.config
        self.blocked = self.exclusion.blocks_all(serving(state), now)
        self.notice_end(now)
        if state.phase == rollout.STOPPING:
            self.population.let_help(False)
            self.dismiss(config, self.situation.shutdown.deadline, final=True)
        elif self.blocked or nobody_serves(state):
            self.nobody_since = self.nobody_since or now
            self.be_there(state, config, now)
        else:
            self.hush()
            if now > self.needed_until + KEPT:
                self.deaths = 0
                self.dismiss(config, now + config.graceful_timeout, final=False)

    def be_there(self, state: rollout.State, config: Config, now: float) -> None:
        """Have the process as soon as anybody has to wait for a worker, and let it accept when that takes long."""
        if not self.on and (self.blocked or worth_saying(state, self.nobody_since, now)):
            self.on = True
            self.answered = self.slot_requests()
            log = self.log.info if self.blocked else self.log.warning
            log("no worker can answer: the responder answers with 503 until one does again")
        retry_at = rollout.retry_at(state)
        if self.on or retry_at > now:
            self.needed_until = now
            if self.process is None and now >= self.start_at:
                self.start(config, now)
        self.say(retry_at)
        self.population.let_help(self.on and self.blocked and self.process is not None and not self.process.leaving)

    def hush(self) -> None:
        """A worker serves, or is about to: accept nothing more."""
        self.nobody_since = 0.0
        self.population.let_help(False)
        if self.on:
            self.on = False
            self.say(0.0)
            refused = count(self.slot_requests() - self.answered, "request")
            self.log.info(f"a worker can answer again; the responder has answered {refused} with 503")

    def say(self, retry_at: float) -> None:
        process, party = self.process, self.exclusion.owner
        notice = party.notice if party else Notice(retry_after=1)
        saying: dict[str, Any] = {"on": self.on, "retry_at": retry_at}
        saying |= {"retry_after": notice.retry_after, "page": notice.page}
        saying |= {"line": notice.line, "line_hold": notice.line_hold}
        if process is not None and not process.leaving and self.said != saying:
            self.said = saying
            process.channel.send("RESPOND", **saying)

    def slot_requests(self) -> int:
        return self.population.scoreboard.slot(ResponderProcess.SLOT).get("requests")

    # Its process.

    def start(self, config: Config, now: float) -> None:
        population = self.population
        self.said = {}
        try:
            pid, channel = zygotes.launch(PROGRAM)
        except OSError as error:
            self.try_again(now, f"cannot be started: {error.strerror}")
            return
        process = ResponderProcess(channel, pid)
        process.pressure = Pressure.boot(now, config.boot_timeout, "it was not ready within boot_timeout")
        population.responder = process
        population.tell_takers()
        population.hear_of(process)
        try:
            zygotes.configure(channel, config, 0, "never", population.belongings)
        except (OSError, ValueError) as error:
            self.log.error(f"responder: its configuration cannot be handed over: {error}")
            process.kill("it has no configuration")

    def notice_end(self, now: float) -> None:
        process = self.process
        if process is not None and process.status is not None:
            self.population.responder = None
            if not (process.leaving and process.status == 0):
                self.try_again(now, explain(process.status, process.killed_because))

    def try_again(self, now: float, what: str) -> None:
        self.deaths += 1
        self.start_at = now + rollout.backoff(self.deaths)
        self.log.error(f"responder {what}")

    def dismiss(self, config: Config, deadline: float, *, final: bool) -> None:
        """Let it finish what it has, at the end of the server also what is left in the queues, and end."""
        process = self.process
        if process is None or process.leaving:
            return
        process.leaving = True
        final = final and self.on
        process.channel.send("DRAIN", cause="SIGTERM", deadline=deadline, final=final, takes=final)
        process.pressure = Pressure.drain(deadline, config.hook_timeout)
