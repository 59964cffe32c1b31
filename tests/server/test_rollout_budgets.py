"""The stories of a rollout with its plan: how many workers at a time, the canary's check, the soak, and the way back."""

from __future__ import annotations

import pytest

from pyserve.rules.rollout import (
    CANARY,
    CHECKING,
    PREPARING,
    SOAKING,
    STABLE,
    Aborted,
    Check,
    Coalesced,
    Committed,
    Drain,
    Go,
    Loaded,
    Plan,
    Reload,
    Rolled,
    Scale,
    Spawn,
    Start,
    StartZygote,
    Stop,
    StopZygote,
    Worker,
    WorkerLeaving,
    due,
    surge,
    unavailable,
    way_back,
)
from support.rollout_world import World, plan, rolling, serving

WATCHED = Plan(target=2, soak=5.0)
CHECKED = Plan(target=2, soak=0.0, check=True)
KILLED = "a worker was killed by SIGSEGV"


def soaking(target: int = 2, base: Plan = WATCHED) -> World:
    """Every worker is of generation 2, which is watched from now on."""
    world = rolling(target, base)
    while world.state.phase != SOAKING:
        world.ready(world.in_state("booting")[0])
    for worker in world.in_state("draining"):
        world.gone(worker, "exited with code 0")
    world.tick()
    return world


# How many at a time.


@pytest.mark.parametrize(
    "target, max_surge, max_unavailable, expected",
    [
        (4, "1", "0", (1, 0)),
        (4, "25%", "0", (1, 0)),
        (5, "25%", "25%", (2, 1)),
        (3, "10%", "10%", (1, 0)),
        (4, "0", "50%", (0, 2)),
        (1, "0%", "25%", (0, 1)),
        (2, "100%", "100%", (2, 2)),
        (2, "3", "9", (3, 2)),
    ],
)
def test_shares_of_the_target(target: int, max_surge: str, max_unavailable: str, expected: tuple[int, int]) -> None:
    """Up for more workers, down for fewer; but something must be able to move."""
    wanted = Plan(target, max_surge, max_unavailable)
    assert (surge(wanted), unavailable(wanted)) == expected


def test_two_more_at_a_time() -> None:
    world = serving(4)
    world.tell(Reload(plan(4, max_surge="50%")))
    assert world.tell(Loaded(2)) == [Spawn(Worker(5, 0, 2))], "the canary is alone"
    assert world.ready(5) == [Go(5), Spawn(Worker(6, 1, 2)), Drain(1, "reload"), Spawn(Worker(7, 2, 2))]
    assert world.ready(7) == [Go(7), Drain(2, "reload"), Spawn(Worker(8, 3, 2))]


def test_two_may_be_missing() -> None:
    world = serving(4)
    world.tell(Reload(plan(4, max_unavailable="2")))
    world.tell(Loaded(2))
    actions = world.ready(5)
    assert [a for a in actions if isinstance(a, Drain)] == [Drain(n, "reload") for n in (1, 2, 3)]
    assert len(world.serving()) == 2
    assert len(world.in_state("booting")) == 3


def test_where_there_is_no_room_for_one_more_the_canary_takes_a_place() -> None:
    base = plan(3, max_surge="0", max_unavailable="1")
    world = serving(3, plan=base)
    world.tell(Reload(base))
    assert world.tell(Loaded(2)) == [Drain(3, "reload"), Spawn(Worker(4, 0, 2))]
    assert world.gone(4, "hook failed") == [
        Aborted(2, 1, "hook failed", rolled_back=False),
        StopZygote(2),
        Spawn(Worker(5, 2, 1)),
    ]
    world.settle()
    world.assert_whole()


def test_fewer_workers_wanted_while_many_boot_beside_the_old_ones() -> None:
    world = serving(4)
    world.tell(Reload(plan(4, max_surge="100%")))
    world.tell(Loaded(2))
    world.ready(5)
    assert len(world.living()) == 7
    world.tell(Scale(-2))
    assert len(world.serving()) == 2
    assert len(world.living()) == 3
    world.settle()
    world.assert_whole()


# The canary's check.


def test_canary_is_checked_before_it_serves() -> None:
    world = serving()
    world.tell(Reload(CHECKED))
    world.tell(Loaded(2))
    assert world.ready(3) == [Check(3)]
    assert (world.state.phase, world.in_state(CHECKING)) == (CANARY, [3])
    assert world.passes(3) == [Go(3), Drain(1, "reload"), Spawn(Worker(4, 1, 2))]
    assert world.ready(4)[0] == Go(4), "only the first is checked"


