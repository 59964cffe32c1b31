"""Lines about clients that these can provoke at will: told once for each, then counted; memory and lines have a bound."""

from __future__ import annotations

import ipaddress
import threading

import pytest

from pyserve_workers.native.complaints import EVERY, MOST, Complaints, client_of
from wire.loop import MemoryLog

BAD = "refused with 400: bad"
LATE = "cut: too late"


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def complaints(log: MemoryLog, clock: Clock) -> Complaints:
    return Complaints(log)  # type: ignore[arg-type]  # it has what is needed


def complain(complaints: Complaints, address: str, what: str = BAD, times: int = 1) -> None:
    for port in range(times):
        complaints.note("info", what, address, f"{address}:{port}")


def test_the_first_is_told_and_the_others_are_counted_once_a_minute(
    complaints: Complaints, log: MemoryLog, clock: Clock
) -> None:
    complain(complaints, "192.0.2.1", times=1000)
    complain(complaints, "192.0.2.2", times=2)
    complain(complaints, "192.0.2.1", LATE)
    told = [("info", f"192.0.2.1:0: {BAD}"), ("info", f"192.0.2.2:0: {BAD}"), ("info", f"192.0.2.1:0: {LATE}")]
    complaints.look(clock.now + EVERY - 1)
    assert log.records == told
    complaints.look(clock.now + EVERY)
    told += [
        ("info", f"192.0.2.1: {BAD}: 999 times more in 60 s"),
        ("info", f"192.0.2.2: {BAD}: once more in 60 s"),
    ]
    assert log.records == told


def test_who_goes_on_is_only_counted_and_who_stops_is_forgotten(
    complaints: Complaints, log: MemoryLog, clock: Clock
) -> None:
    for _ in range(3):
        complain(complaints, "192.0.2.1", times=5)
        clock.now += EVERY
        complaints.look(clock.now)
    assert [text for _, text in log.records] == [
        f"192.0.2.1:0: {BAD}",
        f"192.0.2.1: {BAD}: 4 times more in 60 s",
        f"192.0.2.1: {BAD}: 5 times more in 60 s",
        f"192.0.2.1: {BAD}: 5 times more in 60 s",
    ]
    clock.now += EVERY
    complaints.look(clock.now)
    assert not complaints.spells
    complain(complaints, "192.0.2.1")
    assert log.records[-1] == ("info", f"192.0.2.1:0: {BAD}")


def test_the_end_tells_what_was_not_told(complaints: Complaints, log: MemoryLog, clock: Clock) -> None:
    complain(complaints, "192.0.2.1", times=3)
    complaints.tell(clock.now + 7)
    assert log.records[-1] == ("info", f"192.0.2.1: {BAD}: 2 times more in 7 s")


def test_a_range_of_ipv6_addresses_is_one_client(complaints: Complaints, log: MemoryLog, clock: Clock) -> None:
    first = ipaddress.IPv6Address("2001:db8:1:2::")
    for number in range(1000):
        complain(complaints, str(first + number * 12345))
    complaints.look(clock.now + EVERY)
    assert [text for _, text in log.records] == [
        f"2001:db8:1:2:::0: {BAD}",
        f"2001:db8:1:2::/64: {BAD}: 999 times more in 60 s",
    ]


@pytest.mark.parametrize("spread", [1, 1 << 64], ids=["ipv4", "ipv6 networks"])
def test_memory_and_lines_have_a_bound(complaints: Complaints, log: MemoryLog, clock: Clock, spread: int) -> None:
    first = ipaddress.ip_address("10.0.0.0" if spread == 1 else "2001:db8::")
    for number in range(20 * MOST):
        complain(complaints, str(first + number * spread), times=2)
        complain(complaints, str(first + number * spread), LATE)
    assert len(complaints.spells) <= MOST + 2
    assert len(log.records) <= MOST + 2
    told = len(log.records)
    complaints.look(clock.now + EVERY)
    assert len(log.records) <= told + MOST + 2
    counted = [text for _, text in log.records[told:] if text.startswith("other clients")]
    assert [text.rpartition(": ")[0] for text in counted] == [f"other clients: {BAD}", f"other clients: {LATE}"]


def test_threads_lose_no_count(log: MemoryLog) -> None:
    complaints = Complaints(log)  # type: ignore[arg-type]
    threads = [threading.Thread(target=complain, args=(complaints, "::1", BAD, 2000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complaints.tell(complaints.counted)
    assert [text for _, text in log.records[1:]] == [f"::/64: {BAD}: 7999 times more in 0 s"]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (None, "a unix socket"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_clients(address: str | None, client: str) -> None:
    assert client_of(address) == client
