"""``make fuzz-e2e SECONDS=n``: connection after connection to each class of workers, until one fails or the time is over.

PYSERVE_FUZZ_SEED=n plays one connection again, and again; so does CASE=FILE, which may have been changed by hand.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from fuzz.build import make
from fuzz.campaign import BATCH, Campaign, Failure, campaign
from fuzz.plan import SEND, Plan, load
from support import WORKER_CLASSES

AGAIN = 5  # batches of a connection that is played again
RELOAD_EVERY = 10  # batches
SHOWN = 300  # bytes of a step
BUILD = Path(__file__).parents[2] / "build" / "fuzz-e2e"


def main() -> int:
    seconds = float(os.environ.pop("SECONDS", "") or 60)
    seed, case = os.environ.pop("PYSERVE_FUZZ_SEED", ""), os.environ.pop("CASE", "")
    classes = (os.environ.pop("CLASSES", "") or ",".join(WORKER_CLASSES)).split(",")
    if seed or case:
        plan = load(Path(case).read_text()) if case else make(int(seed))
        print(describe(plan))
        batches = iter([[plan] * BATCH] * AGAIN * len(classes))
        seconds = float("inf")
    else:
        first = random.randrange(1_000_000_000)
        print(f"seeds from {first} on")
        batches = ([make(seed) for seed in range(at, at + BATCH)] for at in count(first, BATCH))
    return max(fuzz(kind, batches, seconds / len(classes)) for kind in classes)


def fuzz(kind: str, batches: Iterator[list[Plan]], seconds: float) -> int:
    until = time.monotonic() + seconds
    most = AGAIN if seconds == float("inf") else sys.maxsize
    with tempfile.TemporaryDirectory(prefix="pyserve-fuzz-") as folder, campaign(Path(folder), kind) as one:
        for number, plans in enumerate(batches, 1):
            if failures := one.play(plans, reload=number % RELOAD_EVERY == 0):
                report(one, kind, plans, failures)
                return 1
            if number == most or time.monotonic() > until:
                break
        late = f"; {one.excused} not judged: this machine was too slow" if one.excused else ""
        print(f"{kind}: {one.played} connections, {one.calls_seen} requests run, all as they should{late}", flush=True)
    return 0


def report(one: Campaign, kind: str, plans: list[Plan], failures: list[Failure]) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{plans[0].seed}-{kind}.log"
    log.write_text(one.server.log)
    for plan, faults in failures:
        if plan is None:
            print(f"{kind}, with the seeds {plans[0].seed} to {plans[-1].seed}:", *faults, sep="\n  ")
            continue
        file = BUILD / f"{plan.seed}-{kind}.json"
        file.write_text(plan.dump())
        print(describe(plan), f"{kind}:", *(f"  {fault}" for fault in dict.fromkeys(faults)), sep="\n")
        print(f"to play it again: make fuzz-e2e PYSERVE_FUZZ_SEED={plan.seed} CLASSES={kind}, or CASE={file}")
    print(f"{kind}: {len(failures)} failed of {one.played} connections; the server's log is {log}")


def describe(plan: Plan) -> str:
    lines = [f"seed {plan.seed}: {plan.name}"]
    for word, argument in plan.steps:
        if word == SEND and len(argument) == 1:  # byte by byte
            lines[-1] += f" {argument!r}"
        elif word == SEND:
            lines.append(f"  send {len(argument)}: {argument[:SHOWN]!r}{'…' * (len(argument) > SHOWN)}")
        else:
            lines.append(f"  {word} {'' if argument is None else argument}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