def test_canary_that_answers_badly_touches_nothing() -> None:
    world = serving()
    world.tell(Reload(CHECKED))
    world.tell(Loaded(2))
    world.ready(3)
    answered = "GET /healthz was answered with 500"
    assert world.fails(3, answered) == [
        Aborted(2, 1, answered, rolled_back=False),
        StopZygote(2),
        Drain(3, "roll back"),
    ]
    world.settle()
    world.assert_whole()


def test_canary_that_crashes_in_its_check_touches_nothing() -> None:
    world = serving()
    world.tell(Reload(CHECKED))
    world.tell(Loaded(2))
    world.ready(3)
    assert world.gone(3, KILLED) == [Aborted(2, 1, KILLED, rolled_back=False), StopZygote(2)]


def test_canary_that_is_told_to_stop_in_its_check_is_followed_by_another() -> None:
    world = serving()
    world.tell(Reload(CHECKED))
    world.tell(Loaded(2))
    world.ready(3)
    assert world.tell(WorkerLeaving(3)) == [Spawn(Worker(4, 0, 2))]
    assert world.passes(3) == []
    assert world.ready(4) == [Check(4)]


def test_first_generation_is_not_checked() -> None:
    world = World(1, plan=CHECKED)
    world.tell(Start())
    world.tell(Loaded(1))
    assert world.ready(1)[0] == Go(1)


# The soak.


def test_generation_is_committed_after_its_soak() -> None:
    world = rolling(base=WATCHED)
    assert world.ready(4) == [Go(4), Drain(2, "reload"), Rolled(2, 1)]
    assert world.state.phase == SOAKING
    world.tick()
    assert due(world.state) == world.now + 5.0
    assert world.tick(4.9) == []
    assert world.tick(0.2) == [Committed(2, 1, first=False)]
    world.settle()
    world.assert_whole()


def test_one_crash_in_the_soak_is_repaired_and_the_soak_begins_anew() -> None:
    world = soaking()
    world.tick(4.0)
    assert world.gone(3) == [Spawn(Worker(5, 0, 2))]
    world.tick(2.0)
    assert world.state.phase == SOAKING, "it is not whole"
    world.ready(5)
    assert world.tick(4.0) == []
    assert world.tick(2.0) == [Committed(2, 1, first=False)]


def test_two_crashes_in_the_soak_bring_the_old_code_back() -> None:
    world = soaking()
    world.gone(3)
    world.ready(5)
    assert world.gone(4, KILLED) == [
        Aborted(2, 1, KILLED, rolled_back=True),
        StopZygote(2),
        Spawn(Worker(6, 0, 1)),
        Spawn(Worker(7, 1, 1)),
    ]
    assert world.serving() == [5], "it serves until there are enough old ones"
    world.settle()
    world.assert_whole()
    assert world.committed == 1


def test_crash_in_the_roll_and_one_in_the_soak_are_two() -> None:
    world = rolling(base=WATCHED)
    world.gone(3)
    world.ready(4)
    world.ready(5)
    assert world.state.phase == SOAKING
    assert world.gone(5, KILLED)[0] == Aborted(2, 1, KILLED, rolled_back=True)


def test_reload_in_the_soak_follows_it() -> None:
    world = soaking()
    assert world.tell(Reload(WATCHED)) == [Coalesced()]
    assert world.tick(4.0) == []
    assert world.tick(2.0) == [Committed(2, 1, first=False), StartZygote(3)]


def test_stop_in_the_soak_drains_everything() -> None:
    world = soaking()
    assert world.tell(Stop()) == [Drain(3, "SIGTERM"), Drain(4, "SIGTERM"), StopZygote(1), StopZygote(2)]


def test_worker_more_in_the_soak_is_waited_for() -> None:
    world = soaking()
    assert world.tell(Scale(+1)) == [Spawn(Worker(5, 2, 2))]
    assert world.tick(6.0) == []
    assert world.ready(5) == [Go(5), Committed(2, 1, first=False)]


# The way back.


def reloaded() -> World:
    """Generation 2 is committed, generation 1 is still loaded."""
    world = soaking()
    world.tick(6.0)
    assert (world.state.phase, world.committed, world.state.previous) == (STABLE, 2, 1)
    return world


