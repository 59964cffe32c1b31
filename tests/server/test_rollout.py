"""The stories of the rollout, one by one. test_rollout_interleavings.py has all of them at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserve.rules import rollout
from pyserve.rules.rollout import (
    BOOTING,
    CANARY,
    PREPARING,
    ROLLING,
    STABLE,
    STARTING,
    STOPPING,
    Aborted,
    Check,
    Coalesced,
    Committed,
    Degraded,
    Drain,
    Gate,
    GiveUp,
    Go,
    Loaded,
    Recovered,
    Reload,
    Rolled,
    Scale,
    Spawn,
    Start,
    StartZygote,
    Stop,
    StopZygote,
    Tick,
    Worker,
    WorkerLeaving,
    backoff,
)
from support.rollout_world import World, plan, rolling, serving

# The first start.


def test_first_start() -> None:
    world = World(target=2)
    assert world.tell(Start()) == [StartZygote(1)]
    assert world.tell(Loaded(1)) == [Spawn(Worker(1, 0, 1)), Spawn(Worker(2, 1, 1))]
    assert world.ready(2) == [Go(2)]
    assert world.state.phase == STARTING
    assert world.ready(1) == [Go(1), Committed(1, 0, first=True)]
    assert world.state.phase == STABLE


def test_first_start_fails_to_load() -> None:
    world = World()
    world.tell(Start())
    assert world.load_failed(1) == [GiveUp("no module named 'app'"), StopZygote(1)]
    assert world.state.phase == STOPPING


def test_first_start_with_a_worker_that_cannot_boot() -> None:
    world = World(target=2)
    world.tell(Start())
    world.tell(Loaded(1))
    world.ready(1)
    assert world.gone(2, "hook failed") == [GiveUp("hook failed"), Drain(1, "SIGTERM"), StopZygote(1)]


def test_first_start_with_a_zygote_that_dies() -> None:
    world = World(target=1)
    world.tell(Start())
    world.tell(Loaded(1))
    assert world.zygote_gone(1) == [GiveUp("its zygote died"), Drain(1, "SIGTERM"), StopZygote(1)]


def test_crash_of_a_worker_that_served_during_the_first_start_does_not_end_it() -> None:
    world = World(target=2)
    world.tell(Start())
    world.tell(Loaded(1))
    world.ready(1)
    assert world.gone(1) == [Spawn(Worker(3, 0, 1))]
    world.settle()
    world.assert_whole()


def test_fewer_workers_wanted_during_the_first_start() -> None:
    world = World(target=3)
    world.tell(Start())
    world.tell(Loaded(1))
    assert world.tell(Scale(-1)) == [Drain(3, "scale down")]
    world.settle()
    world.assert_whole()


# Reload.


def test_reload_replaces_the_workers_one_by_one() -> None:
    world = serving(target=2)
    assert world.tell(Reload(plan(2))) == [StartZygote(2)]
    assert world.state.phase == PREPARING
    assert world.tell(Loaded(2)) == [Spawn(Worker(3, 0, 2))]
    assert world.state.phase == CANARY
    assert world.ready(3) == [Go(3), Drain(1, "reload"), Spawn(Worker(4, 1, 2))]
    assert world.state.phase == ROLLING
    assert world.ready(4) == [Go(4), Drain(2, "reload"), Rolled(2, 1), Committed(2, 1, first=False)]
    assert world.gone(1) == []
    assert world.gone(2) == []
    world.assert_whole()


def test_reload_that_does_not_import_touches_nothing() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    assert world.load_failed(2) == [Aborted(2, 1, "no module named 'app'", rolled_back=False), StopZygote(2)]
    world.assert_whole()
    assert world.tell(Reload(plan(2))) == [StartZygote(3)], "the number of a generation is never given again"
    world.settle()
    world.assert_whole()
    assert world.committed == 3


def test_reload_whose_canary_crashes_touches_nothing() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    assert world.gone(3, "hook failed") == [Aborted(2, 1, "hook failed", rolled_back=False), StopZygote(2)]
    world.assert_whole()


def test_reload_whose_zygote_dies_beside_the_canary() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    assert world.zygote_gone(2) == [
        Aborted(2, 1, "its zygote died", rolled_back=False),
        StopZygote(2),
        Drain(3, "roll back"),
    ]
    world.gone(3)
    world.assert_whole()


def test_old_workers_that_crash_while_the_canary_boots_are_replaced_by_old_ones() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    assert world.gone(1) == [Spawn(Worker(4, 0, 1))]
    assert world.state.phase == CANARY


def test_canary_that_is_told_to_stop_is_no_failure() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    assert world.tell(WorkerLeaving(3)) == [Spawn(Worker(4, 0, 2))]
    assert world.gone(3) == []
    world.settle()
    world.assert_whole()
    assert world.committed == 2


def test_one_crash_in_the_roll_is_repaired() -> None:
    world = rolling()
    assert world.gone(3) == [Spawn(Worker(5, 0, 2))]
    assert world.state.phase == ROLLING
    world.settle()
    world.assert_whole()
    assert world.committed == 2


def test_two_crashes_in_the_roll_turn_it_round() -> None:
    world = rolling(target=3)
    assert world.serving() == [2, 3, 4]
    world.gone(5)
    actions = world.gone(4, "a worker was killed by SIGSEGV")
    assert actions[:2] == [Aborted(2, 1, "a worker was killed by SIGSEGV", rolled_back=True), StopZygote(2)]
    assert [a.worker.generation for a in actions if isinstance(a, Spawn)] == [1]
    world.settle()
    world.assert_whole()
    assert world.committed == 1


def test_new_workers_of_a_roll_that_turned_round_serve_until_there_are_enough_old_ones() -> None:
    world = rolling(target=2)
    world.gone(4)  # the first failure; 5 takes its place
    world.zygote_gone(2)  # the second failure; 5 is drained, 6 is of the old generation
    assert world.state.phase == STABLE
    assert world.serving() == [2, 3], "worker 3 is new, and serves on"
    assert world.in_state(BOOTING) == [6]
    assert world.ready(6) == [Go(6), Drain(3, "roll back")]


def test_zygote_that_dies_once_in_the_roll_is_started_again() -> None:
    world = rolling(target=3)
    assert world.zygote_gone(2) == [StartZygote(2)]
    world.settle()
    world.assert_whole()
    assert world.committed == 2


def test_old_zygote_that_dies_in_the_roll_is_started_again_for_a_roll_back() -> None:
    world = rolling(target=3)
    assert world.zygote_gone(1) == [StartZygote(1)]
    world.gone(5)
    world.gone(4)
    world.settle()
    world.assert_whole()
    assert world.committed == 1


def test_second_reload_is_coalesced_and_follows() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    assert world.tell(Reload(plan(2))) == [Coalesced()]
    world.tell(Loaded(2))
    assert world.tell(Reload(plan(2))) == [Coalesced()]
    world.ready(3)
    assert world.ready(4)[-3:] == [Rolled(2, 1), Committed(2, 1, first=False), StartZygote(3)]
    world.settle()
    world.assert_whole()
    assert world.committed == 3, "however often it was asked for, one more reload is done"


def test_while_a_request_is_alone_a_reload_and_a_scale_down_wait() -> None:
    world = serving(2)
    world.tell(Gate(closed=True))
    assert world.tell(Scale(-1)) == []
    assert world.tell(Reload(plan(1))) == [Coalesced()]
    assert world.tell(Gate(closed=False)) == [Drain(2, "scale down"), StartZygote(2)]
    world.settle()
    world.assert_whole()
    assert world.committed == 2


def test_a_roll_goes_on_when_no_request_is_alone_any_more() -> None:
    world = serving(2)
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    world.tell(Gate(closed=True))
    assert world.ready(3) == [Go(3)], "the new worker may serve, but nobody is drained for it"
    assert world.tell(Gate(closed=False))[0] == Drain(1, "reload")
    world.settle()
    world.assert_whole()


def test_a_canary_that_was_booting_is_not_checked_before_the_request_has_ended() -> None:
    world = serving(2)
    world.tell(Reload(plan(2)._replace(check=True)))
    world.tell(Loaded(2))
    world.tell(Gate(closed=True))
    assert world.ready(3) == []
    assert world.tell(Gate(closed=False)) == [Check(3)]


def test_the_canary_waits_too_because_it_may_be_asked_for_an_answer() -> None:
    world = serving(2)
    world.tell(Reload(plan(2)))
    world.tell(Gate(closed=True))
    assert world.tell(Loaded(2)) == []
    assert world.tell(Gate(closed=False)) == [Spawn(Worker(3, 0, 2))]


def test_reload_during_the_first_start_follows_it() -> None:
    world = World(target=1)
    world.tell(Start())
    assert world.tell(Reload(plan(1))) == [Coalesced()]
    world.tell(Loaded(1))
    assert world.ready(1) == [Go(1), Committed(1, 0, first=True), StartZygote(2)]


def test_reload_that_waited_for_one_that_turned_round_keeps_to_the_surge() -> None:
    """The workers of a generation that was given up are replaced also while the next reload is under way."""
    world = rolling(target=4)
    world.ready(6)
    world.ready(7)  # three of the new generation serve
    world.tell(Reload(plan(4)))
    world.gone(8)
    world.gone(5)
    assert world.state.phase == PREPARING
    world.tell(Loaded(3))
    assert len(world.living()) <= 4 + 1
    world.settle()
    world.assert_whole()
    assert world.committed == 3


def test_number_of_workers_in_a_reload_holds_from_its_roll_on() -> None:
    world = serving(target=4)
    assert world.tell(Reload(plan(2))) == [StartZygote(2)], "no worker is taken away for what may not even import"
    world.tell(Loaded(2))
    assert len(world.serving()) == 4
    world.ready(5)
    assert len(world.serving()) == 2
    world.settle()
    world.assert_whole()
    assert len(world.serving()) == 2


def test_number_of_workers_in_a_reload_that_fails_is_forgotten() -> None:
    world = serving(target=2)
    world.tell(Reload(plan(4)))
    assert world.load_failed(2)[1:] == [StopZygote(2)]
    world.settle()
    assert len(world.serving()) == 2


def test_number_of_workers_in_a_roll_that_turned_round_is_taken_back() -> None:
    world = serving(target=4)
    world.tell(Reload(plan(2)))
    world.tell(Loaded(2))
    world.ready(5)
    world.gone(5)
    world.gone(6)
    world.settle()
    world.assert_whole()
    assert len(world.serving()) == 4


def test_reload_of_a_repaired_app_does_not_wait_for_what_crashes() -> None:
    world = serving(target=1)
    for _ in range(8):
        world.gone(world.living()[0].id)
        world.tick(backoff(100))
    world.gone(world.living()[0].id)
    assert rollout.retry_at(world.state) > world.now
    world.tell(Reload(plan(1)))
    assert Spawn(Worker(world.state.last_id + 1, 0, 2)) in world.tell(Loaded(2))


# Crashes.


def test_crash_in_a_quiet_time_is_repaired_at_once() -> None:
    world = serving()
    assert world.gone(2) == [Spawn(Worker(3, 1, 1))], "with the number of the one that crashed"


def test_crashes_are_repaired_ever_more_slowly_and_then_are_called_by_their_name() -> None:
    world = serving(target=1, max_crashes=3)
    assert world.gone(1) == [Spawn(Worker(2, 0, 1))]
    assert world.gone(2) == []
    assert world.tick(0.4) == []
    assert world.tick(0.2) == [Spawn(Worker(3, 0, 1))]
    assert world.gone(3) == [Degraded(3, 0.75)]
    assert world.tick(0.8) == [Spawn(Worker(4, 0, 1))]
    world.ready(4)
    assert world.tick(58.0) == [], "the last crash is not a minute ago"
    assert world.tick(2.0) == [Recovered()]
    world.assert_whole()


def test_worker_that_has_served_is_replaced_at_once_each_time_that_it_crashes() -> None:
    """One client can send the request that ends a worker again and again. The others have done nothing."""
    world = serving(target=2, max_crashes=3)
    for number in range(100):
        world.tick(0.1)
        [spawn] = [it for it in world.gone(world.serving()[-1], has_served=True) if isinstance(it, Spawn)]
        world.ready(spawn.worker.id, took=0.02)
        assert world.state.degraded == (number >= 2), "it is no quiet time for all that"
    assert len(world.serving()) == 2


def test_boots_that_take_long_may_take_half_of_the_machine() -> None:
    world = serving(target=2)
    world.gone(2, has_served=True)
    crashes = 1
    began = world.now
    for _ in range(1200):
        for worker in world.in_state(BOOTING):
            world.ready(worker, took=3.0)
        if len(world.serving()) == 2:
            crashes += 1
            world.gone(world.serving()[-1], has_served=True)
        world.tick(0.1)
    assert 0.9 < (crashes * 3.0 / (world.now - began)) / world.state.debt_share < 1.2


def test_what_has_not_served_waits_for_its_own_generation_only() -> None:
    world = serving(target=1, plan=plan(1, keep=0.0))
    for _ in range(6):
        world.gone(world.living()[0].id)
        world.tick(20.0)
    world.gone(world.living()[0].id)
    assert rollout.retry_at(world.state) > world.now
    world.tell(Reload(plan(1)))
    world.tell(Loaded(2))
    [canary] = world.in_state(BOOTING)
    world.ready(canary)
    assert rollout.retry_at(world.state) <= world.now, "the new code has not crashed"
    assert world.gone(canary) == [Spawn(Worker(canary + 1, 0, 2))]


def test_worker_that_leaves_by_itself_is_replaced_at_once() -> None:
    world = serving()
    assert world.tell(WorkerLeaving(1)) == [Spawn(Worker(3, 0, 1))]
    assert world.gone(1) == []
    assert world.state.crashes == ()


def test_zygote_that_dies_is_replaced_and_the_workers_stay() -> None:
    world = serving()
    assert world.zygote_gone(1) == [StartZygote(1)]
    assert world.serving() == [1, 2]
    assert world.tell(Loaded(1)) == []
    world.assert_whole()


def test_zygote_that_cannot_be_started_again_is_tried_again_later() -> None:
    """The app's new code does not import, say, and the zygote was killed: what serves goes on."""
    world = serving()
    world.zygote_gone(1)
    assert world.load_failed(1) == []
    assert world.tick(0.4) == []
    assert world.tick(0.2) == [StartZygote(1)]
    world.gone(1)
    assert world.serving() == [2]
    world.settle()
    world.assert_whole()


