"""Random schedules of deploys, crashes, stops and signals, each under load and until the server is whole again and ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos.battle import fight
from chaos.evidence import ANSWERED, LOST
from chaos.oracle import judge, summary
from chaos.schedule import Event, Schedule, schedule

SECONDS = 5.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["sync", "threads", "gevent"])
def test_no_request_is_lost(tmp_path: Path, kind: str, seed: int) -> None:
    plan = schedule(seed, SECONDS)
    print(f"PYSERVE_CHAOS_SEED={seed}, {kind}\n{plan}")
    evidence = fight(tmp_path, kind, plan)
    print("\n".join(evidence.done))
    print(summary(evidence))
    assert evidence.fates
    assert judge(evidence) == []


@pytest.mark.parametrize("kind", ["sync", "threads", "gevent"])
def test_a_poison_url_costs_nobody_an_answer_who_was_not_with_it(tmp_path: Path, kind: str) -> None:
    plan = Schedule([Event(0.5, "poison", "SIGKILL 8"), Event(1.0, "poison", "SIGSEGV 8")], "term")
    evidence = fight(tmp_path, kind, plan)
    print(summary(evidence))
    assert judge(evidence) == []
    assert {fate.outcome for fate in evidence.fates if fate.client == "poison"} == {LOST}
    assert {fate.status for fate in evidence.fates if fate.outcome == ANSWERED} == {200}
    for name in ("SIGKILL", "SIGSEGV"):
        assert re.search(rf"GET /poison/{name}/.* likely cause", evidence.log)
