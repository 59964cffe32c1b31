"""The master's side of the rollout, without processes.

``World`` tells the rollout what happens, does what the rollout answers, and checks each answer against what must never
be done.
"""

from __future__ import annotations

import pytest

from pyserve.rollout import (
    BOOTING,
    CANARY,
    DRAINING,
    LOADING,
    MAX_SURGE,
    PREPARING,
    READY,
    ROLLING,
    SERVING,
    STABLE,
    STARTING,
    STOPPING,
    Aborted,
    Action,
    Coalesced,
    Committed,
    Degraded,
    Drain,
    Event,
    GiveUp,
    Go,
    Loaded,
    LoadFailed,
    Recovered,
    Reload,
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
    ZygoteGone,
    backoff,
    step,
)


class World:
    """The master's side of the rollout, without processes: those are entries of two tables here."""

    def __init__(self, target: int = 2, max_crashes: int = 5) -> None:
        self.state = State(target=target, max_crashes=max_crashes)
        self.now = 1000.0
        self.zygotes: dict[int, str] = {}
        self.workers: dict[int, Worker] = {}
        self.went: set[int] = set()  # the ids that got GO
        self.committed = 0
        self.before = self.state
        self.event: Event = Start()

    def tell(self, event: Event) -> list[Action]:
        """Let something happen; what the rollout wants done, after it was done here."""
        self.before, self.event = self.state, event
        self.happen(event)
        self.state, actions = step(self.state, event)
        for action in actions:
            getattr(self, type(action).__name__)(action)
        assert self.state.workers == tuple(self.workers.values()), "the rollout knows its workers"
        assert dict(self.state.zygotes).items() >= self.zygotes.items(), "the rollout knows its zygotes"
        return actions

    def happen(self, event: Event) -> None:
        if isinstance(event, Loaded) and event.generation in self.zygotes:
            self.zygotes[event.generation] = READY
        elif isinstance(event, (LoadFailed, ZygoteGone)):
            self.zygotes.pop(event.generation, None)
        elif isinstance(event, WorkerLeaving) and event.id in self.workers:
            self.workers[event.id] = self.workers[event.id]._replace(state=DRAINING)
        elif isinstance(event, WorkerGone):
            self.workers.pop(event.id, None)

    # What the rollout asks for, and what must be true when it does.

    def StartZygote(self, action: StartZygote) -> None:  # noqa: N802  (named after the actions)
        assert self.state.phase != STOPPING
        assert action.generation not in self.zygotes
        self.zygotes[action.generation] = LOADING

    def StopZygote(self, action: StopZygote) -> None:  # noqa: N802
        assert action.generation != self.committed or self.state.phase == STOPPING
        self.zygotes.pop(action.generation, None)

    def Spawn(self, action: Spawn) -> None:  # noqa: N802
        worker = action.worker
        assert self.state.phase != STOPPING
        assert self.zygotes[worker.generation] == READY, "only a zygote that has loaded can fork"
        assert worker.id not in self.workers
        assert worker.number not in {w.number for w in self.living() if w.generation == worker.generation}
        assert worker.state == BOOTING
        self.workers[worker.id] = worker
        assert len(self.living()) <= self.state.target + MAX_SURGE

    def Go(self, action: Go) -> None:  # noqa: N802
        assert self.event == WorkerReady(action.id), "no worker serves before it is ready"
        assert self.workers[action.id].state == BOOTING
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
            assert len(self.serving()) >= self.state.target, "a worker leaves only when there are enough without it"
        if action.cause == "reload":
            assert worker.generation < max(self.state.next, self.state.good), "the new generation is in its roll"
        elif action.cause == "roll back":
            assert worker.generation != self.committed
        else:
            assert action.cause == "scale down"
            left = [w for w in self.living() if w.generation == worker.generation]
            assert len(left) >= self.state.target

    def Committed(self, action: Committed) -> None:  # noqa: N802
        assert action.first == (self.committed == 0)
        assert action.generation > self.committed
        assert {w.generation for w in self.living()} == {action.generation}
        assert len(self.serving()) == len(self.living()) == self.state.target
        self.committed = action.generation

    def Aborted(self, action: Aborted) -> None:  # noqa: N802
        assert self.before.phase in (PREPARING, CANARY, ROLLING)
        assert action.rolled_back == (self.before.phase == ROLLING)
        assert action.generation == self.before.next != self.committed
        assert action.good == self.committed != 0

    def Coalesced(self, _: Coalesced) -> None:  # noqa: N802
        assert isinstance(self.event, Reload)
        assert self.before.phase not in (STABLE, STOPPING)

    def Degraded(self, action: Degraded) -> None:  # noqa: N802
        assert action.crashes >= self.state.max_crashes
        assert action.retry_in == backoff(action.crashes)

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

    def ready(self, worker: int) -> list[Action]:
        return self.tell(WorkerReady(worker))

    def gone(self, worker: int, reason: str = "a worker was killed by SIGSEGV") -> list[Action]:
        return self.tell(WorkerGone(worker, reason, self.now))

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
            for worker in self.in_state(DRAINING):
                self.gone(worker, "exited with code 0")
            self.tick(1.0)
            if self.state == before and self.now >= self.state.retry_at:
                return
        pytest.fail(f"it never settles: {self.state}")

    def assert_whole(self) -> None:
        """One generation serves with the number of workers that was asked for, and nothing is left over."""
        state = self.state
        assert (state.phase, state.next, state.reload_again) == (STABLE, 0, 0)
        assert len(self.workers) == len(self.serving()) == state.target
        assert {worker.generation for worker in self.workers.values()} == {self.committed} == {state.good}
        assert len({worker.number for worker in self.workers.values()}) == state.target
        assert self.zygotes == {self.committed: READY} == dict(state.zygotes)


def serving(target: int = 2, max_crashes: int = 5) -> World:
    """A world in which generation 1 serves with the workers 1 … target."""
    world = World(target, max_crashes)
    world.tell(Start())
    world.settle()
    world.assert_whole()
    return world


def rolling(target: int = 2) -> World:
    """The canary of generation 2, worker target + 1, has just become ready."""
    world = serving(target)
    world.tell(Reload(target))
    world.tell(Loaded(2))
    world.ready(target + 1)
    return world
