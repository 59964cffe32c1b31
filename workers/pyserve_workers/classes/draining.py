"""``environ["pyserve.draining"]`` of a sync worker: has it been told to leave?

Its one thread is in the app when it is asked, so it looks at what the master has said and nobody has heard yet. Workers
whose loop runs beside the app have an ordinary event there.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve_workers.life.worker import Worker

LOOK_EVERY = 0.1  # seconds, while it is waited for


class Draining:
    """Has what apps need of a threading.Event."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def is_set(self) -> bool:
        return self.worker.state == "draining" or self.worker.told_to_leave()

    def wait(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = LOOK_EVERY if deadline is None else min(LOOK_EVERY, deadline - time.monotonic())
            if left <= 0:
                return False
            time.sleep(left)
        return True
