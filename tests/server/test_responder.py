"""When clients are told that no worker can answer."""

from __future__ import annotations

import pytest

from pyserve.master.responder import PATIENCE, nobody_serves, worth_saying
from pyserve.rules import rollout

SERVING = rollout.Worker(1, 0, 1, rollout.SERVING)
BOOTING = rollout.Worker(2, 0, 1, rollout.BOOTING)
DRAINING = rollout.Worker(3, 0, 1, rollout.DRAINING)


@pytest.mark.parametrize("phase", [rollout.STABLE, rollout.PREPARING, rollout.CANARY, rollout.ROLLING])
def test_nobody_serves_when_all_are_booting_or_leaving(phase: str) -> None:
    state = rollout.State(phase=phase, workers=(BOOTING, DRAINING))
    assert nobody_serves(state)
    assert not nobody_serves(state._replace(workers=(BOOTING, SERVING)))


@pytest.mark.parametrize("phase", [rollout.STARTING, rollout.STOPPING])
def test_before_the_first_worker_and_after_the_last_there_is_nothing_to_say(phase: str) -> None:
    assert not nobody_serves(rollout.State(phase=phase))


def test_who_has_to_wait_for_a_moment_only_is_not_told() -> None:
    state = rollout.State(phase=rollout.STABLE, repair_at=100.75)
    assert not worth_saying(state, 100.0, now=100.0)


def test_a_long_wait_is_told_at_once() -> None:
    state = rollout.State(phase=rollout.STABLE, repair_at=101.125)
    assert worth_saying(state, 100.0, now=100.0)


def test_a_worker_that_does_not_come_is_not_waited_for_for_ever() -> None:
    state = rollout.State(phase=rollout.STABLE, repair_at=100.0)
    assert not worth_saying(state, 100.0, now=101.0)
    assert worth_saying(state, 100.0, now=100.1 + PATIENCE)
