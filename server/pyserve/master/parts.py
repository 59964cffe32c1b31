"""The parts of the master: what its loop asks of each of them, and what all of them may read."""

from __future__ import annotations

from pyserve.rules import shutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.rules import rollout

NEVER = float("inf")


class Situation:
    """Where the master stands. Every part reads it; each attribute has one that writes it."""

    def __init__(self, config: Config, state: rollout.State) -> None:
        self.config = config  # of the generation that serves; Rolling's
        self.state = state  # Rolling's
        self.shutdown = shutdown.Shutdown()  # Ending's

    @property
    def stopping(self) -> bool:
        return self.shutdown.begun


class Part:
    """One part. Whatever it does not care for it leaves as it is here. Times are CLOCK_MONOTONIC seconds."""

    name = ""  # of its record, for a part that has something to carry over an upgrade

    def begin(self) -> None:
        """The loop is about to begin."""

    def turn(self, now: float) -> None:
        """The loop has woken up."""

    def soonest(self, now: float) -> float:
        """When the loop has to wake up for this part, at the latest."""
        return NEVER

    def put_off(self, seconds: float) -> None:
        """The master was suspended for so long: nobody is late because of that."""

    def renew(self) -> None:
        """The operator has asked for something: are the files of this part still there?"""

    def stop(self) -> None:
        """The shutdown begins: nothing else does any more."""

    def hand_over(self) -> None:
        """Another program is about to take over, in this process."""

    def finish(self, exit_code: int) -> None:
        """The process is about to end."""

    def carried(self) -> Any:
        """What another program needs to go on, as JSON values."""

    def resume(self, record: Any) -> None:
        """Go on from what ``carried`` was in the program before this one."""
