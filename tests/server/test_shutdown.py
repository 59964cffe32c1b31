"""The phases of the shutdown, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyserve.shutdown import (
    CUTTING,
    DELAYING,
    DRAINING,
    HANDSHAKE_GRACE,
    HANDSHAKES,
    NEVER,
    SERVING,
    TRANSITIONS,
    Shutdown,
    begin,
    fast,
    put_off,
    step,
)

NOW = 1000.0


def asked(drain_delay: float = 0.0, graceful_timeout: float = 30.0) -> Shutdown:
    return begin(Shutdown(), "SIGTERM", NOW, drain_delay, graceful_timeout)


def test_nothing_happens_before_it_is_asked_for() -> None:
    assert step(Shutdown(), NOW, handshakes=True) == Shutdown()
    assert Shutdown().look_again(NOW) == NEVER


def test_without_a_delay_and_without_handshakes_all_drains_at_once() -> None:
    state = step(asked(), NOW, handshakes=False)
    assert state.phase == HANDSHAKES
    assert not state.final
    state = step(state, NOW, handshakes=False)
    assert (state.phase, state.final) == (DRAINING, True)
    assert step(state, NOW + 1e6, handshakes=False) == state
    assert state.look_again(NOW) == NEVER


def test_the_delay_is_served_to_its_end() -> None:
    state = asked(drain_delay=5.0)
    assert state.look_again(NOW) == NOW + 5.0
    assert step(state, NOW + 4.9, handshakes=False) == state
    assert step(state, NOW + 5.0, handshakes=False).phase == HANDSHAKES


def test_handshakes_have_their_grace_and_no_more() -> None:
    state = step(asked(), NOW, handshakes=False)
    assert step(state, NOW + 0.5, handshakes=True) == state
    assert NOW < state.look_again(NOW) < NOW + HANDSHAKE_GRACE
    assert step(state, NOW + 0.5, handshakes=False).phase == DRAINING
    assert step(state, NOW + HANDSHAKE_GRACE, handshakes=True).phase == DRAINING


def test_a_short_deadline_ends_every_phase() -> None:
    state = step(asked(graceful_timeout=0.3), NOW, handshakes=True)
    assert step(state, NOW + 0.3, handshakes=True).phase == DRAINING


def test_repeats_change_nothing() -> None:
    state = asked(drain_delay=5.0)
    assert begin(state, "SIGINT", NOW + 3.0, 5.0, 30.0) == state
    hard = fast(state, "SIGQUIT", NOW + 3.0)
    assert (hard.phase, hard.cause, hard.deadline) == (CUTTING, "SIGTERM", NOW + 3.0)
    assert fast(hard, "SIGQUIT", NOW + 4.0) == hard
    assert begin(hard, "SIGTERM", NOW + 4.0, 5.0, 30.0) == hard


def test_a_fast_shutdown_needs_no_other_before_it() -> None:
    assert fast(Shutdown(), "SIGQUIT", NOW) == Shutdown(CUTTING, "SIGQUIT", NOW)


def test_a_suspension_is_nobodys_time() -> None:
    state = put_off(asked(drain_delay=5.0), 100.0)
    assert (state.until, state.deadline) == (NOW + 105.0, NOW + 130.0)
    assert put_off(Shutdown(), 100.0) == Shutdown()


def test_a_step_that_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="BUG: shutdown: draining → delaying"):
        Shutdown(DRAINING).enter(DELAYING)


@settings(deadline=None)  # a busy machine may suspend a test that takes no time
@given(
    st.lists(st.tuples(st.sampled_from(["begin", "fast", "step"]), st.booleans(), st.floats(0, 20))),
    st.floats(0, 10),
    st.floats(0.01, 30),
)
def test_on_every_path_the_deadline_holds(
    story: list[tuple[str, bool, float]], drain_delay: float, graceful_timeout: float
) -> None:
    """Whatever signals come, and whenever: it never moves to a later time, and no phase before DRAINING outlasts it."""
    state, now = Shutdown(), NOW
    for what, handshakes, seconds in story:
        now += seconds
        before = state
        if what == "begin":
            state = begin(state, "SIGTERM", now, drain_delay, graceful_timeout)
        elif what == "fast":
            state = fast(state, "SIGQUIT", now)
        while (after := step(state, now, handshakes)) != state:
            assert after.phase in TRANSITIONS[state.phase]
            state = after
        assert not before.begun or state.deadline <= max(before.deadline, now)
        assert state.phase in (SERVING, DELAYING, HANDSHAKES, DRAINING, CUTTING)
        if state.begun and now >= state.deadline:
            assert state.final
        assert (state.look_again(now) > now) or state.phase == SERVING, "the loop must not spin"
