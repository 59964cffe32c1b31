"""Suspension: a loop that did not run is told from one that slept."""

from __future__ import annotations

import pytest

from pyserve.system.suspension import SLACK, Suspension


@pytest.mark.parametrize(
    ("asked", "gone", "missed"),
    [
        (1.0, 1.0, 0.0),
        (1.0, 0.01, 0.0),  # something happened
        (0.0, SLACK, 0.0),  # a busy machine
        (1.0, 1.0 + SLACK, 0.0),
        (1.0, 61.0, 60.0),
        (0.0, 60.0, 60.0),
    ],
)
def test_over(asked: float, gone: float, missed: float) -> None:
    assert Suspension(1000.0).over(asked, 1000.0 + gone) == missed


def test_a_suspension_counts_once() -> None:
    suspension = Suspension(1000.0)
    assert suspension.over(1.0, 1100.0) == 99.0
    assert suspension.over(1.0, 1101.0) == 0.0
    assert suspension.over(1.0, 1200.0) == 98.0
