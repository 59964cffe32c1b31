"""Ending: the master's side of the shutdown, which does what each phase begins with. ``shutdown`` says when that is."""

from __future__ import annotations

import time

from pyserve import linux, listeners, rollout, shutdown
from pyserve.failpoint import failpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyserve.master import Master


class Ending:
    def __init__(self, master: Master) -> None:
        self.master = master
        self.state = shutdown.Shutdown()

    def begin(self, cause: str) -> None:
        """Begin the graceful shutdown; repeats change nothing. The deadline counts from here."""
        if self.state.begun:
            return
        config = self.master.config
        delay = f"; serving on for {config.drain_delay:g} s of them" if config.drain_delay else ""
        self.master.log.info(f"stopping ({cause}): requests under way have {config.graceful_timeout:g} s{delay}")
        now = time.monotonic()
        self.enter(shutdown.begin(self.state, cause, now, config.drain_delay, config.graceful_timeout))
        self.turn()

    def cut_short(self, cause: str) -> None:
        """Begin the fast one."""
        self.enter(shutdown.fast(self.state, cause, time.monotonic()))

    def turn(self) -> None:
        """Enter every phase for which it is time."""
        while self.state.until < shutdown.NEVER:
            handshakes = self.state.phase == shutdown.HANDSHAKES and self.handshakes_under_way()
            after = shutdown.step(self.state, time.monotonic(), handshakes)
            if after == self.state:
                return
            self.enter(after)

    def put_off(self, seconds: float) -> None:
        self.state = shutdown.put_off(self.state, seconds)

    def enter(self, after: shutdown.Shutdown) -> None:
        before, self.state = self.state, after
        if not before.begun:
            self.master.not_ready()
        if before.phase != after.phase:
            failpoint(f"master.{after.phase}")
            PHASES[after.phase](self)

    # The phases.

    def delay(self) -> None:
        """Everything is served as before."""

    def end_handshakes(self) -> None:
        for listener in self.owned_tcp():
            try:
                linux.drop_new_handshakes(listener.fileno())
            except OSError as error:  # recent kernels want CAP_NET_ADMIN for it
                self.master.log.debug(
                    f"{listener.url}: new handshakes cannot be held off ({error.strerror}): "
                    "one that ends in the moment in which the socket is closed is reset"
                )

    def handshakes_under_way(self) -> bool:
        return any(map(listeners.handshakes_under_way, self.owned_tcp()))

    def owned_tcp(self) -> list[listeners.Listener]:
        return [listener for listener in self.master.listeners if listener.owned_tcp]

    def drain(self) -> None:
        """Drain everything; workers that leave already have no more time than the others."""
        self.master.population.finish(self.state.deadline)
        self.master.tell(rollout.Stop())

    def cut(self) -> None:
        self.master.population.quit()
        self.master.tell(rollout.Stop())


PHASES: dict[str, Callable[[Ending], None]] = {
    shutdown.DELAYING: Ending.delay,
    shutdown.HANDSHAKES: Ending.end_handshakes,
    shutdown.DRAINING: Ending.drain,
    shutdown.CUTTING: Ending.cut,
}
