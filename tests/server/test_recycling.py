"""When a worker has served enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyserve.master.recycling import LIFETIME_JITTER, Limits, draw, is_runaway, resident, worn_by

MIB = 1 << 20


def config(**values: Any) -> Any:
    return SimpleNamespace(
        **{"max_requests": 0, "max_requests_jitter": 0, "max_memory": 0, "max_lifetime": 0.0, **values}
    )


def test_no_limits_unless_they_are_set() -> None:
    assert draw(config(), 50.0) == Limits()


def test_jitter_is_added_to_the_requests() -> None:
    drawn = {draw(config(max_requests=10, max_requests_jitter=3), 0.0).requests for _ in range(200)}
    assert drawn == {10, 11, 12, 13}
    assert draw(config(max_requests_jitter=3), 0.0).requests == 0


def test_workers_that_were_born_together_do_not_end_together() -> None:
    drawn = [draw(config(max_lifetime=100.0), 50.0).lives_until for _ in range(200)]
    assert len(set(drawn)) > 100
    assert all(150.0 <= until <= 150.0 + 100.0 * LIFETIME_JITTER for until in drawn)


@pytest.mark.parametrize(
    "limits, requests, memory, now, cause",
    [
        (Limits(), 1 << 40, 1 << 40, 1e9, ""),
        (Limits(requests=10), 9, 0, 0.0, ""),
        (Limits(requests=10), 10, 0, 0.0, "max_requests"),
        (Limits(memory=64 * MIB), 0, 64 * MIB - 1, 0.0, ""),
        (Limits(memory=64 * MIB), 0, 64 * MIB, 0.0, "max_memory"),
        (Limits(lives_until=100.0), 0, 0, 99.9, ""),
        (Limits(lives_until=100.0), 0, 0, 100.0, "max_lifetime"),
    ],
)
def test_the_limit_that_is_reached(limits: Limits, requests: int, memory: int, now: float, cause: str) -> None:
    assert worn_by(limits, requests, memory, now) == cause


@pytest.mark.parametrize(
    "max_memory, memory, active, runaway",
    [(64, 128, 1, False), (64, 129, 1, True), (64, 129, 0, False), (0, 129, 1, False)],
)
def test_what_is_not_waited_for(max_memory: int, memory: int, active: int, runaway: bool) -> None:
    assert is_runaway(max_memory, memory, active) is runaway


def test_memory_of_a_process_that_has_ended() -> None:
    assert resident(0) == 0
