"""Random schedules of deploys, crashes, stops and signals, each under load and until the server is whole again and ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.battle import fight
from chaos.oracle import judge, summary
from chaos.schedule import schedule

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
