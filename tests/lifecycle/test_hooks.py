"""Lifecycle hooks in whole servers: order, causes, timeouts, failures; by decorator and by name; with every class of workers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from lifecycle.load import Load
from lifecycle.project import Project, in_app
from pyserve.app import lifecycle
from pyserve.system.signals import LET_GO, STACKS
from support import Server, serve

# An app that knows nothing of pyserve; each function notes that it has run.
NAMED = """
import asyncio

def note(name, *arguments):
    print("hook", name, *arguments, flush=True)

def function(event, name):
    def hook(*arguments):
        note(f"{event}.{name}", *arguments)
    async def coroutine(*arguments):
        await asyncio.sleep(0.001)
        note(f"{event}.{name}", *arguments)
    return coroutine if name == "b" else hook

class Holder:
    pass

for event in EVENTS:
    holder = globals()[event] = Holder()
    holder.a, holder.b = function(event, "a"), function(event, "b")
"""


def named(project: Project) -> None:
    (project.folder / "shop").mkdir()
    (project.folder / "shop" / "__init__.py").touch()
    (project.folder / "shop" / "hooks.py").write_text(NAMED.replace("EVENTS", repr(lifecycle.EVENTS)))
    lines = [f'{event} = ["shop.hooks:{event}.a", "shop.hooks:{event}.b"]\n' for event in lifecycle.EVENTS]
    (project.folder / "pyserve.toml").write_text("".join(lines))


def told(server: Server) -> list[str]:
    return [line.removeprefix("hook ") for line in server.log.splitlines() if line.startswith("hook ")]


def debugged(server: Server) -> list[str]:
    """The hooks of which the log tells that they have ended, and after how long."""
    return re.findall(r"debug .* (\w+ hook \S+) took \d+\.\d{3} s$", server.log, re.MULTILINE)


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("preload", ["auto", "never"])
def test_hooks_that_the_configuration_names(project: Project, preload: str) -> None:
    named(project)
    options = ("--workers", "1", "--log-level", "debug")
    with serve("app:wsgi", *options, cwd=project.folder, env={"PYSERVE_PRELOAD": preload}) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        starts = [event for event in lifecycle.START if preload == "auto" or event != "before_fork"]
        assert sorted(told(server)[: 2 * len(starts)]) == [
            f"{event}.{name}" for event in sorted(starts) for name in "ab"
        ]
        # In the order of the list, and back.
        assert [line for line in told(server) if line.startswith("on_init")] == ["on_init.a", "on_init.b"]
        assert told(server)[2 * len(starts) :] == [
            f"{event}.{name} SIGTERM" for event in lifecycle.STOP for name in "ba"
        ]
        assert len(debugged(server)) == 2 * (len(starts) + len(lifecycle.STOP))


def test_what_is_named_comes_after_what_is_decorated(project: Project) -> None:
    project.append(
        "\ndef named(): print('hook named', flush=True)\n"
        "@pyserve.on_init\ndef decorated(): print('hook decorated', flush=True)\n"
    )
    options = ("--on-init", "app:named", "--on-init", "app:decorated", "--workers", "1")
    with serve("app:wsgi", *options, cwd=project.folder) as server:
        assert told(server) == ["decorated", "named"]  # and none of them twice


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop.hooks:close", r"on_shutdown = \"shop.hooks:close\": no module 'shop' in"),
        ("app:clsoe", r"on_shutdown = \"app:clsoe\": module 'app' has no attribute 'clsoe'.*close"),
        ("app:VERSION", r"on_shutdown = \"app:VERSION\": on_shutdown takes a function, not str"),
    ],
)
def test_a_name_that_is_nothing(project: Project, name: str, message: str) -> None:
    project.append("\ndef close(signal): pass\n")
    with serve("app:wsgi", "--on-shutdown", name, cwd=project.folder, ready=False) as server:
        assert server.wait() == 4
        assert re.search(message, server.log, re.IGNORECASE), server.log


# Timeouts.

HANGS = {
    "sleeps": "def slow(*_): time.sleep(600)",
    "loops": "def slow(*_):\n    while True: pass",
    "waits for a lock": "def slow(*_):\n    import threading\n    threading.Event().wait(600)",
    "catches what it can": "def slow(*_):\n    while True:\n        try: time.sleep(600)\n        except Exception: pass",
    "awaits": "async def slow(*_):\n    import asyncio\n    try: await asyncio.sleep(600)\n    finally: print('hook cleans up', flush=True)",
    "blocks its loop": "async def slow(*_): time.sleep(600)",
}  # fmt: skip


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("how", HANGS)
def test_a_stop_hook_that_takes_too_long_is_ended_and_the_others_run(project: Project, how: str) -> None:
    project.append(
        "\n@pyserve.on_shutdown\ndef after(signal): print('hook after', flush=True)\n"
        f"\n@pyserve.on_shutdown(timeout=0.3)\n{HANGS[how]}\n"
        "\n@pyserve.on_shutdown\ndef before(signal): print('hook before', flush=True)\n"
    )
    with serve("app:wsgi", "--workers", "1", "--hook-timeout", "60", cwd=project.folder) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "on_shutdown hook app.slow failed: it took longer than its timeout of 0.3 s" in server.log
        assert "Stack (most recent call last):\n" in server.log  # where it was
        assert "in slow" in server.log
        assert not re.search(r'/pyserve(_workers)?/\w+.py", line', server.log), server.log
        middle = ["cleans up"] if how == "awaits" else []
        assert told(server) == ["before", *middle, "after"]


@pytest.mark.usefixtures("worker_class")
def test_a_hook_that_waits_before_the_connections_are_closed_is_ended(project: Project) -> None:
    project.append(f"\n@pyserve.on_destroy(timeout=0.3)\n{HANGS['sleeps']}\n")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "on_destroy hook app.slow failed: it took longer than its timeout of 0.3 s" in server.log


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("event", lifecycle.START)
def test_a_start_hook_that_takes_too_long_fails(project: Project, event: str) -> None:
    project.append(f"\n@pyserve.{event}(timeout=0.3)\n{HANGS['sleeps']}\n")
    with serve("app:wsgi", "--workers", "1", cwd=project.folder, ready=False) as server:
        assert server.wait() == 3
        assert f"{event} hook app.slow failed: it took longer than its timeout of 0.3 s" in server.log


@pytest.mark.usefixtures("worker_class")
def test_a_hook_within_its_timeout_is_left_alone(project: Project) -> None:
    project.append(
        "\n@pyserve.on_init(timeout=60)\nasync def quick(): print('hook quick', flush=True)\n"
        "\n@pyserve.on_shutdown(timeout=60)\ndef last(signal): print('hook last', signal, flush=True)\n"
    )
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        assert server.get("/").status_code == 200
        server.stop()
        assert told(server) == ["quick", "last SIGTERM"]
        assert "failed" not in server.log


# The end, and why.

NOTES = """
@pyserve.on_destroy
def told_to_stop(signal): print("hook told", signal, os.getpid(), flush=True)

