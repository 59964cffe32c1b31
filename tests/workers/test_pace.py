"""When the leader runs requests itself, and how the watcher finds out that it is late."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from pyserve_workers.classes.pace import LEAST, MOST, Pace
from pyserve_workers.classes.pulse import Pulse


def hand_out(pace: Pace) -> int:
    """How many requests are handed out before a leader may run one again."""
    count = 0
    while not pace.quick:
        pace.handed_out()
        count += 1
    return count


def test_requests_that_wait_are_handed_out_for_longer_each_time() -> None:
    pace = Pace()
    assert pace.quick
    spans = []
    for _ in range(10):
        pace.lead(0)
        pace.waited(1)
        spans.append(hand_out(pace))
    assert spans == [64, 128, 256, 512, 1024, 2048, 4096, 8192, 8192, 8192]


def test_after_a_good_while_it_begins_anew() -> None:
    pace = Pace()
    for _ in range(5):
        pace.lead(0)
        pace.waited(1)
        hand_out(pace)
    pace.lead(1000)
    pace.waited(1000 + 10 * MOST)
    assert hand_out(pace) == LEAST


@given(st.lists(st.integers(0, 100_000)))
def test_it_never_hands_out_for_ever(runs: list[int]) -> None:
    """A wrong guess is corrected after at most MOST requests, whatever happened before."""
    pace, calls = Pace(), 0
    for run in runs:
        pace.lead(calls)
        calls += run
        pace.waited(calls)
        assert LEAST <= hand_out(pace) <= MOST


def watcher(pulse: Pulse) -> tuple[threading.Thread, list[bool]]:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(pulse.watch()), daemon=True)
    thread.start()
    return thread, found


def test_a_leader_that_does_not_come_back_is_late() -> None:
    pulse = Pulse()
    thread, found = watcher(pulse)
    pulse.enter()
    thread.join(60)
    assert found == [True]
    assert pulse.is_late()
    pulse.reset()
    assert not pulse.is_late()


def test_the_watcher_wakes_up_for_a_late_leader_after_a_long_rest() -> None:
    pulse = Pulse()
    for _ in range(20):
        pulse.enter()
        pulse.leave()
    thread, found = watcher(pulse)
    thread.join(0.1)  # it has no ticks any more; if it has, the test says less
    assert thread.is_alive()
    pulse.enter()
    thread.join(60)
    assert found == [True]


def test_the_watcher_comes_when_it_is_called() -> None:
    pulse = Pulse()
    thread, found = watcher(pulse)
    pulse.call()
    thread.join(60)
    assert found == [False]


def test_a_call_before_the_watch_is_not_lost() -> None:
    pulse = Pulse()
    pulse.call()
    assert pulse.watch() is False


def test_a_request_that_waits_is_noticed_though_it_is_not_late() -> None:
    """After a long call the next ones are looked at: did the thread have to wait?"""
    pulse = Pulse()
    noticed = []
    for _ in range(2):
        pulse.enter()
        time.sleep(0.0005)
        noticed.append(pulse.leave())
    assert noticed == [False, True]
    assert pulse.calls == 2


def test_a_quick_request_has_not_waited() -> None:
    pulse = Pulse()
    pulse.enter()
    time.sleep(0.0005)
    pulse.leave()
    noticed = []
    for _ in range(100):
        pulse.enter()
        noticed.append(pulse.leave())
    # Another process may have had the core for long, but the thread did not wait by itself.
    assert not any(noticed)
