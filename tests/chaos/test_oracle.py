"""The oracle finds each fault that is planted, and nothing in a run without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.evidence import ANSWERED, LOST, REFUSED, Begun, Death, Evidence, Fate, Pause, Sample
from chaos.oracle import LONG, judge

GOOD = Fate("1-kept", "kept", 10.0, 10.1, ANSWERED, 200, True, 7)
BUSY = Fate("2-fresh", "fresh", 10.0, 10.1, ANSWERED, 503, retry_after=True)
GONE = Fate("3-kept", "kept", 12.0, 12.5, LOST, fresh=False)
LATE = Fate("4-fresh", "fresh", 20.5, 20.6, REFUSED)


def run() -> Evidence:
    """Four requests: answered, refused with 503, inside worker 8 when it was killed, and after the end."""
    return Evidence(
        2,
        fates=[GOOD, BUSY, GONE, LATE],
        begun=[Begun("1-kept", 7, 10.0), Begun("3-kept", 8, 12.1)],
        deaths=[Death(8, "kill -9", 12.3, 12.4)],
        samples=[Sample(9.0, 2, 2, 3, 1)],
        disturbed=12.3,
        ending=20.0,
        exit_code=0,
        log="error master    worker 1 gen 1 pid 8 was killed by SIGKILL; not by pyserve\n",
    )


def test_nothing_is_wrong_with_a_good_run() -> None:
    assert judge(run()) == []


Change = Callable[[Evidence], Evidence]
PLANTED: dict[str, Change] = {
    "lost, and nobody was killed then": lambda e: replace(e, begun=e.begun[:1], deaths=[Death(8, "kill -9", 5.0, 5.1)]),
    "which ran it, was not killed then": lambda e: replace(e, begun=[*e.begun[:1], Begun("3-kept", 9, 12.1)]),
    "ran 2 times": lambda e: replace(e, begun=[*e.begun, Begun("1-kept", 9, 10.05)]),
    "answered, but the app never saw it": lambda e: replace(e, begun=e.begun[1:]),
    "told that it was not served, but it ran": lambda e: replace(e, begun=[*e.begun, Begun("2-fresh", 7, 10.0)]),
    "503 without Retry-After": lambda e: replace(e, fates=[GOOD, BUSY._replace(retry_after=False), GONE]),
    "another body": lambda e: replace(e, fates=[GOOD._replace(whole=False)]),
    "answered by process 9, and 7 ran it": lambda e: replace(e, fates=[GOOD._replace(pid=9)]),
    "status 504": lambda e: replace(e, fates=[GOOD._replace(status=504)]),
    "no app was to fail": lambda e: replace(e, fates=[GOOD._replace(status=500)]),
    "refused while the server was to serve": lambda e: replace(e, ending=21.0),
    "unasked": lambda e: replace(e, extra=["kept: b'HTTP/1.1 200 OK' after the answer to 1-kept"]),
    "took 10.5 s": lambda e: replace(e, fates=[GOOD._replace(ended=10.0 + LONG + 0.5)]),
    "2 generations serve": lambda e: replace(e, samples=[Sample(9.0, 2, 2, 3, 2)]),
    "too many workers": lambda e: replace(e, samples=[Sample(9.0, 2, 2, 4, 1)]),
    "too few workers": lambda e: replace(e, samples=[Sample(9.0, 2, 1, 2, 1)]),
    "nobody has done anything to it": lambda e: replace(e, log=e.log.replace("pid 8", "pid 9")),
    "BUG": lambda e: replace(e, log=f"{e.log}error worker    BUG: worker: ready → exited\n"),
    "Traceback": lambda e: replace(e, log=f"{e.log}Traceback (most recent call last):\nKeyError: 1\n"),
    "exit code is 1": lambda e: replace(e, exit_code=1),
    "processes are left": lambda e: replace(e, found=["processes are left: [(9, 'pyserve: worker')]"]),
}


@pytest.mark.parametrize("words", PLANTED)
def test_a_planted_fault_is_found(words: str) -> None:
    faults = judge(PLANTED[words](run()))
    assert any(words in fault for fault in faults), faults


def test_who_waited_for_a_stopped_process_has_a_reason() -> None:
    slow = replace(run(), fates=[GOOD._replace(ended=10.0 + LONG + 0.5)])
    assert judge(replace(slow, pauses=[Pause(7, 10.0, 11.0)])) == []


def test_who_connects_when_the_master_is_gone_has_no_promise_and_who_was_connected_has() -> None:
    lost = GONE._replace(began=20.1, ended=20.2, ident="5-fresh", fresh=True)
    killed = replace(run(), master_killed=True, exit_code=-9, fates=[lost])
    assert judge(killed) == []
    assert judge(replace(killed, fates=[lost._replace(fresh=False)])) != []