def test_previous_generation_comes_back_without_being_loaded_again() -> None:
    world = reloaded()
    assert way_back(world.state) == 1
    assert world.roll_back() == [Spawn(Worker(5, 0, 1))]
    assert world.ready(5) == [Go(5), Drain(3, "roll back"), Spawn(Worker(6, 1, 1))]
    assert world.ready(6) == [Go(6), Drain(4, "roll back"), Rolled(1, 2)]
    world.tick()
    assert world.tick(6.0) == [Committed(1, 0, first=False), StopZygote(2)]
    assert way_back(world.state) == 0, "the code that was given up does not come back by asking twice"
    assert world.roll_back() == []
    world.settle()
    world.assert_whole()


def test_previous_generation_comes_back_unchecked() -> None:
    """Its check may fail for what is wrong with the world, and old code is still better than new then."""
    base = CHECKED._replace(target=1)
    world = serving(1, plan=base)
    world.tell(Reload(base))
    world.settle()
    assert world.roll_back() == [Spawn(Worker(3, 0, 1))]
    assert world.ready(3)[0] == Go(3)


def test_previous_generation_is_forgotten_after_a_while() -> None:
    world = reloaded()
    assert due(world.state) == world.now + 300.0
    assert world.tick(299.0) == []
    assert world.tick(2.0) == [StopZygote(1)]
    assert way_back(world.state) == 0
    world.assert_whole()


def test_previous_generation_that_is_on_its_way_back_is_not_forgotten() -> None:
    world = reloaded()
    world.roll_back()
    assert world.tick(400.0) == []
    world.settle()
    world.assert_whole()
    assert world.committed == 1


def test_previous_generation_is_not_kept_if_nobody_wants_it() -> None:
    world = rolling(base=plan(2, keep=0.0))
    assert world.ready(4)[-3:] == [Rolled(2, 1), Committed(2, 0, first=False), StopZygote(1)]


def test_previous_generation_whose_zygote_dies_is_gone() -> None:
    """To start it again would be to load what is there now: newer code, under the old one's number."""
    world = reloaded()
    assert world.zygote_gone(1) == [StopZygote(1)]
    assert way_back(world.state) == 0


def test_zygote_that_dies_on_the_way_back_ends_it() -> None:
    world = reloaded()
    world.roll_back()
    world.ready(5)
    assert world.zygote_gone(1)[:2] == [Aborted(1, 2, "its zygote died", rolled_back=True), StopZygote(1)]
    world.settle()
    world.assert_whole()
    assert world.committed == 2


def test_way_back_that_fails_leads_to_the_newer_generation() -> None:
    world = reloaded()
    world.roll_back()
    assert world.gone(5, "hook failed") == [Aborted(1, 2, "hook failed", rolled_back=False), StopZygote(1)]
    world.assert_whole()
    assert way_back(world.state) == 0


def test_asking_twice_for_the_way_back_is_asking_once() -> None:
    world = reloaded()
    world.roll_back()
    assert world.roll_back() == []
    assert (world.state.next, way_back(world.state)) == (1, 1)


def test_rollback_of_a_reload_under_way_gives_it_up_with_all_that_waits() -> None:
    world = soaking()
    world.tell(Reload(WATCHED))
    actions = world.roll_back()
    assert actions[:2] == [Aborted(2, 1, "a roll-back was asked for", rolled_back=True), StopZygote(2)]
    world.settle()
    world.assert_whole()
    assert world.committed == 1


def test_rollback_while_the_next_generation_is_prepared_touches_nothing() -> None:
    world = serving()
    world.tell(Reload(plan(2)))
    assert world.state.phase == PREPARING
    assert world.roll_back() == [Aborted(2, 1, "a roll-back was asked for", rolled_back=False), StopZygote(2)]
    world.assert_whole()


def test_third_generation_takes_the_place_of_the_first() -> None:
    world = reloaded()
    world.tell(Reload(plan(2)))
    world.tell(Loaded(3))
    assert len(world.zygotes) == 3
    world.ready(5)
    assert world.ready(6)[-2:] == [Committed(3, 2, first=False), StopZygote(1)]


def test_number_of_workers_of_the_previous_generation_comes_back_with_it() -> None:
    world = serving(4)
    world.tell(Reload(plan(2)))
    world.settle()
    world.tell(Scale(+1))
    world.roll_back()
    world.settle()
    world.assert_whole()
    assert len(world.serving()) == 5, "four, and the one that somebody wanted more"


def test_no_way_back_at_the_first_start_and_at_the_end() -> None:
    world = World()
    world.tell(Start())
    assert way_back(world.state) == 0
    assert world.roll_back() == []
    world = reloaded()
    world.tell(Stop())
    assert way_back(world.state) == 0
    assert world.roll_back() == []
