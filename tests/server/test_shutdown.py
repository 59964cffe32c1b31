"""The phases of the shutdown, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyserve.master.ending import last_words
from pyserve.rules.shutdown import (
    CLOSED,
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


def go(state: Shutdown, now: float, *, held: bool = False, handshakes: bool = False) -> Shutdown:
    """Every step for which it is time."""
    while (after := step(state, now, held, handshakes)) != state:
        state = after
    return state


def test_nothing_happens_before_it_is_asked_for() -> None:
    assert go(Shutdown(), NOW, held=True, handshakes=True) == Shutdown()
    assert Shutdown().look_again(NOW) == NEVER


def test_without_a_delay_the_port_is_closed_as_soon_as_nobody_else_has_it() -> None:
    state = asked()
    assert not state.final
    state = go(state, NOW, held=True)
    assert (state.phase, state.final) == (DRAINING, True)
    assert NOW < state.look_again(NOW) < NOW + HANDSHAKE_GRACE
    state = step(state, NOW, held=False, handshakes=False)
    assert state.phase == HANDSHAKES
    state = step(state, NOW, held=False, handshakes=False)
    assert (state.phase, state.final) == (CLOSED, True)
    assert go(state, NOW + 1e6) == state
    assert state.look_again(NOW) == NEVER


def test_the_delay_is_served_to_its_end() -> None:
    state = asked(drain_delay=5.0)
    assert state.look_again(NOW) == NOW + 5.0
    assert go(state, NOW + 4.9) == state
    assert go(state, NOW + 5.0, held=True).phase == DRAINING


def test_handshakes_have_their_grace_and_no_more() -> None:
    state = go(asked(), NOW, handshakes=True)
    assert state.phase == HANDSHAKES
    assert go(state, NOW + 0.5, handshakes=True) == state
    assert NOW < state.look_again(NOW) < NOW + HANDSHAKE_GRACE
    assert go(state, NOW + 0.5).phase == CLOSED
    assert go(state, NOW + HANDSHAKE_GRACE, handshakes=True).phase == CLOSED


def test_a_short_deadline_ends_every_phase() -> None:
    assert go(asked(graceful_timeout=0.3), NOW + 0.3, handshakes=True).phase == CLOSED


def test_the_port_is_not_closed_while_another_has_it() -> None:
    """Who connects would then wait where nobody accepts. At the deadline the other one is killed."""
    state = go(asked(graceful_timeout=0.3), NOW + 0.3, held=True)
    assert state.phase == DRAINING
    assert state.look_again(NOW + 1.0) > NOW + 1.0


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
    st.lists(st.tuples(st.sampled_from(["begin", "fast", "step"]), st.booleans(), st.booleans(), st.floats(0, 20))),
    st.floats(0, 10),
    st.floats(0.01, 30),
)
def test_on_every_path_the_deadline_holds(
    story: list[tuple[str, bool, bool, float]], drain_delay: float, graceful_timeout: float
) -> None:
    """Whatever signals come, and whenever: it never moves to a later time, and no phase outlasts it that the master can end."""
    state, now = Shutdown(), NOW
    for what, held, handshakes, seconds in story:
        now += seconds
        before = state
        if what == "begin":
            state = begin(state, "SIGTERM", now, drain_delay, graceful_timeout)
        elif what == "fast":
            state = fast(state, "SIGQUIT", now)
        while (after := step(state, now, held, handshakes)) != state:
            assert after.phase in TRANSITIONS[state.phase]
            state = after
        assert not before.begun or state.deadline <= max(before.deadline, now)
        if now >= state.deadline:
            assert state.phase in (CLOSED, CUTTING) or held
        assert (state.look_again(now) > now) or state.phase == SERVING, "the loop must not spin"


@pytest.mark.parametrize(
    ("cut", "lost", "said"),
    [
        (0, 0, "the stop cut no request"),
        (1, 0, "1 request had to be cut"),
        (2, 3, "2 requests had to be cut, and 3 other connections ended with killed workers"),
        (0, 1, "no request is known to be cut, but 1 connection ended with killed workers"),
    ],
)
def test_the_last_line_says_what_is_known(cut: int, lost: int, said: str) -> None:
    assert last_words(cut, lost) == said
