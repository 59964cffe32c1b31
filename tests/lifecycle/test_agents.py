"""Agents (New Relic, ddtrace, OpenTelemetry, coverage) are there before pyserve is: a ``sitecustomize`` that opens files,
starts threads and has fork hooks. Here is one that does all of it, and notices when something is taken from it;
tests/agents has the real ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from support import Server, serve

AGENT = """
import _thread, os, sys, threading, time

# As OpenTelemetry's did for years: what the app starts is not to have it.
here = os.path.dirname(__file__)
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in os.environ["PYTHONPATH"].split(os.pathsep) if p != here)

class Agent:
    def __init__(self):
        self.lock = threading.Lock()
        self.files = [open(os.path.join(here, "agent", str(number)), "ab", buffering=0) for number in range(18)]
        self.numbers = [file.fileno() for file in self.files]
        self.ticks = 0
        self.start()

    def start(self):
        self.started_in = os.getpid()
        self.thread = threading.Thread(target=self.live, name="agent", daemon=True)
        self.thread.start()

    def live(self):
        while True:
            with self.lock:  # nearly always held
                self.ticks += 1
                for file in self.files:
                    file.write(b"agent\\n")
                time.sleep(0.02)
            time.sleep(0.0001)

    def after_fork(self):
        self.lock.release()
        self.start()

    def trouble(self):
        paths = [os.readlink(f"/proc/self/fd/{number}") for number in self.numbers]
        if paths != [file.name for file in self.files]:
            return f"its files are now {paths}"
        if self.started_in != os.getpid():
            return "it was not told of a fork"
        before, until = self.ticks, time.monotonic() + 30
        while self.ticks < before + 2:
            if time.monotonic() > until:
                return "it stands still"
            time.sleep(0.01)
        return ""

agent = Agent()
os.register_at_fork(before=agent.lock.acquire, after_in_parent=agent.lock.release, after_in_child=agent.after_fork)
"""
APP = """
import os, sys

def app(environ, start_response):
    module = sys.modules.get("sitecustomize")
    agent = getattr(module, "agent", None)
    text = agent.trouble() if agent else "it is not there"
    start_response("200 OK", [])
    return [f"{os.getpid()} {text}".encode()]
"""
# What libraries in C do: their thread stops before a fork, and is started again in both processes.
LIBRARY = """
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static atomic_int running, stop, ticks;
static const struct timespec moment = {0, 1000000};

static void *live(void *unused)
{
    while (!atomic_load(&stop)) {
        atomic_fetch_add(&ticks, 1);
        nanosleep(&moment, NULL);
    }
    atomic_store(&running, 0);
    return unused;
}

static void start(void)
{
    pthread_t thread;
    atomic_store(&stop, 0);
    atomic_store(&running, 1);
    pthread_create(&thread, NULL, live, NULL);
    pthread_detach(thread);
}

static void halt(void)
{
    atomic_store(&stop, 1);
    while (atomic_load(&running))
        nanosleep(&moment, NULL);
}

int ticked(void) { return atomic_load(&ticks); }

int begin(void)
{
    start();
    return pthread_atfork(halt, start, start);
}
"""
NATIVE_AGENT = """
import ctypes, time

class Agent:
    def __init__(self):
        self.library = ctypes.PyDLL(__file__.replace("sitecustomize.py", "library.so"))
        assert self.library.begin() == 0

    def trouble(self):
        before, until = self.library.ticked(), time.monotonic() + 30
        while self.library.ticked() < before + 2:
            if time.monotonic() > until:
                return "it stands still"
            time.sleep(0.01)
        return ""

agent = Agent()
"""


def fine(server: Server, old: set[int], workers: int = 2) -> set[int]:
    """The pids that answer now, so many and none of the old ones; in each the agent is well."""
    found: set[int] = set()

    def all_new() -> bool:
        pid, _, trouble = server.get("/").text.partition(" ")
        assert trouble == "", f"in {pid}, of a server with the workers {server.workers()}"
        found.add(int(pid))
        found.intersection_update(server.workers())
        return len(found - old) == workers

    server.wait_for(all_new)
    return found


def goes_on(server: Server) -> None:
    """Generation 1, a replaced worker, generation 2 and a worker of it that was replaced, after an upgrade, too."""
    first = fine(server, set())
    kill_one(server, first)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload done: generation 2")
    second = fine(server, first)
    server.signal(signal.SIGUSR2)
    server.wait_for_log("upgraded:")
    kill_one(server, second)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload done: generation 3")
    fine(server, second)


def kill_one(server: Server, pids: set[int]) -> None:
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    server.wait_for(lambda: victim not in server.workers() and len(server.workers()) == 2)
    fine(server, {victim})


def agent_of(folder: Path, text: str) -> dict[str, str]:
    """The environment that has this agent."""
    (folder / "sitecustomize.py").write_text(text)
    (folder / "app.py").write_text(APP)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("preload", ["auto", "never"])
def test_an_agent_keeps_its_files_and_goes_on_in_every_worker(tmp_path: Path, preload: str) -> None:
    """Its descriptors were closed in the first zygote, and their numbers were the channel's and the scoreboard's then."""
    folder = tmp_path / "agent"
    folder.mkdir()
    environ = {**agent_of(tmp_path, AGENT), "PYSERVE_PRELOAD": preload}
    with serve("app:app", "--workers", "2", cwd=tmp_path, env=environ) as server:
        goes_on(server)
        assert "BUG" not in server.log
        assert not re.search("not preloaded.*thread", server.log), "it is not the import that has started it"
    assert {line for file in folder.iterdir() for line in file.read_bytes().splitlines()} == {b"agent"}


@pytest.mark.usefixtures("worker_class")
def test_a_library_starts_its_threads_again_after_each_fork(tmp_path: Path) -> None:
    """They were started in the process between zygote and worker, and the next fork waited for them for ever."""
    (tmp_path / "library.c").write_text(LIBRARY)
    compiler = os.environ.get("CC", "cc")
    flags = ["-std=c17", "-D_DEFAULT_SOURCE", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, "-o", tmp_path / "library.so", tmp_path / "library.c"], check=True)
    with serve("app:app", "--workers", "2", cwd=tmp_path, env=agent_of(tmp_path, NATIVE_AGENT)) as server:
        goes_on(server)
