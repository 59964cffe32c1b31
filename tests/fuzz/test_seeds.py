"""A short run of the fuzzer. ``make fuzz-e2e`` is a long one, with other seeds each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.build import make
from fuzz.campaign import BATCH, campaign
from support import WORKER_CLASSES

SEEDS = range(1, 1201)


@pytest.mark.parametrize("kind", WORKER_CLASSES)
def test_nothing_runs_that_no_client_asks_for_and_answers_are_whole_and_in_order(tmp_path: Path, kind: str) -> None:
    with campaign(tmp_path, kind) as one:
        for first in SEEDS[::BATCH]:
            plans = [make(seed) for seed in range(first, first + BATCH)]
            failures = one.play(plans, reload=first == SEEDS[-BATCH])
            told = [(plan and f"PYSERVE_FUZZ_SEED={plan.seed}, {plan.name}", faults[:9]) for plan, faults in failures]
            assert told == []
    assert one.played == len(SEEDS)
    assert one.excused < one.played / 10
