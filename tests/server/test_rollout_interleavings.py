"""Everything that can happen to the rollout, in every order, as Hypothesis finds it.

Each rule lets one thing happen; ``World`` checks each answer. At the end all succeeds, and all must be whole again.
"""

from __future__ import annotations

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyserve.rules import rollout
from pyserve.rules.rollout import (
    BOOTING,
    CHECKING,
    DRAINING,
    LOADING,
    READY,
    ROLLING,
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    Aborted,
    Check,
    Committed,
    Drain,
    GiveUp,
    Go,
    Loaded,
    Plan,
    Reload,
    Scale,
    Start,
    Stop,
    WorkerLeaving,
    way_back,
)
from support.rollout_world import WORN, World

PICK = st.integers(0, 1000)  # one of what there is
SHARES = st.sampled_from([("1", "0"), ("0", "1"), ("2", "0"), ("1", "1"), ("0%", "30%"), ("50%", "50%"), ("100%", "0")])
PLANS = st.builds(
    lambda target, shares, check, soak, keep: Plan(target, shares[0], shares[1], check, soak, keep),
    st.integers(1, 5),
    SHARES,
    st.booleans(),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from([0.0, 20.0, 300.0]),
)
TIMES = st.sampled_from([0.0, 0.1, 1.0, 5.0, 16.0, 70.0])


