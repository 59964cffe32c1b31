from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile_worker.shell import Shell, hostile


@pytest.fixture
def shell(worker_class: str, tmp_path: Path) -> Iterator[Shell]:
    with hostile(tmp_path) as shell:
        yield shell


@pytest.fixture(scope="module")
def shared(worker_class: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One server for all attacks of a module that leave nothing behind but a worker that has ended."""
    with hostile(tmp_path_factory.mktemp(worker_class)) as shell:
        yield shell
