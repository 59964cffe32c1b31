"""Deadlines follow CLOCK_MONOTONIC: the wall clock, which people and NTP set, is only for what people read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("server/pyserve", "workers/pyserve_workers")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd", ".h") or (path.suffix == ".c" and path.with_suffix(".h").exists())
]
WALL = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\b|CLOCK_REALTIME|gettimeofday|\btime\((NULL|0|&)|\bclock_wall\b")
# Who may look at it: the stamps of the error log, who compares it with a file's time, the native clock, and its users,
# the access log and the Date field.
READERS = {"log.py", "pidfile.py", "clock.h", "accesslog.pyx", "context.pyx", "context.pxd"}


def test_the_sources_are_found() -> None:
    assert {"master.py", "population.py", "loop.py", "clock.h", "connection.pyx"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_what_people_read_follows_the_wall_clock(path: Path) -> None:
    uses = WALL.search(path.read_text()) is not None
    assert uses == (path.name in READERS)
