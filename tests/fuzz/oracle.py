"""Judges one connection by what its maker knows: what may run, what must, and what its client has to get.

The app's calls are a beginning of the plan's requests, each as it was sent, in order and once. Each call has its answer,
whole and in order; behind them comes a refusal or nothing. An answer that says close is the last. A client that does
nothing wrong is not reset before it has its answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fuzz.answers import Answer
from fuzz.app import content, said
from fuzz.client import Played
from fuzz.plan import ANY, CUT, REFUSED, Ask, Plan, digest

EXCUSED = 408  # what a client may get that was too slow by no fault of its plan
SLOW = 0.7  # seconds from which that may be


class Call(NamedTuple):
    """What the app has seen."""

    method: str
    target: str
    version: str
    token: str
    body: str  # its digest
    kind: str
    size: int


def judge(plan: Plan, played: Played, calls: list[Call]) -> list[str]:
    faults = list(judge_calls(plan, calls))
    if not faults:
        faults += judge_answers(plan, played, calls)
    return [*faults, f"in all: {len(calls)} calls, {played}"] if faults else []


def judge_calls(plan: Plan, calls: list[Call]) -> Iterator[str]:
    asked = {ask.token for ask in plan.asks}
    for number, call in enumerate(calls):
        if number >= len(plan.asks):
            how = "was run again" if call.token in asked else "was run, and nobody had asked for it"
            yield f"{call.method} {call.target} {how}"
            continue
        ask = plan.asks[number]
        for name, seen, sent in (
            ("method", call.method, ask.method),
            ("target", call.target, ask.target),
            ("version", call.version, ask.version),
            ("token", call.token, ask.token or call.token),
            ("kind", call.kind, ask.kind or call.kind),
            ("body", call.body, digest(read_of(ask, call.kind))),
        ):
            if seen != sent:
                yield f"request {number}: the app saw the {name} {seen!r}, it was sent as {sent!r}"
    if len(calls) < plan.certain:
        yield f"only {len(calls)} requests were run, and {plan.certain} had to be"


def read_of(ask: Ask, kind: str) -> bytes:
    """What the app reads of the body."""
    return {"unread": b"", "half": ask.body[:10]}.get(kind, ask.body)


def judge_answers(plan: Plan, played: Played, calls: list[Call]) -> Iterator[str]:
    reader = played.reader
    if reader.fault:
        yield reader.fault
    answers = [*reader.answers, *([reader.partial] if reader.partial else [])]
    for number, (call, answer) in enumerate(zip(calls, answers, strict=False)):
        excused = (plan.aborts or plan.rude) and (not answer.whole or answer.framing == "end")
        if not excused:
            for fault in judge_answer(plan.asks[number], call, answer):
                yield f"answer {number} to {call.kind}: {fault}"
    for answer in answers[:-1]:
        if answer.closes:
            yield "an answer that said close was not the last"
    yield from judge_continues(plan, reader.continues, len(calls))
    if not plan.aborts and not (plan.rude and len(answers) < len(calls)):
        yield from judge_end(plan, played, answers, len(calls))


def judge_continues(plan: Plan, continues: list[int], run: int) -> Iterator[str]:
    for number in continues:
        asked = number < len(plan.asks) and plan.asks[number].expects
        if not asked and not (number >= run and plan.refusal_expects):
            yield f"100 Continue before answer {number}, which nobody expects"


def judge_end(plan: Plan, played: Played, answers: list[Answer], run: int) -> Iterator[str]:
    if played.silent:
        yield "nothing came"
    if played.reset and len(answers) < run + (plan.end == REFUSED):
        yield "it was reset before it had its answers"
    if len(answers) < run:
        yield f"{run} requests were run, and {len(answers)} have an answer"
    if answers and (answers[-1].closes or not answers[-1].whole) and not (played.ended or played.reset):
        yield "the last answer said close, and no end came"
    if len(answers) == run < len(plan.asks) and not (answers and answers[-1].closes):
        yield "a request was neither run nor refused"
    yield from judge_rest(plan, answers[run:])


def judge_rest(plan: Plan, rest: list[Answer]) -> Iterator[str]:
    """What came behind the answers of the app."""
    if len(rest) > 1:
        yield f"{len(rest) - 1} answers too many"
    if plan.end == REFUSED and not rest:
        yield "it was not refused"
    if rest and plan.end not in (REFUSED, CUT, ANY):
        yield f"a request was refused with {rest[0].status}"
    for refusal in rest:
        length = int(refusal.fields.get(b"content-length", b"-1"))
        if refusal.status < 400 or (plan.statuses and refusal.status not in plan.statuses):
            yield f"refused with {refusal.status}, not {plan.statuses}"
        if not refusal.closes or b"x-token" in refusal.fields:
            yield f"the refusal does not close: {refusal.fields}"
        if len(refusal.body) not in (length, 0):  # none to HEAD, nor in the reader's eyes when it is no HEAD
            yield f"a refusal of {length} bytes, with {refusal.body[:400]!r}"


def judge_answer(ask: Ask, call: Call, answer: Answer) -> Iterator[str]:
    status = {"empty": 204, "unchanged": 304, "raise": 500, "restart": 500}.get(call.kind, 200)
    if answer.status != status:
        yield f"status {answer.status}, not {status}"
        return
    if status != 500 and answer.fields.get(b"x-token") != call.token.encode("latin-1"):
        yield f"it is the answer to {answer.fields.get(b'x-token')!r}, not to {call.token}"
    breaks = call.kind in ("late", "short") and ask.method != "HEAD"
    if breaks and answer.whole and answer.framing != "end":
        yield "it should break off"
    if not breaks and not answer.whole:
        yield "it breaks off"
    wanted = body_of(ask, call)
    if answer.framing != "none" and status != 500 and answer.body != wanted:
        yield f"a body of {len(answer.body)} bytes, not {len(wanted)}: …{different(answer.body, wanted)!r}…"
    if ask.kind and answer.closes != ask.closes and answer.whole:
        yield f"it says {'close' if ask.closes is False else 'nothing of a close'}"
    if ask.closes and not answer.closes and answer.whole:
        yield "its client has said close, and it does not"


def body_of(ask: Ask, call: Call) -> bytes:
    data = content(call.token, call.size)
    if call.kind in ("echo", "unread", "half", "lines", "slow"):
        return said(ask.method, call.token, read_of(ask, call.kind))
    if call.kind == "written":
        return data + b"end"
    if call.kind == "long":
        return data[: len(data) // 2]
    return b"" if call.kind in ("empty", "unchanged") else data


def different(seen: bytes, wanted: bytes) -> bytes:
    """Where they begin to be."""
    for at, (one, other) in enumerate(zip(seen, wanted, strict=False)):
        if one != other:
            return seen[max(0, at - 20) : at + 200]
    return seen[len(wanted) :][:200]