@pyserve.on_shutdown
def close(signal): print("hook closed", signal, os.getpid(), flush=True)
"""


@pytest.mark.usefixtures("worker_class")
def test_hooks_are_told_the_cause(project: Project) -> None:
    project.append(NOTES)
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:

        def leave(number: int, cause: str, to: int | None = None) -> None:
            known = server.workers()
            os.kill(to or server.pid, number)

            def gone() -> list[str]:
                return [line for line in told(server) if line.startswith(f"closed {cause} ")]

            server.wait_for(gone)
            pid = int(gone()[0].split()[-1])
            assert pid in known
            assert f"told {cause} {pid}" in told(server)

        server.signal(signal.SIGTTIN)
        server.wait_for(lambda: len(server.workers()) == 2)
        leave(signal.SIGTTOU, "scale down")
        server.wait_for(lambda: len(server.workers()) == 1)
        leave(signal.SIGHUP, "reload")
        server.wait_for_log("reload done")
        server.wait_for(lambda: len(server.workers()) == 1)
        [old] = server.workers()
        leave(signal.SIGTERM, "SIGTERM", old)
        server.wait_for(lambda: len(server.workers()) == 1 and server.workers() != [old])
        leave(signal.SIGINT, "SIGINT")
        assert server.wait() == 0


def test_under_the_sync_worker_on_destroy_runs_when_the_request_has_ended(project: Project) -> None:
    project.append(NOTES)
    options = ("-k", "sync", "--workers", "1")
    with (
        serve("app:wsgi", *options, cwd=project.folder) as server,
        Load(server.url, "/sleep?until=go", threads=1) as load,
    ):
        server.wait_for(lambda: in_app(server, 1))
        load.stopped.set()
        server.signal(signal.SIGTERM)
        server.wait_for_log("stopping")
        project.let_go()
        assert server.wait() == 0
        assert server.log.index("awake") < server.log.index("hook told SIGTERM") < server.log.index("hook closed")


@pytest.mark.usefixtures("worker_class")
def test_stop_hooks_run_also_when_requests_were_cut(project: Project) -> None:
    """They have hook_timeout, however little is left of graceful_timeout."""
    project.append(NOTES.replace("def close(signal):", "def close(signal): time.sleep(0.5);"))
    options = ("--workers", "1", "--graceful-timeout", "0.5", "--hook-timeout", "60")
    with serve("app:wsgi", *options, cwd=project.folder) as server, Load(server.url, "/sleep?600", threads=1) as load:
        server.wait_for(lambda: in_app(server, 1))
        load.stopped.set()
        server.signal(signal.SIGTERM)
        assert server.wait() == 70
        assert [line.split()[:2] for line in told(server)] == [["told", "SIGTERM"], ["closed", "SIGTERM"]]


def test_only_a_worker_that_is_stuck_in_c_ends_without_them_and_the_log_says_so(project: Project) -> None:
    project.append(NOTES)
    options = ("--workers", "1", "--graceful-timeout", "0.5", "--hook-timeout", "1", "--timeout", "0")
    with serve("app:wsgi", *options, cwd=project.folder) as server, Load(server.url, "/c?13", threads=1) as load:
        server.wait_for(lambda: b"GET /c?13" in b"".join(slots(server)))
        load.stopped.set()
        server.signal(signal.SIGTERM)
        assert server.wait() == 70
        assert "its stop hooks do not run" in server.log
        assert told(server) == []


def slots(server: Server) -> list[bytes]:
    """The master's scoreboard."""
    folder = Path(f"/proc/{server.pid}/fd")
    return [entry.read_bytes() for entry in folder.iterdir() if "pyserve-scoreboard" in os.readlink(entry)]


