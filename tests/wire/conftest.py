from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import WORKER_CLASSES
from wire import ways


@pytest.fixture(params=WORKER_CLASSES)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test with each class's way of calling the app."""
    with ways.choose(request.param):
        yield request.param
