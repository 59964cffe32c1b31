"""Seeds: PYSERVE_CHAOS_SEED=N plays one, for all classes of workers."""

from __future__ import annotations

import os

import pytest

# Read now: a test's environment has no PYSERVE_* variables.
SEED = os.environ.get("PYSERVE_CHAOS_SEED", "")
CI_SEEDS = (1,)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", [int(SEED)] if SEED else CI_SEEDS)
