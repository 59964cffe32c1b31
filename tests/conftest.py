"""For every test: an environment without the settings of whoever runs it."""

from __future__ import annotations

import os

import pytest

# Variables that pyserve itself obeys, besides PYSERVE_*.
OBEYED = {"PORT", "WEB_CONCURRENCY", "NO_COLOR"}
FROM_SYSTEMD = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in OBEYED | FROM_SYSTEMD or name.startswith("PYSERVE_"):
            monkeypatch.delenv(name)
