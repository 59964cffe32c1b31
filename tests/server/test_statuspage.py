"""Status: the figures of the scoreboard, and the page that people read."""

from __future__ import annotations

import pytest

from pyserve.control import status, statuspage
from pyserve.ipc.scoreboard import OFFSETS, SLOT_SIZE, Slot
from pyserve.rules.rollout import DRAINING, READY, ROLLING, SERVING, SOAKING, Generation, Plan, State, Worker

NOW = 100_000_000_000  # ns


def slot(line: bytes = b"", **values: int) -> Slot:
    made = Slot(memoryview(bytearray(SLOT_SIZE)))
    for name, value in values.items():
        made.set(name, value)
    made.set("request_line_length", len(line))
    start = OFFSETS["request_line"]
    made.memory[start : start + len(line)] = line
    return made


def test_a_worker_with_a_request() -> None:
    busy = slot(b"GET /x", request_start=NOW - 1_500_000_000, active=1, requests=7)
    busy.set("status", 5, 1)
    told = status.of_worker(Worker(9, 0, 2, SERVING), 4711, "", busy, NOW)
    assert (told["worker"], told["generation"], told["state"], told["pid"]) == (0, 2, "serving", 4711)
    assert (told["request"], told["request_seconds"], told["requests"]) == ("GET /x", 1.5, 7)
    assert told["status"] == {"1xx": 0, "2xx": 5, "3xx": 0, "4xx": 0, "5xx": 0}
    assert told["leaving"] is None


def test_the_line_of_a_request_that_has_ended_is_not_shown() -> None:
    told = status.of_worker(Worker(1, 0, 1), 0, "reload", slot(b"GET /old"), NOW)
    assert (told["request"], told["request_seconds"], told["pid"], told["leaving"]) == (None, None, None, "reload")


def test_generations_with_a_zygote_or_a_worker() -> None:
    workers = (Worker(1, 0, 1, DRAINING), Worker(2, 0, 2, SERVING), Worker(3, 0, 3))
    loaded = (Generation(2, Plan(), READY), Generation(3, Plan(), READY))
    state = State(phase=ROLLING, good=2, next=3, workers=workers, generations=loaded)
    told = status.of_generations(state, {2: (20, 1 << 20), 3: (30, 2 << 20)})
    assert [
        (each["generation"], each["role"], each["workers"], each["zygote"], each["zygote_pid"]) for each in told
    ] == [
        (1, "previous", 1, None, None),
        (2, "serving", 1, "ready", 20),
        (3, "next", 1, "ready", 30),
    ]


def test_generation_that_is_watched_serves_and_the_one_before_does_not() -> None:
    workers = (Worker(2, 0, 2, SERVING),)
    loaded = (Generation(1, Plan(), READY), Generation(2, Plan(), READY))
    told = status.of_generations(State(phase=SOAKING, good=1, next=2, workers=workers, generations=loaded), {})
    assert [(each["generation"], each["role"]) for each in told] == [(1, "previous"), (2, "serving")]


def test_totals() -> None:
    each = status.of_worker(Worker(1, 0, 1), 1, "", slot(active=1, requests=3, rss=4096), NOW)
    sums = status.totals([each, each])
    assert (sums["active"], sums["requests"], sums["rss"], sums["status"]["5xx"]) == (2, 6, 8192, 0)
    assert status.totals([])["requests"] == 0


@pytest.mark.parametrize(
    "seconds, words",
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min"), (3599, "59 min"), (3661, "1 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert statuspage.duration(seconds) == words


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    rows: list[tuple[str, ...]] = [("PID", "STATE"), ("7", "serving"), ("12345", "x")]
    assert statuspage.table(rows) == ["  PID  STATE", "    7  serving", "12345  x"]


@pytest.mark.parametrize("active, shown", [(0, ""), (1, "1 request"), (3, "3 requests")])
def test_requests_whose_lines_nobody_knows_are_counted(active: int, shown: str) -> None:
    worker = status.of_worker(Worker(1, 0, 1), 1, "", slot(active=active), NOW)
    assert statuspage.doing(worker) == shown
