from __future__ import annotations

from pathlib import Path

import pytest

from lifecycle.project import Project
from support import WORKER_CLASSES


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(params=[name for name in WORKER_CLASSES if name != "sync"])
def concurrent(request: pytest.FixtureRequest) -> str:
    """The classes of workers that can have several requests in the app at once."""
    name: str = request.param
    return name