class Interleavings(RuleBasedStateMachine):
    @initialize(
        plan=PLANS,
        second=PLANS,
        max_crashes=st.integers(1, 6),
        phase=st.sampled_from([STARTING, STABLE, ROLLING, SOAKING]),
    )
    def begin(self, plan: Plan, second: Plan, max_crashes: int, phase: str) -> None:
        self.world = World(plan.target, max_crashes, plan)
        self.world.tell(Start())
        if phase == STARTING:
            return
        self.world.settle()
        if phase in (ROLLING, SOAKING):
            self.world.tell(Reload(second._replace(check=False, soak=5.0)))
            self.world.tell(Loaded(2))
            while self.world.state.phase not in (phase, SOAKING):
                self.world.ready(self.world.in_state(BOOTING)[0])

    def pick(self, from_: list[int], which: int) -> int:
        return from_[which % len(from_)]

    def loading(self) -> list[int]:
        return [generation for generation, what in self.world.zygotes.items() if what == LOADING]

    def loaded(self) -> list[int]:
        return [generation for generation, what in self.world.zygotes.items() if what == READY]

    def booting(self) -> list[int]:
        return self.world.in_state(BOOTING) + self.world.in_state(CHECKING)

    @precondition(lambda self: self.loading())
    @rule(which=PICK)
    def zygote_loads(self, which: int) -> None:
        self.world.tell(Loaded(self.pick(self.loading(), which)))

    @precondition(lambda self: self.loading() and self.world.state.phase != STARTING)
    @rule(which=PICK)
    def zygote_fails_to_load(self, which: int) -> None:
        self.world.load_failed(self.pick(self.loading(), which))

    @precondition(lambda self: self.loaded() and self.world.state.phase != STARTING)
    @rule(which=PICK)
    def zygote_dies(self, which: int) -> None:
        self.world.zygote_gone(self.pick(self.loaded(), which))

    @precondition(lambda self: self.world.in_state(BOOTING))
    @rule(which=PICK)
    def worker_is_ready(self, which: int) -> None:
        worker = self.pick(self.world.in_state(BOOTING), which)
        assert {Go(worker), Check(worker)} & set(self.world.ready(worker))

    @precondition(lambda self: self.world.in_state(CHECKING))
    @rule(passes=st.booleans())
    def canary_has_answered(self, passes: bool) -> None:
        worker = self.world.in_state(CHECKING)[0]
        if passes:
            assert Go(worker) in self.world.passes(worker)
        else:
            assert isinstance(self.world.fails(worker)[0], Aborted)

    @precondition(lambda self: self.booting() and self.world.state.phase != STARTING)
    @rule(which=PICK)
    def worker_fails_to_boot(self, which: int) -> None:
        self.world.gone(self.pick(self.booting(), which))

    @precondition(lambda self: self.world.serving())
    @rule(which=PICK)
    def worker_crashes(self, which: int) -> None:
        self.world.gone(self.pick(self.world.serving(), which), has_served=bool(which % 2))

    @precondition(lambda self: self.world.serving())
    @rule(which=PICK, cause=st.sampled_from(WORN))
    def worker_is_worn(self, which: int, cause: str) -> None:
        self.world.worn(self.pick(self.world.serving(), which), cause)

    @precondition(lambda self: self.world.living())
    @rule(which=PICK)
    def worker_is_told_to_stop_by_somebody(self, which: int) -> None:
        self.world.tell(WorkerLeaving(self.pick([worker.id for worker in self.world.living()], which)))

    @precondition(lambda self: self.world.in_state(DRAINING))
    @rule(which=PICK, clean=st.booleans())
    def drained_worker_ends(self, which: int, clean: bool) -> None:
        """Even by a crash: it is none of the rollout's business any more."""
        crashes, failures = self.world.state.crashes, self.world.state.failures
        worker = self.pick(self.world.in_state(DRAINING), which)
        self.world.gone(worker, "exited with code 0" if clean else "a worker was killed by SIGSEGV")
        assert (self.world.state.crashes, self.world.state.failures) == (crashes, failures)

    @rule(plan=PLANS)
    def reload(self, plan: Plan) -> None:
        before = self.world.state
        actions = self.world.tell(Reload(plan))
        assert self.world.state.plan == before.plan
        assert not [action for action in actions if isinstance(action, (Drain, Go, Aborted, Committed))]

    @rule()
    def roll_back(self) -> None:
        before = self.world.state
        back = way_back(before)
        self.world.roll_back()
        assert way_back(self.world.state) in (back, self.world.previous)
        if before.next > before.good and back:
            assert (self.world.state.phase, self.world.state.next) == (STABLE, 0)
        elif back:
            assert self.world.state.next == back
        else:
            assert self.world.state == before

    @rule(by=st.integers(-3, 3))
    def scale(self, by: int) -> None:
        before = self.world.state.plan.target
        self.world.tell(Scale(by))
        if self.world.state.phase != STABLE:  # a worker fewer can end a roll, and begin another
            assert self.world.state.plan.target == max(1, before + by)

    @rule(seconds=TIMES)
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(generation=st.integers(1, 12), worker=st.integers(1, 60), kind=st.integers(0, 6))
    def message_comes_late(self, generation: int, worker: int, kind: int) -> None:
        """About a zygote that has ended or was stopped, or a worker that drains or has ended."""
        world = self.world
        phase = world.state.phase
        if kind == 0 and generation not in world.zygotes:
            world.tell(Loaded(generation))
        elif kind == 1 and generation not in world.zygotes:
            world.load_failed(generation)
        elif kind == 2 and generation not in world.zygotes:
            world.zygote_gone(generation)
        elif kind == 3 and worker not in world.workers:
            world.gone(worker)
        elif kind == 4 and worker not in world.in_state(BOOTING):
            assert Go(worker) not in world.ready(worker)
        elif kind == 5 and worker not in world.in_state(CHECKING):
            assert Go(worker) not in world.passes(worker)
        elif kind == 6 and worker not in world.in_state(CHECKING):
            assert world.fails(worker) == []
        assert world.state.phase == phase

    @rule(dice=st.integers(0, 19))
    def stop_or_failed_start(self, dice: int) -> None:
        """Rare, because little can happen after it."""
        world = self.world
        if dice == 0:
            world.tell(Stop())
        elif dice == 1 and world.state.phase == STARTING and self.loading():
            assert isinstance(world.load_failed(1)[0], GiveUp)
        elif dice == 2 and world.state.phase == STARTING and world.in_state(BOOTING):
            assert isinstance(world.gone(world.in_state(BOOTING)[0])[0], GiveUp)

    @rule(dice=st.integers(0, 9))
    def all_is_quiet_for_a_while(self, dice: int) -> None:
        if dice == 0:
            self.world.settle()

    @invariant()
    def committed_generation_is_known(self) -> None:
        state = self.world.state
        assert (state.good == 0) <= (state.phase in (STARTING, STOPPING))
        assert (state.next != 0) or state.phase in (STABLE, STOPPING)
        assert state.failures < rollout.FAILURES_TO_ROLL_BACK or state.phase not in (ROLLING, SOAKING)

    @invariant()
    def nobody_stays_without_reason(self) -> None:
        """Foreign workers serve on only as long as they are needed."""
        state, world = self.world.state, self.world
        if state.phase == STOPPING:
            return
        foreign = [w for w in world.living() if w.generation not in (rollout.goal(state), state.next)]
        assert not foreign or len(world.serving()) <= rollout.fewest(state)

    @invariant()
    def retry_is_near(self) -> None:
        assert rollout.retry_at(self.world.state) <= self.world.now + rollout.BACKOFF_LIMIT

    def teardown(self) -> None:
        world = self.world
        world.settle()
        if world.state.phase == STOPPING:
            assert not world.workers
            assert not world.zygotes
        else:
            world.assert_whole()


# ROLLOUT_EXAMPLES=20000 walks for some minutes instead of some seconds.
Interleavings.TestCase.settings = settings(
    max_examples=int(os.environ.get("ROLLOUT_EXAMPLES", "150")), stateful_step_count=60, deadline=None
)
TestInterleavings = Interleavings.TestCase
