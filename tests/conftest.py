"""For every test: an environment without the settings of whoever runs it, and the classes of workers to run it with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import WORKER_CLASSES, server

# Variables that pyserve itself obeys, besides PYSERVE_*.
OBEYED = {"PORT", "WEB_CONCURRENCY", "NO_COLOR"}
FROM_SYSTEMD = {
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "RUNTIME_DIRECTORY",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in OBEYED | FROM_SYSTEMD or name.startswith("PYSERVE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module", params=WORKER_CLASSES)
def worker_class(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test with each class of workers: what it serves has that class, unless it says otherwise."""
    server.worker_class = request.param
    yield request.param
    server.worker_class = None


@pytest.fixture(autouse=True)
def only_who_asks(request: pytest.FixtureRequest) -> None:
    """The other tests of a module do not have the class that was chosen before them."""
    asked = "worker_class" in request.fixturenames
    server.worker_class = request.getfixturevalue("worker_class") if asked else None
