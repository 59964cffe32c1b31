"""Whether a server has kept its promises: a pure function from the evidence of a run to what is wrong with it.

* Every request gets exactly one complete answer of its own, from the worker that ran it, or a 503 that says when to
  come again; except those that were inside a process while it was killed, and those of a new connection once the
  server was told to end.
* No request runs twice, and none that was answered with 503 has run.
* Nobody waits for long without a reason.
* There is one committed generation, never more than one worker above the target, and a reload alone never costs one.
* No process dies that was not killed, and pyserve does not complain of itself.
"""

from __future__ import annotations

import re
from collections import Counter

from chaos.evidence import ANSWERED, LOST, REFUSED, Evidence, Fate

LONG = 10.0  # seconds that a request may take, beyond what stopped processes and a booting worker explain
SURGE = 1  # workers above the target while they are replaced
EXIT_CODES = {0, 70}
ENDED = re.compile(r"(?:worker \d+ gen \d+|zygote \d+|responder) pid (\d+) (was killed by.*|exited with code.*)")
OURS_TO_MEND = re.compile(r".*(?:BUG|Traceback).*")
PLANNED = "planned"  # in the messages of exceptions that our apps raise on purpose


def judge(evidence: Evidence) -> list[str]:
    """What is wrong, in words; nothing if all is well."""
    checks = (answers, losses, refusals, doubles, slowness, invariants, deaths, complaints, ending)
    return [*evidence.found, *(fault for check in checks for fault in check(evidence))]


def answers(evidence: Evidence) -> list[str]:
    """Each answer is whole and its own, or an allowed refusal, and nothing came unasked."""
    ran = {begun.ident: begun.pid for begun in evidence.begun}
    faults = [f"unasked: {text}" for text in evidence.extra]
    for fate in evidence.fates:
        if fate.outcome != ANSWERED:
            continue
        if fate.status == 503 and not fate.retry_after:
            faults.append(f"{tell(fate)}: 503 without Retry-After")
        elif fate.status not in (200, 500, 503):
            faults.append(f"{tell(fate)}: status {fate.status}")
        elif fate.status == 500 and PLANNED not in evidence.log:
            faults.append(f"{tell(fate)}: status 500, and no app was to fail")
        elif fate.status == 200 and not fate.whole:
            faults.append(f"{tell(fate)}: another body than the request's own")
        elif fate.status == 200 and fate.pid != ran.get(fate.ident, fate.pid):
            faults.append(f"{tell(fate)}: answered by process {fate.pid}, and {ran[fate.ident]} ran it")
    return faults


def losses(evidence: Evidence) -> list[str]:
    """What was lost was inside a process that was killed."""
    ran = {begun.ident: begun.pid for begun in evidence.begun}
    faults = []
    for fate in evidence.lost():
        around = [death for death in evidence.deaths if fate.began <= death.ended and death.began <= fate.ended]
        pid = ran.get(fate.ident)
        if pid is not None and not any(death.pid == pid for death in around):
            faults.append(f"{tell(fate)}: lost, and worker {pid}, which ran it, was not killed then")
        elif not around and not excused_by_end(fate, evidence):
            faults.append(f"{tell(fate)}: lost, and nobody was killed then")
    return faults


def excused_by_end(fate: Fate, evidence: Evidence) -> bool:
    """Nothing is promised to who connects when the master is gone: nobody holds new connections off then."""
    return evidence.master_killed and fate.fresh and fate.ended >= evidence.ending


def refusals(evidence: Evidence) -> list[str]:
    return [
        f"{tell(fate)}: refused while the server was to serve"
        for fate in evidence.fates
        if fate.outcome == REFUSED and fate.ended < evidence.ending
    ]


def doubles(evidence: Evidence) -> list[str]:
    times = Counter(begun.ident for begun in evidence.begun)
    faults = [f"request {ident} ran {number} times" for ident, number in times.items() if number > 1]
    for fate in evidence.fates:
        ran = times[fate.ident]
        if fate.outcome == ANSWERED and fate.status == 200 and not ran:
            faults.append(f"{tell(fate)}: answered, but the app never saw it")
        elif ran and (fate.outcome == REFUSED or fate.status == 503):
            faults.append(f"{tell(fate)}: told that it was not served, but it ran")
    return faults


def slowness(evidence: Evidence) -> list[str]:
    faults = []
    for fate in evidence.fates:
        explained = sum(
            max(0.0, min(fate.ended, pause.ended) - max(fate.began, pause.began)) for pause in evidence.pauses
        )
        if fate.seconds - explained > LONG and fate.outcome != REFUSED:  # the kernel asks again after seconds
            faults.append(f"{tell(fate)}: took {fate.seconds:.1f} s")
    return faults


def invariants(evidence: Evidence) -> list[str]:
    faults = []
    highest = 0  # of the targets: who is too many after a scale-down may take its time to leave
    for sample in evidence.samples:
        highest = max(highest, sample.target)
        if sample.committed != 1:
            faults.append(f"{sample.committed} generations serve: {sample}")
        if sample.live > highest + SURGE:
            faults.append(f"too many workers: {sample}")
        if sample.serving < sample.target and sample.at < evidence.disturbed:
            faults.append(f"too few workers serve, and none was touched: {sample}")
    return faults


def deaths(evidence: Evidence) -> list[str]:
    """Whoever ended otherwise than by leaving was killed by us, or was stuck because of us and killed by pyserve."""
    ours = {death.pid for death in evidence.deaths} | {pause.pid for pause in evidence.pauses}
    return [
        f"process {pid} {how}, and nobody has done anything to it"
        for pid, how in ENDED.findall(evidence.log)
        if int(pid) not in ours and f"pid {pid} could not start" not in evidence.log
    ]


def complaints(evidence: Evidence) -> list[str]:
    """BUG lines, and tracebacks other than those of apps that were to fail."""
    faults = []
    lines = evidence.log.splitlines()
    for number, line in enumerate(lines):
        if "BUG" in line:
            faults.append(f"in the log: {line}")
        elif "Traceback" in line and not any(PLANNED in later for later in lines[number : number + 20]):
            faults.append("in the log:\n" + "\n".join(lines[number : number + 20]))
    return faults


def ending(evidence: Evidence) -> list[str]:
    if evidence.master_killed or evidence.exit_code in EXIT_CODES:
        return []
    return [f"the master's exit code is {evidence.exit_code}"]


def tell(fate: Fate) -> str:
    where = "" if fate.fresh else ", kept connection"
    detail = f", {fate.detail}" if fate.detail else ""
    return f"{fate.client} request {fate.ident} ({fate.began:.2f}–{fate.ended:.2f}{where}{detail})"


def summary(evidence: Evidence) -> str:
    """What a run has come to, in a line."""
    outcomes = Counter(f"{fate.status}" if fate.outcome == ANSWERED else fate.outcome for fate in evidence.fates)
    counts = ", ".join(f"{number} × {what}" for what, number in sorted(outcomes.items()))
    slowest = max((fate.seconds for fate in evidence.fates), default=0.0)
    lost = outcomes[LOST]
    killed = len(evidence.deaths)
    return f"{counts}; slowest {slowest:.2f} s; {lost} lost inside {killed} killed"
