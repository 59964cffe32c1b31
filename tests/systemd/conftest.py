from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from systemd.machine import Machine, why_not


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A booted systemd whose /srv/myapp is ``tmp_path / "myapp"``."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    application = tmp_path / "myapp"
    application.mkdir()
    booted = Machine(application, tmp_path / "systemd.log")
    yield booted
    booted.stop()
