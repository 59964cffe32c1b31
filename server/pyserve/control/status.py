"""The figures of a running server: pure functions from what the rollout and the scoreboard know to plain values.

Times are seconds, sizes are bytes.
"""

from __future__ import annotations

from pyserve.ipc.scoreboard import STATUS_CLASSES
from pyserve.rules.rollout import DRAINING, SOAKING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyserve.ipc.scoreboard import Slot
    from pyserve.rules.rollout import State, Worker

COUNTED = ("active", "connections", "requests", "bytes_in", "bytes_out", "cut", "rss", "spooled")


def of_worker(worker: Worker, pid: int, leaving: str, slot: Slot, now: int, detained: int = 0) -> dict[str, Any]:
    """One worker. ``now`` is CLOCK_MONOTONIC ns, and so is ``detained``: since when its request is alone, or waits to
    be, if it does nothing else meanwhile. ``request`` is None unless exactly one is in the app."""
    began = slot.get("request_start") or detained
    return {
        "worker": worker.number,
        "generation": worker.generation,
        "state": DRAINING if leaving else worker.state,  # one that was sent a TERM leaves without being told to
        "leaving": leaving or None,
        "pid": pid or None,
        "request": slot.request_line if began else None,
        "request_seconds": max(0, now - began) / 1e9 if began else None,
        **{name: slot.get(name) for name in COUNTED},
        "status": {f"{index + 1}xx": slot.get("status", index) for index in range(STATUS_CLASSES)},
    }


def of_generations(state: State, zygotes: dict[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """Every generation that has a worker or a zygote. ``zygotes``: generation → (pid, rss)."""
    known = {generation.number: generation.zygote for generation in state.generations}
    soaking = state.phase == SOAKING  # then the next one serves, and the committed one only waits to come back
    roles = {state.next: "serving"} if soaking else {state.good: "serving", state.next: "next"}
    numbers = sorted({*known, *zygotes, *(worker.generation for worker in state.workers)})
    found = []
    for number in numbers:
        pid, rss = zygotes.get(number, (0, 0))
        role = roles.get(number, "previous")
        workers = sum(worker.generation == number for worker in state.workers)
        found.append(
            {
                "generation": number,
                "role": role,
                "workers": workers,
                "zygote": known.get(number),
                "zygote_pid": pid or None,
                "zygote_rss": rss,
            }
        )
    return found


def totals(workers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sums over workers that there are now; what those that have left had counted is not in them."""
    workers = list(workers)
    sums: dict[str, Any] = {name: sum(worker[name] for worker in workers) for name in COUNTED}
    classes = workers[0]["status"] if workers else ()
    sums["status"] = {name: sum(worker["status"][name] for worker in workers) for name in classes}
    return sums
