"""Says in the error log how many lines of the access log were lost: when that begins, and when it is over."""

from __future__ import annotations

from pyserve.ipc.log import why_lost
from pyserve_workers.native.spells import Spell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.ipc.log import Log
    from pyserve_workers.native.accesslog import AccessLog


class AccessLosses:
    """One worker's; it looks once in a while."""

    def __init__(self, log: Log, access_log: AccessLog | None) -> None:
        self.log = log
        self.access_log = access_log
        self.seen = 0  # of the lines that were dropped
        self.spell = Spell()

    def look(self) -> None:
        access_log = self.access_log
        if access_log is None:
            return
        if access_log.dropped > self.seen:
            fresh, self.seen = access_log.dropped - self.seen, access_log.dropped
            if self.spell.note(fresh):
                why = why_lost(access_log.error) if access_log.error else "for a moment"
                self.log.warning(f"the access log cannot be written ({why}): its lines are dropped until it can")
        elif self.spell.began and not access_log.error:
            number = self.spell.end()
            lost = "1 line is" if number == 1 else f"{number} lines are"
            self.log.warning(f"the access log can be written again; {lost} lost")
