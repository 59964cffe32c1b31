"""What the fuzzer makes is what it says it is: its reader sees the same, and so does h11 in what it takes."""

from __future__ import annotations

import pytest

from fuzz.build import SHAPES, Builder, make
from fuzz.faults import FAULTS
from fuzz.grammar import Maker, Request, understood
from fuzz.model import Seen, read
from fuzz.plan import CLOSES, OPEN, load
from wire.oracles import Reading, by_h11

SEEDS = range(1, 1500)
# pyserve's limits, and what only it refuses: a strict reader may take these.
CHOICES = {413, 414, 417, 431, 501}
CHOSEN = {"a target", "a Host", "names with an underscore", "a trailer"}


def seen_as(request: Request, seen: Seen) -> None:
    ask = request.ask
    assert (seen.method.decode(), seen.target.decode(), seen.body) == (ask.method, ask.target, ask.body)
    assert understood(seen.version.decode()) == ask.version
    assert (seen.values(b"x-token"), seen.expects) == ([ask.token.encode()], ask.expects)


@pytest.mark.parametrize("seed", SEEDS[:300])
def test_sound_requests_are_read_as_they_were_made(seed: int) -> None:
    maker = Maker(seed)
    requests = [maker.request() for _ in range(5)]
    reading = read(b"".join(request.data for request in requests))
    assert reading.end in ("open", "closed")
    assert reading.requests
    for request, seen in zip(requests, reading.requests, strict=False):
        seen_as(request, seen)
    if reading.end == "open":
        assert len(reading.requests) == 5
    for request in requests:
        (seen,) = read(request.data).requests
        theirs = by_h11(request.data.removeprefix(b"\r\n"))
        if isinstance(theirs, Reading):
            assert (theirs.method, theirs.target, theirs.body, theirs.done) == (*seen[:2], seen.body, True)


def test_h11_takes_nearly_all_of_them() -> None:
    """Else there would be nothing to compare."""
    taken = [by_h11(Maker(seed).request().data.removeprefix(b"\r\n")) for seed in SEEDS]
    assert sum(isinstance(each, Reading) for each in taken) > len(taken) * 0.8


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_faults(name: str) -> None:
    for seed in range(15):
        maker = Maker(seed)
        reading = read(FAULTS[name].make(maker) + maker.row(1000))
        if not CHOICES & set(FAULTS[name].statuses) and name not in CHOSEN:
            assert (reading.requests, reading.end) == ([], "refused")


def test_a_plan_follows_from_its_seed() -> None:
    for seed in SEEDS[:200]:
        assert make(seed) == make(seed) == load(make(seed).dump())


def test_every_shape_is_made() -> None:
    for shape in SHAPES:
        plan = getattr(Builder(7), shape)()
        assert plan.sent()


def test_a_sound_plan_sends_what_is_to_be_seen() -> None:
    for seed in SEEDS[:500]:
        plan = make(seed)
        if plan.end in (OPEN, CLOSES) and not plan.aborts:
            seen = read(plan.sent()).requests[: len(plan.asks)]
            assert [request.target.decode() for request in seen] == [ask.target for ask in plan.asks]
