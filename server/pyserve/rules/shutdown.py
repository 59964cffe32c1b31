"""The shutdown: its phases, and when each ends. Pure; the master does what a new phase asks for.

    SERVING     nobody has asked for it
    DELAYING    not ready any more, but all is served as before for ``drain_delay``, while load balancers take notice
    DRAINING    workers close their copies of our listening sockets, and finish what they have begun; who connects
                meanwhile is accepted by the master, and goes to a worker by the hand-off queue
    HANDSHAKES  only the master has the sockets; handshakes under way have HANDSHAKE_GRACE, and no new ones begin then
    CLOSED      they are closed: who connects is refused, and workers leave when they have nothing more to do
    CUTTING     a fast shutdown: workers end now

The deadline counts from the signal, whatever the phases take of it, and never moves to a later time, unless the master
was suspended itself and nobody could do anything.
"""

from __future__ import annotations

from pyserve import states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple

SERVING = "serving"
DELAYING = "delaying"
HANDSHAKES = "handshakes"
DRAINING = "draining"
CLOSED = "closed"
CUTTING = "cutting"

# What each phase may become. Anything else is a bug.
TRANSITIONS = {
    SERVING: {DELAYING, CUTTING},
    DELAYING: {DRAINING, CUTTING},
    DRAINING: {HANDSHAKES, CUTTING},
    HANDSHAKES: {CLOSED, CUTTING},
    CLOSED: {CUTTING},
    CUTTING: set(),
}

HANDSHAKE_GRACE = 1.0  # seconds
TICK = 0.02  # seconds between looks at the queues, at who has a listening socket, and at handshakes
NEVER = float("inf")


class Shutdown(NamedTuple):
    """Where the shutdown is. Times are CLOCK_MONOTONIC seconds."""

    phase: str = SERVING
    cause: str = ""  # the first signal, or who else asked
    deadline: float = NEVER  # what still runs then is cut
    until: float = NEVER  # when the phase ends, at the latest

    @property
    def begun(self) -> bool:
        return self.phase != SERVING

    @property
    def final(self) -> bool:
        """Does a worker that leaves now leave because everything stops?"""
        return self.phase not in (SERVING, DELAYING)

    @property
    def moving(self) -> bool:
        """Does a phase last that comes to its end by itself?"""
        return self.phase in (DELAYING, DRAINING, HANDSHAKES)

    def enter(self, phase: str, until: float = NEVER) -> Shutdown:
        return self._replace(phase=states.become("shutdown", TRANSITIONS, self.phase, phase), until=until)

    def look_again(self, now: float) -> float:
        """When ``step`` is to be called next, at the latest."""
        return min(self.until, now + TICK) if self.phase in (DRAINING, HANDSHAKES) else self.until


def begin(state: Shutdown, cause: str, now: float, drain_delay: float, graceful_timeout: float) -> Shutdown:
    """A graceful shutdown is asked for. Repeats change nothing."""
    if state.begun:
        return state
    deadline = now + graceful_timeout
    return state._replace(cause=cause, deadline=deadline).enter(DELAYING, min(now + drain_delay, deadline))


def fast(state: Shutdown, cause: str, now: float) -> Shutdown:
    """A fast shutdown is asked for, perhaps in the middle of a graceful one."""
    if state.phase == CUTTING:
        return state
    return state._replace(cause=state.cause or cause, deadline=now).enter(CUTTING)


def step(state: Shutdown, now: float, held: bool, handshakes: bool) -> Shutdown:
    """The next phase, if it is time for it. ``held``: has another process one of our listening sockets? ``handshakes``:
    are there any under way?"""
    if state.phase == DELAYING and now >= state.until:
        return state.enter(DRAINING)
    if state.phase == DRAINING and not held:  # else who connects would wait where nobody accepts
        return state.enter(HANDSHAKES, min(now + HANDSHAKE_GRACE, state.deadline))
    if state.phase == HANDSHAKES and (not handshakes or now >= state.until):
        return state.enter(CLOSED)
    return state


def put_off(state: Shutdown, seconds: float) -> Shutdown:
    """The master did not run for so long."""
    return state._replace(deadline=state.deadline + seconds, until=state.until + seconds)
