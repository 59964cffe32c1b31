"""The stacks in the log, of a worker that is asked for them at any moment."""

from __future__ import annotations

from types import FrameType, SimpleNamespace

from pyserve_workers.classes.sync import SyncWorker


class Half(SyncWorker):
    """One that is asked again while it collects them: it failed in a module that was half imported, and left as a BUG."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.state = "draining"
        self.slot = SimpleNamespace(request_line="")  # type: ignore[assignment]  # all that is asked for
        self.log = SimpleNamespace(error=self.lines.append)  # type: ignore[assignment]  # the same

    def stacks(self, frame: FrameType | None) -> str:
        self.tell_stacks(frame)
        return "File app.py"


def test_they_are_told_once_at_a_time() -> None:
    worker = Half()
    for _ in range(2):
        worker.tell_stacks(None)
    assert worker.lines == ["draining: the stacks of this worker's threads\nFile app.py"] * 2
