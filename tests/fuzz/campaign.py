"""A server, and plan after plan played on it: many at once, judged together when all of them are over."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fuzz.client import Client, Played
from fuzz.grammar import BODY, FIELD, FIELDS, HEAD, LINE
from fuzz.oracle import EXCUSED, SLOW, Call, judge, judge_calls
from fuzz.plan import Plan
from pyserve.control.controlclient import ask, connect
from support import Server, serve
from support.processes import wait_for

WORKERS = 2
AT_ONCE = 16  # connections
BATCH = 200  # connections that are judged together
TESTS = Path(__file__).parents[1]
SETTINGS = {
    "--workers": str(WORKERS),
    "--limit-request-line": str(LINE),
    "--limit-request-field-size": str(FIELD),
    "--limit-request-fields": str(FIELDS),
    "--limit-request-head": str(HEAD),
    "--limit-request-body": str(BODY),
    "--body-buffer": "4096",
    "--response-buffer": "16384",
    "--response-spool": "65536",
    "--buffer-memory": "1048576",
    "--header-timeout": "1",
    "--body-timeout": "1",
    "--control-socket": "pyserve.ctl",
}
SPARE = 4  # descriptors that a worker may have more than in the beginning
GROWTH = 40 << 20  # bytes that it may have more: its heap has holes
OURS = re.compile(
    r"Traceback \(most recent call last\)(?:(?!Traceback)[\s\S])*?^\s+(?:fuzz\.app\.)?Planted", re.MULTILINE
)


class Failure(NamedTuple):
    plan: Plan | None  # None: of the server as a whole
    faults: list[str]


class Campaign:
    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.played = self.calls_seen = self.excused = 0
        self.place = 0  # in the journal, up to which it is read
        self.read_log = 0
        # Of the batch before: the plans, and the calls that were seen in time.
        self.aborted: dict[str, tuple[Plan, list[Call]]] = {}
        self.generation = 1
        self.workers = server.workers()
        self.costs: dict[int, tuple[int, int]] = {}

    def play(self, plans: Sequence[Plan], *, reload: bool = False) -> list[Failure]:
        """Play them, meanwhile reload if that is wanted, and judge each of them and the server."""
        sources = [self.source(number) for number in range(len(plans))]
        if reload:
            self.begin_reload()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            played = list(pool.map(self.play_one, plans, sources))
        if reload:
            self.end_reload()
        self.server.get("/echo/last")  # who has come before it is no longer in the queue
        wait_for(self.is_quiet, "the end of all connections in the server")
        calls = self.calls()
        calls.pop("127.0.0.1")
        found, aborted = [], {}
        for plan, source, one in zip(plans, sources, played, strict=True):
            mine = calls.pop(source, [])
            if faults := self.judge(plan, one, mine):
                found.append(Failure(plan, faults))
            if plan.aborts:
                aborted[source] = plan, mine
        if faults := [*self.judge_late(calls), *self.judge_server()]:
            found.append(Failure(None, faults))
        self.aborted = aborted
        self.played += len(plans)
        return found

    def begin_reload(self) -> None:
        """Workers are replaced from here on, and connections go from one to another."""
        self.generation += 1
        self.server.signal(signal.SIGHUP)
        self.server.wait_for_log(f"generation {self.generation}: loaded")

    def end_reload(self) -> None:
        self.server.wait_for_log(f"reload done: generation {self.generation} ")
        wait_for(lambda: not set(self.workers) & set(self.server.workers()), "the end of the old workers")
        self.workers = self.server.workers()
        self.costs.clear()

    def judge_late(self, calls: dict[str, list[Call]]) -> Iterator[str]:
        """A connection whose client has gone may be on its way from one worker to another, and in nobody's count."""
        for source, late in calls.items():
            if source in self.aborted:
                plan, before = self.aborted[source]
                yield from judge_calls(plan, before + late)
            else:
                yield f"calls from {source}, who is nobody: {late}"

    def source(self, number: int) -> str:
        """An address for each connection: the app tells by it who has asked."""
        number += self.played
        return f"127.{16 + (number >> 16) % 200}.{number >> 8 & 255}.{number & 255}"

    def play_one(self, plan: Plan, source: str) -> Played:
        return Client(plan, self.server.port, source).play()

    def judge(self, plan: Plan, played: Played, calls: list[Call]) -> list[str]:
        statuses = {answer.status for answer in played.reader.answers}
        if EXCUSED in statuses and EXCUSED not in plan.statuses and played.seconds > SLOW:
            self.excused += 1  # this machine has more to do than to play
            return []
        return judge(plan, played, calls)

    def is_quiet(self) -> bool:
        path = str(self.folder / "pyserve.ctl")
        status = next(line for line in ask(connect(path), path, "status") if line["event"] == "status")
        return not status["totals"]["connections"]

    def calls(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        with (self.folder / "journal").open("rb") as journal:
            journal.seek(self.place)
            for line in journal:
                call = json.loads(line)
                found[call.pop("peer")].append(Call(**call))
                self.calls_seen += 1
            self.place = journal.tell()
        return found

    def judge_server(self) -> Iterator[str]:
        with self.server.log_path.open("rb") as file:
            file.seek(self.read_log)
            log = file.read().decode(errors="backslashreplace")
            self.read_log = file.tell()
        if (
            "BUG:" in log
            or "was killed by" in log
            or log.count("Traceback (most recent call last)") != len(OURS.findall(log))
        ):
            yield f"the log:\n{log}"
        if self.server.workers() != self.workers:
            yield f"the workers were {self.workers} and are {self.server.workers()}"
            self.workers = self.server.workers()
        for pid in self.workers:
            descriptors, memory = costs(pid)
            first = self.costs.setdefault(pid, (descriptors, memory))  # when it has been warmed up
            if descriptors > first[0] + SPARE or memory > first[1] + GROWTH:
                yield f"worker {pid} had {first} descriptors and bytes, and has {(descriptors, memory)}"


def costs(pid: int) -> tuple[int, int]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return len(os.listdir(f"/proc/{pid}/fd")), pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def campaign(folder: Path, kind: str) -> Iterator[Campaign]:
    (folder / "journal").touch()
    settings = [word for pair in SETTINGS.items() for word in pair]
    threads = ["--threads", "8"] if kind == "threads" else []
    env = {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "TMPDIR": str(folder),
    }
    with serve("fuzz.app:wsgi", "--worker-class", kind, *threads, *settings, cwd=folder, env=env) as server:
        yield Campaign(server, folder)
