"""Lines of the access log that are lost: what is said of them, and when."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from pyserve_workers.native.losses import AccessLosses


class Warnings(list[str]):
    def warning(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def access_log() -> Any:
    return SimpleNamespace(dropped=0, error=0)


@pytest.fixture
def log() -> Warnings:
    return Warnings()


@pytest.fixture
def losses(log: Warnings, access_log: Any) -> AccessLosses:
    return AccessLosses(log, access_log)  # type: ignore[arg-type]  # it only warns


def test_nothing_is_lost(losses: AccessLosses, log: Warnings) -> None:
    losses.look()
    assert log == []


def test_no_access_log(log: Warnings) -> None:
    AccessLosses(log, None).look()  # type: ignore[arg-type]  # as above
    assert log == []


def test_a_loss_is_told_when_it_begins_and_when_it_is_over(
    losses: AccessLosses, log: Warnings, access_log: Any
) -> None:
    access_log.dropped, access_log.error = 3, errno.EAGAIN
    losses.look()
    access_log.dropped = 17
    losses.look()
    losses.look()  # nothing was asked meanwhile: nobody knows whether there is room
    assert log == ["the access log cannot be written (its reader does not keep up): its lines are dropped until it can"]
    access_log.error = 0
    losses.look()
    losses.look()
    assert log[1:] == ["the access log can be written again; 17 lines are lost"]


def test_the_next_loss_is_counted_by_itself(losses: AccessLosses, log: Warnings, access_log: Any) -> None:
    for dropped in (5, 6):
        access_log.dropped, access_log.error = dropped, errno.ENOSPC
        losses.look()
        access_log.error = 0
        losses.look()
    assert [text for text in log if "again" in text] == [
        "the access log can be written again; 5 lines are lost",
        "the access log can be written again; 1 line is lost",
    ]
    assert "(No space left on device)" in log[0]


def test_a_loss_that_was_over_before_anybody_looked(losses: AccessLosses, log: Warnings, access_log: Any) -> None:
    access_log.dropped = 2
    losses.look()
    losses.look()
    assert log == [
        "the access log cannot be written (for a moment): its lines are dropped until it can",
        "the access log can be written again; 2 lines are lost",
    ]
