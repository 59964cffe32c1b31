"""For every test: an environment without the settings of whoever runs it, the classes of workers to run it with, and
which tests stay together in one of the processes among which pytest-xdist spreads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support import WORKER_CLASSES, server


def pytest_configure(config: pytest.Config) -> None:
    """What tests start writes no bytecode: an app that is changed twice within a second, and keeps its size, would be
    taken for the one before."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


# A machine that is busy is slow, and nothing is wrong with that.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# Folders whose tests are spread one by one, since what takes their time is waiting; others go by modules.
SPREAD = {"lifecycle", "chaos"}
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


def group_of(nodeid: str) -> str:
    """The tests of one group run in one process, one after another."""
    path, _, name = nodeid.partition("::")
    folder = Path(path).parent.name
    if folder in SPREAD:
        return nodeid
    if folder in TOGETHER:
        return folder
    if folder in ("examples", "hostile_worker", "wire"):  # a module has servers of each class
        parameters = name.partition("[")[2].rstrip("]").split("-")
        return next((f"{path}[{kind}]" for kind in WORKER_CLASSES if kind in parameters), path)
    return path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Not by xdist_group marks: with pytest 9.2, pytest-xdist 3.8 forgets them."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


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
