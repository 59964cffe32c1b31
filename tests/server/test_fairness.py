"""Who is to give away what waits behind a long request, and how closely the master looks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.ipc.scoreboard import Scoreboard, Slot
from pyserve.master.fairness import CLOSELY, LATELY, LONG, SELDOM, USUALLY, Fairness, Load, to_relieve

NOW = 100.0


def test_whoever_is_in_a_long_request_gives_away_what_waits_for_it() -> None:
    loads = [
        Load(1, NOW - 2 * LONG, True, 5),
        Load(2, 0.0, True, 5),
        Load(3, NOW - LONG / 2, True, 5),
        Load(4, NOW - 10, True, 2),
    ]
    assert to_relieve(loads, NOW, helped=False) == ([1, 4], True)


def test_not_when_everybody_is() -> None:
    assert to_relieve([Load(1, NOW - 1, True, 5), Load(2, NOW - 1, True, 5)], NOW, helped=False) == ([], True)


def test_unless_the_responder_takes_it() -> None:
    assert to_relieve([Load(1, NOW - 1, True, 5), Load(2, NOW - 1, True, 0)], NOW, helped=True) == ([1], True)


def test_one_that_leaves_gives_away_too_but_takes_nothing() -> None:
    leaving, free = Load(1, NOW - 1, False, 5), Load(2, 0.0, True, 5)
    assert to_relieve([leaving, free], NOW, helped=False) == ([1], True)
    assert to_relieve([leaving, Load(2, NOW - 1, True, 0)], NOW, helped=False) == ([], True)


def test_not_when_nobody_waits() -> None:
    """It runs the first request of the only client it has."""
    assert to_relieve([Load(1, NOW - 1, True, 0), Load(2, 0.0, True, 9)], NOW, helped=False) == ([], True)


def test_short_requests_are_nothing_to_look_at() -> None:
    assert to_relieve([Load(1, NOW - LONG / 2, True, 5), Load(2, 0.0, True, 5)], NOW, helped=False) == ([], False)
    assert to_relieve([], NOW, helped=False) == ([], False)


class Rung:
    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1


@pytest.fixture
def workers() -> dict[int, Any]:
    """Two, as the master has them."""
    scoreboard = Scoreboard.create()
    return {number: Rung(scoreboard.slot(number)) for number in (1, 2)}


def rung(process: Rung) -> bool:
    rings, process.rings = process.rings, 0
    return rings > 0


def population_of(workers: dict[int, Any]) -> Any:
    exclusion = SimpleNamespace(detained={})
    return SimpleNamespace(workers=workers, takers={1, 2}, helped=False, exclusion=exclusion)


def test_a_worker_whose_request_is_alone_is_rung_though_its_request_has_no_start(
    workers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOW
    monkeypatch.setattr("time.monotonic", lambda: now)
    population = population_of(workers)
    watch = Fairness(population)
    watch.turn(now)
    workers[1].slot.set("connections", 3)
    population.exclusion.detained[1] = now
    assert watch.soonest(now) == now + CLOSELY, "sooner than it had in mind"
    now += 2 * CLOSELY
    watch.turn(now)
    assert rung(workers[1])
    assert not rung(workers[2])


def test_it_looks_closely_only_while_requests_take_long(
    workers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOW
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Fairness(population_of(workers))
    watch.turn(now)
    assert watch.soonest(now) == NOW + SELDOM, "nothing is asked"
    now += SELDOM
    workers[2].slot.set("requests", 7)
    watch.turn(now)
    assert watch.soonest(now) == now + USUALLY
    now += USUALLY
    workers[1].slot.set("connections", 3)
    workers[1].slot.set("request_start", int((now - 1) * 1e9))
    watch.turn(now)
    assert watch.soonest(now) == now + CLOSELY
    assert rung(workers[1])
    assert not rung(workers[2])
    watch.turn(now)
    assert not rung(workers[1]), "it is not time yet"
    now += CLOSELY
    watch.turn(now)
    assert rung(workers[1]), "others may have begun to wait"
    workers[1].slot.set("request_start", 0)
    now += LATELY
    watch.turn(now)
    assert watch.soonest(now) == now + SELDOM