def test_gevent_hooks_may_start_greenlets(project: Project) -> None:
    """What on_init starts runs beside requests, and on_destroy ends it."""
    project.append(
        "\nimport gevent\n"
        "beats = 0\n"
        "def beat():\n    global beats\n    while True:\n        gevent.sleep(0.01)\n        beats += 1\n"
        "@pyserve.on_init(timeout=60)\ndef start():\n    global beating\n    beating = gevent.spawn(beat)\n    gevent.sleep(0.05)\n"
        "@pyserve.on_destroy(timeout=60)\nasync def stop(signal):\n"
        "    import asyncio\n    await asyncio.sleep(0.05)\n    beating.kill()\n    print('hook beats', beats > 0, flush=True)\n"
        "def beating_app(environ, start_response):\n    start_response('200 OK', [])\n    return [str(beats).encode()]\n"
    )
    with serve("app:beating_app", "-k", "gevent", "--workers", "1", cwd=project.folder) as server:
        before = int(server.get("/").text)
        server.wait_for(lambda: int(server.get("/").text) > before)
        server.stop()
        assert told(server) == ["beats True"]
        assert "failed" not in server.log


@pytest.mark.usefixtures("worker_class")
def test_what_the_master_signals_is_no_timeout_of_a_hook(project: Project) -> None:
    """A worker may be told to let go of the listening sockets while its hooks run. (That cut the hook.)"""
    project.append(
        "\n@pyserve.on_destroy(timeout=60)\ndef stop(signal):\n"
        "    print('hook begins', flush=True)\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
        "    print('hook has ended', flush=True)\n"
    )
    with serve("app:wsgi", "--workers", "1", cwd=project.folder) as server:
        worker = server.workers()[0]
        server.signal(signal.SIGTERM)
        server.wait_for_log("hook begins")
        for number in (LET_GO, STACKS):
            os.kill(worker, number)
        server.wait_for(lambda: not pending(worker))
        project.folder.joinpath("go").touch()
        assert server.wait() == 0
        assert "hook has ended" in server.log
        assert "longer than its timeout" not in server.log


def pending(pid: int) -> bool:
    """Has a signal come that the process has not taken yet?"""
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(mask, 16) for mask in re.findall(r"^(?:ShdPnd|SigPnd):\s*(\w+)", status, re.MULTILINE))
