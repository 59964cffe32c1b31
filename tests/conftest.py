"""For every test: an environment without the settings of whoever runs it, the classes of workers to run it with, and
which tests stay together in one of the processes among which pytest-xdist spreads them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support import WORKER_CLASSES, server

# A machine that is busy is slow, and nothing is wrong with that.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Folders whose tests are spread one by one, since what takes their time is waiting; others go by modules.
SPREAD = {"lifecycle"}
TOGETHER = {"packaging"}  # all of the folder: they build in this checkout

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.parent.name
        if folder in SPREAD:
            continue
        group = folder if folder in TOGETHER else f"{folder}/{item.path.stem}"
        if folder == "examples":  # a module has a server for each class
            callspec = getattr(item, "callspec", None)
            group += f"[{callspec.params.get('worker_class', '')}]" if callspec else ""
        item.add_marker(pytest.mark.xdist_group(group))


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
