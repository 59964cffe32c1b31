"""The oracle finds each fault that is planted, and nothing in a connection without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fuzz.answers import Reader
from fuzz.app import content, said
from fuzz.client import Played
from fuzz.oracle import Call, judge
from fuzz.plan import ANY, OPEN, REFUSED, Ask, Plan, digest

ITEM = Ask("GET", "/item/1?size=100", "HTTP/1.1", "1", b"", "item", 100, closes=False, expects=False)
ECHO = Ask("POST", "/echo/2", "HTTP/1.1", "2", b"hello", "echo", 100, closes=False, expects=True)
HEAD = Ask("HEAD", "/generator/3", "HTTP/1.1", "3", b"", "generator", 100, closes=False, expects=False)
PLAN = Plan(1, "", [], [ITEM, ECHO, HEAD], 3, REFUSED, statuses=(400,))
CALLS = [Call(a.method, a.target, a.version, a.token, digest(a.body), a.kind, a.size) for a in PLAN.asks]


def answer(token: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-Token: %b\r\nContent-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)


FIRST = answer("1", content("1", 100))
SECOND = b"HTTP/1.1 100 Continue\r\n\r\n" + answer("2", said("POST", "2", b"hello"))
THIRD = b"HTTP/1.1 200 OK\r\nX-Token: 3\r\n\r\n"
LAST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad"
STREAM = FIRST + SECOND + THIRD + LAST


def played(stream: bytes = STREAM, plan: Plan = PLAN, *, ended: bool = True, cut: int = 7) -> Played:
    """The bytes come in pieces."""
    reader = Reader([ask.method for ask in plan.asks])
    for at in range(0, len(stream), cut):
        reader.feed(stream[at : at + cut])
    if ended:
        reader.feed(b"")
    return Played(reader, ended=ended)


@pytest.mark.parametrize("cut", [1, 2, 7, 10_000])
def test_nothing_is_wrong_with_a_good_connection(cut: int) -> None:
    assert judge(PLAN, played(cut=cut), CALLS) == []


def test_nothing_is_wrong_with_one_that_stays_open() -> None:
    plan = replace(PLAN, end=OPEN)
    assert judge(plan, played(FIRST + SECOND + THIRD, ended=False), CALLS) == []


def test_a_mutated_request_may_be_refused_that_might_have_run() -> None:
    plan = replace(PLAN, end=ANY, certain=1)
    assert judge(plan, played(FIRST + LAST), CALLS[:1]) == []


def test_who_goes_away_gets_what_there_is() -> None:
    plan = replace(PLAN, aborts=True, certain=0)
    assert judge(plan, played(FIRST + SECOND[:50], ended=False), CALLS[:2]) == []


def test_an_answer_to_what_was_not_run() -> None:
    plan = replace(PLAN, end=ANY, certain=1)
    assert "2 answers too many" in judge(plan, played(), CALLS[:1])


EVIL = Call("DELETE", "/evil/9", "HTTP/1.1", "9", digest(b""), "echo", 100)
STREAMS: dict[str, bytes] = {
    "a body of 100 bytes": STREAM.replace(b"answer 1", LAST[:8], 1),
    "no status line": FIRST[:-3] + LAST + FIRST[-3:] + SECOND + THIRD,
    "breaks off": FIRST[:-3],
    "it is the answer to b'3', not to 2": STREAM.replace(b"X-Token: 2", b"X-Token: 3"),
    "it is the answer to b'2', not to 1": SECOND + FIRST + THIRD + LAST,
    "100 Continue before answer 0": SECOND[:25] + STREAM,
    "it was not refused": FIRST + SECOND + THIRD,
    "refused with 500": STREAM.replace(b"400", b"500"),
    "the refusal does not close": STREAM.replace(b"Connection: close\r\n", b""),
    "with b'badHTTP/1.1": STREAM + FIRST,
    "an answer that said close was not the last": STREAM.replace(b"X-Token: 1", b"X-Token: 1\r\nConnection: close"),
    "status 500": STREAM.replace(b"200 OK", b"500 Oh", 1),
    "no field": STREAM.replace(b"X-Token: 1", b"X-Token : 1"),
    "3 requests were run, and 2 have an answer": FIRST + SECOND,
}


@pytest.mark.parametrize("fault", STREAMS)
def test_a_fault_in_what_is_sent(fault: str) -> None:
    assert fault in "\n".join(judge(PLAN, played(STREAMS[fault]), CALLS))


RUNS: dict[str, list[Call]] = {
    "DELETE /evil/9 was run, and nobody had asked for it": [*CALLS, EVIL],
    "GET /item/1?size=100 was run again": [*CALLS, CALLS[0]],
    "only 2 requests were run": CALLS[:2],
    "the app saw the target": [CALLS[1], CALLS[0], CALLS[2]],
    "the app saw the body": [CALLS[0], CALLS[1]._replace(body=digest(b"other")), CALLS[2]],
}


@pytest.mark.parametrize("fault", RUNS)
def test_a_fault_in_what_is_run(fault: str) -> None:
    assert fault in "\n".join(judge(PLAN, played(), RUNS[fault]))


PLAYED: dict[str, Callable[[Played], Played]] = {
    "nothing came": lambda one: replace(one, silent=True),
    "no end came": lambda one: replace(one, ended=False),
    "it was reset before it had its answers": lambda one: replace(played(FIRST, ended=False), reset=True, ended=False),
}


@pytest.mark.parametrize("fault", PLAYED)
def test_a_fault_of_the_connection(fault: str) -> None:
    assert fault in "\n".join(judge(PLAN, PLAYED[fault](played()), CALLS))
