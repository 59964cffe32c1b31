"""A server under load while a schedule is carried out on it, and the evidence of what came of that."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.clients import Crowd
from chaos.deploys import DEADLY, Deploys
from chaos.evidence import Begun, Death, Evidence, Pause, Sample
from chaos.schedule import Event, Schedule
from pyserve.control.controlclient import UnavailableError, ask, connect
from support import Server, serve
from support.processes import in_session, title, wait_for

WORKERS = 3
SETTINGS = {
    "--workers": str(WORKERS),
    "--graceful-timeout": "20",
    "--boot-timeout": "15",
    "--timeout": "30",
    "--reload-soak": "0.3",  # a new generation is committed soon, so that there is more to come in a run
    "--pid": "pyserve.pid",
    "--control-socket": "pyserve.ctl",
}
LOOK = 0.03  # seconds between two looks at the processes
STOPPED = 0.7  # seconds that a process stays stopped at a fail-point
KEPT = {"app.py", "journal", "points"}  # the files of a run that are not the server's
SAMPLE_EVERY = 0.1  # seconds
LEFT_BEHIND = re.compile(r"pid (\d+) has left pid (\d+) behind")
SPARE = 6  # descriptors that a process may have more than at its beginning: another zygote, a responder, …


class Watch:
    """Sees which processes of a server there are, and continues those that a fail-point has stopped."""

    def __init__(self, server: Server, points: Path) -> None:
        self.server, self.points = server, points
        self.killed: dict[int, tuple[str, float]] = {}  # pid → why, when
        self.pauses: list[Pause] = []
        self.gone: dict[int, float] = {}
        self.reached: list[str] = []  # "worker.ready kill", …
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self) -> None:
        seen: set[int] = set()
        read = 0
        while not self.over.wait(LOOK):
            for line in self.journal()[read:]:
                read += 1
                name, action, number, at = line.split()
                self.reached.append(f"{name} {action}")
                if action == "kill":
                    self.killed.setdefault(int(number), (f"fail-point {name}", float(at)))
                elif action == "stop":
                    self.later(STOPPED, int(number), float(at))
            seen.update(in_session(self.server.pid))
            for pid in seen - set(self.gone):
                if not os.path.exists(f"/proc/{pid}"):  # a zombie may have threads that still close its sockets
                    self.gone[pid] = time.monotonic()

    def journal(self) -> list[str]:
        file = self.points / "journal"
        return file.read_text().splitlines() if file.exists() else []

    def later(self, seconds: float, pid: int, began: float) -> None:
        """Continue a process that was stopped."""

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            self.pauses.append(Pause(pid, began, time.monotonic()))

        threading.Timer(seconds, go_on).start()

    def stop(self) -> None:
        self.over.set()
        self.thread.join()

    def deaths(self, journal: list[list[str]], log: str) -> list[Death]:
        """Who was killed. A fork of the app that has not run yet keeps the connections open of a worker that is dead."""
        for _, _, pid, at in (words for words in journal if words[0] == "die"):
            if int(pid) not in self.killed or float(at) < self.killed[int(pid)][1]:
                self.killed[int(pid)] = ("the app", float(at))
        now = time.monotonic()
        ended = {pid: self.gone.get(pid, now) for pid in self.killed}
        for worker, left in LEFT_BEHIND.findall(log):
            if int(worker) in ended:
                ended[int(worker)] = max(ended[int(worker)], self.gone.get(int(left), 0.0))
        return [Death(pid, why, at, ended[pid]) for pid, (why, at) in self.killed.items()]


class Battle:
    def __init__(self, server: Server, folder: Path, points: Path, deploys: Deploys) -> None:
        self.server, self.folder, self.points, self.deploys = server, folder, points, deploys
        self.watch = Watch(server, points)
        self.evidence = Evidence(WORKERS)
        self.probes = 0
        self.descriptors = descriptors(server.pid)
        self.worker_descriptors = descriptors(server.workers()[0])
        self.began = time.monotonic()

    def note(self, text: str) -> None:
        self.evidence.done.append(f"{time.monotonic():.2f} {text}")

    def do(self, name: str, argument: str = "") -> None:
        self.note(f"{name} {argument}".rstrip())
        action: Callable[..., None] = getattr(self, name.replace(" ", "_"))
        action(*([argument] if name == "deploy" else argument.split()))

    def disturb(self) -> None:
        self.evidence.disturbed = min(self.evidence.disturbed, time.monotonic())

    # What can be done.

    def deploy(self, version: str) -> None:
        if version in DEADLY:
            self.disturb()
        self.deploys.deploy(version)
        self.server.signal(signal.SIGHUP)

    def deploy_with_failpoint(self, name: str, action: str) -> None:
        if action == "kill":
            self.disturb()
        self.arm(name, action)
        self.deploy("good")

    def arm(self, name: str, action: str) -> None:
        new = self.points / "new"
        new.write_text(action)
        new.rename(self.points / name)  # whoever comes there now finds it written

    def stop_master_at(self, name: str) -> None:
        self.deploy_with_failpoint(name, "stop")

    def storm(self) -> None:
        for _ in range(6):
            self.deploys.deploy("good")
            self.server.signal(signal.SIGHUP)
            time.sleep(0.02)

    def upgrade(self) -> None:
        self.server.signal(signal.SIGUSR2)

    def upgrade_with_failpoint(self, name: str, action: str) -> None:
        self.arm(name, action)
        self.upgrade()

    def roll_back(self) -> None:
        """To the generation before, if it is still loaded."""
        path = str(self.folder / "pyserve.ctl")
        list(ask(connect(path), path, "rollback"))

    def kill(self, pid: int, why: str) -> None:
        self.disturb()
        self.watch.killed.setdefault(pid, (why, time.monotonic()))  # one that is dying already can be hit again
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_worker(self, which: str) -> None:
        workers = self.server.workers()
        if workers:
            self.kill(workers[int(which) % len(workers)], "kill -9")

    def term_worker(self, which: str) -> None:
        self.disturb()
        workers = self.server.workers()
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[int(which) % len(workers)], signal.SIGTERM)

    def poison(self, name: str, times: str) -> None:
        self.disturb()
        self.asking.poison(name, int(times))

    def pause(self, pid: int, seconds: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        self.watch.later(float(seconds), pid, time.monotonic())

    def pause_worker(self, which: str, seconds: str) -> None:
        workers = self.server.workers()
        if workers:
            self.pause(workers[int(which) % len(workers)], seconds)

    def kill_zygote(self) -> None:
        for pid in self.server.zygotes()[:1]:
            self.kill(pid, "kill -9")

    def pause_zygote(self, _which: str, seconds: str) -> None:
        for pid in self.server.zygotes()[-1:]:
            self.pause(pid, seconds)

    def pause_master(self, _which: str, seconds: str) -> None:
        self.pause(self.server.pid, seconds)

    def more(self) -> None:
        self.disturb()
        self.server.signal(signal.SIGTTIN)

    def fewer(self) -> None:
        self.disturb()
        self.server.signal(signal.SIGTTOU)

    def reopen_logs(self) -> None:
        self.server.signal(signal.SIGUSR1)

    def signal_all(self, name: str, order: str) -> None:
        """To every process, also to those that the app has forked."""
        if order == "at-once":
            os.killpg(self.server.pid, signal.Signals[name])
            return
        pids = self.server.processes()
        for pid in pids if order == "oldest-first" else reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[name])

    # How it can be ended.

    def term_all(self, order: str) -> None:
        self.signal_all("SIGTERM", order)

    def reload_and_term_all(self, order: str) -> None:
        self.deploy("good")
        self.signal_all("SIGHUP", order)
        time.sleep(0.2)
        self.term_all(order)

    def term_with_failpoint(self, name: str, action: str) -> None:
        self.evidence.master_killed = name.startswith("master.") and action == "kill"
        self.arm(name, action)
        self.term()

    def term(self) -> None:
        self.server.signal(signal.SIGTERM)

    def interrupt(self) -> None:
        self.server.signal(signal.SIGINT)

    def reload_and_term(self) -> None:
        self.deploy("good")
        time.sleep(0.2)
        self.term()

    def broken_deploy_and_term(self) -> None:
        self.deploy("hangs")
        time.sleep(0.2)
        self.term()

    def kill_master_at(self, name: str) -> None:
        """In the middle of a deploy."""
        self.evidence.master_killed = True
        self.deploy_with_failpoint(name, "kill")

    def kill_master(self) -> None:
        self.evidence.master_killed = True
        self.kill(self.server.pid, "kill -9")

    # The course of it.

    def run(self, schedule: Schedule) -> Evidence:
        with self.crowd("a"), self.sampling():
            for event in schedule.events:
                self.carry_out(event)
            self.settle()
        self.look_for_leaks()
        return self.end(schedule.finale)

    def walk(self, steps: list[tuple[str, str]]) -> Evidence:
        """One deploy after another, each with a process that is killed or stopped at a point on the way."""
        with self.crowd("a"), self.sampling():
            for name, action in steps:
                before = len(self.server.log)
                self.do(f"{'upgrade' if name.startswith('upgrade') else 'deploy'} with failpoint", f"{name} {action}")
                wait_for(lambda step=f"{name} {action}": step in self.watch.reached, f"{name} {action}")  # type: ignore[misc]
                wait_for(self.is_whole, "the end of the reload")
                if name.startswith("upgrade"):
                    fate = "upgraded: pyserve" if action == "stop" else "upgrade failed, nothing was changed"
                    wait_for(lambda said=fate, since=before: said in self.server.log[since:], fate)  # type: ignore[misc]
            self.settle()
        self.look_for_leaks()
        return self.end("term")

    def end(self, finale: str) -> Evidence:
        """The same for the end, under load as well; the evidence of it all."""
        with self.crowd("b"):
            time.sleep(0.5)  # of requests before it
            self.evidence.ending = time.monotonic()
            self.do(*finale.split(": "))
            self.await_end()
        return self.finish()

    def carry_out(self, event: Event) -> None:
        time.sleep(max(0.0, self.began + event.at - time.monotonic()))
        self.do(event.name, event.argument)

    @contextmanager
    def crowd(self, name: str) -> Iterator[None]:
        with Crowd(self.server.port, name) as crowd:
            self.asking = crowd
            yield
        self.evidence.fates += crowd.fates
        self.evidence.extra += crowd.extra

    def settle(self) -> None:
        """Disarm what was not reached; then the server must become whole again, and take a good deploy."""
        for point in self.points.iterdir():
            if point.name != "journal":
                point.unlink(missing_ok=True)
        self.note("settle")
        self.deploys.deploy("good")
        version = self.deploys.version
        self.server.signal(signal.SIGHUP)

        def whole() -> bool:
            if not self.is_settled():
                return False
            if self.is_whole() and self.serves(version):
                return True
            # The last one was forgotten with a reload that was given up, or has overtaken the TTOU that was sent before it.
            self.server.signal(signal.SIGHUP)
            return False

        wait_for(whole, "a server that is whole again", 90)

    def is_settled(self, workers: int = 0) -> bool:
        """No reload is under way, and all workers serve, as many as that if it is said."""
        status = self.status()
        states = [worker["state"] for worker in status["workers"]]
        return status["phase"] == "stable" and states == ["serving"] * (workers or len(states))

    def is_whole(self) -> bool:
        """No reload is under way, and there are as many workers as there should be."""
        return self.is_settled(WORKERS)

    def serves(self, version: int) -> bool:
        self.probes += 1
        return self.server.get(f"/quick//{self.probes}-probe").headers.get("X-Version") == str(version)

    def status(self) -> dict[str, Any]:
        """What pyservectl status would show. What is no answer is a fault."""
        path = str(self.folder / "pyserve.ctl")
        try:
            lines = list(ask(connect(path), path, "status"))
        except UnavailableError:  # an upgrade in place hangs up on those who ask
            return self.status()
        if [line["event"] for line in lines] != ["status", "end"]:
            self.evidence.found.append(f"control socket: an answer to status with {lines}")
        return next(line for line in lines if line["event"] == "status")

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Ask the master again and again how many workers there are."""
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_EVERY):
                self.evidence.samples.append(self.sample())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def sample(self) -> Sample:
        status = self.status()
        states = [worker["state"] for worker in status["workers"]]
        committed = sum(generation["role"] in ("serving", "soaking") for generation in status["generations"])
        live = len(states) - states.count("draining")
        return Sample(time.monotonic(), status["target"], states.count("serving"), live, committed)

    def look_for_leaks(self) -> None:
        self.note("leaks?")
        """Nobody is there: no worker has a connection, and nobody more descriptors than one that is new."""
        wait_for(lambda: not self.status()["totals"]["connections"], "workers without connections")
        self.compare("the master", self.server.pid, self.descriptors)
        for pid in self.server.workers():
            self.compare("a worker", pid, self.worker_descriptors)

    def compare(self, who: str, pid: int, before: int) -> None:
        now = descriptors(pid)
        if now > before + SPARE:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            self.evidence.found.append(f"{who} has {now} descriptors, at first it had {before}: {sorted(links)}")

    def await_end(self) -> None:
        self.evidence.exit_code = self.server.wait()
        self.note(f"exit code {self.evidence.exit_code}")
        wait_for(lambda: not self.server.processes(), "the end of every process")
        self.note("no process is left")

    def finish(self) -> Evidence:
        evidence, watch = self.evidence, self.watch
        watch.stop()
        if processes := [(pid, title(pid)) for pid in in_session(self.server.pid)]:
            evidence.found.append(f"processes are left: {processes}")
        left = sorted(path.name for path in self.folder.iterdir() if path.name not in KEPT)
        if left and not evidence.master_killed:
            evidence.found.append(f"files are left: {left}")
        journal = [line.split() for line in self.deploys.journal.read_text().splitlines()]
        evidence.begun = [Begun(ident, int(pid), float(at)) for what, ident, pid, at in journal if what == "begin"]
        evidence.deaths = watch.deaths(journal, self.server.log)
        evidence.pauses = watch.pauses
        evidence.log = self.server.log
        return evidence


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def battle(folder: Path, worker_class: str, *more: str) -> Iterator[Battle]:
    """A server in an empty folder, whole, before anything was done to it; ``more`` settings."""
    points = folder / "points"
    points.mkdir()
    deploys = Deploys(folder)
    env = {"PYSERVE_FAILPOINTS": str(points), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)}
    settings = [word for pair in SETTINGS.items() for word in pair]
    threads = ["--threads", "8"] if worker_class == "threads" else []
    with serve("app:wsgi", "--worker-class", worker_class, *threads, *settings, *more, cwd=folder, env=env) as server:
        yield Battle(server, folder, points, deploys)


def fight(folder: Path, worker_class: str, schedule: Schedule) -> Evidence:
    with battle(folder, worker_class) as one:
        return one.run(schedule)
