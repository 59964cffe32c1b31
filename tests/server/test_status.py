"""What pyservectl status says of a worker."""

from __future__ import annotations

import pytest

from pyserve.control import status
from pyserve.ipc.scoreboard import SLOT_SIZE, Slot
from pyserve.rules.rollout import DRAINING, SERVING, Worker


@pytest.mark.parametrize("leaving, state", [("", SERVING), ("SIGTERM", DRAINING)])
def test_who_was_sent_a_term_does_not_serve_any_more(leaving: str, state: str) -> None:
    """It was shown as serving until it was gone: nobody had told it to drain."""
    shown = status.of_worker(Worker(1, 0, 1, SERVING), 7, leaving, Slot(memoryview(bytearray(SLOT_SIZE))), 0)
    assert shown["state"] == state
    assert shown["leaving"] == (leaving or None)
