"""The master's side of the rollout, without processes.

``World`` tells the rollout what happens, does what the rollout answers, and checks each answer against what must never
be done.
"""

from __future__ import annotations

from typing import Any

import pytest

from pyserve.rules.rollout import (
    BACKOFF_LIMIT,
    BOOTING,
    CANARY,
    CHECKING,
    DRAINING,
    LOADING,
    PREPARING,
    READY,
    ROLLING,
    SERVING,
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    WAITING,
    Aborted,
    Action,
    Check,
    CheckFailed,
    CheckPassed,
    Coalesced,
    Committed,
    Degraded,
    Drain,
    Event,
    Gate,
    GiveUp,
    Go,
    Loaded,
    LoadFailed,
    Plan,
    Recovered,
    Reload,
    Rollback,
    Rolled,
    Scale,
    Spawn,
    Start,
    StartZygote,
    State,
    StopZygote,
    Tick,
    Worker,
    WorkerGone,
    WorkerLeaving,
    WorkerReady,
    Worn,
    ZygoteGone,
    fewest,
    retry_at,
    step,
    surge,
    way_back,
)

WORN = ("max_requests", "max_memory", "max_lifetime")

# No soak: a generation is committed when its roll is over. The tests of the soak have their own plans.
PLAN = Plan(target=2, soak=0.0)


