"""What is done to a server under load, and what its clients notice: one function a row of the table."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import processes
from clients import ANSWERED, REFUSED, Client, Crowd, Fate
from deploys import ENVIRON, Deploys
from fleet import Member
from measure import await_start
from proxies import PROXIES

REST = 3.0  # seconds of load before anything is done
GAP = 1.0  # seconds between two reloads
QUIET = 0.5  # seconds without an answer of old code: the reload is over
LONGEST = 40.0  # seconds that a reload may take
LONGEST_MEAN = 15.0  # seconds: a row ends with fewer reloads when they take longer than this each
AFTERMATH = 6.0  # seconds that are watched after a broken deploy or a kill
KILLS = 5
QUEUED = 128  # clients that wait when the SIGTERM comes,
QUEUED_WORK = "/?0.2"  # each for so many seconds of work
ENDING = 60.0  # seconds
WEIGHING = 0.05  # seconds between two looks at the memory


class Window(NamedTuple):
    """A reload: when it was asked for and when it was over (CLOCK_MONOTONIC seconds), and the seconds until the first
    answer of the new code, and until there were no others."""

    began: float
    ended: float
    first: float
    only: float


class Stage:
    """A server, perhaps behind a proxy, in a folder of its own."""

    def __init__(self, member: Member, front: str, scratch: Path) -> None:
        self.member = member
        self.scratch = scratch
        self.deploys = Deploys(scratch)
        self.deploys.deploy()
        upstream = processes.free_port()
        self.process = processes.start(member.command(upstream, scratch), scratch, scratch / "output", environ=ENVIRON)
        self.front: subprocess.Popen[bytes] | None = None
        self.port = upstream
        self.known: set[int] = set()  # every process that was ever seen below the master
        await_start(self.process, upstream, scratch / "output")
        if front:
            self.port = processes.free_port()
            command = PROXIES[front](self.port, upstream, scratch)
            self.front = processes.start(command, scratch, scratch / "front")
            await_start(self.front, self.port, scratch / "front")
        self.peak = 0.0  # MiB
        self.weighed = threading.Event()
        self.scale = threading.Thread(target=self.weigh, daemon=True)
        self.scale.start()

    def weigh(self) -> None:
        while not self.weighed.wait(WEIGHING):
            pids = processes.tree(self.process.pid)
            self.known.update(pids)
            self.peak = max(self.peak, sum(map(processes.pss, pids)) / 1024)

    def memory(self) -> float:
        """MiB (PSS) of all its processes now."""
        return sum(map(processes.pss, processes.tree(self.process.pid))) / 1024

    def reload(self) -> None:
        self.member.reload(self.process.pid, self.scratch)

    def stop(self) -> None:
        self.member.stop(self.process.pid, self.scratch)

    def orphans(self) -> list[int]:
        """Processes that run on after the master."""
        return [pid for pid in self.known if pid != self.process.pid and processes.runs(pid)]

    def close(self) -> None:
        self.weighed.set()
        self.scale.join()
        if self.front:
            processes.end(self.front)
        if self.process.poll() is None:
            self.known.update(processes.tree(self.process.pid))
            processes.end(self.process)
        for pid in self.orphans():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def staged(member: Member, front: str = "") -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="pyserve-reload-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)  # nginx's worker is another user
        stage = Stage(member, front, scratch)
        try:
            until = time.monotonic() + ENDING
            while (await Client(stage.port).ask("/", close=True)).outcome != ANSWERED and time.monotonic() < until:
                await asyncio.sleep(0.05)
            yield stage
        finally:
            await asyncio.to_thread(stage.close)


# The rows.


async def reloads(member: Member, count: int, front: str = "", preamble: str = "") -> dict[str, Any]:
    """Reload again and again under load."""
    async with staged(member, front) as stage:
        windows = []
        async with Crowd(stage.port) as crowd:
            await asyncio.sleep(REST)
            rest = stage.memory()
            until = time.monotonic() + LONGEST_MEAN * count
            while len(windows) < count and time.monotonic() < until:
                windows.append(await one_reload(stage, crowd, preamble))
                await asyncio.sleep(GAP)
        found = figures(crowd.fates, windows)
        if len(windows) < count:
            found["note"] = f"{len(windows)} reloads"
        return {**found, "closed_idle": crowd.closed_idle, "mib": rest, "peak_mib": stage.peak}


async def one_reload(stage: Stage, crowd: Crowd, preamble: str) -> Window:
    version = stage.deploys.deploy(preamble)
    mark = len(crowd.fates)
    began = time.monotonic()
    stage.reload()
    while (now := time.monotonic()) < began + LONGEST:
        await asyncio.sleep(0.05)
        answers = [fate for fate in crowd.fates[mark:] if fate.outcome == ANSWERED]
        old = max((fate.ended for fate in answers if fate.version < version), default=began)
        new = min((fate.ended for fate in answers if fate.version == version), default=0.0)
        if new and now - old > QUIET:
            ended = max(old, new)
            return Window(began, ended, new - began, ended - began)
    return Window(began, now, LONGEST, LONGEST)


async def slow_import(member: Member, _count: int) -> dict[str, Any]:
    return await reloads(member, 1, preamble="time.sleep(3)")


async def broken(member: Member, _count: int) -> dict[str, Any]:
    """New code that raises at its import."""
    async with staged(member) as stage:
        async with Crowd(stage.port) as crowd:
            await asyncio.sleep(REST)
            stage.deploys.deploy("raise RuntimeError('this deploy is broken')")
            began = time.monotonic()
            stage.reload()
            await asyncio.sleep(AFTERMATH)
        last = [fate for fate in crowd.fates if fate.began > began + AFTERMATH - 1.5]
        down = not all(fate.outcome == ANSWERED for fate in last)
        ended = stage.process.poll() is not None
        note = "the server has ended" if ended else "it answers no more" if down else "the old code serves on"
        return {**figures(crowd.fates, [Window(began, began + AFTERMATH, 0, 0)]), "peak_mib": stage.peak, "note": note}


async def backlog(member: Member, _count: int) -> dict[str, Any]:
    """SIGTERM while many clients wait, most of them in the listener's queue."""
    async with staged(member) as stage:
        clients = [Client(stage.port) for _ in range(QUEUED)]
        tasks = [asyncio.create_task(client.ask(QUEUED_WORK)) for client in clients]
        while not all(client.connected for client in clients):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        stage.stop()
        fates = await asyncio.gather(*tasks)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(stage.process.wait, ENDING)
        code = stage.process.poll()
        note = "does not end" if code is None else f"exit code {code} after {time.monotonic() - began:.1f} s"
        return {**figures(fates, [Window(began, time.monotonic(), 0, 0)]), "peak_mib": stage.peak, "note": note}


