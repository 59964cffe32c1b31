"""The stories of workers that are worn: a fresh one serves before each of them leaves."""

from __future__ import annotations

from pyserve.rules.rollout import (
    SOAKING,
    Drain,
    Go,
    Loaded,
    Reload,
    Rolled,
    Scale,
    Spawn,
    StartZygote,
    Worker,
    WorkerLeaving,
)
from support.rollout_world import plan, rolling, serving


def test_a_fresh_worker_serves_before_the_worn_one_leaves() -> None:
    world = serving(2)
    assert world.worn(2) == [Spawn(Worker(3, 1, 1))], "it takes over the number"
    assert world.ready(3) == [Go(3), Drain(2, "max_requests")]
    world.gone(2)
    world.assert_whole()


def test_the_only_worker_is_replaced_without_a_gap() -> None:
    world = serving(1)
    assert world.worn(1, "max_memory") == [Spawn(Worker(2, 0, 1))]
    assert world.serving() == [1]
    assert world.ready(2) == [Go(2), Drain(1, "max_memory")]
    assert world.serving() == [2]


def test_worn_workers_are_replaced_one_at_a_time() -> None:
    world = serving(3, plan=plan(3, max_surge="100%", max_unavailable="1"))
    assert world.worn(1) == [Spawn(Worker(4, 0, 1))]
    assert world.worn(2) == []
    assert world.worn(3, "max_lifetime") == []
    assert world.ready(4) == [Go(4), Drain(1, "max_requests"), Spawn(Worker(5, 1, 1))]
    assert world.ready(5) == [Go(5), Drain(2, "max_requests"), Spawn(Worker(6, 2, 1))]
    assert world.ready(6) == [Go(6), Drain(3, "max_lifetime")]


def test_worn_is_said_once() -> None:
    world = serving(1)
    world.worn(1)
    assert world.worn(1, "max_memory") == []
    assert world.ready(2) == [Go(2), Drain(1, "max_requests")]


def test_where_there_is_no_room_for_one_more_the_worn_worker_leaves_first() -> None:
    world = serving(2, plan=plan(2, max_surge="0", max_unavailable="1"))
    assert world.worn(1) == [Drain(1, "max_requests"), Spawn(Worker(3, 0, 1))]
    assert world.worn(2) == [], "one of two is missing already"
    assert world.ready(3) == [Go(3), Drain(2, "max_requests"), Spawn(Worker(4, 1, 1))]


def test_worn_worker_that_dies_is_replaced_all_the_same() -> None:
    world = serving(2)
    world.worn(1)
    assert world.gone(1) == []
    assert world.ready(3) == [Go(3)]
    world.assert_whole()


def test_worn_worker_that_leaves_by_itself_is_replaced_all_the_same() -> None:
    world = serving(2)
    world.worn(1)
    assert world.tell(WorkerLeaving(1)) == []
    world.settle()
    world.assert_whole()


def test_fresh_worker_that_fails_is_a_crash_and_the_worn_one_stays_meanwhile() -> None:
    world = serving(1)
    world.worn(1)
    assert world.gone(2, "hook failed") == [Spawn(Worker(3, 0, 1))]
    assert world.gone(3, "hook failed") == []
    assert world.serving() == [1]
    world.settle()
    world.assert_whole()


def test_worn_workers_wait_while_a_reload_rolls() -> None:
    world = rolling(3)  # 1 has left, 4 is new
    assert world.worn(2) == []
    assert world.worn(4) == []
    assert world.ready(5) == [Go(5), Drain(2, "reload"), Spawn(Worker(6, 2, 2))]
    assert world.ready(6)[:3] == [Go(6), Drain(3, "reload"), Rolled(2, 1)]
    assert world.in_state("booting") == [7], "the new one that is worn has its turn"
    world.settle()
    world.assert_whole()


def test_worn_workers_have_their_turn_in_the_soak() -> None:
    """Which an operator may have made long."""
    world = rolling(1, plan(1, soak=600.0))
    assert world.state.phase == SOAKING
    assert world.worn(2) == [Spawn(Worker(3, 0, 2))]
    assert world.ready(3) == [Go(3), Drain(2, "max_requests")]


def test_canary_comes_before_the_fresh_worker_of_a_worn_one() -> None:
    world = serving(2)
    world.tell(Reload(plan(2)))
    assert world.worn(1) == [Spawn(Worker(3, 0, 1))], "to import the app can take long"
    assert world.tell(Loaded(2)) == [Drain(3, "scale down"), Spawn(Worker(4, 0, 2))]
    world.settle()
    world.assert_whole()


def test_worn_worker_goes_first_when_there_are_to_be_fewer() -> None:
    world = serving(3)
    world.worn(1)
    assert world.tell(Scale(-1)) == [Drain(1, "max_requests"), Drain(4, "scale down")]
    world.settle()
    world.assert_whole()


def test_worn_worker_waits_for_a_zygote() -> None:
    world = serving(1)
    assert world.zygote_gone(1) == [StartZygote(1)]
    assert world.worn(1) == []
    assert world.tell(Loaded(1)) == [Spawn(Worker(2, 0, 1))]