class World:
    """The master's side of the rollout, without processes: those are entries of two tables here."""

    def __init__(self, target: int = 2, max_crashes: int = 5, plan: Plan = PLAN) -> None:
        self.state = State(plan._replace(target=target), max_crashes=max_crashes)
        self.now = 1000.0
        self.zygotes: dict[int, str] = {}
        self.workers: dict[int, Worker] = {}
        self.went: set[int] = set()  # the ids that got GO
        self.checked: set[int] = set()  # the ids that were asked for a check
        self.committed = 0  # the generation that serves; exactly one does
        self.previous = 0  # the one that can come back
        self.before = self.state
        self.event: Event = Start()

    def tell(self, event: Event) -> list[Action]:
        """Let something happen; what the rollout wants done, after it was done here."""
        self.before, self.event = self.state, event
        self.happen(event)
        self.state, actions = step(self.state, event)
        for action in actions:
            getattr(self, type(action).__name__)(action)
        self.check_invariants()
        return actions

    def check_invariants(self) -> None:
        """What is true after every step, whatever happened."""
        state = self.state
        known = {generation.number: generation.zygote for generation in state.generations}
        workers = tuple(worker._replace(took=0.0) for worker in state.workers)
        assert workers == tuple(self.workers.values()), "the rollout knows its workers"
        assert known.items() >= self.zygotes.items(), "the rollout knows its zygotes"
        assert state.good == self.committed, "exactly one generation is committed"
        if state.phase == STOPPING:
            assert not self.living()
            assert not known
            return
        assert len(self.living()) <= state.plan.target + surge(state.plan), "there are never too many"
        owners = {state.good, state.next}
        for worker in self.living():
            leaving = worker.generation not in owners
            assert not leaving or worker.state == SERVING, "a worker of no generation only serves until it is replaced"
        assert set(known) == {number for number in (state.good, state.next, state.previous) if number}
        assert way_back(state) in {0, *known}

    def happen(self, event: Event) -> None:
        if isinstance(event, Loaded) and event.generation in self.zygotes:
            self.zygotes[event.generation] = READY
        elif isinstance(event, (LoadFailed, ZygoteGone)):
            self.zygotes.pop(event.generation, None)
        elif isinstance(event, WorkerLeaving) and event.id in self.workers:
            self.workers[event.id] = self.workers[event.id]._replace(state=DRAINING)
        elif isinstance(event, Worn) and event.id in self.serving() and not self.workers[event.id].worn:
            self.workers[event.id] = self.workers[event.id]._replace(worn=event.cause)
        elif isinstance(event, WorkerReady) and self.state.gated and self.is_to_be_checked(event.id):
            self.workers[event.id] = self.workers[event.id]._replace(state=WAITING)
        elif isinstance(event, WorkerGone):
            self.workers.pop(event.id, None)

    def is_to_be_checked(self, worker_id: int) -> bool:
        worker, state = self.workers.get(worker_id), self.state
        if worker is None or worker.state != BOOTING or state.phase != CANARY:
            return False
        plans = {generation.number: generation.plan for generation in state.generations}
        return worker.generation == state.next > state.good and plans[state.next].check

    # What the rollout asks for, and what must be true when it does.

    def StartZygote(self, action: StartZygote) -> None:  # noqa: N802  (named after the actions)
        assert self.state.phase != STOPPING
        assert action.generation not in self.zygotes
        assert action.generation >= self.committed, "newer code is all that there is to load"
        self.zygotes[action.generation] = LOADING

    def StopZygote(self, action: StopZygote) -> None:  # noqa: N802
        assert action.generation != self.committed or self.state.phase == STOPPING
        if action.generation == self.previous:
            self.previous = 0
        self.zygotes.pop(action.generation, None)

    def Spawn(self, action: Spawn) -> None:  # noqa: N802
        worker = action.worker
        assert self.state.phase != STOPPING
        assert self.zygotes[worker.generation] == READY, "only a zygote that has loaded can fork"
        assert worker.id not in self.workers
        others = [w for w in self.living() if w.generation == worker.generation and not w.worn]
        assert worker.number not in {w.number for w in others}
        assert worker.state == BOOTING
        self.workers[worker.id] = worker

    def Check(self, action: Check) -> None:  # noqa: N802
        worker = self.workers[action.id]
        assert self.before.phase == CANARY
        assert not self.state.gated
        is_ready = isinstance(self.event, WorkerReady) and self.event.id == action.id
        assert is_ready or (self.event == Gate(False) and worker.state == WAITING)
        assert worker.generation == self.state.next > self.committed
        self.checked.add(action.id)
        self.workers[action.id] = worker._replace(state=CHECKING)

    def Go(self, action: Go) -> None:  # noqa: N802
        expected = CheckPassed if action.id in self.checked else WorkerReady
        assert isinstance(self.event, expected)
        assert self.event.id == action.id, "no worker serves before it is ready"
        assert self.workers[action.id].state == (CHECKING if action.id in self.checked else BOOTING)
        assert action.id not in self.went, "GO is said once"
        self.went.add(action.id)
        self.workers[action.id] = self.workers[action.id]._replace(state=SERVING)

    def Drain(self, action: Drain) -> None:  # noqa: N802
        worker = self.workers[action.id]
        assert worker.state != DRAINING, "it was told already"
        self.workers[action.id] = worker._replace(state=DRAINING)
        if self.state.phase == STOPPING:
            assert action.cause == "SIGTERM"
            return
        if worker.state == SERVING:
            assert len(self.serving()) >= fewest(self.state), "a worker leaves only when there are enough without it"
        if action.cause == "reload":
            assert worker.generation < max(self.state.next, self.state.good), "the new generation is in its roll"
        elif action.cause == "roll back":
            assert worker.generation != self.state.next or worker.generation > self.committed
        elif action.cause in WORN:
            assert worker.worn == action.cause
            assert len(self.serving()) >= self.state.plan.target or not surge(self.state.plan), "a fresh one serves"
            assert self.before.phase not in (CANARY, ROLLING) or self.state.phase not in (CANARY, ROLLING)
        else:
            assert action.cause == "scale down"
            assert (
                isinstance(self.event, (Scale, Gate)) or self.before.plan != self.state.plan or worker.state != SERVING
            )

    def all_are_of(self, generation: int) -> None:
        assert {w.generation for w in self.living()} == {generation}
        assert len(self.serving()) == len(self.living()) == self.state.plan.target

    def Rolled(self, action: Rolled) -> None:  # noqa: N802
        assert self.before.phase in (CANARY, ROLLING)
        assert action.before == self.committed
        self.all_are_of(action.generation)

    def Committed(self, action: Committed) -> None:  # noqa: N802
        assert action.first == (self.committed == 0)
        assert action.generation != self.committed
        assert self.before.failures < 2
        self.all_are_of(action.generation)
        assert action.previous in (0, self.committed)
        assert action.generation > self.committed or action.previous == 0, "what was given up does not come back"
        self.committed, self.previous = action.generation, action.previous

    def Aborted(self, action: Aborted) -> None:  # noqa: N802
        assert self.before.phase in (PREPARING, CANARY, ROLLING, SOAKING)
        assert action.rolled_back == (self.before.phase in (ROLLING, SOAKING))
        assert action.generation == self.before.next != self.committed
        assert action.good == self.committed != 0

    def Coalesced(self, _: Coalesced) -> None:  # noqa: N802
        assert isinstance(self.event, Reload)
        assert self.before.phase not in (STABLE, STOPPING) or self.before.gated

    def Degraded(self, action: Degraded) -> None:  # noqa: N802
        assert action.crashes >= self.state.max_crashes
        assert action.retry_in >= 0.0
        assert action.retry_in <= BACKOFF_LIMIT or self.event.has_served  # type: ignore[union-attr]  # a crash

    def Recovered(self, _: Recovered) -> None:  # noqa: N802
        assert self.before.degraded
        assert not self.state.degraded

    def GiveUp(self, _: GiveUp) -> None:  # noqa: N802
        assert self.before.phase == STARTING, "only the first generation's failure ends the server"

    # What tests ask and say.

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state != DRAINING]

    def serving(self) -> list[int]:
        return [worker.id for worker in self.workers.values() if worker.state == SERVING]

    def in_state(self, state: str) -> list[int]:
        return [worker.id for worker in self.workers.values() if worker.state == state]

    def ready(self, worker: int, took: float = 0.0) -> list[Action]:
        return self.tell(WorkerReady(worker, took))

    def worn(self, worker: int, cause: str = "max_requests") -> list[Action]:
        return self.tell(Worn(worker, cause))

    def passes(self, worker: int) -> list[Action]:
        return self.tell(CheckPassed(worker))

    def fails(self, worker: int, reason: str = "GET /healthz was answered with 500") -> list[Action]:
        return self.tell(CheckFailed(worker, reason))

    def roll_back(self) -> list[Action]:
        return self.tell(Rollback())

    def gone(
        self, worker: int, reason: str = "a worker was killed by SIGSEGV", has_served: bool = False
    ) -> list[Action]:
        return self.tell(WorkerGone(worker, reason, self.now, has_served))

    def load_failed(self, generation: int) -> list[Action]:
        return self.tell(LoadFailed(generation, "no module named 'app'", self.now))

    def zygote_gone(self, generation: int) -> list[Action]:
        return self.tell(ZygoteGone(generation, self.now))

    def tick(self, seconds: float = 0.0) -> list[Action]:
        self.now += seconds
        return self.tell(Tick(self.now))

    def settle(self) -> None:
        """Let everything succeed from here on, until nothing is under way any more."""
        for _ in range(300):
            before = self.state
            for generation in [g for g, what in self.zygotes.items() if what == LOADING]:
                self.tell(Loaded(generation))
            for worker in self.in_state(BOOTING):
                if self.workers[worker].state == BOOTING:  # still: another's being ready can make it one too many
                    self.ready(worker)
            for worker in self.in_state(CHECKING):
                self.passes(worker)
            for worker in self.in_state(DRAINING):
                self.gone(worker, "exited with code 0")
            self.tick(1.0)
            waits = self.state.phase == SOAKING or self.now < retry_at(self.state)
            if self.state == before._replace(now=self.now) and not waits:
                return
        pytest.fail(f"it never settles: {self.state}")

    def assert_whole(self) -> None:
        """One generation serves with the number of workers that was asked for, and nothing is left over."""
        state = self.state
        assert (state.phase, state.next, state.queued) == (STABLE, 0, None)
        assert len(self.workers) == len(self.serving()) == state.plan.target
        assert not any(worker.worn for worker in self.workers.values())
        assert {worker.generation for worker in self.workers.values()} == {self.committed} == {state.good}
        assert len({worker.number for worker in self.workers.values()}) == state.plan.target
        assert self.zygotes == {number: READY for number in (state.previous, self.committed) if number}


def plan(target: int, base: Plan = PLAN, **values: Any) -> Plan:
    return base._replace(target=target, **values)


def serving(target: int = 2, max_crashes: int = 5, plan: Plan = PLAN) -> World:
    """A world in which generation 1 serves with the workers 1 … target."""
    world = World(target, max_crashes, plan)
    world.tell(Start())
    world.settle()
    world.assert_whole()
    return world


def rolling(target: int = 2, base: Plan = PLAN) -> World:
    """The canary of generation 2, worker target + 1, has just become ready."""
    world = serving(target, plan=base)
    world.tell(Reload(plan(target, base)))
    world.tell(Loaded(2))
    world.ready(target + 1)
    return world