def test_zygote_that_dies_each_time_it_has_loaded_is_not_started_ever_faster() -> None:
    world = serving(max_crashes=3)
    assert world.zygote_gone(1) == [StartZygote(1)]
    world.tell(Loaded(1))
    assert world.zygote_gone(1) == []
    assert world.tick(0.6) == [StartZygote(1)]
    world.tell(Loaded(1))
    assert world.zygote_gone(1) == [Degraded(3, 0.75)]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_backoff_grows_and_is_bounded(few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert 0.0 <= backoff(few) <= backoff(more) <= rollout.BACKOFF_LIMIT
    assert backoff(1) == 0.0


@pytest.mark.parametrize("crashes", [0, 1, 2, 5, 50])
def test_chance_makes_a_wait_shorter_but_not_much(crashes: int) -> None:
    longest, shortest = backoff(crashes), backoff(crashes, 1.0)
    assert longest * 0.79 <= shortest <= longest
    assert (shortest == longest) == (longest == 0.0)


def test_backoff_reaches_its_limit() -> None:
    assert backoff(50) == rollout.BACKOFF_LIMIT


# Scaling.


def test_one_worker_more_and_one_fewer() -> None:
    world = serving()
    assert world.tell(Scale(+1)) == [Spawn(Worker(3, 2, 1))]
    world.ready(3)
    assert world.tell(Scale(-1)) == [Drain(3, "scale down")]
    world.gone(3)
    assert world.tell(Scale(-1)) == [Drain(2, "scale down")]
    world.gone(2)
    assert world.tell(Scale(-1)) == [], "one always stays"
    world.assert_whole()


def test_a_worker_that_boots_is_given_up_before_one_that_serves() -> None:
    world = serving(target=2)
    world.gone(1)
    assert world.tell(Scale(-1)) == [Drain(3, "scale down")]
    assert world.serving() == [2]


def test_scaling_down_in_the_roll_takes_old_workers() -> None:
    world = rolling(target=3)  # 4 is new
    assert world.tell(Scale(-1)) == [Drain(2, "reload")]
    world.settle()
    world.assert_whole()
    assert world.committed == 2


# Stop.


def drive_to(phase: str) -> World:
    if phase == ROLLING:
        return rolling()
    world = World() if phase == STARTING else serving()
    if phase == STARTING:
        world.tell(Start())
    if phase in (PREPARING, CANARY):
        world.tell(Reload(plan(2)))
    if phase == CANARY:
        world.tell(Loaded(2))
    return world


@pytest.mark.parametrize("phase", [STARTING, STABLE, PREPARING, CANARY, ROLLING])
def test_stop_in_each_phase_drains_everything_and_starts_nothing_more(phase: str) -> None:
    world = drive_to(phase)
    assert world.state.phase == phase
    living, zygotes = [worker.id for worker in world.living()], list(world.zygotes)
    assert world.tell(Stop()) == [*(Drain(worker, "SIGTERM") for worker in living), *map(StopZygote, zygotes)]
    # Whatever else was on its way comes now, and changes nothing.
    assert world.tell(Stop()) == []
    assert world.tell(Reload(plan(5))) == []
    for generation in (1, 2):
        assert world.tell(Loaded(generation)) == []
        assert world.load_failed(generation) == []
        assert world.zygote_gone(generation) == []
    for worker in list(world.workers):
        assert world.ready(worker) == []
        assert world.tell(WorkerLeaving(worker)) == []
        assert world.gone(worker) == []
    assert world.tick(1000.0) == []
    assert world.state.phase == STOPPING
    assert world.workers == {}


def test_stop_in_a_degraded_time_is_silent() -> None:
    world = serving(max_crashes=1)
    world.gone(1)
    world.tell(Stop())
    assert world.tick(1000.0) == []


def test_illegal_transition_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    world = serving()
    monkeypatch.setitem(rollout.HANDLERS, Tick, lambda state, _: (state._replace(phase=STARTING), []))
    with pytest.raises(AssertionError, match="BUG: stable → starting on Tick"):
        world.tick()
