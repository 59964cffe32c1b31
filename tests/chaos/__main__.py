"""``make chaos SECONDS=n``: seed after seed with every class of workers, until one fails or the time is over."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from chaos.battle import fight
from chaos.oracle import judge, summary
from chaos.schedule import schedule
from support import WORKER_CLASSES

SCHEDULE = 10.0  # seconds that one lasts


def main() -> int:
    seconds = float(os.environ.pop("SECONDS", "") or 60)
    first = os.environ.pop("PYSERVE_CHAOS_SEED", "")
    classes = (os.environ.pop("CLASSES", "") or ",".join(WORKER_CLASSES)).split(",")
    until = time.monotonic() + seconds
    seed = int(first or 1)
    while time.monotonic() < until:
        for kind in classes:
            if not passes(seed, kind):
                return 1
        if first:
            break
        seed += 1
    return 0


def passes(seed: int, kind: str) -> bool:
    plan = schedule(seed, SCHEDULE)
    with tempfile.TemporaryDirectory(prefix="pyserve-chaos-") as folder:
        try:
            evidence = fight(Path(folder), kind, plan)
        except (AssertionError, OSError) as error:
            print(f"seed {seed}, {kind}: {error}\n{plan}")
            return fail(seed, kind)
    faults = judge(evidence)
    print(f"seed {seed}, {kind}: {summary(evidence)}", flush=True)
    if not faults:
        return True
    print(plan, *evidence.done, evidence.log, *faults, sep="\n")
    return fail(seed, kind)


def fail(seed: int, kind: str) -> bool:
    print(f"to play it again: make chaos PYSERVE_CHAOS_SEED={seed} CLASSES={kind}")
    return False


if __name__ == "__main__":
    sys.exit(main())