async def kill_master(member: Member, _count: int) -> dict[str, Any]:
    """kill -9 of the master. That nobody listens afterwards is right; whoever was being served is not to notice."""
    async with staged(member) as stage:
        async with Crowd(stage.port) as crowd:
            await asyncio.sleep(REST)
            began = time.monotonic()
            os.kill(stage.process.pid, signal.SIGKILL)
            await asyncio.sleep(AFTERMATH)
        await asyncio.to_thread(stage.process.wait)
        left = len(stage.orphans())
        note = f"{left} orphans serve on" if left else "no process is left"
        return {**figures(crowd.fates, [Window(began, began + AFTERMATH, 0, 0)]), "peak_mib": stage.peak, "note": note}


async def kill_worker(member: Member, _count: int) -> dict[str, Any]:
    """kill -9 of the process that has answered last, a few times. What it was at work on cannot be saved."""
    async with staged(member) as stage:
        windows = []
        async with Crowd(stage.port) as crowd:
            await asyncio.sleep(REST)
            for _ in range(KILLS):
                began = time.monotonic()
                pid = next((fate.pid for fate in reversed(crowd.fates) if processes.runs(fate.pid)), 0)
                if not pid:
                    break
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(AFTERMATH / 3)
                windows.append(Window(began, began + AFTERMATH / 3, 0, 0))
        lost = sum(fate.lost for fate in crowd.fates)
        note = f"{lost / len(windows):.1f} lost a kill"
        if len(windows) < KILLS:
            note += f"; after {len(windows)} nobody answers"
        return {**figures(crowd.fates, windows), "peak_mib": stage.peak, "note": note}


class Row(NamedTuple):
    title: str
    play: Callable[[Member, int], Awaitable[dict[str, Any]]]
    nothing_lost: bool  # no worker is killed: pyserve is to lose nothing


def through(front: str) -> Callable[[Member, int], Awaitable[dict[str, Any]]]:
    async def play(member: Member, count: int) -> dict[str, Any]:
        return await reloads(member, count, front)

    return play


ROWS = {
    "direct": Row("reloads, clients ask the server itself", reloads, True),
    "nginx": Row("reloads behind nginx", through("nginx"), True),
    "haproxy": Row("reloads behind HAProxy", through("haproxy"), True),
    "slow": Row("a reload whose import takes 3 s", slow_import, True),
    "broken": Row("a reload to code that raises at its import", broken, True),
    "backlog": Row(f"SIGTERM while {QUEUED} clients wait", backlog, True),
    "master": Row("kill -9 of the master", kill_master, False),
    "worker": Row("kill -9 of a worker", kill_worker, False),
}


# What it comes to.


def figures(fates: list[Fate], windows: list[Window]) -> dict[str, Any]:
    inside, outside = [], []
    for fate in fates:
        hit = any(fate.began < window.ended and fate.ended > window.began for window in windows)
        (inside if hit else outside).append(fate)
    outcomes: dict[str, int] = {}
    for fate in fates:
        outcomes[fate.outcome] = outcomes.get(fate.outcome, 0) + 1
    return {
        "sent": len(fates) - outcomes.get(REFUSED, 0),
        "lost": sum(fate.lost for fate in fates),
        "refused": outcomes.get(REFUSED, 0),
        "outcomes": outcomes,
        "slowest_ms": max((fate.seconds for fate in fates if fate.outcome == ANSWERED), default=0) * 1000,
        "p99_rest_ms": p99(outside),
        "p99_during_ms": p99(inside),
        "first_s": statistics.median(window.first for window in windows) if windows else 0,
        "only_s": statistics.median(window.only for window in windows) if windows else 0,
        "windows": windows,
        "fates": fates,
    }


def p99(fates: list[Fate]) -> float | None:
    """Milliseconds; None: too few."""
    times = sorted(fate.seconds for fate in fates if fate.outcome == ANSWERED)
    return times[int(len(times) * 0.99)] * 1000 if len(times) > 20 else None
